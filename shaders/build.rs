//! Validates every shader variant with naga and writes down what it binds, so that a mistake in a shader is an error
//! of the build, not of somebody's run.

use naga::front::wgsl;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, StorageAccess, TypeInner};
use std::fmt::Write;

#[expect(unreachable_pub, reason = "the same file is the public part of the library")]
mod variants {
    include!("variants.rs");
}

fn main() {
    println!("cargo::rerun-if-changed=.");
    let mut table = String::from("static INTERFACES: &[Interface] = &[\n");
    for (kernel, element) in variants::Kernel::all() {
        let mut features = match element {
            variants::Element::F32 => Capabilities::empty(),
            variants::Element::F16 => Capabilities::SHADER_FLOAT16,
        };
        if kernel.cooperative().is_some() {
            features |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP;
        }
        match reflect(&kernel.source(element), features) {
            Ok(entry) => table.push_str(&entry),
            Err(problem) => {
                println!("cargo::error={kernel:?} of {element:?}: {}", problem.replace('\n', " | "));
                return;
            }
        }
    }
    table.push_str("];\n");
    let folder = std::env::var_os("OUT_DIR").map(std::path::PathBuf::from).unwrap_or_default();
    if let Err(error) = std::fs::write(folder.join("interfaces.rs"), table) {
        println!("cargo::error=cannot write the shader interfaces: {error}");
    }
}

fn reflect(source: &str, features: Capabilities) -> Result<String, String> {
    let module = wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    Validator::new(ValidationFlags::all(), features).validate(&module).map_err(|e| e.emit_to_string(source))?;
    let [entry] = &module.entry_points[..] else { return Err("one entry point is expected".into()) };
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
    let mut bindings: Vec<(u32, &str, u32)> = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        if binding.group != 0 {
            return Err("only bind group 0 is used".into());
        }
        let kind = match variable.space {
            AddressSpace::Uniform => "Uniform",
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => "ReadWrite",
            AddressSpace::Storage { .. } => "Read",
            other => return Err(format!("a binding in {other:?}")),
        };
        let element = match module.types[variable.ty].inner {
            TypeInner::Array { stride, .. } => stride,
            _ => layouter[variable.ty].size,
        };
        bindings.push((binding.binding, kind, element));
    }
    bindings.sort_unstable();
    if bindings.iter().enumerate().any(|(i, b)| b.0 as usize != i) {
        return Err("bindings must be numbered 0, 1, 2, …".into());
    }
    let (mut kinds, mut elements) = (String::new(), String::new());
    for (_, kind, element) in bindings {
        // Writing to a String does not fail.
        let _ = write!(kinds, "Binding::{kind}, ");
        let _ = write!(elements, "{element}, ");
    }
    let size = entry.workgroup_size;
    Ok(format!("    Interface {{ bindings: &[{kinds}], element_bytes: &[{elements}], workgroup_size: {size:?} }},\n"))
}

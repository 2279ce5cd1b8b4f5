//! Keeps Metal and DX12 honest on machines that have neither: every variant is translated to SPIR-V, MSL and HLSL, and
//! stays within WebGPU's default limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_shaders::{Binding, Element, Kernel, MOST_WORKGROUP_MEMORY};
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::collections::HashSet;
use std::path::Path;

fn features(kernel: Kernel, element: Element) -> Capabilities {
    let mut all = if element == Element::F16 { Capabilities::SHADER_FLOAT16 } else { Capabilities::empty() };
    if kernel.cooperative().is_some() {
        all |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP;
    }
    all
}

#[test]
fn every_variant_translates_to_every_platform() {
    for (kernel, element) in Kernel::all() {
        let module = naga::front::wgsl::parse_str(&kernel.source(element)).unwrap();
        let info = Validator::new(ValidationFlags::all(), features(kernel, element)).validate(&module).unwrap();
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap();
        assert!(words.len() > 100, "{kernel:?}");
        // With the bounds checks that wgpu asks for, in the oldest version of the language; matrices came later.
        let lang_version = if kernel.cooperative().is_some() { (2, 3) } else { msl::Options::default().lang_version };
        let check = BoundsCheckPolicy::Restrict;
        let checks = BoundsCheckPolicies { index: check, buffer: check, image_load: check, binding_array: check };
        let options = msl::Options {
            lang_version,
            fake_missing_bindings: true,
            bounds_check_policies: checks,
            ..msl::Options::default()
        };
        let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap();
        assert!(text.contains("kernel"), "{kernel:?}");
        if kernel.cooperative().is_some() {
            // DX12 has no cooperative matrices, and no adapter of it reports any.
            continue;
        }
        // For FXC, and for the oldest version that DXC takes; f16 came later.
        let models = match element {
            Element::F32 => &[hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0][..],
            Element::F16 => &[hlsl::ShaderModel::V6_2],
        };
        for &shader_model in models {
            let mut text = String::new();
            let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..hlsl::Options::default() };
            let pipeline = hlsl::PipelineOptions::default();
            hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).unwrap();
            assert!(text.contains("numthreads"), "{kernel:?}");
        }
    }
}

#[test]
fn every_file_is_in_a_variant_and_every_variant_is_another() {
    let sources: Vec<String> = Kernel::all().into_iter().map(|(kernel, element)| kernel.source(element)).collect();
    assert_eq!(sources.iter().collect::<HashSet<_>>().len(), sources.len(), "variants that are the same");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.to_owned(), root.join("shared")].map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let shaders =
        files.into_iter().flatten().map(|file| file.path()).filter(|p| p.extension() == Some("wgsl".as_ref()));
    for path in shaders {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(sources.iter().any(|source| source.contains(&text)), "{} is in no variant", path.display());
    }
}

#[test]
fn every_variant_stays_within_the_default_limits() {
    for (kernel, element) in Kernel::all() {
        let interface = kernel.interface(element);
        let [x, y, z] = interface.workgroup_size;
        assert!(x * y * z <= 256 && x <= 256 && y <= 256 && z <= 64, "{kernel:?}: {x} x {y} x {z}");
        let storage = interface.bindings.iter().filter(|b| **b != Binding::Uniform).count();
        assert!((2..=8).contains(&storage), "{kernel:?}: {storage} storage buffers");
        let of = |kind| interface.bindings.iter().filter(|b| **b == kind).count();
        assert_eq!(interface.bindings.first(), Some(&Binding::Uniform), "{kernel:?}");
        assert_eq!((of(Binding::Uniform), of(Binding::ReadWrite)), (1, 1), "{kernel:?}");

        let module = naga::front::wgsl::parse_str(&kernel.source(element)).unwrap();
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let bytes = |space| -> u32 {
            let of_it = module.global_variables.iter().filter(|(_, v)| v.space == space);
            of_it.map(|(_, v)| layouter[v.ty].size).sum()
        };
        let parameters = bytes(naga::AddressSpace::Uniform);
        assert!([16, 32, 48].contains(&parameters), "{kernel:?}: {parameters} bytes of parameters");
        let shared = bytes(naga::AddressSpace::WorkGroup);
        assert!(shared <= MOST_WORKGROUP_MEMORY, "{kernel:?}: {shared} bytes of workgroup memory");
    }
}

//! Keeps Metal and DX12 honest on machines that have neither: every variant is translated to SPIR-V, MSL and HLSL, and
//! stays within WebGPU's default limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_shaders::{Binding, Kernel, MOST_WORKGROUP_MEMORY};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

#[test]
fn every_variant_translates_to_every_platform() {
    for kernel in Kernel::all() {
        let module = naga::front::wgsl::parse_str(&kernel.source()).unwrap();
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).unwrap();
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap();
        assert!(words.len() > 100, "{kernel:?}");
        let (text, _) = msl::write_string(
            &module,
            &info,
            &msl::Options { fake_missing_bindings: true, ..msl::Options::default() },
            &msl::PipelineOptions::default(),
        )
        .unwrap();
        assert!(text.contains("kernel"), "{kernel:?}");
        let mut text = String::new();
        let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default()).write(&module, &info, None).unwrap();
        assert!(text.contains("numthreads"), "{kernel:?}");
    }
}

#[test]
fn every_variant_stays_within_the_default_limits() {
    for kernel in Kernel::all() {
        let interface = kernel.interface();
        let [x, y, z] = interface.workgroup_size;
        assert!(x * y * z <= 256 && x <= 256 && y <= 256 && z <= 64, "{kernel:?}: {x} x {y} x {z}");
        let storage = interface.bindings.iter().filter(|b| **b != Binding::Uniform).count();
        assert!((2..=8).contains(&storage), "{kernel:?}: {storage} storage buffers");
        assert_eq!(interface.bindings.first(), Some(&Binding::Uniform), "{kernel:?}");
        assert_eq!(interface.bindings.iter().filter(|b| **b == Binding::ReadWrite).count(), 1, "{kernel:?}");

        let module = naga::front::wgsl::parse_str(&kernel.source()).unwrap();
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let shared: u32 = module
            .global_variables
            .iter()
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| layouter[v.ty].size)
            .sum();
        assert!(shared <= MOST_WORKGROUP_MEMORY, "{kernel:?}: {shared} bytes of workgroup memory");
    }
}

//! The WGSL compute shaders of MILS, each validated in every variant when this crate is built.
//!
//! A [`Kernel`] names a shader and its variant; [`Kernel::source`] is plain WGSL, [`Kernel::interface`] what it binds,
//! found by reflection. This crate names no GPU API and dispatches nothing: any WebGPU implementation can run the
//! shaders. Every kernel comes for activations in f32, which needs no feature beyond WebGPU's defaults (weights in 16
//! bits are read as integers and widened), and for activations in f16. All is computed in f32. Nothing needs subgroups
//! but the variants of the matrix product on cooperative matrices ([`Kernel::cooperative`]), which are of naga's WGSL and
//! for SPIR-V and MSL.
//!
//! ```
//! use mils_shaders::{Binding, Element, Kernel};
//! let interface = Kernel::Add.interface(Element::F32);
//! assert_eq!(interface.bindings, [Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite]);
//! assert_eq!(interface.element_bytes, [16, 4, 4, 4]);
//! assert_eq!(interface.workgroup_size, [256, 1, 1]);
//! assert!(Kernel::Add.source(Element::F16).starts_with("// Values held as f16"));
//! ```

use std::collections::HashMap;
use std::sync::LazyLock;

include!("../variants.rs");

/// Bytes of workgroup memory that a shader uses at most: WebGPU's default limit.
pub const MOST_WORKGROUP_MEMORY: u32 = 16 << 10;

/// How a shader uses a binding. Bindings are in group 0, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The parameters.
    Uniform,
    /// A buffer that is only read.
    Read,
    /// The buffer that is written.
    ReadWrite,
}

/// What a shader binds, by reflection. The entry point is `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// By binding number.
    pub bindings: &'static [Binding],
    /// By binding number, bytes of one element of a buffer: what one access to it moves. Of the parameters, their size.
    pub element_bytes: &'static [u32],
    /// Invocations of a workgroup along x, y and z.
    pub workgroup_size: [u32; 3],
}

// In the order of `Kernel::all`.
include!(concat!(env!("OUT_DIR"), "/interfaces.rs"));

static INDEX: LazyLock<HashMap<(Kernel, Element), usize>> =
    LazyLock::new(|| Kernel::all().into_iter().enumerate().map(|(i, k)| (k, i)).collect());

/// What no shader has: the interface of a variant that [`Kernel::all`] does not list (attention with 5 threads a query, say).
static NONE: Interface = Interface { bindings: &[], element_bytes: &[], workgroup_size: [1, 1, 1] };

impl Kernel {
    /// What it binds. Empty for variants that [`Kernel::all`] does not list.
    pub fn interface(self, element: Element) -> &'static Interface {
        INDEX.get(&(self, element)).and_then(|&i| INTERFACES.get(i)).unwrap_or(&NONE)
    }
}

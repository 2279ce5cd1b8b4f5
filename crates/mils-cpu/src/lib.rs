//! The CPU backend of `mils-graph`: fast, and the executable specification of every op.
//!
//! Linear layers and attention run on tiles of our own where the CPU has AVX-512 (`avx512.rs`, over weights that are
//! packed once), and on the `gemm` crate elsewhere. Everything runs on rayon's threads, buffers are reused by a
//! lifetime plan, and weights are shared by all programs. The GPU backend is tested against this one, and this one against plain
//! formulas and against embeddings that `transformers` computed.
//!
//! It is no general tensor library: it runs the ops that `mils-graph` has, in f32. Weights may be held in 16 bits, and
//! [`Math::BF16`] multiplies in bf16 where that is faster.
//!
//! ```
//! use mils_cpu::Cpu;
//! use mils_graph::{Backend, Graph, HostTensor};
//!
//! let mut g = Graph::new();
//! let x = g.input("x", &[1, 2]).unwrap();
//! let y = g.l2_normalize(x).unwrap();
//! g.output(y);
//! let weights = Cpu::new().load(vec![]).unwrap();
//! let mut program = weights.compile(&g).unwrap();
//! let out = program.run(&[HostTensor::f32(&[1, 2], vec![3.0, 4.0]).unwrap()]).unwrap();
//! assert_eq!(out[0].as_f32().unwrap(), [0.6, 0.8]);
//! ```

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convolution;
mod held;
mod linear;
pub mod math;
mod matmul;
pub mod ops;
#[cfg(target_arch = "x86_64")]
mod packed;
mod program;
#[cfg(target_arch = "x86_64")]
mod tiled;
#[cfg(not(target_arch = "x86_64"))]
#[path = "untiled.rs"]
mod tiled;
mod weights;

pub use held::Held;
pub use program::{Cpu, Math};

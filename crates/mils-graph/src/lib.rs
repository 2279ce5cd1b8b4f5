//! What an encoder is made of: typed ops over static shapes, host tensors, and the traits that a backend implements.
//!
//! An encoder describes one forward pass for one shape bucket as a [`Graph`]; a [`Backend`] holds the weights and
//! compiles graphs to [`Program`]s, which are then run many times. `mils-cpu` and `mils-gpu` are such backends.
//!
//! This crate computes nothing, names no device and reads no file. It is no general tensor library: the ops are
//! those that CLIP-like encoders and VGG's convolutions need, and all activations are row-major f32. Weights may be held in 16 bits.
//!
//! ```
//! use mils_graph::{Activation, Graph, Linear};
//!
//! let mut g = Graph::new();
//! let x = g.input("x", &[5, 8]).unwrap();
//! let w = g.weight("fc.weight", &[16, 8]).unwrap(); // PyTorch's layout: [out, in]
//! let b = g.weight("fc.bias", &[16]).unwrap();
//! let y = g
//!     .linear(Linear { x, weight: w, bias: Some(b), activation: Activation::QuickGelu, residual: None })
//!     .unwrap();
//! g.output(y);
//! assert_eq!(g.shape(y), [5, 16]);
//! ```

mod backend;
mod check;
mod convolution;
mod cost;
mod elements;
mod graph;
mod meter;
mod mixing;
mod op;
mod plan;
mod tensor;

pub use backend::{Backend, BackendError, Program, WeightSet};
pub use check::check_weights;
pub use cost::{Cost, KernelWork, Work};
pub use elements::{Bytes, Elements};
pub use graph::{Graph, GraphError, Node, ValueId};
pub use meter::{Account, Meter};
pub use op::{Activation, Attention, BiasedAttention, DType, Linear, Op};
pub use plan::{Place, Plan};
pub use tensor::{HostTensor, TensorData, TensorError};

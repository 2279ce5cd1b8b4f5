//! The GPU backend of `mils-graph`, on wgpu: Vulkan, Metal and DX12.
//!
//! Weights are uploaded once; a graph is lowered once to a list of dispatches with their pipelines, bind groups and
//! buffers, and then replayed: a run writes the inputs, submits one compute pass, and reads back only the outputs.
//! The shaders are in `mils-shaders`; `mils-cpu` computes the same and is what this is tested against.
//!
//! Every failure of the device is the error of the call that caused it: out of memory, a refused command, or a lost
//! device, told apart. After all but the last, later calls work again.
//!
//! This crate is no general tensor library and no scheduler: it runs the ops of `mils-graph` in f32 on one device, one
//! run after the other, and falls back to nothing. Weights in 16 bits stay so and are widened by the shaders, which
//! needs no optional feature of the device. On request activations are held in f16, and then products use cooperative
//! matrices where there are such: [`Gpu::open_with`].
//!
//! ```no_run
//! use mils_gpu::Gpu;
//! use mils_graph::{Backend, Graph, HostTensor};
//!
//! let gpu = Gpu::open()?;
//! println!("{}", gpu.name());
//! let mut g = Graph::new();
//! let x = g.input("x", &[1, 2])?;
//! let y = g.l2_normalize(x)?;
//! g.output(y);
//! let mut program = gpu.load(vec![])?.compile(&g)?;
//! let out = program.run(&[HostTensor::f32(&[1, 2], vec![3.0, 4.0])?])?;
//! assert_eq!(out[0].as_f32().unwrap(), [0.6, 0.8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod cache;
mod choose;
mod cooperative;
mod device;
mod fault;
mod lower;
mod probe;
mod profile;
mod program;
mod traffic;
mod weights;
mod work;

pub use adapter::{Adapter, AdapterKind, AdapterLimits, Adapters, GpuError, Refusal, Verdict};
pub use device::{Activations, Gpu};
pub use mils_shaders::Cooperative;
pub use probe::Peaks;
pub use work::{Setup, count};

//! Benchmarks that say something about the product: its speed beside peers, measured in pairs, and caption quality in
//! the demo world, with controls.
//!
//! Everything is measured with the code that `mils` runs. Not a library for others.
//!
//! ```
//! let (low, high) = mils_bench::stats::interval(&[0.0, 1.0, 1.0, 1.0]);
//! assert!(low < 0.75 && high > 0.75);
//! ```

pub mod bench;
pub mod checkpoint;
pub mod encoders;
pub mod folder;
pub mod generation;
pub mod gguf;
pub mod harness;
pub mod initial;
pub mod lists;
pub mod load;
pub mod media;
pub mod meter;
pub mod metrics;
pub mod peer;
pub mod quality;
pub mod recombine;
pub mod roofline;
pub mod runs;
pub mod sounds;
pub mod stats;

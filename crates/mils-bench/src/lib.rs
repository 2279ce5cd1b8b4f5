//! Benchmarks that say something about the product: caption quality in the demo world, with controls.
//!
//! Everything is measured with the code that `mils caption` runs. Not a library for others.
//!
//! ```
//! let (low, high) = mils_bench::stats::interval(&[0.0, 1.0, 1.0, 1.0]);
//! assert!(low < 0.75 && high > 0.75);
//! ```

pub mod lists;
pub mod quality;
pub mod recombine;
pub mod stats;

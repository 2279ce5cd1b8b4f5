//! Benchmarks: caption quality in the demo world.

//! Videos and animations in memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_media::video::{Sampling, VideoLimits, sample_bytes};

fuzz_target!(|bytes: &[u8]| {
    let limits = VideoLimits { max_pixels: 1 << 18, threads: 1, ..VideoLimits::default() };
    drop(sample_bytes(bytes, 3, Sampling::Centres, &limits));
});

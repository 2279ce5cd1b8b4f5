//! Pictures in memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_media::{DecodeLimits, decode_image_bytes};

fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() };
    drop(decode_image_bytes(bytes, &limits));
});

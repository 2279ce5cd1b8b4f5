//! Sounds in memory, whole and in a window, through Symphonia and FFmpeg.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_media::audio::{ReadOptions, read_bytes};

fuzz_target!(|bytes: &[u8]| {
    let whole = ReadOptions { max_seconds: 5.0, sample_rate: Some(8000), ..ReadOptions::default() };
    drop(read_bytes(bytes.to_vec(), &whole));
    let window = ReadOptions { start: 0.2, seconds: Some(0.1), ..whole };
    drop(read_bytes(bytes.to_vec(), &window));
});

//! What a file is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_media::kind_bytes;

fuzz_target!(|bytes: &[u8]| drop(kind_bytes(bytes)));

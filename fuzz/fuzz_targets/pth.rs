//! A checkpoint of PyTorch: any bytes are an error or a safetensors file that is not much larger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_pth::{Checkpoint, MOST_GROWTH, Options};
use std::ops::ControlFlow;
use std::path::Path;

// The first byte says how it is opened; the rest is the file. Seeds: crates/mils-pth/tests/files/*.pth with a byte before.
fuzz_target!(|bytes: &[u8]| {
    let Some((&how, file)) = bytes.split_first() else { return };
    let prefix = if how & 2 == 0 { String::new() } else { "model.".to_owned() };
    let options = Options { prefix, skip_objects: how & 1 == 1 };
    if let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("fuzzed.pth"), file.to_vec(), &options) {
        assert!(checkpoint.bytes() <= file.len() as u64 * MOST_GROWTH + (1 << 20));
        let mut out = Vec::new();
        let written = checkpoint.write_safetensors(&mut out, &mut |_| ControlFlow::Continue(()));
        assert!(written.is_ok());
    }
});

//! The target `sound`; see fuzz/src/lib.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mils_fuzz::sound(bytes));

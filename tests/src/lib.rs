//! Tests across crates: conformance, the command line, and bad input.

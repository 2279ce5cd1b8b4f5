//! The `mils` command.
fn main() {}

//! Every dependency's licence is one that the project may be built with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../../tests/shared/licences.rs"]
mod shared;

#[test]
fn every_dependency_has_an_allowed_licence() {
    shared::check(env!("CARGO_MANIFEST_DIR"), 20);
}

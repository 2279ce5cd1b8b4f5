//! Tests that need several crates at once; see tests/. This library is empty.
//!
//! ```
//! // Nothing to show: the tests are the content.
//! ```

//! Image decoding and the transforms that make model input.

//! What an encoder is made of: ops, shapes, host tensors, and the Backend and Program traits.

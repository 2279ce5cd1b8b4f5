//! CLIP-family encoders: configuration to graph, weights, tokenizer, preprocessing.

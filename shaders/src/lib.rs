//! WGSL compute shaders, validated and reflected at build time.

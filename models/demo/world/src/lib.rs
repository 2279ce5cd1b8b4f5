//! The demo world: scenes, the caption grammar, and the renderer.

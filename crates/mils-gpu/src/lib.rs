//! The GPU backend on wgpu: adapter choice, memory plan, pipelines, replayable programs.

//! Times of kernels on the device: every dispatch in a pass of its own, with a timestamp before and after it.

use crate::device::{Shared, within};
use crate::program::{GpuProgram, Step, read_back};
use mils_graph::{BackendError, HostTensor};

/// What errors say was being done.
const TIMING: &str = "timing a graph";
/// Bytes of a timestamp.
const STAMP: u64 = 8;

/// Whether a device has timestamps.
pub(crate) fn has_timestamps(shared: &Shared) -> bool {
    shared.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
}

/// Runs a program once. Gives the seconds of every step; the outputs are copied for the read-back.
pub(crate) fn seconds(program: &GpuProgram, inputs: &[HostTensor]) -> Result<Vec<f64>, BackendError> {
    let (shared, steps) = (&program.shared, &program.steps);
    timed(shared, steps, || program.write(inputs), |encoder| program.copy_outputs(encoder))
}

/// Runs steps once, with something before they are recorded and something to record after them. Gives the seconds of
/// every step, of a device that has timestamps.
pub(crate) fn timed(
    shared: &Shared,
    steps: &[Step],
    before: impl FnOnce(),
    after: impl FnOnce(&mut wgpu::CommandEncoder),
) -> Result<Vec<f64>, BackendError> {
    within("a timed run", steps.len() as u64 * 2, u64::from(wgpu::QUERY_SET_MAX_QUERIES), "timestamps")?;
    // Just checked against a u32.
    let count = steps.len() as u32 * 2;
    let bytes = u64::from(count) * STAMP;
    let staging = shared.scope(TIMING, || {
        let buffer = |label, usage| {
            let descriptor =
                wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
            shared.device.create_buffer(&descriptor)
        };
        let resolved = buffer("timestamps", wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer("timestamps read back", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let query_set = shared.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        before();
        let mut encoder = shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (step, at) in steps.iter().zip((0..).step_by(2)) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &query_set,
                    beginning_of_pass_write_index: Some(at),
                    end_of_pass_write_index: Some(at + 1),
                }),
            });
            step.record(&mut pass);
        }
        encoder.resolve_query_set(&query_set, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
        after(&mut encoder);
        shared.queue.submit([encoder.finish()]);
        Ok(staging)
    })?;
    let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&shared.scope(TIMING, || read_back(shared, &staging))?);
    let tick = f64::from(shared.queue.get_timestamp_period()) * 1e-9;
    let (pairs, _) = stamps.as_chunks::<2>();
    Ok(pairs.iter().map(|[start, end]| end.saturating_sub(*start) as f64 * tick).collect())
}

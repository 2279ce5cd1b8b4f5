//! What a device reaches at most, measured by kernels that do nothing else: the roof that other kernels are held against.
//! Vendors' figures are for clocks and memories that a card may not have.

use crate::Gpu;
use crate::adapter::AdapterKind;
use crate::device::Shared;
use crate::profile::{has_timestamps, timed};
use crate::program::Step;
use mils_graph::BackendError;
use mils_shaders::{Cooperative, Kernel, Probe};
use std::time::Instant;

/// What errors say was being done.
const PROBING: &str = "measuring the device";
/// Threads of the probes' workgroups.
const GROUP: u32 = 256;
/// A probe lasts at least this long, or its beginning and end count for too much.
const LONG_ENOUGH: f64 = 4e-3;
/// Times that it is repeated then; the best counts, since whatever disturbs makes it longer.
const REPEATS: usize = 5;

/// The most that a device was seen to do in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Peaks {
    /// Floating-point operations in f32; 2 for a multiplication with its addition.
    pub flops: f64,
    /// The same of cooperative matrices with factors in f16, where products use them.
    pub matrix_flops: Option<f64>,
    /// Bytes read from memory that is larger than caches.
    pub bytes: f64,
}

impl Gpu {
    /// Measures the device: some tens of milliseconds on hardware, and some memory for as long. On a software driver the
    /// figures are the CPU's at what the driver makes of the kernels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn peaks(&self) -> Result<Peaks, BackendError> {
        let shared = &self.shared;
        let software = self.kind() == AdapterKind::Software;
        // Enough groups to fill any device, several times over.
        let groups = if software { 16 } else { 4096 };
        let threads = u64::from(groups * GROUP);
        let arithmetic = best(shared, Kernel::Probe(Probe::Arithmetic), groups, 0, 32)?;
        // Each round is 8 chains of 4 numbers.
        let flops = arithmetic * (threads * 8 * 4 * 2) as f64;
        let matrix_flops = self.cooperative().map(|c| matrices(shared, c, groups)).transpose()?;
        // Larger than caches; on the CPU, than those of a laptop's.
        let most = if software { 64 << 20 } else { 512 << 20 };
        let quads = shared.largest_binding().min(most) / 16;
        let passes = best(shared, Kernel::Probe(Probe::Bytes), groups, quads as u32, 1)?;
        Ok(Peaks { flops, matrix_flops, bytes: passes * (quads * 16) as f64 })
    }
}

/// Operations of cooperative matrices in a second.
fn matrices(shared: &Shared, c: Cooperative, groups: u32) -> Result<f64, BackendError> {
    let rounds = best(shared, Kernel::Probe(Probe::Matrices(c)), groups, 0, 32)?;
    // Each round of a group is four products of two matrices.
    Ok(rounds * f64::from(groups) * 4.0 * 2.0 * f64::from(c.side).powi(3))
}

/// Rounds of a probe in a second: enough of them at a time to last, at the best of some times. It reads `quads`, or two.
fn best(shared: &Shared, kernel: Kernel, groups: u32, quads: u32, rounds: u32) -> Result<f64, BackendError> {
    let pipeline = shared.pipeline(kernel)?;
    let (x, out) = shared.scope(PROBING, || {
        let x = shared.buffer("what a probe reads", u64::from(quads.max(2)) * 16);
        // Chains that stay where they are: 0.5 c + 0.5.
        shared.write(&x, bytemuck::cast_slice(&[0.5_f32; 8]));
        Ok((x, shared.buffer("what a probe writes", u64::from(groups * GROUP) * 16)))
    })?;
    let run = |rounds: u32| {
        let step = shared.scope(PROBING, || {
            let uniform = shared.uniform(bytemuck::cast_slice(&[rounds, quads, groups * GROUP, 0]));
            let entries = [&uniform, &x, &out].map(wgpu::Buffer::as_entire_binding);
            let entries = (0..).zip(entries).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource });
            let bindings = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries.collect::<Vec<_>>(),
            });
            Ok(Step { pipeline: pipeline.pipeline.clone(), bindings, offset: 0, grid: [groups, 1, 1] })
        })?;
        if has_timestamps(shared) {
            return Ok(timed(shared, &[step], || (), |_| ())?.first().copied().unwrap_or_default());
        }
        wall(shared, &step)
    };
    let mut rounds = rounds;
    // The first run pays for what is done once.
    let mut seconds = run(rounds)?;
    while seconds < LONG_ENOUGH && rounds < 1 << 24 {
        rounds *= 2;
        seconds = run(rounds)?;
    }
    for _ in 0..REPEATS {
        seconds = seconds.min(run(rounds)?);
    }
    Ok(f64::from(rounds) / seconds.max(1e-9))
}

/// Seconds from handing a step over to its end.
fn wall(shared: &Shared, step: &Step) -> Result<f64, BackendError> {
    shared.wait(PROBING)?;
    let begin = Instant::now();
    shared.scope(PROBING, || {
        let mut encoder = shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        step.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        shared.queue.submit([encoder.finish()]);
        Ok(())
    })?;
    shared.wait(PROBING)?;
    Ok(begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use crate::cooperative::Use;
    use crate::{Activations, Gpu};

    #[test]
    fn a_device_has_peaks() {
        if mils_tests::skips_gpu() {
            return;
        }
        for (activations, matrices) in [(Activations::F32, Use::Off), (Activations::F16, Use::On)] {
            let gpu = Gpu::open_as(activations, matrices).unwrap();
            let peaks = gpu.peaks().unwrap();
            // Between a slow core of a CPU and a card of the next years.
            assert!((1e8..1e16).contains(&peaks.flops) && (1e8..1e14).contains(&peaks.bytes), "{peaks:?}");
            assert_eq!(peaks.matrix_flops.is_some(), gpu.cooperative().is_some());
            assert!(peaks.matrix_flops.is_none_or(|f| (1e7..1e17).contains(&f)), "{peaks:?}");
        }
    }
}

//! Weights on the GPU and compiled programs.

use crate::device::{Shared, within};
use crate::lower::{Dispatch, Read, Target, lower};
use crate::profile;
use crate::weights::{Held, bytes_as, element_bytes, floats};
use crate::work::{self, cut};
use mils_graph::{BackendError, DType, Graph, HostTensor, Op, Place, Program, ValueId, WeightSet, Work};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

pub(crate) struct GpuWeights {
    shared: Arc<Shared>,
    weights: HashMap<String, Held>,
}

/// Of one value: one, or several of a weight that cannot be bound whole.
type Buffers = Vec<wgpu::Buffer>;

/// Bytes of one dispatch's parameters, at most.
const PARAMETERS: u32 = 64;
/// What errors say was being done.
const RUNNING: &str = "running a graph";
const READING: &str = "reading back from the GPU";

/// A dispatch as it is replayed.
pub(crate) struct Step {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroup,
    pub(crate) offset: u32,
    pub(crate) grid: [u32; 3],
}

/// A compiled graph: all that a run needs is made, and a run only records it.
pub(crate) struct GpuProgram {
    pub(crate) shared: Arc<Shared>,
    graph: Graph,
    inputs: Vec<wgpu::Buffer>,
    pub(crate) steps: Vec<Step>,
    /// What each step is and costs.
    pub(crate) dispatches: Vec<Dispatch>,
    /// What to read back: the buffer, its bytes, and where they go in `staging`.
    outputs: Vec<(wgpu::Buffer, u64, u64)>,
    staging: wgpu::Buffer,
}

impl GpuWeights {
    pub(crate) fn new(shared: Arc<Shared>, weights: HashMap<String, Held>) -> Self {
        Self { shared, weights }
    }

    /// The buffers of the inputs and of every node; nodes that share storage share them.
    fn place(&self, graph: &Graph) -> Result<(Vec<wgpu::Buffer>, Vec<Buffers>), BackendError> {
        let plan = graph.plan();
        let make = |label: &str, elements: usize, dtype| {
            let bytes = (elements as u64 * element_bytes(dtype, self.shared.element)).next_multiple_of(4);
            self.shared.fits_binding(label, bytes)?;
            Ok::<_, BackendError>(self.shared.buffer(label, bytes))
        };
        let slots = plan.slots.iter().map(|&n| make("a buffer of activations", n, DType::F32));
        let slots = slots.collect::<Result<Vec<_>, _>>()?;
        let inputs = graph.inputs().iter().map(|&id| graph.node(id));
        let inputs = inputs.map(|node| make("an input", node.elements(), node.dtype));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let mut buffers: Vec<Buffers> = Vec::with_capacity(graph.nodes().len());
        for (node, place) in graph.nodes().iter().zip(&plan.places) {
            buffers.push(match (place, &node.op) {
                (Place::Input(i), _) => vec![inputs[*i].clone()],
                (Place::Slot(s), _) => vec![slots[*s].clone()],
                (Place::Weight, Op::Weight { name }) => {
                    let held = self.weights.get(name);
                    let held = held.ok_or_else(|| BackendError::MissingWeight(name.clone()))?;
                    held.buffers.clone()
                }
                (Place::Weight, op) => {
                    // A reshape of a weight.
                    let storage = op.operands().first().map_or(0, |id| graph.storage(*id).index());
                    buffers[storage].clone()
                }
            });
        }
        Ok((inputs, buffers))
    }
}

impl WeightSet for GpuWeights {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        Ok(Box::new(self.build(graph)?))
    }
}

impl GpuWeights {
    fn build(&self, graph: &Graph) -> Result<GpuProgram, BackendError> {
        graph.check(|name| self.weights.get(name).map(|held| (held.given, held.shape.as_slice())))?;
        let target = Target {
            class: self.shared.class,
            most: self.shared.limits.max_compute_workgroups_per_dimension,
            element: self.shared.element,
            cooperative: self.shared.cooperative,
            weights: &|name| self.weights.get(name).map(|held| held.lie.clone()),
        };
        let dispatches = lower(graph, &target)?;
        self.shared.scope("compiling a graph", || {
            let (inputs, buffers) = self.place(graph)?;
            let steps = self.steps(graph, &dispatches, &buffers)?;
            self.shared.keep_pipelines();
            let mut outputs = Vec::new();
            let mut end = 0;
            for &id in graph.outputs() {
                let node = graph.node(id);
                let bytes = node.elements() as u64 * element_bytes(node.dtype, self.shared.element);
                // Only whole words are copied.
                let bytes = bytes.next_multiple_of(4);
                outputs.push((self.whole(graph, &buffers, id)?.clone(), bytes, end));
                end += bytes;
            }
            self.shared.fits_buffer("what is read back", end)?;
            let staging = self.shared.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read back"),
                size: end.max(4),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let (shared, graph) = (Arc::clone(&self.shared), graph.clone());
            let dispatches = dispatches.into_iter().map(|(_, dispatch)| dispatch).collect();
            Ok(GpuProgram { shared, graph, inputs, steps, dispatches, outputs, staging })
        })
    }

    /// The only buffer of a value. A weight may have several: it is too large for all but a table of an embedding.
    fn whole<'a>(&self, graph: &Graph, buffers: &'a [Buffers], id: ValueId) -> Result<&'a wgpu::Buffer, BackendError> {
        if let [only] = &buffers[id.index()][..] {
            return Ok(only);
        }
        let what = match &graph.node(graph.storage(id)).op {
            Op::Weight { name } => format!("weight `{name}`"),
            _ => "a value".into(),
        };
        let needed = buffers[id.index()].iter().map(wgpu::Buffer::size).sum();
        Err(BackendError::Limit { what, needed, limit: self.shared.largest_binding(), unit: "bytes" })
    }

    fn steps(
        &self,
        graph: &Graph,
        dispatches: &[(usize, Dispatch)],
        buffers: &[Buffers],
    ) -> Result<Vec<Step>, BackendError> {
        let shared = &self.shared;
        // All parameters in one uniform buffer, each at an aligned place; offsets into it are u32.
        let align = shared.limits.min_uniform_buffer_offset_alignment.max(PARAMETERS) as usize;
        let bytes = align * dispatches.len().max(1);
        shared.fits_buffer("a graph's parameters", bytes as u64)?;
        within("a graph's parameters", bytes as u64, u64::from(u32::MAX), "bytes")?;
        let mut uniforms = vec![0_u8; bytes];
        for (place, (_, d)) in uniforms.chunks_exact_mut(align).zip(dispatches) {
            let bytes: &[u8] = bytemuck::cast_slice(&d.params);
            place[..bytes.len()].copy_from_slice(bytes);
        }
        let uniforms = shared.uniform(&uniforms);
        let mut steps = Vec::with_capacity(dispatches.len());
        for (at, (node, d)) in dispatches.iter().enumerate() {
            let made = shared.pipeline(d.kernel)?;
            let mut bound: Vec<wgpu::BindingResource<'_>> = Vec::with_capacity(d.reads.len() + 2);
            bound.push(wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &uniforms,
                offset: 0,
                size: std::num::NonZeroU64::new(PARAMETERS.into()),
            }));
            for &read in &d.reads {
                let buffer = match read {
                    Read::Whole(id) => self.whole(graph, buffers, id)?,
                    Read::Part(id, part) => &buffers[id.index()][part],
                };
                bound.push(buffer.as_entire_binding());
            }
            bound.extend(buffers[*node].iter().map(wgpu::Buffer::as_entire_binding));
            let entries: Vec<wgpu::BindGroupEntry<'_>> =
                (0..).zip(bound).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            let bindings = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &made.layout,
                entries: &entries,
            });
            steps.push(Step { pipeline: made.pipeline, bindings, offset: (at * align) as u32, grid: d.grid });
        }
        Ok(steps)
    }
}

impl GpuProgram {
    /// Writes the inputs and submits all steps; the last submit copies the outputs for the read-back.
    fn submit(&self, inputs: &[HostTensor]) {
        self.write(inputs);
        let parts = cut(self.steps.len());
        for (i, part) in parts.iter().enumerate() {
            let mut encoder = self.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                self.steps[part.clone()].iter().for_each(|step| step.record(&mut pass));
            }
            if i + 1 == parts.len() {
                self.copy_outputs(&mut encoder);
            }
            self.shared.queue.submit([encoder.finish()]);
        }
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(crate) fn write(&self, inputs: &[HostTensor]) {
        for (buffer, tensor) in self.inputs.iter().zip(inputs) {
            self.shared.write(buffer, &bytes_as(tensor, self.shared.element));
        }
    }

    pub(crate) fn copy_outputs(&self, encoder: &mut wgpu::CommandEncoder) {
        for (buffer, bytes, at) in &self.outputs {
            encoder.copy_buffer_to_buffer(buffer, 0, &self.staging, *at, *bytes);
        }
    }

    /// What was copied for the read-back, as tensors.
    pub(crate) fn read(&self) -> Result<Vec<HostTensor>, BackendError> {
        let bytes = self.shared.scope(READING, || read_back(&self.shared, &self.staging))?;
        let mut out = Vec::with_capacity(self.outputs.len());
        for (&id, (_, len, at)) in self.graph.outputs().iter().zip(&self.outputs) {
            // Staging was made to hold exactly these ranges.
            let part = &bytes[*at as usize..(*at + *len) as usize];
            let node = self.graph.node(id);
            out.push(match node.dtype {
                DType::U32 => HostTensor::u32(&node.shape, bytemuck::pod_collect_to_vec(part))?,
                _ => HostTensor::f32(&node.shape, floats(part, self.shared.element, node.elements()))?,
            });
        }
        Ok(out)
    }
}

impl Step {
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[self.offset]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// Waits for the GPU and copies out what was copied into `staging`. Leaves it unmapped, also after an error: a mapped
/// buffer would fail the next run.
pub(crate) fn read_back(shared: &Shared, staging: &wgpu::Buffer) -> Result<Vec<u8>, BackendError> {
    let (done, mapped) = channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| {
        // If the receiver is gone there is nobody to tell.
        let _ = done.send(result);
    });
    if let Err(error) = shared.wait(READING) {
        staging.unmap();
        return Err(error);
    }
    let failed = |problem: String| BackendError::Device { during: READING.into(), problem };
    // The work is done. Where another thread waited for the device too, it may be the one that tells, and is about to.
    let told = mapped.recv_timeout(shared.faults.patience).map_err(|e| {
        staging.unmap();
        failed(e.to_string())
    })?;
    told.map_err(|e| failed(e.to_string()))?;
    let bytes = staging.get_mapped_range(..).map(|range| range.to_vec());
    staging.unmap();
    bytes.map_err(|e| failed(e.to_string()))
}

impl Program for GpuProgram {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        self.graph.check_inputs(inputs)?;
        // Two scopes: what was not submitted is not waited for.
        self.shared.scope(RUNNING, || {
            self.submit(inputs);
            Ok(())
        })?;
        self.read()
    }

    fn work(&self) -> Work {
        work::of(&self.dispatches, None)
    }

    fn profile(&mut self, inputs: &[HostTensor]) -> Result<(Vec<HostTensor>, Work), BackendError> {
        if self.steps.is_empty() || !profile::has_timestamps(&self.shared) {
            return Ok((self.run(inputs)?, self.work()));
        }
        self.graph.check_inputs(inputs)?;
        let seconds = profile::seconds(self, inputs)?;
        Ok((self.read()?, work::of(&self.dispatches, Some(&seconds))))
    }
}

#[cfg(test)]
mod tests;

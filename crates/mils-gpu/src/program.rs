//! Weights on the GPU and compiled programs.

use crate::device::Shared;
use crate::lower::{Dispatch, lower};
use mils_graph::{BackendError, Graph, HostTensor, Op, Place, Program, TensorData, ValueId, WeightSet};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

pub(crate) struct GpuWeights {
    shared: Arc<Shared>,
    buffers: HashMap<String, (Vec<usize>, wgpu::Buffer)>,
}

struct Step {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    offset: u32,
    grid: [u32; 3],
}

struct GpuProgram {
    shared: Arc<Shared>,
    graph: Graph,
    inputs: Vec<wgpu::Buffer>,
    steps: Vec<Step>,
    /// What to read back: the buffer, its bytes, and where they go in `staging`.
    outputs: Vec<(wgpu::Buffer, u64, u64)>,
    staging: wgpu::Buffer,
}

impl GpuWeights {
    pub(crate) fn new(shared: Arc<Shared>, buffers: HashMap<String, (Vec<usize>, wgpu::Buffer)>) -> Self {
        Self { shared, buffers }
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Result<&wgpu::Buffer, BackendError> {
        let (found, buffer) = self.buffers.get(name).ok_or_else(|| BackendError::MissingWeight(name.to_owned()))?;
        if found == shape {
            return Ok(buffer);
        }
        let (expected, found) = (format!("F32 {shape:?}"), format!("{found:?}"));
        Err(BackendError::Mismatch { name: name.to_owned(), expected, found })
    }

    /// A buffer for every node; nodes that share storage share it.
    fn place(&self, graph: &Graph) -> Result<(Vec<wgpu::Buffer>, Vec<wgpu::Buffer>), BackendError> {
        let plan = graph.plan();
        let make = |label: &str, elements: usize| {
            let bytes = elements as u64 * 4;
            self.shared.fits(label, bytes)?;
            Ok::<_, BackendError>(self.shared.buffer(label, bytes))
        };
        let slots = plan.slots.iter().map(|&n| make("activations", n)).collect::<Result<Vec<_>, _>>()?;
        let inputs =
            graph.inputs().iter().map(|&id| make("input", graph.node(id).elements())).collect::<Result<Vec<_>, _>>()?;
        let mut buffers: Vec<wgpu::Buffer> = Vec::with_capacity(graph.nodes().len());
        for (node, place) in graph.nodes().iter().zip(&plan.places) {
            buffers.push(match (place, &node.op) {
                (Place::Input(i), _) => inputs[*i].clone(),
                (Place::Slot(s), _) => slots[*s].clone(),
                (Place::Weight, Op::Weight { name }) => self.weight(name, &node.shape)?.clone(),
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
        let shared = &self.shared;
        let (inputs, buffers) = self.place(graph)?;
        let mut dispatches: Vec<(usize, Dispatch)> = Vec::new();
        for i in 0..graph.nodes().len() {
            dispatches.extend(lower(graph, i)?.map(|d| (i, d)));
        }
        // All parameters in one uniform buffer, each at an aligned place.
        let align = shared.limits.min_uniform_buffer_offset_alignment.max(32) as usize;
        let mut uniforms = vec![0_u8; align * dispatches.len().max(1)];
        for (place, (_, d)) in uniforms.chunks_exact_mut(align).zip(&dispatches) {
            let bytes: &[u8] = bytemuck::cast_slice(&d.params);
            place[..bytes.len()].copy_from_slice(bytes);
        }
        let uniforms = shared.uniform(&uniforms);
        let mut steps = Vec::with_capacity(dispatches.len());
        for (at, (node, d)) in dispatches.iter().enumerate() {
            let made = shared.pipeline(d.kernel);
            let mut bound: Vec<wgpu::BindingResource<'_>> = Vec::with_capacity(d.reads.len() + 2);
            bound.push(wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &uniforms,
                offset: 0,
                size: std::num::NonZeroU64::new(32),
            }));
            bound.extend(d.reads.iter().map(|id: &ValueId| buffers[id.index()].as_entire_binding()));
            bound.push(buffers[*node].as_entire_binding());
            let entries: Vec<wgpu::BindGroupEntry<'_>> =
                (0..).zip(bound).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            let bindings = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &made.layout,
                entries: &entries,
            });
            steps.push(Step { pipeline: made.pipeline, bindings, offset: (at * align) as u32, grid: d.grid });
        }
        let mut outputs = Vec::new();
        let mut end = 0;
        for &id in graph.outputs() {
            let bytes = graph.node(id).elements() as u64 * 4;
            outputs.push((buffers[id.index()].clone(), bytes, end));
            end += bytes;
        }
        let staging = shared.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read back"),
            size: end.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        shared.check()?;
        Ok(Box::new(GpuProgram { shared: Arc::clone(shared), graph: graph.clone(), inputs, steps, outputs, staging }))
    }
}

impl GpuProgram {
    /// Waits for the GPU and copies out what was read back.
    fn read_back(&self) -> Result<Vec<u8>, BackendError> {
        let (done, mapped) = channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver waits below; if it is gone there is nobody to tell.
            let _ = done.send(result);
        });
        let polled = self.shared.device.poll(wgpu::PollType::wait_indefinitely());
        self.shared.check()?;
        polled.map_err(|e| BackendError::Device(format!("waiting for the GPU: {e}")))?;
        let failed = |what: String| BackendError::Device(format!("reading back from the GPU: {what}"));
        mapped.recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let bytes = self.staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?.to_vec();
        self.staging.unmap();
        Ok(bytes)
    }
}

impl Program for GpuProgram {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        self.shared.check()?;
        self.graph.check_inputs(inputs)?;
        for (buffer, tensor) in self.inputs.iter().zip(inputs) {
            let bytes: &[u8] = match tensor.data() {
                TensorData::F32(data) => bytemuck::cast_slice(data),
                TensorData::U32(data) => bytemuck::cast_slice(data),
            };
            self.shared.queue.write_buffer(buffer, 0, bytes);
        }
        let mut encoder = self.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for step in &self.steps {
                pass.set_pipeline(&step.pipeline);
                pass.set_bind_group(0, &step.bindings, &[step.offset]);
                pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
            }
        }
        for (buffer, bytes, at) in &self.outputs {
            encoder.copy_buffer_to_buffer(buffer, 0, &self.staging, *at, *bytes);
        }
        self.shared.queue.submit([encoder.finish()]);
        let bytes = self.read_back()?;
        let mut out = Vec::with_capacity(self.outputs.len());
        for (&id, (_, len, at)) in self.graph.outputs().iter().zip(&self.outputs) {
            // Staging was made to hold exactly these ranges.
            let part = &bytes[*at as usize..(*at + *len) as usize];
            let shape = &self.graph.node(id).shape;
            out.push(match self.graph.node(id).dtype {
                mils_graph::DType::F32 => HostTensor::f32(shape, bytemuck::pod_collect_to_vec(part))?,
                mils_graph::DType::U32 => HostTensor::u32(shape, bytemuck::pod_collect_to_vec(part))?,
            });
        }
        Ok(out)
    }
}

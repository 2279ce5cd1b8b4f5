//! Weights on the GPU and compiled programs.

use crate::device::{Shared, within};
use crate::lower::{Dispatch, Read, lower};
use crate::weights::{Held, bytes};
use mils_graph::{BackendError, DType, Graph, HostTensor, Op, Place, Program, ValueId, WeightSet};
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
const PARAMETERS: u32 = 32;
/// What errors say was being done.
const RUNNING: &str = "running a graph";
const READING: &str = "reading back from the GPU";

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
    pub(crate) fn new(shared: Arc<Shared>, weights: HashMap<String, Held>) -> Self {
        Self { shared, weights }
    }

    /// The buffers of the inputs and of every node; nodes that share storage share them.
    fn place(&self, graph: &Graph) -> Result<(Vec<wgpu::Buffer>, Vec<Buffers>), BackendError> {
        let plan = graph.plan();
        let make = |label: &str, elements: usize| {
            let bytes = elements as u64 * 4;
            self.shared.fits_binding(label, bytes)?;
            Ok::<_, BackendError>(self.shared.buffer(label, bytes))
        };
        let slots = plan.slots.iter().map(|&n| make("a buffer of activations", n)).collect::<Result<Vec<_>, _>>()?;
        let inputs = graph.inputs().iter().map(|&id| make("an input", graph.node(id).elements()));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let mut buffers: Vec<Buffers> = Vec::with_capacity(graph.nodes().len());
        for (node, place) in graph.nodes().iter().zip(&plan.places) {
            buffers.push(match (place, &node.op) {
                (Place::Input(i), _) => vec![inputs[*i].clone()],
                (Place::Slot(s), _) => vec![slots[*s].clone()],
                (Place::Weight, Op::Weight { name }) => {
                    let held = self.weights.get(name);
                    let held = held.ok_or_else(|| BackendError::MissingWeight(name.clone()))?;
                    held.parts.iter().map(|part| part.buffer.clone()).collect()
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
        graph.check(|name| self.weights.get(name).map(|held| (held.dtype, held.shape.as_slice())))?;
        let most = self.shared.limits.max_compute_workgroups_per_dimension;
        let mut dispatches: Vec<(usize, Dispatch)> = Vec::new();
        for i in 0..graph.nodes().len() {
            dispatches.extend(lower(graph, i, &self.weights, most)?.into_iter().map(|d| (i, d)));
        }
        self.shared.scope("compiling a graph", || {
            let (inputs, buffers) = self.place(graph)?;
            let steps = self.steps(graph, &dispatches, &buffers)?;
            let mut outputs = Vec::new();
            let mut end = 0;
            for &id in graph.outputs() {
                let bytes = graph.node(id).elements() as u64 * 4;
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
            Ok(GpuProgram { shared, graph, inputs, steps, outputs, staging })
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
    /// Writes the inputs and submits all steps.
    fn submit(&self, inputs: &[HostTensor]) {
        for (buffer, tensor) in self.inputs.iter().zip(inputs) {
            self.shared.queue.write_buffer(buffer, 0, bytes(tensor));
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
    }

    /// Waits for the GPU and copies out what was read back. Leaves `staging` unmapped, also after an error: a mapped
    /// buffer would fail the next run.
    fn read_back(&self) -> Result<Vec<u8>, BackendError> {
        let (done, mapped) = channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // If the receiver is gone there is nobody to tell.
            let _ = done.send(result);
        });
        if let Err(error) = self.shared.wait(READING) {
            self.staging.unmap();
            return Err(error);
        }
        let failed = |problem: String| BackendError::Device { during: READING.into(), problem };
        // The wait is over: what was not sent by now never will be.
        mapped.try_recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let bytes = self.staging.get_mapped_range(..).map(|range| range.to_vec());
        self.staging.unmap();
        bytes.map_err(|e| failed(e.to_string()))
    }
}

impl Program for GpuProgram {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        self.graph.check_inputs(inputs)?;
        // Two scopes: what was not submitted is not waited for.
        self.shared.scope(RUNNING, || {
            self.submit(inputs);
            Ok(())
        })?;
        let bytes = self.shared.scope(READING, || self.read_back())?;
        let mut out = Vec::with_capacity(self.outputs.len());
        for (&id, (_, len, at)) in self.graph.outputs().iter().zip(&self.outputs) {
            // Staging was made to hold exactly these ranges.
            let part = &bytes[*at as usize..(*at + *len) as usize];
            let shape = &self.graph.node(id).shape;
            out.push(match self.graph.node(id).dtype {
                DType::U32 => HostTensor::u32(shape, bytemuck::pod_collect_to_vec(part))?,
                _ => HostTensor::f32(shape, bytemuck::pod_collect_to_vec(part))?,
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gpu;
    use crate::weights::upload;
    use half::{bf16, f16};
    use mils_graph::{Activation, Backend, Linear};
    use mils_shaders::{Gemm, Kernel, Stored};

    /// The GPU, unless it is to be left out. Not the one that mils-tests opens, which is of this crate without tests.
    fn gpu() -> Option<Gpu> {
        (!mils_tests::skips_gpu()).then(|| Gpu::open().unwrap())
    }

    /// A device that allows less than it does.
    fn limited(set: impl FnOnce(&mut wgpu::Limits)) -> Option<Gpu> {
        let mut gpu = gpu()?;
        set(&mut Arc::get_mut(&mut gpu.shared).unwrap().limits);
        Some(gpu)
    }

    fn normalize(rows: usize) -> (Graph, HostTensor) {
        let mut g = Graph::new();
        let x = g.input("x", &[rows, 2]).unwrap();
        let y = g.l2_normalize(x).unwrap();
        g.output(y);
        (g, HostTensor::f32(&[rows, 2], [3.0, 4.0].repeat(rows)).unwrap())
    }

    fn build(shared: &Arc<Shared>, graph: &Graph) -> Result<GpuProgram, BackendError> {
        GpuWeights::new(Arc::clone(shared), HashMap::new()).build(graph)
    }

    fn works(program: &mut GpuProgram, x: &HostTensor) {
        let out = program.run(std::slice::from_ref(x)).unwrap();
        let expected = [0.6, 0.8].repeat(x.shape()[0]);
        let worst = out[0].as_f32().unwrap().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{out:?}");
    }

    #[test]
    fn an_error_is_of_the_run_that_made_it() {
        let Some(gpu) = gpu() else { return };
        let (g, x) = normalize(1);
        let (mut broken, mut sound) = (build(&gpu.shared, &g).unwrap(), build(&gpu.shared, &g).unwrap());
        broken.staging.destroy();
        for _ in 0..2 {
            let error = broken.run(std::slice::from_ref(&x)).unwrap_err();
            assert!(matches!(&error, BackendError::Rejected { during, .. } if during == RUNNING), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
            works(&mut sound, &x);
        }
        works(&mut build(&gpu.shared, &g).unwrap(), &x);
    }

    #[test]
    fn a_program_works_again_after_an_error() {
        let Some(gpu) = gpu() else { return };
        let (g, x) = normalize(1);
        let mut program = build(&gpu.shared, &g).unwrap();
        // A mapped buffer cannot be copied into.
        program.staging.map_async(wgpu::MapMode::Read, .., |_| ());
        gpu.shared.wait("testing").unwrap();
        assert!(matches!(program.run(std::slice::from_ref(&x)), Err(BackendError::Rejected { .. })));
        program.staging.unmap();
        works(&mut program, &x);
    }

    #[test]
    fn an_error_outside_any_call_is_told_once() {
        let Some(gpu) = gpu() else { return };
        let (g, x) = normalize(1);
        let mut program = build(&gpu.shared, &g).unwrap();
        program.staging.unmap();
        let error = program.run(std::slice::from_ref(&x)).unwrap_err();
        assert!(error.to_string().contains("outside any call"), "{error}");
        works(&mut program, &x);
    }

    #[test]
    fn a_lost_device_is_told_as_such() {
        let Some(gpu) = gpu() else { return };
        let (g, x) = normalize(1);
        let mut program = build(&gpu.shared, &g).unwrap();
        works(&mut program, &x);
        gpu.shared.device.destroy();
        for _ in 0..2 {
            let error = program.run(std::slice::from_ref(&x)).unwrap_err();
            assert!(matches!(error, BackendError::Lost { .. }), "{error}");
        }
        assert!(matches!(build(&gpu.shared, &g).err(), Some(BackendError::Lost { .. })));
        assert!(matches!(gpu.load(vec![]).err(), Some(BackendError::Lost { .. })));
    }

    #[test]
    fn a_device_lost_between_calls_fails_a_compile_without_a_panic() {
        let Some(gpu) = gpu() else { return };
        gpu.shared.device.destroy();
        assert!(matches!(build(&gpu.shared, &normalize(1).0).err(), Some(BackendError::Lost { .. })));
    }

    #[test]
    fn a_kernel_that_failed_is_not_kept() {
        let Some(gpu) = gpu() else { return };
        let activation = mils_shaders::Activation::None;
        let gemm = Gemm { tile: 48, vec4: false, weight: Stored::F32, bias: false, residual: false, activation };
        for _ in 0..2 {
            let error = gpu.shared.pipeline(Kernel::Gemm(gemm)).err().unwrap();
            assert!(matches!(&error, BackendError::Rejected { during, .. } if during.contains("tile: 48")), "{error}");
        }
        assert!(gpu.shared.pipeline(Kernel::Gemm(Gemm { tile: 32, ..gemm })).is_ok());
    }

    #[test]
    fn what_is_too_large_to_bind_is_an_error_that_names_it() {
        let Some(gpu) = limited(|l| l.max_storage_buffer_binding_size = 100) else { return };
        let error = build(&gpu.shared, &normalize(13).0).err().unwrap();
        assert!(matches!(error, BackendError::Limit { needed: 104, limit: 100, unit: "bytes", .. }), "{error}");
        let weight = HostTensor::f32(&[26], vec![0.0; 26]).unwrap();
        let error = gpu.load(vec![("big".into(), weight)]).err().unwrap();
        assert!(error.to_string().contains("weight `big` takes 104 bytes"), "{error}");
        let (g, x) = normalize(12);
        works(&mut build(&gpu.shared, &g).unwrap(), &x);
    }

    fn named(table: &HostTensor) -> Vec<(String, HostTensor)> {
        vec![("table".to_owned(), table.clone())]
    }

    /// A table of this shape in f32, f16 and bf16.
    fn tables(shape: [usize; 2]) -> [HostTensor; 3] {
        let data = |i| i as f32 / 4.0 - 20.0;
        let n = 0..shape[0] * shape[1];
        [
            HostTensor::f32(&shape, n.clone().map(data).collect()).unwrap(),
            HostTensor::f16(&shape, n.clone().map(|i| f16::from_f32(data(i))).collect()).unwrap(),
            HostTensor::bf16(&shape, n.map(|i| bf16::from_f32(data(i))).collect()).unwrap(),
        ]
    }

    /// Looks up every row of a table, in runs of rows from all over it, and compares with the CPU.
    fn looks_up(gpu: &Gpu, table: &HostTensor, ids: usize) {
        let rows = table.shape()[0];
        let mut g = Graph::new();
        let weight = g.weight("table", table.shape()).unwrap();
        let input = g.index_input("ids", &[ids]).unwrap();
        let out = g.embedding(weight, input).unwrap();
        g.output(out);
        if table.dtype() == DType::F32 {
            let out = g.gather_rows(weight, input).unwrap();
            g.output(out);
        }
        let mut programs =
            [gpu as &dyn Backend, &mils_cpu::Cpu::new()].map(|b| b.load(named(table)).unwrap().compile(&g).unwrap());
        for first in 0..rows {
            let ids = (0..ids).map(|i| ((first + i * (rows / ids)) % rows) as u32).collect();
            let ids = [HostTensor::u32(g.shape(input), ids).unwrap()];
            let [found, expected] = programs.each_mut().map(|p| p.run(&ids).unwrap());
            assert_eq!(found, expected, "{:?} {:?}, rows {ids:?}", table.dtype(), table.shape());
        }
    }

    #[test]
    fn tables_larger_than_a_binding_are_looked_up_in_parts() {
        // With a limit of 35, whole words up to 32. 11 rows of 12 bytes go in twos. 11 of 6 bytes go in fives, so that
        // the second part begins within a word of the tensor. Rows of 32 bytes just fit. Of 16, two do.
        for (shape, ids, parts) in [([11, 3], 2, [6, 3, 3]), ([3, 8], 1, [3, 2, 2])] {
            for (table, parts) in tables(shape).iter().zip(parts) {
                let Some(gpu) = limited(|l| l.max_storage_buffer_binding_size = 35) else { return };
                assert_eq!(upload(&gpu.shared, named(table)).unwrap()["table"].parts.len(), parts);
                looks_up(&gpu, table, ids);
            }
        }
        for table in &tables([600, 3]) {
            let Some(gpu) = limited(|l| l.max_buffer_size = 2050) else { return };
            looks_up(&gpu, table, 80);
        }
    }

    #[test]
    fn what_lies_in_parts_is_for_lookups_only() {
        let Some(gpu) = limited(|l| l.max_storage_buffer_binding_size = 100) else { return };
        let [table, half, _] = tables([9, 6]);
        let weights = gpu.load(named(&table)).unwrap();
        let refused = |build: &dyn Fn(&mut Graph, ValueId) -> ValueId| {
            let mut g = Graph::new();
            let weight = g.weight("table", &[9, 6]).unwrap();
            let out = build(&mut g, weight);
            g.output(out);
            let error = weights.compile(&g).err().unwrap();
            assert!(error.to_string().starts_with("weight `table` takes 216 bytes, but"), "{error}");
            // In 16 bits it takes 108 bytes, for which one binding is too small, too.
            let error = gpu.load(named(&half)).unwrap().compile(&g).err().unwrap();
            assert!(
                matches!(error, BackendError::Limit { needed: 108, .. } | BackendError::HalfWeight { .. }),
                "{error}"
            );
        };
        refused(&|g, weight| {
            let x = g.input("x", &[1, 6]).unwrap();
            let op = Linear { x, weight, bias: None, activation: Activation::None, residual: None };
            g.linear(op).unwrap()
        });
        refused(&|g, table| {
            let ids = g.index_input("ids", &[2]).unwrap();
            let table = g.reshape(table, &[18, 3]).unwrap();
            g.embedding(table, ids).unwrap()
        });
        refused(&|_, table| table);
        // Rows that do not fit, either.
        let wide = tables([2, 26]);
        assert!(matches!(gpu.load(named(&wide[0])).err(), Some(BackendError::Limit { needed: 208, limit: 100, .. })));
        assert!(gpu.load(named(&wide[1])).is_ok());
    }

    #[test]
    fn outputs_together_may_be_too_large_where_each_is_not() {
        let Some(gpu) = limited(|l| l.max_buffer_size = 1000) else { return };
        let (mut g, x) = normalize(60);
        works(&mut build(&gpu.shared, &g).unwrap(), &x);
        g.output(g.outputs()[0]);
        g.output(g.outputs()[0]);
        let error = build(&gpu.shared, &g).err().unwrap();
        let read_back = |what: &str| what.contains("read back");
        assert!(matches!(&error, BackendError::Limit { what, needed: 1440, .. } if read_back(what)), "{error}");
    }

    #[test]
    fn grids_of_more_than_one_line_compute_everything() {
        let Some(gpu) = limited(|l| l.max_compute_workgroups_per_dimension = 3) else { return };
        let (g, x) = normalize(8);
        works(&mut build(&gpu.shared, &g).unwrap(), &x);
        let n = 5 * 256 + 7;
        let mut g = Graph::new();
        let a = g.input("a", &[n]).unwrap();
        let b = g.input("b", &[n]).unwrap();
        let sum = g.add(a, b).unwrap();
        g.output(sum);
        let ramp: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let ramp = HostTensor::f32(&[n], ramp).unwrap();
        let out = build(&gpu.shared, &g).unwrap().run(&[ramp.clone(), ramp]).unwrap();
        assert!(out[0].as_f32().unwrap().iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32));
        assert!(matches!(build(&gpu.shared, &normalize(10).0).err(), Some(BackendError::Limit { .. })));
    }

    #[test]
    fn graphs_and_weights_are_checked() {
        let Some(gpu) = gpu() else { return };
        let mut g = Graph::new();
        let x = g.input("x", &[1, 2]).unwrap();
        let weight = g.weight("w", &[3, 2]).unwrap();
        let op = Linear { x, weight, bias: None, activation: Activation::None, residual: None };
        let y = g.linear(op).unwrap();
        g.output(y);
        assert!(matches!(gpu.load(vec![]).unwrap().compile(&g).err(), Some(BackendError::MissingWeight(_))));
        let wrong = vec![("w".to_owned(), HostTensor::f32(&[2, 3], vec![0.0; 6]).unwrap())];
        assert!(matches!(gpu.load(wrong).unwrap().compile(&g).err(), Some(BackendError::Mismatch { .. })));
        let index = vec![("w".to_owned(), HostTensor::u32(&[3, 2], vec![0; 6]).unwrap())];
        assert!(matches!(gpu.load(index).err(), Some(BackendError::Mismatch { .. })));
        // A tensor without elements is loaded, and wanted by no graph.
        assert!(gpu.load(vec![("none".to_owned(), HostTensor::f32(&[0, 2], vec![]).unwrap())]).is_ok());
        let (mut long, x) = normalize(1);
        let far = long.l2_normalize(long.outputs()[0]).unwrap();
        let mut g = Graph::new();
        g.output(far);
        assert!(matches!(build(&gpu.shared, &g).err(), Some(BackendError::Graph(_))));
        works(&mut build(&gpu.shared, &normalize(1).0).unwrap(), &x);
    }
}

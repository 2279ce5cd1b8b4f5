//! Failures, limits and parts of weights, on a device.

use super::*;
use crate::cooperative::Use;
use crate::weights::upload;
use crate::{Activations, Gpu};
use half::{bf16, f16};
use mils_graph::{Activation, Backend, Bytes, Linear};
use mils_shaders::{Attention, Kernel};
use std::ops::Range;
use std::sync::Mutex;

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
    // More threads than a device gives.
    let attention = Attention { queries: 1 << 20, parts: 1, quads: 1 };
    for _ in 0..2 {
        let error = gpu.shared.pipeline(Kernel::Attention(attention)).err().unwrap();
        assert!(matches!(&error, BackendError::Rejected { during, .. } if during.contains("1048576")), "{error}");
    }
    assert!(gpu.shared.pipeline(Kernel::Attention(mils_shaders::ATTENTION[0])).is_ok());
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
            assert_eq!(upload(&gpu.shared, named(table)).unwrap()["table"].buffers.len(), parts);
            looks_up(&gpu, table, ids);
        }
    }
    for table in &tables([600, 3]) {
        let Some(gpu) = limited(|l| l.max_buffer_size = 2050) else { return };
        looks_up(&gpu, table, 80);
    }
}

/// A file in memory that writes down what is let go of it.
struct Mapped(Vec<f32>, Mutex<Vec<Range<usize>>>);

impl Bytes for Mapped {
    fn all(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn release(&self, range: Range<usize>) {
        self.1.lock().unwrap().push(range);
    }
}

#[test]
fn weights_that_are_uploaded_are_let_go_of() {
    let Some(gpu) = gpu() else { return };
    let file = Arc::new(Mapped((0..40).map(|i| i as f32).collect(), Mutex::default()));
    let bytes: Arc<dyn Bytes> = file.clone();
    let table = HostTensor::shared(DType::F32, &[6, 3], &bytes, 16..88).unwrap();
    assert!(table.is_lent());
    let weights = gpu.load(named(&table)).unwrap();
    assert_eq!(file.1.lock().unwrap().as_slice(), std::slice::from_ref(&(16..88)));
    // What is on the device is the whole of it.
    let mut g = Graph::new();
    let table = g.weight("table", &[6, 3]).unwrap();
    let ids = g.index_input("ids", &[2]).unwrap();
    let rows = g.embedding(table, ids).unwrap();
    g.output(rows);
    let ids = HostTensor::u32(&[2], vec![5, 0]).unwrap();
    let out = weights.compile(&g).unwrap().run(&[ids]).unwrap();
    assert_eq!(out[0].as_f32().unwrap(), [19.0, 20.0, 21.0, 4.0, 5.0, 6.0]);
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
        assert!(matches!(error, BackendError::Limit { needed: 108, .. } | BackendError::HalfWeight { .. }), "{error}");
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

/// Every tile and every weight's type, whatever this device would choose.
#[test]
fn products_are_the_same_by_every_tile() {
    use crate::choose::{Class, tile};
    let mut tiles = std::collections::HashSet::new();
    for class in [Class::Large, Class::Small, Class::Software] {
        for (m, n, k) in [(5, 12, 8), (100, 204, 36), (400, 3072, 20)] {
            if !tiles.insert(tile(m, n, k, class, None)) {
                continue;
            }
            let Some(mut gpu) = gpu() else { return };
            Arc::get_mut(&mut gpu.shared).unwrap().class = class;
            let data = |n: usize| (0..n).map(|i| (i * 7919 % 1999) as f32 / 999.0 - 1.0).collect::<Vec<_>>();
            let mut g = Graph::new();
            let x = g.input("x", &[m, k]).unwrap();
            let weight = g.weight("w", &[n, k]).unwrap();
            let bias = Some(g.weight("b", &[n]).unwrap());
            let residual = Some(g.input("r", &[m, n]).unwrap());
            let y = g.linear(Linear { x, weight, bias, activation: Activation::Gelu, residual }).unwrap();
            g.output(y);
            let inputs =
                [HostTensor::f32(&[m, k], data(m * k)).unwrap(), HostTensor::f32(&[m, n], data(m * n)).unwrap()];
            let wide = data(n * k);
            let held = [
                HostTensor::f32(&[n, k], wide.clone()).unwrap(),
                HostTensor::f16(&[n, k], wide.iter().map(|&v| f16::from_f32(v)).collect()).unwrap(),
                HostTensor::bf16(&[n, k], wide.iter().map(|&v| bf16::from_f32(v)).collect()).unwrap(),
            ];
            for weight in held {
                let what = format!("{m} x {n} x {k} as for {class:?}, {:?}", weight.dtype());
                let bias = HostTensor::f32(&[n], data(n)).unwrap();
                let weights = vec![("w".to_owned(), weight), ("b".to_owned(), bias)];
                let [found, expected] = [&gpu as &dyn Backend, &mils_cpu::Cpu::new()].map(|backend| {
                    backend.load(weights.clone()).unwrap().compile(&g).unwrap().run(&inputs).unwrap().swap_remove(0)
                });
                let pairs = found.as_f32().unwrap().iter().zip(expected.as_f32().unwrap());
                let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{what}: differs by {worst}");
            }
        }
    }
    assert_eq!(tiles.len(), 3, "{tiles:?}");
}

/// On cooperative matrices and without, with ends of blocks in every direction and every epilogue.
#[test]
fn products_are_the_same_on_cooperative_matrices() {
    if mils_tests::skips_gpu() {
        return;
    }
    let [with, without] = [Use::On, Use::Off].map(|u| Gpu::open_as(Activations::F16, u).unwrap());
    let Some(matrices) = with.cooperative() else {
        eprintln!("{} has none that fit: COOPERATIVE MATRICES ARE NOT TESTED", with.name());
        return;
    };
    assert!(without.cooperative().is_none());
    let data = |n: usize, by: usize| (0..n).map(|i| (i * by % 1999) as f32 / 999.0 - 1.0).collect::<Vec<_>>();
    for (i, (m, n, k)) in [(32, 4, 4), (64, 64, 64), (65, 68, 36), (130, 100, 260)].into_iter().enumerate() {
        for activation in [Activation::None, Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh] {
            for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut g = Graph::new();
                let x = g.input("x", &[m, k]).unwrap();
                let r = g.input("r", &[m, n]).unwrap();
                let weight = g.weight("w", &[n, k]).unwrap();
                let b = g.weight("b", &[n]).unwrap();
                let (bias, residual) = (bias.then_some(b), residual.then_some(r));
                let y = g.linear(Linear { x, weight, bias, activation, residual }).unwrap();
                g.output(y);
                let inputs = [(m, k, 7919), (m, n, 6841)]
                    .map(|(rows, width, by)| HostTensor::f32(&[rows, width], data(rows * width, by)).unwrap());
                let weights = vec![
                    ("w".to_owned(), HostTensor::f32(&[n, k], data(n * k, 7 + 2 * i)).unwrap()),
                    ("b".to_owned(), HostTensor::f32(&[n], data(n, 17)).unwrap()),
                ];
                let [found, expected] = [&with, &without].map(|gpu| {
                    let held = upload(&gpu.shared, weights.clone()).unwrap();
                    let mut program = GpuWeights::new(Arc::clone(&gpu.shared), held).build(&g).unwrap();
                    let used = program.dispatches[0].kernel.cooperative();
                    assert_eq!(used, gpu.cooperative(), "the kernel that is meant is not run");
                    program.run(&inputs).unwrap().swap_remove(0)
                });
                let (found, expected) = (found.as_f32().unwrap(), expected.as_f32().unwrap());
                let scale = expected.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
                let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Sums of another order may round to the neighbouring f16.
                let what = format!("{matrices:?}, {m} x {n} x {k}, {activation:?}, {bias:?}, {residual:?}");
                assert!(worst <= 1e-3 * scale && found.iter().all(|v| v.is_finite()), "{what}: differs by {worst}");
            }
        }
    }
}

#[test]
fn a_device_that_does_not_answer_is_lost() {
    let Some(mut gpu) = gpu() else { return };
    Arc::get_mut(&mut gpu.shared).unwrap().faults.patience = std::time::Duration::ZERO;
    // Enough to be busy with for longer than no time.
    let (g, x) = normalize(1 << 18);
    let mut program = build(&gpu.shared, &g).unwrap();
    for _ in 0..2 {
        let error = program.run(std::slice::from_ref(&x)).unwrap_err();
        assert!(matches!(&error, BackendError::Lost { reason, .. } if reason.contains("no answer")), "{error}");
    }
    gpu.shared.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
}

#[test]
fn a_timed_run_gives_the_same_and_says_how_long_each_kernel_took() {
    let Some(gpu) = gpu() else { return };
    let (g, x) = normalize(1 << 12);
    let mut program = build(&gpu.shared, &g).unwrap();
    let plain = program.run(std::slice::from_ref(&x)).unwrap();
    let (timed, work) = program.profile(std::slice::from_ref(&x)).unwrap();
    assert_eq!(plain, timed);
    let [kernel] = &work.kernels[..] else { panic!("{work:?}") };
    assert_eq!((kernel.dispatches, kernel.cost), (1, g.node_cost(1, |_| 4)));
    if gpu.shared.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        let seconds = kernel.seconds.unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    }
    works(&mut program, &x);
}

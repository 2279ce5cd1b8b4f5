//! The device: its buffers and pipelines, within its limits.

use crate::adapter::{self, AdapterKind, GpuError, Opened};
use crate::cache::Cache;
use crate::choose::Class;
use crate::cooperative::{self, Use};
use crate::fault::Faults;
use crate::program::GpuWeights;
use crate::weights::upload;
use mils_graph::{Backend, BackendError, HostTensor, WeightSet, check_weights};
use mils_shaders::{Binding, Cooperative, Element, Kernel};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// An error if more is needed than the device allows.
pub(crate) fn within(what: &str, needed: u64, limit: u64, unit: &'static str) -> Result<(), BackendError> {
    if needed <= limit { Ok(()) } else { Err(BackendError::Limit { what: what.to_owned(), needed, limit, unit }) }
}

/// How activations, and weights that come in f32, are held on the device. All is computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activations {
    /// In f32.
    #[default]
    F32,
    /// In f16: half the memory and half the traffic, and three decimals of each number. Needs a device with f16.
    F16,
}

impl Activations {
    pub(crate) fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
        }
    }
}

/// A GPU as a backend.
pub struct Gpu {
    pub(crate) shared: Arc<Shared>,
    info: wgpu::AdapterInfo,
}

/// What programs share.
pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    pub(crate) class: Class,
    /// How activations lie.
    pub(crate) element: Element,
    /// Cooperative matrices that products use.
    pub(crate) cooperative: Option<Cooperative>,
    pub(crate) faults: Faults,
    pipelines: Mutex<HashMap<Kernel, Pipeline>>,
    cache: Option<Cache>,
}

/// A compiled kernel.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Gpu {
    /// Opens the best adapter that gives a device: discrete before integrated before virtual before software.
    ///
    /// `WGPU_ADAPTER_NAME` narrows the choice to adapters with this in their name, whatever its case, and
    /// `WGPU_BACKEND` to these APIs (`vulkan`, `metal`, `dx12`, with commas). Compiled kernels are kept in the user's cache
    /// folder where the driver gives them; `MILS_PIPELINE_CACHE` names another folder, or is `off`.
    ///
    /// # Errors
    /// If there is no adapter, or none can be used; then the error lists what was tried and why not.
    pub fn open() -> Result<Self, GpuError> {
        Self::open_with(Activations::F32)
    }

    /// As [`Gpu::open`], with activations held like this where the adapter can do it, and in f32 where it cannot:
    /// [`Gpu::activations`] tells.
    ///
    /// In f16, products are computed on cooperative matrices (NVIDIA's tensor cores and their like) where the adapter has
    /// a kind that fits, it is no software driver, and a product that is tried out on them is right. `MILS_COOPERATIVE` is
    /// `off` to do without, or `on` to use a software driver's too.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_with(activations: Activations) -> Result<Self, GpuError> {
        Self::open_as(activations, Use::by_environment())
    }

    pub(crate) fn open_as(activations: Activations, matrices: Use) -> Result<Self, GpuError> {
        // Products in f32 have no use for them: their factors would be rounded.
        let matrices = if activations == Activations::F16 { matrices } else { Use::Off };
        let Opened { device, queue, limits, info, cooperative } = adapter::open(matrices)?;
        let class = Class::of(AdapterKind::of(&info));
        let faults = Faults::watch(&device, class.patience());
        let cache = Cache::open(&device, &info);
        let has_f16 = device.features().contains(wgpu::Features::SHADER_F16);
        let element = if has_f16 { activations.element() } else { Element::F32 };
        let cooperative = cooperative.filter(|_| has_f16);
        let pipelines = Mutex::default();
        let shared = Shared { device, queue, limits, class, element, cooperative, faults, pipelines, cache };
        let gpu = Self { shared: Arc::new(shared), info };
        if cooperative.is_some() && !cooperative::works(&gpu) {
            // The device may have been lost on the way.
            return Self::open_as(activations, Use::Off);
        }
        Ok(gpu)
    }

    /// The cooperative matrices that products are computed on, if any.
    pub fn cooperative(&self) -> Option<Cooperative> {
        self.shared.cooperative
    }

    /// How activations are held.
    pub fn activations(&self) -> Activations {
        match self.shared.element {
            Element::F32 => Activations::F32,
            Element::F16 => Activations::F16,
        }
    }

    /// What it is.
    pub fn kind(&self) -> AdapterKind {
        AdapterKind::of(&self.info)
    }

    /// Whether this is a driver that computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind() == AdapterKind::Software
    }
}

impl Backend for Gpu {
    fn name(&self) -> String {
        adapter::name(&self.info)
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        check_weights(&weights)?;
        let held = upload(&self.shared, weights)?;
        Ok(Box::new(GpuWeights::new(Arc::clone(&self.shared), held)))
    }
}

impl Shared {
    /// Does `work`; the device's errors meanwhile are this call's.
    pub(crate) fn scope<T>(
        &self,
        during: &str,
        work: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.faults.scope(&self.device, during, work)
    }

    /// Waits until the GPU has done all that was submitted.
    pub(crate) fn wait(&self, during: &str) -> Result<(), BackendError> {
        self.faults.wait(&self.device, during)
    }

    /// Bytes of the largest buffer of whole words that can be had and bound whole.
    pub(crate) fn largest_binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size) / 4 * 4
    }

    /// Whether a buffer of this size can be had and bound whole.
    pub(crate) fn fits_binding(&self, what: &str, bytes: u64) -> Result<(), BackendError> {
        within(what, bytes, self.largest_binding(), "bytes")
    }

    /// Whether a buffer of this size can be had.
    pub(crate) fn fits_buffer(&self, what: &str, bytes: u64) -> Result<(), BackendError> {
        within(what, bytes, self.limits.max_buffer_size, "bytes")
    }

    /// A storage buffer of at least one element.
    pub(crate) fn buffer(&self, label: &str, bytes: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.max(4),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }

    /// Writes bytes from the buffer's beginning on. An odd number of halves ends within a word, but only words can be
    /// written.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, data: &[u8]) {
        let (words, rest) = data.as_chunks::<4>();
        self.queue.write_buffer(buffer, 0, words.as_flattened());
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, words.len() as u64 * 4, &last);
        }
    }

    /// A uniform buffer with these bytes.
    pub(crate) fn uniform(&self, bytes: &[u8]) -> wgpu::Buffer {
        // Not `create_buffer_init`, which panics where the buffer cannot be had.
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// The kernel, compiled the first time it is asked for.
    pub(crate) fn pipeline(&self, kernel: Kernel) -> Result<Pipeline, BackendError> {
        let mut all = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = all.get(&kernel) {
            return Ok(made.clone());
        }
        // Kept only if it was made: one that failed for want of memory may be made later.
        let made = self.scope(&format!("compiling the kernel {kernel:?}"), || Ok(self.compile(kernel)))?;
        all.insert(kernel, made.clone());
        Ok(made)
    }

    /// Compiles WGSL of ours. wgpu would make every loop count its rounds, so that none is endless, and drivers do not
    /// unroll such loops: the registers that the kernels count on would be memory.
    #[expect(unsafe_code, reason = "the loops of our own shaders end")]
    fn module(&self, label: &str, source: &str) -> wgpu::ShaderModule {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        // SAFETY: what is not checked is that loops end. The source is one of mils-shaders' own, whose loops all count
        // up, or halve down, to an end that is fixed before they begin. All accesses stay checked.
        unsafe { self.device.create_shader_module_trusted(descriptor, checks) }
    }

    /// Keeps what was compiled, for the next time the program runs.
    pub(crate) fn keep_pipelines(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }

    fn compile(&self, kernel: Kernel) -> Pipeline {
        // What is probed does not depend on how activations lie.
        let element = if let Kernel::Probe(p) = kernel { p.element() } else { self.element };
        self.compile_source(&format!("{kernel:?}"), &kernel.source(element), kernel.interface(element).bindings)
    }

    /// WGSL of ours with the entry point `main`.
    pub(crate) fn compile_source(&self, label: &str, source: &str, bindings: &[Binding]) -> Pipeline {
        let module = self.module(label, source);
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(bindings)
            .map(|(binding, kind)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        Binding::Uniform => wgpu::BufferBindingType::Uniform,
                        Binding::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Binding::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: *kind == Binding::Uniform,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: self.cache.as_ref().map(|cache| &cache.pipelines),
        });
        Pipeline { pipeline, layout }
    }
}

//! The adapter and device: which one, with what limits, and how their failures become errors.

use crate::program::GpuWeights;
use mils_graph::{Backend, BackendError, HostTensor, WeightSet};
use mils_shaders::{Binding, Kernel};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::util::DeviceExt as _;

/// Why there is no GPU to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No driver offers an adapter.
    #[error("no GPU was found; install its Vulkan driver (mesa-vulkan-drivers has a software one), or use the CPU")]
    NoAdapter,
    /// The adapter cannot run compute shaders.
    #[error("{0} cannot run compute shaders")]
    NoCompute(String),
    /// The driver refused.
    #[error("{adapter} refused a device: {problem}")]
    Device {
        /// The adapter.
        adapter: String,
        /// The driver's words.
        problem: String,
    },
}

/// Bytes of weights that may wait for their upload.
const MOST_STAGED: u64 = 256 << 20;

/// A GPU as a backend.
pub struct Gpu {
    shared: Arc<Shared>,
    info: wgpu::AdapterInfo,
}

/// What programs share.
pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    /// The first failure that wgpu reported outside a call's own result.
    failure: Arc<Mutex<Option<String>>>,
    pipelines: Mutex<HashMap<Kernel, Pipeline>>,
}

/// A compiled kernel.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

fn note(failure: &Mutex<Option<String>>, text: String) {
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
}

impl Gpu {
    /// Opens the best adapter: discrete before integrated before virtual before software.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened.
    pub fn open() -> Result<Self, GpuError> {
        pollster::block_on(Self::open_async())
    }

    async fn open_async() -> Result<Self, GpuError> {
        let mut setup = wgpu::InstanceDescriptor::new_without_display_handle();
        setup.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let instance = wgpu::Instance::new(setup);
        let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        adapters.sort_by_key(|a| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        });
        let adapter = adapters.into_iter().next().ok_or(GpuError::NoAdapter)?;
        let info = adapter.get_info();
        if !adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
            return Err(GpuError::NoCompute(info.name));
        }
        let limits = adapter.limits();
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("mils"),
                required_limits: limits.clone(),
                memory_hints: wgpu::MemoryHints::Performance,
                ..wgpu::DeviceDescriptor::default()
            })
            .await
            .map_err(|e| GpuError::Device { adapter: info.name.clone(), problem: e.to_string() })?;
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        let (errors, lost) = (Arc::clone(&failure), Arc::clone(&failure));
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| note(&errors, one_line(&e.to_string()))));
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&lost, format!("the GPU was lost ({})", one_line(&message)));
            }
        });
        let pipelines = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { device, queue, limits, failure, pipelines }), info })
    }

    /// Whether this is a driver that computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Backend for Gpu {
    fn name(&self) -> String {
        format!("{} ({:?})", self.info.name, self.info.backend)
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        let mut buffers = HashMap::new();
        let mut staged = 0;
        for (name, tensor) in weights {
            let Some(data) = tensor.as_f32() else { continue };
            let bytes = (data.len() * 4) as u64;
            self.shared.fits(&name, bytes)?;
            let buffer = self.shared.buffer(&name, bytes);
            self.shared.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
            // The queue keeps a copy of everything written until it is submitted and done: let go of it now and then, or a
            // large model would need its memory twice.
            staged += bytes;
            if staged >= MOST_STAGED {
                staged = 0;
                self.shared.queue.submit([]);
                let polled = self.shared.device.poll(wgpu::PollType::wait_indefinitely());
                polled.map_err(|e| BackendError::Device(format!("uploading weights: {e}")))?;
            }
            self.shared.check()?;
            buffers.insert(name, (tensor.shape().to_vec(), buffer));
        }
        self.shared.queue.submit([]);
        self.shared.check()?;
        Ok(Box::new(GpuWeights::new(Arc::clone(&self.shared), buffers)))
    }
}

impl Shared {
    /// The first failure so far, as an error.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map_or(Ok(()), |text| Err(BackendError::Device(text.clone())))
    }

    /// Whether a buffer of this size can be bound.
    pub(crate) fn fits(&self, name: &str, bytes: u64) -> Result<(), BackendError> {
        let limit = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        if bytes <= limit {
            return Ok(());
        }
        Err(BackendError::Device(format!(
            "`{name}` takes {bytes} bytes, but this GPU binds at most {limit}; use the CPU backend"
        )))
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

    pub(crate) fn uniform(&self, bytes: &[u8]) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("parameters"),
            contents: bytes,
            usage: wgpu::BufferUsages::UNIFORM,
        })
    }

    /// The kernel, compiled the first time it is asked for.
    pub(crate) fn pipeline(&self, kernel: Kernel) -> Pipeline {
        let mut all = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(kernel).or_insert_with(|| self.compile(kernel)).clone()
    }

    fn compile(&self, kernel: Kernel) -> Pipeline {
        let label = format!("{kernel:?}");
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
        });
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(kernel.interface().bindings)
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
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

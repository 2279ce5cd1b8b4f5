//! Which adapter: the best that opens, and what was wrong with the others.

use mils_shaders::{Binding, Kernel, MOST_WORKGROUP_MEMORY};
use wgpu::{Adapter, AdapterInfo, Backends, DeviceType, DownlevelFlags, Limits};

/// An adapter that was tried in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Its name and API.
    pub adapter: String,
    /// What it lacks, or the driver's words.
    pub problem: String,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No driver offers an adapter.
    #[error("no GPU was found; install its Vulkan driver (mesa-vulkan-drivers has a software one), or use the CPU")]
    NoAdapter,
    /// `WGPU_ADAPTER_NAME` is part of no adapter's name.
    #[error("WGPU_ADAPTER_NAME asks for `{wanted}`, but there is only: {}", found.join("; "))]
    NotNamed {
        /// What was asked for.
        wanted: String,
        /// The names of all adapters.
        found: Vec<String>,
    },
    /// Adapters were found, but none could be used; in the order in which they were tried.
    #[error("no GPU could be used: {}", list(.0))]
    Refused(Vec<Refusal>),
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(|r| format!("{}: {}", r.adapter, r.problem)).collect::<Vec<_>>().join("; ")
}

/// A device and what it was opened with.
pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: Limits,
    pub(crate) info: AdapterInfo,
}

/// Opens the best adapter that gives a device.
pub(crate) fn open() -> Result<Opened, GpuError> {
    let mut setup = wgpu::InstanceDescriptor::new_without_display_handle();
    setup.backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    // WGPU_BACKEND and wgpu's other variables.
    let instance = wgpu::Instance::new(setup.with_env());
    let found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    let found = found.into_iter().map(|a| (a.get_info(), a)).collect();
    let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default();
    first_that_opens(candidates(found, &wanted)?, |(info, adapter)| request(info, &adapter))
}

pub(crate) fn name(info: &AdapterInfo) -> String {
    format!("{} ({:?})", info.name, info.backend)
}

/// The adapters whose names hold `wanted`, whatever its case, best first.
fn candidates<A>(found: Vec<(AdapterInfo, A)>, wanted: &str) -> Result<Vec<(AdapterInfo, A)>, GpuError> {
    if found.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    let names: Vec<String> = found.iter().map(|(info, _)| name(info)).collect();
    let lower = wanted.to_lowercase();
    let mut fit: Vec<_> = found.into_iter().filter(|(info, _)| info.name.to_lowercase().contains(&lower)).collect();
    if fit.is_empty() {
        return Err(GpuError::NotNamed { wanted: wanted.to_owned(), found: names });
    }
    fit.sort_by_key(|(info, _)| match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    Ok(fit)
}

fn first_that_opens<A, T>(
    candidates: Vec<(AdapterInfo, A)>,
    mut open: impl FnMut((AdapterInfo, A)) -> Result<T, String>,
) -> Result<T, GpuError> {
    let mut refusals = Vec::new();
    for (info, adapter) in candidates {
        let name = name(&info);
        match open((info, adapter)) {
            Ok(opened) => return Ok(opened),
            Err(problem) => refusals.push(Refusal { adapter: name, problem }),
        }
    }
    Err(GpuError::Refused(refusals))
}

fn request(info: AdapterInfo, adapter: &Adapter) -> Result<Opened, String> {
    let limits = adapter.limits();
    if let Some(lack) = lack(adapter.get_downlevel_capabilities().flags, &limits) {
        return Err(lack);
    }
    let asked = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("mils"),
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        ..wgpu::DeviceDescriptor::default()
    });
    let (device, queue) = pollster::block_on(asked).map_err(|e| crate::fault::one_line(&e.to_string()))?;
    Ok(Opened { device, queue, limits, info })
}

/// What an adapter lacks to run the kernels.
fn lack(flags: DownlevelFlags, limits: &Limits) -> Option<String> {
    if !flags.contains(DownlevelFlags::COMPUTE_SHADERS) {
        return Some("it cannot run compute shaders".into());
    }
    let (mut threads, mut storage, mut wide) = (0, 0, 0);
    for kernel in Kernel::all() {
        let interface = kernel.interface();
        threads = threads.max(interface.workgroup_size.iter().product());
        wide = wide.max(interface.workgroup_size[0]);
        storage = storage.max(interface.bindings.iter().filter(|b| **b != Binding::Uniform).count());
    }
    let needs = [
        ("threads in a workgroup", limits.max_compute_invocations_per_workgroup, threads),
        ("threads along x", limits.max_compute_workgroup_size_x, wide),
        ("storage buffers in a shader", limits.max_storage_buffers_per_shader_stage, storage as u32),
        ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, MOST_WORKGROUP_MEMORY),
    ];
    let (what, has, needed) = needs.into_iter().find(|(_, has, needed)| has < needed)?;
    Some(format!("it allows {has} {what}, but {needed} are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(types: &[(&str, DeviceType)]) -> Vec<(AdapterInfo, usize)> {
        let info = |&(name, device_type): &(&str, DeviceType)| {
            let mut info = AdapterInfo::new(device_type, wgpu::Backend::Vulkan);
            info.name = name.to_owned();
            info
        };
        types.iter().map(info).zip(0..).collect()
    }

    const FOUR: [(&str, DeviceType); 4] = [
        ("llvmpipe", DeviceType::Cpu),
        ("Small GPU", DeviceType::IntegratedGpu),
        ("Virtual GPU", DeviceType::VirtualGpu),
        ("Large GPU", DeviceType::DiscreteGpu),
    ];

    #[test]
    fn the_best_that_opens_is_taken() {
        let mut tried = Vec::new();
        let opened = first_that_opens(candidates(adapters(&FOUR), "").unwrap(), |(_, at)| {
            tried.push(at);
            if at == 2 { Ok("opened") } else { Err("no".into()) }
        });
        assert_eq!((opened, tried), (Ok("opened"), vec![3, 1, 2]), "discrete, integrated, virtual; no software");
    }

    #[test]
    fn an_error_lists_all_that_were_tried() {
        let all = candidates(adapters(&FOUR), "").unwrap();
        let error = first_that_opens(all, |(_, at)| Err::<(), _>(format!("reason {at}"))).unwrap_err();
        let text = error.to_string();
        for part in ["Large GPU (Vulkan): reason 3; Small GPU (Vulkan): reason 1", "llvmpipe (Vulkan): reason 0"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(error, GpuError::Refused(list) if list.len() == 4));
    }

    #[test]
    fn a_name_narrows_the_choice() {
        let named = candidates(adapters(&FOUR), "GPU").unwrap();
        assert_eq!(named.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(candidates(adapters(&FOUR), "LLVM").unwrap()[0].1, 0);
        let error = candidates(adapters(&FOUR), "other").unwrap_err();
        assert!(error.to_string().contains("`other`") && error.to_string().contains("Small GPU"), "{error}");
        assert_eq!(candidates(adapters(&[]), "other").unwrap_err(), GpuError::NoAdapter);
    }

    #[test]
    fn adapters_that_cannot_run_the_kernels_are_told_so() {
        let compute = DownlevelFlags::COMPUTE_SHADERS;
        assert_eq!(lack(compute, &Limits::default()), None);
        assert!(lack(DownlevelFlags::empty(), &Limits::default()).is_some());
        let small = Limits { max_compute_workgroup_storage_size: 4096, ..Limits::default() };
        assert!(lack(compute, &small).unwrap().contains("allows 4096 bytes of workgroup memory"));
        let few = Limits { max_storage_buffers_per_shader_stage: 4, ..Limits::default() };
        assert!(lack(compute, &few).unwrap().contains("storage buffers"));
    }
}

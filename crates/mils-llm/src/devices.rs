//! The devices that llama.cpp was built for and finds.

use crate::engine::backend;
use crate::generator::LlamaError;
use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A graphics card.
    Gpu,
    /// A GPU that shares the CPU's memory.
    IntegratedGpu,
    /// The CPU, or what helps it.
    Cpu,
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Gpu => "GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::Cpu => "CPU",
        })
    }
}

/// A device as llama.cpp tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As llama.cpp calls it: `Vulkan0`.
    pub name: String,
    /// As people call it: `NVIDIA GeForce RTX 3080`.
    pub description: String,
    /// Through what: `Vulkan`, `CUDA`, `CPU`.
    pub api: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Bytes of memory.
    pub memory: u64,
    /// How many of them are free. The CPU's are those that the system says can be had.
    pub free: u64,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            DeviceKind::Cpu => f.write_str("the CPU"),
            _ => write!(f, "{} ({})", self.description, self.api),
        }
    }
}

/// What a generator may run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// A GPU, if llama.cpp was built for one and finds it; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU, whatever else there is.
    Cpu,
}

/// All devices. GPUs are there only where llama.cpp was built for them (the features `cuda`, `metal`, `rocm` and
/// `vulkan`).
///
/// # Errors
/// If llama.cpp cannot be set up.
pub fn devices() -> Result<Vec<Device>, LlamaError> {
    backend()?;
    let kind = |kind| match kind {
        LlamaBackendDeviceType::Gpu => DeviceKind::Gpu,
        LlamaBackendDeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        _ => DeviceKind::Cpu,
    };
    let mut all: Vec<Device> = list_llama_ggml_backend_devices()
        .into_iter()
        .map(|d| Device {
            name: d.name,
            description: d.description,
            api: d.backend,
            kind: kind(d.device_type),
            memory: d.memory_total as u64,
            free: d.memory_free as u64,
        })
        .collect();
    if let Some(available) = available_memory() {
        // llama.cpp says that all of it is free.
        all.iter_mut().filter(|d| d.kind == DeviceKind::Cpu).for_each(|d| d.free = d.free.min(available));
    }
    Ok(all)
}

/// The devices that a generator is put on, as llama.cpp chooses: all graphics cards, each a part of the layers; or one
/// integrated GPU; or the CPU.
pub fn chosen(devices: &[Device], placement: Placement) -> Vec<&Device> {
    let of = |kind: DeviceKind| devices.iter().filter(move |d| d.kind == kind);
    let gpus: Vec<&Device> = of(DeviceKind::Gpu).collect();
    match placement {
        Placement::Auto if !gpus.is_empty() => gpus,
        Placement::Auto if of(DeviceKind::IntegratedGpu).next().is_some() => {
            of(DeviceKind::IntegratedGpu).take(1).collect()
        }
        _ => of(DeviceKind::Cpu).take(1).collect(),
    }
}

/// Memory that programs can have without others being swapped out, where the system says it.
fn available_memory() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: DeviceKind) -> Device {
        Device { name: name.into(), description: String::new(), api: String::new(), kind, memory: 0, free: 0 }
    }

    #[test]
    fn all_cards_or_one_integrated_gpu_or_the_cpu() {
        let cpu = device("CPU", DeviceKind::Cpu);
        let (a, b) = (device("Vulkan0", DeviceKind::Gpu), device("Vulkan1", DeviceKind::Gpu));
        let (i, j) = (device("Vulkan2", DeviceKind::IntegratedGpu), device("Vulkan3", DeviceKind::IntegratedGpu));
        let names = |devices: &[&Device], placement| -> Vec<String> {
            let owned: Vec<Device> = devices.iter().map(|d| (*d).clone()).collect();
            chosen(&owned, placement).into_iter().map(|d| d.name.clone()).collect()
        };
        assert_eq!(names(&[&i, &a, &b, &cpu], Placement::Auto), ["Vulkan0", "Vulkan1"]);
        assert_eq!(names(&[&i, &j, &cpu], Placement::Auto), ["Vulkan2"]);
        assert_eq!(names(&[&cpu], Placement::Auto), ["CPU"]);
        assert_eq!(names(&[&i, &a, &cpu], Placement::Cpu), ["CPU"]);
    }

    #[test]
    fn there_is_always_a_cpu_with_memory() {
        let all = devices().unwrap();
        let cpu = all.iter().find(|d| d.kind == DeviceKind::Cpu).unwrap();
        assert!(cpu.free > 0 && cpu.free <= cpu.memory, "{all:?}");
    }
}

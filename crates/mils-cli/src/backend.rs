//! Where encoders run: what can be asked for, and what `auto` makes of the GPUs that there are.

use anyhow::{Result, bail};
use mils_cpu::{Cpu, Math};
use mils_gpu::{Activations, Gpu, GpuError};
use mils_graph::Backend;
use mils_llm::Placement;

/// Where the encoder runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// A real GPU if there is one, otherwise the CPU
    #[default]
    Auto,
    /// The GPU, also a software driver's
    Gpu,
    /// The CPU
    Cpu,
}

/// How the encoder computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MathChoice {
    /// In f32, whatever weights are held in: the reference's numbers
    #[default]
    Exact,
    /// In 16 bits where the device is faster with them: products of bf16 on a CPU that is quick at them, activations in
    /// f16 on a GPU that has them. Cosines change in the third decimal
    Fast,
}

/// A backend, and what people are told of it.
pub struct Opened {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// Its name, with the arithmetic where that is not f32.
    pub name: String,
    /// What was chosen and why.
    pub chosen: String,
    /// Whether it is the CPU itself.
    pub on_cpu: bool,
}

/// Why `auto` takes the CPU, if it does, by the name of the GPU that opens and whether that is a software driver's.
pub fn cpu_because(gpu: Result<(&str, bool), &GpuError>) -> Option<String> {
    match gpu {
        Ok((_, false)) => None,
        Ok((name, true)) => Some(format!("{name} is a software driver: the CPU backend is faster")),
        // Its own words are for those who asked for a GPU.
        Err(GpuError::NoAdapter) => Some("no GPU was found".into()),
        Err(error) => Some(error.to_string()),
    }
}

/// Opens a backend.
///
/// # Errors
/// If a GPU was asked for and there is none.
pub fn open_backend(choice: BackendChoice, math: MathChoice) -> Result<Opened> {
    let cpu = |why: &str| {
        let backend = Box::new(Cpu::with_math(if math == MathChoice::Fast { Math::fastest() } else { Math::F32 }));
        let name = backend.name();
        let chosen = format!("the CPU{}{why}", name.strip_prefix("cpu").unwrap_or_default());
        Opened { backend, name, chosen, on_cpu: true }
    };
    if choice == BackendChoice::Cpu {
        return Ok(cpu(""));
    }
    let gpu = Gpu::open_with(if math == MathChoice::Fast { Activations::F16 } else { Activations::F32 });
    let because = {
        let name = gpu.as_ref().map(Backend::name).unwrap_or_default();
        cpu_because(gpu.as_ref().map(|g| (&name[..], g.is_software())))
    };
    let opened = |gpu: Gpu, why: &str| {
        let f16 = if gpu.activations() == Activations::F16 { " (f16)" } else { "" };
        let name = format!("{}{f16}", gpu.name());
        Opened { chosen: format!("{name}{why}"), name, backend: Box::new(gpu), on_cpu: false }
    };
    match (gpu, because) {
        (Ok(gpu), None) => Ok(opened(gpu, "")),
        (_, Some(why)) if choice == BackendChoice::Auto => Ok(cpu(&format!(" ({why})"))),
        (Ok(gpu), Some(_)) => Ok(opened(gpu, ", a software driver: the CPU backend is faster")),
        (Err(error), _) => bail!("--backend gpu: {error}"),
    }
}

/// Where the language model may go: `cpu` is meant for it too. Whether there is a GPU for it is llama.cpp's to say.
pub fn generator_placement(choice: BackendChoice) -> Placement {
    match choice {
        BackendChoice::Cpu => Placement::Cpu,
        BackendChoice::Auto | BackendChoice::Gpu => Placement::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_why_it_takes_the_cpu() {
        assert_eq!(cpu_because(Ok(("A100 (Vulkan)", false))), None);
        assert!(cpu_because(Ok(("llvmpipe", true))).unwrap().starts_with("llvmpipe is a software driver"));
        assert_eq!(cpu_because(Err(&GpuError::NoAdapter)).unwrap(), "no GPU was found");
        let error = GpuError::NotNamed { wanted: "x".into(), found: vec!["A100 (Vulkan)".into()] };
        let why = cpu_because(Err(&error)).unwrap();
        assert!(why.contains("WGPU_ADAPTER_NAME") && why.contains("A100"), "{why}");
    }
}

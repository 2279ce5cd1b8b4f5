//! Where encoders run: what can be asked for, and what `auto` makes of the GPUs that there are.

use anyhow::{Result, bail};
use mils_cpu::Cpu;
use mils_gpu::{Gpu, GpuError};
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

/// Opens a backend. The second value says what was chosen and why, for people.
///
/// # Errors
/// If a GPU was asked for and there is none.
pub fn open_backend(choice: BackendChoice) -> Result<(Box<dyn Backend>, String)> {
    let cpu = |why: &str| -> (Box<dyn Backend>, String) { (Box::new(Cpu::new()), format!("the CPU{why}")) };
    if choice == BackendChoice::Cpu {
        return Ok(cpu(""));
    }
    let gpu = Gpu::open();
    let name = gpu.as_ref().map(Backend::name).unwrap_or_default();
    let because = cpu_because(gpu.as_ref().map(|g| (&name[..], g.is_software())));
    match (gpu, because) {
        (Ok(gpu), None) => Ok((Box::new(gpu), name)),
        (_, Some(why)) if choice == BackendChoice::Auto => Ok(cpu(&format!(" ({why})"))),
        (Ok(gpu), Some(_)) => Ok((Box::new(gpu), format!("{name}, a software driver: the CPU backend is faster"))),
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

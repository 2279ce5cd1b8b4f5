//! `mils devices`: the adapters, what became of each, and which one `auto` takes.

use crate::args::{DevicesArgs, DevicesFormat};
use crate::backend::cpu_because;
use anyhow::{Context, Result};
use mils_cpu::Cpu;
use mils_gpu::{Adapter, AdapterKind, Adapters, Verdict};
use mils_llm::{Device, DeviceKind, Placement};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;

/// Variables that narrow the choice.
const VARIABLES: [&str; 2] = ["WGPU_ADAPTER_NAME", "WGPU_BACKEND"];

const NO_GPU: &str = if cfg!(any(feature = "cuda", feature = "metal", feature = "rocm", feature = "vulkan")) {
    "no GPU was found by the back ends that this program was built with"
} else {
    "this program was built without GPU back ends for it (cargo features cuda, metal, rocm, vulkan)"
};

/// What there is to tell.
struct Devices {
    adapters: Adapters,
    /// The adapter that `auto` takes, by its place, or why it takes the CPU.
    auto: Result<usize, String>,
    threads: usize,
    /// The variables that are set.
    environment: Vec<(&'static str, String)>,
    /// llama.cpp's devices, and the names of those that the language model is put on.
    llama: Result<(Vec<Device>, Vec<String>), String>,
}

/// Runs the command.
///
/// # Errors
/// If the result cannot be printed.
pub fn run(args: &DevicesArgs) -> Result<ExitCode> {
    let adapters = Adapters::list();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let set = |name: &&'static str| Some((*name, std::env::var(name).ok()?));
    // Every name has an empty one in it; no API has an empty name.
    let in_force = |(name, value): &(&str, String)| *name != "WGPU_ADAPTER_NAME" || !value.is_empty();
    let environment = VARIABLES.iter().filter_map(set).filter(in_force).collect();
    let devices = Devices { auto: auto(&adapters), adapters, threads, environment, llama: llama() };
    let text = match args.format {
        DevicesFormat::Text => devices.text(),
        DevicesFormat::Json => devices.json().to_string(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the devices")?;
    Ok(ExitCode::SUCCESS)
}

/// As `open_backend` chooses.
fn auto(adapters: &Adapters) -> Result<usize, String> {
    let chosen = adapters.chosen();
    let name = chosen.as_ref().map(|a| a.full_name()).unwrap_or_default();
    match cpu_because(chosen.as_ref().map(|a| (&name[..], a.kind == AdapterKind::Software))) {
        Some(why) => Err(why),
        None => Ok(adapters.all().iter().position(|a| a.verdict == Verdict::Opens).unwrap_or_default()),
    }
}

/// As llama.cpp chooses.
fn llama() -> Result<(Vec<Device>, Vec<String>), String> {
    let all = mils_llm::devices().map_err(|e| e.to_string())?;
    let taken = mils_llm::chosen(&all, Placement::Auto).into_iter().map(|d| d.name.clone()).collect();
    Ok((all, taken))
}

impl Devices {
    fn text(&self) -> String {
        let mut out: Vec<String> = self.adapters.all().iter().map(adapter).collect();
        let bf16 = match (Cpu::has_bf16(), Cpu::bf16_is_faster()) {
            (_, true) => ", products of bf16 (--math fast)",
            (true, false) => ", products of bf16, which are slower than those of f32 (--math fast leaves them)",
            (false, false) => "",
        };
        out.push(format!("CPU, {} threads{bf16}", self.threads));
        out.push(self.llama_text());
        let taken = match &self.auto {
            Ok(at) => format!("{}: the first that opens", self.adapters.all()[*at].full_name()),
            Err(why) => format!("the CPU: {why}"),
        };
        let mut last = format!("--backend auto takes {taken}");
        for (name, value) in &self.environment {
            last += &format!("\n{name}={value} is in force");
        }
        out.push(last);
        out.join("\n\n")
    }

    /// The language model's part.
    fn llama_text(&self) -> String {
        let (all, taken) = match &self.llama {
            Ok(found) => found,
            Err(problem) => return format!("The language model: {problem}"),
        };
        let mut out = "The language model (llama.cpp)".to_owned();
        for d in all {
            let used = if taken.contains(&d.name) { ", taken" } else { "" };
            let (memory, free) = (bytes(d.memory), bytes(d.free));
            out += &format!("\n  {:<24}{}, {}: {memory}, {free} free{used}", d.name, d.description, d.kind);
        }
        if all.iter().all(|d| d.kind == DeviceKind::Cpu) {
            out += &format!("\n  {NO_GPU}");
        }
        out
    }

    fn llama_json(&self) -> Value {
        match &self.llama {
            Err(problem) => json!({"devices": [], "taken": [], "problem": problem}),
            Ok((all, taken)) => {
                let device = |d: &Device| {
                    json!({
                        "name": d.name, "description": d.description, "backend": d.api, "type": d.kind.to_string(),
                        "memory": d.memory, "free": d.free,
                    })
                };
                json!({"devices": all.iter().map(device).collect::<Vec<_>>(), "taken": taken, "problem": null})
            }
        }
    }

    fn json(&self) -> Value {
        let adapters: Vec<Value> = self.adapters.all().iter().map(adapter_json).collect();
        let auto = match &self.auto {
            Ok(at) => json!({"backend": "gpu", "adapter": at, "why": "the first that opens"}),
            Err(why) => json!({"backend": "cpu", "adapter": null, "why": why}),
        };
        let environment: serde_json::Map<String, Value> =
            self.environment.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "adapters": adapters, "cpu": {"threads": self.threads, "bf16": Cpu::has_bf16(), "bf16_is_faster": Cpu::bf16_is_faster()},
            "auto": auto, "environment": environment,
            "language_model": self.llama_json(),
        })
    }
}

/// A paragraph for an adapter.
fn adapter(a: &Adapter) -> String {
    let state = match &a.verdict {
        Verdict::Opens => "can be used".to_owned(),
        Verdict::Refused(problem) => format!("refused: {problem}"),
        Verdict::NotNamed => "left out: WGPU_ADAPTER_NAME is no part of its name".to_owned(),
    };
    let features = if a.features.is_empty() { "none".to_owned() } else { a.features.join(", ") };
    let rows = [
        ("type", a.kind.to_string()),
        ("driver", a.driver.clone()),
        ("largest buffer", bytes(a.limits.buffer)),
        ("largest binding", bytes(a.limits.storage_binding)),
        ("workgroup", format!("{}, {} threads", bytes(a.limits.workgroup_memory.into()), a.limits.workgroup_threads)),
        ("features used", features),
        ("state", state),
    ];
    let lines = rows.iter().map(|(name, value)| format!("\n  {name:<24}{value}"));
    std::iter::once(a.full_name()).chain(lines).collect()
}

fn adapter_json(a: &Adapter) -> Value {
    let (state, problem) = match &a.verdict {
        Verdict::Opens => ("usable", None),
        Verdict::Refused(problem) => ("refused", Some(problem)),
        Verdict::NotNamed => ("left out", None),
    };
    json!({
        "name": a.name, "backend": a.api, "type": a.kind.to_string(), "driver": a.driver,
        "limits": {
            "buffer": a.limits.buffer, "storage_binding": a.limits.storage_binding,
            "workgroup_memory": a.limits.workgroup_memory, "workgroup_threads": a.limits.workgroup_threads,
        },
        "features": a.features, "state": state, "problem": problem,
    })
}

/// In the largest unit that it is not a fraction of.
fn bytes(count: u64) -> String {
    let (unit, size) = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, size)| count >= *size)
        .unwrap_or(("bytes", 1));
    let number = format!("{:.1}", count as f64 / size as f64);
    format!("{} {unit}", number.trim_end_matches(".0"))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_for_people() {
        let all = [0, 512, 49_152, 134_217_728, 2_147_483_644, 4 << 30].map(bytes);
        assert_eq!(all, ["0 bytes", "512 bytes", "48 KiB", "128 MiB", "2 GiB", "4 GiB"]);
    }
}

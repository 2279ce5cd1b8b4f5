//! What the figures were measured on.

use serde::Serialize;
use std::fmt;

/// Features that decide how fast matrices are multiplied.
const FEATURES: [&str; 16] = [
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
];

/// The machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// Cores that there are for this process.
    pub cores: usize,
    /// Threads that everyone was given.
    pub threads: usize,
    /// Instruction sets that matter here, as far as the CPU has them.
    pub features: Vec<String>,
    /// GiB of memory.
    pub memory_gib: Option<f64>,
    /// Operating system and architecture.
    pub system: String,
    /// Processes that wanted to run at the start, mean of the last minute.
    pub load: Option<f64>,
}

impl Machine {
    /// Looks.
    pub fn look(threads: usize) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, meminfo, loadavg) = (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/proc/loadavg"));
        let cpu = value(&cpuinfo, "model name").map(str::to_owned).or_else(sysctl);
        let flags = value(&cpuinfo, "flags").or_else(|| value(&cpuinfo, "Features")).unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let kib = value(&meminfo, "MemTotal").and_then(|m| m.split_whitespace().next()?.parse::<f64>().ok());
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown CPU".into()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            threads,
            features: FEATURES.iter().filter(|f| flags.contains(f)).map(|f| (*f).to_owned()).collect(),
            memory_gib: kib.map(|k| k / f64::from(1 << 20)),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load: loadavg.split_whitespace().next().and_then(|l| l.parse().ok()),
        }
    }

    /// What to say if others were using the machine.
    pub fn busy(&self) -> Option<String> {
        let load = self.load.filter(|l| *l > 0.3 * self.cores as f64)?;
        Some(format!(
            "the machine is busy: {load:.2} processes wanted to run in the last minute, on {} cores; times will be too \
             long, and only ratios mean something",
            self.cores
        ))
    }
}

/// The value of the first line `name : value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|l| l.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// macOS has no /proc.
fn sysctl() -> Option<String> {
    let output = std::process::Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} of {} cores", self.cpu, self.threads.min(self.cores), self.cores)?;
        if let Some(gib) = self.memory_gib {
            write!(f, ", {gib:.0} GiB")?;
        }
        write!(f, ", {}", self.system)?;
        if !self.features.is_empty() {
            write!(f, "\n  {}", self.features.join(" "))?;
        }
        if let Some(load) = self.load {
            write!(f, "\n  load at the start {load:.2}")?;
        }
        Ok(())
    }
}

/// Peak and present memory of a process in bytes, where the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The most that was resident at once, file pages that are mapped included.
    pub peak: Option<u64>,
    /// Resident now and not of a file.
    pub anonymous: Option<u64>,
}

impl Memory {
    /// Of a process; `None` is this one.
    pub fn of(process: Option<u32>) -> Self {
        let path = process.map_or("/proc/self/status".into(), |id| format!("/proc/{id}/status"));
        Self::read(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn read(status: &str) -> Self {
        let bytes = |name| value(status, name)?.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024);
        Self { peak: bytes("VmHWM"), anonymous: bytes("RssAnon") }
    }
}

/// CPU seconds that a process has taken so far, where the system tells.
pub fn cpu_seconds(process: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    cpu_seconds_of(&stat)
}

fn cpu_seconds_of(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; the fields behind it are numbers.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // What Linux calls USER_HZ has been 100 for programs on all its architectures of today.
    Some(ticks / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let info = "processor\t: 0\nmodel name\t: Some CPU @ 2.0\nflags\t\t: fpu avx2 avx512_bf16\n";
        assert_eq!(value(info, "model name"), Some("Some CPU @ 2.0"));
        let status = "VmHWM:\t    1024 kB\nRssAnon:\t 8 kB\n";
        assert_eq!(Memory::read(status), Memory { peak: Some(1 << 20), anonymous: Some(8192) });
        assert_eq!(Memory::read(""), Memory::default());
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_seconds_of(stat), Some(2.0));
    }

    #[test]
    fn a_busy_machine_is_told() {
        let machine = |load| Machine { cores: 2, load: Some(load), ..Machine::default() };
        assert!(machine(1.5).busy().unwrap().contains("1.50"));
        assert_eq!(machine(0.2).busy(), None);
        assert_eq!(Machine::default().busy(), None);
    }

    #[test]
    fn this_machine_is_found() {
        let machine = Machine::look(1);
        assert!(machine.cores >= 1 && !machine.cpu.is_empty());
        assert!(machine.to_string().contains("1 of"));
    }
}

//! Where a GPU's time goes, kernel by kernel, and how near each comes to what the device can do at most: its roofline
//! (Williams, Waterman, Patterson 2009), by peaks that were measured on it.

use crate::harness::report::{aligned, time};
use mils_gpu::{Gpu, Peaks};
use mils_graph::{Backend, BackendError, KernelWork, Work};
use serde::Serialize;
use std::fmt;

/// The device, and the most that it was seen to do.
#[derive(Clone, Debug, Serialize)]
pub struct Roof {
    /// The adapter, and how activations lie on it.
    pub device: String,
    /// Floating-point operations a second in f32.
    pub flops: f64,
    /// The same of cooperative matrices.
    pub matrix_flops: Option<f64>,
    /// Bytes a second, read from memory.
    pub bytes: f64,
}

impl Roof {
    /// Measures a device.
    ///
    /// # Errors
    /// If it fails.
    pub fn of(gpu: &Gpu) -> Result<Self, BackendError> {
        let Peaks { flops, matrix_flops, bytes, .. } = gpu.peaks()?;
        let software = if gpu.is_software() { ", a software driver: peaks are of the CPU by its code" } else { "" };
        let device = format!("{}, activations in {:?}{software}", gpu.name(), gpu.activations());
        Ok(Self { device, flops, matrix_flops, bytes })
    }

    /// Seconds of a kernel's arithmetic and of its bytes, at the least.
    fn floors(&self, kernel: &KernelWork) -> [f64; 2] {
        let matrices = self.matrix_flops.filter(|_| kernel.kernel.ends_with("cooperative"));
        [kernel.cost.flops as f64 / matrices.unwrap_or(self.flops), kernel.cost.bytes() as f64 / self.bytes]
    }
}

/// The kernels of one kind in a run.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// The kernel.
    pub kernel: String,
    /// Its launches.
    pub dispatches: u64,
    /// Floating-point operations of products.
    pub flops: u64,
    /// Bytes, each operand once.
    pub bytes: u64,
    /// Bytes that its threads load and store.
    pub moved: u64,
    /// Seconds on the device, if it has timestamps.
    pub seconds: Option<f64>,
    /// What bounds it: `arithmetic` or `bytes`.
    pub bound: &'static str,
    /// The least seconds by its bound over those that it took: 1 is the roof. Above it where what one kernel wrote was
    /// still in a cache when the next read it.
    pub share: Option<f64>,
}

/// Where the time of a run went.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTable {
    /// A short name without spaces.
    pub id: String,
    /// For people.
    pub title: String,
    /// What it is held against.
    pub roof: Roof,
    /// The longest first.
    pub rows: Vec<KernelRow>,
}

impl KernelTable {
    /// Of what was done, by so many runs of the same.
    pub fn new(id: String, title: String, roof: Roof, work: &Work, runs: u32) -> Self {
        let each = |n: u64| n / u64::from(runs.max(1));
        let row = |k: &KernelWork| {
            let [arithmetic, bytes] = roof.floors(k);
            let seconds = k.seconds.filter(|s| *s > 0.0);
            KernelRow {
                kernel: k.kernel.clone(),
                dispatches: each(k.dispatches),
                flops: each(k.cost.flops),
                bytes: each(k.cost.bytes()),
                moved: each(k.moved),
                seconds: seconds.map(|s| s / f64::from(runs.max(1))),
                bound: if arithmetic > bytes { "arithmetic" } else { "bytes" },
                share: seconds.map(|s| arithmetic.max(bytes) / s),
            }
        };
        let mut rows: Vec<KernelRow> = work.kernels.iter().map(row).collect();
        rows.sort_by(|a, b| b.seconds.unwrap_or_default().total_cmp(&a.seconds.unwrap_or_default()));
        Self { id, title, roof, rows }
    }

    /// Seconds of all kernels.
    fn seconds(&self) -> f64 {
        self.rows.iter().filter_map(|r| r.seconds).sum()
    }
}

/// A number of this many units a second, with its unit.
fn rate(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value {
        v if v >= 1e12 => (v / 1e12, "T"),
        v if v >= 1e9 => (v / 1e9, "G"),
        v => (v / 1e6, "M"),
    };
    format!("{scaled:.1} {prefix}{unit}")
}

impl fmt::Display for KernelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roof = &self.roof;
        writeln!(f, "{}: kernels", self.title)?;
        writeln!(f, "  {}", roof.device)?;
        write!(f, "  peaks, measured: {} in f32, ", rate(roof.flops, "FLOP/s"))?;
        if let Some(matrices) = roof.matrix_flops {
            write!(f, "{} on cooperative matrices, ", rate(matrices, "FLOP/s"))?;
        }
        writeln!(f, "{} read", rate(roof.bytes, "B/s"))?;
        let head = ["", "launches", "time", "of all", "FLOP/s", "B/s", "moved/needed", "bound by", "of the roof"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        let (all, none) = (self.seconds(), || "-".to_owned());
        for r in &self.rows {
            let over = |n: u64, unit| r.seconds.map_or_else(none, |s| rate(n as f64 / s, unit));
            lines.push(vec![
                r.kernel.clone(),
                r.dispatches.to_string(),
                r.seconds.map_or_else(none, time),
                r.seconds.map_or_else(none, |s| format!("{:.1} %", 100.0 * s / all)),
                if r.flops > 0 { over(r.flops, "") } else { none() },
                over(r.bytes, ""),
                format!("{:.1}", r.moved as f64 / (r.bytes as f64).max(1.0)),
                r.bound.to_owned(),
                r.share.map_or_else(none, |share| format!("{:.1} %", 100.0 * share)),
            ]);
        }
        let mut text = String::new();
        aligned(&mut text, &lines);
        f.write_str(&text)?;
        if all > 0.0 {
            let floor: f64 = self.rows.iter().filter_map(|r| Some(r.share? * r.seconds?)).sum();
            writeln!(f, "  together {}, {:.1} % of the roof", time(all), 100.0 * floor / all)?;
        } else {
            writeln!(f, "  this device has no timestamps")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_graph::Cost;

    #[test]
    fn shares_are_of_what_bounds() {
        let roof = Roof { device: "a card".into(), flops: 1e12, matrix_flops: Some(1e13), bytes: 1e11 };
        let mut work = Work::default();
        let cost = |flops, read| Cost { flops, read, written: 0 };
        // Two runs of: 1 ms of arithmetic in 2 ms; a tenth of that on matrices, in 2 ms; 1 ms of bytes in 4 ms.
        for _ in 0..2 {
            work.add("product", 1, cost(1_000_000_000, 1_000_000), 5_000_000, Some(2e-3));
            work.add("product, cooperative", 1, cost(1_000_000_000, 1_000_000), 2_000_000, Some(2e-3));
            work.add("norm", 1, cost(0, 100_000_000), 300_000_000, Some(4e-3));
        }
        let table = KernelTable::new("x".into(), "eight images".into(), roof, &work, 2);
        let found: Vec<_> =
            table.rows.iter().map(|r| (&r.kernel[..], r.bound, (r.share.unwrap() * 1000.0).round())).collect();
        let expected =
            [("norm", "bytes", 250.0), ("product", "arithmetic", 500.0), ("product, cooperative", "arithmetic", 50.0)];
        assert_eq!(found, expected);
        assert_eq!((table.rows[0].dispatches, table.rows[0].seconds), (1, Some(4e-3)));
        let text = table.to_string();
        for part in
            ["1.0 TFLOP/s in f32", "10.0 TFLOP/s on coop", "100.0 GB/s read", "50.0 %", "3.0", "together 8.00 ms, 26."]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_device_without_timestamps_has_no_shares() {
        let roof = Roof { device: "a card".into(), flops: 1e12, matrix_flops: None, bytes: 1e11 };
        let mut work = Work::default();
        work.add("add", 1, Cost { flops: 0, read: 8, written: 4 }, 12, None);
        let table = KernelTable::new("x".into(), "one".into(), roof, &work, 1);
        assert!(table.rows[0].share.is_none() && table.to_string().contains("no timestamps"), "{table}");
    }
}

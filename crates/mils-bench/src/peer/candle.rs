//! The worker of candle: a Rust program beside this one, in a workspace of its own, built when it is asked for.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Its name.
pub const CANDLE: &str = "candle";

/// Where its sources are, and what they are built into.
#[derive(Clone, Debug)]
pub struct Candle {
    sources: PathBuf,
    target: PathBuf,
}

impl Default for Candle {
    fn default() -> Self {
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/candle");
        Self { sources, target: crate::bench::target().join("candle") }
    }
}

impl Candle {
    #[cfg(test)]
    pub(super) fn at(sources: PathBuf, target: PathBuf) -> Self {
        Self { sources, target }
    }

    fn program(&self) -> PathBuf {
        self.target.join("release/mils-bench-candle").with_extension(std::env::consts::EXE_EXTENSION)
    }

    /// Whether it was built before.
    pub fn is_built(&self) -> bool {
        self.program().is_file()
    }

    /// Builds what has changed since, all of it the first time, and says how to start it.
    ///
    /// # Errors
    /// If it cannot be built: one line.
    pub fn command(&self, threads: usize) -> Result<Command> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(&cargo);
        // From there, cargo finds the workspace's settings: candle too is built for this machine.
        build.args(["build", "--release", "--locked", "--quiet", "--target-dir"]).arg(&self.target);
        let built = build.current_dir(&self.sources).output().with_context(|| {
            format!("cannot start {} in {}", PathBuf::from(&cargo).display(), self.sources.display())
        })?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            let what = said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo does not say why");
            bail!("it does not build in {}: {what}", self.sources.display());
        }
        let mut command = Command::new(self.program());
        // It is how both rayon and candle are told.
        command.env("RAYON_NUM_THREADS", threads.to_string());
        Ok(command)
    }
}

//! `cargo xtask`: everything that is done to the project from outside. It depends on none of the heavy crates, so that
//! it starts on a machine where nothing is set up yet.

mod setup;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                      set up, build, caption the samples, draw, write reports
  cargo xtask test                      set up and run all tests
  cargo xtask test -p mils-optim        tests of one crate
  cargo xtask download-models small     download a model pack (see `mils models list`)
  cargo xtask conformance               the encoders against transformers and open_clip
  cargo xtask render-worker --vulkan    build and install the local renderer (see `mils-render-worker --help`)
  cargo xtask render-worker --check     build and test it, and install nothing
  cargo xtask bench quality --scenes 40 caption quality on held-out scenes, with controls
  cargo xtask bench encoders --peers    speed of the encoders beside ONNX Runtime, PyTorch and candle, where they are
  cargo xtask bench help                all benchmarks";

/// Tasks of the MILS workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the system packages that building and testing need
    Setup,
    /// Set up, build in release, and caption the bundled samples (pictures, videos, sounds) with the bundled models
    Demo,
    /// Set up and run all tests; further arguments go to cargo test
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Build in release, and download a model pack: what `mils models get` does
    DownloadModels {
        /// Its name [default: the one that suits this machine]; further arguments go to `mils models get`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PACK")]
        rest: Vec<String>,
    },
    /// Compare the encoders on every backend with what transformers and open_clip computed
    Conformance {
        /// A checkpoint beside the bundled ones: a folder, or an ID in the hub cache
        #[arg(long, value_name = "DIR|ID")]
        model: Option<String>,
        /// Its reference, which tests/conformance/make_reference.py computes [default: the one of its name in
        /// tests/conformance/models]
        #[arg(long, value_name = "FILE.json", requires = "model")]
        reference: Option<PathBuf>,
    },
    /// Build and install `mils-render-worker`, which draws with stable-diffusion.cpp (some minutes, the first time)
    RenderWorker {
        /// For GPUs by Vulkan: needs its headers and glslc
        #[arg(long)]
        vulkan: bool,
        /// For Apple's GPUs
        #[arg(long)]
        metal: bool,
        /// For NVIDIA's GPUs: needs the CUDA toolkit
        #[arg(long)]
        cuda: bool,
        /// For AMD's GPUs: needs ROCm
        #[arg(long)]
        rocm: bool,
        /// Build, lint and test it in place of installing it
        #[arg(long)]
        check: bool,
        /// Install below this folder, in `bin` [default: where cargo installs]
        #[arg(long, value_name = "DIR", conflicts_with = "check")]
        root: Option<PathBuf>,
    },
    /// Check formatting, lints and documentation
    Lint,
    /// Build and run a benchmark: encoders, sounds, load, generation, runs, media, all, or quality; `bench help` says more
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "WHICH")]
        rest: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Setup => setup::run(),
        Task::Demo => demo(),
        Task::Test { rest } => {
            setup::run()?;
            let mut arguments = vec!["test", "--release", "--locked"];
            // The caller's own choice of packages narrows the run.
            if !rest.iter().any(|a| a.starts_with("-p") || a.starts_with("--package") || a == "--workspace") {
                arguments.push("--workspace");
            }
            cargo(arguments.into_iter().chain(rest.iter().map(String::as_str)))
        }
        Task::DownloadModels { rest } => {
            setup::run()?;
            pass_on(&build("mils")?, ["models", "get"].into_iter().chain(rest.iter().map(String::as_str)))
        }
        Task::Conformance { model, reference } => conformance(model, reference),
        Task::RenderWorker { vulkan, metal, cuda, rocm, check, root } => {
            setup::run()?;
            let all = [(vulkan, "vulkan"), (metal, "metal"), (cuda, "cuda"), (rocm, "rocm")];
            let features: Vec<&str> = all.into_iter().filter_map(|(wanted, name)| wanted.then_some(name)).collect();
            render_worker(&features.join(","), check, root.as_deref())
        }
        Task::Lint => {
            setup::run()?;
            cargo(["fmt", "--all", "--check"])?;
            cargo(["clippy", "--workspace", "--all-targets", "--release", "--locked", "--", "-D", "warnings"])?;
            let mut doc = cargo_process(["doc", "--workspace", "--no-deps", "--release", "--locked"]);
            run(doc.env("RUSTDOCFLAGS", "-D warnings"))
        }
        Task::Bench { rest } => bench(&rest),
    }
}

/// Builds the local renderer, which is a workspace of its own, and installs it or tests it.
fn render_worker(features: &str, check: bool, into: Option<&Path>) -> Result<()> {
    let folder = root().join("crates/mils-render-worker");
    // With the configuration of the whole: built for this machine.
    let with = |arguments: &[&str]| {
        let mut process = cargo_process(arguments.iter().copied());
        process.current_dir(&folder).env("CARGO_TARGET_DIR", root().join("target/render-worker"));
        process
    };
    eprintln!("building mils-render-worker (the first time takes some minutes: stable-diffusion.cpp is compiled) …");
    if check {
        run(&mut with(&["fmt", "--check"]))?;
        let lint = ["clippy", "--release", "--locked", "--all-targets", "--features", features, "--", "-D", "warnings"];
        run(&mut with(&lint))?;
        return run(&mut with(&["test", "--release", "--locked", "--features", features]));
    }
    let mut install = with(&["install", "--locked", "--force", "--path", ".", "--features", features]);
    if let Some(into) = into {
        install.arg("--root").arg(std::path::absolute(into)?);
    }
    run(&mut install)
}

/// Where the caller stands, so that files it names are where it means them.
fn bench(rest: &[String]) -> Result<()> {
    setup::run()?;
    pass_on(&build("mils-bench")?, rest.iter().map(String::as_str))
}

/// Runs one of the workspace's programs, and ends as it ends.
fn pass_on<'a>(program: &Path, arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    let status = Process::new(program).args(arguments).status().with_context(|| format!("cannot start {program:?}"))?;
    // It has said what is wrong.
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

/// The workspace's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Builds one of the workspace's programs and says where it is. Features are those of the whole workspace, as in the
/// tests: what those have compiled is not compiled again.
fn build(name: &str) -> Result<PathBuf> {
    cargo(["build", "--release", "--locked", "--workspace", "--bin", name])?;
    // This program is TARGET/debug/xtask, wherever TARGET is.
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let target = own.parent().and_then(Path::parent).context("this program is in no target folder")?;
    Ok(target.join("release").join(name).with_extension(std::env::consts::EXE_EXTENSION))
}

/// Runs cargo in the workspace, with its output going where ours goes.
fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    run(&mut cargo_process(arguments))
}

fn cargo_process<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Process {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut process = Process::new(program);
    process.args(arguments).current_dir(root());
    process
}

fn run(process: &mut Process) -> Result<()> {
    let name = process.get_program().to_string_lossy().into_owned();
    let status = process.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let what: Vec<String> = process.get_args().take(3).map(|a| a.to_string_lossy().into_owned()).collect();
        bail!("{} {} failed ({status})", Path::new(&name).display(), what.join(" "));
    }
    Ok(())
}

fn conformance(model: Option<String>, reference: Option<PathBuf>) -> Result<()> {
    let tests = ["--test", "conformance", "--test", "precision", "--test", "demo_pack", "--", "--nocapture"];
    let mut process = cargo_process(["test", "--release", "--locked", "-p", "mils-tests"].into_iter().chain(tests));
    if let Some(model) = model {
        let shipped = || root().join("tests/conformance/models").join(format!("{}.json", model.replace('/', "--")));
        let reference = reference.unwrap_or_else(shipped);
        if !reference.is_file() {
            bail!(
                "there is no reference of {model} at {}; compute one with `python tests/conformance/make_reference.py \
                 FOLDER OUT.json` and name it with --reference",
                reference.display()
            );
        }
        // The tests run in a folder of their own.
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("no absolute path of {}", path.display()));
        let folder = Path::new(&model);
        let model = if folder.is_dir() { absolute(folder)?.display().to_string() } else { model };
        process.env("MILS_CONFORMANCE_MODEL", model).env("MILS_CONFORMANCE_REFERENCE", absolute(&reference)?);
    }
    setup::run()?;
    run(&mut process)
}

fn demo() -> Result<()> {
    setup::run()?;
    eprintln!("building (the first time takes some minutes: llama.cpp is compiled) …");
    let program = build("mils")?;
    let samples = root().join("models/demo/samples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&samples)
        .with_context(|| format!("cannot read {}", samples.display()))?
        .flatten()
        // Relative to the root, where the command runs: shorter to read, and the same on every machine.
        .map(|entry| Path::new("models/demo/samples").join(entry.file_name()))
        // What is said of them lies beside them.
        .filter(|path| path.extension().is_some_and(|e| e != "md"))
        .collect();
    files.sort();
    let folder = root().join("target/mils-demo");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (report, trace) = (folder.join("report.html"), folder.join("trace.jsonl"));
    let mut process = Process::new(&program);
    process
        .current_dir(root())
        .args(["caption", "--pack", "models/packs/demo.toml", "--verbose", "--report"])
        .arg(&report)
        .arg("--trace")
        .arg(&trace);
    run(process.args(&files))?;
    eprintln!("\nthe other way, from words to a picture:");
    let drawn = |name: &str, arguments: &[&str]| -> Result<PathBuf> {
        let output = folder.join(name);
        let mut process = Process::new(&program);
        // Anew each time: it is there to be watched.
        process.current_dir(root()).args(arguments).args([
            "--pack",
            "models/packs/demo.toml",
            "--overwrite",
            "--verbose",
        ]);
        run(process.args(["--memo-size", "0", "-o"]).arg(&output))?;
        Ok(output)
    };
    let wish = "at night, a small purple castle to the left of a big yellow clock";
    let generated = drawn("generate", &["generate", wish])?;
    eprintln!("\na picture of two pictures:");
    let [castles, clock] = ["3-castles.png", "4-clock.png"].map(|name| format!("models/demo/samples/{name}"));
    let blended = drawn("blend", &["blend", &castles, &clock, "--target", "mean"])?;
    eprintln!("\nthe report of the captions: {}\nits trace: {}", report.display(), trace.display());
    for folder in [generated, blended] {
        eprintln!("a picture, each step's, and the report: {}", folder.display());
    }
    Ok(())
}

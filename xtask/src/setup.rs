//! The system packages that the build needs, installed where we know how.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// A Debian package and what it is for.
const DEBIAN: [(&str, &str); 12] = [
    ("cmake", "builds llama.cpp"),
    ("clang", "reads llama.cpp's headers"),
    ("libclang-dev", "reads llama.cpp's headers"),
    ("g++", "compiles llama.cpp"),
    ("make", "builds llama.cpp"),
    ("pkg-config", "finds libraries"),
    ("libavcodec-dev", "decodes videos and sounds (FFmpeg)"),
    ("libavformat-dev", "reads their containers"),
    ("libavutil-dev", "what these need"),
    ("libswscale-dev", "converts frames to RGB"),
    ("libvulkan1", "finds GPUs"),
    ("mesa-vulkan-drivers", "GPU drivers, and a software one for tests"),
];

const ELSEWHERE: &str = "\
Install these with your system's package manager, then run this again:
  Fedora   dnf install cmake clang clang-devel gcc-c++ make pkgconf ffmpeg-free-devel vulkan-loader mesa-vulkan-drivers
  Arch     pacman -S cmake clang gcc make pkgconf ffmpeg vulkan-icd-loader vulkan-swrast
  macOS    xcode-select --install; brew install cmake llvm pkgconf ffmpeg
  Windows  winget install Kitware.CMake LLVM.LLVM; Visual Studio Build Tools with C++;
           FFmpeg's shared development build, and FFMPEG_DIR set to its folder";

/// Programs whose presence tells that a system without apt is ready.
const PROGRAMS: [&str; 4] = ["cmake", "clang", "c++", "make"];

/// Installs what is missing, and says so; says nothing where nothing is missing.
pub(crate) fn run() -> Result<()> {
    if !runs("dpkg-query", &["--version"]) || !runs("apt-get", &["--version"]) {
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(|p| !runs(p, &["--version"])).collect();
        if missing.is_empty() {
            return Ok(());
        }
        bail!("{} not found.\n{ELSEWHERE}", missing.join(" and "));
    }
    let missing: Vec<(&str, &str)> = DEBIAN.into_iter().filter(|(name, _)| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing system packages:");
    for (name, what) in &missing {
        eprintln!("  {name:<20} {what}");
    }
    apt(&["update", "-q"]).context("apt-get update")?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(missing.iter().map(|(name, _)| name));
    apt(&arguments).context("apt-get install")
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn installed(package: &str) -> bool {
    let output = Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).stderr(Stdio::null()).output();
    output.is_ok_and(|o| o.stdout.ends_with(b"install ok installed"))
}

/// Runs apt-get, through sudo where we are not root. Its output goes to stderr: stdout is the task's own.
fn apt(arguments: &[&str]) -> Result<()> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    let mut command = if root {
        Command::new("apt-get")
    } else if runs("sudo", &["--version"]) {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("installing needs root, and there is no sudo; as root run: apt-get {}", arguments.join(" "));
    };
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
    let status = command.status().context("cannot start apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

//! Frames of a long video: sampled by seeking, against decoding all of it, and beside PyAV doing either.

use crate::bench::Bench;
use crate::harness::{Contestant, Extra, Kind};
use crate::peer::{Ask, PYAV, Ran, Worker};
use anyhow::{Context, Result, bail};
use mils_media::video::{Sampling, VideoLimits, sample};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

/// Frames that are sampled, as a video encoder takes them.
const FRAMES: usize = 8;
const SECONDS: u32 = 600;
/// What the test source shows and how it is encoded: key frames 10 s apart, as x264 places them by itself.
const ENCODED: [&str; 12] = [
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-crf",
    "28",
    "-g",
    "250",
    "-pix_fmt",
    "yuv420p",
    "-movflags",
    "faststart",
];

/// Ours, by seeking or by decoding everything.
struct Ours {
    name: &'static str,
    kind: Kind,
    file: PathBuf,
    limits: VideoLimits,
    decoded: usize,
}

impl Contestant for Ours {
    fn name(&self) -> String {
        self.name.into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let begin = Instant::now();
        let sampled = sample(&self.file, FRAMES, Sampling::Centres, &self.limits)?;
        self.decoded = sampled.counts.decoded;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn figures(&mut self) -> Vec<Extra> {
        vec![Extra::new("packets decoded", self.decoded as f64, 0)]
    }
}

/// PyAV's.
struct Peer {
    name: &'static str,
    worker: Rc<RefCell<Worker>>,
    file: PathBuf,
    all: bool,
}

impl Contestant for Peer {
    fn name(&self) -> String {
        self.name.into()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let ask = Ask::Frames { file: &self.file, count: FRAMES, all: self.all, repeats: 1 };
        let ran = self.worker.borrow_mut().ask::<Ran>(&ask)?;
        ran.seconds.first().copied().context("it tells no time")
    }

    fn cpu_seconds(&self) -> Option<(u32, f64)> {
        let worker = self.worker.borrow();
        Some((worker.process(), worker.cpu_seconds()?))
    }
}

/// A 10-minute video in 1080p, made by FFmpeg's program where it is not there yet.
///
/// # Errors
/// If there is no such program, or it fails.
pub fn video(folder: &Path) -> Result<PathBuf> {
    let file = folder.join(format!("video-1080p-{SECONDS}s.mp4"));
    if file.is_file() {
        return Ok(file);
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let part = folder.join("part.mp4");
    let source = format!("testsrc2=size=1920x1080:rate=25:duration={SECONDS}");
    let mut command = Command::new("ffmpeg");
    command.args(["-y", "-v", "error", "-f", "lavfi", "-i", &source]).args(ENCODED).arg(&part).stdin(Stdio::null());
    let status = command.status().context("cannot start ffmpeg, which makes the video (Debian: apt install ffmpeg)")?;
    if !status.success() {
        bail!("ffmpeg failed ({status})");
    }
    std::fs::rename(&part, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Runs the table of videos.
///
/// # Errors
/// If the video cannot be made; a peer that is not there is left out with a note.
pub fn run(bench: &mut Bench) -> Result<()> {
    let id = "video-frames-8";
    if !bench.wanted(id) {
        return Ok(());
    }
    bench.say("making a video of 10 minutes in 1080p");
    let file = match video(&bench.models) {
        Ok(file) => file,
        Err(problem) => {
            bench.note(format!("{id} is left out: {problem:#}"));
            return Ok(());
        }
    };
    let limits = VideoLimits { threads: bench.threads(), ..VideoLimits::default() };
    let ours =
        |name, kind, seek| Ours { name, kind, file: file.clone(), limits: VideoLimits { seek, ..limits }, decoded: 0 };
    let mut contestants: Vec<Box<dyn Contestant>> = vec![
        Box::new(ours("ours, seeking", Kind::Ours, true)),
        Box::new(ours("ours, seeking, again", Kind::Again, true)),
        Box::new(ours("ours, decoding all", Kind::Ours, false)),
    ];
    if bench.peers.wanted.iter().any(|name| name == PYAV) {
        match bench.peers.start_one(PYAV) {
            Ok(worker) => {
                bench.report.peers.insert(PYAV.into(), worker.versions.clone());
                let worker = Rc::new(RefCell::new(worker));
                for (name, all) in [("pyav, seeking", false), ("pyav, decoding all", true)] {
                    contestants.push(Box::new(Peer { name, worker: Rc::clone(&worker), file: file.clone(), all }));
                }
            }
            Err(problem) => bench.note(format!("{PYAV} is left out: {problem:#}")),
        }
    }
    let title = format!("{FRAMES} frames of a video of {SECONDS} s, 1920 x 1080, H.264, key frames 10 s apart, as RGB");
    bench.measure((id, &title), &mut contestants, &["pyav, seeking", "ours, seeking"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_that_is_there_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join(format!("video-1080p-{SECONDS}s.mp4"));
        std::fs::write(&there, b"as it was").unwrap();
        assert_eq!(video(folder.path()).unwrap(), there);
        assert_eq!(std::fs::read(&there).unwrap(), b"as it was");
    }
}

//! Two hundred files of every kind, faults among them, captioned by a command that is killed fifty times, with a pack that
//! a command which was killed too has downloaded.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{demo, media, samples};
use image::imageops::{flip_horizontal, rotate90, rotate180};
use image::{DynamicImage, ImageFormat};
use mils_tests::hub_server::{Fault, HubServer, Kind};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: usize = 50;
/// And so often while models are downloaded.
const GET_KILLS: usize = 5;
/// Longer than anything here should take, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pictures, videos and sounds, some of them damaged, all else that may lie about, and names of what is not there.
/// What is not in the folder itself, or would be passed over there, is in a list.
fn files(dir: &Path) -> PathBuf {
    let folder = dir.join("files");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    let pictures: Vec<DynamicImage> = samples().iter().map(|sample| image::open(sample).unwrap()).collect();
    let endings = [("jpg", ImageFormat::Jpeg), ("png", ImageFormat::Png), ("webp", ImageFormat::WebP)];
    for i in 0..154 {
        let picture = pictures[i % pictures.len()].to_rgb8();
        let picture = match i / pictures.len() % 3 {
            0 => picture,
            1 => flip_horizontal(&picture),
            _ => rotate180(&rotate90(&picture)),
        };
        let (ending, format) = endings[i % endings.len()];
        let place =
            [folder.clone(), folder.join("deep"), folder.join("deep/er")][i % 7 % 3].join(format!("{i:03}.{ending}"));
        DynamicImage::ImageRgb8(picture).brighten((i / 15) as i32).to_rgb8().save_with_format(place, format).unwrap();
    }
    let copy = |from: PathBuf, name: &str| assert!(fs::copy(from, folder.join(name)).is_ok(), "{name}");
    let sample = |name: &str| demo().join("samples").join(name);
    for i in 0..4 {
        copy(sample("6-carrot-and-teapot.mp4"), &format!("deep/film {i}.mp4"));
        copy(sample("7-apple-and-duck.webp"), &format!("film {i}.webp"));
        copy(sample("8-rooster.ogg"), &format!("sound {i}.ogg"));
    }
    copy(sample("9-dog-in-the-rain.mp3"), "rain.mp3");
    copy(media().join("videos/animated.gif"), "animated.gif");
    let mut recordings: Vec<PathBuf> =
        fs::read_dir(demo().join("recordings/002 - Rain")).unwrap().map(|e| e.unwrap().path()).collect();
    recordings.sort();
    for (i, recording) in recordings.into_iter().take(6).enumerate() {
        copy(recording, &format!("deep/er/rain {i}.ogg"));
    }
    // Faults in the folder: cut off, empty, not to be read, and of a name that must be quoted.
    let picture = fs::read(&samples()[0]).unwrap();
    let film = fs::read(sample("6-carrot-and-teapot.mp4")).unwrap();
    for i in 1..=4 {
        fs::write(folder.join(format!("deep/cut {i}.png")), &picture[..picture.len() * i / 5]).unwrap();
        fs::write(folder.join(format!("deep/cut {i}.mp4")), &film[..film.len() * i / 9]).unwrap();
        fs::write(folder.join(format!("empty {i}.jpg")), "").unwrap();
    }
    fs::write(folder.join("odd, \"name\".png"), &picture).unwrap();
    fs::write(folder.join("secret.png"), &picture).unwrap();
    fs::set_permissions(folder.join("secret.png"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut list = String::new();
    let mut also = |name: String| list += &format!("{}\n", folder.join(name).display());
    for i in 0..4 {
        fs::write(folder.join(format!("text {i}.jpg")), "no picture").unwrap();
        fs::create_dir(folder.join(format!("folder {i}.jpg"))).unwrap();
        for name in ["text", "folder", "vanished"] {
            also(format!("{name} {i}.jpg"));
        }
    }
    fs::write(dir.join("list.txt"), list).unwrap();
    folder
}

/// The command, where nothing is installed but in `dir`.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    for variable in ["MILS_PACK", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"] {
        command.env_remove(variable);
    }
    for (name, place) in [("HF_HUB_CACHE", "hub"), ("HF_HOME", "hf"), ("MILS_HOME", "home"), ("MILS_PACKS", "packs")] {
        command.env(name, dir.join("models").join(place));
    }
    command.env("XDG_DATA_HOME", dir.join("models/data")).env("MILS_CACHE", "off");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Puts the bundled models on a hub, as a pack that is to be downloaded and has all modalities, and fetches it by a command
/// that is killed now and then.
fn download(dir: &Path, dice: &mut Dice) {
    let (server, packs) = (HubServer::start(), dir.join("models/packs"));
    fs::create_dir_all(&packs).unwrap();
    let bundled = demo().join("pack");
    let mut definition = fs::read_to_string(demo().join("../packs/demo.toml")).unwrap();
    let mut change = |from: &str, to: &str| {
        assert!(definition.contains(from), "{from}");
        definition = definition.replace(from, to);
    };
    change("name = \"demo\"", "name = \"tiny\"");
    change("root = \"../demo/pack\"\n", "");
    change("automatic = false\n", "");
    change(
        "path = \"generator.gguf\"",
        "source = { repo = \"tiny/llm\", file = \"generator.gguf\", licence = \"MIT\" }",
    );
    let gguf = fs::read(bundled.join("generator.gguf")).unwrap();
    server.commit("tiny/llm", &[("generator.gguf", &gguf, Kind::Large)]);
    for (folder, initial) in [("clip", "initial"), ("viclip", "initial-video"), ("clap", "initial-sound")] {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(bundled.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        change(
            &format!("scorer = \"{folder}\""),
            &format!("scorer = {{ repo = \"tiny/{folder}\", licence = \"MIT\", files = {names:?} }}"),
        );
        let kind = |name: &str| if name.ends_with(".json") { Kind::Small } else { Kind::Large };
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..], kind(name))).collect();
        server.commit(&format!("tiny/{folder}"), &files);
        fs::copy(bundled.join(format!("{initial}.txt")), packs.join(format!("{initial}.txt"))).unwrap();
    }
    fs::write(packs.join("tiny.toml"), definition).unwrap();
    server.fail("GET", "/cdn/", 100, Fault::Slow(128 << 10, Duration::from_millis(20)));
    let get = || {
        let mut command = command(dir);
        command.args(["models", "get", "tiny"]).env("HF_ENDPOINT", server.endpoint());
        command.spawn().unwrap()
    };
    for _ in 0..GET_KILLS {
        let mut child = get();
        std::thread::sleep(Duration::from_millis(100 + dice.roll(400)));
        assert!(child.try_wait().unwrap().is_none(), "it was too quick to be killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(get().wait().unwrap().success());
    let from = server.seen().iter().filter(|seen| seen.from.is_some()).count();
    assert!(from > 0, "nothing was taken up of what had come");
}

/// Starts captioning, with the only pack that is installed, and no hub. One file at a time: in company, llama.cpp's floats depend on it in their last bits.
fn spawn(dir: &Path, out: &Path) -> Child {
    let mut command = command(dir);
    command
        .env("HF_HUB_OFFLINE", "1")
        .arg("caption")
        .arg(format!("@{}", dir.join("list.txt").display()))
        .arg(dir.join("files"));
    command.args(["-r", "--backend", "cpu", "--steps", "2", "--propose", "3", "--sequences", "3"]);
    command.args(["--in-flight", "1", "--quiet", "-o"]).arg(out).spawn().unwrap()
}

/// The whole lines of an output; there are no others, at whatever moment it is looked at after a kill.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {:?}", text.lines().last());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All but what depends on the clock, and on when a run was killed: what the encoder did since.
fn results(path: &Path) -> BTreeMap<String, String> {
    let all = lines(path);
    let of = |mut line: Value| {
        let fields = line.as_object_mut().unwrap();
        let file = fields.remove("file").unwrap().as_str().unwrap().to_owned();
        for clock in ["seconds", "utilisation", "encoder"] {
            fields.remove(clock);
        }
        // Tokens that a prompt has in common with the one before are not read again; after a kill there is none before.
        if let Some(counts) = fields.get_mut("counts").and_then(Value::as_object_mut) {
            counts.remove("reused_tokens");
        }
        (file, line.to_string())
    };
    let by_file: BTreeMap<_, _> = all.iter().cloned().map(of).collect();
    assert_eq!(by_file.len(), all.len(), "each file once");
    by_file
}

/// The same numbers on every machine and in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to below `of`.
    fn roll(&mut self, of: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % of.max(1)
    }
}

fn captioned(out: &Path) -> usize {
    fs::read(out)
        .unwrap_or_default()
        .split(|b| *b == b'\n')
        .filter(|l| l.windows(10).any(|w| w == b"\"caption\":"))
        .count()
}

/// Kills a run at a moment that the dice choose: while models are loaded, or some results later and a little. The models
/// take `start`, and a file takes `each`.
fn kill(dir: &Path, out: &Path, (start, each): (Duration, Duration), dice: &mut Dice) -> bool {
    let mut child = spawn(dir, out);
    let begin = Instant::now();
    let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
    if dice.roll(5) == 0 {
        std::thread::sleep(start * dice.roll(100) as u32 / 100);
    } else {
        let (from, more) = (captioned(out), dice.roll(5) as usize);
        while captioned(out) < from + more && !ended(&mut child) {
            assert!(begin.elapsed() < PATIENCE, "it comes no further");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(each * dice.roll(150) as u32 / 100);
    }
    if ended(&mut child) {
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn two_hundred_files_and_fifty_kills_end_with_what_an_undisturbed_run_has() {
    let dir = tempfile::tempdir().unwrap();
    let folder = files(dir.path());
    let mut dice = Dice(20_050);
    download(dir.path(), &mut dice);
    let (whole, killed) = (dir.path().join("whole.jsonl"), dir.path().join("killed.jsonl"));
    let begin = Instant::now();
    let mut child = spawn(dir.path(), &whole);
    while captioned(&whole) == 0 {
        assert!(begin.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    let start = begin.elapsed();
    assert_eq!(child.wait().unwrap().code(), Some(1), "some files are damaged");
    let undisturbed = begin.elapsed();
    let times = (start, (undisturbed - start) / 190);
    let expected = results(&whole);
    assert_eq!(expected.len(), 200);
    let failed: BTreeSet<&str> =
        expected.iter().filter(|(_, r)| r.contains("\"error\":")).map(|(file, _)| file.as_str()).collect();
    let of = |name: &str| failed.iter().filter(|file| file.contains(&format!("/{name} "))).count();
    assert_eq!([of("text"), of("folder"), of("vanished"), of("empty"), of("cut")][..4], [4; 4], "{failed:?}");
    // Of a video that was cut off, what is there may be enough.
    assert!((4..=8).contains(&of("cut")), "{failed:?}");

    let (mut kills, mut begun) = (0, 0);
    let mut last = BTreeSet::new();
    while kills < KILLS {
        assert!(kill(dir.path(), &killed, times, &mut dice), "it ended after {kills} kills: {:?}", captioned(&killed));
        kills += 1;
        // What was done stays done.
        let now: BTreeSet<String> = lines(&killed)
            .iter()
            .filter(|line| line["caption"].is_string())
            .map(|line| line["file"].as_str().unwrap().to_owned())
            .collect();
        assert!(now.is_superset(&last), "after {kills} kills there is less than before");
        last = now;
        let steps = fs::read_to_string(dir.path().join("killed.jsonl.steps")).unwrap_or_default();
        let open = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|l| !last.contains(l["file"].as_str().unwrap_or_default()))
        };
        begun += usize::from(steps.lines().skip(1).any(open));
    }
    let midway = last.len();
    assert_eq!(spawn(dir.path(), &killed).wait().unwrap().code(), Some(1));
    eprintln!(
        "{undisturbed:.1?} undisturbed, {:.1?} with {kills} kills, {begun} of them with steps to take up; {midway} files \
         were done by then",
        begin.elapsed() - undisturbed
    );
    assert!(midway < 180 && begun > 0, "{midway} {begun}");
    let found = results(&killed);
    for (file, result) in &expected {
        assert_eq!(found.get(file), Some(result), "{file}");
    }
    assert_eq!(found.len(), expected.len());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "the files, the list, the models and two outputs: {left:?}");
    drop(folder);
}

//! `mils models` against a hub on this machine: what is listed, fetched, interrupted, taken up, used, verified, removed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use assert_cmd::Command;
use common::{demo, fails, mils, run, samples};
use mils_tests::hub_server::{Fault, HubServer, Kind};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A hub, a cache, a folder of ours and a folder of packs, all of them empty but for a pack of the bundled models.
struct World {
    server: HubServer,
    dir: tempfile::TempDir,
}

/// The bundled models as if they were on the hub; sounds are heard by what has terms and is to be converted.
const TINY: &str = r#"
name = "tiny"
description = "The bundled models, from a hub"
licence = "MIT"

[generator]
context = 1024
lines = 1
source = { repo = "tiny/llm", file = "generator.gguf", licence = "MIT" }

[image]
initial = "initial.txt"

[image.scorer]
repo = "tiny/clip"
licence = "MIT"
files = ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]

[sound]
initial = "initial.txt"

[sound.scorer]
repo = "tiny/pickle"
licence = "made up"
terms = "for tests only"
files = ["config.json", { file = "weights/training.pth", convert = { prefix = "model." } }]

[loop]
steps = 1
keep = 4
propose = 4
temperature = 1.2
top_p = 0.98

[prompt]
system = "You write captions for a picture that you cannot see."
user = """
Each line has a score and a caption. A higher score is a better match. Write {{ count }} better caption{{ "s" if count > 1 }} \
as a numbered list.
{% for item in items %}{{ item.label }} {{ item.text }}
{% endfor %}"""
"#;

fn checkpoint(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../mils-pth/tests/files").join(name)).unwrap()
}

impl World {
    fn new() -> Self {
        let (server, dir) = (HubServer::start(), tempfile::tempdir().unwrap());
        let pack = demo().join("pack");
        let clip = ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"];
        let clip: Vec<(&str, Vec<u8>)> =
            clip.iter().map(|f| (*f, fs::read(pack.join("clip").join(f)).unwrap())).collect();
        let kind = |name: &str| if name.ends_with(".json") { Kind::Small } else { Kind::Large };
        let clip: Vec<(&str, &[u8], Kind)> = clip.iter().map(|(name, bytes)| (*name, &bytes[..], kind(name))).collect();
        server.commit("tiny/clip", &clip);
        let gguf = fs::read(pack.join("generator.gguf")).unwrap();
        server.commit("tiny/llm", &[("README.md", b"# Tiny", Kind::Small), ("generator.gguf", &gguf, Kind::Large)]);
        let pth = checkpoint("training.pth");
        server
            .commit("tiny/pickle", &[("config.json", b"{}", Kind::Small), ("weights/training.pth", &pth, Kind::Large)]);
        let packs = dir.path().join("packs");
        fs::create_dir(&packs).unwrap();
        fs::write(packs.join("tiny.toml"), TINY).unwrap();
        fs::copy(pack.join("initial.txt"), packs.join("initial.txt")).unwrap();
        Self { server, dir }
    }

    /// The command, where nothing is installed but here.
    fn mils(&self) -> Command {
        let mut command = mils();
        for variable in
            ["MILS_PACK", "HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"]
        {
            command.env_remove(variable);
        }
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }

    fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        let at = |name: &str| self.dir.path().join(name);
        vec![
            ("HF_ENDPOINT", self.server.endpoint().into()),
            ("HF_HUB_CACHE", at("hub")),
            // Where a token would be.
            ("HF_HOME", at("hf")),
            ("MILS_HOME", at("home")),
            ("MILS_PACKS", at("packs")),
            ("XDG_DATA_HOME", at("data")),
        ]
    }

    fn models(&self, arguments: &[&str]) -> Command {
        let mut command = self.mils();
        command.arg("models").args(arguments);
        command
    }

    /// What a command prints, which must succeed.
    fn prints(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(&mut self.models(arguments));
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(&[arguments, &["--format", "json"]].concat())).unwrap()
    }

    /// What the list says of the pack.
    fn listed(&self) -> Value {
        let list = self.json(&["list"]);
        list["packs"].as_array().unwrap().iter().find(|pack| pack["name"] == "tiny").unwrap().clone()
    }

    fn installed(&self) -> [bool; 2] {
        let pack = self.listed();
        [0, 1].map(|i| pack["modalities"][i]["installed"].as_bool().unwrap())
    }

    fn pack(&self, name: &str, change: &dyn Fn(&str) -> String) {
        fs::write(self.dir.path().join("packs").join(format!("{name}.toml")), change(TINY)).unwrap();
    }

    fn blob(&self, repo: &str, file: &str) -> PathBuf {
        let path = self.prints(&["path", &format!("{repo}/{file}")]);
        fs::canonicalize(path.trim()).unwrap()
    }
}

#[test]
fn a_pack_is_fetched_used_verified_and_removed() {
    let world = World::new();
    // Nothing is installed: it is said what to do, in a line.
    assert_eq!(world.installed(), [false, false]);
    assert_eq!(world.json(&["list"])["taken"], Value::Null);
    let caption = |more: &[&str]| {
        let mut command = world.mils();
        command.args(["caption", "--backend", "cpu", "--format", "json"]).arg(&samples()[0]).args(more);
        command
    };
    let says = ["no model pack is installed", "run `mils models get ", "`--pack demo` is bundled and works now"];
    fails(&mut caption(&[]), 1, &says);
    fails(&mut caption(&["--pack", "tiny"]), 1, &["`tiny` is not installed; run `mils models get tiny`"]);
    fails(
        world.mils().args(["embed", "--model", "tiny", "--text", "a"]),
        1,
        &["mils models get tiny --modality image"],
    );
    fails(&mut world.models(&["verify"]), 1, &["nothing is installed"]);
    fails(&mut world.models(&["path", "tiny"]), 1, &["`tiny` is not installed"]);

    let said = world.prints(&["get", "tiny", "--modality", "image"]);
    assert_eq!(said.trim(), "tiny: ready for images");
    assert_eq!(world.installed(), [true, false]);
    let list = world.json(&["list"]);
    assert_eq!(list["taken"], "tiny");
    assert!(world.prints(&["list"]).contains("in part, image; mils models get tiny"));

    // It is taken without being named, and its parts can be used alone.
    let (code, stdout, stderr) = run(&mut caption(&[]));
    assert_eq!(code, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["models"]["pack"], &result["models"]["scorer"]), (&"tiny".into(), &"tiny/clip".into()));
    for model in ["tiny", "tiny/clip"] {
        let (code, stdout, stderr) = run(world.mils().args(["embed", "--model", model, "--text", "a red car"]));
        assert!(code == 0 && stdout.contains("embedding"), "{stderr}");
    }
    let sound = demo().join("samples/8-rooster.ogg");
    let mut command = world.mils();
    fails(
        command.arg("caption").arg(&sound),
        1,
        &["not installed for sounds; run `mils models get tiny --modality sound`"],
    );
    let path = world.prints(&["path", "tiny"]);
    let lines: Vec<&str> = path.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("generator\t") && lines[1].starts_with("image\t"), "{path}");

    // There is nothing to fetch again.
    world.server.forget();
    world.prints(&["get", "tiny", "--modality", "image"]);
    assert!(world.server.seen().is_empty(), "{:?}", world.server.seen());

    // A flipped byte is found, and what is damaged is fetched again.
    assert_eq!(world.json(&["verify", "tiny"])["good"], true);
    let blob = world.blob("tiny/clip", "model.safetensors");
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let (code, stdout, stderr) = run(&mut world.models(&["verify"]));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("model.safetensors is damaged") && stderr.contains("--remove"), "{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("good  ")).count(), 4, "{stdout}");
    assert_eq!(run(&mut world.models(&["verify", "tiny", "--remove"])).0, 1);
    assert_eq!(world.installed(), [false, false]);
    world.prints(&["get", "tiny", "--modality", "image"]);
    assert_eq!(world.json(&["verify", "tiny"])["good"], true);

    // What another pack uses stays; nobody is there to be asked.
    world.pack("other", &|text| text.replace("name = \"tiny\"", "name = \"other\""));
    fails(&mut world.models(&["rm", "tiny", "--yes"]), 1, &["other packs use what it has"]);
    fs::remove_file(world.dir.path().join("packs/other.toml")).unwrap();
    fails(&mut world.models(&["rm", "tiny"]), 1, &["5 files of the pack `tiny`", "Python uses too", "add --yes"]);
    let removed = world.json(&["rm", "tiny", "--yes"]);
    assert!(removed["freed"].as_u64().unwrap() > 1_000_000, "{removed}");
    assert_eq!(world.installed(), [false, false]);
    fails(&mut world.models(&["rm", "tiny", "--yes"]), 1, &["nothing of the pack `tiny` is there"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    use std::process::Stdio;
    let world = World::new();
    // Slow enough to be interrupted in the middle.
    world.server.fail("GET", "/cdn/", 100, Fault::Slow(16 << 10, Duration::from_millis(20)));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mils"));
    command.args(["models", "get", "tiny", "--modality", "image"]).envs(world.variables());
    let child = command.env_remove("HF_TOKEN").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || {
        let blobs = ["clip", "llm"].map(|name| world.dir.path().join(format!("hub/models--tiny--{name}/blobs")));
        let parts = blobs.iter().filter_map(|blobs| fs::read_dir(blobs).ok()).flatten().flatten();
        let parts = parts.filter(|entry| entry.path().extension().is_some_and(|e| e == "incomplete"));
        parts.map(|entry| entry.metadata().map_or(0, |m| m.len())).max().unwrap_or_default()
    };
    let mut patience = 3000;
    while begun() < 100_000 {
        patience -= 1;
        assert!(patience > 0, "it fetches nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(std::process::Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted; what was fetched stays, and the same command goes on"), "{stderr}");
    assert!(output.stdout.is_empty() && begun() >= 100_000);

    world.server.forget();
    assert_eq!(world.prints(&["get", "tiny", "--modality", "image"]).trim(), "tiny: ready for images");
    let taken_up = world.server.seen().iter().any(|seen| seen.from.is_some_and(|from| from >= 100_000));
    assert!(taken_up, "{:?}", world.server.seen());
    assert_eq!(world.json(&["verify", "tiny"])["good"], true);
}

#[test]
fn terms_are_agreed_to_and_pickles_converted() {
    let world = World::new();
    let get = ["get", "tiny", "--modality", "sound"];
    let says = ["tiny/pickle is made up: for tests only", "--accept-licence"];
    fails(&mut world.models(&get), 1, &says);
    assert!(!world.dir.path().join("hub").exists());
    let said = world.json(&[&get[..], &["--accept-licence"]].concat());
    assert_eq!(said["installed"], serde_json::json!(["sound"]));
    let folder = PathBuf::from(said["folders"]["sound"].as_str().unwrap());
    assert!(folder.starts_with(world.dir.path().join("home/models/tiny--pickle")), "{}", folder.display());
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("inner.0.weight").unwrap().shape(), [2, 3]);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert_eq!(
        world.prints(&["path", "tiny", "--modality", "sound"]).lines().last().unwrap(),
        format!("sound\t{}", folder.display())
    );

    // What it was made of is not needed any more; what was made is verified too.
    assert_eq!(world.json(&["verify", "tiny"])["good"], true);
    fs::remove_dir_all(world.dir.path().join("hub/models--tiny--pickle")).unwrap();
    assert_eq!(world.installed(), [false, true]);
    fs::write(folder.join("model.safetensors"), [&bytes[..bytes.len() - 1], b"x"].concat()).unwrap();
    let (code, _, stderr) = run(&mut world.models(&["verify", "tiny"]));
    assert!(code == 1 && stderr.contains("model.safetensors is damaged"), "{stderr}");
    assert_eq!(run(&mut world.models(&["verify", "tiny", "--remove"])).0, 1);
    assert_eq!(world.installed(), [false, false]);
    world.prints(&[&get[..], &["--yes"]].concat());
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), bytes);

    // What pictures take as well stays.
    world.prints(&["get", "tiny", "--modality", "image"]);
    let removed = world.json(&["rm", "tiny", "--modality", "sound", "--yes"]);
    assert_eq!((removed["stay"].as_u64(), world.installed()), (Some(1), [true, false]));
    assert!(!folder.exists());
}

#[test]
fn what_is_not_on_the_hub_is_the_users_to_fetch() {
    let world = World::new();
    let scorer = "url = \"https://example.com/training.pth\"\nlicence = \"made up\"\nterms = \"for tests only\"\n\
                  file = \"training.pth\"\nconvert = { prefix = \"model.\" }\n";
    let begin = TINY.find("repo = \"tiny/pickle\"").unwrap();
    let end = begin + TINY[begin..].find("\n\n").unwrap();
    world.pack("tiny", &|text| format!("{}{scorer}{}", &text[..begin], &text[end..]));
    let get = ["get", "tiny", "--modality", "sound", "--yes"];
    let place = world.dir.path().join("home/files/training.pth");
    let says =
        ["training.pth is not on the hub: download https://example.com/training.pth to", place.to_str().unwrap()];
    fails(&mut world.models(&get), 1, &says);
    fs::write(&place, checkpoint("training.pth")).unwrap();
    assert_eq!(world.prints(&get).trim(), "tiny: ready for sounds");
    assert_eq!(world.json(&["verify", "tiny"])["good"], true);
}

#[test]
fn repositories_are_fetched_by_name() {
    let world = World::new();
    let folder = world.prints(&["get", "tiny/clip"]);
    assert!(Path::new(folder.trim()).join("model.safetensors").is_file(), "{folder}");
    assert_eq!(world.prints(&["path", "tiny/clip"]), folder);
    fails(&mut world.models(&["get", "tiny/llm"]), 1, &["choose one with --file", "generator.gguf"]);
    fails(&mut world.models(&["get", "tiny/llm", "--file", "*.bin"]), 1, &["has no file that fits `*.bin`"]);
    let file = world.prints(&["get", "tiny/llm", "--file", "*.gguf"]);
    assert!(file.trim().ends_with("generator.gguf") && Path::new(file.trim()).is_file(), "{file}");
    let readme = world.prints(&["get", "tiny/llm/README.md"]);
    assert_eq!(fs::read_to_string(readme.trim()).unwrap(), "# Tiny");
    fails(&mut world.models(&["path", "tiny/llm/none"]), 1, &["mils models get tiny/llm/none"]);

    // What is a pickle alone is made safetensors of, and goes by the same name.
    world.server.commit(
        "tiny/old",
        &[("config.json", b"{}", Kind::Small), ("pytorch_model.bin", &checkpoint("old.pth"), Kind::Large)],
    );
    let folder = world.prints(&["get", "tiny/old"]);
    assert!(folder.trim().starts_with(world.dir.path().join("home").to_str().unwrap()), "{folder}");
    assert_eq!(world.prints(&["path", "tiny/old"]), folder);
    assert_eq!(world.json(&["verify", "tiny/old"])["files"].as_array().unwrap().len(), 4);
    world.prints(&["rm", "tiny/old", "--yes"]);
    fails(&mut world.models(&["path", "tiny/old"]), 1, &["mils models get tiny/old"]);

    fails(&mut world.models(&["get", "tiny/none"]), 1, &["no repository tiny/none"]);
    fails(&mut world.models(&["get", "nonsense"]), 1, &["there is no pack `nonsense`", "tiny"]);
    fails(&mut world.models(&["get", "tiny/../x"]), 1, &["neither a pack nor a model of the hub"]);
    assert_eq!(run(&mut world.models(&["get", "tiny/clip", "--modality", "video", "--file", "x"])).0, 2);
}

#[test]
fn gated_repositories_say_how_to_be_let_in() {
    let world = World::new();
    world.server.gate("tiny/clip", "secret");
    let get = ["get", "tiny", "--modality", "image"];
    fails(&mut world.models(&get), 1, &["tiny/clip is gated", "accept its conditions at", "HF_TOKEN"]);
    fails(world.models(&get).env("HF_TOKEN", "other"), 1, &["the account of your token has no access"]);
    let (code, stdout, stderr) = run(world.models(&get).env("HF_TOKEN", "secret"));
    assert_eq!((code, stdout.trim()), (0, "tiny: ready for images"), "{stderr}");
    assert!(!stderr.contains("secret"));
}

#[test]
fn offline_nothing_is_asked_of_the_network() {
    let world = World::new();
    let get = ["get", "tiny", "--modality", "image"];
    fails(world.models(&get).env("HF_HUB_OFFLINE", "1"), 1, &["offline"]);
    assert!(world.server.seen().is_empty());
    world.prints(&get);
    let (code, stdout, stderr) = run(world.models(&get).env("HF_HUB_OFFLINE", "1"));
    assert_eq!((code, stdout.trim()), (0, "tiny: ready for images"), "{stderr}");
}

#[test]
fn every_command_has_examples() {
    for command in ["list", "get", "verify", "rm", "path", "convert"] {
        let (code, help, _) = run(mils().args(["models", command, "--help"]));
        assert!(code == 0 && help.contains(&format!("mils models {command}")), "{help}");
    }
    assert_eq!(run(mils().args(["models", "get", "--file", "x"])).0, 2);
    assert_eq!(run(mils().args(["models", "get", "small", "--modality", "smell"])).0, 2);
}

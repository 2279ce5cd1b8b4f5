//! Packs by files of all sorts.

use super::*;
use crate::download::Hub;
use crate::find::known_in;
use crate::store::{Manifest, Part};
use std::fs;

pub(crate) const GOOD: &str = "name = 'x'\n[generator]\npath = 'g.gguf'\n[image]\nscorer = 'clip'\ninitial = 'i.txt'\n[prompt]\nsystem = 's'\nuser = 'u'\n";

/// Pictures and sounds from the hub: the encoder of sounds is converted.
const REMOTE: &str = "name = 'far'\nmemory = 7\n\
    [generator]\nsource = { repo = 'org/llm', file = 'g.gguf', size = 2_000_000_000 }\n\
    [image]\nscorer = { repo = 'org/clip', files = ['config.json', { file = 'model.safetensors', size = 500_000_000 }] }\n\
    initial = 'i.txt'\n\
    [sound]\nscorer = { repo = 'org/clap', terms = 'ask first', files = ['config.json', { file = 'm.bin', about = 700_000_000, convert = {} }] }\n\
    initial = 'i.txt'\n[prompt]\nuser = 'u'\n";

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn store(dir: &Path) -> Store {
    Store::new(Hub::new("https://huggingface.co", &dir.join("hub")).unwrap(), &dir.join("home"))
}

/// Puts a file into the cache, at `main`.
fn put(dir: &Path, repo: &str, file: &str, size: u64) -> PathBuf {
    let repository = dir.join("hub").join(format!("models--{}", repo.replace('/', "--")));
    let path = repository.join("snapshots").join(COMMIT).join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // As large as it says, without taking the room.
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    path
}

#[test]
fn a_folder_with_a_pack_file_is_a_pack() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let find = || Pack::find(at.to_str().unwrap());
    assert!(find().unwrap_err().to_string().contains("no such pack file"));
    fs::write(at.join("pack.toml"), GOOD).unwrap();
    assert!(find().unwrap_err().to_string().contains("clip is missing"));
    fs::create_dir(at.join("clip")).unwrap();
    fs::write(at.join("g.gguf"), "").unwrap();
    fs::write(at.join("i.txt"), "\n a cat \n\na dog").unwrap();
    let pack = find().unwrap();
    assert_eq!(pack.settings, LoopSettings::default());
    let task = pack.task(Modality::Image).unwrap();
    assert_eq!(task.initial_texts().unwrap(), ["a cat", "a dog"]);
    fs::write(at.join("i.txt"), "\n").unwrap();
    assert!(task.initial_texts().is_err());
}

#[test]
fn a_modality_has_the_packs_settings_but_for_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for folder in ["clip", "clap"] {
        fs::create_dir(at.join(folder)).unwrap();
    }
    for file in ["g.gguf", "i.txt", "s.txt"] {
        fs::write(at.join(file), "").unwrap();
    }
    let sound = "[sound]\nscorer = 'clap'\ninitial = 's.txt'\nprompt = { system = 'hear' }\nloop = { keep = 10 }\n";
    fs::write(at.join("pack.toml"), format!("{GOOD}{sound}[loop]\nkeep = 7\nsteps = 3\n")).unwrap();
    let pack = Pack::find(at.to_str().unwrap()).unwrap();
    let task = pack.task(Modality::Sound).unwrap();
    assert_eq!((task.settings.keep, task.settings.steps), (10, 3));
    assert_eq!(task.prompt, Prompts { system: "hear".into(), user: "u".into() });
    assert!(task.scorer.ends_with("clap") && task.initial.ends_with("s.txt"));
    // Videos are shown to the encoder of pictures.
    let task = pack.task(Modality::Video).unwrap();
    assert_eq!((task.modality, task.settings.keep, &task.prompt.system[..]), (Modality::Video, 7, "s"));
    assert!(task.scorer.ends_with("clip") && pack.describes(Modality::Video));
    assert_eq!(pack.modalities(), [Modality::Image, Modality::Sound]);
    fs::write(at.join("pack.toml"), GOOD).unwrap();
    let error = Pack::find(at.to_str().unwrap()).unwrap().task(Modality::Sound).unwrap_err().to_string();
    assert!(error.contains("describes images;") && error.contains("[sound]"), "{error}");
}

#[test]
fn packs_are_found_by_name_and_the_names_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let folders = [dir.path().to_owned(), dir.path().join("nowhere")];
    let unknown = |folders: &[PathBuf]| Pack::find_in("no-such-pack", folders).unwrap_err().to_string();
    assert!(unknown(&folders).contains("can be named: none;"), "{}", unknown(&folders));
    assert!(unknown(&[]).contains("can be named: none;"));
    fs::create_dir(dir.path().join("llama-3.2")).unwrap();
    fs::write(dir.path().join("llama-3.2/pack.toml"), GOOD).unwrap();
    fs::write(dir.path().join("other.toml"), GOOD).unwrap();
    fs::create_dir(dir.path().join("no-pack")).unwrap();
    assert!(unknown(&folders).contains("can be named: llama-3.2, other;"), "{}", unknown(&folders));
    for name in known_in(&folders) {
        let error = Pack::find_in(&name, &folders).unwrap_err();
        assert!(matches!(error, PackError::Incomplete { .. }), "found, but its files are missing: {error}");
    }
}

#[test]
fn what_is_to_be_downloaded_is_said_with_its_command_and_size() {
    let dir = tempfile::tempdir().unwrap();
    let (at, store) = (dir.path(), store(dir.path()));
    let file = at.join("far.toml");
    fs::write(&file, REMOTE).unwrap();
    fs::write(at.join("i.txt"), "a cat").unwrap();
    let pack = Pack::read(&file, &store).unwrap();
    assert_eq!((pack.installed(), pack.modalities()), (vec![], vec![Modality::Image, Modality::Sound]));
    let command = format!("run `mils models get {}`", file.display());
    let error = pack.check().unwrap_err();
    assert!(matches!(error, PackError::NotInstalled { of: None, .. }));
    assert!(error.to_string().contains(&format!("`far` is not installed; {command} (about 3.20 GB)")), "{error}");
    let sound = Some(Modality::Sound);
    assert_eq!(pack.amount(&[Modality::Sound]), Amount { bytes: 2_700_000_000, exact: false });
    assert_eq!(pack.sources(&pack.modalities()).len(), 3);
    assert_eq!(pack.sources(&[Modality::Sound])[1].terms.as_deref(), Some("ask first"));

    // The generator and the encoder of pictures are fetched: sounds are still to come.
    put(at, "org/llm", "g.gguf", 2_000_000_000);
    put(at, "org/clip", "config.json", 2);
    let model = put(at, "org/clip", "model.safetensors", 3);
    let mut pack = Pack::read(&file, &store).unwrap();
    assert_eq!(pack.installed(), [], "a file of another size is not the one that is meant");
    put(at, "org/clip", "model.safetensors", 500_000_000);
    pack.look_again(&store);
    pack.check().unwrap();
    assert_eq!((pack.installed(), pack.memory()), (vec![Modality::Image], 7));
    assert_eq!(pack.task(Modality::Image).unwrap().scorer, model.parent().unwrap());
    assert!(pack.task(Modality::Video).is_ok() && pack.describes(Modality::Video));
    assert!(pack.generator_path().unwrap().ends_with("g.gguf"));
    assert_eq!(pack.tasks().len(), 1);
    let error = pack.task(Modality::Sound).unwrap_err();
    assert!(matches!(error, PackError::NotInstalled { of, .. } if of == sound));
    let says =
        format!("is not installed for sounds; {} --modality sound` (about 700.0 MB)", command.trim_end_matches('`'));
    assert!(error.to_string().contains(&says), "{error}");
    let missing: Vec<&str> = pack.missing(&[Modality::Sound], &store).iter().map(|(_, f)| f.file.as_str()).collect();
    assert_eq!(missing, ["config.json", "m.bin"]);

    // What was converted is a folder of its own.
    let sources = pack.scorers(&[Modality::Sound])[0].to_vec();
    let folder = store.made(&sources).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let part = Part {
        name: "model.safetensors".into(),
        size: 1,
        sha256: "0".repeat(64),
        from: "org/clap".into(),
        revision: Some("main".into()),
        file: "m.bin".into(),
    };
    Manifest { version: 1, parts: vec![part] }.write(&folder).unwrap();
    pack.look_again(&store);
    assert_eq!(pack.task(Modality::Sound).unwrap().scorer, folder);
    assert_eq!(pack.still_missing(), Amount::NONE);

    // An encoder can be used without the generator.
    fs::remove_dir_all(at.join("hub/models--org--llm")).unwrap();
    pack.look_again(&store);
    assert_eq!(pack.installed(), []);
    assert_eq!(pack.scorer(Modality::Sound).unwrap(), folder);
    let error = pack.generator_path().unwrap_err().to_string();
    assert!(error.contains("is not installed; run") && error.contains("2.00 GB"), "{error}");
}

#[test]
fn mistakes_in_the_file_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pack.toml");
    for (text, says) in [
        (GOOD.replace("user", "usr"), "line 9: unknown field `usr`"),
        (GOOD.replace("[image]", "[picture]"), "unknown field `picture`"),
        (GOOD.replace("[image]\nscorer = 'clip'\ninitial = 'i.txt'\n", ""), "add a section [image]"),
        (format!("{GOOD}[image.loop]\nkeep = 0\n"), "`image.loop.keep` is 0"),
        (format!("{GOOD}[loop]\nkeep = 0\n"), "`loop.keep` is 0"),
        (format!("{GOOD}[loop]\nsteps = 'many'\n"), "line 11"),
        (GOOD.replace("path = 'g.gguf'", ""), "either a `path` or a `source`"),
        (GOOD.replace("'clip'", "{ repo = 'org/name' }"), "line 5: a source without files"),
        (
            GOOD.replace("path = 'g.gguf'", "source = { repo = 'org/name', files = ['a', 'b'] }"),
            "`generator.source` has one `file`",
        ),
        ("name = ".to_owned(), "line 1"),
        (String::new(), "missing field"),
    ] {
        fs::write(&file, &text).unwrap();
        let error = Pack::open(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{says}: {error}");
    }
}

/// The packs of this repository make sense, and say of what is large how large it is and what it hashes to.
#[test]
fn the_bundled_packs_are_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("packs");
    for name in known_in(std::slice::from_ref(&packs)) {
        let pack = Pack::read(&packs.join(format!("{name}.toml")), &store(dir.path())).unwrap();
        assert_eq!(pack.name, name);
        assert!(!pack.description.is_empty() && !pack.licence.is_empty(), "{name}");
        if name == "demo" {
            assert!(!pack.automatic && pack.sources(&pack.modalities()).is_empty());
            continue;
        }
        // Those that draw are for who names them.
        let draws = pack.drawing().worker.is_some();
        assert!(pack.automatic != draws && pack.memory.is_some(), "{name}");
        for source in pack.sources(&pack.modalities()) {
            assert!(!source.licence.is_empty(), "{name}: {}", source.place());
            let free = ["Apache-2.0", "MIT"].contains(&&source.licence[..]);
            assert_eq!(source.terms.is_none(), free, "{name}: what is not free needs consent: {}", source.place());
            assert!(free || ["paper", "sd15"].contains(&&name[..]), "{name}: {}", source.licence);
            for file in &source.files {
                let large = [".safetensors", ".gguf", ".bin", ".pth"].iter().any(|end| file.file.ends_with(end));
                let known = file.size.is_some() && file.sha256.is_some() || file.about.is_some();
                assert!(!large || known, "{name}: {}", file.file);
            }
        }
    }
}

#[test]
fn prompts_that_packs_share_stand_where_a_pack_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let shared = "[prompt]\nsystem = 'see'\nuser = 'shared'\n[sound]\nsystem = 'hear'\nuser = 'listen'\n";
    fs::write(dir.path().join("chat.toml"), shared).unwrap();
    let pack = |prompt: &str| {
        let file = dir.path().join("pack.toml");
        let sections = "[generator]\npath = 'g'\n[image]\nscorer = 'c'\ninitial = 'i'\n[video]\ninitial = 'v'\n[sound]\nscorer = 's'\ninitial = 'i'\n";
        fs::write(&file, format!("name = 'x'\nprompts = 'chat.toml'\n{sections}{prompt}")).unwrap();
        Pack::open(file.to_str().unwrap())
    };
    let prompt = |pack: &Pack, modality| pack.task(modality).unwrap().prompt;
    let words = |system: &str, user: &str| Prompts { system: system.into(), user: user.into() };
    let plain = pack("").unwrap();
    assert_eq!(prompt(&plain, Modality::Image), words("see", "shared"));
    assert_eq!(prompt(&plain, Modality::Sound), words("hear", "listen"));
    // Videos have their own texts to start from, and the encoder of pictures.
    let video = plain.task(Modality::Video).unwrap();
    assert!(video.initial.ends_with("v") && video.scorer.ends_with("c"));
    let own = pack("[prompt]\nuser = 'own'\n[sound.prompt]\nuser = 'mine'\n").unwrap();
    assert_eq!(prompt(&own, Modality::Image), words("see", "own"));
    assert_eq!(prompt(&own, Modality::Sound), words("hear", "mine"));
    fs::remove_file(dir.path().join("chat.toml")).unwrap();
    assert!(pack("").unwrap_err().to_string().contains("no such file of prompts"));
}

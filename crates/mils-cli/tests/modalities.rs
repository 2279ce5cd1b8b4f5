//! Pictures, videos and sounds through every command: told by their content, and each by the encoder that is for it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{conformance, copy, demo, fails, media, mils, pack, run, samples};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The demo pack with encoders of random weights for videos and sounds: what they say means nothing, and they are small.
fn random_pack() -> tempfile::TempDir {
    let dir = pack();
    for model in ["viclip", "clap-unfused"] {
        copy(&conformance().join(model), &dir.path().join(model));
    }
    fs::write(dir.path().join("sounds.txt"), "a dog barks\nrain\n").unwrap();
    let mut definition: toml::Table = fs::read_to_string(dir.path().join("pack.toml")).unwrap().parse().unwrap();
    let section = |scorer: &str, initial: &str, keep: i64| {
        let mut section = toml::Table::new();
        section.insert("scorer".into(), scorer.into());
        section.insert("initial".into(), initial.into());
        section.insert("loop".into(), toml::Table::from_iter([("keep".to_owned(), keep.into())]).into());
        toml::Value::from(section)
    };
    definition.insert("video".into(), section("viclip", "initial.txt", 3));
    definition.insert("sound".into(), section("clap-unfused", "sounds.txt", 2));
    fs::write(dir.path().join("pack.toml"), definition.to_string()).unwrap();
    dir
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Runs `mils caption` for one step with JSON.
fn caption(pack: &Path, files: &[PathBuf], more: &[&str]) -> (i32, Vec<Value>, String) {
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "1", "--propose", "4", "--format", "json", "--pack"]);
    let (code, stdout, stderr) = run(command.arg(pack).args(files).args(more));
    (code, lines(&stdout), stderr)
}

#[test]
fn a_files_content_says_what_it_is_and_which_encoder_scores_it() {
    let pack = random_pack();
    let at = pack.path();
    // Names that lie.
    let (video, sound) = (at.join("video.png"), at.join("sound.mp4"));
    fs::copy(media().join("videos/animated.gif"), &video).unwrap();
    fs::copy(media().join("sounds/vorbis.ogg"), &sound).unwrap();
    let files = [samples()[0].clone(), sound, video, samples()[1].clone()];
    let (trace, report) = (at.join("trace.jsonl"), at.join("report.html"));
    for in_flight in ["1", "3"] {
        let more = ["--in-flight", in_flight, "--trace", trace.to_str().unwrap(), "--report", report.to_str().unwrap()];
        let (code, results, stderr) = caption(at, &files, &more);
        assert_eq!(code, 0, "{stderr}");
        let told = |key: &str| results.iter().map(|r| r[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(told("modality"), ["image", "sound", "video", "image"]);
        let scorers: Vec<_> = results.iter().map(|r| r["models"]["scorer"].as_str().unwrap()).collect();
        let name = fs::read_to_string(at.join("pack.toml")).unwrap().parse::<toml::Table>().unwrap()["name"].clone();
        let of = |scorer: &str| format!("{}/{scorer}", name.as_str().unwrap());
        assert_eq!(scorers, ["clip", "clap-unfused", "viclip", "clip"].map(of));
        let keep: Vec<_> = results.iter().map(|r| r["settings"]["keep"].as_u64().unwrap()).collect();
        assert_eq!(keep, [12, 2, 3, 12], "each modality has its own settings");
    }
    let records = lines(&fs::read_to_string(&trace).unwrap());
    let mut opened: Vec<_> =
        records.iter().filter(|r| r["type"] == "scorer").map(|r| r["modality"].as_str().unwrap()).collect();
    opened.sort_unstable();
    assert_eq!(opened, ["image", "sound", "video"], "each encoder is opened once");
    let initial: Vec<_> = records.iter().filter(|r| r["step"] == 0 && r["type"] == "scored").collect();
    let of_sound = initial.iter().filter(|r| r["file"].as_str().unwrap().ends_with("sound.mp4"));
    assert_eq!(of_sound.count(), 2, "the sound starts from its own texts");
    let html = fs::read_to_string(&report).unwrap();
    assert_eq!(html.matches("<audio ").count(), 1, "a sound can be heard");
    assert!(html.matches("data:image/jpeg").count() >= 3, "pictures and frames are seen");
}

#[test]
fn a_modality_can_be_asked_for() {
    let pack = random_pack();
    let film = media().join("videos/h264.mp4");
    assert!(film.exists());
    for (file, modality) in [
        (samples()[0].clone(), "video"),
        (media().join("videos/animated.gif"), "image"),
        (film.clone(), "image"),
        (media().join("sounds/opus.webm"), "sound"),
    ] {
        let (code, results, stderr) = caption(pack.path(), &[file], &["--modality", modality]);
        assert_eq!((code, results[0]["modality"].as_str()), (0, Some(modality)), "{stderr}");
    }
    for (file, modality, says) in [
        (samples()[0].clone(), "sound", "no sound"),
        (media().join("videos/hevc.mp4"), "sound", "no sound"),
        (media().join("sounds/mono.flac"), "video", "video"),
        (media().join("sounds/mono.flac"), "image", "not an image"),
    ] {
        let (code, results, stderr) = caption(pack.path(), &[file], &["--modality", modality]);
        let error = results[0]["error"].as_str().unwrap();
        assert!(code == 1 && error.contains(says) && stderr.lines().count() == 1, "{error}\n{stderr}");
    }
}

#[test]
fn videos_need_no_model_of_their_own_and_what_a_pack_lacks_is_said() {
    let dir = pack();
    let at = dir.path();
    let mut definition: toml::Table = fs::read_to_string(at.join("pack.toml")).unwrap().parse().unwrap();
    definition.remove("video");
    definition.remove("sound");
    fs::write(at.join("pack.toml"), definition.to_string()).unwrap();
    let files = [media().join("sounds/mono.flac"), media().join("videos/animated.webp"), samples()[0].clone()];
    let (code, results, stderr) = caption(at, &files, &[]);
    assert_eq!((code, results.len()), (1, 3), "{stderr}");
    assert!(results[0]["error"].as_str().unwrap().contains("add a [sound] section"), "{}", results[0]);
    assert_eq!([&results[1]["modality"], &results[2]["modality"]], ["video", "image"]);
    assert_eq!(results[1]["models"]["scorer"], results[2]["models"]["scorer"], "by some of its frames");
    // A scorer of the wrong kind, and one that is damaged, are named.
    for (scorer, says) in [("clip", "is an encoder of pictures, not one for sounds"), ("gone", "gone is missing")] {
        let section = [("scorer", scorer), ("initial", "initial.txt")];
        let section = section.map(|(key, value)| (key.to_owned(), toml::Value::from(value)));
        definition.insert("sound".into(), toml::Table::from_iter(section).into());
        fs::write(at.join("pack.toml"), definition.to_string()).unwrap();
        fails(mils().args(["caption", "--backend", "cpu", "--pack"]).arg(at).arg(&files[0]), 1, &[says]);
    }
}

#[test]
fn encoders_embed_and_score_what_they_are_for() {
    let clap = conformance().join("clap-unfused");
    let (sound, film) = (media().join("sounds/mono.flac"), media().join("videos/animated.gif"));
    let embed = |model: &Path, files: &[&Path]| {
        let mut command = mils();
        command.args(["embed", "--backend", "cpu", "--text", "rain", "--model"]).arg(model).args(files);
        let (code, stdout, stderr) = run(&mut command);
        (code, lines(&stdout), stderr)
    };
    let row = |line: &Value| -> Vec<f64> {
        line["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (code, rows, stderr) = embed(&clap, &[&sound, &samples()[0], &sound]);
    assert_eq!((code, rows.len()), (1, 4), "{stderr}");
    assert!(rows[2]["error"].as_str().unwrap().contains("no sound"), "{}", rows[2]);
    let (first, again) = (row(&rows[1]), row(&rows[3]));
    assert!((dot(&first, &again) - 1.0).abs() < 1e-5 && (dot(&first, &first) - 1.0).abs() < 1e-5);

    // An encoder of pictures sees a video as the mean of its frames, and hears nothing.
    let clip = demo().join("pack/clip");
    let (code, rows, stderr) = embed(&clip, &[&film, &sound, &samples()[0]]);
    assert_eq!((code, rows.len()), (1, 4), "{stderr}");
    assert!(rows[2]["error"].as_str().unwrap().contains("is a sound"), "{}", rows[2]);
    assert!((dot(&row(&rows[1]), &row(&rows[1])) - 1.0).abs() < 1e-5);

    // Of a pack, the scorer of what is there first.
    let pack = random_pack();
    let dim = |file: &Path| row(&embed(pack.path(), &[file]).1[1]).len();
    assert_eq!(dim(&sound), first.len());
    assert_eq!(dim(&samples()[0]), row(&rows[3]).len());
    let mut command = mils();
    command.args(["score", "--backend", "cpu", "--text", "rain", "--text", "a dog", "--format", "json", "--model"]);
    let (code, stdout, stderr) = run(command.arg(pack.path()).arg(&film).arg(&sound));
    let results = lines(&stdout);
    assert_eq!((code, results.len()), (1, 2), "{stderr}");
    assert!(results[0]["results"].as_array().unwrap().len() == 2 && results[1]["error"].is_string(), "{stdout}");
}

#[test]
fn weights_that_are_not_for_all_uses_are_said_to_be() {
    let says = "are CC-BY-NC-4.0, not for commercial use (https://creativecommons.org/licenses/by-nc/4.0/)";
    let sound = media().join("sounds/mono.flac");
    let model = conformance().join("imagebind");
    for (quiet, noted) in [(&[][..], 1), (&["--quiet"][..], 0)] {
        let mut command = mils();
        command.args(["embed", "--backend", "cpu", "--model"]).arg(&model).arg(&sound).args(quiet);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!((code, stdout.lines().count(), stderr.matches(says).count()), (0, 1, noted), "{stderr}");
    }
    let pack = random_pack();
    copy(&model, &pack.path().join("imagebind"));
    let definition = fs::read_to_string(pack.path().join("pack.toml")).unwrap();
    fs::write(pack.path().join("pack.toml"), definition.replace("clap-unfused", "imagebind")).unwrap();
    let (code, results, stderr) = caption(pack.path(), &[sound.clone(), sound], &[]);
    assert_eq!((code, results.len(), stderr.matches(says).count()), (0, 2, 1), "{stderr}");
}

//! Reports: of runs as they are made and of their traces, whatever is in them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{demo, fails, mils, run, samples};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a page may not hold, whatever it is made of: anything from elsewhere, scripts that are not ours, tags and
/// references that lead nowhere. Gives its text without the media in it.
fn checked(page: &Path) -> String {
    let html = fs::read_to_string(page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#x27;none&#x27;;";
    assert!(html.contains(policy), "{}", &html[..600]);
    let (mut open, mut ids, mut wanted) = (Vec::new(), HashSet::new(), Vec::new());
    let mut plain = String::new();
    let mut rest = &html[..];
    while let Some((text, after)) = rest.split_once('<') {
        plain += text;
        let (tag, after) = after.split_once('>').unwrap();
        rest = after;
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {}", page.display());
            continue;
        }
        for (attribute, value) in attributes(tag) {
            match &attribute[..] {
                "id" => assert!(ids.insert(value.clone()), "{value} twice"),
                "aria-labelledby" => wanted.push(value.clone()),
                "src" | "href" => reference(page, &value, &mut wanted),
                "style" | "srcset" | "poster" | "data" => panic!("{attribute} in <{tag}>"),
                other => assert!(!other.starts_with("on"), "{other}"),
            }
        }
        plain += &format!("<{}>", if tag.len() > 500 { name } else { tag });
        if ["style", "script"].contains(&name) {
            let (inner, after) = rest.split_once(&format!("</{name}>")).unwrap();
            assert!(!inner.contains("url(") && !inner.contains("@import") && !inner.contains("fetch"));
            rest = after;
        } else if !["!doctype", "meta", "img"].contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!plain.contains("://"), "an address in {}", page.display());
    for id in wanted {
        assert!(ids.contains(&id), "no {id}");
    }
    plain
}

/// Names and values of a tag's attributes, which are all quoted.
fn attributes(tag: &str) -> Vec<(String, String)> {
    let (mut all, mut rest) = (Vec::new(), tag);
    while let Some((before, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"').unwrap();
        let name = before.rsplit([' ', '\n']).next().unwrap();
        all.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
    assert!(!rest.contains(['"', '=', '<']), "{tag}");
    all
}

/// Into the page, or to a file beside it that is there.
fn reference(page: &Path, value: &str, wanted: &mut Vec<String>) {
    if let Some(id) = value.strip_prefix('#') {
        wanted.push(id.to_owned());
    } else if !value.starts_with("data:") {
        assert!(value.starts_with("./") || value.starts_with("../"), "{value}");
        let path = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
        assert!(page.parent().unwrap().join(&*path).exists(), "{value} leads nowhere");
    }
}

fn escaped(text: &str) -> String {
    let mut out = text.replace('&', "&amp;");
    for (from, to) in [("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#x27;"), ("/", "&#x2f;")] {
        out = out.replace(from, to);
    }
    out
}

fn report(arguments: &[&str], paths: &[&Path]) -> (i32, String, String) {
    run(mils().arg("report").args(paths).args(arguments))
}

fn records(trace: &Path) -> Vec<Value> {
    fs::read_to_string(trace).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_trace_makes_the_report_that_the_run_made_and_every_text_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (trace, made, again) = (at("t.jsonl"), at("made.html"), at("again.html"));
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "3", "--propose", "12", "--keep", "6"]);
    command.args(&samples()[..2]).arg("--trace").arg(&trace).arg("--report").arg(&made);
    let (code, captions, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(report(&["-o", again.to_str().unwrap()], &[&trace]), (0, format!("{}\n", again.display()), "".into()));
    assert!(fs::read(&made).unwrap() == fs::read(&again).unwrap(), "the same records, the same page");
    let page = checked(&again);
    for caption in captions.lines() {
        assert!(page.contains(&escaped(caption.split_once('\t').unwrap().1)), "{caption}");
    }
    let words = |text: &str| text.replace("<mark>", "").replace("</mark>", "");
    // Tags at their ends are left out of the plain text; marks are of single words.
    let unmarked = words(&fs::read_to_string(&again).unwrap());
    for record in records(&trace) {
        let number = || record["number"].as_u64().unwrap() + 1;
        match record["type"].as_str().unwrap() {
            "scored" if record["step"] != 0 => {
                assert!(unmarked.contains(&escaped(record["text"].as_str().unwrap())), "{record}");
                assert!(record["answer"].as_u64().unwrap() >= 1);
            }
            "step" => {
                assert!(page.contains(&format!("id=\"file-{}-step-{}\"", number(), record["step"])), "{record}");
                let seconds = |phase: &str| record["seconds"][phase].as_f64().unwrap();
                let parts = seconds("input") + seconds("generate") + seconds("score");
                assert!(parts > 0.0 && parts <= seconds("total") + 1e-6, "{record}");
            }
            _ => {}
        }
    }
    let sum = |file: usize, phase: &str| -> f64 {
        let of = |r: &&Value| r["type"] == "step" && r["number"] == file;
        records(&trace).iter().filter(of).map(|r| r["seconds"][phase].as_f64().unwrap()).sum()
    };
    for end in records(&trace).iter().filter(|r| r["type"] == "end") {
        let number = end["number"].as_u64().unwrap() as usize;
        for phase in ["generate", "score"] {
            assert!((sum(number, phase) - end["seconds"][phase].as_f64().unwrap()).abs() < 1e-6, "{end}");
        }
        assert!(sum(number, "total") <= end["seconds"]["total"].as_f64().unwrap());
    }
}

#[test]
fn a_batch_has_an_index_and_players_for_videos_and_sounds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["3-castles.png", "6-carrot-and-teapot.mp4", "7-apple-and-duck.webp", "8-rooster.ogg"] {
        fs::copy(demo().join("samples").join(name), at(name)).unwrap();
    }
    fs::write(at("bad.png"), "not a picture").unwrap();
    let mut command = mils();
    command.current_dir(dir.path()).args([
        "caption",
        "--backend",
        "cpu",
        "--steps",
        "1",
        "--propose",
        "6",
        "--trace",
        "t.jsonl",
    ]);
    command.args(["3-castles.png", "6-carrot-and-teapot.mp4", "7-apple-and-duck.webp", "8-rooster.ogg", "bad.png"]);
    assert_eq!(run(command.args(["--report", "made/"])).0, 1);
    let (code, stdout, stderr) = report(&["--format", "json"], &[&at("t.jsonl")]);
    assert_eq!((code, &stderr[..]), (0, ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    for line in &lines {
        let path = Path::new(line["path"].as_str().unwrap());
        assert_eq!(fs::metadata(path).unwrap().len(), line["bytes"].as_u64().unwrap());
        assert!(path.starts_with(at("t-report")), "beside the trace");
        checked(path);
    }
    assert_eq!(
        (&lines[5]["files"], &lines[5]["failed"], &lines[5]["interrupted"]),
        (&5.into(), &1.into(), &false.into())
    );
    for report in ["t-report", "made"] {
        let index = checked(&at(report).join("index.html"));
        assert_eq!(index.matches("<img src").count() + index.matches("<img>").count(), 3, "{index}");
        assert!(index.contains("5 files, 1 failed") && index.contains("not a picture"), "{index}");
        let html = |number: usize| fs::read_to_string(at(report).join(format!("files/0000{number}.html"))).unwrap();
        assert!(html(1).contains("data:image/jpeg;base64,") && html(1).contains("href=\"./../../3-castles.png\""));
        assert!(html(2).contains("<video controls preload=\"metadata\" src=\"./../../6-carrot-and-teapot.mp4\">"));
        assert!(html(3).contains("<img class=\"look\" src=\"data:image/webp;base64,"));
        assert!(html(4).contains("<audio controls preload=\"metadata\" src=\"data:audio/ogg;base64,"));
        assert!(html(5).contains("<p class=\"error\">") && html(5).contains("not a picture"));
    }
    // In the page on demand, and on one page.
    let (code, _, stderr) =
        report(&["--embed-media", "--single", "-o", at("one/").to_str().unwrap()], &[&at("t.jsonl")]);
    assert_eq!(code, 0, "{stderr}");
    checked(&at("one/index.html"));
    assert!(fs::read_to_string(at("one/index.html")).unwrap().contains("src=\"data:video/mp4;base64,"));
    // Files that are gone are said to be.
    for name in ["3-castles.png", "8-rooster.ogg"] {
        fs::remove_file(at(name)).unwrap();
    }
    assert_eq!(report(&["-q"], &[&at("t.jsonl")]).0, 0);
    let page = checked(&at("t-report/files/00004.html"));
    assert!(page.contains("there is no file 8-rooster.ogg any more") && !page.contains("<audio"), "{page}");
}

/// A trace of files that were never captioned.
fn made_up(folder: &Path, names: &[&str]) -> PathBuf {
    let path = folder.join("made-up.jsonl");
    let settings = json!({
        "steps": 2, "keep": 2, "propose": 2, "asks": 1, "seed": 0, "label_scale": 100, "patience": null, "feedback": "true",
    });
    let mut records = vec![
        json!({
            "type": "run", "version": "0", "pack": "<p>", "generator": "g&g", "backend": "cpu", "generator_on": "CPU",
            "temperature": 1.0, "sampling": {"top_p": 0.9, "sequences": 2, "lines": 1, "context": 512},
            "in_flight": 1, "folder": folder,
        }),
        json!({"type": "scorer", "modality": "image", "scorer": "s", "initial_texts": 1, "settings": settings}),
    ];
    let evil = "<img src=x onerror=alert(1)> </style></title><script>alert('&')</script>";
    for (number, name) in names.iter().enumerate() {
        let score = |step: usize| 0.25 + step as f64 / 8.0 + number as f64 / 1024.0;
        records.push(json!({"type": "file", "file": name, "number": number, "modality": "image"}));
        for step in 0..2 {
            let text = format!("{evil} {step}");
            let best = json!({"text": text, "score": score(step), "step": step});
            records.push(json!({
                "type": "scored", "file": name, "number": number, "step": step, "text": text, "score": score(step),
            }));
            records.push(json!({
                "type": "unusable", "file": name, "number": number, "step": step, "text": evil, "reason": "chatter",
            }));
            records.push(json!({
                "type": "step", "file": name, "number": number, "step": step, "best": best, "mean_kept": 0.5, "scored": 1,
                "entered": 1, "unusable": 1, "seconds": {"input": 0.1, "generate": 0.2, "score": 0.3, "total": 1.0},
                "usage": {"prompt_tokens": 1, "reused_tokens": 0, "generated_tokens": 2},
            }));
        }
    }
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    // Where a run is killed while it writes.
    fs::write(&path, lines + "{\"type\": \"sco").unwrap();
    path
}

#[test]
fn nothing_in_a_name_or_a_text_gets_out_of_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let names =
        ["\"><script>alert(1)</script>.png", "a' onload='alert(1).png", "javascript:alert(1)", "{{ 7 * 7 }} & ü.png"];
    if cfg!(unix) {
        // None of them has a slash but the first, which is not there.
        for name in &names[1..] {
            fs::copy(&samples()[0], dir.path().join(name)).unwrap();
        }
    }
    let trace = made_up(dir.path(), &names);
    let (one, many) = (dir.path().join("one.html"), dir.path().join("many/"));
    for output in [&one, &many] {
        let (code, _, stderr) = report(&["-o", output.to_str().unwrap()], &[&trace]);
        assert!(code == 0 && stderr.starts_with("mils: a trace ends within a line"), "{stderr}");
    }
    let mut pages: Vec<PathBuf> = (1..=4).map(|n| many.join(format!("files/0000{n}.html"))).collect();
    pages.extend([one, many.join("index.html")]);
    for (i, page) in pages.iter().enumerate() {
        let plain = checked(page);
        let html = fs::read_to_string(page).unwrap();
        assert_eq!(html.matches("<script").count(), usize::from(i >= 4), "no script but ours");
        for name in if i < 4 { &names[i..=i] } else { &names[..] } {
            assert!(plain.contains(&escaped(name)), "{name} is not in {}", page.display());
        }
        assert!(plain.contains("&lt;img src=x onerror=alert(1)&gt;"));
        assert!(i >= 4 || cfg!(not(unix)) || i == 0 || html.contains("data:image/jpeg"));
        assert!(html.contains("no end") || html.contains("without an end"));
    }
}

#[test]
fn bad_traces_and_places_are_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let good = made_up(dir.path(), &["a.png"]);
    let whole = fs::read_to_string(&good).unwrap();
    let with = |paths: &[&Path], arguments: &[&str]| {
        let mut command = mils();
        command.arg("report").args(paths).args(arguments);
        command
    };
    let damaged = whole.replacen("\"type\":\"scored\"", "\"type\":\"scored", 1);
    fails(&mut with(&[&good, &at("damaged.jsonl", &damaged)], &[]), 1, &["damaged.jsonl, line 4: "]);
    fails(&mut with(&[&at("x.jsonl", "my notes\n")], &[]), 1, &["x.jsonl, line 1: ", "it is no trace"]);
    fails(&mut with(&[&at("empty.jsonl", "")], &[]), 1, &["empty.jsonl: no file was begun in it"]);
    fails(&mut with(&[&dir.path().join("none.jsonl")], &[]), 1, &["cannot read the trace", "none.jsonl"]);
    fails(&mut with(&[dir.path()], &[]), 1, &["it is a folder"]);
    fails(
        &mut with(&[&good], &["-q", "-o", "/nonexistent/r.html"]),
        1,
        &["cannot write the report /nonexistent/r.html"],
    );
    let written =
        || fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_none()).count();
    assert_eq!(written(), 0, "nothing is written of what cannot be read");
    // No report goes over somebody's pages or over its trace.
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/index.html"), "<html>").unwrap();
    fails(&mut with(&[&good], &["-q", "-o", dir.path().join("mine").to_str().unwrap()]), 1, &["is no report"]);
    let (code, _, stderr) = report(&["-o", good.to_str().unwrap()], &[&good]);
    assert!(code == 2 && stderr.contains("--output would overwrite the trace"), "{stderr}");
    assert_eq!(run(mils().args(["report"])).0, 2);
    assert_eq!(report(&["--embed-media=x"], &[&good]).0, 2);
    let help = run(mils().args(["report", "--help"])).1;
    assert!(help.contains("Examples:") && help.contains("--single"), "{help}");
}

#[test]
fn many_files_have_a_row_each() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300).map(|i| format!("no/{i}.png")).collect();
    let trace = made_up(dir.path(), &names.iter().map(|name| &name[..]).collect::<Vec<_>>());
    let index = dir.path().join("made-up-report/index.html");
    assert_eq!(report(&["-q"], &[&trace, &trace]), (0, format!("{}\n", index.display()), "".into()));
    let page = checked(&index);
    assert!(page.contains("600 files, 600 without an end"), "{page}");
    let places: Vec<_> = names.iter().map(|name| page.find(&format!(">{}\n", escaped(name))).unwrap()).collect();
    assert!(places.is_sorted(), "in the order in which they began");
    checked(&dir.path().join("made-up-report/files/00600.html"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_an_index_of_what_is_there() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20_000).map(|i| format!("no/{i}.png")).collect();
    let trace = made_up(dir.path(), &names.iter().map(|name| &name[..]).collect::<Vec<_>>());
    // Files with ends, since those without come last.
    let ended: String = records_without_last(&trace);
    fs::write(&trace, ended).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    command.arg("report").arg(&trace).args(["--format", "json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let last: Value = serde_json::from_str(&lines.map(Result::unwrap).last().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let files = last["files"].as_u64().unwrap();
    assert!(files < 20_000 && last["interrupted"] == true, "{last}");
    let index = checked(Path::new(last["path"].as_str().unwrap()));
    assert!(index.contains(&format!("{files} files of 20000: the report was interrupted")));
}

/// A trace whose files have failed each after its last step, and whose last line is whole.
#[cfg(unix)]
fn records_without_last(trace: &Path) -> String {
    let text = fs::read_to_string(trace).unwrap();
    let (whole, _) = text.rsplit_once('\n').unwrap();
    let mut out = String::new();
    for line in whole.lines() {
        out += &format!("{line}\n");
        let record: Value = serde_json::from_str(line).unwrap();
        if record["type"] == "step" && record["step"] == 1 {
            let failed = json!({"type": "failed", "file": record["file"], "number": record["number"], "error": "x"});
            out += &format!("{failed}\n");
        }
    }
    out
}

/// A browser, to look at pages with: `MILS_TEST_BROWSER`, or a Chromium that is installed. Without one the look of
/// reports is not tested, which is said; a machine need not have one.
fn browser() -> Option<PathBuf> {
    if std::env::var_os("MILS_TEST_SKIP_BROWSER").is_some() {
        eprintln!("MILS_TEST_SKIP_BROWSER is set: REPORTS ARE NOT TESTED IN A BROWSER");
        return None;
    }
    if let Some(path) = std::env::var_os("MILS_TEST_BROWSER") {
        return Some(path.into());
    }
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found = names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("no Chromium is installed, and MILS_TEST_BROWSER not set: REPORTS ARE NOT TESTED IN A BROWSER");
    }
    found
}

/// What a browser makes of a page, and what it complains of.
fn seen(browser: &Path, page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    let output = command.arg(format!("file://{}", page.display())).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    (text(&output.stdout), told.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_browser_shows_pages_without_complaint_and_sorts_the_index() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.png", "a.png"] {
        fs::copy(&samples()[0], dir.path().join(name)).unwrap();
    }
    let trace = made_up(dir.path(), &["b.png", "gone.png", "a.png"]);
    assert_eq!(report(&["-q"], &[&trace]).0, 0);
    let index = dir.path().join("made-up-report/index.html");
    let order = |dom: &str| {
        let at = |name: &str| dom.find(&format!(">{name}</a>")).unwrap_or_else(|| panic!("no {name} in {dom}"));
        let mut all = [("b", at("b.png")), ("gone", at("gone.png")), ("a", at("a.png"))];
        all.sort_by_key(|(_, at)| *at);
        all.map(|(name, _)| name)
    };
    let (dom, console) = seen(&browser, &index);
    assert_eq!((order(&dom), &console[..]), (["b", "gone", "a"], ""));
    assert_eq!(dom.matches("<button").count(), 8, "our script runs: the policy names it");
    for number in 1..=3 {
        let (dom, console) = seen(&browser, &dir.path().join(format!("made-up-report/files/0000{number}.html")));
        assert!(console.is_empty() && dom.contains("How the caption came to be"), "{console}");
    }
    // Another script is not run.
    let html = fs::read_to_string(&index).unwrap();
    let click = |column: usize, times: usize| {
        format!(
            "<script>for (let i = 0; i < {times}; i++) document.querySelectorAll('th button')[{column}].click();</script>"
        )
    };
    let changed = dir.path().join("made-up-report/changed.html");
    fs::write(&changed, html.replace("</body>", &(click(1, 1) + "</body>"))).unwrap();
    let (dom, console) = seen(&browser, &changed);
    assert!(order(&dom) == ["b", "gone", "a"] && console.contains("Content Security Policy"), "{console}");
    // Without the policy it may click: by name up and down, by score down and up.
    let free = html.replacen("http-equiv=\"Content-Security-Policy\"", "name=\"none\"", 1);
    for (column, times, expected) in
        [(1, 1, ["a", "b", "gone"]), (1, 2, ["gone", "b", "a"]), (3, 1, ["a", "gone", "b"]), (3, 2, ["b", "gone", "a"])]
    {
        fs::write(&changed, free.replace("</body>", &(click(column, times) + "</body>"))).unwrap();
        assert_eq!(order(&seen(&browser, &changed).0), expected, "column {column}, {times} times");
    }
}

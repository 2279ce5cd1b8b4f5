//! The protocol, against workers that are shell scripts.

use super::*;

fn worker(script: &str) -> Result<Worker> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    Worker::start("fake", command)
}

/// Greets, and answers each kind of request; ends when stdin does.
const WHOLE: &str = r#"
echo '{"versions": {"fake": "1.2"}}'
while read -r line; do
  case "$line" in
    *'"op":"load"'*'"model":"/m"'*) echo '{"seconds": 0.5}' ;;
    *'"op":"input"'*'"kind":"tokens","shape":[2,3]'*) echo '{}' ;;
    *'"op":"run"'*'"repeats":2'*) echo '{"seconds": [0.25, 0.75]}' ;;
    *'"op":"embed"'*) echo '{"shape": [1, 2], "data": [0.6, 0.8]}' ;;
    *) echo '{"error": "what?"}' ;;
  esac
done
"#;

#[test]
fn every_request_has_its_answer() {
    let mut worker = worker(WHOLE).unwrap();
    assert_eq!(worker.versions["fake"], "1.2");
    let (model, cache) = (Path::new("/m"), Path::new("/c"));
    assert_eq!(worker.ask::<Loaded>(&Ask::Load { model, cache }).unwrap().seconds, 0.5);
    let input = Ask::Input { id: "x", kind: "tokens", shape: &[2, 3], file: Path::new("/f") };
    worker.ask::<Done>(&input).unwrap();
    assert_eq!(worker.ask::<Ran>(&Ask::Run { id: "x", repeats: 2 }).unwrap().seconds, [0.25, 0.75]);
    let embedded: Embedded = worker.ask(&Ask::Embed { id: "x" }).unwrap();
    assert_eq!((embedded.shape, &embedded.data[..]), ([1, 2], &[0.6, 0.8][..]));
    // An error is that of one request, the next is answered.
    let error = worker.ask::<Ran>(&Ask::Run { id: "x", repeats: 3 }).err().unwrap();
    assert_eq!(error.to_string(), "what?");
    assert!(worker.ask::<Embedded>(&Ask::Embed { id: "x" }).is_ok());
    // An answer to something else is an error too.
    assert!(worker.ask::<Ran>(&Ask::Embed { id: "x" }).is_err());
    if cfg!(target_os = "linux") {
        assert!(worker.cpu_seconds().is_some_and(|s| s < 5.0));
    }
    let process = worker.process();
    drop(worker);
    assert!(!Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn whoever_has_not_what_it_needs_says_so_in_a_line() {
    let missing = worker(r#"echo '{"error": "Python has no torch; pip install torch"}'"#).err().unwrap();
    assert_eq!(missing.to_string(), "Python has no torch; pip install torch");
    let dead = worker("echo 'Segmentation fault' >&2; exit 3").err().unwrap().to_string();
    assert!(dead.contains("fake has ended") && dead.contains("Segmentation fault") && dead.contains('3'), "{dead}");
    let noise = worker("echo hello").err().unwrap().to_string();
    assert!(noise.contains("hello") && !noise.contains('\n'), "{noise}");
    assert!(Worker::start("none", Command::new("no-such-program-here")).is_err());
}

#[test]
fn a_worker_that_dies_midway_is_an_error_of_that_request() {
    let mut worker = worker("echo '{\"versions\": {}}'; read -r line; exit 1").unwrap();
    let error = worker.ask::<Ran>(&Ask::Run { id: "x", repeats: 1 }).err().unwrap();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert!(worker.ask::<Ran>(&Ask::Run { id: "x", repeats: 1 }).is_err());
}

#[test]
fn peers_are_known_by_name_and_those_missing_are_left_out() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(Peers::new(None, None, 1).unwrap().wanted, [""; 0]);
    assert_eq!(Peers::new(Some(&[]), None, 1).unwrap().wanted, NAMES);
    let error = Peers::new(Some(&names(&["jax"])), None, 1).unwrap_err();
    assert!(error.to_string().contains("no jax; there are ort-f32"));
    let nowhere = Some("/nowhere/python".into());
    let peers = Peers::new(Some(&names(&["torch-f32", "ort-f32"])), nowhere, 1).unwrap();
    let mut said = Vec::new();
    assert!(peers.start(&|_| (), &mut |line| said.push(line)).is_empty());
    assert!(said.len() == 2 && said[0].starts_with("torch-f32 is left out: cannot start /nowhere"), "{said:?}");
}

/// A program in place of candle's, of this source.
fn source(folder: &Path, main: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("src"))?;
    let package = "name = \"mils-bench-candle\"\nversion = \"0.0.0\"\n";
    let manifest = format!("[package]\n{package}edition = \"2024\"\n[workspace]\n");
    std::fs::write(folder.join("Cargo.toml"), manifest)?;
    std::fs::write(folder.join("Cargo.lock"), format!("version = 4\n[[package]]\n{package}"))?;
    std::fs::write(folder.join("src/main.rs"), main)
}

#[test]
fn candle_is_built_when_it_is_named_and_again_when_it_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (sources, target) = (folder.path().join("candle"), folder.path().join("target"));
    let candle = |named| {
        let wanted = if named { vec![CANDLE.to_owned()] } else { vec![] };
        let mut peers = Peers::new(Some(&wanted), Some("/nowhere/python".into()), 3).unwrap();
        peers.candle = Candle::at(sources.clone(), target.clone());
        peers
    };
    let nothing = candle(true).start_one(CANDLE).err().unwrap();
    assert!(format!("{nothing:#}").starts_with("cannot start "), "{nothing:#}");
    source(&sources, "fn main() { broken }").unwrap();
    // Whoever did not name it is told how to get it; whoever did, why that fails.
    let unnamed = candle(false).start_one(CANDLE).err().unwrap().to_string();
    assert_eq!(unnamed, "it is not built; --peers=candle builds it");
    let broken = candle(true).start_one(CANDLE).err().unwrap().to_string();
    assert!(broken.contains("does not build") && broken.contains("`broken`") && !broken.contains('\n'), "{broken}");

    let greet = |what: &str| {
        source(
            &sources,
            &format!(
                r#"fn main() {{
                    let threads = std::env::var("RAYON_NUM_THREADS").unwrap();
                    println!("{{{{\"versions\": {{{{\"{what}\": \"{{threads}}\"}}}}}}}}");
                }}"#
            ),
        )
        .unwrap();
    };
    greet("first");
    let mut said = Vec::new();
    let first = candle(true).start(&|what| assert!(what.ends_with("built first")), &mut |line| said.push(line));
    assert_eq!((first.len(), &first[0].versions["first"][..], said.len()), (1, "3", 0));
    greet("second");
    // A time of the same second would do, but not of the same tick of the file system's clock.
    std::fs::File::options().append(true).open(sources.join("src/main.rs")).unwrap().set_modified(soon()).unwrap();
    assert_eq!(candle(false).start_one(CANDLE).unwrap().versions["second"], "3");
}

fn soon() -> std::time::SystemTime {
    std::time::SystemTime::now() + Duration::from_secs(2)
}

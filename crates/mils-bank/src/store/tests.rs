//! What is kept is found again, and what is damaged is not.

use super::*;

const DIM: usize = 3;

fn store(dir: &Path) -> Store {
    Store::new(dir.join("made/when/needed"), u64::MAX)
}

fn encoder(dir: &Path, weights: &str) -> Identity {
    let folder = dir.join("checkpoint");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    Identity::of_checkpoint(&folder, &[]).unwrap()
}

fn texts(range: Range<usize>) -> Vec<String> {
    range.map(|i| format!("text {i}")).collect()
}

fn rows(range: Range<usize>) -> Vec<f32> {
    range.flat_map(|i| [i as f32, 0.5, -1.0 / (i + 1) as f32]).collect()
}

fn all(found: Found) -> Vec<f32> {
    match found {
        Found::All(tensor) => {
            assert!(tensor.is_lent() || cfg!(target_endian = "big"), "it is read where it is mapped");
            tensor.into_f32().unwrap()
        }
        Found::Some(Known { missing, .. }) => panic!("{missing:?} are missing"),
    }
}

fn some(found: Found) -> Known {
    match found {
        Found::All(_) => panic!("all is there"),
        Found::Some(known) => known,
    }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "notes are given away")]
fn quiet(note: String) {
    panic!("{note}");
}

fn files(store: &Store) -> Vec<PathBuf> {
    store.files().into_iter().map(|file| file.path).collect()
}

#[test]
fn a_list_is_found_again_under_its_encoder_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, of) = (store(dir.path()), encoder(dir.path(), "a"));
    assert_eq!(some(store.find(&of, DIM, &texts(0..4), &mut quiet)).missing, [0, 1, 2, 3]);
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    assert_eq!(all(store.find(&of, DIM, &texts(0..4), &mut quiet)), rows(0..4));
    let other = encoder(dir.path(), "b");
    assert_eq!(some(store.find(&other, DIM, &texts(0..4), &mut quiet)).missing.len(), 4);
    assert_eq!(store.usage(), Usage { files: 1, bytes: 192 + 4 * 3 * 4 });
    // An empty list is one, too; so are rows that do not fit none.
    store.keep(&of, DIM, &[], &[]).unwrap();
    assert_eq!(all(store.find(&of, DIM, &[], &mut quiet)), [0.0; 0]);
    assert!(store.keep(&of, DIM, &texts(0..2), &rows(0..1)).is_err());
    assert_eq!(store.clear().unwrap().files, 2);
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn a_list_that_has_grown_takes_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (store, of) = (store(dir.path()), encoder(dir.path(), "a"));
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    store.keep(&of, DIM, &texts(8..10), &rows(8..10)).unwrap();
    // In another order, one of them twice, and new ones among them.
    let wanted: Vec<String> = [9, 2, 50, 2, 8, 51].map(|i| format!("text {i}")).to_vec();
    let known = some(store.find(&of, DIM, &wanted, &mut quiet));
    assert_eq!(known.missing, [2, 5]);
    let expected: Vec<f32> = [Some(9), Some(2), None, Some(2), Some(8), None]
        .into_iter()
        .flat_map(|i| i.map_or(vec![0.0; 3], |i| rows(i..i + 1)))
        .collect();
    assert_eq!(known.rows, expected);
    let known = some(store.find(&of, DIM, &texts(1..3), &mut quiet));
    assert!(known.missing.is_empty() && known.rows == rows(1..3));
    store.forget(&of, &texts(8..10));
    assert_eq!(some(store.find(&of, DIM, &texts(8..10), &mut quiet)).missing, [0, 1]);
}

#[test]
fn every_damaged_byte_is_seen_and_the_file_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, of) = (store(dir.path()), encoder(dir.path(), "a"));
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    let path = files(&store).remove(0);
    let good = fs::read(&path).unwrap();
    let padding = HEADER + 4 * KEY..rows_at(4);
    for at in (0..good.len()).filter(|at| !padding.contains(at)) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let mut notes = Vec::new();
        let known = some(store.find(&of, DIM, &texts(0..4), &mut |note| notes.push(note)));
        assert_eq!(known.missing.len(), 4, "byte {at}");
        assert!(notes.len() == 1 && notes[0].contains("embedded anew") && !notes[0].contains('\n'), "{notes:?}");
        assert!(!path.exists(), "it is in nobody's way");
    }
    for length in [0, 1, 127, 128, 200, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        let mut notes = 0;
        assert_eq!(some(store.find(&of, DIM, &texts(0..4), &mut |_| notes += 1)).missing.len(), 4);
        assert_eq!(notes, 1, "{length} bytes");
    }
    // A foreign file, and one of a list that only shares texts.
    fs::write(path.with_file_name("x.rows"), "something else").unwrap();
    let mut notes = 0;
    assert_eq!(some(store.find(&of, DIM, &texts(0..2), &mut |_| notes += 1)).missing.len(), 2);
    assert_eq!(notes, 1);
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), good, "the same again");
}

#[test]
fn the_least_recently_used_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let of = encoder(dir.path(), "a");
    let size = (rows_at(1) + 12) as u64;
    let store = Store::new(dir.path().join("store"), 3 * size);
    let age = |path: &Path, hours: u64| {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    };
    for i in 0..3 {
        store.keep(&of, DIM, &texts(i..i + 1), &rows(i..i + 1)).unwrap();
    }
    let path = |i: usize| store.path(&of, &list_hash(&[key(&format!("text {i}"))]));
    for i in 0..3 {
        age(&path(i), 10 - i as u64);
    }
    // The oldest is used again; so it is the next one that goes.
    all(store.find(&of, DIM, &texts(0..1), &mut quiet));
    store.keep(&of, DIM, &texts(3..4), &rows(3..4)).unwrap();
    let there: Vec<bool> = (0..4).map(|i| path(i).exists()).collect();
    assert_eq!(there, [true, false, true, true]);
    let error = store.keep(&of, DIM, &texts(0..100), &rows(0..100)).unwrap_err().to_string();
    assert!(error.contains("MILS_CACHE_SIZE"), "{error}");
    assert_eq!(store.usage().files, 3, "nothing was lost for what does not fit");
    // What a killed process left is taken away in time.
    let left = path(0).with_file_name(".new-abc");
    fs::write(&left, "half").unwrap();
    store.usage();
    assert!(left.exists());
    age(&left, 25);
    store.usage();
    assert!(!left.exists());
}

#[test]
fn what_is_mapped_stays_readable_when_others_tidy_up() {
    let dir = tempfile::tempdir().unwrap();
    let (store, of) = (store(dir.path()), encoder(dir.path(), "a"));
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    let found = store.find(&of, DIM, &texts(0..4), &mut quiet);
    // Two processes write the same; one takes it all away.
    store.keep(&of, DIM, &texts(0..4), &rows(0..4)).unwrap();
    if cfg!(unix) {
        store.clear().unwrap();
    }
    assert_eq!(all(found), rows(0..4));
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let of = encoder(dir.path(), "a");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let store = Store::new(file.join("below a file"), u64::MAX);
    assert!(store.keep(&of, DIM, &texts(0..1), &rows(0..1)).is_err());
    assert_eq!(some(store.find(&of, DIM, &texts(0..1), &mut quiet)).missing, [0]);
    assert_eq!((store.usage(), store.clear().unwrap()), (Usage::default(), Usage::default()));
}

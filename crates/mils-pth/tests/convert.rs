//! Files of torch.save against what PyTorch reads in them; what is refused; damage and malice of every kind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_pth::{Checkpoint, MOST_GROWTH, Options, PthError};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::io::{Cursor, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

fn all() -> Options {
    Options::default()
}

fn skipping() -> Options {
    Options { skip_objects: true, ..Options::default() }
}

fn written(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut out = Vec::new();
    checkpoint.write_safetensors(&mut out, &mut |_| ControlFlow::Continue(())).unwrap();
    out
}

/// Both have the same tensors, to the bit.
fn same(name: &str, ours: &[u8], theirs: &[u8]) {
    let (ours, theirs) = (SafeTensors::deserialize(ours).unwrap(), SafeTensors::deserialize(theirs).unwrap());
    let mut names: Vec<&str> = theirs.names().into_iter().collect();
    let mut found: Vec<&str> = ours.names().into_iter().collect();
    names.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, names, "{name}");
    for tensor in names {
        let (a, b) = (ours.tensor(tensor).unwrap(), theirs.tensor(tensor).unwrap());
        assert_eq!((a.dtype(), a.shape(), a.data()), (b.dtype(), b.shape(), b.data()), "{name}: {tensor}");
    }
}

#[test]
fn files_of_pytorch_are_read_as_pytorch_reads_them() {
    for name in ["dtypes", "views", "training", "protocol-4", "old", "old-training"] {
        let checkpoint = Checkpoint::open(&file(&format!("{name}.pth")), &all()).unwrap();
        let out = written(&checkpoint);
        same(name, &out, &std::fs::read(file(&format!("{name}.safetensors"))).unwrap());
        assert_eq!(checkpoint.bytes(), checkpoint.tensors().iter().map(|t| t.bytes() as u64).sum::<u64>());
        let (header, _) = SafeTensors::read_metadata(&out).unwrap();
        assert!(header.is_multiple_of(8), "{name}: elements are aligned");
    }
}

#[test]
fn a_prefix_is_taken_off_and_one_that_is_not_there_is_said() {
    let of = |prefix: &str| Options { prefix: prefix.into(), ..Options::default() };
    let model = Checkpoint::open(&file("training.pth"), &of("model.")).unwrap();
    let mut names: Vec<&str> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["count", "inner.0.bias", "inner.0.weight", "inner.1.bias", "inner.1.weight", "weight"]);
    assert!(model.others() > 5 && model.skipped().is_empty());
    let error = refused(&file("training.pth"), &of("modal."));
    assert!(error.contains("begins with `modal.`") && error.contains("`model.`, `optimizer.`"), "{error}");
}

fn refused(path: &Path, options: &Options) -> String {
    match Checkpoint::open(path, options) {
        Ok(_) => String::from("it was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn code_is_refused_by_name_and_other_files_say_what_they_are() {
    for (name, says) in [
        ("os-system.pth", "asks for `posix.system`, which is code"),
        ("module.pth", "asks for `torch.nn.modules.linear.Linear`"),
        ("sparse.pth", "asks for `torch._utils._rebuild_sparse_tensor`"),
        ("objects.pth", "asks for `argparse.Namespace`"),
        ("number.pth", "holds one value"),
        ("plain.pth", "none of torch.save's"),
        ("deflated.pth", "compressed, which torch.save never does"),
        ("dtypes.safetensors", "no PyTorch checkpoint"),
        ("missing.pth", "cannot be read"),
        ("", "is no file"),
    ] {
        let error = refused(&file(name), &all());
        assert!(error.contains(says) && error.lines().count() == 1, "{name}: {error}");
    }
    assert!(matches!(Checkpoint::open(&file("os-system.pth"), &all()), Err(PthError::Code { .. })));
}

#[test]
fn objects_are_passed_over_where_that_is_asked_for() {
    let checkpoint = Checkpoint::open(&file("objects.pth"), &skipping()).unwrap();
    assert_eq!(checkpoint.skipped(), ["argparse.Namespace"]);
    same("objects", &written(&checkpoint), &std::fs::read(file("objects.safetensors")).unwrap());
    let checkpoint = Checkpoint::open(&file("os-system.pth"), &skipping()).unwrap();
    assert_eq!((checkpoint.skipped(), checkpoint.tensors().len()), (&["posix.system".to_owned()][..], 1));
    assert!(refused(&file("module.pth"), &skipping()).contains("an object of other code"));
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    for name in ["views.pth", "training.pth", "old.pth", "old-training.pth"] {
        let bytes = std::fs::read(file(name)).unwrap();
        for end in 0..bytes.len() {
            let cut = Checkpoint::from_bytes(Path::new(name), bytes[..end].to_vec(), &all());
            let error = cut.err().unwrap_or_else(|| panic!("{name} up to {end} was read"));
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

#[test]
fn whoever_is_told_of_the_progress_may_stop() {
    let checkpoint = Checkpoint::open(&file("views.pth"), &all()).unwrap();
    let mut told = Vec::new();
    checkpoint
        .write_safetensors(&mut Vec::new(), &mut |n| {
            told.push(n);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(told.is_sorted() && told.last() == Some(&checkpoint.bytes()));
    let stopped = checkpoint.write_safetensors(&mut Vec::new(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(PthError::Stopped)));
}

/// A checkpoint of this pickle, with one storage of four floats.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16][..])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn error_of(pickle: &[u8]) -> String {
    match Checkpoint::from_bytes(Path::new("made.pth"), checkpoint(pickle), &all()) {
        Ok(found) => format!("it was read: {:?}", found.tensors()),
        Err(error) => error.to_string(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(n: i32) -> Vec<u8> {
    [b"J", &n.to_le_bytes()[..]].concat()
}

/// A call of `_rebuild_tensor_v2` on so many floats of storage `key`.
fn tensor(key: &str, elements: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |items: &[i32]| [b"(".to_vec(), items.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(elements),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89NtR".to_vec(),
    ]
    .concat()
}

/// `{"w": value}`
fn under_w(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", &text("w")[..], value, b"s."].concat()
}

#[test]
fn views_outside_their_storage_are_refused() {
    let good = Checkpoint::from_bytes(
        Path::new("made.pth"),
        checkpoint(&under_w(&tensor("0", 4, 0, &[2, 2], &[2, 1]))),
        &all(),
    );
    assert_eq!(good.unwrap().bytes(), 16);
    for (value, says) in [
        (tensor("0", 4, 1, &[2, 2], &[2, 1]), "reaches beyond its storage"),
        (tensor("0", 4, 0, &[2, 2], &[3, 1]), "reaches beyond its storage"),
        (tensor("0", 5, 0, &[2, 2], &[2, 1]), "fewer bytes than it says"),
        (tensor("1", 4, 0, &[2, 2], &[2, 1]), "storage `1`, which is missing"),
        (tensor("0", 4, -1, &[2, 2], &[2, 1]), "counts with -1"),
        (tensor("0", 4, 0, &[2, -2], &[2, 1]), "counts with -2"),
        (tensor("0", 4, 0, &[2, 2], &[1]), "shape and strides do not fit"),
        (tensor("0", 4, 0, &[i32::MAX; 8], &[0; 8]), "larger than memory"),
        (tensor("0", 4, 0, &[1; 65], &[0; 65]), "65 dimensions"),
        // A gigabyte out of one float.
        (tensor("0", 4, 0, &[1 << 14, 1 << 14], &[0, 0]), "more than 4 times its own size"),
    ] {
        let error = error_of(&under_w(&value));
        assert!(error.contains(says) && error.lines().count() == 1, "{says}: {error}");
    }
}

#[test]
fn pickles_that_grow_or_never_end_are_refused() {
    // A dictionary that is inside itself.
    let circle = [b"\x80\x02}q\x00", &text("w")[..], b"h\x00s."].concat();
    assert!(error_of(&circle).contains("inside each other without an end"));
    // Each dictionary has the one before twice.
    let mut laughs = [b"\x80\x02}q\x00", &text("w")[..], &int(1), b"s"].concat();
    for level in 0..60_u8 {
        let twice = [text("a"), vec![b'h', level], text("b"), vec![b'h', level]].concat();
        laughs.extend([b"0}(", &twice[..], b"uq", &[level + 1]].concat());
    }
    laughs.push(b'.');
    assert!(error_of(&laughs).contains("inside each other without an end"));
    // A list of a thousand pairs, made into a dictionary again and again.
    let pair = [text("k"), b"N\x86".to_vec()].concat();
    let mut copies = [b"\x80\x02]q\x00(", &pair.repeat(1000)[..], b"e0ccollections\nOrderedDict\nq\x010"].concat();
    copies.extend(b"h\x01h\x00\x85R0".repeat(10_000));
    copies.extend(b"}.");
    assert!(error_of(&copies).contains("makes more than"));
    for (pickle, says) in [
        (b"\x80\x02".to_vec(), "ends too early"),
        (b"\x80\x02R.".to_vec(), "takes a value that is not there"),
        (b"\x80\x02}h\x05.".to_vec(), "recalls a value that was not kept"),
        (b"\x80\x02]t.".to_vec(), "has no mark"),
        (b"\x80\x02NN\x86Q.".to_vec(), "where a storage should be"),
        (b"\x80\x02N)R.".to_vec(), "calls what is no function"),
        (b"\x80\x02P0\n.".to_vec(), "instruction 0x50"),
        (b"\x80\x02(ios\nsystem\n.".to_vec(), "instruction 0x69"),
        (b"\x80\x02cos\nsystem\n)R.".to_vec(), "asks for `os.system`"),
        (b"\x80\x02cbuiltins\neval\n.".to_vec(), "asks for `builtins.eval`"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "asks for `os.system`"),
        (b"\x80\x02ctorch\n\x1b[31m\n.".to_vec(), "asks for `torch.\\u{1b}[31m`"),
        ([&b"\x80\x02}"[..], &text("a"), &b"N"[..], &text("b"), b"s."].concat(), "it was read"),
    ] {
        let error = error_of(&pickle);
        let said = error.contains(says) || says == "it was read" && error.contains("no dictionary");
        assert!(said && error.lines().count() == 1, "{pickle:?}: {error}");
    }
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let w = tensor("0", 4, 0, &[4], &[1]);
    let inner = [b"}".to_vec(), text("b"), w.clone(), b"s".to_vec()].concat();
    let pickle = [b"\x80\x02}(".to_vec(), text("a.b"), w, text("a"), inner, b"u.".to_vec()].concat();
    assert!(error_of(&pickle).contains("two tensors `a.b`"), "{}", error_of(&pickle));
}

/// What is done to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Copy(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0_usize..8192;
    prop_oneof![
        4 => (at(), 1_u8..).prop_map(|(at, by)| Damage::Flip(at, by)),
        1 => (at(), 1_usize..64).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (at(), at(), 1_usize..64).prop_map(|(from, to, n)| Damage::Copy(from, to, n)),
    ]
}

fn damaged(bytes: &mut Vec<u8>, damage: Damage) {
    let length = bytes.len().max(1);
    match damage {
        Damage::Flip(at, by) => {
            if let Some(byte) = bytes.get_mut(at % length) {
                *byte ^= by;
            }
        }
        Damage::Remove(at, n) => drop(bytes.drain(at % length..(at % length + n).min(bytes.len()))),
        Damage::Insert(at, more) => drop(bytes.splice(at % length..at % length, more)),
        Damage::Copy(from, to, n) => {
            let part = bytes[from % length..(from % length + n).min(bytes.len())].to_vec();
            bytes.splice(to % length..to % length, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Whatever is done to a file, it is an error of one line, or a result that is not much larger than the file.
    #[test]
    fn a_damaged_file_is_an_error_or_a_small_result(
        name in prop::sample::select(vec!["dtypes", "views", "training", "protocol-4", "old", "old-training", "objects"]),
        all_of_it in prop::collection::vec(damage(), 1..6),
        skip_objects in any::<bool>(),
    ) {
        let mut bytes = std::fs::read(file(&format!("{name}.pth"))).unwrap();
        for one in all_of_it {
            damaged(&mut bytes, one);
        }
        let size = bytes.len() as u64;
        match Checkpoint::from_bytes(Path::new("damaged.pth"), bytes, &Options { skip_objects, ..Options::default() }) {
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
            Ok(checkpoint) => {
                prop_assert!(checkpoint.bytes() <= size * MOST_GROWTH + (1 << 20));
                let out = written(&checkpoint);
                prop_assert!(SafeTensors::deserialize(&out).is_ok());
            }
        }
    }

    /// The same of the pickle alone, so that what is behind the ZIP's own checks is reached.
    #[test]
    fn a_pickle_of_any_bytes_is_an_error_or_a_result(
        name in prop::sample::select(vec!["training", "protocol-4", "objects", "views"]),
        all_of_it in prop::collection::vec(damage(), 1..4),
        skip_objects in any::<bool>(),
    ) {
        let bytes = std::fs::read(file(&format!("{name}.pth"))).unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut pickle = Vec::new();
        std::io::copy(&mut zip.by_name(&format!("{name}/data.pkl")).unwrap(), &mut pickle).unwrap();
        for one in all_of_it {
            damaged(&mut pickle, one);
        }
        let made = Checkpoint::from_bytes(Path::new("made.pth"), checkpoint(&pickle), &Options { skip_objects, ..Options::default() });
        if let Ok(made) = made {
            prop_assert!(SafeTensors::deserialize(&written(&made)).is_ok());
        }
    }
}

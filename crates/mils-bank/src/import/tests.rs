//! Every form of file, and what is wrong with them.

use super::*;

fn read_as(name: &str, bytes: &[u8], options: &Options) -> Result<(Kind, Vec<String>), ImportError> {
    let mut texts = Vec::new();
    let kind = read_from(Path::new(name), bytes, options, &mut |text| {
        texts.push(text.to_owned());
        ControlFlow::Continue(())
    })?;
    Ok((kind, texts))
}

fn told(name: &str, text: &str) -> (Kind, Vec<String>) {
    read_as(name, text.as_bytes(), &Options::default()).unwrap()
}

fn column(column: &str) -> Options {
    Options { column: Some(column.into()), ..Options::default() }
}

#[test]
fn what_a_file_is_its_content_tells() {
    let coco = r#"{"info": {"description": "nor this"}, "description": "not this", "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "id": 2, "caption": "a red car"}, {"caption": "a \"dog\"\n", "id": 3}]}"#;
    let karpathy = r#"{"images": [{"filename": "a.jpg", "sentences": [{"tokens": ["a", "car"], "raw": "a red car"}]},
        {"sentences": [{"raw": "a \"dog\"\n", "imgid": 7}]}], "dataset": "x"}"#;
    let both = ["a red car".to_owned(), "a \"dog\"\n".to_owned()];
    for (name, text, kind) in [
        ("x", coco, Kind::Json),
        ("x", &coco.replace('\n', ""), Kind::Json),
        ("x", karpathy, Kind::Json),
        ("x.csv", r#"["a red car", "a \"dog\"\n"]"#, Kind::Json),
        ("x", "\u{feff}  [{\"caption\": \"a red car\"},\n{\"caption\": \"a \\\"dog\\\"\\n\"}]", Kind::Json),
        ("x", "{\"text\": \"a red car\", \"n\": 1}\n\n{\"text\": \"a \\\"dog\\\"\\n\"}\n", Kind::JsonLines),
        ("x", "\"a red car\"\n\"a \\\"dog\\\"\\n\"\n", Kind::JsonLines),
        ("x", "{\"captions\": [\"a red car\", \"a \\\"dog\\\"\\n\"]}", Kind::JsonLines),
        ("x", "id,Caption\n1,a red car\n2,\"a \"\"dog\"\"\n\"\n", Kind::Csv),
        ("x", "file_name,caption_1,caption_2\nx.wav,a red car,\"a \"\"dog\"\"\n\"", Kind::Csv),
    ] {
        let (found, texts) = told(name, text);
        assert_eq!((found, &texts[..]), (kind, &both[..]), "{text}");
    }
    assert_eq!(told("x", "a red, old car\r\n\n a dog").1, ["a red, old car", "", " a dog"]);
    assert_eq!(told("x", ""), (Kind::Text, vec![]));
    assert_eq!(told("x", "caption\turl\na 5\" nail\thttp://x\n"), (Kind::Tsv, vec!["a 5\" nail".to_owned()]));
    assert_eq!(told("x.csv", "audiocap_id,youtube_id,start_time,caption\n1,x,3,rain falls\n").1, ["rain falls"]);
    // What the file is taken for can be said.
    let text = Options { kind: Some(Kind::Text), ..Options::default() };
    assert_eq!(read_as("x", b"{\"a\": 1}", &text).unwrap().1, ["{\"a\": 1}"]);
}

#[test]
fn columns_and_fields_can_be_named() {
    let table = b"url,what\nhttp://x,\"a car, red\"\n";
    for name in ["what", "2"] {
        assert_eq!(read_as("x", table, &column(name)).unwrap(), (Kind::Csv, vec!["a car, red".to_owned()]));
    }
    let bare = Options { no_header: true, ..column("1") };
    assert_eq!(read_as("x.tsv", b"a car\thttp://x\na dog\thttp://y", &bare).unwrap().1, ["a car", "a dog"]);
    let json = br#"{"meta": {"alt": "a car"}, "caption": "not this"}"#;
    assert_eq!(read_as("x", json, &column("meta.alt")).unwrap().1, ["a car"]);
    let json = br#"[{"meta": {"alt": "a car"}, "caption": "not this"}, {"meta": {"alt": null}}]"#;
    assert_eq!(read_as("x", json, &column("meta.alt")).unwrap().1, ["a car", ""]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let none = Options::default();
    for (name, bytes, options, says) in [
        ("x", &b"a car\na d\xffg\n"[..], &none, "x, line 2: is not UTF-8 at byte 4"),
        ("x", b"\xff\xfea\0", &none, "x: is UTF-16"),
        ("x", b"a\0b", &none, "is no text"),
        ("x", b"\x1f\x8b\x08", &none, "is compressed"),
        ("x.csv", b"id,caption\n1,a\n2,b,c\n", &none, "x.csv, line 3: has 3 fields, where the first line has 2"),
        ("x.csv", b"id,caption\n1,a\n2,\xff\n", &none, "x.csv, line 3: is not UTF-8"),
        (
            "x.csv",
            b"id,url\n1,a\n",
            &none,
            "line 1: which column holds the captions? Name it with --column; the first line has \"id\", \"url\"",
        ),
        ("x.csv", b"id,url\n1,a\n", &column("words"), "there is no column `words`"),
        ("x.csv", b"id,url\n1,a\n", &column("3"), "there is no column `3`"),
        ("x", b"{\"text\": \"a\"}\n{\"txt\": \"b\"}\n", &none, "x, line 2: has no field `text`"),
        ("x", b"{\"text\": \"a\"}\n{\"text\": 7}\n", &none, "x, line 2: 7 stands where a caption should"),
        ("x", b"{\"text\": \"a\"}\n{\"text\": \n", &none, "x, line 2: EOF while parsing"),
        ("x", b"{\"n\": 1}\n", &none, "x, line 1: which field holds the captions? Name it with --column; there are n"),
        ("x", b"{\"annotations\": [\n{\"caption\": \"a\"},\n{\"caption\": 7}]}", &none, "x, line 3: 7 stands where"),
        ("x", b"{\"annotations\": [\n{\"caption\": \"a\"}", &none, "x, line 2: EOF while parsing"),
        ("x", b"{\"annotations\": [\n]}", &none, "holds no captions where they usually are"),
        ("x", b"[{\"a\": \"b\"}]", &column("c"), "holds no texts at `c`"),
        ("x", b"[\"a\"] more", &none, "trailing characters"),
    ] {
        let error = read_as(name, bytes, options).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{says:?} is not in {error}");
    }
    let long = vec![b'a'; LONGEST[0] + 2];
    assert!(read_as("x", &long, &none).unwrap_err().to_string().contains("line 1: has more than 1 MB"));
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| read(path, &none, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(read(dir.path()).contains("is a folder"));
    assert!(read(&dir.path().join("none")).contains("cannot be read"));
}

#[test]
fn no_more_is_read_than_is_wanted() {
    for text in [
        "a\nb\nc\n",
        "[\"a\", \"b\", \"c\", 7",
        "\"a\"\n\"b\"\n\"c\"\n7\n",
        "n,caption\n1,a\n2,b\n3,c\n4\n",
        "{\"annotations\": [{\"caption\": \"a\"}, {\"caption\": \"b\"}, 7",
    ] {
        let mut texts = Vec::new();
        read_from(Path::new("x"), text.as_bytes(), &Options::default(), &mut |text| {
            texts.push(text.to_owned());
            if texts.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(texts, ["a", "b"], "{text}");
    }
}

#[test]
fn a_pipe_that_gives_a_byte_at_a_time_is_read_all_the_same() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let one = into.len().min(1);
            self.0.read(&mut into[..one])
        }
    }
    let mut texts = Vec::new();
    let kind = read_from(Path::new("-"), Slow(b"id,caption\n1,a car\n"), &Options::default(), &mut |text| {
        texts.push(text.to_owned());
        ControlFlow::Continue(())
    });
    assert_eq!((kind.unwrap(), &texts[..]), (Kind::Csv, &["a car".to_owned()][..]));
}

//! Sidecars, and pictures before and after something is written into them.

use super::*;
use image::{DynamicImage, ImageFormat, Rgb, Rgba};
use mils_media::{DecodeLimits, decode_image};
use serde_json::json;
use std::fs;
use std::io::Cursor;

const CAPTION: &str = "a <big> cat & a \"small\" dog";

fn metadata(sidecars: &[Sidecar], name: Option<SidecarName>, if_exists: IfExists) -> Metadata {
    Metadata { sidecars: sidecars.to_vec(), name, embed: false, if_exists }
}

fn embedding(if_exists: IfExists) -> Metadata {
    Metadata { sidecars: vec![], name: None, embed: true, if_exists }
}

fn result(file: &Path, caption: &str) -> Value {
    json!({"file": file.display().to_string(), "caption": caption, "score": 0.5})
}

#[test]
fn sidecars_are_called_as_others_call_them() {
    let all = [Sidecar::Txt, Sidecar::Json, Sidecar::Xmp];
    let of = |name| -> Vec<String> {
        let metadata = metadata(&all, name, IfExists::Skip);
        metadata.paths(Path::new("a.b/photo.old.jpg")).map(|(_, path)| path.display().to_string()).collect()
    };
    assert_eq!(of(None), ["a.b/photo.old.txt", "a.b/photo.old.json", "a.b/photo.old.jpg.xmp"]);
    assert_eq!(of(Some(SidecarName::Stem))[2], "a.b/photo.old.xmp");
    assert_eq!(of(Some(SidecarName::Full))[0], "a.b/photo.old.jpg.txt");
}

#[test]
fn no_two_files_share_a_sidecar_in_silence() {
    let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let check = |name, names: &[&str]| {
        let metadata = metadata(&[Sidecar::Txt], name, IfExists::Skip);
        metadata.check(&files(names), &[Path::new("out.txt")]).map_err(|error| error.to_string())
    };
    let shared = check(None, &["a/x.jpg", "b/x.jpg", "a/x.png"]).unwrap_err();
    assert!(shared.contains("a/x.jpg and a/x.png would share the sidecar a/x.txt"), "{shared}");
    assert!(check(None, &["a/x.jpg", "b/x.png", "a/x.jpg"]).is_ok());
    assert!(check(Some(SidecarName::Full), &["a/x.jpg", "a/x.png"]).is_ok());
    assert!(check(None, &["x.txt"]).unwrap_err().contains("would go over x.txt"));
    assert!(check(None, &["out.jpg"]).unwrap_err().contains("would go over out.txt"));
}

#[test]
fn texts_are_kept_written_over_or_joined() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jpg");
    let text = dir.path().join("x.txt");
    let write = |how, caption: &str| {
        metadata(&[Sidecar::Txt], None, how).write(&file, &result(&file, caption)).unwrap();
        fs::read_to_string(&text).unwrap()
    };
    let skips = || metadata(&[Sidecar::Txt], None, IfExists::Skip).has_sidecars(&file);
    fs::write(&text, "").unwrap();
    assert!(!skips(), "an empty one says nothing");
    assert_eq!(write(IfExists::Skip, "one"), "one\n");
    assert!(skips() && !metadata(&[Sidecar::Txt], None, IfExists::Append).has_sidecars(&file));
    assert_eq!(write(IfExists::Skip, "two"), "one\n");
    assert_eq!(write(IfExists::Append, "two"), "one\ntwo\n");
    assert_eq!(write(IfExists::Append, "one"), "one\ntwo\n", "it is said already");
    assert_eq!(write(IfExists::Prepend, "zero"), "zero\none\ntwo\n");
    fs::write(&text, b"\xff\xfe").unwrap();
    let append = metadata(&[Sidecar::Txt], None, IfExists::Append).write(&file, &result(&file, "x"));
    assert!(format!("{:#}", append.unwrap_err()).contains("x.txt: it is not UTF-8"));
    assert_eq!(write(IfExists::Overwrite, "new"), "new\n");
}

#[test]
fn results_in_json_become_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jpg");
    let write = |how, caption: &str| -> Value {
        metadata(&[Sidecar::Json], None, how).write(&file, &result(&file, caption)).unwrap();
        serde_json::from_slice(&fs::read(dir.path().join("x.json")).unwrap()).unwrap()
    };
    let of = |caption| result(&file, caption);
    assert_eq!(write(IfExists::Append, "one"), of("one"));
    assert_eq!(write(IfExists::Append, "one"), of("one"));
    assert_eq!(write(IfExists::Append, "two"), json!([of("one"), of("two")]));
    assert_eq!(write(IfExists::Prepend, "zero"), json!([of("zero"), of("one"), of("two")]));
    assert_eq!(write(IfExists::Skip, "three"), json!([of("zero"), of("one"), of("two")]));
    assert_eq!(write(IfExists::Overwrite, "three"), of("three"));
    fs::write(dir.path().join("x.json"), "notes").unwrap();
    let append = metadata(&[Sidecar::Json], None, IfExists::Append).write(&file, &of("x")).unwrap_err();
    assert!(format!("{append:#}").contains("no JSON"));
    assert_eq!(fs::read_to_string(dir.path().join("x.json")).unwrap(), "notes");
}

#[test]
fn xmp_sidecars_keep_what_else_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jpg");
    let path = dir.path().join("x.jpg.xmp");
    let skip = metadata(&[Sidecar::Xmp], None, IfExists::Skip);
    let other = "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF \
                 xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\"><rdf:Description rdf:about=\"\" \
                 xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmp:Rating=\"5\"/></rdf:RDF></x:xmpmeta>";
    fs::write(&path, other).unwrap();
    assert!(!skip.has_sidecars(&file) && skip.lacks_sidecars(&file), "there is none of ours in it");
    skip.write(&file, &result(&file, CAPTION)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("xmp:Rating=\"5\"") && skip.has_sidecars(&file), "{text}");
    assert_eq!(xmp::description(&text).unwrap().unwrap(), CAPTION);
    fs::write(&path, "<notes/>").unwrap();
    let overwrite = metadata(&[Sidecar::Xmp, Sidecar::Txt], None, IfExists::Overwrite);
    let error = format!("{:#}", overwrite.write(&file, &result(&file, CAPTION)).unwrap_err());
    assert!(error.contains("x.jpg.xmp: what is there is no XMP"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "<notes/>");
    assert!(dir.path().join("x.txt").exists(), "the others are written");
}

fn noise(alpha: bool) -> DynamicImage {
    let value = |x: u32, y: u32| ((x * 37 + y * 91) % 251) as u8;
    if alpha {
        DynamicImage::ImageRgba8(image::RgbaImage::from_fn(33, 17, |x, y| {
            Rgba([value(x, y), x as u8, y as u8, value(y, x)])
        }))
    } else {
        DynamicImage::ImageRgb8(image::RgbImage::from_fn(33, 17, |x, y| Rgb([value(x, y), x as u8, y as u8])))
    }
}

fn encoded(format: ImageFormat, alpha: bool) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    noise(alpha).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Pictures of each kind, with and without what makes them odd.
fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let jpeg = encoded(ImageFormat::Jpeg, false);
    let png = encoded(ImageFormat::Png, true);
    let webp = encoded(ImageFormat::WebP, true);
    let exif = [&[0xFF, 0xE1, 0, 14][..], b"Exif\0\0MM\0*\0\0"].concat();
    let with_exif = [&jpeg[..2], &exif, &jpeg[2..]].concat();
    let with_film = [&jpeg[..], b"\0\0\0\x18ftypmp42 a film that a camera has put here"].concat();
    vec![
        ("a.jpg", jpeg),
        ("exif.jpg", with_exif),
        ("film.jpg", with_film),
        ("tail.png", [&png[..], b"more"].concat()),
        ("a.png", png),
        ("opaque.webp", encoded(ImageFormat::WebP, false)),
        ("a.webp", webp),
    ]
}

#[test]
fn pictures_are_the_same_with_a_caption_in_them() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in pictures() {
        let file = dir.path().join(name);
        fs::write(&file, &bytes).unwrap();
        let pixels = || decode_image(&file, &DecodeLimits::default()).unwrap();
        let (before, skip) = (pixels(), embedding(IfExists::Skip));
        assert!(!skip.is_described(&file).unwrap(), "{name}");
        skip.write(&file, &result(&file, CAPTION)).unwrap();
        let described = || Picture::open(fs::read(&file).unwrap()).unwrap().unwrap().description().unwrap().unwrap();
        assert_eq!(described(), CAPTION, "{name}");
        assert!(skip.is_described(&file).unwrap() && pixels() == before, "{name}");
        // Whole runs of the old file are in the new one: nothing was encoded again.
        let new = fs::read(&file).unwrap();
        let end = &bytes[bytes.len() - 16..];
        assert!(new.windows(16).any(|part| part == end), "{name}");
        embedding(IfExists::Append).write(&file, &result(&file, "second")).unwrap();
        assert_eq!(described(), format!("{CAPTION}\nsecond"), "{name}");
        assert!(pixels() == before, "{name}");
        // What it was, but for the packet and a header of WebP's.
        if !name.ends_with("webp") {
            let new = fs::read(&file).unwrap();
            let from = bytes.iter().zip(&new).take_while(|(a, b)| a == b).count();
            assert!(new.ends_with(&bytes[from..]) && new.len() > bytes.len(), "{name}");
        }
    }
}

#[test]
fn what_others_have_put_into_pictures_stays() {
    let packet = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
                  <rdf:Description rdf:about='' xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='4'/></rdf:RDF>\
                  </x:xmpmeta>";
    let jpeg = encoded(ImageFormat::Jpeg, false);
    let segment = |marker: u8, contents: &[u8]| {
        let length = (contents.len() as u16 + 2).to_be_bytes();
        [&[0xFF, marker][..], &length, contents].concat()
    };
    let xmp = |packet: &str| segment(0xE1, &[b"http://ns.adobe.com/xap/1.0/\0", packet.as_bytes()].concat());
    let describe = |parts: &[&[u8]]| {
        let file = [&jpeg[..2], &parts.concat(), &jpeg[2..]].concat();
        let parts = Picture::open(file)?.unwrap().describe(CAPTION, IfExists::Overwrite)?.unwrap();
        anyhow::Ok(parts.concat())
    };
    let has = |file: &[u8], what: &[u8]| file.windows(what.len()).any(|part| part == what);
    let new = describe(&[&xmp(packet)]).unwrap();
    assert!(has(&new, b"xmp:Rating='4'") && has(&new, b"&lt;big&gt;"));
    // Room that was left for changes is used before a packet is too large.
    let padded = format!("{packet}{}<?xpacket end='w'?>", " ".repeat(65_450 - packet.len()));
    assert!(describe(&[&xmp(&padded)]).is_ok());
    let full = packet.replace("<x:xmpmeta", &format!("<!--{}--><x:xmpmeta", "x".repeat(65_450 - packet.len())));
    let refused = |parts: &[&[u8]], why: &str| {
        let error = describe(parts).map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&[&xmp(&full)], "would not fit");
    let guid = [b"http://ns.adobe.com/xmp/extension/\0".as_slice(), &[b'A'; 32], &[0; 8]].concat();
    let extended = |text: &[u8]| segment(0xE1, &[&guid[..], text].concat());
    assert!(has(&describe(&[&xmp(packet), &extended(b"<photoshop:History/>")]).unwrap(), b"<photoshop:History/>"));
    refused(&[&xmp(packet), &extended(b"<dc:description/>")], "extended XMP");
    let others = segment(0xE2, b"MPF\0MM\0*");
    assert!(has(&describe(&[&others]).unwrap(), b"MPF\0MM\0*"));
    refused(&[&others, &xmp(packet)], "other pictures");
}

#[test]
fn compressed_packets_are_read() {
    let png = encoded(ImageFormat::Png, false);
    let file = |flag: u8, packet: &[u8]| {
        let mut parsed = img_parts::png::Png::from_bytes(png.clone().into()).unwrap();
        let contents = [b"XML:com.adobe.xmp\0".as_slice(), &[flag, 0, 0, 0], packet].concat();
        parsed.chunks_mut().insert(1, img_parts::png::PngChunk::new(*b"iTXt", contents.into()));
        parsed.encoder().bytes().to_vec()
    };
    let compressed = |text: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, text).unwrap();
        encoder.finish().unwrap()
    };
    let packet = xmp::describe(None, CAPTION, IfExists::Skip, Home::Picture).unwrap().unwrap();
    let open = |file: Vec<u8>| Picture::open(file).unwrap().unwrap();
    let picture = open(file(1, &compressed(packet.as_bytes())));
    assert_eq!(picture.description().unwrap().unwrap(), CAPTION);
    let parts = picture.describe("new", IfExists::Overwrite).unwrap().unwrap();
    assert_eq!(open(parts.concat()).description().unwrap().unwrap(), "new");
    let wrong = |file: Vec<u8>| format!("{:#}", open(file).description().unwrap_err());
    assert!(wrong(file(1, b"no zlib")).contains("damaged"));
    assert!(wrong(file(1, &compressed(&vec![b' '; 17 << 20]))).contains("larger than 16 MiB"));
    assert!(wrong(file(0, b"\xff")).contains("not UTF-8"));
    assert!(wrong(file(0, b"<notes/>")).contains("no XMP"));
}

#[test]
fn other_files_are_left_alone_and_damaged_ones_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    for bytes in [b"GIF89a".as_slice(), b"RIFF\0\0\0\0WAVE", b"BM", b""] {
        fs::write(&file, bytes).unwrap();
        let skip = embedding(IfExists::Skip);
        skip.write(&file, &result(&file, CAPTION)).unwrap();
        assert!(fs::read(&file).unwrap() == bytes && !skip.is_described(&file).unwrap());
    }
    for (name, bytes) in pictures() {
        for length in [4, 13, 20, 30, bytes.len() / 2] {
            // That it does not panic is what matters; a JPEG is only looked at up to its picture.
            if let Ok(Some(picture)) = Picture::open(bytes[..length].to_vec()) {
                let _ = picture.describe(CAPTION, IfExists::Skip);
            }
        }
        let mut odd = bytes.clone();
        for i in 0..odd.len().min(600) {
            odd[i] ^= 0x55;
            if let Ok(Some(picture)) = Picture::open(odd.clone()) {
                let _ = picture.describe(CAPTION, IfExists::Overwrite);
            }
            odd[i] ^= 0x55;
        }
        assert_eq!(odd, bytes, "{name}");
    }
    let nested = [b"RIFF\x40\0\0\0WEBP".as_slice(), &b"LIST\x08\0\0\0abcd".repeat(4)].concat();
    assert!(Picture::open(nested).is_err());
}

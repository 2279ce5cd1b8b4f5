//! Decoding against Pillow (see ../media/make_fixtures.py), and against damage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_media::{DecodeError, DecodeLimits, decode_image, decode_image_bytes};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("media/images");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| !p.to_string_lossy().ends_with(".expected.png"));
    all.sort();
    assert!(all.len() >= 51);
    all
}

/// Largest and mean difference that a format may have from Pillow's decoder.
fn tolerance(name: &str) -> (i32, f64) {
    match name {
        // CMYK is converted by formula, and decoders differ in it.
        n if n.starts_with("cmyk") => (24, 6.0),
        // IDCT and chroma upsampling are up to the decoder.
        n if n.ends_with(".jpg") || n.starts_with("lossy") => (12, 1.5),
        _ => (1, 0.5),
    }
}

#[test]
fn every_format_and_mode_looks_as_in_pillow() {
    for path in fixtures() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ours = decode_image(&path, &DecodeLimits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let theirs = image::open(path.with_file_name(format!("{name}.expected.png"))).unwrap().to_rgb8();
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
        let differences: Vec<i32> =
            ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).collect();
        let worst = differences.iter().max().copied().unwrap();
        let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
        let (most, average) = tolerance(&name);
        assert!(worst <= most && mean <= average, "{name}: differs by up to {worst}, {mean:.2} on average");
    }
}

#[test]
fn cut_files_are_errors() {
    for path in fixtures() {
        let whole = fs::read(&path).unwrap();
        for share in [0, 1, 7, whole.len() / 4, whole.len() / 2] {
            let result = decode_image_bytes(&whole[..share], &DecodeLimits::default());
            assert!(result.is_err(), "{} cut to {share} bytes was decoded", path.display());
        }
    }
}

#[test]
fn what_is_cut_is_never_half_shown() {
    for path in fixtures() {
        let whole = fs::read(&path).unwrap();
        let picture = decode_image_bytes(&whole, &DecodeLimits::default()).unwrap();
        // Near the end it may be metadata or a second frame that is missing: then the picture is whole.
        for n in 1..=64 {
            let cut = whole.len() - (whole.len() * n).div_ceil(128);
            if let Ok(shown) = decode_image_bytes(&whole[..cut], &DecodeLimits::default()) {
                assert!(shown == picture, "{} cut to {cut} of {} is half shown", path.display(), whole.len());
            }
        }
    }
}

#[test]
fn flipped_bytes_do_not_panic() {
    for path in fixtures() {
        let whole = fs::read(&path).unwrap();
        for i in 0..300_usize {
            let mut bytes = whole.clone();
            let at = (i * 7919) % bytes.len();
            bytes[at] ^= 1 << (i % 8);
            bytes[(at / 2) % whole.len()] = (i * 31) as u8;
            // Whether it decodes does not matter, only that it ends well.
            drop(decode_image_bytes(&bytes, &DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() }));
        }
    }
}

#[test]
fn limits_are_checked_before_decoding() {
    let limits = DecodeLimits { max_pixels: 100, ..DecodeLimits::default() };
    for path in fixtures() {
        let error = decode_image(&path, &limits).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { found: 1536, unit: "pixels", limit: 100 }), "{error}");
    }
    let limits = DecodeLimits { max_bytes: 10, ..DecodeLimits::default() };
    assert!(matches!(decode_image(&fixtures()[0], &limits), Err(DecodeError::TooLarge { unit: "bytes", .. })));
}

//! Videos in every container: the right frame at every time, as FFmpeg shows it (see ../media/make_media.py), for what a
//! short video costs; and bad ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_media::video::{self, Sampled, Sampling, VideoError, VideoLimits};
use mils_media::{Kind, RgbImage, kind, kind_bytes};
use std::fs;
use std::path::{Path, PathBuf};

fn media(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media").join(name)
}

fn expected() -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(media("videos/expected.json")).unwrap()).unwrap()
}

fn names() -> Vec<String> {
    let names: Vec<String> = expected().as_object().unwrap().keys().cloned().collect();
    assert!(names.len() >= 30, "{}", names.len());
    names
}

fn sample(name: &str, count: usize, sampling: Sampling) -> Sampled {
    let sampled = video::sample(&media("videos").join(name), count, sampling, &VideoLimits::default());
    sampled.unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn at(name: &str, times: &[f64]) -> Sampled {
    let found = video::frames_at(&media("videos").join(name), times, &VideoLimits::default());
    found.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The number that a frame tells: eight squares along its top, turned as the video is.
fn number(name: &str, image: &RgbImage) -> u32 {
    let upright = match name {
        n if n.contains("rotated-90") => image::imageops::rotate90(image),
        n if n.contains("rotated-180") => image::imageops::rotate180(image),
        n if n.contains("rotated-270") => image::imageops::rotate270(image),
        _ => image.clone(),
    };
    let side = upright.width() / 8;
    (0..8).fold(0, |n, bit| n << 1 | u32::from(upright.get_pixel(bit * side + side / 2, 6)[1] > 128))
}

fn numbers(name: &str, sampled: &Sampled) -> Vec<u32> {
    sampled.frames.iter().map(|f| number(name, &f.image)).collect()
}

/// Frames a second of a fixture, and how many there are.
fn pace(name: &str) -> (f64, u32) {
    match name {
        n if n.starts_with("mpeg1") || n.starts_with("mpeg2") => (25.0, 60),
        n if n.starts_with("bare") => (10.0, 60),
        n if n.starts_with("rotated") => (10.0, 35),
        _ => (10.0, 60),
    }
}

#[test]
fn every_video_shows_the_right_frame_at_every_time() {
    for name in names().iter().filter(|n| !n.starts_with("variable")) {
        assert_eq!(kind(&media("videos").join(name)).unwrap(), Kind::Video, "{name}");
        let (rate, count) = pace(name);
        // In the middle of their time, in an order that goes back and forth.
        let wanted = [17, 3, 29, 28, 30, 0, 11, 12, 13, 24];
        let times: Vec<f64> = wanted.iter().map(|i| (f64::from(*i) + 0.5) / rate).collect();
        let found = at(name, &times);
        assert_eq!(numbers(name, &found), wanted, "{name}");
        for (frame, i) in found.frames.iter().zip(wanted) {
            assert!(
                (frame.since - f64::from(i) / rate).abs() < 0.6 / rate,
                "{name}: {} at {}",
                frame.since,
                frame.time
            );
        }
        let info = &found.info;
        assert!((info.seconds - f64::from(count) / rate).abs() < 0.3, "{name}: {} s", info.seconds);
        assert!(info.frame_rate.is_none_or(|r| (r - rate).abs() < 0.5), "{name}: {:?}", info.frame_rate);
        assert_eq!(found.counts.damaged, 0, "{name}");
        // Beyond the end there is the last one; those that were cut without encoding anew have one behind their end.
        if !name.starts_with("rotated") {
            assert_eq!(numbers(name, &at(name, &[1e6])), [count - 1], "{name}");
        }
    }
}

#[test]
fn frames_look_as_ffmpeg_shows_them() {
    for (name, of) in expected().as_object().unwrap() {
        let (i, size) = (of["frame"].as_f64().unwrap(), |side: &str| of[side].as_u64().unwrap() as u32);
        let time = if name.starts_with("variable") { 1.0 + (i - 10.0) * 0.5 + 0.2 } else { (i + 0.5) / pace(name).0 };
        let found = at(name, &[time]);
        let image = &found.frames[0].image;
        assert_eq!(image.dimensions(), (size("width"), size("height")), "{name}");
        assert_eq!((found.info.width, found.info.height), image.dimensions(), "{name}");
        let means: Vec<f64> = of["means"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
        let mut worst = 0.0_f64;
        for (block, mean) in means.chunks(3).enumerate() {
            let per_row = image.width() as usize / 8;
            let (x, y) = ((block % per_row * 8) as u32, (block / per_row * 8) as u32);
            for (c, mean) in mean.iter().enumerate() {
                let pixels = (0..64).map(|p| f64::from(image.get_pixel(x + p % 8, y + p / 8)[c]));
                worst = worst.max((pixels.sum::<f64>() / 64.0 - mean).abs());
            }
        }
        // What FFmpeg does not decode is held against what was encoded.
        let most = if name == "animated.webp" { 12.0 } else { 3.0 };
        assert!(worst <= most, "{name}: a block differs by {worst:.1}");
    }
}

#[test]
fn a_variable_frame_rate_is_sampled_by_time() {
    for name in ["variable.mp4", "variable.mkv"] {
        // Frames 0 to 9 last 0.1 s each, those after half a second.
        let found = at(name, &[0.05, 0.95, 1.05, 1.45, 1.55, 10.2, 24.4]);
        assert_eq!(numbers(name, &found), [0, 9, 10, 10, 11, 28, 56], "{name}");
        let halves = sample(name, 2, Sampling::Centres);
        let seconds = halves.info.seconds;
        let shown = |t: f64| if t < 1.0 { (t / 0.1) as u32 } else { 10 + ((t - 1.0) / 0.5) as u32 };
        assert_eq!(numbers(name, &halves), [shown(seconds / 4.0), shown(seconds * 0.75)], "{name}");
    }
}

#[test]
fn policies_take_the_frames_of_their_references() {
    for name in ["h264.mp4", "vp9.webm", "animated.gif", "h264.ts"] {
        assert_eq!(numbers(name, &sample(name, 8, Sampling::WholeSteps)), [0, 7, 14, 21, 28, 35, 42, 49], "{name}");
        assert_eq!(numbers(name, &sample(name, 6, Sampling::Centres)), [5, 15, 25, 35, 45, 55], "{name}");
        assert_eq!(numbers(name, &sample(name, 6, Sampling::Starts)), [0, 10, 20, 30, 40, 50], "{name}");
        assert_eq!(numbers(name, &sample(name, 4, Sampling::Ends)), [0, 19, 39, 59], "{name}");
        // More than there are: each more than once.
        assert_eq!(sample(name, 200, Sampling::Centres).frames.len(), 200, "{name}");
    }
}

#[test]
fn an_hour_costs_what_a_minute_costs() {
    let (minute, hour) = (sample("minute.mp4", 8, Sampling::Centres), sample("hour.mp4", 8, Sampling::Centres));
    assert!((minute.info.seconds - 60.0).abs() < 1.0 && (hour.info.seconds - 3600.0).abs() < 1.0);
    // A key frame every ten: at most ten packets for each of eight frames.
    assert!(hour.counts.decoded <= 80, "{:?}", hour.counts);
    assert!(hour.counts.decoded <= minute.counts.decoded + 40, "{:?} {:?}", minute.counts, hour.counts);
    // Each way is read twice, and a little beyond.
    assert!(hour.counts.read <= 8 * 2 * 13, "{:?}", hour.counts);
    let since: Vec<f64> = hour.frames.iter().map(|f| f.since).collect();
    assert_eq!(since, [225.0, 675.0, 1125.0, 1575.0, 2025.0, 2475.0, 2925.0, 3375.0]);
}

#[test]
fn no_frame_is_decoded_twice_where_all_are_needed() {
    let all = sample("h264.mp4", 60, Sampling::Centres);
    assert_eq!(numbers("h264.mp4", &all), (0..60).collect::<Vec<_>>());
    assert!(all.counts.decoded <= 60, "{:?}", all.counts);
    // One key frame only, far from what is wanted.
    assert!(sample("mjpeg.avi", 4, Sampling::Centres).counts.decoded <= 4);
}

#[test]
fn threads_change_nothing() {
    let path = media("videos/h264.mp4");
    let with = |threads| {
        let limits = VideoLimits { threads, ..VideoLimits::default() };
        video::sample(&path, 5, Sampling::Centres, &limits).unwrap().frames
    };
    assert!(with(1) == with(4));
}

fn error(bytes: &[u8]) -> VideoError {
    let error = video::sample_bytes(bytes, 4, Sampling::Centres, &VideoLimits::default()).unwrap_err();
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() < 200, "{line}");
    error
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(media(name)).unwrap()
}

#[test]
fn files_without_video() {
    for name in [
        "videos/only-sound.mp4",
        "sounds/cover-mp3.mp3",
        "sounds/cover-aac.m4a",
        "sounds/opus.webm",
        "sounds/cover-stereo.flac",
    ] {
        assert_eq!(kind(&media(name)).unwrap(), Kind::Audio, "{name}");
        let error = error(&bytes(name));
        assert!(matches!(error, VideoError::NoVideo { sound: true }), "{name}: {error}");
    }
    assert!(matches!(error(&bytes("images/rgb.png")), VideoError::Still));
    assert!(matches!(
        error(b"nothing but text in it, line after line\n"),
        VideoError::Unsupported | VideoError::Damaged(_)
    ));
    assert!(matches!(error(&[]), VideoError::Source(_)));
    let missing = video::probe(&media("videos/none.mp4"), &VideoLimits::default()).unwrap_err();
    assert_eq!(missing.to_string(), "no such file");
    assert!(video::probe(&media("videos"), &VideoLimits::default()).unwrap_err().to_string().contains("folder"));
}

#[test]
fn playlists_open_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(media("videos/h264.ts"), folder.path().join("h264.ts")).unwrap();
    let here = folder.path().join("h264.ts").display().to_string();
    for (name, text) in [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nh264.ts\n#EXT-X-ENDLIST\n".to_owned()),
        ("list.mp4", format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{here}\n#EXT-X-ENDLIST\n")),
        ("list.txt", format!("ffconcat version 1.0\nfile '{here}'\n")),
        ("list.mpd", format!("<?xml version=\"1.0\"?>\n<MPD><BaseURL>{here}</BaseURL></MPD>\n")),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let error = video::sample(&path, 2, Sampling::Centres, &VideoLimits::default()).unwrap_err();
        assert!(matches!(error, VideoError::Playlist), "{name}: {error}");
        assert!(kind(&path).unwrap_err().to_string().contains("playlist"), "{name}");
    }
    // One that does not look like it from its start.
    let hidden = format!("\n\n ; comment\n#EXTM3U\n#EXTINF:6,\n{here}\n");
    assert!(matches!(error(hidden.as_bytes()), VideoError::Unsupported | VideoError::Damaged(_)));
    // A name that FFmpeg would take for a protocol is a file like any other.
    for name in ["concat:h264.ts|h264.ts", "http:h264.ts"] {
        let path = folder.path().join(name);
        fs::copy(media("videos/h264.ts"), &path).unwrap();
        video::probe(&path, &VideoLimits::default()).unwrap();
    }
}

#[test]
fn frames_of_ten_thousand_pixels() {
    let huge = error(&bytes("videos/huge.mp4"));
    assert!(matches!(huge, VideoError::TooLarge { width: 10_000, height: 10_000, limit: 40_000_000 }), "{huge}");
    let limits = VideoLimits { max_pixels: 6143, ..VideoLimits::default() };
    for name in ["h264.mp4", "vp9.webm", "bare.h264", "animated.webp", "animated.gif", "animated.apng"] {
        let error = video::sample(&media("videos").join(name), 1, Sampling::Centres, &limits).unwrap_err();
        assert!(
            matches!(error, VideoError::TooLarge { width: 96, height: 64, .. } | VideoError::Damaged(_)),
            "{name}: {error}"
        );
    }
    // Its decoder refuses the size before the container's own is looked at.
    let error = video::sample(&media("videos/mjpeg.avi"), 1, Sampling::Centres, &limits).unwrap_err();
    assert!(matches!(error, VideoError::TooLarge { width: 96, height: 64, limit: 6143 }), "{error}");
    for (count, limits) in [(0, VideoLimits::default()), (5000, VideoLimits::default())] {
        let error = video::sample(&media("videos/h264.mp4"), count, Sampling::Centres, &limits).unwrap_err();
        assert!(matches!(error, VideoError::Count { .. }), "{error}");
    }
}

#[test]
fn truncated_videos() {
    for name in
        ["h264.mp4", "h264.mov", "h264.mkv", "vp9.webm", "mpeg4.avi", "animated.gif", "animated.webp", "animated.apng"]
    {
        let whole = bytes(&format!("videos/{name}"));
        for share in [0.3, 0.6, 0.9] {
            let cut = &whole[..(whole.len() as f64 * share) as usize];
            let found = video::sample_bytes(cut, 8, Sampling::Centres, &VideoLimits::default());
            match found {
                Err(VideoError::Truncated) => {}
                // The last tenth may be less than a sampled frame away from the end.
                Ok(sampled) if share == 0.9 => assert_eq!(sampled.frames.len(), 8),
                other => panic!("{name} cut to {share}: {:?}", other.map(|s| s.frames.len())),
            }
        }
    }
}

#[test]
fn encrypted_videos() {
    assert!(matches!(error(&bytes("videos/encrypted.mp4")), VideoError::Encrypted));
}

#[test]
fn damaged_frames_are_passed_over_up_to_a_limit() {
    let found = sample("damaged.mp4", 8, Sampling::Centres);
    assert_eq!(found.frames.len(), 8);
    assert!(found.counts.damaged > 0, "{:?}", found.counts);
    let limits = VideoLimits { max_damaged: 0, ..VideoLimits::default() };
    let error = video::sample(&media("videos/damaged.mp4"), 8, Sampling::Centres, &limits).unwrap_err();
    assert!(matches!(error, VideoError::Damaged(_)), "{error}");
}

#[test]
fn streams_of_no_frames() {
    // The header alone, said to be all there is.
    let whole = bytes("videos/h264.mp4");
    let start = whole.windows(4).position(|w| w == b"mdat").unwrap() - 4;
    let mut empty = whole[..start].to_vec();
    empty.extend(b"\0\0\0\x08mdat");
    let error = error(&empty);
    assert!(matches!(error, VideoError::Empty | VideoError::Truncated | VideoError::Damaged(_)), "{error}");
}

#[test]
fn kinds_are_by_content() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("images/rgb.gif", Kind::Image),
        ("images/animated.gif", Kind::Video),
        ("images/rgb.webp", Kind::Image),
        ("images/animated.webp", Kind::Video),
        ("images/rgb.png", Kind::Image),
        ("images/animated.png", Kind::Video),
        ("images/rgb.jpg", Kind::Image),
        ("images/rgb.tiff", Kind::Image),
        ("images/one-bit.pbm", Kind::Image),
        ("videos/only-sound.mp4", Kind::Audio),
        ("videos/sound.mp4", Kind::Video),
        ("videos/encrypted.mp4", Kind::Video),
        ("sounds/cover-mp3.mp3", Kind::Audio),
        ("sounds/opus.webm", Kind::Audio),
        ("sounds/wma.wma", Kind::Audio),
    ] {
        // Under a name that says something else.
        let path = folder.path().join("file.txt");
        fs::copy(media(name), &path).unwrap();
        assert_eq!(kind(&path).unwrap(), expected, "{name}");
    }
    assert!(kind_bytes(b"%PDF-1.7\n").unwrap_err().to_string().contains("PDF"));
    assert!(kind_bytes(&[]).is_err() && kind(folder.path()).is_err());
}

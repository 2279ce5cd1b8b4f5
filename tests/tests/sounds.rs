//! Sounds in every container against what FFmpeg, librosa and torchaudio make of them (see ../media/make_media.py), and
//! against damage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_media::audio::{self, Audio, AudioError, AudioFile, Filter, ReadOptions};
use mils_media::{Kind, kind};
use std::fs;
use std::path::{Path, PathBuf};

fn media(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media").join(name)
}

fn sounds() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(media("sounds")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.is_file() && !p.to_string_lossy().ends_with(".expected.flac"));
    all.sort();
    assert!(all.len() >= 34, "{}", all.len());
    all
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn whole(path: &Path) -> Audio {
    audio::read(path, &ReadOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Signal to difference in dB, over the length of the shorter.
fn decibels(expected: &[f32], found: &[f32]) -> f64 {
    let power: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    let off: f64 = expected.iter().zip(found).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    10.0 * (power / off.max(1e-20)).log10()
}

/// What a file should sound like: what FFmpeg decodes, or else the recording it was made of without loss.
fn reference(path: &Path) -> (Audio, bool) {
    let beside = PathBuf::from(format!("{}.expected.flac", path.display()));
    if beside.is_file() {
        return (whole(&beside), false);
    }
    let mono = ["mono", "s24", "f32", "f64", "s16.caf", "s16.au", "wave64", "sox"];
    let source = if mono.iter().any(|m| name(path).starts_with(m)) { "mono-8k.wav" } else { "stereo.wav" };
    (whole(&media("sounds").join(source)), true)
}

#[test]
fn every_container_sounds_as_in_the_references() {
    for path in sounds() {
        let name = name(&path);
        assert_eq!(kind(&path).unwrap(), Kind::Audio, "{name}");
        let ours = whole(&path);
        let (theirs, lossless) = reference(&path);
        assert_eq!(ours.sample_rate, theirs.sample_rate, "{name}");
        let off = ours.samples.len().abs_diff(theirs.samples.len());
        // Codecs fill their last block; who cuts it, and where, is between decoder and container.
        let slack = if lossless { 0 } else { ours.sample_rate as usize / 8 };
        assert!(off <= slack, "{name}: {} samples, expected {}", ours.samples.len(), theirs.samples.len());
        let found = decibels(&theirs.samples, &ours.samples);
        // The references are kept in 16 bits.
        let least = if lossless { 89.0 } else { 60.0 };
        assert!(found >= least, "{name}: {found:.1} dB");
    }
}

#[test]
fn channels_are_averaged() {
    let stereo = fs::read(media("sounds/stereo.wav")).unwrap();
    let at = stereo.windows(4).position(|w| w == b"data").unwrap() + 8;
    let frames = stereo[at..].chunks_exact(4).map(|b| {
        let side = |i: usize| f32::from(i16::from_le_bytes([b[i], b[i + 1]])) / 32768.0;
        (side(0) + side(2)) / 2.0
    });
    let expected: Vec<f32> = frames.collect();
    assert_eq!(whole(&media("sounds/stereo.wav")).samples, expected);
    let mut file = AudioFile::open(&media("sounds/surround.wav")).unwrap();
    assert_eq!((file.info().channels, file.info().sample_rate, file.info().decoder), (6, 16_000, "symphonia"));
    assert!((file.seconds().unwrap() - 0.1).abs() < 1e-9);
}

#[test]
fn what_symphonia_cannot_is_ffmpegs() {
    for (name, decoder) in
        [("mp3.mp3", "symphonia"), ("aac.m4a", "ffmpeg"), ("opus.ogg", "ffmpeg"), ("narrow.amr", "ffmpeg")]
    {
        assert_eq!(AudioFile::open(&media("sounds").join(name)).unwrap().info().decoder, decoder, "{name}");
    }
}

#[test]
fn windows_are_those_of_the_whole() {
    for path in sounds() {
        let name = name(&path);
        let all = whole(&path);
        let rate = f64::from(all.sample_rate);
        let mut file = AudioFile::open(&path).unwrap();
        // Back and forth, so that it has to be seeked.
        for (start, seconds) in [(0.05, 0.04), (0.0, 0.05), (0.08, 0.015), (0.02, 0.06)] {
            let options = ReadOptions { start, seconds: Some(seconds), ..ReadOptions::default() };
            let window = file.read(&options).unwrap_or_else(|e| panic!("{name}: {e}"));
            let from = (start * rate).round() as usize;
            let expected = &all.samples[from..from + (seconds * rate).round() as usize];
            assert_eq!(window.samples.len(), expected.len(), "{name} at {start}");
            let found = decibels(expected, &window.samples);
            assert!(found > 40.0, "{name} at {start}: {found:.1} dB");
        }
    }
}

#[test]
fn resampled_windows_are_those_of_the_resampled_whole() {
    for (name, to) in [("stereo.flac", 48_000), ("stereo.wav", 11_025), ("mono-8k.wav", 16_000)] {
        let path = media("sounds").join(name);
        let all = audio::read(&path, &ReadOptions { sample_rate: Some(to), ..ReadOptions::default() }).unwrap();
        let mut file = AudioFile::open(&path).unwrap();
        for (start, seconds) in [(0.1, 0.07), (0.0, 0.1), (0.3, 0.1)] {
            let options =
                ReadOptions { start, seconds: Some(seconds), sample_rate: Some(to), ..ReadOptions::default() };
            let window = file.read(&options).unwrap().samples;
            let from = (start * f64::from(to)).round() as usize;
            let expected = &all.samples[from..(from + window.len()).min(all.samples.len())];
            assert_eq!(window.len(), expected.len());
            assert!(window.len() >= (seconds * f64::from(to)) as usize - 1);
            assert!(decibels(expected, &window) > 100.0, "{name} at {start}");
        }
    }
}

/// The noise of make_media.py.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn resampling_is_that_of_librosa_and_torchaudio() {
    let mut compared = 0;
    for file in fs::read_dir(media("sounds/resampled")).unwrap() {
        let path = file.unwrap().path();
        let name = name(&path);
        let (rates, filter) = name.split_once('.').unwrap();
        let (from, to) = rates.split_once('-').unwrap();
        let filter = if filter.starts_with("soxr") { Filter::SoxrHq } else { Filter::Torchaudio };
        let bytes = fs::read(&path).unwrap();
        let expected: Vec<f32> =
            bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32767.0).collect();
        let source = Audio { samples: noise(3000), sample_rate: from.parse().unwrap() };
        let ours = source.resample(to.parse().unwrap(), filter).unwrap();
        assert_eq!(ours.samples.len(), expected.len(), "{name}");
        // White noise up to the edge of the band is the hardest there is: recordings have little there.
        // The last sample is one that librosa pads with zero.
        let found = decibels(&expected[..expected.len() - 1], &ours.samples);
        println!("{name}: {found:.1} dB");
        assert!(found >= 60.0, "{name}: {found:.1} dB");
        compared += 1;
    }
    assert_eq!(compared, 12);
}

/// A WAV file of 32-bit floats.
fn wav(rate: u32, samples: &[f32]) -> Vec<u8> {
    let size = samples.len() as u32 * 4;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x03\0\x01\0");
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate.wrapping_mul(4)).to_le_bytes());
    bytes.extend(b"\x04\0\x20\0data");
    bytes.extend(size.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
    bytes
}

fn fails(bytes: Vec<u8>) -> AudioError {
    let error = audio::read_bytes(bytes, &ReadOptions::default()).unwrap_err();
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() < 200, "{line}");
    error
}

#[test]
fn samples_that_are_no_numbers() {
    assert_eq!(audio::read_bytes(wav(8000, &[0.25; 800]), &ReadOptions::default()).unwrap().samples, [0.25; 800]);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut samples = vec![0.25; 800];
        samples[400] = bad;
        let error = fails(wav(8000, &samples));
        assert!(matches!(error, AudioError::NotFinite { seconds } if seconds == 0.05), "{error}");
    }
}

#[test]
fn a_rate_of_nothing() {
    let error = fails(wav(0, &[0.25; 800]));
    assert!(matches!(error, AudioError::Rate(0)), "{error}");
    let error = fails(wav(u32::MAX, &[0.25; 800]));
    assert!(matches!(error, AudioError::Rate(_)), "{error}");
    let audio = Audio { samples: vec![0.0; 8], sample_rate: 8000 };
    assert!(matches!(audio.resample(0, Filter::SoxrHq), Err(AudioError::Rate(0))));
}

#[test]
fn streams_of_nothing() {
    assert!(matches!(fails(wav(8000, &[])), AudioError::Empty));
    assert!(matches!(fails(vec![]), AudioError::Source(_)));
}

#[test]
fn files_without_sound() {
    for name in ["videos/h264.mp4", "videos/vp9.webm", "videos/animated.gif", "images/rgb.png"] {
        let error = fails(fs::read(media(name)).unwrap());
        assert!(matches!(error, AudioError::NoAudio), "{name}: {error}");
    }
    for text in [&b"#EXTM3U\nother.ts\n"[..], b"ffconcat version 1.0\nfile other.wav\n"] {
        assert!(matches!(fails(text.to_vec()), AudioError::Playlist));
    }
    let error = fails(b"no sound at all, only text".repeat(400));
    assert!(matches!(error, AudioError::Unsupported | AudioError::Damaged(_)), "{error}");
    let error = audio::read(&media("sounds"), &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
    let error = audio::read(&media("sounds/none.wav"), &ReadOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "no such file");
    assert!(matches!(fails(fs::read(media("videos/encrypted.mp4")).unwrap()), AudioError::Encrypted));
}

#[test]
fn the_sound_of_a_video() {
    let audio = whole(&media("videos/sound.mp4"));
    assert_eq!(audio.sample_rate, 16_000);
    assert!((audio.seconds() - 6.0).abs() < 0.1, "{}", audio.seconds());
}

#[test]
fn truncated_sounds() {
    // Formats whose headers tell how much there is.
    for name in
        ["stereo.wav", "stereo.flac", "s16.aiff", "s16.caf", "alac.m4a", "aac.m4a", "wma.wma", "mp3.mp3", "vorbis.ogg"]
    {
        let bytes = fs::read(media("sounds").join(name)).unwrap();
        for share in [0.5, 0.9] {
            let cut = (bytes.len() as f64 * share) as usize;
            let error = fails(bytes[..cut].to_vec());
            assert!(matches!(error, AudioError::Truncated), "{name} at {share}: {error}");
        }
    }
    // A window before the missing part is there all the same.
    let bytes = fs::read(media("sounds/stereo.wav")).unwrap();
    let options = ReadOptions { seconds: Some(0.1), ..ReadOptions::default() };
    assert_eq!(audio::read_bytes(bytes[..bytes.len() / 2].to_vec(), &options).unwrap().samples.len(), 1600);
}

/// Three hours of silence with a click every half an hour, which take no room on the disk.
fn three_hours(folder: &Path) -> PathBuf {
    use std::io::{Seek, SeekFrom, Write};
    let (rate, seconds) = (8000_u32, 3 * 3600_u32);
    let path = folder.join("long.wav");
    let mut file = fs::File::create(&path).unwrap();
    let size = rate * seconds * 2;
    file.write_all(b"RIFF").unwrap();
    file.write_all(&(36 + size).to_le_bytes()).unwrap();
    file.write_all(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data").unwrap();
    file.write_all(&size.to_le_bytes()).unwrap();
    file.set_len(44 + u64::from(size)).unwrap();
    for i in 0..6_u64 {
        file.seek(SeekFrom::Start(44 + i * 1800 * 8000 * 2)).unwrap();
        file.write_all(&16_384_i16.to_le_bytes()).unwrap();
    }
    path
}

#[test]
fn three_hours_are_read_in_windows_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = three_hours(folder.path());
    let error = audio::read(&path, &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, AudioError::TooLong { limit: 600.0, .. }), "{error}");
    let mut file = AudioFile::open(&path).unwrap();
    assert_eq!(file.seconds().unwrap(), 10_800.0);
    let options = ReadOptions { start: 9000.0, seconds: Some(10.0), ..ReadOptions::default() };
    let window = file.read(&options).unwrap();
    assert_eq!(window.samples.len(), 80_000);
    assert_eq!(window.samples.iter().position(|s| *s == 0.5), Some(0));
    let clips = file.clips(3, 2.0, &ReadOptions { sample_rate: Some(16_000), ..ReadOptions::default() }).unwrap();
    assert_eq!(clips.iter().map(|c| c.samples.len()).collect::<Vec<_>>(), [32_000; 3]);
    // The second begins a second before the click at 5400 s; the third is the last two seconds.
    let clicks: Vec<_> = clips.iter().map(|c| c.samples.iter().position(|s| *s > 0.4)).collect();
    assert_eq!(clicks, [Some(0), Some(16_000), None]);
    let beyond = ReadOptions { start: 20_000.0, seconds: Some(1.0), ..ReadOptions::default() };
    assert!(matches!(file.read(&beyond), Err(AudioError::Beyond { .. })));
    for (start, seconds) in [(-1.0, 1.0), (f64::NAN, 1.0), (0.0, -1.0), (0.0, f64::INFINITY)] {
        let options = ReadOptions { start, seconds: Some(seconds), ..ReadOptions::default() };
        assert!(file.read(&options).is_err(), "{start} {seconds}");
    }
}

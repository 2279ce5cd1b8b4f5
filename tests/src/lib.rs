//! What several of the tests in tests/ and in mils-gpu share: the backends under test, where fixtures lie, and the one
//! tolerance table; and a model hub on this machine. Not a library for others.
//!
//! ```
//! use mils_tests::tolerance;
//! assert!(tolerance::FILE_COSINE < tolerance::COSINE);
//! ```
#![allow(clippy::panic, reason = "a test that lacks its device must fail")]

pub mod hub_server;

use mils_cpu::Cpu;
use mils_encoder::Embeddings;
use mils_gpu::Gpu;
use mils_graph::Backend;
use std::path::{Path, PathBuf};

/// How far a result may be from its reference.
pub mod tolerance {
    use mils_encoder::Precision;

    /// Least cosine of an embedding with the reference, in f32.
    pub const COSINE: f32 = 0.99999;
    /// Largest difference of an embedding's element from the reference, in f32.
    pub const ELEMENT: f32 = 1e-4;
    /// Least cosine where the image was also resized here: a pixel in a thousand may round to the neighbouring value.
    pub const FILE_COSINE: f32 = 0.9999;
    /// The same with weights in bf16, which have 8 bits.
    pub const BF16_COSINE: f32 = 0.995;
    /// Largest difference of a calibrated score, 0 to 1, from the reference.
    pub const SCORE: f32 = 1e-3;
    /// Least mean Jaccard index of the best 50 of 1,000 texts with those that f32 on the CPU finds.
    pub const RANKS: [(Precision, f64); 3] = [(Precision::F32, 0.98), (Precision::F16, 0.98), (Precision::BF16, 0.98)];
    /// Largest difference of a log-mel feature, in dB.
    pub const DECIBELS: f32 = 1e-4;
    /// Largest difference of a resized pixel from Pillow's, in 8-bit steps.
    pub const PIXEL: f32 = 1.01;
}

/// Whether the GPU is left out: only on request, and loudly.
pub fn skips_gpu() -> bool {
    let skips = std::env::var_os("MILS_TEST_SKIP_GPU").is_some();
    if skips {
        eprintln!("MILS_TEST_SKIP_GPU is set: THE GPU BACKEND IS NOT TESTED");
    }
    skips
}

/// The GPU to test, a software driver if need be.
///
/// # Panics
/// If there is none.
pub fn gpu() -> Gpu {
    Gpu::open().unwrap_or_else(|e| panic!("{e}; or set MILS_TEST_SKIP_GPU=1 to leave the GPU untested"))
}

/// The backends to test.
///
/// # Panics
/// If there is no GPU and nobody said to leave it out.
pub fn backends() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new())];
    if !skips_gpu() {
        all.push(Box::new(gpu()));
    }
    all
}

/// The folder of the conformance fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// What the reference computes with one of the bundled models (conformance/make_fixtures.py --demo-pack): of some files,
/// and of some texts.
#[derive(serde::Deserialize)]
pub struct PackReference {
    /// The files.
    #[serde(alias = "samples")]
    pub files: Vec<String>,
    /// The texts.
    pub texts: Vec<String>,
    /// Embeddings of the files.
    #[serde(alias = "image_embeds", alias = "video_embeds", alias = "audio_embeds")]
    pub file_embeds: Vec<Vec<f32>>,
    /// Embeddings of the texts.
    pub text_embeds: Vec<Vec<f32>>,
    /// Of each file with all texts.
    pub cosines: Vec<Vec<f32>>,
}

impl PackReference {
    /// Reads a fixture.
    ///
    /// # Panics
    /// If it is not there, or something else.
    pub fn read(fixture: &str) -> Self {
        let text = std::fs::read_to_string(fixtures().join(fixture)).unwrap_or_else(|e| panic!("{fixture}: {e}"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{fixture}: {e}"))
    }

    /// Holds embeddings against it: of texts as closely as anywhere, of files by their cosine with the reference, and by
    /// their cosines with the texts.
    ///
    /// # Panics
    /// If they differ by more.
    pub fn hold(&self, backend: &str, files: &Embeddings, texts: &Embeddings, least_cosine: f32, most_apart: f32) {
        assert_eq!((files.len(), texts.len()), (self.files.len(), self.texts.len()));
        for (i, theirs) in self.text_embeds.iter().enumerate() {
            compare(&format!("{backend} {:?}", self.texts[i]), texts.row(i), theirs);
        }
        for (i, theirs) in self.file_embeds.iter().enumerate() {
            let name = &self.files[i];
            let cosine = cosine(files.row(i), theirs);
            assert!(cosine >= least_cosine, "{backend} {name}: cosine {cosine}");
            for (j, score) in self.cosines[i].iter().enumerate() {
                let ours = files.dot(i, texts, j);
                assert!((ours - score).abs() < most_apart, "{backend} {name} {j}: {ours}, not {score}");
            }
        }
    }
}

/// Cosine of two vectors of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Holds an embedding against its reference; both have length 1.
///
/// # Panics
/// If they differ by more than the tolerance.
pub fn compare(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let cosine = cosine(ours, theirs);
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(
        cosine >= tolerance::COSINE && worst <= tolerance::ELEMENT,
        "{what}: cosine {cosine}, largest difference {worst}"
    );
}

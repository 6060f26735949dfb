//! The network against onnxruntime (fixtures: `make_fixtures_voice.py`), and against itself cut into windows.

use std::path::PathBuf;

use callbox_engine::models::vits::{Noise, Scales, Utterance, Vits, seeded_noise};
use candle_core::Device;

fn models() -> PathBuf {
    std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"))
}

fn vits(threads: usize) -> Vits {
    let model = models().join("piper-joe/en_US-joe-medium.onnx");
    assert!(model.exists(), "the voice is missing: run make models");
    Vits::load(&model, &Device::Cpu, threads).expect("the voice loads")
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    ids: Vec<usize>,
    scales: [f32; 3],
    durations: Vec<usize>,
}

/// The noise of `make_fixtures_voice.py`.
fn injected() -> Noise {
    let mut index = 0_u32;
    Box::new(move |out| {
        for x in out {
            let mixed = index.wrapping_mul(2_654_435_761).wrapping_add(12_345);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
            *x = (mixed >> 8) as f32 / 16_777_216.0 * 3.4 - 1.7;
            index += 1;
        }
    })
}

fn all(vits: &Vits, mut utterance: Utterance, mut windows: impl Iterator<Item = usize>) -> Vec<f32> {
    let mut samples = Vec::new();
    while !utterance.is_finished() {
        vits.advance(&mut utterance, windows.next().expect("endless"), &mut samples);
    }
    assert_eq!(samples.len(), utterance.total() * vits.hop());
    samples
}

#[test]
fn equals_onnxruntime() {
    let vits = vits(2);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/voice");
    let cases = std::fs::read(folder.join("cases.json")).expect("fixture");
    let cases: Vec<Case> = serde_json::from_slice(&cases).expect("fixture");
    assert!(cases.len() >= 3);
    for case in cases {
        let [noise_scale, length_scale, noise_w] = case.scales;
        let utterance = vits.begin(&case.ids, Scales { noise_scale, length_scale, noise_w }, injected());
        assert_eq!(utterance.durations(), case.durations, "{}", case.name);
        let ours = all(&vits, utterance, std::iter::repeat(usize::MAX / 2));
        let mut wav = hound::WavReader::open(folder.join(format!("{}.wav", case.name))).expect("fixture");
        let theirs: Vec<f64> = wav.samples::<i16>().map(|s| f64::from(s.expect("whole")) / 32767.0).collect();
        assert_eq!(ours.len(), theirs.len());
        let signal: f64 = theirs.iter().map(|x| x * x).sum();
        let noise: f64 = theirs.iter().zip(&ours).map(|(x, &y)| (x - f64::from(y)).powi(2)).sum();
        let snr = 10.0 * (signal / noise).log10();
        println!("{}: {snr:.1} dB", case.name);
        assert!(snr > 40.0, "{}: {snr:.1} dB", case.name);
    }
}

#[test]
fn windows_and_threads_change_no_bit() {
    let (one, two) = (vits(1), vits(2));
    let ids = one.ids("həlˈoʊ, wˈʌn mˈoʊmənt plˈiːz.".chars());
    let start = |vits: &Vits| vits.begin(&ids, vits.scales(), seeded_noise(7));
    let whole = all(&one, start(&one), std::iter::repeat(usize::MAX / 2));
    for windows in [vec![1], vec![24, 64], vec![3, 50, 7, 19]] {
        let cut = all(&two, start(&two), windows.iter().copied().cycle());
        assert!(cut.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()), "{windows:?}");
        assert_eq!(cut.len(), whole.len());
    }
    let other = all(&one, one.begin(&ids, one.scales(), seeded_noise(8)), std::iter::repeat(99));
    assert_ne!(other, whole, "the seed matters");
}

#[test]
fn odd_ids_are_harmless() {
    let vits = vits(1);
    for ids in [vec![], vec![0], vec![usize::MAX, 1, 2], vec![14; 40]] {
        let utterance = vits.begin(&ids, vits.scales(), seeded_noise(1));
        all(&vits, utterance, std::iter::repeat(30));
    }
}

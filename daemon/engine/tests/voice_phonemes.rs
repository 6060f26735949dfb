//! Our phonemes, by the program espeak-ng, against those of piper-tts (fixtures: `make_fixtures_voice.py`).

use std::path::{Path, PathBuf};

use callbox_engine::models::vits::Vits;
use callbox_engine::voice::{Espeak, EspeakError};
use candle_core::Device;

#[derive(serde::Deserialize)]
struct Line {
    text: String,
    ids: Vec<Vec<usize>>,
}

fn model() -> PathBuf {
    let models = std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"));
    let model = models.join("piper-joe/en_US-joe-medium.onnx");
    assert!(model.exists(), "the voice is missing: run make models");
    model
}

#[test]
fn equal_to_pipers() {
    let vits = Vits::load(&model(), &Device::Cpu, 1).expect("the voice loads");
    let mut espeak = Espeak::start(Path::new("espeak-ng"), vits.espeak_voice()).expect("espeak-ng is installed");
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/voice/phonemes.json");
    let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(fixture).expect("fixture")).expect("fixture");
    assert!(lines.len() >= 50);
    let mut different = Vec::new();
    for line in &lines {
        let sentences = espeak.sentences(&line.text).expect("espeak-ng answers");
        let ids: Vec<Vec<usize>> = sentences.iter().map(|s| vits.ids(s.phonemes.trim_end().chars())).collect();
        if folded(&ids, &vits) != folded(&line.ids, &vits) {
            different.push(format!("{}: {sentences:?}", line.text));
        }
    }
    // "hasbeen" is reduced by one version only.
    assert!(different.len() <= 1, "{} of {}:\n{}", different.len(), lines.len(), different.join("\n"));
}

/// Without what changed between espeak-ng 1.51 (Debian) and 1.52 (inside piper-tts): a glide between vowels, `oː` for `ɔː`.
fn folded(ids: &[Vec<usize>], vits: &Vits) -> Vec<Vec<usize>> {
    let of = |phoneme: char| vits.ids([phoneme].into_iter())[2];
    let (glide, o, open_o, long) = (of('ʲ'), of('o'), of('ɔ'), of('ː'));
    let fold = |sentence: &Vec<usize>| {
        let mut out: Vec<usize> = sentence.iter().copied().filter(|&id| id != 0 && id != glide).collect();
        for at in 1..out.len() {
            if out[at] == long && out[at - 1] == o {
                out[at - 1] = open_o;
            }
        }
        out
    };
    ids.iter().map(fold).collect()
}

#[test]
fn a_text_without_end_is_cut() {
    let mut espeak = Espeak::start(Path::new("espeak-ng"), "en-us").expect("espeak-ng is installed");
    let sentences = espeak.sentences(&"and then some more words ".repeat(100)).expect("espeak-ng answers");
    let longest = sentences.iter().map(|sentence| sentence.phonemes.chars().count()).max();
    assert!(sentences.len() > 3 && longest < Some(600), "{} sentences, {longest:?}", sentences.len());
    let words: usize = sentences.iter().map(|sentence| sentence.phonemes.split_whitespace().count()).sum();
    assert!((380..=520).contains(&words), "{words} of 500 words; some are spoken as one");
}

#[test]
fn a_dead_process_is_replaced() {
    let mut espeak = Espeak::start(Path::new("espeak-ng"), "en-us").expect("espeak-ng is installed");
    let before = espeak.sentences("Hello there.").expect("it answers");
    for _ in 0..3 {
        let pid = espeak.pid().expect("it runs");
        let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
        assert!(killed.success());
        assert_eq!(espeak.sentences("Hello there.").expect("it is replaced"), before);
        assert_ne!(espeak.pid(), Some(pid));
    }
}

#[test]
fn a_missing_program_is_one_sentence() {
    let error = Espeak::start(Path::new("/nowhere/espeak-ng"), "en-us").err().expect("it is missing");
    assert!(matches!(error, EspeakError::Missing { .. }));
    assert!(error.to_string().contains("/nowhere/espeak-ng") && error.to_string().contains("install"), "{error}");
}

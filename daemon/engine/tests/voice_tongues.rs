//! What Kokoro's speakers are given to say, against what its authors give them (fixtures: `make_fixtures_tongues.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use callbox_engine::voice::{Language, Reader, tokens};

#[derive(serde::Deserialize)]
struct Line {
    language: String,
    text: String,
    phonemes: String,
}

fn folder() -> PathBuf {
    let models = std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"));
    let folder = models.join("kokoro-82m");
    assert!(folder.exists(), "the voice is missing: run make models PACK=kokoro-82m");
    folder
}

fn reader(language: Language) -> Reader {
    Reader::start(language, Path::new("espeak-ng"), &folder(), 250).expect("what reads it is installed")
}

fn said(reader: &mut Reader, language: Language, text: &str) -> Vec<u32> {
    let sentences = reader.sentences(text).expect("it is read");
    let phonemes: Vec<&str> = sentences.iter().map(|sentence| sentence.phonemes.trim()).collect();
    tokens(&phonemes.join(" "), language)
}

/// How many insertions, removals and changes make one of the other.
fn distance(one: &[u32], other: &[u32]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.iter().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in other.iter().enumerate() {
            let best = (corner + usize::from(a != b)).min(row[column] + 1).min(row[column + 1] + 1);
            corner = std::mem::replace(&mut row[column + 1], best);
        }
    }
    row[other.len()]
}

#[test]
fn every_language_is_read_as_kokoros_authors_do() {
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/voice/tongues.json");
    let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(fixture).expect("fixture")).expect("fixture");
    let mut by_language: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    lines.iter().for_each(|line| by_language.entry(&line.language).or_default().push(line));
    // Of tokens that must be theirs.
    let bars =
        [("es", 0.995), ("fr", 0.995), ("hi", 0.995), ("it", 0.995), ("ja", 0.965), ("pt", 0.995), ("zh", 0.995)];
    let mut failed = Vec::new();
    for (name, bar) in bars {
        let language = Language::of(name).expect("a language");
        let (mut reader, mut same, mut wrong, mut all) = (reader(language), 0, 0, 0);
        let (mut wrong_sounds, mut shown) = (0, Vec::new());
        for line in &by_language[name] {
            let theirs = tokens(&line.phonemes.replace(" ?", "?").replace(" !", "!").replace(" ;", ";"), language);
            let ours = said(&mut reader, language, &line.text);
            let sounds = |ids: &[u32]| ids.iter().copied().filter(|id| *id > 16).collect::<Vec<_>>();
            let changes = distance(&ours, &theirs);
            same += usize::from(changes == 0);
            wrong += changes;
            wrong_sounds += distance(&sounds(&ours), &sounds(&theirs));
            all += theirs.len();
            if changes > 0 {
                let sentences = reader.sentences(&line.text).expect("it is read");
                shown.push(format!("{}: {}, and here {sentences:?}", line.text, line.phonemes));
            }
        }
        let right = 1.0 - wrong as f64 / all as f64;
        let sounds = 1.0 - wrong_sounds as f64 / all as f64;
        println!(
            "{name}: {same} of {} sentences the same, {:.2} % of tokens, {:.2} % without spaces and punctuation",
            by_language[name].len(),
            right * 100.0,
            sounds * 100.0
        );
        shown.iter().for_each(|line| println!("  {line}"));
        if right < bar {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?} are read otherwise than by Kokoro's authors");
}

#[test]
fn digits_and_latin_words_are_heard_in_every_language() {
    for code in ["a", "b", "e", "f", "h", "i", "j", "p", "z"] {
        let language = Language::of(code).expect("a language");
        let mut reader = reader(language);
        for text in ["7", "12:30", "٣ 3.5 %", "+1 555 0123", "Wi-Fi", "…3…"] {
            assert!(!said(&mut reader, language, text).is_empty(), "{language:?} says nothing of {text:?}");
        }
        assert!(said(&mut reader, language, "** — **").is_empty());
    }
    assert!(!said(&mut reader(Language::Hindi), Language::Hindi, "२४").is_empty());
}

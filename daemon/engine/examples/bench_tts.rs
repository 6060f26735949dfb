//! Speaks each line of standard input and prints one JSON object per line: the ids, seconds of audio, seconds for all of
//! it, and seconds until the first window. `benches/peers/tts.py` drives it. Usage: `bench_tts MODEL THREADS`.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use callbox_engine::models::vits::{Vits, seeded_noise};
use callbox_engine::voice::{Espeak, normalise};
use candle_core::Device;

/// As the role's first windows.
const FIRST_WINDOW: usize = 24;
const WINDOW: usize = 64;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().unwrap_or_default());
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(2);
    let vits = Vits::load(&model, &Device::Cpu, threads)?;
    let mut espeak = Espeak::start("espeak-ng".as_ref(), vits.espeak_voice())?;
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let started = Instant::now();
        let sentences = espeak.sentences(&normalise(&line))?;
        let phonemes_s = started.elapsed().as_secs_f64();
        let Some(sentence) = sentences.first() else { continue };
        let ids = vits.ids(sentence.phonemes.trim_end().chars());
        let started = Instant::now();
        let mut utterance = vits.begin(&ids, vits.scales(), seeded_noise(1));
        let begin_s = started.elapsed().as_secs_f64();
        let mut samples = Vec::new();
        vits.advance(&mut utterance, FIRST_WINDOW, &mut samples);
        let first_s = started.elapsed().as_secs_f64();
        while !utterance.is_finished() {
            vits.advance(&mut utterance, WINDOW, &mut samples);
        }
        let total_s = started.elapsed().as_secs_f64();
        let audio_s = samples.len() as f64 / f64::from(vits.rate());
        let row = serde_json::json!({
            "text": line, "ids": ids, "audio_s": audio_s, "total_s": total_s, "first_s": first_s, "begin_s": begin_s,
            "phonemes_s": phonemes_s,
        });
        writeln!(stdout, "{row}")?;
        stdout.flush()?;
    }
    Ok(())
}

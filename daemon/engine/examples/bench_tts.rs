//! Speaks each line of standard input and prints one JSON object per line: the ids, seconds of audio, seconds for all of
//! it, and seconds until the first window. `benches/peers/tts.py` drives it. Usage: `bench_tts MODEL THREADS [FOLDER]`.
//! The model is a Piper voice (`.onnx`), or an American speaker of Kokoro's (`.bin` beside the `.onnx`), of which what was
//! spoken is written into the folder.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use callbox_engine::models::kokoro::{Kokoro, Phrase, RATE, STYLE_LEN, Statistics};
use callbox_engine::models::vits::{Vits, seeded_noise};
use callbox_engine::voice::{Espeak, Language, normalise, tokens};
use candle_core::Device;

/// As the role's first windows.
const FIRST_WINDOW: usize = 24;
const WINDOW: usize = 64;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().unwrap_or_default());
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(2);
    if model.extension().is_some_and(|end| end == "bin") {
        return kokoro(&model, threads, args.next().map(PathBuf::from));
    }
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

/// Frames of the first windows, and of the others.
const KOKORO_WINDOWS: [usize; 2] = [12, 30];

fn kokoro(speaker: &Path, threads: usize, folder: Option<PathBuf>) -> anyhow::Result<()> {
    let styles: Vec<f32> =
        std::fs::read(speaker)?.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let network = Kokoro::load(&speaker.with_file_name("kokoro-v1.0.int8.onnx"), &Device::Cpu, threads)?;
    let mut espeak = Espeak::start("espeak-ng".as_ref(), "en-us")?;
    let mut stdout = std::io::stdout().lock();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        let started = Instant::now();
        let sentences = espeak.sentences(&normalise(&line))?;
        let phonemes_s = started.elapsed().as_secs_f64();
        let Some(sentence) = sentences.first() else { continue };
        let ids = tokens(sentence.phonemes.trim_end(), Language::American);
        let style = &styles[(ids.len().max(1) - 1) * STYLE_LEN..][..STYLE_LEN];
        let started = Instant::now();
        let plan = network.plan(&[Phrase { ids: &ids, style, speed: 1.0 }], &[])?.remove(0);
        let begin_s = started.elapsed().as_secs_f64();
        let mut utterance = network.begin(&plan, &mut seeded_noise(1), Statistics::Whole)?;
        let mut samples = Vec::new();
        network.advance(&mut utterance, KOKORO_WINDOWS[0], &mut samples)?;
        let first_s = started.elapsed().as_secs_f64();
        while !utterance.is_finished() {
            network.advance(&mut utterance, KOKORO_WINDOWS[1], &mut samples)?;
        }
        let total_s = started.elapsed().as_secs_f64();
        let audio_s = samples.len() as f64 / f64::from(RATE);
        let row = serde_json::json!({
            "text": line, "ids": ids, "audio_s": audio_s, "total_s": total_s, "first_s": first_s, "begin_s": begin_s,
            "phonemes_s": phonemes_s,
        });
        if let Some(folder) = &folder {
            let spec = hound::WavSpec {
                channels: 1,
                sample_rate: RATE,
                bits_per_sample: 16,
                sample_format: hound::SampleFormat::Int,
            };
            let mut wav = hound::WavWriter::create(folder.join(format!("{number:02}.wav")), spec)?;
            samples
                .iter()
                .try_for_each(|x| wav.write_sample((x * 32_767.0).round().clamp(-32_768.0, 32_767.0) as i16))?;
            wav.finalize()?;
        }
        writeln!(stdout, "{row}")?;
        stdout.flush()?;
    }
    Ok(())
}

//! Whether sentences or windows of several calls are sooner done together than one after the other. Prints JSON.
//! Usage: `bench_together MODEL THREADS [tensors]`. The model is a Piper voice (`.onnx`), or a speaker of Kokoro's (`.bin` beside the
//! `.onnx`), with `tensors` computed as elsewhere than on a processor.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use callbox_engine::models::kokoro::{Kokoro, Phrase, Plan, STYLE_LEN};
use callbox_engine::models::vits::{Noise, Utterance, Vits, seeded_noise};
use callbox_engine::voice::{Espeak, Language, normalise, tokens};
use candle_core::Device;
use serde_json::json;

const ROUNDS: usize = 5;
const TEXT: &str = "We are open from nine to five, Monday through Friday.";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = PathBuf::from(args.first().map(String::as_str).unwrap_or_default());
    let threads = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let tensors = args.get(2).is_some_and(|word| word == "tensors");
    let result = if model.extension().is_some_and(|end| end == "bin") {
        kokoro(&model, threads, !tensors)?
    } else {
        piper(&model, threads)?
    };
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}

/// Milliseconds, the least of some rounds.
fn least(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work()?;
        least = least.min(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(least)
}

/// The most memory that this process has had, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0.0) / 1024.0
}

fn kokoro(speaker: &Path, threads: usize, kernels: bool) -> anyhow::Result<serde_json::Value> {
    let styles: Vec<f32> =
        std::fs::read(speaker)?.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let network = Kokoro::load_as(&speaker.with_file_name("kokoro-v1.0.int8.onnx"), &Device::Cpu, threads, kernels)?;
    let mut espeak = Espeak::start("espeak-ng".as_ref(), "en-us")?;
    let started = Instant::now();
    let sentences = espeak.sentences(&normalise(TEXT))?;
    let phonemes_ms = started.elapsed().as_secs_f64() * 1e3;
    let ids =
        tokens(sentences.iter().map(|one| one.phonemes.as_str()).collect::<String>().trim_end(), Language::American);
    let style = &styles[(ids.len().max(1) - 1) * STYLE_LEN..][..STYLE_LEN];
    let phrase = Phrase { ids: &ids, style, speed: 1.0 };
    let (mut alone, mut rows) = (Vec::new(), Vec::new());
    let loaded = peak();
    for count in [1, 2, 4] {
        let plan = |count| network.plan(&vec![phrase.clone(); count], &[]);
        let plan_ms = least(|| plan(count).map(drop).map_err(Into::into))?;
        let mut spoken = Vec::new();
        let mut frames = 0;
        let all_ms = least(|| {
            let plans = plan(count)?;
            frames = plans.iter().map(Plan::frames).sum();
            let mut noises: Vec<Noise> = plans.iter().map(|_| seeded_noise(1)).collect();
            spoken =
                network.speak_all(&plans.iter().collect::<Vec<_>>(), &mut noises.iter_mut().collect::<Vec<_>>())?;
            Ok(())
        })?;
        if count == 1 {
            alone = spoken.remove(0);
            spoken.push(alone.clone());
        }
        rows.push(json!({
            "sentences": count, "frames": frames, "plan_ms": plan_ms, "ms": all_ms, "ms_each": all_ms / count as f64,
            "peak_mib": peak() - loaded, "equal_to_the_bit": spoken.iter().all(|one| *one == alone),
        }));
    }
    Ok(json!({ "ids": ids.len(), "phonemes_ms": phonemes_ms, "kernels": kernels, "threads": threads, "rows": rows }))
}

/// What a window costs by its length is what one pass over windows of several calls could gain at most: as many rows.
fn piper(model: &Path, threads: usize) -> anyhow::Result<serde_json::Value> {
    let vits = Vits::load(model, &Device::Cpu, threads)?;
    let mut espeak = Espeak::start("espeak-ng".as_ref(), vits.espeak_voice())?;
    let sentences = espeak.sentences(&normalise(TEXT))?;
    let phonemes: String = sentences.iter().map(|sentence| sentence.phonemes.as_str()).collect();
    let ids = vits.ids(phonemes.trim_end().chars());
    let begin = || vits.begin(&ids, vits.scales(), seeded_noise(1));
    // Past the first window, which has more frames to enter.
    let warm = |utterance: &mut Utterance| vits.advance(utterance, 24, &mut Vec::new());
    let mut rows = Vec::new();
    for frames in [12, 24, 48, 64, 96] {
        let mut of = Vec::new();
        for _ in 0..3 * ROUNDS {
            let mut utterance = begin();
            warm(&mut utterance);
            let started = Instant::now();
            vits.advance(&mut utterance, frames, &mut Vec::new());
            of.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let ms = of.iter().copied().fold(f64::INFINITY, f64::min);
        rows.push(json!({ "frames": frames, "ms": ms, "ms_per_frame": ms / frames as f64 }));
    }
    let (mut after, mut beside) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..3 * ROUNDS {
        let [mut one, mut other] = [begin(), begin()];
        [&mut one, &mut other].into_iter().for_each(warm);
        let started = Instant::now();
        for utterance in [&mut one, &mut other] {
            vits.advance(utterance, 64, &mut Vec::new());
        }
        after = after.min(started.elapsed().as_secs_f64() * 1e3);
        let [mut one, mut other] = [begin(), begin()];
        [&mut one, &mut other].into_iter().for_each(warm);
        let started = Instant::now();
        let mut out = [Vec::new(), Vec::new()];
        vits.advance_all([&mut one, &mut other].into_iter().zip(&mut out).map(|(one, out)| (one, 64, out)));
        beside = beside.min(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(
        json!({ "threads": threads, "windows": rows, "two_of_64_after_each_other_ms": after, "two_of_64_at_once_ms": beside }),
    )
}

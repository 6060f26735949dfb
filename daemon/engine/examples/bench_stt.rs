//! Transcribes prompts with the product's ears and prints what it heard and how long that took, as JSON.
//!
//! `bench_stt LIST [--pad-ms N] [--threads N] [--form q8_0]`: LIST is a JSON array of `{"path": WAV, "text": …}`; WAVs are 8 or
//! 16 kHz, mono. `benches/peers/stt.py` writes LIST and compares with openai-whisper, `benches/forms.py` one form with the others.

#![expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]

#[path = "../tests/whisper_support/mod.rs"]
mod whisper_support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use callbox_engine::models::silero::{self, Silero};
use callbox_engine::models::whisper::{RATE, Unhurried, Whisper};
use candle_core::Device;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// JSON array of `{"path", "text"}`.
    list: PathBuf,
    /// Whisper's checkpoint.
    #[arg(long)]
    model: PathBuf,
    /// Silero's weights: its time per window is taken as well.
    #[arg(long)]
    vad: Option<PathBuf>,
    /// Silence after each prompt, instead of the product's.
    #[arg(long)]
    pad_ms: Option<usize>,
    /// The checkpoint's weights in one of whisper.cpp's forms, instead of as they are.
    #[arg(long)]
    form: Option<Form>,
    /// Threads of the decoder; those of the encoder are `RAYON_NUM_THREADS`.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q5_1")]
    Q5_1,
    #[value(name = "q5_0")]
    Q5_0,
}

#[derive(serde::Deserialize)]
struct Prompt {
    path: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let list = std::fs::read(&arguments.list).with_context(|| arguments.list.display().to_string())?;
    let prompts: Vec<Prompt> = serde_json::from_slice(&list)?;
    let formed = arguments.form.map(|form| {
        let form = match form {
            Form::Q8_0 => whisper_support::Ggml::Q8_0,
            Form::Q5_1 => whisper_support::Ggml::Q5_1,
            Form::Q5_0 => whisper_support::Ggml::Q5_0,
        };
        let bytes = whisper_support::ggml(&whisper_support::read(&arguments.model), form);
        whisper_support::Kept::new("ggml.bin", &bytes)
    });
    let model = formed.as_ref().map_or(arguments.model.as_path(), whisper_support::Kept::path);
    let mut whisper = Whisper::open(model, &Device::Cpu, arguments.threads)?;
    if let Some(ms) = arguments.pad_ms {
        whisper = whisper.with_pad(ms * RATE / 1000);
    }
    for seconds in [1, 4] {
        whisper.transcribe(&vec![0.0; seconds * RATE], &mut Unhurried)?;
    }
    let mut rows = Vec::new();
    for prompt in prompts {
        let samples = read(&prompt.path)?;
        let started = Instant::now();
        let hearing = whisper.transcribe(&samples, &mut Unhurried)?.context("nobody cancels")?;
        let seconds = started.elapsed().as_secs_f64();
        rows.push(serde_json::json!({
            "path": prompt.path, "text": hearing.text, "seconds": seconds, "tokens": hearing.tokens,
            "audio_seconds": samples.len() as f64 / RATE as f64, "declined": hearing.declined,
            "no_speech": hearing.no_speech, "mean_logprob": hearing.mean_logprob,
        }));
    }
    let vad = arguments.vad.map(|path| microseconds_per_window(&path)).transpose()?;
    println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "prompts": rows, "vad_us_per_window": vad }))?);
    Ok(())
}

/// Of one thread, over a minute of noise, in ten parts; the best part, so that other work on the machine counts less.
fn microseconds_per_window(path: &Path) -> anyhow::Result<f64> {
    const WINDOWS: usize = 190;
    let silero = Silero::open(path)?;
    let mut state = silero::State::default();
    let mut window = [0.0; silero::WINDOW];
    let mut best = f64::INFINITY;
    for part in 0..10 {
        let started = Instant::now();
        for i in 0..WINDOWS {
            window[(i * 37) % silero::WINDOW] = ((i + part) % 7) as f32 / 70.0;
            silero.step(&mut state, &window);
        }
        best = best.min(started.elapsed().as_secs_f64() * 1e6 / WINDOWS as f64);
    }
    Ok(best)
}

/// A WAV as the ears hear it: 16 kHz, -1 to 1.
fn read(path: &PathBuf) -> anyhow::Result<Vec<f32>> {
    let mut wav = hound::WavReader::open(path).with_context(|| path.display().to_string())?;
    let spec = wav.spec();
    ensure!(spec.channels == 1 && spec.bits_per_sample == 16, "{}: not 16-bit mono", path.display());
    let samples: Vec<f32> =
        wav.samples::<i16>().map(|s| Ok(f32::from(s?) / 32_768.0)).collect::<anyhow::Result<_>>()?;
    match spec.sample_rate {
        16_000 => Ok(samples),
        8_000 => Ok(double(&samples)),
        rate => anyhow::bail!("{}: {rate} Hz", path.display()),
    }
}

/// Twice the rate: a half-band filter of 63 taps, sinc under a Blackman window, as the daemon's media room does it.
fn double(samples: &[f32]) -> Vec<f32> {
    const SIDE: isize = 16;
    let taps: Vec<f32> = (-SIDE..SIDE)
        .map(|k| {
            let t = k as f64 + 0.5;
            let sinc = (std::f64::consts::PI * t).sin() / (std::f64::consts::PI * t);
            let phase = std::f64::consts::PI * t / (SIDE as f64 + 0.5);
            (sinc * (0.42 + 0.5 * phase.cos() + 0.08 * (2.0 * phase).cos())) as f32
        })
        .collect();
    let at = |i: isize| usize::try_from(i).ok().and_then(|i| samples.get(i)).copied().unwrap_or(0.0);
    (0..samples.len() as isize)
        .flat_map(|i| {
            let between = (-SIDE..SIDE).zip(&taps).map(|(k, tap)| at(i - k) * tap).sum();
            [at(i), between]
        })
        .collect()
}

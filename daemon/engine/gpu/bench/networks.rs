//! Whisper and Kokoro, and where their files come from.

use std::path::PathBuf;

use anyhow::{Context, Result};
use callbox_engine::models::kokoro::{FRAME, Kokoro, Phrase, Plan, RATE as HZ, STYLE_LEN, Statistics};
use callbox_engine::models::vits::{Noise, seeded_noise};
use callbox_engine::models::whisper::{Dims, RATE, Unhurried, Whisper};
use callbox_engine::voice::together;
use serde_json::json;

use crate::Setting;
use crate::draw::{self, Draw};
use crate::report::{Bar, Report, Row, Times, Weights, millis, now};

pub(crate) const TINY_EN: Dims =
    Dims { mels: 80, audio_ctx: 1500, width: 384, audio_layers: 4, text_ctx: 448, text_layers: 4, vocab: 51_864 };
const TURBO: Dims =
    Dims { mels: 128, audio_ctx: 1500, width: 1280, audio_layers: 32, text_ctx: 448, text_layers: 4, vocab: 51_866 };
pub(crate) const SMALL: Dims =
    Dims { mels: 80, audio_ctx: 200, width: 64, audio_layers: 2, text_ctx: 64, text_layers: 2, vocab: 51_864 };

/// Tokens of three seconds of speech.
const SAYS: usize = 10;
const SECONDS: usize = 3;

/// Noise that comes and goes four times a second.
pub(crate) fn sound(samples: usize, draw: &mut Draw) -> Vec<f32> {
    let mut sound = draw.numbers(samples, 0.3);
    for (at, x) in sound.iter_mut().enumerate() {
        *x *= (at as f32 / RATE as f32 * 4.0 * std::f32::consts::PI).sin();
    }
    sound
}

pub(super) fn whisper_tiny(setting: &Setting, report: &mut Report) -> Result<()> {
    let real = setting.model("whisper-tiny.en/tiny.en.pt");
    whisper(setting, report, ("whisper_tiny", "tiny.en"), real, if setting.quick { SMALL } else { TINY_EN }, 200.0)
}

pub(super) fn whisper_turbo(setting: &Setting, report: &mut Report) -> Result<()> {
    let small = Dims { mels: TURBO.mels, vocab: TURBO.vocab, ..SMALL };
    whisper(setting, report, ("whisper_turbo", "large-v3-turbo"), None, if setting.quick { small } else { TURBO }, 40.0)
}

/// One segment after the other, as the ears take them.
fn whisper(
    setting: &Setting,
    report: &mut Report,
    (key, name): (&str, &str),
    real: Option<PathBuf>,
    dims: Dims,
    bar: f64,
) -> Result<()> {
    let (batch, rounds) = if setting.quick { (2, 2) } else { (16, 7) };
    let mut draw = Draw::new(setting.seed);
    let weights = if real.is_some() { Weights::Real } else { Weights::Drawn };
    let path = match real {
        Some(path) => path,
        None => {
            let path = setting.work.path().join(format!("{key}.safetensors"));
            draw::whisper(&path, dims, SAYS, &mut draw)?;
            path
        }
    };
    let whisper = Whisper::open(&path, &setting.device, setting.threads)?;
    let segments: Vec<Vec<f32>> = (0..batch).map(|_| sound(SECONDS * RATE, &mut draw)).collect();
    let mut tokens = 0;
    let whole = Times::of(&setting.device, 1, rounds, || {
        tokens = 0;
        for segment in &segments {
            tokens += whisper.transcribe(segment, &mut Unhurried)?.context("it was stopped")?.tokens;
        }
        Ok(())
    })?;
    let encoder = Times::of(&setting.device, 1, rounds, || {
        segments.iter().try_for_each(|segment| whisper.layers(segment).map(drop))?;
        Ok(())
    })?;
    let real_time = |times: &Times| 1000.0 * (batch * SECONDS) as f64 / times.at(0.5);
    report.row(Row {
        key: key.to_owned(),
        name: format!("Whisper {name}, {batch} segments of {SECONDS} s, one after the other"),
        weights,
        figure: real_time(&whole),
        unit: "× real time",
        bar: Some(Bar::Least(bar)),
        more: json!({
            "segments": whole.json(),
            "encoder": encoder.json(),
            "encoder_x_real_time": real_time(&encoder),
            "tokens_per_segment": tokens as f64 / batch as f64,
            "decoder": "on the processor",
        }),
    });
    drop(whisper);
    drop(std::fs::remove_file(setting.work.path().join(format!("{key}.safetensors"))));
    Ok(())
}

/// Kokoro's file: the real one, or what lies beside this program without its weights, with others.
pub(crate) fn kokoro_file(setting: &Setting) -> Result<(PathBuf, Weights)> {
    const NAME: &str = "kokoro-v1.0.int8.onnx";
    if let Some(path) = setting.model(&format!("kokoro-82m/{NAME}")) {
        return Ok((path, Weights::Real));
    }
    let program = std::env::current_exe()?;
    let hollow = program.parent().context("no folder")?.join("hollow").join(NAME);
    let path = setting.work.path().join(NAME);
    if !path.exists() {
        std::fs::write(&path, draw::filled(&hollow, &mut Draw::new(setting.seed))?)?;
    }
    Ok((path, Weights::Drawn))
}

/// The first 0.3 s of sentences of 40 phonemes, 3.2 s long.
pub(super) fn kokoro(setting: &Setting, report: &mut Report) -> Result<()> {
    let (phonemes, many, rounds) = if setting.quick { (4, 2, 1) } else { (40, 32, 20) };
    let (path, weights) = kokoro_file(setting)?;
    let kokoro = Kokoro::load(&path, &setting.device, setting.threads)?;
    let mut draw = Draw::new(setting.seed);
    let style = draw.numbers(STYLE_LEN, 0.3);
    let sentences: Vec<Vec<u32>> =
        (0..many).map(|_| (0..phonemes).map(|_| 43 + (draw.next() % 100) as u32).collect()).collect();
    // Their own lengths would be those of sentences only with their own weights.
    let plan = |sentences: &[Vec<u32>]| -> Result<Vec<Plan>> {
        let phrases: Vec<Phrase> = sentences.iter().map(|ids| Phrase { ids, style: &style, speed: 1.0 }).collect();
        Ok(kokoro.plan(&phrases, &vec![Some(vec![3; phonemes + 2]); sentences.len()])?)
    };
    let first = |sentence: &[Vec<u32>]| -> Result<()> {
        for plan in plan(sentence)? {
            let mut utterance = kokoro.begin(&plan, &mut seeded_noise(1), Statistics::Whole)?;
            kokoro.advance(&mut utterance, (0.3 * HZ as f64 / FRAME as f64).ceil() as usize, &mut Vec::new())?;
        }
        Ok(())
    };
    let one = Times::of(&setting.device, 2, rounds, || first(&sentences[..1]))?;
    let row = |key: &str, name: String, figure: f64, bar: f64, more| Row {
        key: key.to_owned(),
        name,
        weights,
        figure,
        unit: "ms",
        bar: Some(Bar::Most(bar)),
        more,
    };
    let name = "Kokoro, first 0.3 s of a sentence, p50";
    report.row(row("kokoro_1", name.into(), one.at(0.5), 40.0, one.json()));
    // The voice begins with the first that comes, and with all that have come meanwhile after it.
    let mut each = Vec::new();
    for _ in 0..rounds.div_ceil(4) {
        let started = now();
        let (one, others) = sentences.split_at(1);
        for some in std::iter::once(one).chain(others.chunks(together(&setting.device))) {
            let plans = plan(some)?;
            let mut noises: Vec<Noise> = plans.iter().map(|_| seeded_noise(1)).collect();
            kokoro.speak_all(&plans.iter().collect::<Vec<_>>(), &mut noises.iter_mut().collect::<Vec<_>>())?;
            each.extend(some.iter().map(|_| millis(started.elapsed())));
        }
    }
    let each = Times::from(each);
    let name =
        format!("Kokoro, first 0.3 s of {many} sentences asked for at once, begun as the voice begins them, p95");
    report.row(row("kokoro_32", name, each.at(0.95), 120.0, each.json()));
    let whole = Times::of(&setting.device, 1, rounds.div_ceil(2), || {
        let plans = plan(&sentences)?;
        let mut noises: Vec<Noise> = plans.iter().map(|_| seeded_noise(1)).collect();
        kokoro.speak_all(&plans.iter().collect::<Vec<_>>(), &mut noises.iter_mut().collect::<Vec<_>>())?;
        Ok(())
    })?;
    let name = format!("Kokoro, {many} sentences as one batch, whole, p95");
    report.row(row("kokoro_32_batch", name, whole.at(0.95), 120.0, whole.json()));
    Ok(())
}

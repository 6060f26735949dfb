//! Speech to send and ears to judge with: the command line of this build, sox, and WAV files of 8 kHz mono.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{RATE, executable};

/// Says `text` with the voice of the pack `tiny`, between `before` and `after` seconds of silence.
///
/// # Errors
/// If the voice or sox fails.
pub async fn say(text: &str, before: f32, after: f32, dir: &Path) -> anyhow::Result<Vec<i16>> {
    let (spoken, telephone) = (dir.join("spoken.wav"), dir.join("telephone.wav"));
    run(Command::new(executable("callbox")?).args(["say", text, "--out"]).arg(&spoken)).await?;
    let (before, after) = (before.to_string(), after.to_string());
    run(Command::new("sox")
        .arg(&spoken)
        .args(["-r", "8000", "-c", "1", "-b", "16"])
        .arg(&telephone)
        .args(["pad", &before, &after]))
    .await?;
    read_wav(&telephone, RATE)
}

/// What the ears of this build make of a recording.
///
/// # Errors
/// If the transcription fails.
pub async fn transcribe(samples: &[i16], dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("heard.wav");
    write_wav(&path, RATE, samples)?;
    let output = run(Command::new(executable("callbox")?).arg("transcribe").arg(&path).arg("--json")).await?;
    let mut texts = Vec::new();
    // One object, an array of them, or one per line.
    for value in serde_json::Deserializer::from_slice(&output).into_iter::<Value>() {
        collect("text", &value.context("`callbox transcribe --json` does not print JSON")?, &mut texts);
    }
    Ok(texts.join(" "))
}

/// Every string under a key, wherever it lies.
fn collect(key: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(key, value, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => collect(key, value, found),
                }
            }
        }
        _ => {}
    }
}

/// Reads the first channel of a WAV of this rate.
///
/// # Errors
/// If it is none.
pub fn read_wav(path: &Path, rate: u32) -> anyhow::Result<Vec<i16>> {
    let mut reader = hound::WavReader::open(path).with_context(|| path.display().to_string())?;
    let spec = reader.spec();
    ensure!(spec.sample_rate == rate && spec.bits_per_sample == 16, "{}: {spec:?}", path.display());
    let samples: Result<Vec<_>, _> = reader.samples::<i16>().step_by(spec.channels.into()).collect();
    Ok(samples?)
}

/// Writes a mono WAV.
///
/// # Errors
/// If it cannot be written.
pub fn write_wav(path: &Path, rate: u32, samples: &[i16]) -> anyhow::Result<()> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    Ok(writer.finalize()?)
}

pub(super) async fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.kill_on_drop(true).output().await.context("run `make setup` and `make build`")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}\n{error}", command.as_std(), output.status);
    Ok(output.stdout)
}

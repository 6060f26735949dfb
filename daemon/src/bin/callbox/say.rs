//! `callbox say TEXT --out FILE`: the voice alone, with its timing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use callbox_wire::{ClauseId, Event, Request, Role, TurnId};
use serde::Serialize;

use crate::private::{CALL, EngineArgs, Private};
use crate::wav;

/// A speaker of Kokoro's who speaks English.
const ENGLISH: &str = "af_heart";

/// Turns text into a WAV file.
#[derive(clap::Args, Debug)]
pub(crate) struct SayArgs {
    /// What to say.
    text: String,
    /// Where to write it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Samples per second: 8000 as on the line, or 16000.
    #[arg(long, default_value_t = 16_000, value_parser = rate)]
    rate: u32,
    /// Whose voice, instead of the configured one: a model, or a speaker as af_heart.
    #[arg(long, value_name = "NAME")]
    voice: Option<String>,
    /// Prints the timing as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

fn rate(text: &str) -> Result<u32, String> {
    match text {
        "8000" => Ok(8000),
        "16000" => Ok(16_000),
        _ => Err("8000 or 16000 is needed".into()),
    }
}

/// What a spoken text cost.
#[derive(Serialize)]
pub(crate) struct Timing {
    audio_ms: u64,
    first_audio_ms: f64,
    compute_ms: f64,
}

pub(crate) async fn run(args: SayArgs) -> Result<ExitCode> {
    let mut config = args.engine.config()?;
    if args.voice.is_some() {
        config.models.voice.clone_from(&args.voice);
    }
    let mut engine = Private::start(&config, &[Role::Voice]).await?;
    let (pcm, timing) = say(&mut engine, &args.text, args.rate, None).await?;
    engine.stop().await;
    wav::write(&args.out, args.rate, &[&pcm])?;
    if args.json {
        println!("{}", serde_json::to_string(&timing)?);
    } else {
        println!(
            "{} s of audio in {:.0} ms, the first of it after {:.0} ms: {}",
            timing.audio_ms as f64 / 1000.0,
            timing.compute_ms,
            timing.first_audio_ms,
            args.out.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Who says what is English, if it is not who speaks for the box: a speaker whose file lies beside that one's. The names of
/// Kokoro's speakers begin with their language, which is English for `a` and `b`.
pub(crate) fn english(voice: &Path) -> Option<&'static str> {
    let speaks_other = voice.extension() == Some(OsStr::new("bin"))
        && voice.file_name().and_then(OsStr::to_str).is_some_and(|name| !name.starts_with(['a', 'b']));
    (speaks_other && voice.with_file_name(ENGLISH).with_extension("bin").is_file()).then_some(ENGLISH)
}

/// Speaks one text; `speaker`: instead of who speaks for the box.
pub(crate) async fn say(
    engine: &mut Private,
    text: &str,
    rate: u32,
    speaker: Option<&str>,
) -> Result<(Vec<i16>, Timing)> {
    let (turn, clause) = (TurnId(0), ClauseId(0));
    let (text, credit, voice) = (text.to_owned(), u32::MAX, speaker.map(str::to_owned));
    engine.port.send(Request::Speak { call: CALL, turn, clause, text, rate, credit, voice })?;
    let mut audio = Vec::new();
    loop {
        match engine.event().await? {
            Event::Audio { pcm, .. } => audio.extend(pcm.0),
            Event::Spoken { first_us, compute_us, .. } => {
                let millis = |us: u64| us as f64 / 1000.0;
                let audio_ms = audio.len() as u64 * 1000 / u64::from(rate);
                return Ok((
                    audio,
                    Timing { audio_ms, first_audio_ms: millis(first_us), compute_ms: millis(compute_us) },
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_is_said_by_who_speaks_it_if_there_is_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let voice = |name: &str| folder.path().join(name);
        assert_eq!(english(&voice("jf_alpha.bin")), None, "there is nobody else");
        std::fs::write(voice("af_heart.bin"), "").expect("a disk");
        assert_eq!(english(&voice("jf_alpha.bin")), Some("af_heart"));
        for name in ["af_heart.bin", "bm_george.bin", "en_US-joe-medium.onnx"] {
            assert_eq!(english(&voice(name)), None, "{name}");
        }
    }
}

//! `callbox transcribe FILE…`: the ears alone, with their timing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use callbox_wire::{EARS_RATE, Event, Language, Pcm, Request, Role, Transcript, TurnId};
use serde::Serialize;

use crate::private::{CALL, EngineArgs, Private};
use crate::wav;

/// Turns recordings into text.
#[derive(clap::Args, Debug)]
pub(crate) struct TranscribeArgs {
    /// WAV files at 8 or 16 kHz, one channel, at most 30 s each.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One JSON object per file.
    #[arg(long)]
    json: bool,
    /// What is spoken, by its code of two letters.
    #[arg(long, value_name = "CODE", default_value_t)]
    language: Language,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    #[serde(flatten)]
    transcript: &'a Transcript,
}

pub(crate) async fn run(args: TranscribeArgs) -> Result<ExitCode> {
    let config = args.engine.config()?;
    let recordings = args.files.iter().map(|file| wav::load(file)).collect::<Result<Vec<_>>>()?;
    let mut engine = Private::start(&config, &[Role::Ears]).await?;
    for (file, pcm) in args.files.iter().zip(recordings) {
        let transcript = transcribe(&mut engine, pcm, args.language).await?;
        if args.json {
            println!("{}", serde_json::to_string(&Line { file, transcript: &transcript })?);
        } else {
            let audio = f64::from(transcript.audio_ms) / 1000.0;
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let took = transcript.compute_us as f64 / 1000.0;
            println!("{}\n  {audio:.1} s of audio in {took:.0} ms: {}", transcript.text, file.display());
        }
    }
    engine.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// One recording at the ears' rate, as one turn.
pub(crate) async fn transcribe(engine: &mut Private, pcm: Vec<i16>, language: Language) -> Result<Transcript> {
    let to = pcm.len() as u64;
    if to > u64::from(EARS_RATE) * 30 {
        bail!("a recording may be at most 30 s long: cut it");
    }
    let turn = TurnId(0);
    engine.port.send(Request::Listen { call: CALL })?;
    for piece in pcm.chunks(EARS_RATE as usize) {
        engine.port.send(Request::Hear { call: CALL, pcm: Pcm(piece.to_vec()) })?;
    }
    engine.port.send(Request::transcribe(language, CALL, turn, (0, to)))?;
    loop {
        if let Event::Heard { transcript, .. } = engine.event().await? {
            return Ok(transcript);
        }
    }
}

//! `callbox dial`: a real SIP caller. It asks questions as sound, listens to the answers, records both sides and measures
//! from the sound how long each answer took.
//!
//! Enters: an address, questions (WAV files or text that the engine's own voice speaks). Leaves: a conversation, a stereo
//! recording, figures. Never here: anything that the box says of itself, but for the words and stages that `--watch`
//! shows.

mod caller;
mod line;
mod measure;
mod questions;
mod report;
pub(crate) mod selftest;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use callbox::base::NOBODY;
use callbox_wire::{Language, Role};
use tokio::task::JoinSet;

use self::caller::Manners;
use self::line::{Heard, Line};
use self::questions::Question;
use self::report::{Answer, Report};
use crate::private::{EngineArgs, Private};
use crate::{transcribe, wav};

/// Calls an address, asks questions, measures the answers.
#[derive(clap::Args, Debug)]
pub(crate) struct DialArgs {
    /// Whom to call: sip:USER@HOST[:PORT].
    to: String,
    /// A question as text, spoken with the engine's own voice; may be repeated.
    #[arg(long, value_name = "TEXT")]
    say: Vec<String>,
    /// A question as a WAV file (8 or 16 kHz, one channel); may be repeated.
    #[arg(long, value_name = "FILE")]
    play: Vec<PathBuf>,
    /// Questions, and what their answers must hold, as TOML.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Asks all questions so many times over.
    #[arg(long, default_value_t = 1, value_name = "N")]
    rounds: usize,
    /// Writes the call as a stereo WAV: caller left, agent right. Several calls get a number before the extension.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// So many calls at once, each with all questions.
    #[arg(long, default_value_t = 1, value_name = "N")]
    calls: usize,
    /// Codec that is offered.
    #[arg(long, value_enum, default_value_t)]
    codec: line::CodecArg,
    /// Whether audio is encrypted (SDES-SRTP).
    #[arg(long, value_enum, default_value_t)]
    encryption: line::EncryptionArg,
    /// Keys to press once the greeting is over, before the first question: 0-9, *, #, A-D.
    #[arg(long, value_name = "KEYS", value_parser = keys)]
    dtmf: Option<callbox::media::Keys>,
    /// Transport of the signalling.
    #[arg(long, value_enum, default_value_t)]
    transport: line::TransportArg,
    /// Over TLS: authorities that are believed, or the certificate of the box itself; else the system's authorities.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Silence, in milliseconds, after which the agent is taken to have finished.
    #[arg(long, default_value_t = 1200, value_name = "MS")]
    pause: u32,
    /// How long to wait for an answer, in milliseconds.
    #[arg(long, default_value_t = 15_000, value_name = "MS")]
    patience: u32,
    /// Shows what the box understood and where its time went, from the control socket of the configuration.
    #[arg(long)]
    watch: bool,
    /// Does not look at what the answers hold; enough for a model that is known to get facts wrong.
    #[arg(long)]
    unchecked: bool,
    /// Writes down what was heard, with the engine's own ears, after the call.
    #[arg(long)]
    transcribe: bool,
    /// One JSON object at the end instead of lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) async fn run(args: DialArgs) -> Result<ExitCode> {
    let config = args.engine.config()?;
    let mut questions = questions::read(args.questions.as_deref(), &args.say, &args.play)?;
    if questions.is_empty() && args.dtmf.is_none() {
        bail!("there is nothing to ask: give --say TEXT, --play FILE, --questions FILE or --dtmf KEYS");
    }
    if args.unchecked {
        questions.iter_mut().for_each(Question::uncheck);
    }
    questions::voice(&mut questions, &config, None).await?;
    let questions: Arc<[Question]> =
        std::iter::repeat_n(questions, args.rounds.max(1)).flatten().collect::<Vec<_>>().into();

    let manners = Manners { pause: args.pause / 20, patience: args.patience / 20 };
    let (ca, calls) = (args.ca.as_deref(), args.calls);
    let line = Arc::new(Line::open(&args.to, args.codec, args.encryption, args.transport, calls, ca, NOBODY).await?);
    let mut calls = JoinSet::new();
    for number in 0..args.calls.max(1) {
        let (line, questions, to) = (Arc::clone(&line), Arc::clone(&questions), args.to.clone());
        let dtmf = args.dtmf;
        let watch = (args.watch && number == 0).then(|| watch::Watch::new(config.http.socket.clone()));
        calls.spawn(async move { (number, line.call(&to, &questions, manners, dtmf, watch).await) });
    }
    let mut heard: Vec<(usize, Heard)> = Vec::new();
    while let Some(joined) = calls.join_next().await {
        let (number, result) = joined?;
        heard.push((number, result?));
    }
    line.close().await;
    heard.sort_by_key(|(number, _)| *number);

    let mut report = Report::default();
    for (number, call) in &heard {
        if let Some(path) = &args.record {
            wav::write(&numbered(path, *number, args.calls), callbox_wire::EARS_RATE, &[&call.sent, &call.received])?;
        }
        report.add(*number, &questions, call);
    }
    if args.transcribe || questions.iter().any(Question::is_checked) {
        let mut engine = Private::start(&config, &[Role::Ears]).await?;
        for answer in &mut report.answers {
            let Some((_, call)) = heard.iter().find(|(number, _)| *number == answer.call) else { continue };
            answer.text = listen(&mut engine, answer, call).await?;
            answer.check(&questions[answer.question]);
        }
        engine.stop().await;
    }
    report.summarise();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The ears hold 30 s; answers on the telephone are shorter.
async fn listen(engine: &mut Private, answer: &Answer, call: &Heard) -> Result<Option<String>> {
    let Some(span) = &answer.span else { return Ok(None) };
    const MARGIN: usize = measure::RATE / 5;
    let end = (span.end + MARGIN).min(call.received.len()).min(span.start + 29 * measure::RATE);
    let samples = &call.received[span.start.saturating_sub(MARGIN)..end];
    let transcript = transcribe::transcribe(engine, samples.to_vec(), Language::ENGLISH).await?;
    Ok(Some(transcript.text))
}

fn keys(text: &str) -> Result<callbox::media::Keys, String> {
    callbox::media::Keys::parse(text).ok_or_else(|| "0-9, *, #, A-D are needed, at most 32 of them".into())
}

fn numbered(path: &std::path::Path, number: usize, calls: usize) -> PathBuf {
    if calls <= 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number}.wav"))
}

/// How long a call may take at most, whatever happens.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(900);

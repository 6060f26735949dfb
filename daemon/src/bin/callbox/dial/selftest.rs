//! `callbox selftest`: one call to the daemon of this machine. Enters: its configuration; leaves: 0 if it took the call,
//! understood a question and answered it aloud. What was understood is its own record of the call; that it was answered
//! is read off the sound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use callbox::base::{Clock as _, SELFTEST, SystemClock};
use callbox::call::agents::Agents;
use callbox::config::Config;
use callbox::models::{self, Use};
use serde_json::{Value, json};

use super::caller::Manners;
use super::line::{CodecArg, EncryptionArg, Line, TransportArg};
use super::questions::{self, Question};
use super::report::Report;
use crate::client;
use crate::printable::printable;
use crate::private::EngineArgs;
use crate::say;

/// A question that any agent can say something to.
const QUESTION: &str = "Hello, can you hear me?";

/// What an error holds if the box has turned the call away: full, draining, without an engine. It knows that itself.
pub(crate) const TURNED_AWAY: &str = " 503 ";

/// Characters of a reason that the daemon takes.
const REASON: usize = 500;

/// How long the record of a call that has ended may take.
const RECORD: Duration = Duration::from_secs(5);

/// See [`crate::Command::Selftest`].
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// What to ask.
    #[arg(long, value_name = "TEXT", default_value = QUESTION)]
    say: String,
    /// Whom to call, instead of the first agent of the configuration.
    #[arg(long, value_name = "URI")]
    to: Option<String>,
    /// How long to wait for each answer, in milliseconds.
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    patience: u32,
    /// Tells the daemon what came of it, which believes it for so long: a test that failed makes it not ready in its
    /// health, and turns no call away.
    #[arg(long, value_name = "SPAN", value_parser = crate::report::span)]
    report: Option<Duration>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What a call that was answered says.
struct Answered {
    understood: String,
    answered: String,
    voice_to_voice_ms: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = arguments.engine.config()?;
    let (to, transport) = match arguments.to {
        Some(to) => (to, TransportArg::Udp),
        None => own_address(&config)?,
    };
    // Our own question is English, whatever the box speaks.
    let speaker = if arguments.say == QUESTION {
        let models = &config.models;
        say::english(&models::resolve(&models.dir, &models.pack, &models.own(), &[Use::Voice])?.voice)
    } else {
        None
    };
    let mut questions = questions::read(None, &[arguments.say], &[])?;
    questions.iter_mut().for_each(Question::uncheck);
    questions::voice(&mut questions, &config, speaker).await?;
    // From here on it is the box that fails, and not its test.
    let answered = call(&config, &to, transport, &questions, arguments.patience).await;
    if let Some(span) = arguments.report {
        report(&config, &answered, span).await?;
    }
    let Answered { understood, answered, voice_to_voice_ms } = answered?;
    if arguments.json {
        let told =
            json!({ "to": to, "understood": understood, "answered": answered, "voice_to_voice_ms": voice_to_voice_ms });
        println!("{told}");
    } else {
        println!(
            "{to} answers calls: it understood {understood:?} and said {answered:?}, after {voice_to_voice_ms} ms"
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn call(
    config: &Config,
    to: &str,
    transport: TransportArg,
    questions: &[Question],
    patience: u32,
) -> Result<Answered> {
    let before = calls(config).await?;
    let ca = config.sip.certificate.as_deref();
    let line = Line::open(to, CodecArg::Pcmu, EncryptionArg::Optional, transport, 1, ca, SELFTEST).await?;
    let manners = Manners { patience: patience / 20, ..Manners::default() };
    let heard = line.call(to, questions, manners, None, None).await?;
    line.close().await;
    let mut report = Report::default();
    report.add(0, questions, &heard);
    report.summarise();
    ensure!(report.passed(), "{to} took the call and did not answer the question: `callbox call list` has the record");
    let (understood, answered) = record(config, &before).await?;
    ensure!(!answered.is_empty(), "{to} did not find an answer to {understood:?}");
    Ok(Answered { understood, answered, voice_to_voice_ms: report.longest_ms().unwrap_or_default() })
}

/// Tells the daemon, for as long as `span`. A box that has turned the call away says so in its health itself, and one that
/// has all of its calls is well.
async fn report(config: &Config, answered: &Result<Answered>, span: Duration) -> Result<()> {
    let why = answered.as_ref().err().map(|error| format!("{error:#}"));
    if why.as_ref().is_some_and(|why| why.contains(TURNED_AWAY)) {
        return Ok(());
    }
    let why = why.map(|why| printable(&why).chars().take(REASON).collect::<String>());
    let took = answered.as_ref().ok().map(|answered| answered.voice_to_voice_ms);
    let told = json!({ "passed": why.is_none(), "why": why, "voice_to_voice_ms": took, "good_for_s": span.as_secs() });
    client::tell(&config.http.socket, "/api/v1/selftest", &told).await
}

/// The first agent, at the first address that the daemon listens on.
fn own_address(config: &Config) -> Result<(String, TransportArg)> {
    let agents = Agents::read(&config.agents.paths)?;
    let number = agents.iter().flat_map(|agent| &agent.numbers).next().context("no agent has a number")?.example();
    let sip = &config.sip;
    let (address, transport) = match (sip.udp.first(), sip.tcp.first(), sip.tls.first()) {
        (Some(address), _, _) => (address, TransportArg::Udp),
        (None, Some(address), _) => (address, TransportArg::Tcp),
        (None, None, Some(address)) => (address, TransportArg::Tls),
        (None, None, None) => bail!("sip.udp, sip.tcp and sip.tls are empty: there is nothing to call"),
    };
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok((format!("sip:{number}@{}", SocketAddr::new(host, address.port())), transport))
}

/// Calls that the daemon knows, newest first.
async fn calls(config: &Config) -> Result<Vec<Value>> {
    let page: Value = client::read(&config.http.socket, "/api/v1/calls?limit=100").await?;
    Ok(page["calls"].as_array().cloned().unwrap_or_default())
}

/// What the daemon understood and answered in the call that we made, which is none of those `before`.
async fn record(config: &Config, before: &[Value]) -> Result<(String, String)> {
    let ours = |call: &&Value| {
        let from_us = call["from"].as_str().is_some_and(|from| from.contains(SELFTEST));
        from_us && call["state"] == "ended" && !before.iter().any(|known| known["id"] == call["id"])
    };
    let text = |turn: &Value, field: &str| turn[field].as_str().unwrap_or_default().to_owned();
    let begun = SystemClock.now();
    loop {
        let mut said = String::new();
        let found = calls(config).await?;
        if let Some(id) = found.iter().find(ours).and_then(|call| call["id"].as_str()) {
            let call: Value = client::read(&config.http.socket, &format!("/api/v1/calls/{id}")).await?;
            let turns = call["exchanges"].as_array().cloned().unwrap_or_default();
            if let Some(turn) = turns.iter().find(|turn| !text(turn, "caller_text").is_empty()) {
                return Ok((text(turn, "caller_text"), text(turn, "agent_text")));
            }
            said = turns.last().map(|turn| text(turn, "heard_text")).unwrap_or_default();
        }
        // The record is written after the call.
        if begun.elapsed() > RECORD {
            bail!("it took the call, and its ears understood nothing; the last that it said was {said:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

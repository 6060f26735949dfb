//! `callbox call`: list, show, trace, start, hangup, say, transfer. Enters: arguments; leaves: what the daemon answers, as
//! text for a terminal or as it is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use callbox::base::{CallId, Clock as _, SystemClock};
use callbox::control::{Captured, Trace};
use callbox::storage::{Cursor, Timestamp, Timing};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Daemon, escaped};
use crate::printable::printable;
use crate::{report, trace};

/// See [`crate::Command::Call`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Calls, newest first.
    List {
        #[command(flatten)]
        daemon: Daemon,
        /// How many, at most 500.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Goes on where an earlier list ended: its `next`.
        #[arg(long, value_name = "CURSOR")]
        before: Option<Cursor>,
        #[command(flatten)]
        wanted: Box<Wanted>,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// The signalling of a call that is up or was not long ago, without secrets.
    Trace {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `call list` and log lines show it.
        id: CallId,
        /// Writes a capture for Wireshark, tshark or sngrep instead; messages of TCP and TLS are in it as datagrams.
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
        /// Also writes its audio as it is on the wire, from now on for so many seconds: RTP and RTCP, 1 to 45. What is
        /// encrypted stays so.
        #[arg(long, value_name = "SECONDS", requires = "pcap", value_parser = clap::value_parser!(u64).range(1..=45))]
        media: Option<u64>,
        /// Prints what the daemon says, as it says it.
        #[arg(long, conflicts_with = "pcap")]
        json: bool,
    },
    /// Ends a call that is up, at once and without a word.
    Hangup {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `call list` and log lines show it.
        id: CallId,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Has the agent of a call that is up say something, as soon as nobody speaks.
    Say {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `call list` and log lines show it.
        id: CallId,
        /// What to say: 1 to 500 characters.
        text: String,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Hands the caller over to one of the agent's transfers, as soon as nobody speaks.
    Transfer {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `call list` and log lines show it.
        id: CallId,
        /// The name of the transfer in the agent's file.
        to: String,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Places a call; the agent speaks once somebody answers.
    Start {
        #[command(flatten)]
        daemon: Daemon,
        /// Whom to call: a number, or sip:USER@HOST.
        #[arg(long, value_name = "NUMBER")]
        to: String,
        /// Who speaks.
        #[arg(long)]
        agent: String,
        /// Through which trunk; without it, the first that calls can go out through.
        #[arg(long)]
        trunk: Option<String>,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// One call: who, what was said, where the time went.
    Show {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `call list` and log lines show it.
        id: CallId,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
}

/// Which calls are listed; what is absent is any.
#[derive(Args)]
struct Wanted {
    /// Begun within this span, or since this time: 24h, 7d, 2026-12-31T00:00:00Z.
    #[arg(long, value_name = "SPAN|TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Begun before this.
    #[arg(long, value_name = "SPAN|TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Taken by this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Who called whom.
    #[arg(long, value_parser = ["inbound", "outbound"])]
    direction: Option<String>,
    /// Ended for this reason, as `caller_hangup`.
    #[arg(long)]
    reason: Option<String>,
    /// With whoever has this number or address, however it is written, or this hash.
    #[arg(long, value_name = "NUMBER")]
    caller: Option<String>,
}

impl Wanted {
    fn query(&self) -> String {
        let times =
            [("since", self.since), ("until", self.until)].map(|(name, at)| (name, at.map(|at| at.to_string())));
        let words = [
            ("agent", &self.agent),
            ("direction", &self.direction),
            ("reason", &self.reason),
            ("caller", &self.caller),
        ];
        let words = words.map(|(name, word)| (name, word.clone()));
        let given = times.into_iter().chain(words).filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| format!("&{name}={}", escaped(&value))).collect()
    }
}

/// A time, or a span before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let span = report::span(text)
        .map_err(|_| format!("`{text}` is neither a span, as 24h or 7d, nor a time, as 2026-12-31T23:59:59Z"))?;
    Ok(SystemClock.wall().checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH).into())
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::List { daemon, limit, before, wanted, json } => {
            let before = before.map(|cursor| format!("&before={cursor}")).unwrap_or_default();
            let wanted = wanted.query();
            let (_, page) = daemon.get(&format!("/api/v1/calls?limit={limit}{before}{wanted}"), None).await?;
            if json { println!("{page}") } else { list(&page) }
        }
        Command::Trace { daemon, id, pcap, media, json } => {
            let packets = match media {
                Some(seconds) => {
                    let path = format!("/api/v1/calls/{id}/capture?seconds={seconds}");
                    read::<Captured>(daemon.order(Method::GET, &path).await?)?.packets
                }
                None => Vec::new(),
            };
            let (_, answer) = daemon.get(&format!("/api/v1/calls/{id}/trace"), None).await?;
            if json {
                println!("{answer}");
                return Ok(ExitCode::SUCCESS);
            }
            let trace: Trace = read(answer)?;
            match pcap {
                Some(file) => trace::write(&trace, &packets, &file)?,
                None => print!("{}", trace::ladder(&trace)),
            }
        }
        Command::Start { daemon, to, agent, trunk, json } => {
            let order = serde_json::json!({ "to": to, "agent": agent, "trunk": trunk });
            let placed = daemon.order_with(Method::POST, "/api/v1/calls", Some(&order)).await?;
            if json { println!("{placed}") } else { println!("answered: call {}", text(&placed["id"])) }
        }
        Command::Hangup { daemon, id, json } => {
            let ended = daemon.order(Method::DELETE, &format!("/api/v1/calls/{id}")).await?;
            if json { println!("{ended}") } else { println!("ended: call {id}") }
        }
        Command::Say { daemon, id, text, json } => {
            let order = serde_json::json!({ "text": text });
            let taken = daemon.order_with(Method::POST, &format!("/api/v1/calls/{id}/say"), Some(&order)).await?;
            if json { println!("{taken}") } else { println!("call {id} will be told") }
        }
        Command::Transfer { daemon, id, to, json } => {
            let order = serde_json::json!({ "to": to });
            let taken = daemon.order_with(Method::POST, &format!("/api/v1/calls/{id}/transfer"), Some(&order)).await?;
            if json { println!("{taken}") } else { println!("call {id} will be handed over to {to}") }
        }
        Command::Show { daemon, id, json } => {
            let (_, call) = daemon.get(&format!("/api/v1/calls/{id}"), None).await?;
            if json { println!("{call}") } else { show(&call) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("callboxd's answer has another form; install one release of both")
}

/// A field for a terminal: peers choose some of these texts, so nothing in them may move the cursor.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| printable(&value.to_string()), printable)
}

/// Who has chosen the agent's words.
fn provenance(source: &str, exchange: &Value) -> String {
    match (source, &exchange["entry"], &exchange["model"]) {
        (_, Value::Number(entry), _) => {
            format!("from the cache: entry {entry} ({source}), likeness {}", exchange["score"])
        }
        (_, _, Value::String(model)) => format!("from the model: {}", text(&Value::from(model.as_str()))),
        _ => format!("from the {}", text(&Value::from(source))),
    }
}

fn list(page: &Value) {
    println!("{:<16}  {:<24}  {:<9}  {:<12}  {:<24}  {:>5}", "ID", "STARTED", "STATE", "AGENT", "FROM", "TURNS");
    for call in page["calls"].as_array().into_iter().flatten() {
        let [id, started, state, agent, from, turns] =
            ["id", "started", "state", "agent", "from", "turns"].map(|name| text(&call[name]));
        println!("{id:<16}  {started:<24}  {state:<9}  {agent:<12}  {from:<24}  {turns:>5}");
    }
    if let Some(next) = page["next"].as_str() {
        println!("more: --before {next}");
    }
}

fn show(call: &Value) {
    for name in
        ["id", "state", "agent", "direction", "from", "to", "codec", "started", "answered", "ended", "end_reason"]
    {
        if !call[name].is_null() {
            println!("{name:<11} {}", text(&call[name]));
        }
    }
    for exchange in call["exchanges"].as_array().into_iter().flatten() {
        let turn = text(&exchange["turn"]);
        println!();
        if exchange["caller_text"] != "" {
            println!("[{turn}] caller  {}", text(&exchange["caller_text"]));
        }
        let cut = if exchange["interrupted"] == true { "  (interrupted)" } else { "" };
        println!("[{turn}] agent   {}{cut}", text(&exchange["heard_text"]));
        if let Some(source) = exchange["source"].as_str() {
            println!("    {}", provenance(source, exchange));
            for passage in exchange["knowledge"].as_array().into_iter().flatten() {
                println!("    and from {}", text(passage));
            }
        }
        let timings: Vec<String> = Timing::ALL
            .into_iter()
            .map(Timing::as_str)
            .filter_map(|stage| Some(format!("{stage} {} ms", exchange["timings_us"][stage].as_u64()? / 1000)))
            .collect();
        if !timings.is_empty() {
            println!("    {}", timings.join(", "));
        }
    }
}

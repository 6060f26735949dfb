//! `callbox call list`, `callbox call show ID`, `callbox call trace ID`, `callbox call start` and `callbox call hangup ID`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use callbox::base::CallId;
use callbox::control::{Captured, Trace};
use callbox::storage::{Cursor, Timing};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::Daemon;
use crate::trace;

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

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::List { daemon, limit, before, json } => {
            let before = before.map(|cursor| format!("&before={cursor}")).unwrap_or_default();
            let (_, page) = daemon.get(&format!("/api/v1/calls?limit={limit}{before}"), None).await?;
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
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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

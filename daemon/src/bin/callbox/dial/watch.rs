//! What the box itself says of the call, for a person who watches: its words and where the time went. Enters: the control
//! socket; leaves: lines on the terminal. Never part of a measurement.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;

use crate::client;

/// The parts that follow one another between the caller's last sound and the agent's first.
const PARTS: [(&str, &str); 8] = [
    ("pause", "pause"),
    ("stt", "ears"),
    ("knowledge", "documents"),
    ("prefill", "prompt"),
    ("first_clause", "first clause"),
    ("tts_first", "voice"),
    ("hold", "end of turn"),
    ("playout", "playout"),
];

/// Shows a call while it goes on.
pub(crate) struct Watch {
    socket: PathBuf,
    /// The last turn that was shown; 0 is the greeting.
    shown: Arc<AtomicU32>,
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<CallId>,
}

#[derive(Deserialize)]
struct CallId {
    id: String,
}

#[derive(Deserialize)]
struct Call {
    exchanges: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    turn: u32,
    caller_text: String,
    agent_text: String,
    timings_us: std::collections::BTreeMap<String, u64>,
}

impl Watch {
    /// Nothing was shown yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, shown: Arc::default() }
    }

    /// The caller has heard an answer, or the greeting: shows the turns that are new. Does not hold the call up.
    pub(crate) fn heard(&self, answered: bool) {
        if !answered {
            println!("(no answer)");
        }
        let (socket, shown) = (self.socket.clone(), Arc::clone(&self.shown));
        tokio::spawn(async move {
            if let Err(error) = show(&socket, &shown).await {
                println!("({error:#})");
            }
        });
    }
}

/// The newest call is the one that is being watched.
async fn show(socket: &PathBuf, shown: &AtomicU32) -> anyhow::Result<()> {
    let calls: Calls = client::read(socket, "/api/v1/calls?limit=1").await?;
    let Some(newest) = calls.calls.first() else { return Ok(()) };
    let call: Call = client::read(socket, &format!("/api/v1/calls/{}", newest.id)).await?;
    for turn in &call.exchanges {
        if turn.turn <= shown.fetch_max(turn.turn, Ordering::Relaxed) {
            continue;
        }
        println!("\n  caller  {}\n  agent   {}", turn.caller_text, turn.agent_text);
        let mut from = 0;
        for (name, label) in PARTS {
            let Some(took) = turn.timings_us.get(name).map(|us| us / 1000) else { continue };
            let columns = |ms: u64| usize::try_from(ms / 25).unwrap_or(0).min(100);
            println!("  {label:>14} {took:>5} ms  {}{}", " ".repeat(columns(from)), "█".repeat(columns(took).max(1)));
            from += took;
        }
    }
    Ok(())
}

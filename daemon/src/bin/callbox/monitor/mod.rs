//! `callbox monitor`: calls as they happen. Enters: the daemon's events, its health and a report, over the control socket;
//! leaves: a live view in a terminal, or with `--json` one line for each event.
//!
//! ```text
//!  daemon ─ link (sse) ─┬─ lines ─────────────────────► standard output
//!           screen ─────┴─ state (calls, look) ─ draw ─► terminal
//! ```

mod calls;
mod draw;
mod lines;
mod link;
mod look;
mod screen;
mod sse;
mod state;
mod text;
mod waterfall;

use std::process::ExitCode;
use std::sync::Arc;

use callbox::base::CallId;
use clap::Args;

use crate::client::Daemon;

/// See [`crate::Command::Monitor`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// One JSON object per line for what is up, then for each event, as it happens.
    #[arg(long)]
    json: bool,
    /// Only this call, until it ends.
    #[arg(long, value_name = "ID", requires = "json")]
    call: Option<CallId>,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let daemon = Arc::new(arguments.daemon.settled()?);
    if arguments.json { lines::run(daemon, arguments.call).await } else { screen::run(daemon).await }
}

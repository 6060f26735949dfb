//! `callbox logs`: the daemon's lines in the journal, of one call or of all.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;

use crate::journal::{Journal, Query};

/// See [`crate::Command::Logs`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    query: Query,
    /// One JSON object per line, with the names that the log has on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut journal = Journal::open(&arguments.query)?;
    let (mut out, mut count) = (io::stdout().lock(), 0_u64);
    while let Some(line) = journal.next().await? {
        let text = if arguments.json { line.json().to_string() } else { line.text() };
        match writeln!(out, "{text}") {
            Ok(()) => count += 1,
            // As of `callbox logs | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error.into()),
        }
    }
    if count == 0 {
        eprintln!("no such line in the journal; a callboxd that systemd has not started writes to its standard output");
    }
    Ok(ExitCode::SUCCESS)
}

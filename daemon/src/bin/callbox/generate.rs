//! `callbox generate`: man pages and shell completions. Enters: a folder; leaves: files in it, in the words of `--help`.
//! The packages are made with it; it reads nothing else, so the same build always writes the same bytes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// See [`crate::Command::Generate`].
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to; must exist.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let dir = &arguments.dir;
    let failed = || format!("{} cannot be written; name a folder that can", dir.display());
    let mut command = crate::Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "callbox", dir).with_context(failed)?;
    }
    clap_mangen::generate_to(crate::Cli::command(), dir).with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

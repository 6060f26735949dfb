//! The command line. Enters: arguments; leaves: text, or JSON with `--json`, and an exit code: 0 done, 1 failed, 2 usage,
//! 78 bad configuration. What a running daemon knows is asked on its control socket; nothing of it is computed here.

#![forbid(unsafe_code)]

mod adapter;
mod ask;
mod audit;
mod backup;
mod bundle;
mod cache;
mod calls;
mod check;
mod client;
mod dial;
mod drain;
mod generate;
mod health;
mod journal;
mod knowledge;
mod logs;
mod manager;
mod models;
mod monitor;
mod owner;
mod printable;
mod privacy;
mod private;
mod recording;
mod reload;
mod report;
mod say;
mod token;
mod trace;
mod transcribe;
mod upgrade;
mod wav;

use std::path::PathBuf;
use std::process::ExitCode;

use callbox::config::{Config, ConfigError, OWNERS};
use clap::{Args, Parser, Subcommand};

/// `EX_CONFIG` of `sysexits.h`; the unit tells systemd not to restart on it.
const BAD_CONFIGURATION: u8 = 78;

/// Callbox answers telephone calls on its owner's own hardware. This is its command line.
#[derive(Parser)]
#[command(name = "callbox", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what would keep the daemon from answering calls.
    Check(check::Arguments),
    /// Calls as they happen: what is said, where the time goes, and how the box is.
    Monitor(monitor::Arguments),
    /// Calls that are up, and those that were.
    Call(calls::Arguments),
    /// Answers that are known: those of agents' files, of operators, and what agents have learned.
    Cache(cache::Arguments),
    /// Documents that agents know beside their facts.
    Knowledge(knowledge::Arguments),
    /// Adapters (LoRA) of the language model, which agents answer with.
    Adapter(adapter::Arguments),
    /// What the last hours or days looked like: calls, turns, latency.
    Report(report::Arguments),
    /// Recordings of calls: which there are, one as audio, another key.
    Recording(recording::Arguments),
    /// What there is of one person, and its end.
    Privacy(privacy::Arguments),
    /// Whether the running daemon answers calls, and if not, why.
    Health(health::Arguments),
    /// Refuses new calls and lets those that are up end, before a stop or an update.
    Drain(drain::Arguments),
    /// Takes changed agents, trunks, limits, certificates and log level without touching a call.
    Reload(reload::Arguments),
    /// Who may use the control API over TCP.
    Token(token::Arguments),
    /// Who has looked at callers, and who has changed something.
    Audit(audit::Arguments),
    /// The daemon's lines in the journal, of one call or of all.
    Logs(logs::Arguments),
    /// What somebody else needs to find out what is wrong, in one file that names no caller.
    SupportBundle(bundle::Arguments),
    /// A checked, compressed copy of the database, while the daemon runs or not.
    Backup(backup::Arguments),
    /// Puts a backup in the place of the database of a daemon that does not run.
    Restore(backup::RestoreArguments),
    /// Calls the running daemon as a caller would, asks it something, and says whether it answered.
    Selftest(dial::selftest::Arguments),
    /// Installs another version of Callbox from a signed package, and goes back by itself if that does not answer calls.
    Upgrade(upgrade::Arguments),
    /// Goes back to the version of Callbox from before the last upgrade.
    Rollback(upgrade::RollbackArguments),
    /// Model packs.
    Models(models::Arguments),
    /// The ears alone: recordings to text.
    Transcribe(transcribe::TranscribeArgs),
    /// The voice alone: text to a recording.
    Say(say::SayArgs),
    /// The mind alone: questions to an agent, in writing.
    Ask(ask::AskArgs),
    /// Calls an address by telephone, asks questions aloud, measures the answers.
    Dial(dial::DialArgs),
    /// Writes man pages and shell completions.
    #[command(hide = true)]
    Generate(generate::Arguments),
}

/// Where the configuration is.
#[derive(Args, Debug)]
struct ConfigFile {
    /// The daemon's configuration file.
    #[arg(long, value_name = "FILE", env = "CALLBOX_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads the file that was named, else the owner's, if there is one, over the package's.
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref().unwrap_or_else(|| OWNERS.as_ref()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(arguments) => check::run(arguments).await,
        Command::Monitor(arguments) => monitor::run(arguments).await,
        Command::Call(arguments) => calls::run(arguments).await,
        Command::Cache(arguments) => cache::run(arguments).await,
        Command::Knowledge(arguments) => knowledge::run(arguments).await,
        Command::Adapter(arguments) => adapter::run(arguments).await,
        Command::Report(arguments) => report::run(arguments).await,
        Command::Recording(arguments) => recording::run(arguments).await,
        Command::Privacy(arguments) => privacy::run(arguments).await,
        Command::Health(arguments) => health::run(arguments).await,
        Command::Drain(arguments) => drain::run(arguments).await,
        Command::Reload(arguments) => reload::run(arguments).await,
        Command::Token(arguments) => token::run(arguments).await,
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Logs(arguments) => logs::run(arguments).await,
        Command::SupportBundle(arguments) => bundle::run(arguments).await,
        Command::Backup(arguments) => backup::run(arguments).await,
        Command::Restore(arguments) => backup::restore(arguments).await,
        Command::Selftest(arguments) => dial::selftest::run(arguments).await,
        Command::Upgrade(arguments) => upgrade::run(arguments).await,
        Command::Rollback(arguments) => upgrade::roll_back(arguments).await,
        Command::Models(arguments) => models::run(arguments).await,
        Command::Transcribe(arguments) => transcribe::run(arguments).await,
        Command::Say(arguments) => say::run(arguments).await,
        Command::Ask(arguments) => ask::run(arguments).await,
        Command::Dial(arguments) => dial::run(arguments).await,
        Command::Generate(arguments) => generate::run(arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("callbox: {error:#}");
        let bad_configuration = error.is::<ConfigError>() || error.is::<client::BadConfiguration>();
        ExitCode::from(if bad_configuration { BAD_CONFIGURATION } else { 1 })
    })
}

//! `callbox recording list|export|rotate`: which calls were recorded, one of them as audio, and another key for the next ones.
//! Listing and exporting ask the daemon, which has the keys; rotating changes a file.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use callbox::base::CallId;
use callbox::config::Config;
use callbox::recording::{KeyRing, generate};
use clap::{Args, Subcommand, ValueEnum};
use rand::SeedableRng as _;
use rand::rngs::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use crate::ConfigFile;
use crate::calls::text;
use crate::client::Daemon;
use crate::report::span;

/// See [`crate::Command::Recording`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Recorded calls, newest first.
    List {
        #[command(flatten)]
        daemon: Daemon,
        /// How far back: 90m, 24h, 7d, 4w.
        #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = span)]
        since: Duration,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Writes the audio of a call: left the caller, right the agent.
    Export {
        #[command(flatten)]
        daemon: Daemon,
        /// The call, as `recording list`, `call list` and log lines show it.
        id: CallId,
        /// The file to write; nobody else may read it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Its form.
        #[arg(long, value_enum, default_value_t = Form::Ogg)]
        format: Form,
    },
    /// Makes a new key for the recordings from now on; the keys of before stay, and open what they have sealed.
    Rotate {
        #[command(flatten)]
        config: ConfigFile,
        /// The file with the keys; otherwise the one that the configuration names. It is made if it is not there.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Ogg,
    Wav,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::List { daemon, since, json } => {
            let (_, answer) = daemon.get(&format!("/api/v1/recordings?since_s={}", since.as_secs()), None).await?;
            if json {
                println!("{answer}");
                return Ok(ExitCode::SUCCESS);
            }
            println!("{:<16}  {:>4}  {:<24}  {:>7}  {:>9}  {:<16}", "CALL", "PART", "BEGUN", "SECONDS", "BYTES", "KEY");
            for part in answer["rows"].as_array().into_iter().flatten() {
                let [call, number, begun, seconds, bytes, key] =
                    ["call", "part", "begun", "seconds", "bytes", "key"].map(|name| text(&part[name]));
                println!("{call:<16}  {number:>4}  {begun:<24}  {seconds:>7}  {bytes:>9}  {key:<16}");
            }
        }
        Command::Export { daemon, id, out, format } => {
            let format = match format {
                Form::Ogg => "ogg",
                Form::Wav => "wav",
            };
            let audio = daemon.bytes(&format!("/api/v1/calls/{id}/recording?format={format}")).await?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&out)
                .and_then(|mut file| file.write_all(&audio).map(|()| file))
                .with_context(|| format!("{} cannot be written", out.display()))?;
            file.flush()?;
            println!("{}: {} bytes", out.display(), audio.len());
        }
        Command::Rotate { config, file } => rotate(&config, file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rotate(config: &ConfigFile, file: Option<PathBuf>) -> anyhow::Result<()> {
    let config = if file.is_none() { Some(config.load()?) } else { None };
    let path = match file.or_else(|| configured(config.as_ref()?)) {
        Some(path) => path,
        None => bail!("no file of keys is configured: name one with --file, and then in recordings.key_file"),
    };
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let mut random = ChaCha20Rng::try_from_rng(&mut SysRng).context("the system has no random numbers")?;
    let keys = generate(before.as_deref(), || random.next_u64()).with_context(|| path.display().to_string())?;
    replace(&path, &keys).with_context(|| format!("{} cannot be written", path.display()))?;
    let id = KeyRing::parse(&keys)?.newest_id();
    println!("{}: recordings are sealed with the key {id} once the daemon has read it:", path.display());
    println!("`callbox reload` for recordings.key_file, `systemctl restart callbox` for recordings.credential");
    Ok(())
}

/// The file that the configuration means.
fn configured(config: &Config) -> Option<PathBuf> {
    let recordings = &config.recordings;
    let credential = recordings.credential.as_ref();
    let of_credential = credential.map(|name| Path::new("/etc/callbox/credentials").join(name.as_str()));
    of_credential.or_else(|| recordings.key_file.clone())
}

/// Puts it in the place of the file, which keeps its owner; there is never half of it.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Made with mode 0600.
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(text.as_bytes())?;
    fresh.as_file().sync_all()?;
    if let Ok(meta) = fs::metadata(path) {
        std::os::unix::fs::chown(fresh.path(), Some(meta.uid()), Some(meta.gid()))?;
    }
    fresh.persist(path)?;
    Ok(())
}

//! `callbox support-bundle`: what somebody else needs to find out what is wrong with a box, in one file. Enters: the box,
//! however broken; leaves: a tar archive, packed with zstd. What cannot be had is a note in `about.json`, never a failure.
//! Never here, unless asked for by `--with-transcripts`: a caller's number, address or words; and never a secret, nor
//! what an agent is told, which may hold one.

mod machine;
mod privacy;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use callbox::base::{Clock as _, SystemClock};
use callbox::call::agents::Agents;
use callbox::config::{Config, ConfigError};
use callbox::storage::{self, StoredCall, Timestamp};
use clap::Args;
use privacy::{Private, without_secrets};
use serde_json::{Value, json};

use crate::journal::{Journal, Line, Query};
use crate::{ConfigFile, check, client};

/// Lines of the log, the newest.
const LINES: u32 = 5000;

/// Calls whose numbers and words are looked for in the log; with `--with-transcripts` those that are packed.
const CALLS: u32 = 1000;

/// Time for the journal.
const PATIENCE: Duration = Duration::from_secs(30);

/// See [`crate::Command::SupportBundle`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to write it; otherwise `callbox-support-TIME.tar.zst` in this folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Packs numbers and words of the last callers too. Ask them, or your data protection officer, first.
    #[arg(long)]
    with_transcripts: bool,
    /// Folder of journal files, instead of this machine's journal.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
}

/// What is packed, and what could not be had.
struct Pieces {
    archive: tar::Builder<zstd::Encoder<'static, File>>,
    folder: String,
    names: Vec<String>,
    missing: Vec<String>,
    seconds: u64,
}

impl Pieces {
    fn add(&mut self, name: &str, piece: anyhow::Result<String>) -> io::Result<()> {
        let text = match piece {
            Ok(text) => text,
            Err(error) => {
                self.missing.push(format!("{name}: {error:#}"));
                return Ok(());
            }
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        self.archive.append_data(&mut header, format!("{}/{name}", self.folder), text.as_bytes())?;
        self.names.push(name.to_owned());
        Ok(())
    }

    fn add_json(&mut self, name: &str, piece: anyhow::Result<Value>) -> io::Result<()> {
        self.add(name, piece.map(|value| format!("{value:#}\n")))
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { file, out, with_transcripts, journal } = arguments;
    let now = Timestamp::from(SystemClock.wall());
    let folder = format!("callbox-support-{}", now.to_string().replace(':', "-"));
    let out = out.unwrap_or_else(|| format!("{folder}.tar.zst").into());
    let shown = out.display().to_string();
    let unwritable = || format!("{shown} cannot be written; name another file with --out");
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&out).with_context(unwritable)?;
    let archive = tar::Builder::new(zstd::Encoder::new(target, 3).with_context(unwritable)?);
    let seconds = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
    let mut pieces = Pieces { archive, folder, names: Vec::new(), missing: Vec::new(), seconds };
    let packed = pack(&mut pieces, &file, with_transcripts, journal, now).await.and_then(|()| {
        let mut file = pieces.archive.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    });
    if let Err(error) = packed {
        // Half a bundle misleads.
        std::fs::remove_file(&out).unwrap_or_default();
        return Err(error).with_context(unwritable);
    }
    println!("{shown}: {}", pieces.names.join(", "));
    for missing in pieces.missing {
        println!("missing: {missing}");
    }
    if with_transcripts {
        println!("it holds numbers and words of callers: treat it as such");
    }
    Ok(ExitCode::SUCCESS)
}

async fn pack(
    pieces: &mut Pieces,
    file: &ConfigFile,
    with_transcripts: bool,
    journal: Option<PathBuf>,
    now: Timestamp,
) -> io::Result<()> {
    let (config, wrong) = match file.load() {
        Ok(config) => (config, None),
        // Not the sentence: it quotes the file.
        Err(ConfigError::Invalid { path, line, .. }) => {
            (Config::default(), Some(format!("{}:{line} is wrong; `callbox check` says how", path.display())))
        }
        Err(error) => (Config::default(), Some(error.to_string())),
    };
    let of_file = |text: anyhow::Result<String>| match &wrong {
        Some(wrong) => Err(anyhow::anyhow!("{wrong}; the defaults count for the rest")),
        None => text,
    };
    pieces.add("config.toml", of_file(without_secrets(&config)))?;
    pieces.add_json("agents.json", agents(&config))?;
    let (findings, running) = check::findings(&config).await;
    pieces.add_json("check.json", Ok(json!({ "findings": findings, "running": running })))?;
    for (name, path) in [("health.json", "/health"), ("metrics.txt", "/metrics")] {
        pieces.add(name, client::text(&config.http.socket, path).await)?;
    }
    pieces.add_json("machine.json", Ok(machine::facts(&config).await))?;
    let database = storage::facts(&config.storage.path).map_err(anyhow::Error::from);
    pieces.add_json("database.json", database.and_then(|facts| Ok(serde_json::to_value(facts)?)))?;

    let calls = storage::recent(&config.storage.path, CALLS).map_err(anyhow::Error::from);
    let log = match (&calls, with_transcripts, config.log.allow_pii) {
        (_, true, _) => log(journal, None).await,
        (_, _, true) => {
            Err(anyhow::anyhow!("log.allow_pii is on, so lines may name callers: --with-transcripts packs them"))
        }
        (Ok(calls), ..) => log(journal, Some(&Private::of(calls))).await,
        // Without a database there are no callers to name.
        (Err(_), ..) if !config.storage.path.exists() => log(journal, None).await,
        (Err(_), ..) => Err(anyhow::anyhow!("the database cannot be read, so it is not known whom lines may name")),
    };
    pieces.add("log.jsonl", log)?;
    if with_transcripts {
        pieces.add("calls.jsonl", calls.and_then(|calls| transcripts(&calls)))?;
    }
    let about = json!({
        "made": now,
        "callbox": env!("CARGO_PKG_VERSION"),
        "holds": pieces.names,
        "missing": pieces.missing,
        "names_callers": with_transcripts,
    });
    pieces.add_json("about.json", Ok(about))
}

/// Who answers, without what they are told: a fact may be a password.
fn agents(config: &Config) -> anyhow::Result<Value> {
    let agents = Agents::read(&config.agents.paths)?;
    let shown = |agent: &callbox::dialogue::Agent| {
        json!({
            "name": agent.name.as_str(),
            "numbers": agent.numbers.len(),
            "facts": agent.facts.len(),
            "persona_chars": agent.persona.as_str().chars().count(),
            "turns": format!("{:?}", agent.turns),
            "sampling": format!("{:?}", agent.sampling),
            "limits": format!("{:?}", agent.limits),
        })
    };
    Ok(agents.iter().map(|agent| shown(agent)).collect())
}

async fn log(journal: Option<PathBuf>, private: Option<&Private>) -> anyhow::Result<String> {
    let query = Query { lines: Some(LINES), journal, ..Query::default() };
    let reading = async {
        let mut journal = Journal::open(&query)?;
        let mut text = String::new();
        while let Some(line) = journal.next().await? {
            text += &shown(&line, private).to_string();
            text.push('\n');
        }
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(PATIENCE, reading).await.context("the journal cannot be read in time")??;
    anyhow::ensure!(!text.is_empty(), "the journal holds no line of callboxd");
    Ok(text)
}

/// A line that names a caller should not exist; if it does, it stays here.
fn shown(line: &Line, private: Option<&Private>) -> Value {
    let mut json = line.json();
    if private.is_some_and(|private| private.is_in(&json.to_string())) {
        json =
            json!({ "time": json["time"], "level": json["level"], "call": json["call"], "withheld": "names a caller" });
    }
    json
}

fn transcripts(calls: &[StoredCall]) -> anyhow::Result<String> {
    let mut text = String::new();
    for StoredCall { call, turns } in calls {
        text += &json!({ "call": call, "turns": turns }).to_string();
        text.push('\n');
    }
    Ok(text)
}

/// A folder that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or_else(|| Path::new("/"))
}

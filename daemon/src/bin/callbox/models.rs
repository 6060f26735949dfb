//! `callbox models`: which models there are, bringing a pack, hashing what is there. Works without a daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use callbox::models::{Catalogue, Machine, State, Terminal, megabytes, pull, state};
use clap::{Args, Subcommand};
use serde::Serialize;

/// List, fetch and verify model packs.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Folder of the models.
    #[arg(long, global = true, env = "CALLBOX_MODELS", default_value = "/var/lib/callbox/models")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Every model of the catalogue, and whether it is here.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch what a pack still lacks, check it, put it in place; continues where an earlier pull stopped.
    Pull {
        /// `starter` or `tiny`.
        pack: String,
    },
    /// Read every byte of what is here and compare it with the catalogue; 1 if anything differs or is missing.
    Verify {
        /// Only the models of this pack.
        pack: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Row {
    model: &'static str,
    role: callbox::models::Use,
    packs: Vec<&'static str>,
    licence: &'static str,
    about: &'static str,
    bytes: u64,
    path: PathBuf,
    state: State,
}

/// Runs the subcommand; 1 if a verification fails.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::embedded();
    match arguments.command {
        Command::List { json } => print(&rows(&arguments.dir, None, false)?, json)?,
        Command::Pull { pack } => {
            let fetched = pull(catalogue, &pack, &arguments.dir, Machine::default(), &Terminal::new()).await?;
            eprintln!("pack {pack} is complete in {} ({fetched} archives fetched)", arguments.dir.display());
        }
        Command::Verify { pack, json } => {
            let rows = tokio::task::spawn_blocking(move || rows(&arguments.dir, pack.as_deref(), true)).await??;
            print(&rows, json)?;
            if rows.iter().any(|row| row.state != State::Installed) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(dir: &std::path::Path, pack: Option<&str>, hash: bool) -> anyhow::Result<Vec<Row>> {
    let catalogue = Catalogue::embedded();
    let models = match pack {
        Some(pack) => catalogue.pack(pack)?.to_vec(),
        None => catalogue.models().iter().collect(),
    };
    let row = |model: &'static callbox::models::Model| {
        Ok(Row {
            model: &model.name,
            role: model.role,
            packs: catalogue.packs_of(model).collect(),
            licence: &model.licence,
            about: &model.about,
            bytes: model.files.iter().map(|file| file.bytes).sum(),
            path: model.path(dir, &model.files[0]),
            state: state(model, dir, hash)?,
        })
    };
    models.into_iter().map(row).collect()
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows).context("a table of plain values")?);
        return Ok(());
    }
    println!("{:20} {:6} {:>10}  {:11} {:10} {:13} about", "model", "role", "size", "licence", "state", "packs");
    for row in rows {
        let state = match row.state {
            State::Installed => "installed",
            State::Missing => "missing",
            State::Damaged => "damaged",
        };
        let (size, packs) = (megabytes(row.bytes), row.packs.join(","));
        println!("{:20} {:6} {size:>10}  {:11} {state:10} {packs:13} {}", row.model, row.role, row.licence, row.about);
    }
    Ok(())
}

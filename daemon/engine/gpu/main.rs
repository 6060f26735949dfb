//! `callbox-gpu`: holds what a card computes against the processor (`test`), and times it (`bench`). It is carried to a machine
//! with a card, which needs a driver and NVIDIA's libraries and nothing else; `--device cpu` tries all of it without one.
//!
//! Enters: models where there are some (`--models`), else weights of the true shapes that are drawn here. Leaves: JSON. Ends
//! with 0 if all was as it must be, 1 if not, 3 if there is no card. Never here: what a caller said; a network.

mod bench;
mod card;
mod check;
mod draw;
mod lora;
mod reference;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use callbox_engine::device::{CudaError, Place};
use callbox_engine::kernels::Pool;
use candle_core::Device;
use clap::{Parser, Subcommand};
use serde_json::json;

use self::report::Report;

/// Tests and times the engine's models on a card.
#[derive(Parser)]
#[command(name = "callbox-gpu", version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the card computes must be what the processor computes.
    Test(Options),
    /// How fast it is, against the bars.
    Bench(Options),
    /// Takes the large weights out of an ONNX file: what is left packs well, and `test` and `bench` draw others.
    Hollow {
        /// The file.
        from: PathBuf,
        /// Where what is left of it goes.
        to: PathBuf,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Where the models compute.
    #[arg(long, value_enum, default_value_t)]
    device: Place,
    /// Models, in folders as `callbox models pull` leaves them; weights are drawn for those that are not there.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Only what is called so; again for more.
    #[arg(long)]
    only: Vec<String>,
    /// Small shapes and few turns: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where all that is drawn begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads of what computes on the processor.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where this comes from and when it runs, to be kept in the result.
    #[arg(long)]
    stamp: Option<String>,
    /// A file for the result, instead of standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What all tests and all benches are given.
struct Setting {
    device: Device,
    quick: bool,
    seed: u64,
    threads: usize,
    models: Option<PathBuf>,
    /// For files that are drawn.
    work: tempfile::TempDir,
}

impl Setting {
    /// A file of the models, if it is there.
    fn model(&self, name: &str) -> Option<PathBuf> {
        self.models.as_ref().map(|models| models.join(name)).filter(|path| path.exists())
    }

    fn pool(&self) -> Result<Pool> {
        Ok(Pool::new(self.threads)?)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("callbox-gpu: {error:#}");
            let none = matches!(error.downcast_ref(), Some(CudaError::NoDriver | CudaError::NoCard));
            ExitCode::from(if none { 3 } else { 1 })
        }
    }
}

fn run() -> Result<bool> {
    let (what, options) = match Args::parse().what {
        What::Test(options) => ("test", options),
        What::Bench(options) => ("bench", options),
        What::Hollow { from, to } => return hollow(&from, &to),
    };
    let Options { device, models, only, quick, seed, threads, stamp, out } = options;
    let device = device.device()?;
    let work = tempfile::tempdir().context("no folder for what is drawn")?;
    let setting = Setting { device, quick, seed, threads, models, work };
    let mut report = Report::new(&setting.device, only, what == "bench");
    if what == "test" {
        check::all(&setting, &mut report);
    } else {
        bench::all(&setting, &mut report);
    }
    let note = match (setting.device.is_cpu(), quick) {
        (true, _) if what == "bench" => "computed by the processor: no bar is about these figures",
        (true, _) => "computed by the processor, as a card would",
        (false, true) if what == "bench" => "small shapes, not those of the names: no bar is about these figures",
        (false, _) => "on a card; `weights` of each row says whose they are: drawn ones have the true shapes",
    };
    let result = json!({
        "what": what,
        "note": note,
        "stamp": stamp,
        "version": env!("CARGO_PKG_VERSION"),
        "machine": card::about(&setting.device),
        "quick": quick,
        "seed": seed,
        "threads": threads,
        "rows": report.rows(),
        "failed": report.failed(),
    });
    match out {
        Some(path) => std::fs::write(&path, format!("{result:#}\n")).with_context(|| path.display().to_string())?,
        None => println!("{result:#}"),
    }
    Ok(report.failed() == 0)
}

fn hollow(from: &Path, to: &Path) -> Result<bool> {
    let hollow = draw::hollowed(from)?;
    std::fs::write(to, hollow).with_context(|| to.display().to_string())?;
    Ok(true)
}

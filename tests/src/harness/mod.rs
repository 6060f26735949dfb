//! A daemon, its callers and what they heard.

mod baresip;
mod cards;
mod collector;
mod daemon;
mod dns;
mod http;
mod kamailio;
mod manager;
mod ports;
mod process;
mod rtp;
mod sipp;
mod speech;
mod words;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

pub use baresip::{Baresip, Speaks};
pub use cards::Cards;
pub use collector::{Collector, attribute};
pub use daemon::{AGENT, Daemon, Engine, Setup, Turn, Usage};
pub use dns::Names;
pub use http::{get, on_socket};
pub use kamailio::Kamailio;
pub use manager::Manager;
pub use ports::free_port;
pub use process::Process;
pub use rtp::{Heard, Rtp, Track};
pub use sipp::{Calls, Sipp, scenario};
pub use speech::{read_wav, say, transcribe, write_wav};
pub use words::share_heard;

/// Samples per second of everything on the telephone side of these tests.
pub const RATE: u32 = 8000;

/// An executable of this build.
///
/// # Errors
/// If it was not built.
pub fn executable(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test lies in target/PROFILE/deps, a bench beside the executables.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is missing: run `make build` first"))
}

/// Asks again and again until `probe` has a value.
///
/// # Errors
/// If it has none after `limit`; the error says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let found = tokio::time::timeout(limit, async {
        loop {
            ticks.tick().await;
            if let Some(value) = probe().await {
                return value;
            }
        }
    });
    found.await.with_context(|| format!("waited {limit:?} in vain for {what}"))
}

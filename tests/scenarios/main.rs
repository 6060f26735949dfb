//! Whole calls: real processes, real sockets of loopback, real peers. One binary, run one test at a time.

mod adapters;
mod api;
mod cache;
mod callers;
mod codecs;
mod deaf;
mod faults;
mod gpu;
mod health;
mod interruption;
mod kills;
mod knowledge;
mod logs;
mod monitor;
mod monitoring;
mod operations;
mod outbound;
mod peers;
mod privacy;
mod recordings;
mod signalling;
mod start;
mod strangers;
mod survival;
mod talk;
mod tls;
mod traces;
mod trunks;
mod updates;

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Daemon, Rtp, scenario};

/// Silence after which an agent has finished.
const PAUSE: Duration = Duration::from_millis(1200);

/// Longest wait for an agent to speak and finish, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(25);

/// Calls the agent, hears the greeting to its end, asks, and hears the answer to its end.
async fn converse(daemon: &Daemon, question: Vec<i16>) -> anyhow::Result<Rtp> {
    let mut rtp = Rtp::bind().await?;
    let seconds = 12 + question.len() as u64 / 8000;
    let call = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(seconds));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    rtp.say(question);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer was heard");
    call.done(PATIENCE).await?;
    Ok(rtp)
}

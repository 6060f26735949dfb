//! What a call costs when nobody speaks, against a whole daemon with the scripted engine and sipp. First its memory, of
//! calls that are up and silent; then INVITE, 200, ACK, BYE as fast as sipp makes them: how many failed, and how long it
//! took from INVITE to 200, as sipp saw it.
//!
//! `cargo run --release -p callbox-benches --bin load [-- --out FILE --rate N --seconds S]`. Ends with 1 if a call failed.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, free_port};
use serde_json::json;
use tokio::process::{Child, Command};

const SCRIPT: &str = "ms_per_character = 20\n[[answer]]\nheard = \"hello\"\nsay = \"We are glad.\"\n";

/// Twice as many as there are in a second.
const CALLS: u16 = 1200;
const LIMITS: &str = "max_calls = 1200\ninvites_per_second = 700\nburst = 1400\nunacked = 1200";

/// Silent calls.
const FEW: u32 = 100;
const MORE: u32 = 500;
/// By then the greeting is over, and the transaction of the INVITE with all its messages (64·T1, RFC 6026 §7.1).
const SETTLED: Duration = Duration::from_secs(45);

const AGENT: &str = r#"
name = "load"
numbers = ["*"]
persona = "You are kind."
greeting = "Good morning."
goodbye = "Goodbye."
ring_ms = 0
[turns]
silence_ms = 120000
"#;

fn main() -> Result<ExitCode> {
    // One thread waits for two programs: nothing of this bench takes a core from them.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<ExitCode> {
    let (mut out, mut rate, mut seconds) = (None, 600_u32, 20_u32);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--out" => out = Some(PathBuf::from(value)),
            "--rate" => rate = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            _ => bail!("{word} is no option"),
        }
    }
    let setup = || Setup {
        agent: AGENT,
        limits: LIMITS,
        calls: CALLS,
        silence: 600,
        log: "warn",
        ..Setup::new(Engine::Scripted(SCRIPT))
    };
    let dir = tempfile::TempDir::new()?;
    // As it runs for its users: what outlives it is kept by a service manager.
    let idle = idle_call(&Daemon::serve(setup()).await?).await?;
    let daemon = Daemon::start(setup()).await?;
    let before = cpu(&daemon)?;
    // The first second fills caches and pools, as the first calls of a morning do; it is not measured.
    sipp(&daemon, dir.path(), "warm", rate, rate).await?;
    let calls = rate * seconds;
    let begun = cpu(&daemon)?;
    let counts = sipp(&daemon, dir.path(), "load", calls, rate).await?;
    let used = cpu(&daemon)? - begun;
    let mut times = times(dir.path(), "load")?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or(f64::NAN)
    };
    let usage = daemon.usage()?;
    let result = json!({
        "calls": calls,
        "calls_per_second": rate,
        "failed": counts.failed,
        "retransmissions": counts.retransmissions,
        "timed": times.len(),
        "setup_ms": { "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) },
        "daemon_cpu_ms_per_call": used * 1000.0 / f64::from(calls),
        "daemon_cpu_warm_s": begun - before,
        "idle_call_kb": idle.memory,
        "idle_call_kept_kb": idle.kept,
        "daemon_memory_mb": (usage.memory * 1024) as f64 / 1e6,
    });
    println!("{result:#}");
    if let Some(out) = out {
        std::fs::write(out, serde_json::to_string_pretty(&result)? + "\n")?;
    }
    let sound = counts.failed == 0 && times.len() == calls as usize;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kilobytes of a silent call.
struct Idle {
    memory: f64,
    /// In files that outlive the daemon.
    kept: f64,
}

/// Of one more silent call: what the daemon grows by from [`FEW`] to [`FEW`] and [`MORE`] of them, so that
/// neither what the first call brings nor what an allocator keeps of ended ones is counted.
async fn idle_call(daemon: &Daemon) -> Result<Idle> {
    let mut few = hold(daemon, FEW, 3 * SETTLED)?;
    tokio::time::sleep(SETTLED).await;
    let before = least(daemon).await?;
    let mut more = hold(daemon, MORE, SETTLED + Duration::from_secs(20))?;
    tokio::time::sleep(SETTLED + Duration::from_secs(5)).await;
    let after = least(daemon).await?;
    for held in [&mut few, &mut more] {
        let status = tokio::time::timeout(2 * SETTLED, held.wait()).await.context("sipp did not end")??;
        ensure!(status.success(), "sipp: {status}");
    }
    let one = |before: u64, after: u64| after.saturating_sub(before) as f64 * 1.024 / f64::from(MORE);
    Ok(Idle { memory: one(before.0, after.0), kept: one(before.1, after.1) })
}

/// Memory and kept memory in KiB, at their least in ten seconds: what an allocator has freed and not yet given back comes
/// and goes.
async fn least(daemon: &Daemon) -> Result<(u64, u64)> {
    let mut least = (u64::MAX, u64::MAX);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let usage = daemon.usage()?;
        least = (least.0.min(usage.memory), least.1.min(usage.kept));
    }
    Ok(least)
}

/// Calls, 100 a second, each of which stays silent for so long.
fn hold(daemon: &Daemon, calls: u32, time: Duration) -> Result<Child> {
    let mut command = Command::new("sipp");
    command.arg("-sf").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/call.xml"));
    command.args([&daemon.sip().to_string(), "-s", Daemon::USER, "-key", "caller", "idle", "-key", "audio_port", "9"]);
    command.args(["-i", "127.0.0.1", "-p", &free_port().to_string(), "-nostdin", "-r", "100"]);
    command.args(["-m", &calls.to_string(), "-l", &calls.to_string(), "-d", &time.as_millis().to_string()]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?)
}

struct Counts {
    failed: u64,
    retransmissions: u64,
}

async fn sipp(daemon: &Daemon, dir: &Path, name: &str, calls: u32, rate: u32) -> Result<Counts> {
    // sipp writes the response times beside the scenario, under a name of its own.
    let (scenario, stat) = (dir.join(format!("{name}.xml")), dir.join(format!("{name}.stat")));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/load.xml"), &scenario)?;
    let mut command = Command::new("sipp");
    command.current_dir(dir).arg("-sf").arg(&scenario).args([&daemon.sip().to_string(), "-s", Daemon::USER]);
    command.args(["-i", "127.0.0.1", "-p", &free_port().to_string(), "-nostdin", "-timer_resol", "1"]);
    command.args(["-m", &calls.to_string(), "-r", &rate.to_string(), "-l", "2000", "-timeout", "120"]);
    command.args(["-trace_stat", "-fd", "1", "-stf"]).arg(&stat).args(["-trace_rtt", "-rtt_freq", "1"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status =
        tokio::time::timeout(Duration::from_secs(180), command.status()).await.context("sipp did not end")??;
    let text = std::fs::read_to_string(&stat).context("sipp wrote no statistics")?;
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().context("an empty file")?.split(';').collect();
    let last: Vec<&str> = lines.next_back().context("no figures")?.split(';').collect();
    let figure = |column: &str| -> Result<u64> {
        let at = head.iter().position(|name| *name == column).with_context(|| format!("no {column}"))?;
        Ok(last.get(at).context("a short line")?.parse()?)
    };
    let counts = Counts { failed: figure("FailedCall(C)")?, retransmissions: figure("Retransmissions(C)")? };
    ensure!(status.success() || counts.failed > 0, "sipp: {status}");
    Ok(counts)
}

/// Milliseconds from INVITE to 200, one for each call.
fn times(dir: &Path, name: &str) -> Result<Vec<f64>> {
    let is_ours = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&format!("{name}_")) && file.ends_with("_rtt.csv")
    };
    let mut files = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let text = std::fs::read_to_string(files.find(is_ours).context("sipp wrote no response times")?)?;
    Ok(text.lines().skip(1).filter_map(|line| line.split(';').nth(1)?.trim().parse().ok()).collect())
}

/// Seconds of processor time that the daemon has used.
fn cpu(daemon: &Daemon) -> Result<f64> {
    let pid = daemon.pid().context("callboxd has ended")?.as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("ticks");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

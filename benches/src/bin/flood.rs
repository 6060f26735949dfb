//! INVITEs that nobody acknowledges, 2 000 a second for ten seconds: from an address that may not call, then from one that
//! may. Meanwhile somebody else calls. What the daemon's memory grew by, and how long the good calls took to be answered.
//!
//! `cargo run --release -p callbox-benches --bin flood [-- --out FILE]`, on loopback. Ends with 1 if a good call failed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, timeout};

const SCRIPT: &str = "ms_per_character = 20\n[[answer]]\nheard = \"anything\"\nsay = \"Thank you for calling.\"\n";
const STRANGER: &str = "127.0.0.66:0";
const PEER: &str = "127.0.0.50:0";
const GOOD: &str = "127.0.0.51:0";

const PER_SECOND: u32 = 2000;
const LASTING: Duration = Duration::from_secs(10);
/// Between two good calls.
const PAUSE: Duration = Duration::from_millis(200);
/// RFC 3261 T1, and how long a caller waits.
const T1: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(8);

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 8\r\n";

fn request(method: &str, (cseq, branch): (u32, &str), to: SocketAddr, me: SocketAddr, call: &str, tag: &str) -> String {
    let (kind, body) = if method == "INVITE" { ("Content-Type: application/sdp\r\n", OFFER) } else { ("", "") };
    let tag = if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
    format!(
        "{method} sip:reception@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {me};rport;branch=z9hG4bK-{call}-{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:flood@{me}>;tag=f-{call}\r\nTo: <sip:reception@{to}>{tag}\r\nCall-ID: {call}\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:flood@{me}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends the flood, and reads nothing of what comes back.
async fn flood(from: &str, to: SocketAddr, name: &str) -> Result<u64> {
    let socket = UdpSocket::bind(from).await?;
    let (me, began, mut sent) = (socket.local_addr()?, Instant::now(), 0);
    let mut ticks = interval(Duration::from_millis(5));
    while began.elapsed() < LASTING {
        ticks.tick().await;
        // As many as are due, also after a tick that came late.
        let due = (began.elapsed().as_secs_f64() * f64::from(PER_SECOND)) as u64;
        while sent < due {
            let invite = request("INVITE", (1, "1"), to, me, &format!("{name}-{sent}"), "");
            socket.send_to(invite.as_bytes(), to).await?;
            sent += 1;
        }
    }
    Ok(sent)
}

/// One call, from INVITE to the answer to BYE; how long it took to be answered.
async fn call(socket: &UdpSocket, to: SocketAddr, name: &str) -> Result<Duration> {
    let me = socket.local_addr()?;
    let (ok, took) = transact(socket, to, &request("INVITE", (1, "1"), to, me, name, ""), name).await?;
    ensure!(ok.starts_with("SIP/2.0 200"), "{}", ok.lines().next().unwrap_or_default());
    let tag =
        ok.lines().find(|line| line.starts_with("To:")).and_then(|line| line.split(";tag=").nth(1)).context("a tag")?;
    socket.send_to(request("ACK", (1, "2"), to, me, name, tag).as_bytes(), to).await?;
    let (ok, _) = transact(socket, to, &request("BYE", (2, "3"), to, me, name, tag), name).await?;
    ensure!(ok.starts_with("SIP/2.0 200"), "BYE: {}", ok.lines().next().unwrap_or_default());
    Ok(took)
}

/// Sends a request again and again until its final response is there.
async fn transact(socket: &UdpSocket, to: SocketAddr, request: &str, call: &str) -> Result<(String, Duration)> {
    let began = Instant::now();
    let (mut wait, mut buffer) = (T1, [0; 8192]);
    let cseq = request.lines().find(|line| line.starts_with("CSeq:")).unwrap_or_default();
    while began.elapsed() < PATIENCE {
        socket.send_to(request.as_bytes(), to).await?;
        let until = Instant::now() + wait;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
            let text = String::from_utf8_lossy(&buffer[..received?]).into_owned();
            let mine = text.contains(&format!("Call-ID: {call}\r\n")) && text.contains(cseq);
            if mine && text.starts_with("SIP/2.0 ") && !text.starts_with("SIP/2.0 1") {
                return Ok((text, began.elapsed()));
            }
        }
        wait *= 2;
    }
    bail!("no answer within {PATIENCE:?}")
}

/// Good calls until the flood is over.
async fn good_calls(to: SocketAddr, name: &str, over: &AtomicBool) -> Result<(Vec<f64>, Vec<String>)> {
    let socket = UdpSocket::bind(GOOD).await?;
    let (mut took, mut failed, mut ticks) = (Vec::new(), Vec::new(), interval(PAUSE));
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        match call(&socket, to, &format!("good-{name}-{}", took.len() + failed.len())).await {
            Ok(setup) => took.push(setup.as_secs_f64() * 1000.0),
            Err(error) => failed.push(error.to_string()),
        }
    }
    took.sort_by(f64::total_cmp);
    Ok((took, failed))
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A flood from one address, and what became of the others.
async fn measure(daemon: &Daemon, name: &str, from: Option<&str>) -> Result<Value> {
    let (to, before) = (daemon.sip(), daemon.usage()?.memory);
    let (over, most) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(before));
    let good = {
        let (over, name) = (Arc::clone(&over), name.to_owned());
        tokio::spawn(async move { good_calls(to, &name, &over).await })
    };
    let watch = async {
        let mut ticks = interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if let Ok(usage) = daemon.usage() {
                most.fetch_max(usage.memory, Ordering::Relaxed);
            }
        }
    };
    let flood = async {
        match from {
            Some(from) => flood(from, to, name).await,
            None => {
                tokio::time::sleep(LASTING).await;
                Ok(0)
            }
        }
    };
    let sent = tokio::select! {
        sent = flood => sent?,
        () = watch => bail!("it never ends"),
    };
    over.store(true, Ordering::Relaxed);
    let (took, failed) = timeout(PATIENCE * 2, good).await???;
    let most = most.into_inner().max(daemon.usage()?.memory);
    println!(
        "{name}: {sent} INVITEs; {} good calls answered, p50 {:.1} ms, p95 {:.1} ms, {} failed {failed:?}; {} KiB more",
        took.len(),
        percentile(&took, 0.5),
        percentile(&took, 0.95),
        failed.len(),
        most - before
    );
    Ok(json!({
        "invites_sent": sent,
        "good_calls": took.len(),
        "good_calls_failed": failed.len(),
        "setup_p50_ms": percentile(&took, 0.5),
        "setup_p95_ms": percentile(&took, 0.95),
        "setup_worst_ms": took.last(),
        "memory_more_mb": (most - before) as f64 * 1024.0 / 1e6,
    }))
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let out = match (words.next().as_deref(), words.next()) {
        (None, _) => None,
        (Some("--out"), Some(path)) => Some(PathBuf::from(path)),
        (Some(word), _) => bail!("{word} is no option, or lacks its value"),
    };
    let trunks = "[[trunk]]\nname = \"flooding\"\npeers = [\"127.0.0.50\"]\n\
                  [[trunk]]\nname = \"good\"\npeers = [\"127.0.0.51\"]\n";
    // The limits of the package: a flood is not met with those of a test.
    let setup = Setup { more: trunks.to_owned(), limits: "", log: "info", ..Setup::new(Engine::Scripted(SCRIPT)) };
    let daemon = Daemon::start(setup).await?;
    let calm = measure(&daemon, "calm", None).await?;
    let unknown = measure(&daemon, "unknown", Some(STRANGER)).await?;
    let known = measure(&daemon, "known", Some(PEER)).await?;
    let lines = daemon.log().lines().filter(|line| line.contains("refused SIP from")).count();
    let dropped = daemon.metric("callbox_sip_dropped_total").await?;
    let worst =
        |figure: &str| [&unknown, &known].iter().filter_map(|run| run[figure].as_f64()).fold(f64::NAN, f64::max);
    let lost = [&calm, &unknown, &known].iter().filter_map(|run| run["good_calls_failed"].as_u64()).sum::<u64>();
    let result = json!({
        "per_second": PER_SECOND,
        "seconds": LASTING.as_secs(),
        "setup_p95_ms": worst("setup_p95_ms"),
        "memory_more_mb": worst("memory_more_mb"),
        "good_calls_failed": lost,
        "log_lines_of_refusals": lines,
        "messages_dropped_unread": dropped,
        "calm": calm,
        "unknown": unknown,
        "known": known,
    });
    if let Some(out) = out {
        std::fs::write(&out, serde_json::to_string_pretty(&result)? + "\n")?;
    }
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

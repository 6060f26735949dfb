//! Calls from sipp (Debian: sip-tester), the load generator of the trade: volume, lost packets, cancelled calls, TCP.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use callbox::sip::{Call, CallEvent, Endpoint, EndpointConfig, IncomingCall, Limits, Timers};
use rand::{Rng, SeedableRng};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                      m=audio 4000 RTP/AVP 0\r\n";

/// INVITE, 180, CANCEL, 200, 487, ACK.
const CANCEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sipp/cancel.xml");

/// What carriers want and baresip lacks: see the file.
const CARRIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sipp/carrier.xml");

async fn answering(seed: u64) -> Endpoint {
    // Short, as sipp leaves as soon as it has seen enough: an ACK lost at the end is then waited for in vain.
    answering_within(seed, Duration::from_millis(100)).await
}

async fn answering_within(seed: u64, t1: Duration) -> Endpoint {
    let mut random = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let config = EndpointConfig {
        udp: vec![loopback],
        tcp: vec![loopback],
        timers: Timers { t1, t2: t1 * 8, t4: t1 * 10 },
        limits: Limits {
            max_calls: 500,
            max_unacked_per_source: 500,
            invites_per_second_per_source: 1000.0,
            burst: 1000,
            ..Limits::default()
        },
        ..EndpointConfig::new(Box::new(move || random.next_u64()))
    };
    let (endpoint, incoming) = Endpoint::bind(config).await.expect("loopback can be bound");
    tokio::spawn(answer_all(incoming));
    endpoint
}

/// Rings, waits for what the number asks for, answers, stays until the end.
async fn answer_all(mut incoming: mpsc::Receiver<IncomingCall>) {
    while let Some(call) = incoming.recv().await {
        tokio::spawn(async move {
            if call.ringing().await.is_err() {
                return;
            }
            if call.to_user == "patience" {
                call.cancelled().await;
                return;
            }
            if call.to_user == "carrier" {
                // The scenario wants the answer after that to its PRACK.
                sleep(Duration::from_millis(600)).await;
            }
            if let Ok(call) = call.answer(ANSWER.to_owned()).await {
                stay(call).await;
            }
        });
    }
}

async fn stay(mut call: Call) {
    loop {
        match call.event().await {
            CallEvent::Ended(_) => return,
            CallEvent::Offer { reply, .. } => drop(reply.accept(ANSWER.to_owned()).await),
            _ => {}
        }
    }
}

async fn sipp(folder: &Path, arguments: &[&str]) {
    let run = Command::new("sipp")
        .args(["-i", "127.0.0.1", "-nostdin", "-timeout", "60s", "-timeout_error"])
        .args(arguments)
        .current_dir(folder)
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(90), run)
        .await
        .expect("sipp ends")
        .expect("sipp is needed for this test: apt-get install sip-tester");
    let text = String::from_utf8_lossy(&output.stdout);
    let tail: Vec<&str> = text.lines().rev().take(60).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(output.status.success(), "sipp {arguments:?}: {}\n{tail}", output.status);
}

async fn until_quiet(endpoint: &Endpoint) {
    let mut every = interval(Duration::from_millis(50));
    let quiet = async {
        loop {
            every.tick().await;
            let stats = endpoint.stats();
            if stats.dialogs + stats.calls + stats.transactions.running == 0 {
                break;
            }
        }
    };
    assert!(timeout(Duration::from_secs(40), quiet).await.is_ok(), "still {:?}", endpoint.stats());
}

#[tokio::test]
async fn two_hundred_calls_at_a_hundred_per_second() {
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = answering(1).await;
    let udp = endpoint.local_udp()[0].to_string();
    sipp(folder.path(), &["-sn", "uac", &udp, "-m", "200", "-r", "100", "-d", "200"]).await;
    until_quiet(&endpoint).await;
    let tcp = endpoint.local_tcp()[0].to_string();
    sipp(folder.path(), &["-sn", "uac", &tcp, "-t", "t1", "-m", "200", "-r", "100", "-d", "200"]).await;
    until_quiet(&endpoint).await;
    assert_eq!(endpoint.stats().transactions.malformed, 0);
}

#[tokio::test]
async fn lost_packets_are_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    // Timer J must outlast the copies of a BYE whose answer sipp has lost four times.
    let endpoint = answering_within(2, Duration::from_millis(250)).await;
    let udp = endpoint.local_udp()[0].to_string();
    // sipp drops a tenth of the packets.
    sipp(folder.path(), &["-sn", "uac", &udp, "-m", "100", "-r", "50", "-d", "100", "-lost", "10"]).await;
    until_quiet(&endpoint).await;
}

#[tokio::test]
async fn cancelled_calls() {
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = answering(3).await;
    let udp = endpoint.local_udp()[0].to_string();
    sipp(folder.path(), &["-sf", CANCEL, "-s", "patience", &udp, "-m", "100", "-r", "50"]).await;
    until_quiet(&endpoint).await;
}

#[tokio::test]
async fn a_carrier_with_reliable_ringing_session_timers_and_late_offers() {
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = answering(4).await;
    let udp = endpoint.local_udp()[0].to_string();
    sipp(folder.path(), &["-sf", CARRIER, &udp, "-s", "carrier", "-m", "20", "-r", "20"]).await;
    until_quiet(&endpoint).await;
}

//! Every codec over every transport, plain and encrypted, with a softphone that is not ours: each hears what the other says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{
    Baresip, Daemon, Engine, RATE, Setup, Speaks, eventually, executable, free_port, share_heard, transcribe, write_wav,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::PATIENCE;
use crate::callers::{holds, tone};
use crate::peers::{ENOUGH, greeting};
use crate::tls::issue;

/// As SDP names them.
const CODECS: [&str; 4] = ["PCMU", "PCMA", "G722", "opus"];

/// Seconds of silence.
fn quiet(seconds: usize) -> Vec<i16> {
    vec![0; seconds * RATE as usize]
}

/// The loudest second of a stream at this rate.
fn loudest(samples: &[i16], rate: usize) -> &[i16] {
    let power = |part: &[i16]| part.iter().map(|sample| i64::from(*sample).pow(2)).sum::<i64>();
    samples.windows(rate * 8 / 10).step_by(rate / 20).max_by_key(|part| power(part)).unwrap_or_default()
}

/// Calls a softphone with `callbox dial`: a tone for a greeting, our tone, a tone for an answer.
async fn call(speaks: Speaks, transport: &str, dir: &Path) -> anyhow::Result<()> {
    let baresip = Baresip::speaking("callee", speaks)?;
    let says = [tone(1000.0, 1.0), quiet(2), tone(1000.0, 1.0), quiet(9)].concat();
    let mut phone = baresip.answer(&says)?;
    let listening = || async { UdpSocket::bind(baresip.address()).await.is_err().then_some(()) };
    eventually("baresip to listen", Duration::from_secs(5), listening).await?;

    let (asked, recorded) = (dir.join("asked.wav"), dir.join("call.wav"));
    write_wav(&asked, RATE, &tone(400.0, 1.0))?;
    let uri = format!("sip:{}@{}", baresip.user(), baresip.address());
    let encryption = if speaks.srtp { "required" } else { "off" };
    let mut dial = Command::new(executable("callbox")?);
    dial.args(["dial", &uri, "--codec", &speaks.codec.to_lowercase(), "--transport", transport, "--pause", "300"]);
    dial.args(["--patience", "6000", "--encryption", encryption, "--dtmf", "159#", "--json", "--play"]).arg(&asked);
    let output = dial.arg("--record").arg(&recorded).kill_on_drop(true).output().await?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    phone.stop(Duration::from_secs(5)).await?;

    ensure!(report["unanswered"] == 0, "the answer was not heard: {report}");
    // The second channel is what we heard.
    let mut reader = hound::WavReader::open(&recorded)?;
    let heard: Vec<i16> = reader.samples().skip(1).step_by(2).collect::<Result<_, _>>()?;
    // Every other sample: the tones of this test are looked for at 8 kHz.
    let heard: Vec<i16> = heard.into_iter().step_by(2).collect();
    let here = holds(loudest(&heard, RATE as usize), 1000.0);
    let there = holds(loudest(&baresip.recording(&phone)?, RATE as usize), 400.0);
    println!("{speaks:?} over {transport}: of what was heard here {here:.4} is the tone, there {there:.4}");
    ensure!(here > 0.95 && there > 0.95, "heard here {here:.3}, there {there:.3}");
    let log = phone.log();
    // Beside Opus, baresip 1.0 shows no key: its telephone events have a clock of 8 kHz, its audio one of 48.
    let keys: &[char] = if speaks.codec == "opus" { &[] } else { &['1', '5', '9', '#'] };
    for key in keys {
        ensure!(log.contains(&format!("'{key}'")), "the key {key} was not received:\n{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_softphone_is_heard_and_hears_in_every_codec_over_every_transport_plain_and_encrypted() -> anyhow::Result<()>
{
    for srtp in [false, true] {
        for codec in CODECS {
            for transport in ["udp", "tcp"] {
                let dir = TempDir::new()?;
                let speaks = Speaks { codec, srtp };
                call(speaks, transport, dir.path()).await.with_context(|| format!("{speaks:?} over {transport}"))?;
            }
        }
    }
    Ok(())
}

/// Whose call it is.
fn name(speaks: Speaks, transport: &str) -> String {
    format!("{}-{}-{transport}", speaks.codec, if speaks.srtp { "srtp" } else { "plain" })
}

#[tokio::test]
async fn a_softphone_that_calls_is_greeted_in_every_codec_over_every_transport_plain_and_encrypted()
-> anyhow::Result<()> {
    let (files, port) = (TempDir::new()?, free_port());
    issue(files.path(), "box")?;
    let (ca, folder) = (files.path().join("ca.pem"), files.path().display());
    let sip = format!("tls = [\"127.0.0.1:{port}\"]\ncertificate = \"{folder}/box.pem\"\nkey = \"{folder}/box.key\"");
    let more = "[[trunk]]\nname = \"phones\"\npeers = [\"127.0.0.1\"]\nencryption = \"optional\"\n".to_owned();
    let daemon = Daemon::start(Setup { sip, more, ..Setup::new(Engine::Pack("tiny")) }).await?;
    for transport in ["udp", "tcp", "tls"] {
        let uri = match transport {
            "tls" => format!("sip:{}@127.0.0.1:{port};transport=tls", Daemon::USER),
            _ => format!("{};transport={transport}", daemon.uri()),
        };
        let mut calls = JoinSet::new();
        for speaks in [false, true].into_iter().flat_map(|srtp| CODECS.map(|codec| Speaks { codec, srtp })) {
            let phone = Baresip::speaking(&name(speaks, transport), speaks)?.trusting(&ca)?;
            let uri = uri.clone();
            calls.spawn(async move { (speaks, phone.call(&uri, &quiet(6)).await) });
        }
        for (speaks, heard) in calls.join_all().await {
            let heard = heard.with_context(|| name(speaks, transport))?;
            let (name, codec) = (name(speaks, transport), speaks.codec);
            let is_of = |call: &&Value| call["from"].as_str().is_some_and(|from| from.contains(&name));
            let recorded = || async {
                let calls = daemon.api("/api/v1/calls").await.ok()?;
                let call = calls["calls"].as_array()?.iter().find(is_of)?.clone();
                (call["state"] == "ended").then_some(call)
            };
            let call = eventually("the record of the call", PATIENCE, recorded).await?;
            ensure!(call["codec"] == codec, "{name}: {call}");
            let words = transcribe(&heard, daemon.dir()).await?;
            let share = share_heard(&greeting()?, &words);
            ensure!(share >= ENOUGH, "{name}: of the greeting, {share:.2} was heard: {words:?}");
        }
    }
    Ok(())
}

//! Every codec over every transport, plain and encrypted, with a softphone that is not ours: each hears what the other says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Baresip, RATE, Speaks, eventually, executable, write_wav};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::process::Command;

use crate::callers::{holds, tone};

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
        for codec in ["PCMU", "PCMA", "G722", "opus"] {
            for transport in ["udp", "tcp"] {
                let dir = TempDir::new()?;
                let speaks = Speaks { codec, srtp };
                call(speaks, transport, dir.path()).await.with_context(|| format!("{speaks:?} over {transport}"))?;
            }
        }
    }
    Ok(())
}

//! The callers of these tests, tried on each other: when this fails, nothing else here says anything about Callbox.

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Baresip, Calls, Daemon, Process, RATE, Rtp, Sipp, eventually, scenario};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::{PATIENCE, PAUSE};

/// A tone whose frames are voiced.
pub(crate) fn tone(hertz: f32, seconds: f32) -> Vec<i16> {
    let step = std::f32::consts::TAU * hertz / 8000.0;
    let mut phase = 0.0_f32;
    let mut samples = Vec::new();
    while (samples.len() as f32) < seconds * 8000.0 {
        #[expect(clippy::cast_possible_truncation, reason = "within ±8000")]
        samples.push((phase.sin() * 8000.0) as i16);
        phase = (phase + step) % std::f32::consts::TAU;
    }
    samples
}

/// Places a call of a scenario whose audio is the caller's, and hears the greeting to its end.
pub(crate) async fn call(daemon: &Daemon, calls: Calls<'_>) -> anyhow::Result<(Sipp, Rtp)> {
    let mut rtp = Rtp::bind().await?;
    let sipp = calls.audio_at(rtp.port()?).start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    Ok((sipp, rtp))
}

/// Says something, and hears the first sound after it.
pub(crate) async fn ask(rtp: &mut Rtp, question: Vec<i16>) -> anyhow::Result<()> {
    rtp.say(question);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    let asked = Instant::now();
    ensure!(rtp.run(PATIENCE, |rtp| rtp.track().first_voiced(asked).is_some()).await?, "no answer was heard");
    Ok(())
}

/// Goes on talking until something else has come.
pub(crate) async fn meanwhile<T>(rtp: &mut Rtp, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            ran = rtp.run(Duration::from_secs(1), |_| false) => drop(ran?),
        }
    }
}

/// How strongly `samples` hold a frequency (Goertzel), as a share of their energy.
pub(crate) fn holds(samples: &[i16], hertz: f32) -> f32 {
    let coefficient = 2.0 * (std::f32::consts::TAU * hertz / 8000.0).cos();
    let (mut before, mut last, mut energy) = (0.0_f32, 0.0_f32, 0.0_f32);
    for sample in samples {
        let sample = f32::from(*sample) / 32_768.0;
        (before, last) = (last, sample + coefficient * last - before);
        energy += sample * sample;
    }
    let power = last * last + before * before - coefficient * last * before;
    2.0 * power / (samples.len() as f32 * energy.max(1e-9))
}

/// A softphone that answers with a tone of 1000 Hz.
async fn callee() -> anyhow::Result<(Baresip, Process)> {
    let baresip = Baresip::new("callee")?;
    let process = baresip.answer(&tone(1000.0, 20.0))?;
    let listening = || async { UdpSocket::bind(baresip.address()).await.is_err().then_some(()) };
    eventually("baresip to listen", Duration::from_secs(5), listening).await?;
    Ok((baresip, process))
}

#[tokio::test]
async fn an_rtp_end_of_our_own_and_baresip_hear_each_other() -> anyhow::Result<()> {
    let (baresip, mut phone) = callee().await?;
    let mut rtp = Rtp::bind().await?;
    let begun = Instant::now();
    let call = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(3));
    let call = call.start(baresip.user(), baresip.address())?;
    assert!(rtp.run(Duration::from_secs(5), |rtp| rtp.track().packets() > 0).await?, "no audio from baresip");
    rtp.say(tone(400.0, 1.5));
    assert!(rtp.run(Duration::from_secs(3), Rtp::has_said_it).await?);
    call.done(Duration::from_secs(10)).await?;
    let heard_here = rtp.track().samples(begun);
    phone.stop(Duration::from_secs(5)).await?;
    let heard_there = baresip.recording(&phone)?;

    assert!(heard_here.len() > RATE as usize, "{} samples", heard_here.len());
    assert!(holds(&heard_here, 1000.0) > 0.8 && holds(&heard_here, 400.0) < 0.05, "baresip was not heard");
    assert!(holds(&heard_there, 400.0) > 0.4 && holds(&heard_there, 1000.0) < 0.05, "baresip did not hear");
    Ok(())
}

#[tokio::test]
async fn baresip_hears_what_sipp_streams() -> anyhow::Result<()> {
    let (baresip, mut phone) = callee().await?;
    let dir = tempfile::TempDir::new()?;
    let speech = dir.path().join("speech.ulaw");
    // A square wave of 400 Hz: ten bytes of the loudest positive code, ten of a negative one.
    let wave = [[0xa0; 10], [0x20; 10]].concat();
    std::fs::write(&speech, wave.repeat(800))?;
    let call = scenario("speech").saying(&speech).lasting(Duration::from_secs(2));
    call.start(baresip.user(), baresip.address())?.done(Duration::from_secs(10)).await?;
    phone.stop(Duration::from_secs(5)).await?;
    let heard = baresip.recording(&phone)?;
    assert!(heard.len() > RATE as usize && holds(&heard, 400.0) > 0.5, "sipp was not heard: {} samples", heard.len());
    Ok(())
}

#[tokio::test]
async fn two_softphones_hear_each_other_over_udp_and_tcp() -> anyhow::Result<()> {
    for transport in ["udp", "tcp"] {
        let (baresip, _phone) = callee().await?;
        let uri = format!("sip:{}@{};transport={transport}", baresip.user(), baresip.address());
        let heard = Baresip::new("caller")?.call(&uri, &tone(400.0, 3.0)).await?;
        assert!(holds(&heard, 1000.0) > 0.5, "over {transport}: {} samples", heard.len());
    }
    Ok(())
}

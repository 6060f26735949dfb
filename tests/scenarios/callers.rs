//! The callers of these tests, tried on each other: when this fails, nothing else here says anything about Callbox.

use std::time::Duration;

use callbox_tests::harness::{Baresip, RATE, Rtp, eventually, scenario};
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// A tone whose frames are voiced.
fn tone(hertz: f32, seconds: f32) -> Vec<i16> {
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

/// How strongly `samples` hold a frequency (Goertzel), as a share of their energy.
fn holds(samples: &[i16], hertz: f32) -> f32 {
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

#[tokio::test]
async fn sipp_and_baresip_hear_each_other() -> anyhow::Result<()> {
    let baresip = Baresip::new("callee")?;
    let mut phone = baresip.answer(&tone(1000.0, 20.0))?;
    let listening = || async { UdpSocket::bind(baresip.address()).await.is_err().then_some(()) };
    eventually("baresip to listen", Duration::from_secs(5), listening).await?;

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

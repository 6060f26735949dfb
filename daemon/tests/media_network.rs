//! Calls over a bad network, replayed from a seed in no time: loss, jitter, reordering, duplicates, drifting clocks,
//! hostile bytes. Concealment is judged on a human voice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use callbox::base::{Clock, SystemClock};
use callbox::media::conceal::Concealer;
use callbox::media::g711::Law;
use callbox::media::resample::Upsampler;
use callbox::media::rtp::Packet;
use callbox::media::{Codec, Ends, Session, SessionParameters, SessionStats};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Samples at 8 kHz of a packet.
const FRAME: usize = 160;

const SPEECH: &str = "/usr/share/asterisk/sounds/en_US_f_Allison/demo-congrats.wav";

/// What happens to packets on their way. Times in milliseconds.
#[derive(Clone, Copy, Default)]
struct Network {
    loss: f64,
    duplicate: f64,
    /// Mean of an exponential delay; reorders packets when it is long.
    jitter: f64,
    /// Each second one packet and those behind it are held up by this.
    stall: f64,
    /// How much faster than ours the sender's clock runs, in millionths.
    drift: f64,
}

struct Outcome {
    stats: SessionStats,
    heard: Vec<i16>,
    largest_delay: u32,
}

fn session(start: Instant, source: SocketAddr) -> (Session, Ends) {
    let parameters = SessionParameters {
        remote_rtcp: source,
        rtcp_mux: true,
        silence: Duration::from_secs(3600),
        ..SessionParameters::new(Codec::Pcmu, source)
    };
    Session::new(parameters, start, SystemTime::UNIX_EPOCH)
}

/// Sends `seconds` of `voice`, again and again, through `network`.
fn call(network: Network, voice: &[i16], seconds: u32, seed: u64) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start = SystemClock.now();
    let source = SocketAddr::from(([127, 0, 0, 1], 4000));
    let (mut session, mut ends) = session(start, source);
    let packets = seconds * 50;
    // In microseconds of arrival; a second key keeps simultaneous ones apart.
    let mut under_way: BTreeMap<(u64, u32), u32> = BTreeMap::new();
    let (mut sent, mut held_until, mut heard, mut largest_delay) = (0, 0.0_f64, Vec::new(), 0);
    let mut bytes = [0; 172];
    for tick in 0..packets {
        let now = f64::from(tick) * 20.0 + 3.0;
        loop {
            let left = f64::from(sent) * 20.0 / (1.0 + network.drift / 1e6);
            if left > now {
                break;
            }
            if sent % 50 == 49 {
                held_until = left + network.stall;
            }
            for copy in 0..1 + u32::from(rng.random_bool(network.duplicate)) {
                let delay = -network.jitter * (1.0 - rng.random::<f64>()).ln();
                let arrival = (left + 30.0 + delay).max(held_until);
                if !rng.random_bool(network.loss) {
                    under_way.insert(((arrival * 1000.0) as u64, sent * 2 + copy), sent);
                }
            }
            sent += 1;
        }
        while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= (now * 1000.0) as u64) {
            let arrival = start + Duration::from_micros(entry.key().0);
            let n = entry.remove();
            let packet = Packet {
                marker: false,
                payload_type: 0,
                sequence: n as u16,
                timestamp: n * 160,
                ssrc: 9,
                payload: &[],
            };
            bytes[..12].copy_from_slice(&packet.header());
            let from = n as usize * FRAME % (voice.len() - FRAME);
            Law::Mu.encode(&voice[from..from + FRAME], &mut bytes[12..]);
            session.handle_packet(arrival, &bytes, source);
        }
        let now = start + Duration::from_micros((now * 1000.0) as u64);
        let mut out = 0;
        session.tick(now, |_| out += 1);
        assert_eq!(out, 1);
        heard.extend(ends.frames.pop().expect("one frame for each tick").samples);
        assert!(ends.frames.pop().is_none(), "only one");
        if tick > 500 {
            largest_delay = largest_delay.max(session.stats(now).buffer.delay_ms);
        }
    }
    let stats = session.stats(start + Duration::from_secs(seconds.into()));
    Outcome { stats, heard, largest_delay }
}

fn speech() -> Vec<i16> {
    let path = Path::new(SPEECH);
    assert!(path.exists(), "{SPEECH} is missing: run `apt-get install asterisk-core-sounds-en-wav`");
    hound::WavReader::open(path).expect("WAV").into_samples().map(|sample| sample.expect("16 bits")).collect()
}

/// Words of 2 s, pauses of 1 s, 8 bits of noise under all of it.
fn babble() -> Vec<i16> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let voice = |n: usize| if n % 24_000 < 16_000 { 6000.0 * (n as f64 / 9.0).sin() } else { 0.0 };
    (0..240_000 + FRAME).map(|n| voice(n) as i16 + rng.random_range(-20..20)).collect()
}

#[test]
fn an_hour_of_drifting_clocks_stays_in_bounds() {
    for drift in [-100.0, 100.0] {
        let outcome = call(Network { drift, jitter: 2.0, ..Network::default() }, &babble(), 3600, 1);
        let buffer = outcome.stats.buffer;
        // 100 ppm of an hour are 360 ms, 18 frames.
        let moved = if drift > 0.0 { buffer.skipped } else { buffer.inserted };
        println!("{drift} ppm: {:?}, at most {} ms", outcome.stats, outcome.largest_delay);
        assert!((10..40).contains(&moved), "{buffer:?}");
        assert!(outcome.largest_delay < 90 && buffer.late + buffer.lost < 60, "{} {buffer:?}", outcome.largest_delay);
    }
}

#[test]
fn bad_networks_cost_what_they_lose_and_little_more() {
    let networks = [
        ("clean", Network::default(), 0.002, 50),
        ("jitter 10", Network { jitter: 10.0, ..Network::default() }, 0.04, 120),
        ("jitter 30", Network { jitter: 30.0, ..Network::default() }, 0.09, 260),
        ("loss 5 %", Network { loss: 0.05, jitter: 3.0, ..Network::default() }, 0.07, 80),
        ("stall 150", Network { stall: 150.0, ..Network::default() }, 0.02, 200),
        ("everything", Network { loss: 0.03, duplicate: 0.1, jitter: 15.0, stall: 60.0, drift: 50.0 }, 0.1, 240),
    ];
    for (name, network, concealed, delay) in networks {
        let outcome = call(network, &babble(), 300, 7);
        let buffer = outcome.stats.buffer;
        println!("{name}: {:?}, at most {} ms", outcome.stats, outcome.largest_delay);
        assert!((buffer.concealed as f64) < concealed * 15_000.0, "{name}: {buffer:?}");
        assert!(outcome.largest_delay <= delay, "{name}: {} ms {buffer:?}", outcome.largest_delay);
        assert!(buffer.resets == 0, "{name}: {buffer:?}");
    }
}

#[test]
fn a_calm_network_carries_speech_untouched() {
    let voice = speech();
    let outcome = call(Network::default(), &voice, 10, 3);
    let mut coded = vec![0; voice.len()];
    Law::Mu.encode(&voice, &mut coded);
    let mut expected = vec![0; voice.len()];
    Law::Mu.decode(&coded, &mut expected);
    let mut wide = vec![0; 2 * expected.len()];
    Upsampler::default().process(&expected, &mut wide);
    let probe = &wide[16_000..16_800];
    let at = outcome.heard.windows(800).position(|window| window == probe).expect("heard as sent");
    // 30 ms of them on the way, and what the jitter buffer begins with.
    assert!(at - 16_000 < 16 * (30 + 60), "{} samples of delay", at - 16_000);
}

/// Signal to noise in dB and mean log-spectral distance in dB over the lost frames.
fn judge(voice: &[i16], got: &[i16], lost: &[usize]) -> (f64, f64) {
    let (mut signal, mut noise, mut distance) = (0.0, 0.0, 0.0);
    for frame in lost {
        let range = frame * FRAME..(frame + 1) * FRAME;
        let (a, b) = (&voice[range.clone()], &got[range]);
        for (a, b) in a.iter().zip(b) {
            signal += f64::from(*a).powi(2);
            noise += (f64::from(*a) - f64::from(*b)).powi(2);
        }
        distance += spectrum(a).zip(spectrum(b)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() / 80.0_f64.sqrt();
    }
    (10.0 * (signal / noise).log10(), distance / lost.len() as f64)
}

/// Levels in dB of the 80 bands of 50 Hz.
fn spectrum(samples: &[i16]) -> impl Iterator<Item = f64> {
    (0..80).map(|band| {
        let (mut re, mut im) = (1.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let angle = std::f64::consts::TAU * (band * n) as f64 / 160.0;
            re += f64::from(*sample) * angle.cos();
            im += f64::from(*sample) * angle.sin();
        }
        10.0 * (re * re + im * im + 1e4).log10()
    })
}

#[test]
fn concealment_beats_silence_and_repetition_on_a_human_voice() {
    let voice = speech();
    for (percent, burst) in [(5, 1), (10, 1), (10, 3)] {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let frames = voice.len() / FRAME;
        let mut lost = Vec::new();
        let mut frame = 5;
        while frame + burst < frames {
            if rng.random_ratio(percent, 100 * burst as u32) {
                lost.extend(frame..frame + burst);
                frame += burst;
            }
            frame += 1;
        }
        // Pauses sound right whatever one does.
        lost.retain(|frame| {
            voice[frame * FRAME..][..FRAME].iter().map(|sample| i64::from(*sample).pow(2)).sum::<i64>() > 160 * 250_000
        });
        let (mut concealed, mut silent, mut repeated) = (voice.clone(), voice.clone(), voice.clone());
        let mut concealer = Concealer::new(1);
        for frame in 0..frames {
            let range = frame * FRAME..(frame + 1) * FRAME;
            if lost.contains(&frame) {
                concealer.lost(&mut concealed[range.clone()]);
                silent[range.clone()].fill(0);
                repeated.copy_within(range.start - FRAME..range.start, range.start);
            } else {
                concealer.heard(&mut concealed[range]);
            }
        }
        let [ours, zero, again] = [&concealed, &silent, &repeated].map(|got| judge(&voice, got, &lost));
        println!(
            "{percent} % in bursts of {burst}, {} frames: ours {ours:.1?}, silence {zero:.1?}, repetition {again:.1?}",
            lost.len()
        );
        assert!((burst > 1 || ours.0 > zero.0) && ours.0 > again.0 + 1.0, "SNR: {ours:?} {zero:?} {again:?}");
        assert!(ours.1 < 0.5 * zero.1, "spectra: {ours:?} {zero:?}");
    }
}

#[test]
fn ten_thousand_hostile_datagrams_change_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let start = SystemClock.now();
    let source = SocketAddr::from(([127, 0, 0, 1], 4000));
    let (mut session, mut ends) = session(start, source);
    let good = |n: u32| {
        let packet = Packet {
            marker: false,
            payload_type: 0,
            sequence: n as u16,
            timestamp: n * 160,
            ssrc: 9,
            payload: &[0x9a; FRAME],
        };
        [&packet.header()[..], packet.payload].concat()
    };
    for n in 0..10_000_u32 {
        let now = start + Duration::from_millis(n as u64 * 5);
        let mut bytes = vec![0; rng.random_range(0..400)];
        rng.fill_bytes(&mut bytes);
        if let [first, second, ..] = &mut bytes[..] {
            match n % 4 {
                0 => (*first, *second) = (0x80 | *first & 0x3f, [0, 8, 13, 101][*second as usize % 4]),
                1 => (*first, *second) = (0x80 | *first & 0x3f, 200 + *second % 8),
                _ => {}
            }
        }
        session.handle_packet(
            now,
            &bytes,
            if n % 3 == 0 { source } else { SocketAddr::from(([10, 0, 0, 9], n as u16)) },
        );
        if n % 4 == 0 {
            session.handle_packet(now, &good(n / 4), source);
            let mut sent = 0;
            session.tick(now, |_| sent += 1);
            assert_eq!(sent, 1);
            session.report(now, |_| {});
            assert!(ends.frames.pop().is_some());
            while ends.events.pop().is_ok() {}
        }
    }
    // The caller is still understood.
    let mut heard = 0;
    for n in 2500..2600_u32 {
        let now = start + Duration::from_millis(n as u64 * 20);
        session.handle_packet(now, &good(n), source);
        let mut sent = 0;
        session.tick(now, |_| sent += 1);
        assert_eq!(sent, 1);
        heard += usize::from(ends.frames.pop().expect("frame").samples[80] != 0);
    }
    assert!(heard > 90, "{heard} {:?}", session.stats(start));
}

//! A call's audio path as a filter: samples of 16 kHz (16 bits, little endian) on standard input, what the far end hears
//! of them on standard output, on the same time line. `benches/audio.py` compares.
//!
//! `audio CODEC [LOSS-PERCENT [SEED]]` sends them through two sessions of the product and a network that loses packets at
//! random; `audio g722-encode` and `audio g722-decode` are one half each, for other people's other half. `audio g722-told`
//! is a bound: the decoder is told the sender's predictor behind each gap, which no packet says.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use callbox::base::{ClauseId, Clock as _, SystemClock, TurnId};
use callbox::media::conceal::Concealer;
use callbox::media::{Codec, FRAME, FRAME_TIME, PlayFrame, Session, SessionParameters, g722};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let samples: Vec<i16> = input.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    let codec = match argument(0).context("which codec?")? {
        "g722-encode" => {
            let mut octets = vec![0; samples.len() / 2];
            g722::Encoder::default().encode(&samples, &mut octets);
            return Ok(std::io::stdout().write_all(&octets)?);
        }
        "g722-decode" => {
            let mut heard = vec![0; input.len() * 2];
            g722::Decoder::default().decode(&input, &mut heard);
            return put(&heard);
        }
        "g722" | "g722-told" => Codec::G722,
        "opus" => Codec::Opus,
        "pcma" => Codec::Pcma,
        "pcmu" => Codec::Pcmu,
        other => bail!("{other} is no codec"),
    };
    let loss = argument(1).map_or(Ok(0.0), str::parse::<f64>)? / 100.0;
    let seed = argument(2).map_or(Ok(1), str::parse::<u64>)?;
    let told = argument(0) == Some("g722-told");
    put(&if told { told_the_predictor(&samples, loss, seed) } else { call(codec, &samples, loss, seed) })
}

/// Whether each packet is lost, in their order.
struct Dice {
    state: u64,
    loss: f64,
    thrown: u32,
}

impl Dice {
    const fn new(loss: f64, seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, loss, thrown: 0 }
    }

    fn loses(&mut self) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.thrown += 1;
        // Of the first second none, so that every run begins alike.
        self.thrown > 50 && ((self.state >> 11) as f64 / (1_u64 << 53) as f64) < self.loss
    }
}

/// G.722 as a session decodes and conceals it, but for the one thing that a session cannot know.
fn told_the_predictor(samples: &[i16], loss: f64, seed: u64) -> Vec<i16> {
    let (mut encoder, mut knowing, mut decoder) = <(g722::Encoder, g722::Decoder, g722::Decoder)>::default();
    let (mut concealer, mut dice, mut behind_gap) = (Concealer::new(2), Dice::new(loss, seed), false);
    let mut heard = Vec::with_capacity(samples.len());
    for frame in samples.as_chunks::<FRAME>().0 {
        let (mut octets, mut out, mut unheard) = ([0; FRAME / 2], [0; FRAME], [0; FRAME]);
        encoder.encode(frame, &mut octets);
        let lost = dice.loses();
        if lost {
            concealer.lost(&mut out);
            decoder.follow(&out);
        } else {
            if behind_gap {
                decoder.take_predictor_of(&knowing);
            }
            decoder.decode(&octets, &mut out);
            concealer.heard(&mut out);
        }
        knowing.decode(&octets, &mut unheard);
        behind_gap = lost;
        heard.extend(out);
    }
    heard
}

fn put(samples: &[i16]) -> Result<()> {
    let octets: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    Ok(std::io::stdout().write_all(&octets)?)
}

/// What the second of two sessions hears of what the first one plays.
fn call(codec: Codec, samples: &[i16], loss: f64, seed: u64) -> Vec<i16> {
    let start = SystemClock.now();
    let address = ([127, 0, 0, 1], 4000).into();
    let session = || Session::new(SessionParameters::new(codec, address), start, SystemTime::UNIX_EPOCH);
    let ((mut near, mut near_ends), (mut far, mut far_ends)) = (session(), session());
    let (mut heard, mut dice) = (Vec::new(), Dice::new(loss, seed));
    for (n, frame) in (0_u32..).zip(samples.as_chunks::<FRAME>().0) {
        let now = start + FRAME_TIME * n;
        near_ends.play.push(PlayFrame { turn: TurnId(1), clause: ClauseId(0), samples: *frame });
        near.tick(now, |packet| {
            if !dice.loses() {
                far.handle_packet(now + Duration::from_millis(5), packet.bytes, address);
            }
        });
        far.tick(now + Duration::from_millis(7), |_| {});
        near_ends.play.tidy();
        while near_ends.frames.pop().is_some() {}
        while near_ends.events.pop().is_ok() {}
        while far_ends.events.pop().is_ok() {}
        while let Some(frame) = far_ends.frames.pop() {
            heard.extend(frame.samples);
        }
    }
    heard
}

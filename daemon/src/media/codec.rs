//! What audio is packed with: names, clocks, and one encoder and decoder for each. Samples at 16 kHz enter, octets leave,
//! and back; G.711 and its concealment work at 8 kHz in between. Never here: time, the order of packets. Nothing is
//! allocated but by `new`.

use serde::{Deserialize, Serialize};

use super::conceal::Concealer;
use super::g711::Law;
use super::jitter::{Piece, STEPS};
use super::resample::{Downsampler, Upsampler};
use super::{FRAME, Samples, g722};

/// Milliseconds of the longest packet that is sent.
pub const MAX_PTIME: usize = 60;

/// Octets of the longest payload that is sent: 60 ms of G.711 or G.722.
pub const MAX_PAYLOAD: usize = 8 * MAX_PTIME;

/// Bits per second of Opus: transparent for a voice of 8 kHz bandwidth, redundancy included.
const OPUS_BITS: u32 = 32_000;

/// The least that a far end can ask for (RFC 7587 §6.1).
const OPUS_FEWEST_BITS: u32 = 6000;

/// Loss in percent that Opus prepares for; from some loss on its packets carry the one before.
const OPUS_LOSS: i32 = 10;

/// Opus' effort, 0 to 10.
const OPUS_EFFORT: i32 = 5;

/// Samples at 16 kHz of the longest Opus packet: 120 ms.
const OPUS_LONGEST: usize = 1920;

/// An audio codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// 7 kHz of bandwidth at 64 kbit/s.
    G722,
    /// RFC 6716, RFC 7587; here mono, 8 kHz of bandwidth.
    Opus,
    /// G.711 A-law.
    Pcma,
    /// G.711 µ-law.
    Pcmu,
}

impl Codec {
    /// The static payload type (RFC 3551 §6), if there is one.
    #[must_use]
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Self::G722 => Some(9),
            Self::Opus => None,
            Self::Pcma => Some(8),
            Self::Pcmu => Some(0),
        }
    }

    /// The G.711 law that a static payload type names: understood whatever was agreed on.
    #[must_use]
    pub const fn always(payload_type: u8) -> Option<Self> {
        match payload_type {
            0 => Some(Self::Pcmu),
            8 => Some(Self::Pcma),
            _ => None,
        }
    }

    /// Ticks per second of its RTP timestamps; of G.722 by an old mistake not its sample rate (RFC 3551 §4.5.2).
    #[must_use]
    pub const fn clock(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::G722 | Self::Pcma | Self::Pcmu => 8000,
        }
    }

    /// How long a packet lasts, in steps of 1/8000 s; none for what is no packet of this codec.
    #[must_use]
    pub fn steps(self, payload: &[u8]) -> Option<usize> {
        match self {
            Self::Opus => opus_steps(payload),
            Self::G722 | Self::Pcma | Self::Pcmu => Some(payload.len()),
        }
    }

    /// The packet duration nearest below what was asked for that it can have, in milliseconds.
    #[must_use]
    pub const fn ptime(self, wanted: u16) -> u16 {
        match (self, wanted) {
            (_, ..20) => 10,
            (Self::Opus, 20..40) => 20,
            (Self::Opus, 40..60) => 40,
            (_, 60..) => 60,
            (_, wanted) => wanted / 10 * 10,
        }
    }
}

/// RFC 6716 §3.1: how long the frames of a packet are, and how many there are.
fn opus_steps(payload: &[u8]) -> Option<usize> {
    let (toc, rest) = payload.split_first()?;
    let frame = match toc >> 3 {
        silk @ 0..12 => [80, 160, 320, 480][usize::from(silk & 3)],
        hybrid @ 12..16 => [80, 160][usize::from(hybrid & 1)],
        celt => [20, 40, 80, 160][usize::from(celt & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => usize::from(rest.first()? & 0x3f),
    };
    Some(frame * frames).filter(|steps| (1..=OPUS_LONGEST / 2).contains(steps))
}

const fn law(codec: Codec) -> Law {
    if matches!(codec, Codec::Pcma) { Law::A } else { Law::Mu }
}

/// Turns frames into payloads of whatever duration was agreed on.
pub(super) struct Encoder {
    codec: Codec,
    /// Steps of a packet.
    packet: usize,
    /// Bits per second of Opus.
    bits: u32,
    kind: Kind,
    /// Frames of silence in a row, up to two: then a filter has nothing left to give.
    silent: u8,
    /// G.711 and G.722: octets that wait for their packet to be full.
    octets: Box<[u8]>,
    filled: usize,
}

enum Kind {
    G711(Law, Box<Downsampler>),
    G722(Box<g722::Encoder>),
    Opus(Box<OpusEncoder>),
    None,
}

struct OpusEncoder {
    encoder: opus::Encoder,
    samples: [i16; OPUS_LONGEST / 2 + FRAME],
    filled: usize,
}

impl Encoder {
    /// Of packets of so many milliseconds, and of so many bits per second at most, if the far end has said so.
    pub(super) fn new(codec: Codec, ptime: u16, max_bitrate: Option<u32>) -> Self {
        let bits = max_bitrate.unwrap_or(OPUS_BITS).clamp(OPUS_FEWEST_BITS, OPUS_BITS);
        let (codec, kind) = match codec {
            Codec::Opus => match opus_encoder(bits) {
                Ok(encoder) => (codec, Kind::Opus(Box::new(OpusEncoder { encoder, samples: [0; _], filled: 0 }))),
                // Only want of memory: nothing is sent.
                Err(error) => {
                    tracing::error!(%error, "there is no Opus encoder");
                    (codec, Kind::None)
                }
            },
            Codec::G722 => (codec, Kind::G722(Box::default())),
            Codec::Pcma | Codec::Pcmu => (codec, Kind::G711(law(codec), Box::default())),
        };
        let packet = 8 * usize::from(codec.ptime(ptime));
        Self { codec, packet, bits, kind, silent: 0, octets: vec![0; packet + STEPS].into(), filled: 0 }
    }

    /// Whether another one would do the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.codec, self.packet, self.bits) == (other.codec, other.packet, other.bits)
    }

    /// Steps that wait for their packet to be full.
    pub(super) fn waiting(&self) -> usize {
        match &self.kind {
            Kind::Opus(opus) => opus.filled / 2,
            _ => self.filled,
        }
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
        if let Kind::Opus(opus) = &mut self.kind {
            opus.filled = 0;
        }
    }

    /// Takes 20 ms. [`Self::packet`] gives what is ready.
    pub(super) fn push(&mut self, frame: &Samples) {
        let quiet = frame.iter().all(|sample| *sample == 0);
        self.silent = if quiet { self.silent.saturating_add(1) } else { 0 };
        let room = &mut self.octets[self.filled..][..STEPS];
        match &mut self.kind {
            Kind::G711(law, down) => {
                let mut narrow = [0; STEPS];
                if self.silent <= 2 {
                    down.process(frame, &mut narrow);
                }
                law.encode(&narrow, room);
                self.filled += STEPS;
            }
            Kind::G722(encoder) => {
                encoder.encode(frame, room);
                self.filled += STEPS;
            }
            Kind::Opus(opus) => {
                opus.samples[opus.filled..][..FRAME].copy_from_slice(frame);
                opus.filled += FRAME;
            }
            Kind::None => {}
        }
    }

    /// The next full packet: writes its payload, returns how many octets that are and how many steps it lasts.
    pub(super) fn packet(&mut self, payload: &mut [u8; MAX_PAYLOAD]) -> Option<(usize, usize)> {
        if self.waiting() < self.packet {
            return None;
        }
        let octets = match &mut self.kind {
            Kind::Opus(opus) => {
                let samples = 2 * self.packet;
                let octets = opus.encoder.encode(&opus.samples[..samples], payload).unwrap_or(0);
                opus.samples.copy_within(samples..opus.filled, 0);
                opus.filled -= samples;
                octets
            }
            _ => {
                payload[..self.packet].copy_from_slice(&self.octets[..self.packet]);
                self.octets.copy_within(self.packet..self.filled, 0);
                self.filled -= self.packet;
                self.packet
            }
        };
        Some((octets, self.packet))
    }
}

fn opus_encoder(bits: u32) -> opus::Result<opus::Encoder> {
    let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(bits.cast_signed()))?;
    // With a limit of the far end's no packet is larger: a variable rate keeps to it only in the long run.
    encoder.set_vbr(bits == OPUS_BITS)?;
    encoder.set_inband_fec(true)?;
    encoder.set_packet_loss_perc(OPUS_LOSS)?;
    encoder.set_complexity(OPUS_EFFORT)?;
    Ok(encoder)
}

/// Turns what the jitter buffer gives into frames, without gaps.
pub(super) struct Decoder {
    /// What was heard last.
    codec: Codec,
    g722: g722::Decoder,
    opus: Option<Box<OpusDecoder>>,
    concealer: Concealer,
    up: Upsampler,
    /// Nothing was heard yet.
    fresh: bool,
}

pub(super) struct OpusDecoder {
    decoder: opus::Decoder,
    /// The packet, or what was invented in the place of one.
    samples: [i16; OPUS_LONGEST],
    length: usize,
    /// How much of it has left.
    at: usize,
}

impl Decoder {
    /// Understands G.711 and G.722, and Opus if there is a decoder of it.
    pub(super) fn new(opus: Option<Box<OpusDecoder>>) -> Self {
        Self {
            codec: Codec::Pcmu,
            g722: g722::Decoder::default(),
            opus,
            concealer: Concealer::new(1),
            up: Upsampler::default(),
            fresh: true,
        }
    }

    /// Understands Opus from now on, if it has not yet.
    pub(super) fn learn(&mut self, opus: Option<Box<OpusDecoder>>) {
        self.opus = self.opus.take().or(opus);
    }

    fn is_narrow(&self) -> bool {
        matches!(self.codec, Codec::Pcma | Codec::Pcmu)
    }

    /// A part of a packet; `out` takes two samples for each step.
    pub(super) fn heard(&mut self, piece: Piece<'_>, out: &mut [i16]) {
        let Piece { codec, payload, fresh, from, count } = piece;
        if self.codec != codec {
            let was_narrow = self.is_narrow();
            self.codec = codec;
            if self.is_narrow() != was_narrow {
                self.concealer = Concealer::new(if self.is_narrow() { 1 } else { 2 });
                self.up = Upsampler::default();
            }
        }
        self.fresh = false;
        match codec {
            Codec::Pcma | Codec::Pcmu => {
                let mut narrow = [0; STEPS];
                let narrow = &mut narrow[..count];
                law(codec).decode(&payload[from..from + count], narrow);
                self.concealer.heard(narrow);
                self.up.process(narrow, out);
            }
            Codec::G722 => {
                self.g722.decode(&payload[from..from + count], out);
                self.concealer.heard(out);
            }
            Codec::Opus => {
                let Some(opus) = &mut self.opus else { return out.fill(0) };
                if fresh {
                    opus.length = opus.decoder.decode(payload, &mut opus.samples, false).unwrap_or(0);
                }
                opus.at = 2 * from;
                if opus.at + out.len() <= opus.length {
                    opus.take(out);
                } else {
                    // Garbage: its length lied.
                    opus.at = opus.length;
                    opus.invent(out, None);
                }
            }
        }
    }

    /// A part is missing; `next`: the packet after the gap, and the steps from here on until it begins.
    pub(super) fn lost(&mut self, next: Option<(Codec, &[u8], usize)>, out: &mut [i16]) {
        if self.fresh {
            return out.fill(0);
        }
        match self.codec {
            Codec::Pcma | Codec::Pcmu => {
                let mut narrow = [0; STEPS];
                let narrow = &mut narrow[..out.len() / 2];
                match next.filter(|(codec, _, gap)| *codec == self.codec && *gap <= STEPS) {
                    Some((codec, payload, gap)) => {
                        let mut behind = [0; STEPS];
                        law(codec).decode(payload, &mut behind);
                        self.concealer.bridge(narrow, gap, &behind[..payload.len().min(STEPS)]);
                    }
                    None => self.concealer.lost(narrow),
                }
                self.up.process(narrow, out);
            }
            Codec::G722 => {
                self.concealer.lost(out);
                self.g722.follow(out);
            }
            Codec::Opus => {
                let Some(opus) = &mut self.opus else { return out.fill(0) };
                let next = next.filter(|(codec, ..)| *codec == Codec::Opus);
                opus.invent(out, next.map(|(_, payload, steps)| (payload, steps)));
            }
        }
    }

    /// The sender makes a pause: silence, or what `fill` makes of it. Opus makes its own noise.
    pub(super) fn quiet(&mut self, fill: impl FnOnce(&mut [i16]), out: &mut [i16]) {
        if self.fresh {
            out.fill(0);
            return fill(out);
        }
        match self.codec {
            Codec::Pcma | Codec::Pcmu => {
                let mut narrow = [0; STEPS];
                let narrow = &mut narrow[..out.len() / 2];
                fill(narrow);
                self.concealer.heard(narrow);
                self.up.process(narrow, out);
            }
            Codec::G722 => {
                out.fill(0);
                fill(out);
                self.concealer.heard(out);
            }
            Codec::Opus => self.lost(None, out),
        }
    }
}

impl OpusDecoder {
    /// One, if Opus is among `codecs`.
    pub(super) fn among(mut codecs: impl Iterator<Item = Codec>) -> Option<Box<Self>> {
        codecs.find(|codec| *codec == Codec::Opus)?;
        match opus::Decoder::new(16_000, opus::Channels::Mono) {
            Ok(decoder) => Some(Box::new(Self { decoder, samples: [0; OPUS_LONGEST], length: 0, at: 0 })),
            Err(error) => {
                // Only want of memory: then nothing is heard.
                tracing::error!(%error, "there is no Opus decoder");
                None
            }
        }
    }

    fn take(&mut self, out: &mut [i16]) {
        out.copy_from_slice(&self.samples[self.at..][..out.len()]);
        self.at += out.len();
    }

    /// Goes on without a packet: from the redundancy in the next one if there is any, else by guessing.
    fn invent(&mut self, mut out: &mut [i16], mut next: Option<(&[u8], usize)>) {
        while !out.is_empty() {
            if self.at >= self.length {
                let recovered = next.take().and_then(|(payload, steps)| {
                    // Multiples of 2.5 ms, as the library wants them.
                    let length = 2 * steps.next_multiple_of(20);
                    let room = self.samples.get_mut(..length)?;
                    self.decoder.decode(payload, room, true).ok()
                });
                let invented = recovered.or_else(|| self.decoder.decode(&[], &mut self.samples[..FRAME], false).ok());
                (self.at, self.length) = (0, invented.filter(|length| *length > 0).unwrap_or(FRAME));
                if invented.is_none() {
                    self.samples[..FRAME].fill(0);
                }
            }
            let count = out.len().min(self.length - self.at);
            let (now, later) = out.split_at_mut(count);
            self.take(now);
            out = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tone(n: usize) -> i16 {
        (9000.0 * (std::f64::consts::TAU * 500.0 * n as f64 / 16_000.0).sin()) as i16
    }

    fn packets(codec: Codec, ptime: u16, frames: usize) -> Vec<Vec<u8>> {
        encoded(Encoder::new(codec, ptime, None), codec, frames)
    }

    fn encoded(mut encoder: Encoder, codec: Codec, frames: usize) -> Vec<Vec<u8>> {
        let (mut packets, mut payload) = (Vec::new(), [0; MAX_PAYLOAD]);
        for frame in 0..frames {
            encoder.push(&std::array::from_fn(|n| tone(frame * FRAME + n)));
            while let Some((octets, steps)) = encoder.packet(&mut payload) {
                assert_eq!(codec.steps(&payload[..octets]), Some(steps));
                packets.push(payload[..octets].to_vec());
            }
        }
        packets
    }

    #[test]
    fn every_codec_in_every_packet_length_carries_a_tone() {
        for codec in [Codec::G722, Codec::Opus, Codec::Pcma, Codec::Pcmu] {
            for ptime in [10, 20, 30, 40, 60] {
                let packets = packets(codec, ptime, 30);
                let steps = 8 * usize::from(codec.ptime(ptime));
                assert_eq!(packets.len(), 30 * STEPS / steps, "{codec:?} {ptime}");
                let mut decoder = Decoder::new(OpusDecoder::among([codec].into_iter()));
                let mut heard = Vec::new();
                for payload in &packets {
                    for from in (0..steps).step_by(80) {
                        let mut out = [0; 160];
                        let piece = Piece { codec, payload, fresh: from == 0, from, count: 80 };
                        decoder.heard(piece, &mut out);
                        heard.extend(out);
                    }
                }
                // Of a tone any sample follows from the two before it.
                let turn = 2.0 * (std::f64::consts::TAU * 500.0 / 16_000.0).cos();
                let (mut error, mut power) = (0.0, 0.0);
                for three in heard[3000..].windows(3) {
                    let [a, b, c] = [three[0], three[1], three[2]].map(f64::from);
                    error += (turn * b - a - c).powi(2);
                    power += c * c;
                }
                assert!(error / power < 0.01, "{codec:?} {ptime}: {:.4}", error / power);
                assert!(power / heard[3000..].len() as f64 > 2e7, "{codec:?} {ptime}");
            }
        }
    }

    #[test]
    fn opus_sends_no_more_than_the_far_end_takes() {
        let bits = |most| {
            let packets = encoded(Encoder::new(Codec::Opus, 20, most), Codec::Opus, 100);
            packets.iter().map(|packet| 8 * packet.len()).sum::<usize>() / 2
        };
        assert!(bits(Some(12_000)) <= 12_500 && bits(None) > 20_000, "{} {}", bits(Some(12_000)), bits(None));
        assert_eq!((bits(Some(510_000)), bits(Some(1))), (bits(None), bits(Some(6000))));
    }

    #[test]
    fn opus_mends_a_loss_with_the_packet_after_it() {
        let packets = packets(Codec::Opus, 20, 40);
        let play = |redundant: bool| {
            let mut decoder = Decoder::new(OpusDecoder::among([Codec::Opus].into_iter()));
            let (mut heard, mut out) = (Vec::new(), [0; FRAME]);
            for (n, payload) in packets.iter().enumerate() {
                if n % 5 == 4 {
                    let next = packets.get(n + 1).filter(|_| redundant).map(|next| (Codec::Opus, &next[..], STEPS));
                    decoder.lost(next, &mut out);
                } else {
                    let piece = Piece { codec: Codec::Opus, payload, fresh: true, from: 0, count: STEPS };
                    decoder.heard(piece, &mut out);
                }
                heard.extend(out);
            }
            heard
        };
        assert_ne!(play(true), play(false), "the redundancy is there and used");
    }

    #[test]
    fn the_length_of_an_opus_packet_is_in_its_first_octets() {
        assert_eq!(opus_steps(&[0x48, 1]), Some(160), "SILK, wideband, 20 ms");
        assert_eq!(opus_steps(&[0x5b, 2]), Some(960), "two of 60 ms");
        assert_eq!(opus_steps(&[0xe1, 1]), Some(40), "two of CELT's 2.5 ms");
        for nonsense in [&[][..], &[0x4b], &[0x4b, 0], &[0x5b, 63]] {
            assert_eq!(opus_steps(nonsense), None);
        }
    }

    #[test]
    fn packets_are_at_most_as_long_as_was_asked_for() {
        assert_eq!([5, 10, 25, 30, 55, 200].map(|wanted| Codec::Pcmu.ptime(wanted)), [10, 10, 20, 30, 50, 60]);
        assert_eq!([10, 20, 30, 40, 50, 60].map(|wanted| Codec::Opus.ptime(wanted)), [10, 20, 20, 40, 40, 60]);
    }

    proptest! {
        #[test]
        fn any_runs_become_frames(runs in proptest::collection::vec((0..4_u8, 0..4_u8, proptest::collection::vec(any::<u8>(), 1..170)), 0..60)) {
            let mut decoder = Decoder::new(OpusDecoder::among([Codec::Opus].into_iter()));
            for (kind, codec, payload) in runs {
                let codec = [Codec::G722, Codec::Opus, Codec::Pcma, Codec::Pcmu][usize::from(codec)];
                let Some(steps) = codec.steps(&payload) else { continue };
                let count = steps.min(STEPS);
                let mut out = vec![0; 2 * count];
                match kind {
                    0 => decoder.lost(None, &mut out),
                    1 => decoder.lost(Some((codec, &payload, steps)), &mut out),
                    2 => decoder.quiet(|out| out.fill(3), &mut out),
                    _ => decoder.heard(Piece { codec, payload: &payload, fresh: true, from: 0, count }, &mut out),
                }
            }
        }
    }
}

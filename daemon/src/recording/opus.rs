//! Both directions of a call as one stream of Opus packets, 20 ms each. Two mono streams in one packet (RFC 7845 §5.1.1, no
//! coupled ones): what one side says is never heard in the other's channel, and silence of one costs nothing.

use ::opus::{Application, Bitrate, MSDecoder, MSEncoder};

use super::{FRAME, Pair, RATE, Samples};

/// Left is the far end, right the agent.
const STREAMS: u8 = 2;
const COUPLED: u8 = 0;
const MAPPING: [u8; 2] = [0, 1];

/// Bits per second of both together.
const BITS: i32 = 40_000;

/// Of 10: the processor has answers to compute.
const COMPLEXITY: i32 = 1;

/// Longest packet.
const LONGEST: usize = 2 * 1276;

/// Samples of both channels.
const BOTH: usize = 2 * FRAME;

pub(super) struct Encoder {
    encoder: MSEncoder,
    packet: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, ::opus::Error> {
        let mut encoder = MSEncoder::new(RATE, STREAMS, COUPLED, &MAPPING, Application::Voip)?;
        encoder.set_bitrate(Bitrate::Bits(BITS))?;
        encoder.set_complexity(COMPLEXITY)?;
        Ok(Self { encoder, packet: vec![0; LONGEST] })
    }

    pub(super) fn encode(&mut self, far_end: &Samples, agent: &Samples) -> Result<&[u8], ::opus::Error> {
        let mut both = [0; BOTH];
        for (to, (left, right)) in both.chunks_exact_mut(2).zip(far_end.iter().zip(agent)) {
            to.copy_from_slice(&[*left, *right]);
        }
        let length = self.encoder.encode(&both, &mut self.packet)?;
        Ok(self.packet.get(..length).unwrap_or_default())
    }

    /// Nobody says anything.
    pub(super) fn silence(&mut self) -> Result<&[u8], ::opus::Error> {
        self.encode(&[0; FRAME], &[0; FRAME])
    }

    /// Samples at 48 kHz by which what is decoded is late.
    pub(super) fn pre_skip(&mut self) -> u16 {
        let late = self.encoder.get_lookahead().unwrap_or(0);
        u16::try_from(late * 3).unwrap_or(0)
    }
}

pub(super) struct Decoder {
    decoder: MSDecoder,
    index: u64,
}

impl Decoder {
    pub(super) fn new() -> Result<Self, ::opus::Error> {
        Ok(Self { decoder: MSDecoder::new(RATE, STREAMS, COUPLED, &MAPPING)?, index: 0 })
    }

    pub(super) fn decode(&mut self, packet: &[u8]) -> Result<Pair, ::opus::Error> {
        let mut both = [0; BOTH];
        self.decoder.decode(packet, &mut both, false)?;
        let mut pair = Pair { index: self.index, far_end: [0; FRAME], agent: [0; FRAME] };
        for (from, (left, right)) in both.chunks_exact(2).zip(pair.far_end.iter_mut().zip(&mut pair.agent)) {
            if let [one, other] = from {
                (*left, *right) = (*one, *other);
            }
        }
        self.index += 1;
        Ok(pair)
    }
}

/// The first packet of an Ogg stream (RFC 7845 §5.1).
pub(super) fn head(pre_skip: u16) -> Vec<u8> {
    let mut head = b"OpusHead\x01\x02".to_vec();
    head.extend(pre_skip.to_le_bytes());
    head.extend(RATE.to_le_bytes());
    // No gain; channel mapping family 1, for streams that are not a stereo pair.
    head.extend([0, 0, 1, STREAMS, COUPLED]);
    head.extend(MAPPING);
    head
}

/// The second one (RFC 7845 §5.2).
pub(super) fn tags() -> Vec<u8> {
    let vendor = concat!("callbox ", env!("CARGO_PKG_VERSION"));
    let mut tags = b"OpusTags".to_vec();
    tags.extend(u32::try_from(vendor.len()).unwrap_or(0).to_le_bytes());
    tags.extend(vendor.as_bytes());
    tags.extend(0_u32.to_le_bytes());
    tags
}

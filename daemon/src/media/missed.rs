//! What arrived for a call while no daemon read it. Enters: datagrams as the kernel kept them; leaves: the caller's voice.
//! It is too late to be played out or to say anything about the network: it is only listened to.

use std::net::SocketAddr;

use super::codec::{Decoder, OpusDecoder};
use super::jitter::{Piece, STEPS};
use super::latch::canonical;
use super::rtp::Packet;
use super::session::Format;
use super::srtp::Opener;
use super::{Samples, SessionParameters};

/// Packets that may be missing in a row and are taken for silence; more are a jump of the sender's.
const MOST_LOST: u16 = 10;

/// Datagrams of one call, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Missed(pub(super) Vec<(SocketAddr, Vec<u8>)>);

impl Missed {
    /// The caller's voice in frames. `from`: where the far end was when it was heard last; strangers are not listened to.
    #[must_use]
    pub fn frames(&self, parameters: &SessionParameters, from: Option<SocketAddr>) -> Vec<Samples> {
        let believed = self.0.iter().filter(|(source, _)| from.is_none_or(|from| from == canonical(*source)));
        let mut opener = parameters.keys.as_ref().map(|keys| Opener::new(&keys.receive, parameters.progress));
        let opened = believed.filter_map(|(_, datagram)| {
            let mut datagram = datagram.clone();
            match &mut opener {
                Some(opener) => opener.open(&mut datagram).ok().map(<[u8]>::to_vec),
                None => Some(datagram),
            }
        });
        let opened: Vec<_> = opened.collect();
        let mut packets: Vec<_> = opened.iter().filter_map(|datagram| Packet::parse(datagram).ok()).collect();
        let Some(first) = packets.first().map(|packet| packet.sequence) else { return Vec::new() };
        packets.sort_by_key(|packet| packet.sequence.wrapping_sub(first).cast_signed());
        packets.dedup_by_key(|packet| packet.sequence);
        let mut decoder = Decoder::new(OpusDecoder::among(parameters.codecs()));
        let (mut voice, mut next) = (Vec::new(), None);
        for packet in packets {
            let lost = next.map_or(0, |next| packet.sequence.wrapping_sub(next));
            next = Some(packet.sequence.wrapping_add(1));
            let Some(Format::Audio(codec)) = parameters.format(packet.payload_type) else { continue };
            let Some(steps) = codec.steps(packet.payload).filter(|steps| *steps > 0) else { continue };
            if lost <= MOST_LOST {
                voice.resize(voice.len() + usize::from(lost) * 2 * steps, 0);
            }
            for from in (0..steps).step_by(STEPS) {
                let count = STEPS.min(steps - from);
                let begin = voice.len();
                voice.resize(begin + 2 * count, 0);
                let piece = Piece { codec, payload: packet.payload, fresh: from == 0, from, count };
                decoder.heard(piece, &mut voice[begin..]);
            }
        }
        voice.as_chunks().0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Codec;
    use crate::media::g711::Law;

    fn packet(sequence: u16, octet: u8) -> Vec<u8> {
        let header = Packet { marker: false, payload_type: 0, sequence, timestamp: 0, ssrc: 1, payload: &[] }.header();
        [&header[..], &[octet; STEPS]].concat()
    }

    #[test]
    fn the_voice_is_put_in_order_and_strangers_are_left_out() {
        let (caller, stranger) = (([127, 0, 0, 1], 4000).into(), ([127, 0, 0, 2], 4000).into());
        let arrived = [
            (caller, packet(65_534, 0x80)),
            (caller, packet(1, 0x83)),
            (stranger, packet(65_535, 0x90)),
            ("[::ffff:127.0.0.1]:4000".parse().expect("address"), packet(65_535, 0x81)),
            (caller, packet(65_535, 0x82)),
            (caller, b"no RTP".to_vec()),
        ];
        let parameters = SessionParameters::new(Codec::Pcmu, caller);
        let frames = Missed(arrived.into()).frames(&parameters, Some(caller));
        let mut expected = [0; 4];
        Law::Mu.decode(&[0x80, 0x81, 0xff, 0x83], &mut expected);
        // In the middle of a frame the filter has settled.
        let heard: Vec<_> = frames.iter().map(|frame| frame[160]).collect();
        assert!(heard.iter().zip(expected).all(|(heard, sent)| (heard - sent).abs() < 40), "{heard:?} {expected:?}");
    }
}

//! What arrived for a call while no daemon read it. Enters: datagrams as the kernel kept them; leaves: the caller's voice.
//! It is too late to be played out or to say anything about the network: it is only listened to.

use std::net::SocketAddr;

use super::rtp::Packet;
use super::{Codec, FRAME, Samples, SessionParameters};

/// Packets that may be missing in a row and are taken for silence; more are a jump of the sender's.
const MOST_LOST: u16 = 10;

/// Datagrams of one call, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Missed(pub(super) Vec<(SocketAddr, Vec<u8>)>);

impl Missed {
    /// The caller's voice in frames. `from`: where the far end was when it was heard last; strangers are not listened to.
    #[must_use]
    pub fn frames(&self, parameters: &SessionParameters, from: Option<SocketAddr>) -> Vec<Samples> {
        let believed = self.0.iter().filter(|(source, _)| from.is_none_or(|from| from == *source));
        let mut packets: Vec<_> = believed.filter_map(|(_, datagram)| Packet::parse(datagram).ok()).collect();
        let Some(first) = packets.first().map(|packet| packet.sequence) else { return Vec::new() };
        packets.sort_by_key(|packet| packet.sequence.wrapping_sub(first).cast_signed());
        packets.dedup_by_key(|packet| packet.sequence);
        let (mut voice, mut next) = (Vec::new(), None);
        for packet in packets {
            let agreed = (packet.payload_type == parameters.payload_type).then_some(parameters.codec);
            let codec = agreed.or_else(|| Codec::of_payload_type(packet.payload_type));
            let lost = next.map_or(0, |next| packet.sequence.wrapping_sub(next));
            next = Some(packet.sequence.wrapping_add(1));
            if lost <= MOST_LOST {
                voice.resize(voice.len() + usize::from(lost) * FRAME, 0);
            }
            if let Some(codec) = codec.filter(|_| Some(packet.payload_type) != parameters.telephone_event) {
                let begin = voice.len();
                voice.resize(begin + packet.payload.len(), 0);
                codec.decode(packet.payload, &mut voice[begin..]);
            }
        }
        voice.as_chunks().0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::LatchRule;

    fn packet(sequence: u16, octet: u8) -> Vec<u8> {
        let header = Packet { marker: false, payload_type: 0, sequence, timestamp: 0, ssrc: 1, payload: &[] }.header();
        [&header[..], &[octet; FRAME]].concat()
    }

    #[test]
    fn the_voice_is_put_in_order_and_strangers_are_left_out() {
        let (caller, stranger) = (([127, 0, 0, 1], 4000).into(), ([127, 0, 0, 2], 4000).into());
        let arrived = [
            (caller, packet(65_534, 0x80)),
            (caller, packet(1, 0x83)),
            (stranger, packet(65_535, 0x90)),
            (caller, packet(65_535, 0x81)),
            (caller, packet(65_535, 0x81)),
            (caller, b"no RTP".to_vec()),
        ];
        let parameters = SessionParameters {
            codec: Codec::Pcmu,
            payload_type: 0,
            telephone_event: None,
            remote_rtp: caller,
            remote_rtcp: caller,
            rtcp_mux: false,
            send: true,
            latch: LatchRule::Any,
            ssrc: 1,
            sequence: 0,
            timestamp: 0,
            cname: String::new(),
            confirmed: true,
            silence: std::time::Duration::ZERO,
        };
        let frames = Missed(arrived.into()).frames(&parameters, Some(caller));
        let mut expected = [0; 4];
        Codec::Pcmu.decode(&[0x80, 0x81, 0xff, 0x83], &mut expected);
        assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), expected);
    }
}

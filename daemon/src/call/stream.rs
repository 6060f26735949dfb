//! The agreement on one call's audio. Enters: offers and answers (SDP); leaves: ours, and what the media thread is told.
//! Never here: a packet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Advertised;
use crate::media::{Codec, LatchRule, SessionParameters};
use crate::sip::sdp::{self, AudioCodec, Direction, LocalMedia, MediaParameters, SdpError};

/// Values that name our stream; random, so that nobody can guess them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StreamNames {
    /// Session id of the SDP.
    pub session: u64,
    /// SSRC.
    pub ssrc: u32,
    /// First sequence number.
    pub sequence: u16,
    /// First timestamp.
    pub timestamp: u32,
    /// Canonical name of RTCP (RFC 7022).
    pub cname: u64,
}

impl StreamNames {
    /// Takes them from 64 fresh random bits at a time.
    pub fn draw(mut random: impl FnMut() -> u64) -> Self {
        let [a, _, b, _, c, d, _, _] = random().to_le_bytes();
        let bits = random().to_le_bytes();
        let [e, f, g, h, ..] = bits;
        Self {
            // Small enough for peers that read it into 63 bits.
            session: random() >> 2,
            ssrc: u32::from_le_bytes([e, f, g, h]),
            // Half the range, so that it does not wrap at once.
            sequence: u16::from_le_bytes([a, b]) >> 1,
            timestamp: u32::from_le_bytes([c, d, bits[4], bits[5]]) >> 1,
            cname: random(),
        }
    }
}

/// What both sides have agreed on, and how to agree again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    local: LocalMedia,
    names: StreamNames,
    direction: Direction,
    silence: Duration,
}

impl Stream {
    /// Nothing is agreed on yet. `rtp`: our address as the peer can reach it. `silence`: without a packet for this long
    /// (and without hold) the peer is gone, whatever signalling says.
    pub fn new(rtp: SocketAddr, names: StreamNames, silence: Duration) -> Self {
        Self { local: LocalMedia::new(rtp, names.session), names, direction: Direction::SendRecv, silence }
    }

    /// Offers and accepts only this codec.
    #[must_use]
    pub fn only(mut self, codec: AudioCodec) -> Self {
        self.local.codecs = vec![codec];
        self
    }

    /// Whether the peer has put us on hold: it does not listen (RFC 3264 §8.4), and what it may send is music.
    pub fn on_hold(&self) -> bool {
        !self.direction.sends()
    }

    /// Whether audio of the peer is to be expected.
    pub fn receives(&self) -> bool {
        self.direction.receives()
    }

    /// Answers an offer: our SDP, and the media.
    ///
    /// # Errors
    /// [`SdpError`]; what was agreed on before stays.
    pub fn answer(&mut self, offer: &str) -> Result<(String, Agreed), SdpError> {
        let (answer, parameters) = sdp::negotiate(offer, &self.local)?;
        self.local.version += 1;
        Ok((answer, self.agree(parameters)))
    }

    /// Our offer.
    pub fn offer(&mut self) -> String {
        let offer = sdp::offer(&self.local, Direction::SendRecv);
        self.local.version += 1;
        offer
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    /// [`SdpError`]: there can be no media.
    pub fn answered(&mut self, answer: &str) -> Result<Agreed, SdpError> {
        let parameters = sdp::read_answer(answer, &self.local)?;
        Ok(self.agree(parameters))
    }

    fn agree(&mut self, parameters: MediaParameters) -> Agreed {
        self.direction = parameters.direction;
        let codec = parameters.codec;
        let session = SessionParameters {
            codec: match codec {
                AudioCodec::Pcmu => Codec::Pcmu,
                AudioCodec::Pcma => Codec::Pcma,
            },
            payload_type: parameters.payload_type,
            telephone_event: parameters.telephone_event,
            remote_rtp: parameters.remote_rtp,
            remote_rtcp: parameters.remote_rtcp,
            rtcp_mux: parameters.rtcp_mux,
            send: parameters.direction.sends(),
            latch: LatchRule::default(),
            ssrc: self.names.ssrc,
            sequence: self.names.sequence,
            timestamp: self.names.timestamp,
            cname: format!("{:016x}", self.names.cname),
            silence: self.silence,
            confirmed: true,
        };
        Agreed { codec: codec.name(), session }
    }
}

/// The result of offer and answer.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// RTP encoding name.
    pub codec: &'static str,
    /// For the media thread.
    pub session: SessionParameters,
}

/// Our address towards a peer: the advertised one, else the one that media is bound to, else the one that the kernel
/// would send from. Sends nothing.
pub fn address_towards(peer: SocketAddr, bound: IpAddr, advertised: &Advertised) -> Option<IpAddr> {
    if let Some(ip) = advertised.towards(peer.ip()) {
        return Some(ip);
    }
    if !bound.is_unspecified() {
        return Some(bound);
    }
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(port: u16) -> Stream {
        let mut bits = 0x0123_4567_89ab_cdef_u64;
        let names = StreamNames::draw(|| {
            bits = bits.rotate_left(7) ^ 0x5555;
            bits
        });
        Stream::new(([127, 0, 0, 1], port).into(), names, Duration::from_secs(30))
    }

    #[test]
    fn two_ends_agree_and_hold_is_seen() {
        let (mut caller, mut box_) = (stream(4000), stream(5000).only(AudioCodec::Pcma));
        let (answer, ours) = box_.answer(&caller.offer()).expect("a codec in common");
        let theirs = caller.answered(&answer).expect("an answer");
        assert_eq!((ours.codec, theirs.codec), ("PCMA", "PCMA"));
        assert_eq!(ours.session.remote_rtp.port(), 4000);
        assert_eq!(theirs.session.remote_rtp.port(), 5000);
        assert!(ours.session.send && !box_.on_hold());

        let hold = caller.offer().replace("a=sendrecv", "a=inactive");
        let (_, held) = box_.answer(&hold).expect("hold is no refusal");
        assert!(!held.session.send && box_.on_hold() && !box_.receives());
        let music = caller.offer().replace("a=sendrecv", "a=sendonly");
        let (answer, held) = box_.answer(&music).expect("hold is no refusal");
        assert!(answer.contains("a=recvonly") && !held.session.send && box_.on_hold() && box_.receives());
    }

    #[test]
    fn the_kernel_names_our_address_where_nobody_else_does() {
        let peer: SocketAddr = ([127, 0, 0, 1], 5060).into();
        let any = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(address_towards(peer, any, &Advertised::default()), Some([127, 0, 0, 1].into()));
        let (outside, told) = (([198, 51, 100, 1], 5060).into(), Advertised::new(Some([192, 0, 2, 7].into()), &[]));
        assert_eq!(address_towards(outside, any, &told), Some([192, 0, 2, 7].into()));
        assert_eq!(address_towards(peer, any, &told), Some([127, 0, 0, 1].into()), "ourselves");
    }
}

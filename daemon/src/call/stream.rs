//! The agreement on one call's audio. Enters: offers and answers (SDP); leaves: ours, and what the media thread is told.
//! Never here: a packet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Advertised;
use crate::base::trunk::{self, Trunk};
use crate::media::srtp::{Keys, MasterKey, Progress, Suite};
use crate::media::{Codec, Format, SessionParameters};
use crate::sip::sdp::{self, AudioCodec, Crypto, Direction, Encryption, LocalMedia, MediaParameters, SdpError, Secret};

/// How audio may be agreed on with a peer. What belongs to a trunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaPolicy {
    /// What we offer and accept, most wanted first. None: all, wideband first, then as the peer likes it.
    pub codecs: Option<Vec<AudioCodec>>,
    /// Whether to encrypt (SDES).
    pub encryption: Encryption,
    /// Keys are also looked for in the audio, where the peer sends no telephone events.
    pub inband_keys: bool,
}

impl From<&Trunk> for MediaPolicy {
    fn from(trunk: &Trunk) -> Self {
        let codecs = trunk.codecs.iter().map(|codec| match codec {
            trunk::Codec::Opus => AudioCodec::Opus,
            trunk::Codec::G722 => AudioCodec::G722,
            trunk::Codec::Pcma => AudioCodec::Pcma,
            trunk::Codec::Pcmu => AudioCodec::Pcmu,
        });
        // All of them is no wish.
        let codecs = (trunk.codecs != trunk::Codec::ALL).then(|| codecs.collect());
        Self { codecs, encryption: trunk.encryption, ..Self::default() }
    }
}

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
    /// What our keys are made of.
    #[serde(default)]
    pub secret: Secret,
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
            secret: Secret::draw(random),
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
    #[serde(default)]
    inband_keys: bool,
}

impl Stream {
    /// Nothing is agreed on yet. `rtp`: our address as the peer can reach it. `silence`: without a packet for this long
    /// (and without hold) the peer is gone, whatever signalling says.
    pub fn new(rtp: SocketAddr, names: StreamNames, silence: Duration, policy: &MediaPolicy) -> Self {
        let mut local = LocalMedia::new(rtp, names.session);
        if let Some(codecs) = &policy.codecs {
            (local.codecs, local.strict) = (codecs.clone(), true);
        }
        (local.encryption, local.secret) = (policy.encryption, names.secret);
        Self { local, names, direction: Direction::SendRecv, silence, inband_keys: policy.inband_keys }
    }

    /// Our address for RTP, as the peer can reach it.
    pub fn address(&self) -> SocketAddr {
        self.local.rtp
    }

    /// Whether the peer has put us on hold: it does not listen (RFC 3264 §8.4), and what it may send is music.
    pub fn on_hold(&self) -> bool {
        !self.direction.sends()
    }

    /// Whether the peer's silence means that it is gone. On hold it may send music, and need not.
    pub fn silence_is_end(&self) -> bool {
        self.direction == Direction::SendRecv
    }

    /// Answers an offer: our SDP, and the media.
    ///
    /// # Errors
    /// [`SdpError`]; what was agreed on before stays.
    pub fn answer(&mut self, offer: &str) -> Result<(String, Agreed), SdpError> {
        let (answer, parameters) = sdp::negotiate(offer, &self.local)?;
        self.local.version += 1;
        self.local.learn(&parameters, &answer);
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
        let audio = parameters.receive.iter().map(|(number, codec)| (*number, Format::Audio(codec_of(*codec))));
        let events = parameters.telephone_event.map(|events| (events.receive, Format::Keys(events.clock)));
        let session = SessionParameters {
            codec: codec_of(parameters.codec),
            payload_type: parameters.payload_type,
            receive: audio.chain(events).collect(),
            telephone_event: parameters.telephone_event.map(|events| events.send),
            event_clock: parameters.telephone_event.map_or(8000, |events| events.clock),
            inband_keys: self.inband_keys,
            ptime: parameters.ptime_ms,
            max_bitrate: parameters.max_bitrate,
            keys: parameters.crypto.and_then(keys_of),
            remote_rtp: parameters.remote_rtp,
            remote_rtcp: parameters.remote_rtcp,
            rtcp_mux: parameters.rtcp_mux,
            send: parameters.direction.sends(),
            ssrc: self.names.ssrc,
            sequence: self.names.sequence,
            roll_over: 0,
            progress: Progress::default(),
            timestamp: self.names.timestamp,
            cname: format!("{:016x}", self.names.cname),
            silence: if self.silence_is_end() { self.silence } else { Duration::ZERO },
            confirmed: true,
        };
        Agreed { codec: parameters.codec.name(), session }
    }
}

const fn codec_of(codec: AudioCodec) -> Codec {
    match codec {
        AudioCodec::Pcmu => Codec::Pcmu,
        AudioCodec::Pcma => Codec::Pcma,
        AudioCodec::G722 => Codec::G722,
        AudioCodec::Opus => Codec::Opus,
    }
}

fn keys_of(crypto: Crypto) -> Option<Keys> {
    let suite = match crypto.suite {
        sdp::Suite::AesCm80 => Suite::AesCm80,
        sdp::Suite::AesCm32 => Suite::AesCm32,
        sdp::Suite::AesGcm128 => Suite::AesGcm128,
        sdp::Suite::AesGcm256 => Suite::AesGcm256,
    };
    Some(Keys { send: MasterKey::new(suite, crypto.send)?, receive: MasterKey::new(suite, crypto.receive)? })
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

    fn stream(port: u16, policy: &MediaPolicy) -> Stream {
        let mut bits = 0x0123_4567_89ab_cdef_u64;
        let names = StreamNames::draw(|| {
            bits = bits.rotate_left(7) ^ 0x5555;
            bits
        });
        Stream::new(([127, 0, 0, 1], port).into(), names, Duration::from_secs(30), policy)
    }

    #[test]
    fn two_ends_agree_and_hold_is_seen() {
        let narrow = MediaPolicy { codecs: Some(vec![AudioCodec::Pcma]), ..MediaPolicy::default() };
        let (mut caller, mut box_) = (stream(4000, &MediaPolicy::default()), stream(5000, &narrow));
        let (answer, ours) = box_.answer(&caller.offer()).expect("a codec in common");
        let theirs = caller.answered(&answer).expect("an answer");
        assert_eq!((ours.codec, theirs.codec), ("PCMA", "PCMA"));
        assert_eq!(ours.session.remote_rtp.port(), 4000);
        assert_eq!(theirs.session.remote_rtp.port(), 5000);
        assert!(ours.session.send && !box_.on_hold());

        let hold = caller.offer().replace("a=sendrecv", "a=inactive");
        let (_, held) = box_.answer(&hold).expect("hold is no refusal");
        assert!(!held.session.send && box_.on_hold() && !box_.silence_is_end());
        let music = caller.offer().replace("a=sendrecv", "a=sendonly");
        let (answer, held) = box_.answer(&music).expect("hold is no refusal");
        assert!(answer.contains("a=recvonly") && !held.session.send && box_.on_hold());
        assert!(!box_.silence_is_end() && held.session.silence.is_zero(), "there need be no music");
        let (_, back) = box_.answer(&caller.offer()).expect("a codec in common");
        assert!(box_.silence_is_end() && back.session.silence == Duration::from_secs(30));
    }

    #[test]
    fn keys_are_the_same_on_both_ends_and_stay_for_the_call() {
        let policy = MediaPolicy { encryption: Encryption::Required, ..MediaPolicy::default() };
        let (mut caller, mut box_) = (stream(4000, &policy), stream(5000, &policy));
        let (answer, ours) = box_.answer(&caller.offer()).expect("keys");
        let theirs = caller.answered(&answer).expect("keys").session.keys.expect("keys");
        let ours = ours.session.keys.expect("keys");
        assert!(ours.send == theirs.receive && ours.receive == theirs.send);
        let (_, again) = box_.answer(&caller.offer()).expect("keys");
        assert_eq!(again.session.keys, Some(ours));
        assert!(box_.answer(&stream(6000, &MediaPolicy::default()).offer()).is_err(), "not encrypted");
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

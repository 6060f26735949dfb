//! Offer and answer (RFC 3264) for one G.711 stream with telephone events (RFC 4733). Enters: SDP text of peers, our
//! address; leaves: our SDP text and the parameters of the stream. Every m= line that is not ours is refused with
//! port 0; no address or codec is ever guessed.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use sdp_types::{Media, Session};
use serde::{Deserialize, Serialize};

/// Audio codecs of a telephone line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AudioCodec {
    /// G.711 µ-law, static payload type 0.
    Pcmu,
    /// G.711 A-law, static payload type 8.
    Pcma,
}

impl AudioCodec {
    /// Static payload type (RFC 3551).
    pub const fn static_payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    /// Encoding name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }
}

/// Direction of media, from the side whose SDP carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    /// What this side answers to the other side's direction (RFC 3264 §6.1).
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            other => other,
        }
    }

    /// Whether this side sends.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether this side wants to receive.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    const fn attribute(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive].into_iter().find(|d| has(d.attribute()))
    }
}

/// What both sides agreed on, seen from ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaParameters {
    /// Codec for both directions.
    pub codec: AudioCodec,
    /// Payload type of the codec, both ways.
    pub payload_type: u8,
    /// Payload type of telephone events; `None` where the peer has none.
    pub telephone_event: Option<u8>,
    /// Where our RTP goes, and where the peer's should come from.
    pub remote_rtp: SocketAddr,
    /// Where our RTCP goes; equals `remote_rtp` with `rtcp_mux`.
    pub remote_rtcp: SocketAddr,
    /// RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// Packet duration that the peer asks for, in milliseconds.
    pub ptime_ms: u16,
    /// Ours: `RecvOnly` means that we are on hold and must not send.
    pub direction: Direction,
}

/// What we put into an SDP of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalMedia {
    /// Address and port for RTP, as the peer can reach them.
    pub rtp: SocketAddr,
    /// Port for RTCP where it is not `rtp` + 1.
    pub rtcp_port: Option<u16>,
    /// Codecs in our order of preference; never empty.
    pub codecs: Vec<AudioCodec>,
    /// Session id of the o= line; stays for the whole dialog.
    pub session_id: u64,
    /// Version of the o= line; one more for each SDP that differs from the one before.
    pub version: u64,
}

impl LocalMedia {
    /// The usual: both codecs, µ-law first.
    pub fn new(rtp: SocketAddr, session_id: u64) -> Self {
        Self { rtp, rtcp_port: None, codecs: vec![AudioCodec::Pcmu, AudioCodec::Pcma], session_id, version: 1 }
    }
}

/// Why an SDP cannot be answered, or an answer not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Not SDP.
    #[error("the session description cannot be parsed")]
    Malformed,
    /// No usable audio line: none at all, refused with port 0, or with a profile that we do not speak.
    #[error("the session description has no plain RTP audio")]
    NoAudio,
    /// No connection address for the audio, or one that is not an IP address.
    #[error("the session description has no usable address")]
    NoAddress,
    /// No codec in common.
    #[error("no codec in common")]
    NoCommonCodec,
}

impl SdpError {
    /// The status that refuses an INVITE with such an offer (RFC 3261 §21.4.26).
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            _ => 488,
        }
    }
}

/// Payload type of telephone events in our offers.
const OFFERED_EVENT: u8 = 101;
const DEFAULT_PTIME: u16 = 20;

/// Answers an offer: our SDP, and the stream that both sides now have.
///
/// # Errors
/// [`SdpError`]: refuse the INVITE with [`SdpError::status`].
pub fn negotiate(offer: &str, local: &LocalMedia) -> Result<(String, MediaParameters), SdpError> {
    let session = parse(offer)?;
    let (at, media) = audio(&session)?;
    let parameters = parameters(&session, media, &local.codecs)?;
    let mut sdp = head(local);
    for (index, line) in session.medias.iter().enumerate() {
        if index == at {
            write_audio(&mut sdp, local, &[(parameters.codec, parameters.payload_type)], &parameters);
        } else {
            // Refused: same media, protocol and formats, port 0 (RFC 3264 §6).
            let format = line.fmt.split_whitespace().next().unwrap_or("0");
            put(&mut sdp, format_args!("m={} 0 {} {format}\r\n", line.media, line.proto));
        }
    }
    Ok((sdp, parameters))
}

/// An offer of ours.
pub fn offer(local: &LocalMedia, direction: Direction) -> String {
    let mut sdp = head(local);
    let codecs: Vec<_> = local.codecs.iter().map(|c| (*c, c.static_payload_type())).collect();
    let shape = MediaParameters {
        codec: AudioCodec::Pcmu,
        payload_type: 0,
        telephone_event: Some(OFFERED_EVENT),
        remote_rtp: local.rtp,
        remote_rtcp: local.rtp,
        rtcp_mux: false,
        ptime_ms: DEFAULT_PTIME,
        direction,
    };
    write_audio(&mut sdp, local, &codecs, &shape);
    sdp
}

/// Reads the answer to an offer of ours.
///
/// # Errors
/// [`SdpError`]: the call cannot have media; hang up.
pub fn read_answer(answer: &str, local: &LocalMedia) -> Result<MediaParameters, SdpError> {
    let session = parse(answer)?;
    let (_, media) = audio(&session)?;
    parameters(&session, media, &local.codecs)
}

fn parse(text: &str) -> Result<Session, SdpError> {
    // Real peers end their SDP with NULs or blanks, which no parser likes.
    let text = text.trim_end_matches(['\0', ' ', '\t', '\r', '\n']);
    let mut bytes = Vec::with_capacity(text.len() + 2);
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    Session::parse(&bytes).map_err(|_| SdpError::Malformed)
}

fn audio(session: &Session) -> Result<(usize, &Media), SdpError> {
    let usable = |m: &Media| {
        m.media.eq_ignore_ascii_case("audio")
            && m.port != 0
            && ["RTP/AVP", "RTP/AVPF"].iter().any(|p| m.proto.eq_ignore_ascii_case(p))
    };
    session.medias.iter().enumerate().find(|(_, m)| usable(m)).ok_or(SdpError::NoAudio)
}

fn parameters(session: &Session, media: &Media, ours: &[AudioCodec]) -> Result<MediaParameters, SdpError> {
    let connection = media.connections.first().or(session.connection.as_ref()).ok_or(SdpError::NoAddress)?;
    let address = connection.connection_address.split('/').next().unwrap_or_default();
    let ip: IpAddr = address.parse().map_err(|_| SdpError::NoAddress)?;
    let remote_rtp = SocketAddr::new(ip, media.port);

    let maps: Vec<(u8, &str)> = media.get_attribute_values("rtpmap").flatten().filter_map(rtpmap).collect();
    let formats = || media.fmt.split_whitespace().filter_map(|f| f.parse::<u8>().ok()).filter(|pt| *pt < 128);
    let codec_of = |pt: u8| match maps.iter().find(|(mapped, _)| *mapped == pt) {
        Some((_, name)) => [AudioCodec::Pcmu, AudioCodec::Pcma].into_iter().find(|c| is_encoding(name, c.name())),
        None => [AudioCodec::Pcmu, AudioCodec::Pcma].into_iter().find(|c| c.static_payload_type() == pt),
    };
    // The offerer's order decides, as it knows its line (RFC 3264 §6.1 SHOULD).
    let (payload_type, codec) = formats()
        .find_map(|pt| codec_of(pt).filter(|c| ours.contains(c)).map(|c| (pt, c)))
        .ok_or(SdpError::NoCommonCodec)?;
    let telephone_event =
        formats().find(|pt| maps.iter().any(|(mapped, name)| mapped == pt && is_encoding(name, "telephone-event")));

    let rtcp_mux = media.has_attribute("rtcp-mux");
    let remote_rtcp = if rtcp_mux {
        remote_rtp
    } else {
        media
            .get_first_attribute_value("rtcp")
            .flatten()
            .and_then(|v| rtcp_address(v, ip))
            .unwrap_or_else(|| SocketAddr::new(ip, media.port.saturating_add(1)))
    };
    let ptime = |name| media.get_first_attribute_value(name).flatten().and_then(|v| v.trim().parse::<u16>().ok());
    let ptime_ms = ptime("ptime").unwrap_or(DEFAULT_PTIME).clamp(10, 60);
    let theirs = Direction::of(|d| media.has_attribute(d))
        .or_else(|| Direction::of(|d| session.has_attribute(d)))
        .unwrap_or_default();
    // c=0.0.0.0 is the hold of RFC 2543: the peer takes no media.
    let theirs = match (ip.is_unspecified(), theirs) {
        (false, theirs) => theirs,
        (true, theirs) if theirs.sends() => Direction::SendOnly,
        (true, _) => Direction::Inactive,
    };
    Ok(MediaParameters {
        codec,
        payload_type,
        telephone_event,
        remote_rtp,
        remote_rtcp,
        rtcp_mux,
        ptime_ms,
        direction: theirs.reversed(),
    })
}

fn rtpmap(value: &str) -> Option<(u8, &str)> {
    let (pt, name) = value.trim().split_once(' ')?;
    Some((pt.parse().ok()?, name.trim()))
}

fn is_encoding(map: &str, name: &str) -> bool {
    let mut parts = map.split('/');
    parts.next().is_some_and(|n| n.eq_ignore_ascii_case(name))
        && parts.next().is_some_and(|rate| rate.trim() == "8000")
        && parts.next().is_none_or(|channels| channels.trim() == "1")
}

/// RFC 3605: `a=rtcp:53020 [IN IP4 126.16.64.4]`.
fn rtcp_address(value: &str, default: IpAddr) -> Option<SocketAddr> {
    let mut parts = value.split_whitespace();
    let port: u16 = parts.next()?.parse().ok().filter(|p| *p != 0)?;
    let ip = parts.nth(2).and_then(|a| a.parse().ok()).unwrap_or(default);
    Some(SocketAddr::new(ip, port))
}

fn head(local: &LocalMedia) -> String {
    let ip = local.rtp.ip();
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let (id, version) = (local.session_id, local.version);
    let mut sdp = String::with_capacity(320);
    put(&mut sdp, format_args!("v=0\r\no=- {id} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n"));
    sdp
}

fn write_audio(sdp: &mut String, local: &LocalMedia, codecs: &[(AudioCodec, u8)], shape: &MediaParameters) {
    put(sdp, format_args!("m=audio {} RTP/AVP", local.rtp.port()));
    for (_, pt) in codecs {
        put(sdp, format_args!(" {pt}"));
    }
    if let Some(event) = shape.telephone_event {
        put(sdp, format_args!(" {event}"));
    }
    sdp.push_str("\r\n");
    for (codec, pt) in codecs {
        put(sdp, format_args!("a=rtpmap:{pt} {}/8000\r\n", codec.name()));
    }
    if let Some(event) = shape.telephone_event {
        put(sdp, format_args!("a=rtpmap:{event} telephone-event/8000\r\na=fmtp:{event} 0-16\r\n"));
    }
    if shape.rtcp_mux {
        sdp.push_str("a=rtcp-mux\r\n");
    } else if let Some(port) = local.rtcp_port {
        put(sdp, format_args!("a=rtcp:{port}\r\n"));
    }
    put(sdp, format_args!("a=ptime:{}\r\na={}\r\n", shape.ptime_ms, shape.direction.attribute()));
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a String");
}

#[cfg(test)]
mod tests;

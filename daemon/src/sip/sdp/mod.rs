//! Offer and answer (RFC 3264) for one stream of audio with telephone events (RFC 4733), encrypted or not (RFC 4568).
//! Enters: SDP text of peers, our address; leaves: our SDP text and the parameters of the stream. Every m= line that is
//! not ours is refused with port 0; no address or codec is ever guessed.

mod crypto;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use sdp_types::{Media, Session};
use serde::{Deserialize, Serialize};

pub use crate::base::trunk::Encryption;
pub use crypto::{Crypto, Secret, Suite};

/// Audio codecs of a telephone line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioCodec {
    /// G.711 µ-law, static payload type 0.
    #[serde(alias = "Pcmu")]
    Pcmu,
    /// G.711 A-law, static payload type 8.
    #[serde(alias = "Pcma")]
    Pcma,
    /// G.722, static payload type 9; wideband.
    G722,
    /// Opus (RFC 7587); wideband.
    Opus,
}

impl AudioCodec {
    /// All of them, wideband first.
    pub const ALL: [Self; 4] = [Self::Opus, Self::G722, Self::Pcmu, Self::Pcma];

    /// Static payload type (RFC 3551), if there is one.
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
            Self::G722 => Some(9),
            Self::Opus => None,
        }
    }

    /// Encoding name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Opus => "opus",
        }
    }

    /// Ticks per second of RTP timestamps (RFC 3551 §4.5.2 for G.722).
    pub const fn clock(self) -> u32 {
        if matches!(self, Self::Opus) { 48_000 } else { 8000 }
    }

    const fn is_wideband(self) -> bool {
        matches!(self, Self::G722 | Self::Opus)
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

/// Telephone events (RFC 4733) as both sides number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvents {
    /// Payload type that we send.
    pub send: u8,
    /// Payload type that the peer sends.
    pub receive: u8,
    /// Ticks per second: the codec's, or what there is.
    pub clock: u32,
}

/// What both sides agreed on, seen from ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaParameters {
    /// The codec that we send.
    pub codec: AudioCodec,
    /// Its payload type, in the peer's numbers.
    pub payload_type: u8,
    /// What the peer may send, in our numbers; the same as above after an answer of ours.
    pub receive: Vec<(u8, AudioCodec)>,
    /// Telephone events; `None` where the peer has none.
    pub telephone_event: Option<KeyEvents>,
    /// The peer may send comfort noise (RFC 3389), and takes it.
    pub comfort_noise: bool,
    /// Keys of both directions; `None` for plain RTP.
    pub crypto: Option<Crypto>,
    /// Where our RTP goes, and where the peer's should come from.
    pub remote_rtp: SocketAddr,
    /// Where our RTCP goes; equals `remote_rtp` with `rtcp_mux`.
    pub remote_rtcp: SocketAddr,
    /// RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// Packet duration that the peer asks for, in milliseconds, 10 to 60.
    pub ptime_ms: u16,
    /// Bits per second that the peer takes of Opus at most (RFC 7587 §7.1); `None` where it does not say.
    #[serde(default)]
    pub max_bitrate: Option<u32>,
    /// Ours: `RecvOnly` means that we are on hold and must not send.
    pub direction: Direction,
}

/// What we put into an SDP of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalMedia {
    /// Address and port for RTP, as the peer can reach them.
    pub rtp: SocketAddr,
    /// Codecs that we offer and accept, in our order of preference; never empty.
    pub codecs: Vec<AudioCodec>,
    /// Our order decides. Otherwise wideband goes first, and then the peer's order decides, as it knows its line (RFC
    /// 3264 §6.1).
    #[serde(default)]
    pub strict: bool,
    /// Whether to encrypt.
    #[serde(default)]
    pub encryption: Encryption,
    /// What our keys are made of; random.
    #[serde(default)]
    pub secret: Secret,
    /// Payload types of dynamic formats: a number keeps its meaning for the whole dialog (RFC 3264 §8.3.2).
    #[serde(default)]
    pub numbers: Numbers,
    /// The m= lines of our last answer: an offer has no fewer, in the same order (RFC 3264 §8).
    #[serde(default)]
    pub lines: Vec<String>,
    /// Session id of the o= line; stays for the whole dialog.
    pub session_id: u64,
    /// Version of the o= line; one more for each SDP that differs from the one before.
    pub version: u64,
}

/// Dynamic payload types of our offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Opus.
    pub opus: u8,
    /// Telephone events at 8 kHz …
    pub keys: u8,
    /// … and at 48 kHz.
    pub wide_keys: u8,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { opus: 111, keys: 101, wide_keys: 110 }
    }
}

impl LocalMedia {
    /// The usual: all codecs, wideband first, plain RTP.
    pub fn new(rtp: SocketAddr, session_id: u64) -> Self {
        Self {
            rtp,
            codecs: AudioCodec::ALL.to_vec(),
            strict: false,
            encryption: Encryption::Off,
            secret: Secret::default(),
            numbers: Numbers::default(),
            lines: Vec::new(),
            session_id,
            version: 1,
        }
    }

    fn number(&self, codec: AudioCodec) -> u8 {
        codec.static_payload_type().unwrap_or(self.numbers.opus)
    }

    /// The lower, the sooner it is taken; of equals the first in the peer's order.
    fn rank(&self, codec: AudioCodec) -> Option<usize> {
        let place = self.codecs.iter().position(|ours| *ours == codec)?;
        Some(if self.strict || codec.is_wideband() { place } else { self.codecs.len() })
    }

    /// Keeps the peer's numbers, and the m= lines that both sides now have, for what we offer next.
    pub fn learn(&mut self, agreed: &MediaParameters, answer: &str) {
        self.lines = answer.lines().filter(|line| line.starts_with("m=")).map(str::to_owned).collect();
        let mut numbers = self.numbers;
        if agreed.codec == AudioCodec::Opus {
            numbers.opus = agreed.payload_type;
        }
        match agreed.telephone_event {
            Some(KeyEvents { receive, clock: 48_000, .. }) => numbers.wide_keys = receive,
            Some(KeyEvents { receive, .. }) => numbers.keys = receive,
            None => {}
        }
        // Only as long as they differ: a peer's number for one thing may be ours for another.
        let Numbers { opus, keys, wide_keys } = numbers;
        if opus != keys && opus != wide_keys && keys != wide_keys {
            self.numbers = numbers;
        }
    }
}

/// Why an SDP cannot be answered, or an answer not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Not SDP.
    #[error("the session description cannot be parsed")]
    Malformed,
    /// No usable audio line: none at all, refused with port 0, or with a profile that we do not speak.
    #[error("the session description has no RTP audio that we speak")]
    NoAudio,
    /// Plain RTP where encryption is required, encrypted where it is off, or with keys that we cannot use.
    #[error("the session description does not encrypt as this trunk is configured to")]
    Encryption,
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

/// Comfort noise (RFC 3389).
const COMFORT_NOISE: u8 = 13;
const DEFAULT_PTIME: u16 = 20;
/// Longest packets that we send.
const MAX_PTIME: u16 = 60;

/// Answers an offer: our SDP, and the stream that both sides now have.
///
/// # Errors
/// [`SdpError`]: refuse the INVITE with [`SdpError::status`].
pub fn negotiate(offer: &str, local: &LocalMedia) -> Result<(String, MediaParameters), SdpError> {
    let session = parse(offer)?;
    let (at, media) = audio(&session, local.encryption)?;
    let theirs = Theirs::read(&session, media)?;
    let (payload_type, codec) = theirs
        .codecs
        .iter()
        .filter_map(|(number, codec)| Some((local.rank(*codec)?, (*number, *codec))))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, format)| format)
        .ok_or(SdpError::NoCommonCodec)?;
    let crypto = crypto::accept(media, local.encryption, &local.secret)?;
    // An answer repeats the numbers of the offer.
    let telephone_event = theirs.keys(codec).map(|(send, clock)| KeyEvents { send, receive: send, clock });
    let parameters = theirs.parameters(codec, payload_type, vec![(payload_type, codec)], telephone_event, crypto);
    let mut sdp = head(local);
    for (index, line) in session.medias.iter().enumerate() {
        if index == at {
            let shape = Shape {
                profile: line.proto.as_str(),
                formats: &[(payload_type, codec)],
                keys: parameters.telephone_event.map(|keys| (keys.receive, keys.clock)).into_iter().collect(),
                comfort_noise: parameters.comfort_noise,
                crypto: parameters.crypto.iter().map(Crypto::line).collect(),
                rtcp_mux: parameters.rtcp_mux,
                ptime: theirs.ptime,
                direction: parameters.direction,
            };
            write_audio(&mut sdp, local, &shape);
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
    let formats: Vec<_> = local.codecs.iter().map(|codec| (local.number(*codec), *codec)).collect();
    let clocks = |clock| local.codecs.iter().any(|codec| codec.clock() == clock);
    let keys = [(local.numbers.keys, 8000), (local.numbers.wide_keys, 48_000)];
    let shape = Shape {
        profile: match local.lines.iter().find_map(|line| ours(line)) {
            Some(agreed) => agreed,
            None if local.encryption == Encryption::Required => "RTP/SAVP",
            None => "RTP/AVP",
        },
        formats: &formats,
        keys: keys.into_iter().filter(|(_, clock)| clocks(*clock)).collect(),
        comfort_noise: clocks(8000),
        crypto: crypto::offer(local.encryption, &local.secret),
        rtcp_mux: false,
        ptime: DEFAULT_PTIME,
        direction,
    };
    if local.lines.is_empty() {
        write_audio(&mut sdp, local, &shape);
    }
    for line in &local.lines {
        match ours(line) {
            Some(_) => write_audio(&mut sdp, local, &shape),
            None => put(&mut sdp, format_args!("{line}\r\n")),
        }
    }
    sdp
}

/// The profile of an m= line of our answer that was not refused.
fn ours(line: &str) -> Option<&str> {
    let mut words = line.split(' ').skip(1);
    words.next().filter(|port| *port != "0")?;
    words.next()
}

/// Reads the answer to an offer of ours.
///
/// # Errors
/// [`SdpError`]: the call cannot have media; hang up.
pub fn read_answer(answer: &str, local: &LocalMedia) -> Result<MediaParameters, SdpError> {
    let session = parse(answer)?;
    let (_, media) = audio(&session, local.encryption)?;
    let theirs = Theirs::read(&session, media)?;
    // The answerer's first is what it likes best; it may send any of those that it names (RFC 3264 §6.1, §7).
    let common: Vec<_> = theirs.codecs.iter().filter(|(_, codec)| local.codecs.contains(codec)).copied().collect();
    let (payload_type, codec) = common.first().copied().ok_or(SdpError::NoCommonCodec)?;
    let receive = common.iter().map(|(_, codec)| (local.number(*codec), *codec)).collect();
    let telephone_event = theirs.keys(codec).map(|(send, clock)| {
        let receive = if clock == 48_000 { local.numbers.wide_keys } else { local.numbers.keys };
        KeyEvents { send, receive, clock }
    });
    let crypto = crypto::accepted(media, local.encryption, &local.secret)?;
    Ok(theirs.parameters(codec, payload_type, receive, telephone_event, crypto))
}

fn parse(text: &str) -> Result<Session, SdpError> {
    // Real peers end their SDP with NULs or blanks, which no parser likes.
    let text = text.trim_end_matches(['\0', ' ', '\t', '\r', '\n']);
    let mut bytes = Vec::with_capacity(text.len() + 2);
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    Session::parse(&bytes).map_err(|_| SdpError::Malformed)
}

/// The line to take: an encrypted one if there is one and it may be taken.
fn audio(session: &Session, encryption: Encryption) -> Result<(usize, &Media), SdpError> {
    let lines = || {
        session.medias.iter().enumerate().filter_map(|(at, media)| {
            let is_audio = media.media.eq_ignore_ascii_case("audio") && media.port != 0;
            let rank = is_audio.then(|| crypto::rank(media, encryption))?;
            Some((rank, (at, media)))
        })
    };
    let best = lines().filter_map(|(rank, line)| Some((rank?, line))).min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, line)) => Ok(line),
        None if lines().any(|(_, (_, media))| crypto::is_rtp(media)) => Err(SdpError::Encryption),
        None => Err(SdpError::NoAudio),
    }
}

/// What the peer's line says.
struct Theirs {
    /// Those that we know, in the peer's order.
    codecs: Vec<(u8, AudioCodec)>,
    /// Telephone events and their clocks.
    events: Vec<(u8, u32)>,
    comfort_noise: bool,
    remote_rtp: SocketAddr,
    remote_rtcp: SocketAddr,
    rtcp_mux: bool,
    ptime: u16,
    /// Payload types whose sender is limited, and bits per second.
    bitrates: Vec<(u8, u32)>,
    direction: Direction,
}

impl Theirs {
    fn read(session: &Session, media: &Media) -> Result<Self, SdpError> {
        let connection = media.connections.first().or(session.connection.as_ref()).ok_or(SdpError::NoAddress)?;
        let address = connection.connection_address.split('/').next().unwrap_or_default();
        let ip: IpAddr = address.parse().map_err(|_| SdpError::NoAddress)?;
        let remote_rtp = SocketAddr::new(ip, media.port);

        let maps: Vec<(u8, &str)> = media.get_attribute_values("rtpmap").flatten().filter_map(rtpmap).collect();
        let formats = || media.fmt.split_whitespace().filter_map(|f| f.parse::<u8>().ok()).filter(|pt| *pt < 128);
        let codec_of = |pt: u8| match maps.iter().find(|(mapped, _)| *mapped == pt) {
            Some((_, name)) => AudioCodec::ALL.into_iter().find(|codec| is_encoding(name, codec.name(), codec.clock())),
            None => AudioCodec::ALL.into_iter().find(|codec| codec.static_payload_type() == Some(pt)),
        };
        let event_of = |pt: u8| {
            let (_, name) = maps.iter().find(|(mapped, _)| *mapped == pt)?;
            [8000, 48_000, 16_000].into_iter().find(|clock| is_encoding(name, "telephone-event", *clock))
        };
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
        let number = |name| media.get_first_attribute_value(name).flatten().and_then(|v| v.trim().parse::<u16>().ok());
        let most = number("maxptime").unwrap_or(MAX_PTIME).clamp(10, MAX_PTIME);
        let ptime = number("ptime").unwrap_or(DEFAULT_PTIME).clamp(10, most);
        let bitrates = media.get_attribute_values("fmtp").flatten().filter_map(max_bitrate).collect();
        let direction = Direction::of(|d| media.has_attribute(d))
            .or_else(|| Direction::of(|d| session.has_attribute(d)))
            .unwrap_or_default();
        // c=0.0.0.0 is the hold of RFC 2543: the peer takes no media.
        let direction = match (ip.is_unspecified(), direction) {
            (false, theirs) => theirs,
            (true, theirs) if theirs.sends() => Direction::SendOnly,
            (true, _) => Direction::Inactive,
        };
        Ok(Self {
            codecs: formats().filter_map(|pt| Some((pt, codec_of(pt)?))).collect(),
            events: formats().filter_map(|pt| Some((pt, event_of(pt)?))).collect(),
            comfort_noise: formats().any(|pt| pt == COMFORT_NOISE),
            remote_rtp,
            remote_rtcp,
            rtcp_mux,
            ptime,
            bitrates,
            direction,
        })
    }

    /// Events of the codec's own clock (RFC 4733 §2.1), else those that there are: peers mix them up.
    fn keys(&self, codec: AudioCodec) -> Option<(u8, u32)> {
        let own = self.events.iter().find(|(_, clock)| *clock == codec.clock());
        own.or_else(|| self.events.first()).copied()
    }

    fn parameters(
        &self,
        codec: AudioCodec,
        payload_type: u8,
        receive: Vec<(u8, AudioCodec)>,
        telephone_event: Option<KeyEvents>,
        crypto: Option<Crypto>,
    ) -> MediaParameters {
        MediaParameters {
            codec,
            payload_type,
            receive,
            telephone_event,
            comfort_noise: self.comfort_noise && codec.clock() == 8000,
            crypto,
            remote_rtp: self.remote_rtp,
            remote_rtcp: self.remote_rtcp,
            rtcp_mux: self.rtcp_mux,
            ptime_ms: self.ptime,
            max_bitrate: self.bitrates.iter().find(|(number, _)| *number == payload_type).map(|(_, bits)| *bits),
            direction: self.direction.reversed(),
        }
    }
}

fn rtpmap(value: &str) -> Option<(u8, &str)> {
    let (pt, name) = value.trim().split_once(' ')?;
    Some((pt.parse().ok()?, name.trim()))
}

/// `a=fmtp:96 useinbandfec=1; maxaveragebitrate=16000`.
fn max_bitrate(value: &str) -> Option<(u8, u32)> {
    let (pt, says) = value.trim().split_once(' ')?;
    let mut pairs = says.split(';').filter_map(|pair| pair.split_once('='));
    let (_, bits) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("maxaveragebitrate"))?;
    Some((pt.parse().ok()?, bits.trim().parse().ok()?))
}

fn is_encoding(map: &str, name: &str, clock: u32) -> bool {
    let mut parts = map.split('/');
    // Opus is always of two channels, whatever it carries (RFC 7587 §7), and some forget to say so.
    let mono = |channels: &str| channels.trim() == "1" || name == AudioCodec::Opus.name() && channels.trim() == "2";
    parts.next().is_some_and(|n| n.eq_ignore_ascii_case(name))
        && parts.next().is_some_and(|rate| rate.trim().parse() == Ok(clock))
        && parts.next().is_none_or(mono)
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

/// What a line of ours says.
struct Shape<'a> {
    profile: &'a str,
    formats: &'a [(u8, AudioCodec)],
    /// Telephone events and their clocks.
    keys: Vec<(u8, u32)>,
    comfort_noise: bool,
    crypto: Vec<String>,
    rtcp_mux: bool,
    ptime: u16,
    direction: Direction,
}

fn write_audio(sdp: &mut String, local: &LocalMedia, shape: &Shape<'_>) {
    put(sdp, format_args!("m=audio {} {}", local.rtp.port(), shape.profile));
    let noise = shape.comfort_noise.then_some(COMFORT_NOISE);
    let keys = shape.keys.iter().map(|(number, _)| *number);
    for number in shape.formats.iter().map(|(number, _)| *number).chain(noise).chain(keys) {
        put(sdp, format_args!(" {number}"));
    }
    sdp.push_str("\r\n");
    for (number, codec) in shape.formats {
        let channels = if *codec == AudioCodec::Opus { "/2" } else { "" };
        put(sdp, format_args!("a=rtpmap:{number} {}/{}{channels}\r\n", codec.name(), codec.clock()));
        if *codec == AudioCodec::Opus {
            let says = "useinbandfec=1;maxplaybackrate=16000;sprop-maxcapturerate=16000;maxaveragebitrate=40000";
            put(sdp, format_args!("a=fmtp:{number} {says}\r\n"));
        }
    }
    if let Some(number) = noise {
        put(sdp, format_args!("a=rtpmap:{number} CN/8000\r\n"));
    }
    for (number, clock) in &shape.keys {
        put(sdp, format_args!("a=rtpmap:{number} telephone-event/{clock}\r\na=fmtp:{number} 0-16\r\n"));
    }
    for crypto in &shape.crypto {
        put(sdp, format_args!("a=crypto:{crypto}\r\n"));
    }
    if shape.rtcp_mux {
        sdp.push_str("a=rtcp-mux\r\n");
    }
    let (ptime, direction) = (shape.ptime, shape.direction.attribute());
    put(sdp, format_args!("a=ptime:{ptime}\r\na=maxptime:{MAX_PTIME}\r\na={direction}\r\n"));
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a String");
}

#[cfg(test)]
mod tests;

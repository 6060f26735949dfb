//! One call's media, without sockets or clock: packets and ticks enter; frames and events for the call's task, and
//! packets to send leave. Joins latch, sequence, encryption, both directions, DTMF, play-out and RTCP. After
//! [`Session::new`] nothing is allocated but with the first packet (`Inbound`) and the first sound (`EchoWatch`); what a
//! change needs is allocated by [`Change::new`], elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rtrb::{Consumer, Producer, RingBuffer};
use serde::{Deserialize, Serialize};

use super::codec::{Codec, Encoder, OpusDecoder};
use super::dtmf::{self, Key};
use super::echo::EchoWatch;
use super::heard::{Heard, HeardIn, heard};
use super::inband::Inband;
use super::inbound::Inbound;
use super::jitter::JitterStats;
use super::latch::Latch;
use super::outbound::Outbound;
use super::playout::{PlayQueue, Playout};
use super::rtcp::{self, Fact, MAX_REPORT, Reception, Sent};
use super::rtp::{self, Arrived, Packet, Sequence};
use super::srtp::{self, OVERHEAD, Opener, Progress, Sealer};
use super::{Direction, Event, FRAME, FRAME_TIME, Frame, Keys, Samples, TapFrame};
use crate::base::Pii;

/// Events that wait.
const EVENTS: usize = 16;
/// Comfort noise (RFC 3389), which senders may use unasked for 8 kHz codecs.
const COMFORT_NOISE: u8 = 13;
/// Mean time between RTCP reports (RFC 3550 §6.2).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Longer datagrams are cut, and then rejected or short.
pub(super) const DATAGRAM: usize = 2048;

/// What a payload type of the far end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Audio.
    Audio(Codec),
    /// Telephone events of a clock of so many ticks per second.
    Keys(u32),
    /// Comfort noise.
    Noise,
}

/// What signalling has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionParameters {
    /// What we send.
    pub codec: Codec,
    /// The payload type of `codec`, as the far end numbers it.
    pub payload_type: u8,
    /// What the far end may send, as we have numbered it. G.711 of either law and comfort noise are understood whatever
    /// was agreed on, under their static payload types. Empty: what we send.
    #[serde(default)]
    pub receive: Vec<(u8, Format)>,
    /// The payload type of telephone events that we send, …
    pub telephone_event: Option<u8>,
    /// … and their ticks per second.
    #[serde(default = "eight_thousand")]
    pub event_clock: u32,
    /// Keys are also looked for in the audio, as long as no telephone event has come.
    #[serde(default)]
    pub inband_keys: bool,
    /// Milliseconds of audio that the far end wants in a packet, 10 to 60.
    #[serde(default = "twenty")]
    pub ptime: u16,
    /// Bits per second that the far end takes at most; only Opus can do with fewer, and with 6000 at the least.
    #[serde(default)]
    pub max_bitrate: Option<u32>,
    /// Both directions are encrypted.
    #[serde(default)]
    pub keys: Option<srtp::Keys>,
    /// From the far end's SDP.
    pub remote_rtp: SocketAddr,
    /// From the far end's SDP, or the port after `remote_rtp`.
    pub remote_rtcp: SocketAddr,
    /// RTCP shares the RTP port (RFC 5761).
    pub rtcp_mux: bool,
    /// The direction allows us to send. While it does not, queued frames wait.
    pub send: bool,
    /// Names our stream; random. Ignored by [`Session::update`], like the five below: our stream goes on.
    pub ssrc: u32,
    /// First sequence number; random.
    pub sequence: u16,
    /// How often the sequence number has wrapped, in a call that goes on.
    #[serde(default)]
    pub roll_over: u32,
    /// Of a call that goes on: what encryption has to know of it.
    #[serde(default)]
    pub progress: Progress,
    /// First timestamp; random.
    pub timestamp: u32,
    /// Names us in RTCP; random as well (RFC 7022), at most 255 bytes.
    pub cname: String,
    /// Whether the far end has agreed to be sent to, by an ACK. Before it only who has sent something gets anything: an
    /// INVITE with an address of somebody else must not aim our audio at them.
    pub confirmed: bool,
    /// After how long without RTP, RTCP and [`Session::update`] [`Event::Silence`] is told, each time; zero for never.
    pub silence: Duration,
}

const fn eight_thousand() -> u32 {
    8000
}

const fn twenty() -> u16 {
    20
}

impl SessionParameters {
    /// The plainest session with a far end, both ways, RTCP on the port after RTP's.
    #[must_use]
    pub fn new(codec: Codec, remote: SocketAddr) -> Self {
        Self {
            codec,
            payload_type: codec.static_payload_type().unwrap_or(111),
            receive: Vec::new(),
            telephone_event: Some(101),
            event_clock: eight_thousand(),
            inband_keys: false,
            ptime: twenty(),
            max_bitrate: None,
            keys: None,
            remote_rtp: remote,
            remote_rtcp: SocketAddr::new(remote.ip(), remote.port().saturating_add(1)),
            rtcp_mux: false,
            send: true,
            ssrc: 1,
            sequence: 0,
            roll_over: 0,
            progress: Progress::default(),
            timestamp: 0,
            cname: "callbox".into(),
            confirmed: true,
            silence: Duration::ZERO,
        }
    }

    /// What a payload type of the far end means.
    pub(super) fn format(&self, payload_type: u8) -> Option<Format> {
        let agreed = self.receive.iter().find(|(number, _)| *number == payload_type).map(|(_, format)| *format);
        let ours = || match payload_type {
            _ if !self.receive.is_empty() => None,
            _ if payload_type == self.payload_type => Some(Format::Audio(self.codec)),
            _ if Some(payload_type) == self.telephone_event => Some(Format::Keys(self.event_clock)),
            _ => None,
        };
        let always = || match payload_type {
            COMFORT_NOISE => Some(Format::Noise),
            _ => Codec::always(payload_type).map(Format::Audio),
        };
        agreed.or_else(ours).or_else(always)
    }

    /// All codecs that the far end may send.
    pub(super) fn codecs(&self) -> impl Iterator<Item = Codec> {
        let agreed = self.receive.iter().filter_map(|(_, format)| match format {
            Format::Audio(codec) => Some(*codec),
            _ => None,
        });
        agreed.chain([self.codec])
    }
}

/// A change of what was agreed on, with all that had to be allocated for it.
pub struct Change {
    parameters: SessionParameters,
    encoder: Encoder,
    opus: Option<Box<OpusDecoder>>,
    inband: Option<Box<Inband>>,
    sealer: Option<Sealer>,
    opener: Option<Box<Opener>>,
}

impl Change {
    /// Allocates.
    #[must_use]
    pub fn new(parameters: SessionParameters) -> Self {
        let keys = parameters.keys.as_ref();
        Self {
            encoder: Encoder::new(parameters.codec, parameters.ptime, parameters.max_bitrate),
            opus: OpusDecoder::among(parameters.codecs()),
            inband: parameters.inband_keys.then(Box::default),
            sealer: keys.map(|keys| Sealer::new(&keys.send)),
            opener: keys.map(|keys| Box::new(Opener::new(&keys.receive, parameters.progress))),
            parameters,
        }
    }
}

impl From<SessionParameters> for Change {
    fn from(parameters: SessionParameters) -> Self {
        Self::new(parameters)
    }
}

/// The call's ends of a session's rings.
pub struct Ends {
    /// Frames to send.
    pub play: PlayQueue,
    /// Frames received.
    pub frames: Heard,
    /// What has happened.
    pub events: Consumer<Event>,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where to.
    pub to: SocketAddr,
}

/// How a call is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SessionStats {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received and believed.
    pub received: u64,
    /// Datagrams that were malformed, of an unknown type, or from a stranger.
    pub rejected: u64,
    /// Interarrival jitter of the current stream (RFC 3550), milliseconds.
    pub jitter_ms: f32,
    /// The jitter buffer's counters: lost, late, concealed and more.
    pub buffer: JitterStats,
    /// To the far end and back, from its RTCP.
    pub round_trip: Option<Duration>,
    /// What of ours the far end lost lately, 0 to 1, from its RTCP.
    pub far_loss: Option<f32>,
    /// Keys pressed.
    pub keys: u64,
    /// Frames that were our own voice.
    pub echoes: u64,
    /// Time since the last believed RTP packet.
    pub last_packet_age: Option<Duration>,
    /// Received frames that found the ring to the call's task full.
    pub frames_dropped: u64,
    /// Events that found theirs full.
    pub events_dropped: u64,
    /// Sequence number and timestamp of the next packet, and when it was due to be sent.
    pub next: Option<(u16, u32, Instant)>,
    /// How often the sequence number has wrapped.
    pub roll_over: u32,
    /// What encryption would have to know elsewhere.
    pub progress: Progress,
    /// Where packets go: what the far end's own packets have shown, or its SDP.
    pub target: Option<SocketAddr>,
}

struct Stream {
    ssrc: u32,
    sequence: Sequence,
    reception: Reception,
}

/// The state of one call's media.
pub struct Session {
    parameters: SessionParameters,
    opened: (Instant, SystemTime),
    latch: Latch,
    rtcp_latch: Latch,
    stream: Option<Stream>,
    /// Another source identifier and the sequence number that would confirm it.
    candidate: Option<(u32, u16)>,
    opener: Option<Box<Opener>>,
    /// The one before: if its key is back, so are its numbers.
    former: Option<Box<Opener>>,
    inbound: Inbound,
    dtmf: dtmf::Receiver,
    /// Looks for keys in the audio, if that was asked for.
    inband: Option<Box<Inband>>,
    /// The far end sends telephone events.
    knows_events: bool,
    playout: Playout,
    outbound: Outbound,
    echo: EchoWatch,
    frames: HeardIn,
    events: Producer<Event>,
    tap: Option<Producer<TapFrame>>,
    index: u64,
    ticked: Instant,
    heard: Option<Instant>,
    /// When RTP or RTCP came last: who suppresses silence still sends reports.
    alive: Instant,
    silences: u32,
    next_report: Instant,
    dice: u32,
    stats: SessionStats,
}

impl Session {
    /// A call begins. `wall` is what the calendar shows at `now`, for RTCP.
    #[must_use]
    pub fn new(change: impl Into<Change>, now: Instant, wall: SystemTime) -> (Self, Ends) {
        let Change { parameters, encoder, opus, inband, sealer, opener } = change.into();
        let (play, playout) = Playout::new();
        let (frames_in, frames) = heard();
        let (events_in, events) = RingBuffer::new(EVENTS);
        let session = Self {
            opened: (now, wall),
            latch: Latch::new(parameters.remote_rtp),
            rtcp_latch: Latch::new(parameters.remote_rtcp),
            stream: None,
            candidate: None,
            opener,
            former: None,
            inbound: Inbound::new(opus),
            dtmf: dtmf::Receiver::default(),
            inband,
            knows_events: false,
            playout,
            outbound: Outbound::new(&parameters, encoder, sealer),
            echo: EchoWatch::new(),
            frames: frames_in,
            events: events_in,
            tap: None,
            index: 0,
            ticked: now,
            heard: None,
            alive: now,
            silences: 0,
            next_report: now + REPORT_INTERVAL / 2,
            dice: parameters.ssrc | 1,
            stats: SessionStats::default(),
            parameters,
        };
        (session, Ends { play, frames, events })
    }

    /// A re-INVITE has changed what was agreed on. What stays as it was goes on without a break.
    pub fn update(&mut self, change: impl Into<Change>) {
        let Change { mut parameters, encoder, opus, inband, sealer, mut opener } = change.into();
        parameters.ssrc = self.parameters.ssrc;
        std::mem::swap(&mut parameters.cname, &mut self.parameters.cname);
        // Whoever is back from a long hold has been silent for long, and is there.
        (self.alive, self.silences) = (self.ticked, 0);
        self.latch.update(parameters.remote_rtp);
        self.rtcp_latch.update(parameters.remote_rtcp);
        if !self.outbound.encoder.is(&encoder) {
            self.outbound.encoder = encoder;
        }
        self.inbound.learn(opus);
        self.inband = inband.map(|inband| self.inband.take().unwrap_or(inband));
        self.outbound.seal_with(sealer);
        let keys = parameters.keys.as_ref();
        let same = |opener: &Opener| keys.is_some_and(|keys| opener.is(&keys.receive));
        if !self.opener.as_deref().is_some_and(same) {
            opener = self.former.take_if(|former| same(former)).or(opener);
            let before = self.opener.take().or_else(|| self.former.take());
            if let (Some(opener), Some(before)) = (&mut opener, &before) {
                opener.follow(before);
            }
            (self.opener, self.former) = (opener, before);
        }
        self.parameters = parameters;
    }

    /// Presses keys at the far end, one after the other; audio waits meanwhile. [`Event::Pressed`] follows.
    pub fn press(&mut self, keys: Keys) {
        self.outbound.press(keys);
    }

    /// The far end of a call that goes on was here when it was heard last.
    pub fn expect(&mut self, now: Instant, source: SocketAddr) {
        self.latch.expect(now, source);
    }

    /// Copies every frame of both directions from now on. A full ring drops frames.
    pub fn set_tap(&mut self, tap: Producer<TapFrame>) {
        self.tap = Some(tap);
    }

    /// Takes a datagram from the RTP port.
    pub fn handle_packet(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) {
        if self.parameters.rtcp_mux && rtp::is_rtcp(datagram) {
            return self.handle_rtcp(now, datagram, source);
        }
        let mut sealed = [0; DATAGRAM];
        let plain = match &mut self.opener {
            None => Some(datagram),
            Some(opener) => copy(datagram, &mut sealed).and_then(|packet| opener.open(packet).ok()),
        };
        if plain.and_then(|plain| self.accept(now, plain, source)).is_none() {
            self.stats.rejected += 1;
        }
    }

    /// Takes a datagram from the RTCP port.
    pub fn handle_rtcp(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) {
        let mut sealed = [0; DATAGRAM];
        let plain = match &mut self.opener {
            None => Some(datagram),
            Some(opener) => copy(datagram, &mut sealed).and_then(|packet| opener.open_rtcp(packet).ok()),
        };
        let latch = if self.parameters.rtcp_mux { &mut self.latch } else { &mut self.rtcp_latch };
        // Nothing is learned from a datagram that does not parse as a whole, and nothing from a stranger.
        let plain = plain.filter(|plain| rtcp::parse(plain, |_| {}).is_ok() && latch.accept(now, source));
        let Some(datagram) = plain else {
            self.stats.rejected += 1;
            return;
        };
        (self.alive, self.silences) = (now, 0);
        let clock = (self.ntp(now) >> 16) as u32;
        let (ours, stats, stream) = (self.parameters.ssrc, &mut self.stats, &mut self.stream);
        let read = rtcp::parse(datagram, |fact| match fact {
            Fact::Reception(block) if block.ssrc == ours => {
                stats.far_loss = Some(f32::from(block.fraction_lost) / 256.0);
                stats.round_trip = block.round_trip(clock).or(stats.round_trip);
            }
            Fact::Sender { ssrc, ntp_middle } => {
                if let Some(stream) = stream.as_mut().filter(|stream| stream.ssrc == ssrc) {
                    stream.reception.sender_report(now, ntp_middle);
                }
            }
            // Signalling ends calls, not RTCP, which anybody can forge.
            Fact::Goodbye { .. } | Fact::Reception(_) => {}
        });
        debug_assert!(read.is_ok());
    }

    /// 20 ms have passed: one frame goes to the call's task, and `send` takes the packets that are due now, none to
    /// three. Call it once for each 20 ms, evenly.
    pub fn tick(&mut self, now: Instant, mut send: impl FnMut(Outgoing<'_>)) {
        if let Some(key) = self.dtmf.tick(now) {
            self.key(key);
        }
        self.tell_silence(now);
        self.hear(now);
        let wanted = self.parameters.send && (self.parameters.confirmed || self.heard.is_some());
        let to = self.latch.target().filter(|_| wanted);
        let (events, dropped) = (&mut self.events, &mut self.stats.events_dropped);
        let may_play = to.is_some() && !self.outbound.presses();
        let samples = self.playout.next(may_play, |event| *dropped += u64::from(events.push(event).is_err()));
        let mut samples = samples.unwrap_or([0; FRAME]);
        self.ticked = now;
        match to {
            Some(to) => {
                let send = |bytes: &[u8]| send(Outgoing { bytes, to });
                if self.outbound.tick(&self.parameters, &mut samples, send) {
                    self.tell(Event::Pressed);
                }
            }
            None => self.outbound.pause(&self.parameters),
        }
        self.echo.sent(&samples);
        self.tap(Direction::Sent, samples);
        self.index += 1;
    }

    /// So many ticks did not happen, because the machine stood still. Time goes on without them.
    pub fn skip(&mut self, ticks: u32) {
        self.index += u64::from(ticks);
        self.outbound.skip(&self.parameters, ticks);
    }

    /// `send` takes the RTCP report, when it is due.
    pub fn report(&mut self, now: Instant, send: impl FnOnce(Outgoing<'_>)) {
        if now < self.next_report {
            return;
        }
        // Between half and one and a half of the interval, so that calls that began together do not report together.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.next_report = now + REPORT_INTERVAL.mul_f64(0.5 + f64::from(self.dice) / f64::from(u32::MAX));
        self.write_report(now, false, send);
    }

    /// `send` takes the last report.
    pub fn goodbye(&mut self, now: Instant, send: impl FnOnce(Outgoing<'_>)) {
        self.write_report(now, true, send);
    }

    /// RTCP goes out of the RTP port.
    #[must_use]
    pub fn rtcp_mux(&self) -> bool {
        self.parameters.rtcp_mux
    }

    /// How the call is doing.
    #[must_use]
    pub fn stats(&self, now: Instant) -> SessionStats {
        let reception = self.stream.as_ref().map(|stream| stream.reception);
        let [heard, reported] = self.opener.as_deref().map_or([None; 2], Opener::progress);
        let (sealed, rtcp) = (self.outbound.sealed, self.outbound.reports);
        SessionStats {
            sent: self.outbound.sent,
            jitter_ms: reception.map_or(0.0, |reception| reception.jitter_ms()),
            buffer: self.inbound.stats(),
            next: Some((self.outbound.index as u16, self.outbound.timestamp, self.ticked + FRAME_TIME)),
            roll_over: (self.outbound.index >> 16) as u32,
            progress: Progress { heard, sealed, rtcp, reported },
            target: self.latch.target(),
            last_packet_age: self.heard.map(|heard| now.saturating_duration_since(heard)),
            ..self.stats
        }
    }

    /// None: the datagram is rejected.
    fn accept(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) -> Option<()> {
        let packet = Packet::parse(datagram).ok()?;
        let format = self.parameters.format(packet.payload_type)?;
        if !self.latch.accept(now, source) {
            return None;
        }
        self.stats.received += 1;
        self.heard = Some(now);
        (self.alive, self.silences) = (now, 0);
        let Some(sequence) = self.place(now, &packet, format) else { return Some(()) };
        match format {
            Format::Audio(codec) => self.inbound.insert(now, sequence, packet.timestamp, codec, packet.payload),
            Format::Noise => self.inbound.pause(now, sequence, packet.payload),
            Format::Keys(clock) => {
                self.inbound.mark(sequence);
                self.knows_events = true;
                if let Some(key) = self.dtmf.handle(now, clock, packet.timestamp, packet.payload) {
                    self.key(key);
                }
            }
        }
        Some(())
    }

    /// The extended sequence number of a packet that belongs to the stream.
    fn place(&mut self, now: Instant, packet: &Packet<'_>, format: Format) -> Option<u64> {
        let Packet { ssrc, sequence, timestamp, .. } = *packet;
        let followed = self.stream.as_ref().is_none_or(|stream| stream.ssrc == ssrc);
        // One packet with another source identifier may be stray; two in a row are another sender.
        if !followed && self.candidate != Some((ssrc, sequence)) {
            self.candidate = Some((ssrc, sequence.wrapping_add(1)));
            return None;
        }
        self.candidate = None;
        if !followed {
            self.inbound.reset();
            self.dtmf = dtmf::Receiver::default();
            self.stream = None;
        }
        let stream = self.stream.get_or_insert_with(|| Stream {
            ssrc,
            sequence: Sequence::new(sequence),
            reception: Reception::new(ssrc),
        });
        let extended = match stream.sequence.observe(sequence) {
            Arrived::Discarded => return None,
            Arrived::InOrder(extended) => extended,
            Arrived::Restarted(extended) => {
                stream.reception = Reception::new(ssrc);
                self.inbound.reset();
                self.dtmf = dtmf::Receiver::default();
                extended
            }
        };
        let clock = match format {
            Format::Audio(codec) => codec.clock(),
            Format::Keys(clock) => clock,
            Format::Noise => 8000,
        };
        stream.reception.packet(extended, clock, timestamp, now.saturating_duration_since(self.opened.0));
        Some(extended)
    }

    fn hear(&mut self, now: Instant) {
        let (samples, concealed) = self.inbound.frame(now);
        if !self.knows_events
            && let Some(inband) = &mut self.inband
            && let Some(key) = inband.heard(&samples)
        {
            self.key(key);
        }
        let echo = self.echo.heard(&samples);
        self.stats.echoes += u64::from(echo);
        let frame = Frame { timestamp: self.index * FRAME as u64, concealed, echo, samples };
        self.tap(Direction::Received, samples);
        self.stats.frames_dropped += u64::from(!self.frames.push(&frame));
    }

    fn tap(&mut self, direction: Direction, samples: Samples) {
        if let Some(tap) = &mut self.tap {
            // A recorder that does not keep up has a gap, which the index shows.
            tap.push(TapFrame { direction, index: self.index, samples }).unwrap_or_default();
        }
    }

    fn key(&mut self, key: Key) {
        self.stats.keys += 1;
        self.tell(Event::Dtmf { digit: Pii::new(key.digit), duration: key.duration });
    }

    fn tell_silence(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.alive);
        let limit = self.parameters.silence.saturating_mul(self.silences + 1);
        if since >= limit && !limit.is_zero() {
            self.silences += 1;
            self.tell(Event::Silence { since });
        }
    }

    fn tell(&mut self, event: Event) {
        self.stats.events_dropped += u64::from(self.events.push(event).is_err());
    }

    fn write_report(&mut self, now: Instant, goodbye: bool, send: impl FnOnce(Outgoing<'_>)) {
        let (latch, proven) = match self.parameters.rtcp_mux {
            true => (&self.latch, self.heard.is_some()),
            false => (&self.rtcp_latch, self.rtcp_latch.is_proven()),
        };
        let Some(to) = latch.target().filter(|_| self.parameters.confirmed || proven) else { return };
        let clock = u128::from(self.parameters.codec.clock());
        let since = (now.saturating_duration_since(self.ticked).as_micros() * clock / 1_000_000) as u32;
        let sent = (self.outbound.sent > 0).then(|| Sent {
            ntp: self.ntp(now),
            timestamp: self.outbound.timestamp.wrapping_add(since),
            packets: self.outbound.sent as u32,
            octets: self.outbound.octets,
        });
        let block = self.stream.as_mut().map(|stream| stream.reception.report(now));
        let (ssrc, cname) = (self.parameters.ssrc, &self.parameters.cname);
        let mut report = [0; MAX_REPORT + OVERHEAD];
        let length = match report.first_chunk_mut() {
            Some(report) => rtcp::write(report, ssrc, sent, block, cname, goodbye),
            None => 0,
        };
        let length = self.outbound.seal_report(&mut report, length);
        send(Outgoing { bytes: &report[..length], to });
    }

    fn ntp(&self, now: Instant) -> u64 {
        rtcp::ntp(self.opened.1 + now.saturating_duration_since(self.opened.0))
    }
}

/// None for a datagram that is longer than any of ours.
fn copy<'a>(datagram: &[u8], room: &'a mut [u8; DATAGRAM]) -> Option<&'a mut [u8]> {
    let room = room.get_mut(..datagram.len())?;
    room.copy_from_slice(datagram);
    Some(room)
}

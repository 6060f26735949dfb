//! One call's media, without sockets or clock: packets and ticks enter; frames and events for the call's task, and
//! packets to send leave. Joins latch, sequence, jitter buffer, decoder, concealment, DTMF, play-out and RTCP. After
//! [`Session::new`] nothing is allocated.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rtrb::{Consumer, Producer, RingBuffer};
use serde::{Deserialize, Serialize};

use super::conceal::Concealer;
use super::dtmf::{self, Key};
use super::jitter::{JitterBuffer, JitterStats, MAX_PACKET, Run};
use super::latch::{Latch, LatchRule};
use super::playout::{PlayQueue, Playout};
use super::rtcp::{self, Fact, MAX_REPORT, Reception, Sent};
use super::rtp::{self, Arrived, HEADER, Packet, Sequence};
use super::{Codec, Direction, Event, FRAME, FRAME_TIME, Frame, Samples, TapFrame};
use crate::base::Pii;

/// Received frames that wait for the call's task: 1 s. Then new ones are dropped and counted.
const FRAMES: usize = 50;
/// Events that wait.
const EVENTS: usize = 64;
/// Comfort noise (RFC 3389), which senders may use unasked for 8 kHz codecs.
const COMFORT_NOISE: u8 = 13;
/// Mean time between RTCP reports (RFC 3550 §6.2).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// What signalling has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionParameters {
    /// What we send. G.711 of either law is understood whatever was agreed on, under its static payload type.
    pub codec: Codec,
    /// The payload type of `codec`.
    pub payload_type: u8,
    /// The payload type of telephone events, at 8 kHz.
    pub telephone_event: Option<u8>,
    /// From the far end's SDP.
    pub remote_rtp: SocketAddr,
    /// From the far end's SDP, or the port after `remote_rtp`.
    pub remote_rtcp: SocketAddr,
    /// RTCP shares the RTP port (RFC 5761).
    pub rtcp_mux: bool,
    /// The direction allows us to send. While it does not, queued frames wait.
    pub send: bool,
    /// Whose packets are believed.
    pub latch: LatchRule,
    /// Names our stream; random. Ignored by [`Session::update`], like the two below: our stream goes on.
    pub ssrc: u32,
    /// First sequence number; random.
    pub sequence: u16,
    /// First timestamp; random.
    pub timestamp: u32,
    /// Names us in RTCP; random as well (RFC 7022), at most 255 bytes.
    pub cname: String,
    /// After how long without RTP and RTCP [`Event::Silence`] is told, each time; zero for never.
    pub silence: Duration,
}

/// The call's ends of a session's rings.
pub struct Ends {
    /// Frames to send.
    pub play: PlayQueue,
    /// Frames received.
    pub frames: Consumer<Frame>,
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
    /// Time since the last believed RTP packet.
    pub last_packet_age: Option<Duration>,
    /// Received frames that found the ring to the call's task full.
    pub frames_dropped: u64,
    /// Events that found theirs full.
    pub events_dropped: u64,
    /// Sequence number and timestamp of the next packet, and when it was due to be sent.
    pub next: Option<(u16, u32, Instant)>,
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
    jitter: JitterBuffer,
    concealer: Concealer,
    dtmf: dtmf::Receiver,
    playout: Playout,
    frames: Producer<Frame>,
    events: Producer<Event>,
    tap: Option<Producer<TapFrame>>,
    index: u64,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    ticked: Instant,
    octets: u32,
    heard: Option<Instant>,
    /// When RTP or RTCP came last: who suppresses silence still sends reports.
    alive: Instant,
    silences: u32,
    next_report: Instant,
    dice: u32,
    stats: SessionStats,
    packet: [u8; HEADER + FRAME],
    report: [u8; MAX_REPORT],
}

impl Session {
    /// A call begins. `wall` is what the calendar shows at `now`, for RTCP.
    #[must_use]
    pub fn new(parameters: SessionParameters, now: Instant, wall: SystemTime) -> (Self, Ends) {
        let (play, playout) = Playout::new();
        let (frames_in, frames) = RingBuffer::new(FRAMES);
        let (events_in, events) = RingBuffer::new(EVENTS);
        let session = Self {
            opened: (now, wall),
            latch: Latch::new(parameters.latch, parameters.remote_rtp),
            rtcp_latch: Latch::new(parameters.latch, parameters.remote_rtcp),
            stream: None,
            candidate: None,
            jitter: JitterBuffer::new(now),
            concealer: Concealer::default(),
            dtmf: dtmf::Receiver::default(),
            playout,
            frames: frames_in,
            events: events_in,
            tap: None,
            index: 0,
            sequence: parameters.sequence,
            timestamp: parameters.timestamp,
            marker: true,
            ticked: now,
            octets: 0,
            heard: None,
            alive: now,
            silences: 0,
            next_report: now + REPORT_INTERVAL / 2,
            dice: parameters.ssrc | 1,
            stats: SessionStats::default(),
            packet: [0; HEADER + FRAME],
            report: [0; MAX_REPORT],
            parameters,
        };
        (session, Ends { play, frames, events })
    }

    /// A re-INVITE has changed what was agreed on.
    pub fn update(&mut self, parameters: SessionParameters) {
        self.latch.update(parameters.latch, parameters.remote_rtp);
        self.rtcp_latch.update(parameters.latch, parameters.remote_rtcp);
        self.parameters = parameters;
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
        if self.accept(now, datagram, source).is_none() {
            self.stats.rejected += 1;
        }
    }

    /// Takes a datagram from the RTCP port.
    pub fn handle_rtcp(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) {
        let latch = if self.parameters.rtcp_mux { &mut self.latch } else { &mut self.rtcp_latch };
        // Nothing is learned from a datagram that does not parse as a whole, and nothing from a stranger.
        if rtcp::parse(datagram, |_| {}).is_err() || !latch.accept(now, source) {
            self.stats.rejected += 1;
            return;
        }
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

    /// 20 ms have passed: one frame goes to the call's task, and the packet returned is due now. Call it once for each
    /// 20 ms, evenly.
    pub fn tick(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        if let Some(key) = self.dtmf.tick(now) {
            self.key(key);
        }
        self.tell_silence(now);
        self.hear(now);
        let to = self.latch.target().filter(|_| self.parameters.send);
        let (events, dropped) = (&mut self.events, &mut self.stats.events_dropped);
        let samples = self.playout.next(to.is_some(), |event| *dropped += u64::from(events.push(event).is_err()));
        let samples = samples.unwrap_or([0; FRAME]);
        self.tap(Direction::Sent, samples);
        let timestamp = self.timestamp;
        self.index += 1;
        self.timestamp = timestamp.wrapping_add(FRAME as u32);
        self.ticked = now;
        let Some(to) = to else {
            self.marker = true;
            return None;
        };
        let header = Packet {
            marker: std::mem::take(&mut self.marker),
            payload_type: self.parameters.payload_type,
            sequence: self.sequence,
            timestamp,
            ssrc: self.parameters.ssrc,
            payload: &[],
        };
        self.sequence = self.sequence.wrapping_add(1);
        let (head, payload) = self.packet.split_at_mut(HEADER);
        head.copy_from_slice(&header.header());
        self.parameters.codec.encode(&samples, payload);
        self.stats.sent += 1;
        self.octets = self.octets.wrapping_add(FRAME as u32);
        Some(Outgoing { bytes: &self.packet, to })
    }

    /// So many ticks did not happen, because the machine stood still. Time goes on without them.
    pub fn skip(&mut self, ticks: u32) {
        self.index += u64::from(ticks);
        self.timestamp = self.timestamp.wrapping_add(ticks.wrapping_mul(FRAME as u32));
    }

    /// The RTCP report, when it is due.
    pub fn report(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        if now < self.next_report {
            return None;
        }
        // Between half and one and a half of the interval, so that calls that began together do not report together.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.next_report = now + REPORT_INTERVAL.mul_f64(0.5 + f64::from(self.dice) / f64::from(u32::MAX));
        self.write_report(now, false)
    }

    /// The last report.
    pub fn goodbye(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        self.write_report(now, true)
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
        SessionStats {
            jitter_ms: reception.map_or(0.0, |reception| reception.jitter() as f32 / 8.0),
            buffer: self.jitter.stats(),
            next: Some((self.sequence, self.timestamp, self.ticked + FRAME_TIME)),
            target: self.latch.target(),
            last_packet_age: self.heard.map(|heard| now.saturating_duration_since(heard)),
            ..self.stats
        }
    }

    /// None: the datagram is rejected.
    fn accept(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) -> Option<()> {
        let packet = Packet::parse(datagram).ok()?;
        let parameters = &self.parameters;
        let codec = (packet.payload_type == parameters.payload_type)
            .then_some(parameters.codec)
            .or_else(|| Codec::of_payload_type(packet.payload_type));
        let is_event = Some(packet.payload_type) == parameters.telephone_event;
        if !(is_event || codec.is_some() || packet.payload_type == COMFORT_NOISE) || !self.latch.accept(now, source) {
            return None;
        }
        self.stats.received += 1;
        self.heard = Some(now);
        (self.alive, self.silences) = (now, 0);
        let Some(sequence) = self.place(now, &packet) else { return Some(()) };
        match codec.filter(|_| !is_event) {
            Some(codec) => {
                let mut samples = [0; MAX_PACKET];
                let length = packet.payload.len().min(MAX_PACKET);
                codec.decode(packet.payload, &mut samples);
                self.jitter.insert(now, sequence, packet.timestamp, &samples[..length]);
            }
            None => {
                self.jitter.mark(sequence);
                if let Some(key) = is_event.then(|| self.dtmf.handle(now, packet.timestamp, packet.payload)).flatten() {
                    self.key(key);
                }
            }
        }
        Some(())
    }

    /// The extended sequence number of a packet that belongs to the stream.
    fn place(&mut self, now: Instant, packet: &Packet<'_>) -> Option<u64> {
        let Packet { ssrc, sequence, timestamp, .. } = *packet;
        let followed = self.stream.as_ref().is_none_or(|stream| stream.ssrc == ssrc);
        // One packet with another source identifier may be stray; two in a row are another sender.
        if !followed && self.candidate != Some((ssrc, sequence)) {
            self.candidate = Some((ssrc, sequence.wrapping_add(1)));
            return None;
        }
        self.candidate = None;
        if !followed {
            self.jitter.reset();
            self.dtmf = dtmf::Receiver::default();
            self.stream = None;
        }
        let arrival = (now.saturating_duration_since(self.opened.0).as_micros() * 8 / 1000) as u32;
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
                self.jitter.reset();
                self.dtmf = dtmf::Receiver::default();
                extended
            }
        };
        stream.reception.packet(extended, timestamp, arrival);
        Some(extended)
    }

    fn hear(&mut self, now: Instant) {
        let mut frame = Frame { timestamp: self.index * FRAME as u64, concealed: false, samples: [0; FRAME] };
        let (concealer, mut rest) = (&mut self.concealer, &mut frame.samples[..]);
        self.jitter.pull(now, |run| {
            let length = match run {
                Run::Heard(samples) => samples.len(),
                Run::Lost(length) | Run::Quiet(length) => length,
            };
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            match run {
                Run::Heard(samples) => {
                    part.copy_from_slice(samples);
                    concealer.heard(part);
                }
                Run::Lost(_) => {
                    frame.concealed = true;
                    concealer.lost(part);
                }
                Run::Quiet(_) => concealer.quiet(part),
            }
        });
        self.tap(Direction::Received, frame.samples);
        self.stats.frames_dropped += u64::from(self.frames.push(frame).is_err());
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

    fn write_report(&mut self, now: Instant, goodbye: bool) -> Option<Outgoing<'_>> {
        let latch = if self.parameters.rtcp_mux { &self.latch } else { &self.rtcp_latch };
        let to = latch.target()?;
        let since = (now.saturating_duration_since(self.ticked).as_micros() * 8 / 1000) as u32;
        let sent = (self.stats.sent > 0).then(|| Sent {
            ntp: self.ntp(now),
            timestamp: self.timestamp.wrapping_add(since),
            packets: self.stats.sent as u32,
            octets: self.octets,
        });
        let block = self.stream.as_mut().map(|stream| stream.reception.report(now));
        let length = rtcp::write(&mut self.report, self.parameters.ssrc, sent, block, &self.parameters.cname, goodbye);
        Some(Outgoing { bytes: &self.report[..length], to })
    }

    fn ntp(&self, now: Instant) -> u64 {
        rtcp::ntp(self.opened.1 + now.saturating_duration_since(self.opened.0))
    }
}

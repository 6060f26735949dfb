//! The audio of a call whose signalling another program does: G.711 µ-law in RTP (RFC 3550, RFC 3551), 20 ms a packet.
//! Enters: packets and samples to say; leaves: what was heard, and when. Never here: the product's own codec or RTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};

const FRAME: usize = 160;

/// RMS of a frame from which it counts as voiced, about −46 dBFS.
const VOICED: f64 = 160.0;

/// One end of an audio stream.
pub struct Rtp {
    socket: UdpSocket,
    peer: Option<SocketAddr>,
    sequence: u16,
    timestamp: u32,
    /// Audio still to be said; silence after it.
    saying: Vec<i16>,
    said: usize,
    said_from: Option<Instant>,
    /// A key that is being pressed, and packets of it that are left.
    pressing: Option<(u8, u16)>,
    track: Track,
    ticks: tokio::time::Interval,
}

/// What was heard: samples in the order of arrival, each frame with its time.
#[derive(Default)]
pub struct Track {
    frames: Vec<(Instant, Vec<i16>)>,
    heard: Vec<Heard>,
}

/// The head of a packet, and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// From where.
    pub from: SocketAddr,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp, 8 kHz.
    pub timestamp: u32,
    /// Source identifier.
    pub ssrc: u32,
}

impl Rtp {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// If there is none.
    pub async fn bind() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Ok(Self {
            socket,
            peer: None,
            sequence: 1,
            timestamp: 0,
            saying: Vec::new(),
            said: 0,
            said_from: None,
            pressing: None,
            track: Track::default(),
            ticks,
        })
    }

    /// The port to put into the SDP.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn port(&self) -> anyhow::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// What was heard so far.
    pub fn track(&self) -> &Track {
        &self.track
    }

    /// Says something, from the next packet on.
    pub fn say(&mut self, samples: Vec<i16>) {
        (self.saying, self.said, self.said_from) = (samples, 0, None);
    }

    /// Presses a key, 0 to 9, for 100 ms from the next packet on (RFC 4733, payload type 101).
    pub fn press(&mut self, digit: u8) {
        self.pressing = Some((digit, 8));
    }

    /// When the first packet of it was sent.
    pub fn said_from(&self) -> Option<Instant> {
        self.said_from
    }

    /// Whether all of it has been sent.
    pub fn has_said_it(&self) -> bool {
        self.said >= self.saying.len()
    }

    /// Sends and listens until `enough` says so; false if `limit` came first. The peer is whoever sent the first packet.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn run(&mut self, limit: Duration, mut enough: impl FnMut(&Self) -> bool) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (len, from) = received?;
                    self.hear(&buffer[..len], from);
                }
                _ = self.ticks.tick() => {
                    self.send().await?;
                    if enough(self) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Runs until the other side has said something and then been silent for `pause`; false if `limit` came first.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn listen(&mut self, pause: Duration, limit: Duration) -> anyhow::Result<bool> {
        let from = Instant::now();
        let quiet = |rtp: &Self| rtp.track.last_voiced(from).is_some_and(|last| last.elapsed() > pause);
        self.run(limit, quiet).await
    }

    fn hear(&mut self, packet: &[u8], from: SocketAddr) {
        let Some((header, payload)) = packet.split_at_checked(12) else { return };
        // Version 2, payload type 0; neither padding, extension nor CSRC is expected from Callbox.
        if header[0] == 0x80 && header[1] & 0x7f == 0 {
            self.peer.get_or_insert(from);
            let [.., s0, s1, t0, t1, t2, t3, a, b, c, d] = *header else { return };
            self.track.heard.push(Heard {
                at: Instant::now(),
                from,
                sequence: u16::from_be_bytes([s0, s1]),
                timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
                ssrc: u32::from_be_bytes([a, b, c, d]),
            });
            self.track.frames.push((Instant::now(), payload.iter().map(|byte| decode(*byte)).collect()));
        }
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        let Some(peer) = self.peer else { return Ok(()) };
        if let Some((digit, left)) = self.pressing.take() {
            return self.send_event(peer, digit, left).await;
        }
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&self.timestamp.to_be_bytes());
        packet.extend_from_slice(&0x00c0_ffee_u32.to_be_bytes());
        let rest = self.saying.get(self.said..).unwrap_or_default();
        packet.extend((0..FRAME).map(|at| encode(rest.get(at).copied().unwrap_or(0))));
        (self.sequence, self.timestamp) = (self.sequence.wrapping_add(1), self.timestamp.wrapping_add(160));
        self.said += FRAME;
        self.said_from.get_or_insert_with(Instant::now);
        self.socket.send_to(&packet, peer).await?;
        Ok(())
    }

    /// Five packets of a key that is held, and its end three times; all with the timestamp of its beginning.
    async fn send_event(&mut self, peer: SocketAddr, digit: u8, left: u16) -> anyhow::Result<()> {
        let mut packet = vec![0x80, 101];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&self.timestamp.to_be_bytes());
        packet.extend_from_slice(&0x00c0_ffee_u32.to_be_bytes());
        let held = (9 - left.max(4)) * 160;
        packet.extend_from_slice(&[digit, if left <= 3 { 0x8a } else { 0x0a }]);
        packet.extend_from_slice(&held.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        if left > 1 {
            self.pressing = Some((digit, left - 1));
        } else {
            self.timestamp = self.timestamp.wrapping_add(8 * 160);
        }
        self.socket.send_to(&packet, peer).await?;
        Ok(())
    }
}

impl Track {
    /// All samples that arrived at or after `from`.
    pub fn samples(&self, from: Instant) -> Vec<i16> {
        self.frames.iter().filter(|(at, _)| *at >= from).flat_map(|(_, frame)| frame.iter().copied()).collect()
    }

    /// The heads of all packets.
    pub fn heard(&self) -> &[Heard] {
        &self.heard
    }

    /// The first two packets after `from` that do not follow each other.
    pub fn jump(&self, from: Instant) -> Option<(Heard, Heard)> {
        let mut pairs = self.heard.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
        pairs.find(|(before, after)| after.at >= from && after.sequence != before.sequence.wrapping_add(1))
    }

    /// Number of packets.
    pub fn packets(&self) -> usize {
        self.frames.len()
    }

    /// Arrival of the first voiced frame at or after `from`.
    pub fn first_voiced(&self, from: Instant) -> Option<Instant> {
        self.voiced(from).next()
    }

    /// Arrival of the last voiced frame at or after `from`.
    pub fn last_voiced(&self, from: Instant) -> Option<Instant> {
        self.voiced(from).last()
    }

    /// The longest time without a voiced frame between the beginning of `span` and the last of them in it; none if there is
    /// none.
    pub fn longest_silence(&self, span: Range<Instant>) -> Option<Duration> {
        let voiced = || self.voiced(span.start).filter(|at| *at < span.end);
        std::iter::once(span.start).chain(voiced()).zip(voiced()).map(|(before, after)| after - before).max()
    }

    fn voiced(&self, from: Instant) -> impl Iterator<Item = Instant> {
        self.frames.iter().filter(move |(at, frame)| *at >= from && rms(frame) > VOICED).map(|(at, _)| *at)
    }
}

fn rms(frame: &[i16]) -> f64 {
    let sum: f64 = frame.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    (sum / f64::from(u32::try_from(frame.len().max(1)).unwrap_or(u32::MAX))).sqrt()
}

const BIAS: i32 = 0x84;

/// µ-law of ITU-T G.711, by the segment.
fn encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(32_635) + BIAS;
    let segment = 24 - magnitude.leading_zeros();
    let mantissa = (magnitude >> (segment + 3)) & 0x0f;
    let segment = i32::try_from(segment).unwrap_or(0);
    !u8::try_from(sign | (segment << 4) | mantissa).unwrap_or(0)
}

fn decode(byte: u8) -> i16 {
    let byte = !byte;
    let (segment, mantissa) = ((byte >> 4) & 7, i32::from(byte & 0x0f));
    let magnitude = (((mantissa << 3) + BIAS) << segment) - BIAS;
    let value = if byte & 0x80 == 0 { magnitude } else { -magnitude };
    i16::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_but_the_second_zero_survives_a_round_trip() {
        for byte in (0..=255_u8).filter(|byte| *byte != 0x7f) {
            assert_eq!(encode(decode(byte)), byte);
        }
        assert_eq!([decode(0x00), decode(0x80), decode(0xff)], [-32_124, 32_124, 0]);
    }
}

//! RTCP (RFC 3550 §6): what the far end hears of us, what we hear of it, round-trip time. Received compounds enter, the
//! few facts that matter leave; reports are written into a buffer of the caller. `rtcp-types` reads; writing is ours,
//! because its builders allocate, and its reader is the test of our writer.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rtcp_types::{Bye, ReceiverReport, ReportBlock, RtcpPacketParser, SenderReport};

use super::rtp::is_rtcp;

/// Enough for a report, a name of 255 bytes and a goodbye.
pub const MAX_REPORT: usize = 352;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;

/// Why a datagram is not RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RTCP compound")]
pub struct RtcpError;

/// What a compound tells us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A stream has ended.
    Goodbye {
        /// Whose.
        ssrc: u32,
    },
    /// How a stream of ours is received.
    Reception(Block),
    /// The far end sends, and what its clock showed.
    Sender {
        /// Whose.
        ssrc: u32,
        /// Middle 32 bits of its NTP time.
        ntp_middle: u32,
    },
}

/// A report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The stream reported on.
    pub ssrc: u32,
    /// Lost since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the beginning; 24 bits, negative when packets were duplicated.
    pub cumulative_lost: i32,
    /// Highest sequence number, extended.
    pub highest: u32,
    /// Interarrival jitter in samples.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; 0 for none.
    pub last_sender_report: u32,
    /// Time since that report, in 1/65536 s.
    pub delay: u32,
}

impl Block {
    fn read(block: &ReportBlock<'_>) -> Self {
        Self {
            ssrc: block.ssrc(),
            fraction_lost: block.fraction_lost(),
            cumulative_lost: (block.cumulative_lost() << 8) as i32 >> 8,
            highest: block.extended_sequence_number(),
            jitter: block.interarrival_jitter(),
            last_sender_report: block.last_sender_report_timestamp(),
            delay: block.delay_since_last_sender_report_timestamp(),
        }
    }

    /// Time to the far end and back: `now` is the middle of our NTP clock. None for nonsense.
    #[must_use]
    pub fn round_trip(&self, now: u32) -> Option<Duration> {
        let units = now.wrapping_sub(self.last_sender_report).wrapping_sub(self.delay) as i32;
        // A little below zero is rounding on a fast network; a minute is a lie.
        (self.last_sender_report != 0 && (-655..60 << 16).contains(&units))
            .then(|| Duration::from_micros(u64::from(units.max(0) as u32) * 1_000_000 / 65_536))
    }
}

/// Reads a compound, possibly of reduced size (RFC 5506). Unknown packets are skipped.
///
/// # Errors
/// When there is no packet, a length leads astray, or a report is malformed.
pub fn parse(mut datagram: &[u8], mut visit: impl FnMut(Fact)) -> Result<(), RtcpError> {
    if datagram.is_empty() {
        return Err(RtcpError);
    }
    while let Some(([first, kind, high, low], _)) = datagram.split_first_chunk::<4>() {
        let length = 4 * (usize::from(u16::from_be_bytes([*high, *low])) + 1);
        let (packet, rest) = datagram.split_at_checked(length).ok_or(RtcpError)?;
        if first >> 6 != 2 || !is_rtcp(packet) {
            return Err(RtcpError);
        }
        match *kind {
            SENDER_REPORT => {
                let report = SenderReport::parse(packet).map_err(|_| RtcpError)?;
                visit(Fact::Sender { ssrc: report.ssrc(), ntp_middle: (report.ntp_timestamp() >> 16) as u32 });
                report.report_blocks().for_each(|block| visit(Fact::Reception(Block::read(&block))));
            }
            RECEIVER_REPORT => {
                let report = ReceiverReport::parse(packet).map_err(|_| RtcpError)?;
                report.report_blocks().for_each(|block| visit(Fact::Reception(Block::read(&block))));
            }
            GOODBYE => {
                let goodbye = Bye::parse(packet).map_err(|_| RtcpError)?;
                goodbye.ssrcs().for_each(|ssrc| visit(Fact::Goodbye { ssrc }));
            }
            _ => {}
        }
        datagram = rest;
    }
    if datagram.is_empty() { Ok(()) } else { Err(RtcpError) }
}

/// What we have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// NTP time of this report.
    pub ntp: u64,
    /// The RTP timestamp of the same moment.
    pub timestamp: u32,
    /// Packets.
    pub packets: u32,
    /// Payload octets.
    pub octets: u32,
}

/// Writes a compound: a report, our name, and a goodbye if it is the last. Returns its length.
pub fn write(
    out: &mut [u8; MAX_REPORT],
    ssrc: u32,
    sent: Option<Sent>,
    block: Option<Block>,
    cname: &str,
    goodbye: bool,
) -> usize {
    let mut writer = Writer { out, at: 0 };
    let report = writer.open(if sent.is_some() { SENDER_REPORT } else { RECEIVER_REPORT }, u8::from(block.is_some()));
    writer.put(&ssrc.to_be_bytes());
    if let Some(sent) = sent {
        writer.put(&sent.ntp.to_be_bytes());
        writer.put(&sent.timestamp.to_be_bytes());
        writer.put(&sent.packets.to_be_bytes());
        writer.put(&sent.octets.to_be_bytes());
    }
    if let Some(block) = block {
        let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        writer.put(&block.ssrc.to_be_bytes());
        writer.put(&(u32::from(block.fraction_lost) << 24 | lost).to_be_bytes());
        writer.put(&block.highest.to_be_bytes());
        writer.put(&block.jitter.to_be_bytes());
        writer.put(&block.last_sender_report.to_be_bytes());
        writer.put(&block.delay.to_be_bytes());
    }
    writer.close(report);
    let name = shortened(cname);
    let description = writer.open(SOURCE_DESCRIPTION, 1);
    writer.put(&ssrc.to_be_bytes());
    writer.put(&[1, name.len() as u8]);
    writer.put(name);
    writer.put(&[0; 4][..4 - (2 + name.len()) % 4]);
    writer.close(description);
    if goodbye {
        let end = writer.open(GOODBYE, 1);
        writer.put(&ssrc.to_be_bytes());
        writer.close(end);
    }
    writer.at
}

/// As many whole characters as fit into an item.
fn shortened(cname: &str) -> &[u8] {
    let length = (0..=cname.len().min(255)).rev().find(|length| cname.is_char_boundary(*length)).unwrap_or(0);
    &cname.as_bytes()[..length]
}

struct Writer<'a> {
    out: &'a mut [u8; MAX_REPORT],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn open(&mut self, kind: u8, count: u8) -> usize {
        self.put(&[0x80 | count, kind, 0, 0]);
        self.at
    }

    fn close(&mut self, start: usize) {
        let words = ((self.at - start) / 4) as u16;
        self.out[start - 2..start].copy_from_slice(&words.to_be_bytes());
    }
}

/// What we know of a received stream (RFC 3550 §6.4.1, appendices A.3 and A.8).
#[derive(Clone, Copy, Debug)]
pub struct Reception {
    ssrc: u32,
    /// Ticks per second of the stream's clock.
    clock: u32,
    /// Of the first packet's number: the far end counts them from zero.
    cycles: u64,
    first: u64,
    highest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    transit: Option<u32>,
    /// In sixteenths of a sample.
    jitter: u32,
    sender_report: Option<(u32, Instant)>,
}

impl Reception {
    /// Nothing received of this stream.
    #[must_use]
    pub fn new(ssrc: u32) -> Self {
        Self {
            ssrc,
            clock: 8000,
            cycles: 0,
            first: u64::MAX,
            highest: 0,
            received: 0,
            expected_before: 0,
            received_before: 0,
            transit: None,
            jitter: 0,
            sender_report: None,
        }
    }

    /// A packet came at this time since the call began; its timestamp counts so many ticks per second.
    pub fn packet(&mut self, sequence: u64, clock: u32, timestamp: u32, arrival: Duration) {
        if std::mem::replace(&mut self.clock, clock) != clock {
            (self.transit, self.jitter) = (None, 0);
        }
        let arrival = (arrival.as_micros() * u128::from(clock) / 1_000_000) as u32;
        if self.received == 0 {
            self.cycles = sequence & !0xffff;
        }
        self.first = self.first.min(sequence);
        self.highest = self.highest.max(sequence);
        self.received += 1;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(previous) = self.transit.replace(transit) {
            let difference = (transit.wrapping_sub(previous) as i32).unsigned_abs();
            // A pause or a jump of a second is not jitter.
            if difference < clock {
                self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
            }
        }
    }

    /// The far end's report says what its clock showed.
    pub fn sender_report(&mut self, now: Instant, ntp_middle: u32) {
        self.sender_report = Some((ntp_middle, now));
    }

    /// Interarrival jitter in ticks of the stream's clock.
    #[must_use]
    pub fn jitter(&self) -> u32 {
        self.jitter >> 4
    }

    /// Interarrival jitter in milliseconds.
    #[must_use]
    pub fn jitter_ms(&self) -> f32 {
        1000.0 * self.jitter() as f32 / self.clock as f32
    }

    /// Packets that never came; duplicates count against them.
    #[must_use]
    pub fn lost(&self) -> i64 {
        self.expected() as i64 - self.received as i64
    }

    /// The block for the next report; begins a new interval.
    pub fn report(&mut self, now: Instant) -> Block {
        let expected = self.expected();
        let expected_interval = expected - self.expected_before;
        let lost_interval = expected_interval.saturating_sub(self.received - self.received_before);
        (self.expected_before, self.received_before) = (expected, self.received);
        let (last_sender_report, delay) = self.sender_report.map_or((0, 0), |(ntp, then)| {
            (ntp, (now.saturating_duration_since(then).as_micros() * 65_536 / 1_000_000) as u32)
        });
        Block {
            ssrc: self.ssrc,
            fraction_lost: (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255) as u8,
            cumulative_lost: self.lost().clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            highest: (self.highest - self.cycles) as u32,
            jitter: self.jitter(),
            last_sender_report,
            delay,
        }
    }

    fn expected(&self) -> u64 {
        if self.received == 0 { 0 } else { self.highest - self.first + 1 }
    }
}

/// Calendar time as NTP writes it: seconds since 1900, then the fraction.
#[must_use]
pub fn ntp(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().wrapping_add(2_208_988_800);
    (seconds << 32) | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};
    use proptest::prelude::*;
    use rtcp_types::{Compound, Packet, Sdes};

    fn facts(bytes: &[u8]) -> Result<Vec<Fact>, RtcpError> {
        let mut facts = Vec::new();
        parse(bytes, |fact| facts.push(fact)).map(|()| facts)
    }

    proptest! {
        #[test]
        fn what_we_write_is_read_back(
            (ssrc, ntp, timestamp, packets) in any::<(u32, u64, u32, u32)>(),
            (other, fraction_lost, lost, highest) in any::<(u32, u8, i32, u32)>(),
            cname in "\\PC{0,90}",
            (sends, receives, goodbye) in any::<(bool, bool, bool)>(),
        ) {
            let sent = sends.then_some(Sent { ntp, timestamp, packets, octets: 5 });
            let cumulative_lost = lost >> 8;
            let block = Block { ssrc: other, fraction_lost, cumulative_lost, highest, jitter: 6, last_sender_report: 7, delay: 8 };
            let block = receives.then_some(block);
            let mut out = [0; MAX_REPORT];
            let length = write(&mut out, ssrc, sent, block, &cname, goodbye);
            let mut expected = Vec::new();
            expected.extend(sent.map(|_| Fact::Sender { ssrc, ntp_middle: (ntp >> 16) as u32 }));
            expected.extend(block.map(Fact::Reception));
            expected.extend(goodbye.then_some(Fact::Goodbye { ssrc }));
            prop_assert_eq!(facts(&out[..length]), Ok(expected));
            let packets: Vec<_> = Compound::parse(&out[..length]).expect("compound").map(|packet| packet.expect("packet")).collect();
            let Packet::Sdes(description) = &packets[1] else { panic!("no description") };
            prop_assert_eq!(name(description), shortened(&cname));
        }

        #[test]
        fn any_bytes_parse_or_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), report in any::<bool>()) {
            if let [first, kind, high, low, ..] = &mut bytes[..] && report {
                (*first, *kind, *high, *low) = (0x80 | *first & 0x3f, 200 + *kind % 8, 0, *low % 30);
            }
            drop(facts(&bytes));
        }
    }

    fn name<'a>(description: &'a Sdes<'a>) -> &'a [u8] {
        description.chunks().flat_map(|chunk| chunk.items()).next().expect("item").value()
    }

    #[test]
    fn loss_and_jitter_follow_the_appendices() {
        let now = SystemClock.now();
        let mut reception = Reception::new(9);
        for sequence in (65_536..65_636).filter(|sequence| sequence % 4 != 3) {
            // Every packet 10 ms early or late in turn: |D| is 20 ms for neighbours, and J converges towards it.
            let late = if sequence % 2 == 0 { 80 } else { 0 };
            let arrival = Duration::from_millis(20 * sequence + late / 8);
            reception.packet(sequence, 8000, (sequence as u32) * 160, arrival);
        }
        let block = reception.report(now);
        assert_eq!((block.cumulative_lost, block.fraction_lost, block.highest), (24, 62, 98), "in the first cycle");
        assert!((40..80).contains(&block.jitter), "{}", block.jitter);
        assert_eq!(reception.report(now).fraction_lost, 0);
    }

    #[test]
    fn what_is_no_packet_of_rtcp_is_no_compound() {
        for nothing in [&[][..], &[0x80, 0, 0, 0], &[0x80, 203, 0, 0, 0x80, 8, 0, 0], &[0x80, 203, 0]] {
            assert_eq!(facts(nothing), Err(RtcpError), "{nothing:?}");
        }
        assert_eq!(facts(&[0x80, 204, 0, 0]), Ok(Vec::new()), "unknown");
    }

    #[test]
    fn round_trip_takes_away_the_far_ends_delay() {
        let block = Block { last_sender_report: u32::MAX - 65_535, delay: 65_536, ..Block::default() };
        assert_eq!(block.round_trip(65_536), Some(Duration::from_secs(1)));
        assert_eq!(block.round_trip(u32::MAX - 65_535), None, "the far end's delay is longer than all of it");
        assert_eq!(Block::default().round_trip(65_536), None);
    }

    #[test]
    fn ntp_counts_from_1900() {
        assert_eq!(ntp(UNIX_EPOCH + Duration::from_millis(500)), 2_208_988_800 << 32 | 1 << 31);
    }
}

//! RTP headers (RFC 3550 §5.1) and sequence numbers (appendix A.1). Bytes enter, borrowed fields leave; nothing is kept
//! of a packet.

/// Length of a header without contributing sources and extension.
pub const HEADER: usize = 12;

/// Forward jumps up to here are loss (RFC 3550 appendix A.1).
const MAX_DROPOUT: u16 = 3000;
/// Backward steps up to here are reordering.
const MAX_MISORDER: u16 = 100;

/// Why bytes are not an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// The padding count is zero or reaches into the header.
    #[error("bad padding")]
    Padding,
    /// Header, sources or extension reach past the end.
    #[error("truncated")]
    Truncated,
    /// Not version 2: STUN, DTLS, junk.
    #[error("not RTP version 2")]
    Version,
}

/// One received packet; the payload is what is left after sources, extension and padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Start of a talk spurt, by the sender's opinion.
    pub marker: bool,
    /// Seven bits, given a meaning by SDP.
    pub payload_type: u8,
    /// Counts packets.
    pub sequence: u16,
    /// Counts samples.
    pub timestamp: u32,
    /// Names the stream.
    pub ssrc: u32,
    /// The audio.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`RtpError`] when it is no RTP packet.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, RtpError> {
        let (header, mut rest) = datagram.split_first_chunk::<HEADER>().ok_or(RtpError::Truncated)?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
        if first >> 6 != 2 {
            return Err(RtpError::Version);
        }
        rest = rest.get(usize::from(first & 0x0f) * 4..).ok_or(RtpError::Truncated)?;
        if first & 0x10 != 0 {
            let ([_, _, high, low], body) = rest.split_first_chunk::<4>().ok_or(RtpError::Truncated)?;
            let words = usize::from(u16::from_be_bytes([*high, *low]));
            rest = body.get(words * 4..).ok_or(RtpError::Truncated)?;
        }
        if first & 0x20 != 0 {
            let padding = usize::from(*rest.last().ok_or(RtpError::Padding)?);
            let length = rest.len().checked_sub(padding).filter(|_| padding > 0).ok_or(RtpError::Padding)?;
            rest = rest.get(..length).ok_or(RtpError::Padding)?;
        }
        Ok(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload: rest,
        })
    }

    /// The twelve bytes that precede [`Self::payload`] on the wire.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        let second = self.payload_type & 0x7f | u8::from(self.marker) << 7;
        [0x80, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

/// Whether a datagram on a shared port is RTCP (RFC 5761 §4).
#[must_use]
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [_, 192..=223, ..])
}

/// What a sequence number means after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A jump that no second packet has confirmed: do not use the packet.
    Discarded,
    /// Its number, extended so that it never wraps.
    InOrder(u64),
    /// The sender has started again; so must everybody who counts from earlier numbers.
    Restarted(u64),
}

/// Extends 16-bit sequence numbers of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    highest: u16,
    cycles: u64,
    bad: Option<u16>,
}

impl Sequence {
    /// A stream that starts at this number. Extended numbers start in the second cycle, so that packets which were
    /// overtaken by the first one have a number too.
    #[must_use]
    pub fn new(first: u16) -> Self {
        Self { highest: first, cycles: 1 << 16, bad: None }
    }

    /// Takes the number of a received packet.
    pub fn observe(&mut self, sequence: u16) -> Arrived {
        let forward = sequence.wrapping_sub(self.highest);
        if forward < MAX_DROPOUT {
            if sequence < self.highest {
                self.cycles += 1 << 16;
            }
            self.highest = sequence;
            self.bad = None;
            return Arrived::InOrder(self.cycles + u64::from(sequence));
        }
        if forward > u16::MAX - MAX_MISORDER {
            let wrapped = if sequence > self.highest { 1 << 16 } else { 0 };
            return Arrived::InOrder(self.cycles + u64::from(sequence) - wrapped);
        }
        if self.bad == Some(sequence) {
            *self = Self { highest: sequence, cycles: self.cycles + (2 << 16), bad: None };
            return Arrived::Restarted(self.cycles + u64::from(sequence));
        }
        self.bad = Some(sequence.wrapping_add(1));
        Arrived::Discarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn skips_sources_extension_and_padding() {
        let mut bytes = vec![0xb1, 0x80, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5, 1, 2, 3, 4];
        bytes.extend([0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
        bytes.extend([0xaa, 0xbb, 0, 2]);
        let packet = Packet::parse(&bytes).expect("valid");
        assert_eq!((packet.marker, packet.payload_type, packet.sequence, packet.timestamp), (true, 0, 7, 9));
        assert_eq!((packet.ssrc, packet.payload), (5, &[0xaa, 0xbb][..]));
        bytes.truncate(21);
        assert_eq!(Packet::parse(&bytes), Err(RtpError::Truncated));
    }

    #[test]
    fn padding_longer_than_payload_is_an_error() {
        for last in [0, 5, 255] {
            let bytes = [0xa0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5, 1, 2, 3, last];
            assert_eq!(Packet::parse(&bytes), Err(RtpError::Padding));
        }
    }

    #[test]
    fn sequence_wraps_reorders_and_restarts() {
        let mut sequence = Sequence::new(65_535);
        assert_eq!(sequence.observe(0), Arrived::InOrder(131_072));
        assert_eq!(sequence.observe(65_535), Arrived::InOrder(131_071));
        assert_eq!(sequence.observe(1), Arrived::InOrder(131_073));
        assert_eq!(sequence.observe(30_000), Arrived::Discarded);
        assert!(matches!(sequence.observe(30_001), Arrived::Restarted(number) if number > 131_073));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                let mut again = packet.header().to_vec();
                again.extend_from_slice(packet.payload);
                prop_assert_eq!(Packet::parse(&again), Ok(packet));
            }
        }

        #[test]
        fn any_order_extends(numbers in proptest::collection::vec(any::<u16>(), 1..300)) {
            let mut sequence = Sequence::new(numbers[0]);
            for number in numbers {
                if let Arrived::InOrder(extended) | Arrived::Restarted(extended) = sequence.observe(number) {
                    prop_assert_eq!(extended as u16, number);
                }
            }
        }
    }
}

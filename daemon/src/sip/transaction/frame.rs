//! Where a message ends in a stream: framing by Content-Length (RFC 3261 §18.3) and the line ends of keep-alive
//! (RFC 5626 §4.4.1). Enters: bytes as far as they have come; leaves: how many of them are what.

use crate::sip::message::{raw_header, split_head};

/// A message that is longer than we read, but no longer than this, costs itself and not its connection.
const LONGEST: usize = 1 << 20;

/// What the first bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Line ends between messages; two of them are a ping.
    Blank {
        length: usize,
        ping: bool,
    },
    Partial,
    Broken,
    Message(usize),
    /// Longer than the limit: where its head ends, and where it ends itself.
    TooLong {
        head: usize,
        total: usize,
    },
}

pub(super) fn next_frame(buffer: &[u8], limit: usize) -> Frame {
    let blank = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if blank > 0 {
        return Frame::Blank { length: blank, ping: blank >= 4 };
    }
    let Some((head, rest)) = split_head(buffer) else {
        return if buffer.len() > limit { Frame::Broken } else { Frame::Partial };
    };
    let Some(body) = content_length(head) else { return Frame::Broken };
    let head = buffer.len() - rest.len();
    match head.checked_add(body) {
        Some(total) if total > limit.max(LONGEST) => Frame::Broken,
        Some(total) if total > limit => Frame::TooLong { head, total },
        Some(total) if total > buffer.len() => Frame::Partial,
        Some(total) => Frame::Message(total),
        None => Frame::Broken,
    }
}

/// Zero without the header (RFC 3261 §20.14 demands it, but a message without body survives its absence).
fn content_length(head: &[u8]) -> Option<usize> {
    raw_header(head, "Content-Length").map_or(Some(0), |value| std::str::from_utf8(&value).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_content_length_says() {
        let one = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(next_frame(one, 1000), Frame::Message(one.len()));
        assert_eq!(next_frame(&[one.as_slice(), b"NEXT"].concat(), 1000), Frame::Message(one.len()));
        assert_eq!(next_frame(&one[..one.len() - 1], 1000), Frame::Partial);
        assert_eq!(next_frame(&one[..20], 1000), Frame::Partial);
        assert_eq!(next_frame(b"\r\n\r\nX", 1000), Frame::Blank { length: 4, ping: true });
        for bad in ["-1", "99999999999999999999", "18446744073709551615", "x", "2000000"] {
            let text = format!("OPTIONS sip:a SIP/2.0\r\nl: {bad}\r\n\r\n");
            assert_eq!(next_frame(text.as_bytes(), 1000), Frame::Broken, "{bad}");
        }
        assert_eq!(next_frame(&[b'x'; 1001], 1000), Frame::Broken);
        let long = b"OPTIONS sip:a SIP/2.0\r\nl: 2000\r\n\r\nabc";
        assert_eq!(next_frame(long, 1000), Frame::TooLong { head: 34, total: 2034 });
    }

    #[test]
    fn a_folded_line_is_no_length_and_a_length_may_be_folded() {
        let one = b"OPTIONS sip:a SIP/2.0\r\nSubject: x\r\n l: 900\r\nContent-Length:\r\n 3\r\n\r\nabc";
        assert_eq!(next_frame(&[one.as_slice(), b"NEXT"].concat(), 1000), Frame::Message(one.len()));
    }
}

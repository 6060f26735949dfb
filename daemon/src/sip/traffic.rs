//! How much is signalled. Enters: every message that was let in and every one that was sent; leaves: how many of which
//! kind. Never here: what a message says beyond its first word.

use std::sync::atomic::{AtomicU64, Ordering};

use super::message::{METHODS, Method};

/// Requests by method, those of no known one last; responses by the first digit of their status.
#[derive(Default)]
struct Row {
    requests: [AtomicU64; METHODS.len() + 1],
    responses: [AtomicU64; CLASSES.len()],
    repeated: AtomicU64,
}

/// What a response is, by the first digit of its status.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "6xx"];

/// Counts of messages; asked at any time.
#[derive(Default)]
pub struct Traffic {
    received: Row,
    sent: Row,
}

impl Traffic {
    const fn row(&self, sent: bool) -> &Row {
        if sent { &self.sent } else { &self.received }
    }

    pub(super) fn count(&self, sent: bool, raw: &[u8]) {
        let row = self.row(sent);
        let counter = match raw.strip_prefix(b"SIP/2.0 ") {
            Some(status) => {
                let class = status.first().and_then(|digit| usize::from(*digit).checked_sub(usize::from(b'1')));
                class.and_then(|class| row.responses.get(class))
            }
            None => {
                let word = raw.split(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok());
                let known =
                    word.and_then(Method::parse).and_then(|method| METHODS.iter().position(|(m, _)| *m == method));
                row.requests.get(known.unwrap_or(METHODS.len()))
            }
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same message again.
    pub(super) fn repeated(&self, sent: bool) {
        self.row(sent).repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of one direction, by method; `other` is what no known method is.
    pub fn requests(&self, sent: bool) -> impl Iterator<Item = (&'static str, u64)> {
        let names = METHODS.iter().map(|(_, name)| *name).chain(["other"]);
        names.zip(self.row(sent).requests.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Responses of one direction, by class.
    pub fn responses(&self, sent: bool) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.row(sent).responses.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Messages of one direction that had been there before.
    pub fn repetitions(&self, sent: bool) -> u64 {
        self.row(sent).repeated.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_counted_once_by_its_first_word() {
        let traffic = Traffic::default();
        for raw in
            ["INVITE sip:a@b SIP/2.0\r\n", "INVITE sip:a@b SIP/2.0\r\n", "invite sip:a@b SIP/2.0\r\n", "\u{e9} x", ""]
        {
            traffic.count(false, raw.as_bytes());
        }
        for raw in ["SIP/2.0 100 Trying\r\n", "SIP/2.0 200 OK\r\n", "SIP/2.0 700 What\r\n", "SIP/2.0 ", "SIP/2.0 \0"] {
            traffic.count(true, raw.as_bytes());
        }
        let some = |counts: Vec<(&'static str, u64)>| counts.into_iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>();
        assert_eq!(some(traffic.requests(false).collect()), [("INVITE", 2), ("other", 3)]);
        assert_eq!(some(traffic.responses(true).collect()), [("1xx", 1), ("2xx", 1)]);
        assert_eq!(some(traffic.requests(true).chain(traffic.responses(false)).collect()), []);
    }
}

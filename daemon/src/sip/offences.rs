//! Who knocks without being wanted. Enters: a source and what it did; leaves: one log line now and then, which fail2ban
//! reads (`packaging/fail2ban`), and counts. A line holds an address and words of ours, nothing of what was sent. What is
//! remembered is bounded; a line that is not written is still counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};
use super::message::raw_header;

/// What a source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offence {
    /// It sends, and belongs to no trunk.
    Stranger,
    /// It calls itself as tools do that look for telephones to abuse.
    Scanner,
    /// It registers, again and again, where nobody registers.
    Register,
    /// It sends what is no SIP, again and again.
    Malformed,
    /// It does not know the password.
    Password,
}

impl Offence {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Stranger, Self::Scanner, Self::Register, Self::Malformed, Self::Password];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Scanner => "scanner",
            Self::Register => "register",
            Self::Malformed => "malformed",
            Self::Password => "password",
        }
    }

    /// In the log line; the filter of fail2ban knows these words.
    const fn words(self) -> &'static str {
        match self {
            Self::Stranger => "it belongs to no trunk",
            Self::Scanner => "it calls itself a scanner",
            Self::Register => "nobody registers here",
            Self::Malformed => "what it sends is no SIP",
            Self::Password => "it does not know the password",
        }
    }

    /// May happen to a peer that means well.
    const fn is_forgiven(self) -> bool {
        matches!(self, Self::Register | Self::Malformed)
    }
}

/// What is forgiven: some at once, and one now and then.
pub(super) const PATIENCE: Rate = Rate { per_second: 0.2, burst: 20.0 };
/// A source has one line in this time.
const EVERY: Duration = Duration::from_secs(10);
/// Lines of all sources together.
const LINES: Rate = Rate { per_second: 10.0, burst: 50.0 };
/// Sources whose lines are remembered.
const SOURCES: usize = 4096;

#[derive(Debug)]
struct Source {
    patience: Bucket,
    said: Option<Instant>,
    unsaid: u64,
}

/// All who offended lately.
#[derive(Debug, Default)]
pub(super) struct Offences {
    sources: HashMap<IpAddr, Source>,
    lines: Option<Bucket>,
    swept: Option<Instant>,
    counts: [u64; Offence::ALL.len()],
}

impl Offences {
    /// Counts an offence, and writes the line if it is time for one.
    pub(super) fn add(&mut self, source: IpAddr, offence: Offence, now: Instant) {
        if let Some(times) = self.due(source.to_canonical(), offence, now) {
            let (source, words) = (source.to_canonical(), offence.words());
            tracing::warn!("refused SIP from {source}: {words}; {times} since its last line");
        }
    }

    /// How often each offence happened.
    pub(super) fn counts(&self) -> [u64; Offence::ALL.len()] {
        self.counts
    }

    /// Whether a source has used up what is forgiven.
    pub(super) fn is_out_of_patience(&self, source: IpAddr, now: Instant) -> bool {
        !self.sources.is_empty() && self.sources.get(&source).is_some_and(|s| s.patience.is_empty(PATIENCE, now))
    }

    /// What the line says, if there is to be one.
    fn due(&mut self, source: IpAddr, offence: Offence, now: Instant) -> Option<u64> {
        if let Some(at) = Offence::ALL.iter().position(|known| *known == offence)
            && let Some(count) = self.counts.get_mut(at)
        {
            *count += 1;
        }
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) && !self.forget(now) {
            return None;
        }
        let known = self.sources.entry(source).or_insert_with(|| Source {
            patience: Bucket::full(PATIENCE, now),
            said: None,
            unsaid: 0,
        });
        known.unsaid += 1;
        // What is forgiven is no offence before the patience is used up.
        let forgiven = known.patience.take(PATIENCE, now) && !known.patience.is_empty(PATIENCE, now);
        if forgiven && offence.is_forgiven() {
            return None;
        }
        if known.said.is_some_and(|said| now.saturating_duration_since(said) < EVERY) {
            return None;
        }
        if !self.lines.get_or_insert_with(|| Bucket::full(LINES, now)).take(LINES, now) {
            return None;
        }
        known.said = Some(now);
        Some(std::mem::take(&mut known.unsaid))
    }

    /// Makes room, if there can be any: at most once a second, a flood of strangers must not cost more than that.
    fn forget(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1)) {
            self.swept = Some(now);
            self.sources.retain(|_, source| {
                let recent = source.said.is_some_and(|said| now.saturating_duration_since(said) < EVERY);
                recent || !source.patience.is_full(PATIENCE, now)
            });
        }
        self.sources.len() < SOURCES
    }
}

/// Names that tools which look for telephones to abuse give themselves, in small letters.
const SCANNERS: [&[u8]; 12] = [
    b"friendly-scanner",
    b"friendly-request",
    b"sipvicious",
    b"sipcli",
    b"sip-scan",
    b"siparmyknife",
    b"sundayddr",
    b"pplsip",
    b"vaxsipuseragent",
    b"vaxipuseragent",
    b"sivus",
    b"iwar",
];

/// Whether a message says itself that it comes from a scanner, by its User-Agent. Reads no further than that line.
pub(super) fn is_scanner(raw: &[u8]) -> bool {
    raw_header(raw, "User-Agent").is_some_and(|value| {
        let value = value.get(..200).unwrap_or(&value).to_ascii_lowercase();
        SCANNERS.iter().any(|scanner| value.windows(scanner.len()).any(|part| part == *scanner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, ManualClock};

    #[test]
    fn a_source_has_one_line_in_ten_seconds_and_all_together_some() {
        let (clock, mut offences) = (ManualClock::default(), Offences::default());
        let stranger = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        let mut lines = |n: u32, now| offences.due(stranger(n), Offence::Stranger, now);
        assert_eq!(lines(1, clock.now()), Some(1));
        assert_eq!((0..500).filter_map(|_| lines(1, clock.now())).count(), 0);
        clock.advance(EVERY);
        assert_eq!(lines(1, clock.now()), Some(501), "what was not said is counted");
        let said = (1000..21_000).filter_map(|n| lines(n, clock.now())).count();
        assert!((40..=50).contains(&said), "{said}");
        assert!(offences.sources.len() <= SOURCES);
        assert_eq!(offences.counts(), [20_502, 0, 0, 0, 0]);
    }

    #[test]
    fn what_may_happen_to_anybody_is_forgiven_for_a_while() {
        let (clock, mut offences) = (ManualClock::default(), Offences::default());
        let source: IpAddr = "192.0.2.7".parse().expect("an address");
        let mut told = Vec::new();
        for _ in 0..30 {
            told.push(offences.due(source, Offence::Malformed, clock.now()));
        }
        assert_eq!(told.iter().position(Option::is_some), Some(19));
        assert!(offences.is_out_of_patience(source, clock.now()));
        clock.advance(Duration::from_secs(6));
        assert!(!offences.is_out_of_patience(source, clock.now()));
        let other: IpAddr = "192.0.2.8".parse().expect("an address");
        assert_eq!(offences.due(other, Offence::Password, clock.now()), Some(1), "a wrong password is not");
    }

    #[test]
    fn scanners_are_known_by_their_name_and_callers_are_not_taken_for_them() {
        let message = |line: &str| format!("OPTIONS sip:a SIP/2.0\r\nVia: x\r\n{line}\r\nTo: sipvicious\r\n\r\n");
        for line in [
            "User-Agent: friendly-scanner",
            "user-agent : SIPVicious v0.3",
            "USER-AGENT:sipcli/v1.8",
            "User-Agent:\r\n sipcli",
        ] {
            assert!(is_scanner(message(line).as_bytes()), "{line}");
        }
        for line in ["User-Agent: baresip v1.0.0", "User-Agents: sipvicious", "X: y\r\n User-Agent: sipcli"] {
            assert!(!is_scanner(message(line).as_bytes()), "{line}");
        }
        assert!(!is_scanner(b"INVITE x\r\n\r\nUser-Agent: sipvicious"), "a body is no header");
    }
}

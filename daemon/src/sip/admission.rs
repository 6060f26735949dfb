//! Who may talk to us, and how much. Enters: a source address, the first bytes of a message, the time; leaves: yes or
//! no. It runs before any parser, allocates nothing in the common case and never grows beyond its table.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What the endpoint accepts. Every figure is per endpoint unless it says "source" (one IP address).
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls at once, ringing ones included; beyond it 503.
    pub max_calls: usize,
    /// INVITEs per second from one source; beyond it (and the burst) they are dropped unread: the peer repeats them.
    pub invites_per_second_per_source: f64,
    /// INVITEs that one source may send at once.
    pub burst: u32,
    /// All messages per second from one source, retransmissions included; the burst is two seconds of it.
    pub messages_per_second_per_source: f64,
    /// Calls of one source that have not been confirmed by an ACK; beyond it 503.
    pub max_unacked_per_source: usize,
    /// What 503 tells the peer to wait, in seconds.
    pub retry_after: u32,
    /// Server transactions at once; beyond it messages are dropped unread.
    pub max_transactions: usize,
    /// Longest message, in bytes.
    pub max_message: usize,
    /// TCP connections at once, and from one source.
    pub max_connections: (usize, usize),
    /// A TCP connection without a message for this long is closed; a message must be complete within a tenth of it.
    pub connection_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_calls: 64,
            invites_per_second_per_source: 50.0,
            burst: 100,
            messages_per_second_per_source: 1000.0,
            max_unacked_per_source: 64,
            retry_after: 10,
            max_transactions: 8192,
            max_message: 16 * 1024,
            max_connections: (256, 64),
            connection_idle: Duration::from_secs(300),
        }
    }
}

/// Sources that are remembered at once. A full table forgets whoever has been quiet, and if nobody has, one of all.
const SOURCES: usize = 4096;

/// A token bucket that fills with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn is_full(&self, rate: f64, burst: f64, now: Instant) -> bool {
        now.saturating_duration_since(self.filled).as_secs_f64().mul_add(rate, self.tokens) >= burst
    }

    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = elapsed.mul_add(rate, self.tokens).min(burst);
        self.filled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// Why a message was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Refusal {
    TooManyMessages,
    TooManyInvites,
    TooLong,
}

/// The gate before the parser.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    sources: HashMap<IpAddr, (Bucket, Bucket)>,
    swept: Option<Instant>,
}

impl Admission {
    /// A gate with nobody known.
    pub fn new(limits: Limits) -> Self {
        Self { limits, sources: HashMap::new(), swept: None }
    }

    /// Other limits from now on. A bucket keeps its tokens, up to the new burst.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether these bytes from this source may go to the parser.
    ///
    /// # Errors
    /// The reason to drop them.
    pub fn admit(&mut self, source: IpAddr, raw: &[u8], now: Instant) -> Result<(), Refusal> {
        if raw.len() > self.limits.max_message {
            return Err(Refusal::TooLong);
        }
        let source = source.to_canonical();
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            self.forget_quiet(now);
        }
        let (rate, invites) = (self.limits.messages_per_second_per_source, self.limits.invites_per_second_per_source);
        let burst = f64::from(self.limits.burst);
        let (all, calls) = self
            .sources
            .entry(source)
            .or_insert_with(|| (Bucket { tokens: rate * 2.0, filled: now }, Bucket { tokens: burst, filled: now }));
        if !all.take(rate, rate * 2.0, now) {
            return Err(Refusal::TooManyMessages);
        }
        if raw.starts_with(b"INVITE ") && !calls.take(invites, burst, now) {
            return Err(Refusal::TooManyInvites);
        }
        Ok(())
    }

    /// Sources that are remembered.
    pub fn known(&self) -> usize {
        self.sources.len()
    }

    fn forget_quiet(&mut self, now: Instant) {
        // Strangers come by the thousand in a flood: not the whole table for each of them.
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1)) {
            self.swept = Some(now);
            let (rate, invites) =
                (self.limits.messages_per_second_per_source, self.limits.invites_per_second_per_source);
            let burst = f64::from(self.limits.burst);
            // Full buckets are what a stranger has: forgetting them gives nobody anything.
            self.sources
                .retain(|_, (all, calls)| !all.is_full(rate, rate * 2.0, now) || !calls.is_full(invites, burst, now));
        }
        if self.sources.len() >= SOURCES
            && let Some(any) = self.sources.keys().next().copied()
        {
            self.sources.remove(&any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, ManualClock};

    #[test]
    fn a_burst_then_the_rate_per_source() {
        let clock = ManualClock::default();
        let limits = Limits { invites_per_second_per_source: 2.0, burst: 3, ..Limits::default() };
        let mut gate = Admission::new(limits);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut granted = |ip| (0..10).filter(|_| gate.admit(ip, b"INVITE x", clock.now()).is_ok()).count();
        assert_eq!((granted(a), granted(b)), (3, 3));
        clock.advance(Duration::from_secs(1));
        assert_eq!(granted(a), 2);
        assert_eq!(gate.admit(a, b"BYE x", clock.now()), Ok(()));
        assert_eq!(gate.admit(a, &[0; 20_000], clock.now()), Err(Refusal::TooLong));
    }

    #[test]
    fn strangers_do_not_grow_the_table() {
        let clock = ManualClock::default();
        let mut gate = Admission::new(Limits::default());
        for n in 0..20_000_u32 {
            let _admitted = gate.admit(std::net::Ipv4Addr::from(n).into(), b"x", clock.now());
            clock.advance(Duration::from_millis(1));
        }
        assert!(gate.known() <= SOURCES);
        // Nor do they make anybody forgotten who has used up what is his.
        let limits = Limits { invites_per_second_per_source: 0.001, burst: 3, ..Limits::default() };
        let (mut gate, greedy) = (Admission::new(limits), "192.0.2.1".parse().unwrap());
        let granted =
            |gate: &mut Admission| (0..9).filter(|_| gate.admit(greedy, b"INVITE x", clock.now()).is_ok()).count();
        assert_eq!(granted(&mut gate), 3);
        for n in 0..20_000_u32 {
            let _admitted = gate.admit(std::net::Ipv4Addr::from(n).into(), b"x", clock.now());
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(granted(&mut gate), 0);
    }
}

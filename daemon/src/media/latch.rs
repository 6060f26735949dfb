//! Where a call's packets come from and go to (symmetric RTP, RFC 4961; comedia). Sources enter, yes or no leaves.
//! Guards against injection ("RTP bleed"): a stranger who finds the port can neither speak in the call nor draw its
//! audio to himself while the far end is talking.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A far end that has moved behind its NAT is believed after this much silence from its old address.
const RELATCH: Duration = Duration::from_secs(2);

/// The state of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Latch {
    signalled: Option<SocketAddr>,
    source: Option<(SocketAddr, Instant)>,
}

impl Latch {
    /// Nothing received yet. `signalled` is the address in the far end's SDP.
    #[must_use]
    pub fn new(signalled: SocketAddr) -> Self {
        Self { signalled: usable(signalled), source: None }
    }

    /// A new SDP. The source is forgotten only if the address has changed: most re-INVITEs change something else.
    pub fn update(&mut self, signalled: SocketAddr) {
        if self.signalled != usable(signalled) {
            *self = Self::new(signalled);
        }
    }

    /// Packets came from here before this began.
    pub(super) fn expect(&mut self, now: Instant, source: SocketAddr) {
        self.source = Some((source, now));
    }

    /// Whether a well-formed packet from here belongs to the call. The signalled address is always believed, at once;
    /// any other if it is the first, or if the former one has fallen silent: the far end may be behind a NAT.
    pub fn accept(&mut self, now: Instant, source: SocketAddr) -> bool {
        let source = canonical(source);
        let believed = match self.source {
            Some((current, _)) if current == source => true,
            _ if self.signalled == Some(source) => true,
            Some((_, heard)) => now.saturating_duration_since(heard) >= RELATCH,
            None => true,
        };
        if believed {
            self.source = Some((source, now));
        }
        believed
    }

    /// Whether anything came from the far end.
    pub(super) fn is_proven(&self) -> bool {
        self.source.is_some()
    }

    /// Where to send: back to the source, or to the signalled address until there is one.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        self.source.map(|(source, _)| source).or(self.signalled)
    }
}

/// A socket of IPv6 has its own spelling of IPv4 addresses.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `0.0.0.0` (old hold) and port 0 (refused stream) are no addresses.
fn usable(address: SocketAddr) -> Option<SocketAddr> {
    let address = canonical(address);
    (!address.ip().is_unspecified() && address.port() != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn latches_to_the_first_source_and_sends_back_to_it() {
        let (now, mut latch) = (SystemClock.now(), Latch::new(address("10.0.0.1:4000")));
        assert_eq!(latch.target(), Some(address("10.0.0.1:4000")));
        assert!(latch.accept(now, address("192.0.2.7:61000")));
        assert_eq!(latch.target(), Some(address("192.0.2.7:61000")));
    }

    #[test]
    fn a_stranger_is_refused_while_the_far_end_talks() {
        let (mut now, mut latch) = (SystemClock.now(), Latch::new(address("10.0.0.1:4000")));
        for _ in 0..500 {
            assert!(latch.accept(now, address("192.0.2.7:61000")));
            assert!(!latch.accept(now, address("203.0.113.9:5000")));
            now += Duration::from_millis(20);
        }
        now += RELATCH;
        assert!(latch.accept(now, address("192.0.2.7:61002")), "moved behind its NAT");
        assert!(!latch.accept(now, address("192.0.2.7:61000")));
    }

    #[test]
    fn the_signalled_address_overrules_a_stranger_who_was_first() {
        let (now, mut latch) = (SystemClock.now(), Latch::new(address("10.0.0.1:4000")));
        assert!(latch.accept(now, address("203.0.113.9:5000")));
        assert!(latch.accept(now, address("[::ffff:10.0.0.1]:4000")));
        assert!(!latch.accept(now, address("203.0.113.9:5000")));
        assert_eq!(latch.target(), Some(address("10.0.0.1:4000")));
    }

    #[test]
    fn only_a_changed_address_unlatches() {
        let (now, mut latch) = (SystemClock.now(), Latch::new(address("10.0.0.1:4000")));
        assert!(latch.accept(now, address("192.0.2.7:61000")));
        latch.update(address("10.0.0.1:4000"));
        assert_eq!(latch.target(), Some(address("192.0.2.7:61000")));
        latch.update(address("10.0.0.3:4000"));
        assert_eq!(latch.target(), Some(address("10.0.0.3:4000")));
        assert_eq!(Latch::new(address("0.0.0.0:4000")).target(), None);
        assert_eq!(Latch::new(address("10.0.0.1:0")).target(), None);
    }
}

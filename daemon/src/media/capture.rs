//! A call's datagrams as they were on the wire, for whoever looks for a fault. What came and what was sent enters, while
//! somebody wants it; copies leave, through a ring. Never here: a key; what is encrypted stays so.

use std::net::SocketAddr;
use std::time::Instant;

use rtrb::{Consumer, Producer, RingBuffer};

/// Octets that are kept of one: 60 ms of G.711 and the header.
const KEPT: usize = 512;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it was read, or sent.
    pub at: Instant,
    /// We sent it.
    pub sent: bool,
    /// Of the RTCP port.
    pub rtcp: bool,
    /// The far end's address.
    pub peer: SocketAddr,
    /// Its true length.
    pub length: usize,
    octets: [u8; KEPT],
}

impl Captured {
    /// Its first octets, mostly all.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.length.min(KEPT)]
    }
}

/// The reader's end. Dropping it ends the capture.
pub struct Capture {
    ring: Consumer<Captured>,
}

impl Capture {
    /// The next datagram, if there is one.
    pub fn recv(&mut self) -> Option<Captured> {
        self.ring.pop().ok()
    }

    /// The call is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ring.is_abandoned() && self.ring.is_empty()
    }
}

/// The media thread's end, which may be nobody's.
#[derive(Default)]
pub(super) struct Tee(Option<Producer<Captured>>);

impl Tee {
    /// A ring of so many datagrams. What is not taken in time is lost.
    pub(super) fn new(datagrams: usize) -> (Self, Capture) {
        let (producer, ring) = RingBuffer::new(datagrams);
        (Self(Some(producer)), Capture { ring })
    }

    pub(super) fn copy(&mut self, at: Instant, (sent, rtcp): (bool, bool), peer: SocketAddr, datagram: &[u8]) {
        let Some(ring) = self.0.as_mut() else { return };
        if ring.is_abandoned() {
            self.0 = None;
            return;
        }
        let (mut octets, kept) = ([0; KEPT], datagram.len().min(KEPT));
        octets[..kept].copy_from_slice(&datagram[..kept]);
        ring.push(Captured { at, sent, rtcp, peer, length: datagram.len(), octets }).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    #[test]
    fn a_capture_holds_what_passes_until_its_reader_or_its_call_is_gone() {
        let (now, peer) = (ManualClock::default().now(), "192.0.2.1:4000".parse().expect("an address"));
        let (mut tee, mut capture) = Tee::new(2);
        for length in [3, 700, 4] {
            tee.copy(now, (true, false), peer, &vec![7; length]);
        }
        let read: Vec<_> = std::iter::from_fn(|| capture.recv()).map(|one| (one.length, one.octets().len())).collect();
        assert_eq!(read, [(3, 3), (700, KEPT)], "whoever is late misses the third");
        assert!(!capture.is_over());
        drop(tee);
        assert!(capture.is_over());

        let (mut tee, capture) = Tee::new(2);
        drop(capture);
        tee.copy(now, (false, true), peer, &[1]);
        assert!(tee.0.is_none(), "nobody reads: nothing is copied any more");
    }
}

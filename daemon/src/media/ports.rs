//! Which ports are free. Pairs leave, an even port for RTP and the odd one after it for RTCP; they come back when the
//! lease is dropped. No sockets here.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// The pairs of a range.
#[derive(Debug)]
pub(super) struct PortPool {
    first: u16,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    leased: Vec<bool>,
    used: usize,
    /// Where the next search begins. Ports are used in turn, so that late packets of a call rarely meet its successor.
    next: usize,
}

/// An even port and the one after it. Dropping it gives them back.
#[derive(Debug)]
pub(super) struct PortLease {
    pool: Arc<PortPool>,
    index: usize,
}

impl PortPool {
    /// The whole pairs inside `range`.
    pub(super) fn new(range: &RangeInclusive<u16>) -> Arc<Self> {
        let first = u32::from(*range.start()).next_multiple_of(2);
        let pairs = (u32::from(*range.end()) + 1).saturating_sub(first) / 2;
        let state = State { leased: vec![false; pairs as usize], used: 0, next: 0 };
        Arc::new(Self { first: first as u16, state: Mutex::new(state) })
    }

    /// How many pairs are leased, of how many.
    pub(super) fn usage(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.used, state.leased.len())
    }

    /// A pair, if fewer than `limit` are leased.
    pub(super) fn lease(self: &Arc<Self>, limit: usize) -> Option<PortLease> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = state.leased.len();
        if state.used >= limit.min(pairs) {
            return None;
        }
        let index = (0..pairs).map(|step| (state.next + step) % pairs).find(|index| !state.leased[*index])?;
        state.leased[index] = true;
        state.used += 1;
        state.next = index + 1;
        Some(PortLease { pool: Arc::clone(self), index })
    }
}

impl PortPool {
    /// This very pair, if it belongs to the range and is free.
    pub(super) fn claim(self: &Arc<Self>, port: u16) -> Option<PortLease> {
        let index = usize::from(port.checked_sub(self.first)?) / 2;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let free = state.leased.get_mut(index).filter(|leased| port.is_multiple_of(2) && !**leased)?;
        *free = true;
        state.used += 1;
        Some(PortLease { pool: Arc::clone(self), index })
    }
}

impl PortLease {
    /// The even port.
    pub(super) fn port(&self) -> u16 {
        self.pool.first + 2 * self.index as u16
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.leased[self.index] = false;
        state.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_even_distinct_and_used_in_turn() {
        let pool = PortPool::new(&(16385..=16392));
        let leases: Vec<_> = (0..4).map_while(|_| pool.lease(9)).collect();
        assert_eq!(leases.iter().map(PortLease::port).collect::<Vec<_>>(), [16386, 16388, 16390]);
        assert_eq!(pool.usage(), (3, 3));
        drop(leases);
        assert_eq!(pool.usage(), (0, 3));
        let first = pool.lease(1).expect("free");
        assert!(pool.lease(1).is_none(), "limit");
        drop(first);
        assert_eq!(pool.lease(1).expect("free").port(), 16388);
        let claimed = pool.claim(16390).expect("free");
        assert_eq!((claimed.port(), pool.usage()), (16390, (1, 3)));
        assert!([16390, 16391, 16384, 16392].iter().all(|port| pool.claim(*port).is_none()), "taken, odd, outside");
    }

    #[test]
    fn the_edges_of_the_range_are_safe() {
        for (range, pairs) in [(65534..=65535, 1), (65535..=65535, 0), (0..=65535, 32768)] {
            let pool = PortPool::new(&range);
            assert_eq!(pool.usage().1, pairs);
            assert_eq!(pool.lease(usize::MAX).is_some(), pairs > 0);
        }
    }
}

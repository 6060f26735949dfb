//! Loopback ports for tests that run side by side. Enters: nothing; leaves: ports that no other test was given.
//!
//! All lie below the range that the kernel hands out, so nothing that binds port 0 takes one before its user has it. Each
//! test process has a quarter of the territory for itself, held by a lock on a file.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const QUARTER: u16 = 5_500;
const QUARTERS: u16 = 4;

/// Of each quarter, what is handed out one by one; the rest goes in ranges.
const SINGLES: u16 = 1_500;

/// Ports of the smallest range: enough for 400 calls.
const RANGE: u16 = 800;

/// sipp takes the ports after the one that it was given for audio, too.
const STEP: u16 = 4;

struct Quarter {
    first: u16,
    singles: AtomicU16,
    ranges: AtomicU16,
    _claim: File,
}

static OURS: LazyLock<Quarter> = LazyLock::new(|| {
    let claim = |number: u16| {
        let path = std::env::temp_dir().join(format!("callbox-test-ports-{number}"));
        let file = File::options().create(true).append(true).open(path).ok()?;
        file.try_lock().ok()?;
        let first = FIRST + number * QUARTER;
        Some(Quarter { first, singles: AtomicU16::new(0), ranges: AtomicU16::new(0), _claim: file })
    };
    (0..QUARTERS).find_map(claim).expect("at most four test processes at once")
});

/// A port that is free for UDP and for TCP.
///
/// # Panics
/// If there is none, or more than four test processes run.
pub fn free_port() -> u16 {
    let free = |port: &u16| {
        let address = (Ipv4Addr::LOCALHOST, *port);
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    let next = || OURS.first + OURS.singles.fetch_add(1, Ordering::Relaxed) % (SINGLES / STEP) * STEP;
    (0..SINGLES / STEP).map(|_| next()).find(free).expect("a free port in the territory of this test process")
}

/// First and last of the ports for RTP of so many calls, at most 2000. After the last range it begins
/// again, and their users skip what is taken.
pub(super) fn rtp_range(calls: u16) -> (u16, u16) {
    const ALL: u16 = (QUARTER - SINGLES) / RANGE;
    let wanted = (2 * calls).div_ceil(RANGE).clamp(1, ALL);
    let number = (OURS.ranges.fetch_add(wanted, Ordering::Relaxed) % ALL).min(ALL - wanted);
    let first = OURS.first + SINGLES + number * RANGE;
    (first, first + (2 * calls).min(wanted * RANGE) - 1)
}

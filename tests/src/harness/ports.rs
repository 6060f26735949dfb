//! Loopback ports that nobody uses now. Enters: nothing; leaves: port numbers.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// A port that is free for UDP and for TCP.
///
/// # Panics
/// If the machine has none.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let Ok(udp) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { continue };
        let Ok(port) = udp.local_addr().map(|address| address.port()) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port in a hundred tries");
}

/// First of `count` ports for RTP, below the range that the kernel hands out, and different for test processes that run
/// side by side.
pub(super) fn rtp_block(count: u16) -> u16 {
    let slot = u16::try_from(std::process::id() % 10).unwrap_or(0);
    16_384 + slot * count
}

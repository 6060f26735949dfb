//! The sockets of one call: an even UDP port for RTP, the next one for RTCP, both marked for expedited forwarding.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ports::PortLease;

/// DSCP EF (RFC 3246), in the place of the old type of service.
const EXPEDITED: u32 = 46 << 2;
/// Half a second of packets, headroom of the kernel's bookkeeping included. More would only be late audio.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Bound ports that wait for a session. Dropping it frees them.
#[derive(Debug)]
pub struct Reservation {
    pub(super) rtp: UdpSocket,
    pub(super) rtcp: UdpSocket,
    address: IpAddr,
    // Last, so that the ports are free for others only after the sockets are closed.
    lease: PortLease,
}

impl Reservation {
    pub(super) fn bind(address: IpAddr, lease: PortLease) -> io::Result<Self> {
        let port = lease.port();
        Ok(Self { rtp: bind(address, port)?, rtcp: bind(address, port + 1)?, address, lease })
    }

    /// The RTP port; RTCP has the next one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    /// The address that both are bound to.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

fn bind(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(address, port)), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let marked = match address {
        IpAddr::V4(_) => socket.set_tos_v4(EXPEDITED),
        IpAddr::V6(_) => socket.set_tclass_v6(EXPEDITED),
    };
    if let Err(error) = marked {
        tracing::debug!(%error, "media packets go unmarked");
    }
    socket.bind(&SockAddr::from(SocketAddr::new(address, port)))?;
    Ok(socket.into())
}

//! The sockets of one call: an even UDP port for RTP, the next one for RTCP, both marked for expedited forwarding.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::missed::Missed;
use super::ports::PortLease;

/// DSCP EF (RFC 3246), in the place of the old type of service.
const EXPEDITED: u32 = 46 << 2;
/// Half a second of packets, headroom of the kernel's bookkeeping included. More would only be late audio.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Datagrams that a socket's buffer may hold.
const WAITING: usize = 4096;

/// A packet of 200 ms and its header.
const LONGEST: usize = 2048;

/// Bound ports that wait for a session. Dropping it frees them.
#[derive(Debug)]
pub struct Reservation {
    pub(super) rtp: UdpSocket,
    pub(super) rtcp: UdpSocket,
    address: IpAddr,
    port: u16,
    // Last, so that the ports are free for others only after the sockets are closed.
    #[expect(dead_code, reason = "its drop is its use")]
    lease: Option<PortLease>,
}

impl Reservation {
    pub(super) fn bind(address: IpAddr, lease: PortLease) -> io::Result<Self> {
        let port = lease.port();
        let (rtp, rtcp) = (bind(address, port)?, bind(address, port + 1)?);
        Ok(Self { rtp, rtcp, address, port, lease: Some(lease) })
    }

    /// Takes over sockets that an earlier process has bound, and what the RTP socket was sent meanwhile.
    /// `lease`: of their port, if that still is one of ours.
    pub(super) fn adopt(
        rtp: OwnedFd,
        rtcp: OwnedFd,
        lease: impl FnOnce(u16) -> Option<PortLease>,
    ) -> io::Result<(Self, Missed)> {
        let (rtp, rtcp) = (UdpSocket::from(rtp), UdpSocket::from(rtcp));
        let mut missed = Missed::default();
        for (socket, wanted) in [(&rtp, true), (&rtcp, false)] {
            socket.set_nonblocking(true)?;
            let mut buffer = [0; LONGEST];
            // Not for ever: somebody may be sending faster than this can read.
            for _ in 0..WAITING {
                match socket.recv_from(&mut buffer) {
                    Ok((length, source)) if wanted => missed.0.push((source, buffer[..length].to_vec())),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Other errors are ICMP's, about packets that were sent.
                    _ => {}
                }
            }
        }
        let bound = rtp.local_addr()?;
        let reservation = Self { rtp, rtcp, address: bound.ip(), port: bound.port(), lease: lease(bound.port()) };
        Ok((reservation, missed))
    }

    /// Descriptors of both sockets, RTP first, for whoever keeps them beyond this process.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn descriptors(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.rtp.try_clone()?.into(), self.rtcp.try_clone()?.into()])
    }

    /// The RTP port; RTCP has the next one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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

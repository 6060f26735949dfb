//! Sockets that were opened before this process began, so that port 5060 is never closed while the daemon is replaced.
//! Enters: descriptors; leaves: the one that fits an address of the configuration, or none, and then one is bound.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

/// Sockets that wait for their address. Those that nobody asks for are closed with it.
#[derive(Debug, Default)]
pub(super) struct Passed(Vec<(Type, SocketAddr, Socket)>);

impl Passed {
    /// Sorts descriptors; one that is no bound UDP socket and no TCP listener is closed, with a word.
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> Self {
        let sorted = descriptors.into_iter().filter_map(|descriptor| {
            let socket = Socket::from(descriptor);
            let found = socket.r#type().and_then(|kind| Ok((kind, socket.local_addr()?.as_socket())));
            match found {
                Ok((kind @ (Type::DGRAM | Type::STREAM), Some(address))) => {
                    socket.set_nonblocking(true).ok()?;
                    Some((kind, address, socket))
                }
                _ => {
                    tracing::warn!("the service manager passed something named `sip` that is no UDP or TCP socket");
                    None
                }
            }
        });
        Self(sorted.collect())
    }

    /// The UDP socket of this address.
    pub(super) fn udp(&mut self, address: SocketAddr) -> Option<std::net::UdpSocket> {
        self.take(Type::DGRAM, address).map(Into::into)
    }

    /// The listener of this address, for TCP or TLS.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        self.take(Type::STREAM, address).map(Into::into)
    }

    /// Says which ones the configuration does not name.
    pub(super) fn warn_of_unused(&self) {
        for (kind, address, _) in &self.0 {
            let protocol = if *kind == Type::DGRAM { "sip.udp" } else { "sip.tcp or sip.tls" };
            tracing::warn!(%address, "callbox.socket opens an address that {protocol} does not name; it is not used");
        }
    }

    fn take(&mut self, kind: Type, address: SocketAddr) -> Option<Socket> {
        let place = self.0.iter().position(|(found, bound, _)| *found == kind && *bound == address)?;
        Some(self.0.swap_remove(place).2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_type_and_address() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let (at_udp, at_tcp) = (udp.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
        let file = std::fs::File::open("/dev/null").expect("it is always there");
        let mut passed = Passed::new(vec![udp.into(), tcp.into(), file.into()]);
        assert!(passed.tcp(at_udp).is_none() && passed.udp(at_tcp).is_none());
        assert!(passed.udp(at_udp).is_some() && passed.tcp(at_tcp).is_some());
        assert!(passed.udp(at_udp).is_none(), "taken");
    }
}

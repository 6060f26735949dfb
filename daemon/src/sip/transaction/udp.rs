//! UDP sockets: bind, receive, and the one way by which everything is sent. Enters: datagrams; leaves: datagrams, each of
//! them shown to the tracer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use rsipstack::platform::net::UdpSocket as Platform;
use rsipstack::transport::SipConnection;
use rsipstack::transport::udp::UdpConnection;
use tokio::net::UdpSocket;

use super::{Flow, Transport};
use crate::sip::endpoint::{SipError, bind_error};
use crate::sip::trace::Tracer;

/// One UDP socket of ours.
pub(super) struct Udp {
    pub(super) wire: Arc<Wire>,
    pub(super) conn: SipConnection,
    pub(super) local: SocketAddr,
}

/// The socket itself, as the transaction machines see it.
pub(super) struct Wire {
    socket: UdpSocket,
    local: SocketAddr,
    tracer: Tracer,
}

impl Wire {
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer).await
    }

    pub(super) async fn send(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.tracer.record(true, Flow { transport: Transport::Udp, local: self.local, peer }, bytes);
        self.socket.send_to(bytes, peer).await
    }
}

#[async_trait]
impl Platform for Wire {
    async fn recv_from(&self, buffer: &mut [u8]) -> rsipstack::Result<(usize, SocketAddr)> {
        Ok(self.receive(buffer).await?)
    }

    async fn send_to(&self, bytes: &[u8], peer: SocketAddr) -> rsipstack::Result<usize> {
        Ok(self.send(bytes, peer).await?)
    }

    fn local_addr(&self) -> rsipstack::Result<SocketAddr> {
        Ok(self.local)
    }
}

pub(super) async fn bind(
    address: SocketAddr,
    passed: Option<std::net::UdpSocket>,
    tracer: Tracer,
) -> Result<Udp, SipError> {
    let socket = match passed {
        Some(socket) => UdpSocket::from_std(socket),
        None => super::socket_of(address, socket2::Type::DGRAM).and_then(|socket| {
            socket.bind(&address.into())?;
            UdpSocket::from_std(socket.into())
        }),
    };
    let socket = socket.map_err(|e| bind_error("udp", address, &e))?;
    // A burst of INVITEs must wait in the kernel rather than be lost; where it may not, the default has to do.
    drop(socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20));
    let local = socket.local_addr().map_err(|e| bind_error("udp", address, &e))?;
    let wire = Arc::new(Wire { socket, local, tracer });
    let conn = UdpConnection::from_socket(Arc::<Wire>::clone(&wire), None, None)
        .await
        .map_err(|_| bind_error("udp", address, &io::Error::other("no local address")))?;
    Ok(Udp { wire, conn: SipConnection::Udp(conn), local })
}

//! The transaction layer (RFC 3261 §17, RFC 6026) behind a trait of our own, so that the crate below can be replaced.
//! Enters: messages to send; leaves: requests that are new, ACKs, CANCELs, responses, and the end of each transaction.
//! Retransmissions in both directions, the ACK of a non-2xx and the 200 to a CANCEL happen below and never surface.
//! Only this folder names `rsipstack`.

mod convert;
mod frame;
mod passed;
mod rsip;
mod stream;
#[cfg(test)]
mod tests;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::EndpointConfig;
use super::admission::Limits;
use super::endpoint::SipError;
use super::message::Message;
use super::offences::Offence;
use super::tls::Tls;
use super::trace::Tracer;
use crate::base::Clock;
use crate::base::trunk::{TrunkName, Trunks};

/// A transaction. Server transactions are numbered by the layer (even), client transactions by the core (odd).
pub type TxId = u64;

/// Transport protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// As in Via.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// Whether it keeps connections and repeats nothing.
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Where it listens unless something else is said (RFC 3261 §19.1.2).
    pub const fn default_port(self) -> u16 {
        if matches!(self, Self::Tls) { 5061 } else { 5060 }
    }
}

/// Where a message came from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Protocol.
    pub transport: Transport,
    /// Our address as the peer can reach it: sent-by of Via, host of Contact.
    pub local: SocketAddr,
    /// The peer's socket.
    pub peer: SocketAddr,
}

/// What the layer reports. A server transaction begins with `Request` and ends with `Ended`.
#[derive(Debug)]
pub enum TxnEvent {
    /// A new request, never an ACK or a CANCEL.
    Request {
        /// Answer with this.
        tx: TxId,
        /// Where it came from.
        flow: Flow,
        /// The request; its Via carries received and rport.
        msg: Box<Message>,
    },
    /// The ACK to the 2xx of this server transaction.
    Ack {
        /// The INVITE's transaction.
        tx: TxId,
        /// Its body is the answer to a late offer.
        msg: Box<Message>,
    },
    /// The peer gave up this INVITE before a final response. The CANCEL itself has been answered.
    Cancel {
        /// The INVITE's transaction.
        tx: TxId,
    },
    /// A response to a request of ours: provisional ones, one final one (408 made here after 64·T1).
    Response {
        /// As given to [`TxnLayer::request`].
        tx: TxId,
        /// The response.
        msg: Box<Message>,
    },
    /// A 2xx to an INVITE whose transaction is over: a repeated one, or a fork's. It wants an ACK.
    Stray2xx {
        /// Where it came from.
        flow: Flow,
        /// The response.
        msg: Box<Message>,
    },
    /// This transaction is over and will not be mentioned again.
    Ended {
        /// Which.
        tx: TxId,
    },
}

/// Where a request of ours goes. The Route set and the remote target are already in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Protocol.
    pub transport: Transport,
    /// URI to resolve, by A and AAAA records alone; a name that has none (but SRV, say) is taken for the peer of `flow`.
    /// The servers of a trunk have been located by then, and come as addresses.
    pub uri: String,
    /// The flow that the dialog came over: its stream is used while it lives.
    pub flow: Option<Flow>,
    /// Over TLS: the name that the server's certificate must have; none takes the host of `uri` (RFC 5922 §4).
    pub name: Option<String>,
}

/// Figures of the layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxnStats {
    /// Transactions in progress.
    pub running: usize,
    /// Finished ones that are kept 64·T1 to answer repeated requests.
    pub finished: usize,
    /// Open TCP and TLS connections.
    pub connections: usize,
    /// TLS handshakes that came to nothing, of either side.
    pub handshakes_failed: u64,
    /// Messages that were no SIP, or SIP that could not be processed.
    pub malformed: u64,
    /// Dropped unread: too many messages, INVITEs, connections or transactions, or too long.
    pub dropped: u64,
}

/// RFC 3261 §17.1.1.1. Tests use short ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Round trip estimate, 500 ms.
    pub t1: Duration,
    /// Longest retransmission interval, 4 s.
    pub t2: Duration,
    /// How long a message lives in the network, 5 s.
    pub t4: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) }
    }
}

impl Timers {
    /// Timers B, F, H, L and M.
    pub fn t1x64(&self) -> Duration {
        self.t1 * 64
    }
}

/// What the dialog core needs from below. No call blocks; what cannot be sent ends as a timeout.
pub trait TxnLayer: Send + Sync {
    /// Sends a response. Final responses, 2xx included, are repeated below until the ACK or 64·T1.
    fn respond(&self, tx: TxId, response: Message);
    /// Sends a request in a new client transaction. Via must be there, with the branch.
    fn request(&self, tx: TxId, request: Message, to: NextHop);
    /// Sends the ACK of a 2xx, which is no transaction.
    fn ack(&self, ack: Message, to: NextHop);
    /// Goes on with the server transaction of an INVITE that an earlier process has received, its Via stamped; it has had
    /// no final response, or nobody knows. None if there is no way to answer it: its connection ended with the process.
    fn adopt(&self, invite: &Message, flow: Flow) -> Option<TxId>;
    /// Reads the sockets from now on.
    fn listen(&self);
    /// Forgets a transaction without another word.
    fn abandon(&self, tx: TxId);
    /// Where this protocol listens.
    fn local(&self, transport: Transport) -> &[SocketAddr];
    /// Our address as this peer can reach it.
    fn local_towards(&self, transport: Transport, peer: SocketAddr) -> Option<SocketAddr>;
    /// Other limits of admission from now on; those of sockets and transactions stay.
    fn limit(&self, limits: Limits);
    /// What handshakes are made with.
    fn certificates(&self) -> Option<Tls>;
    /// Other certificates for later handshakes; what is connected stays so.
    fn certify(&self, tls: Tls);
    /// Other trunks from now on. Connections that are open stay.
    fn trunks(&self, trunks: Trunks);
    /// A source did something that its messages alone do not show.
    fn offended(&self, source: IpAddr, offence: Offence);
    /// How often each of [`Offence::ALL`] happened, and for each trunk what was dropped unread because it was too much.
    fn refused(&self) -> ([u64; Offence::ALL.len()], Vec<(TrunkName, u64)>);
    /// Figures.
    fn stats(&self) -> TxnStats;
    /// Closes sockets and ends tasks.
    fn shutdown(&self);
}

/// Binds the sockets and builds the layer; [`TxnLayer::listen`] lets it read.
///
/// # Errors
/// [`SipError::Bind`] names the address.
pub(super) async fn start(
    config: &EndpointConfig,
    inherited: Vec<OwnedFd>,
    clock: Arc<dyn Clock>,
    tracer: Tracer,
    events: mpsc::Sender<TxnEvent>,
) -> Result<Arc<dyn TxnLayer>, SipError> {
    let layer = rsip::RsipLayer::start(config, passed::Passed::new(inherited), clock, tracer, events).await?;
    Ok(layer)
}

/// Bytes of one UDP or framed TCP message to the crate below and back: what the fuzz target calls.
#[doc(hidden)]
pub fn fuzz_message(raw: &[u8]) {
    if let Ok(message) = Message::parse(raw) {
        convert::fuzz_round_trip(&message);
    }
}

/// A socket of the family of this address alone: one for both would show IPv4 peers under IPv6 names, and would keep the
/// IPv4 address from being bound beside it.
fn socket_of(address: SocketAddr, kind: socket2::Type) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The limits that the sockets need.
fn socket_limits(limits: &Limits) -> (usize, (usize, usize), Duration) {
    (limits.max_message, limits.max_connections, limits.connection_idle)
}

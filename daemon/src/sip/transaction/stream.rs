//! Connections: accept, connect, shake hands, read, write, keep alive, caps; over TCP and over TLS. Enters: streams; leaves:
//! whole messages, admitted before they are parsed. A connection is two tasks that end together; nothing waits for a
//! slow peer longer than the write time limit.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rsipstack::transport::channel::ChannelConnection;
use rsipstack::transport::{SipConnection, TransportEvent};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::convert::sip_addr;
use super::frame::{Frame, next_frame};
use super::passed::Passed;
use super::rsip::{Origin, RawOut, RsipLayer, lock};
use super::{Flow, Transport, TxnLayer};
use crate::sip::EndpointConfig;
use crate::sip::endpoint::{SipError, bind_error};
use crate::sip::message::{Message, raw_header};
use crate::sip::tls::Tls;
use crate::sip::trace::Tracer;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a message may wait for its source to be below its rate: as long as its transaction lives (timer B).
const ADMIT_LIMIT: Duration = Duration::from_secs(32);
const ADMIT_PAUSE: Duration = Duration::from_millis(50);
/// Messages that wait for a slow peer; beyond it its transactions wait.
const OUTGOING: usize = 64;
/// Shortest silence that a connection is closed for once a call has come over it: a call may be silent for long.
const IDLE_WITH_CALL: Duration = Duration::from_secs(3600);
/// How long a peer that has answered pings before may take to answer one (RFC 5626 §4.4.1).
const PONG_LIMIT: Duration = Duration::from_secs(10);
const PING: &[u8] = b"\r\n\r\n";
const PONG: &[u8] = b"\r\n";

/// A connection that is open, or about to be.
struct Open {
    /// None while hands are shaken.
    conn: Option<SipConnection>,
    /// The name that the server has proven, where we have asked for one.
    name: Option<String>,
    /// So that the end of one does not forget the next one to the same peer.
    number: u64,
}

/// Who connects to a peer, and when the last attempt has failed.
type Turn = tokio::sync::Mutex<Option<Instant>>;

/// A peer, and the name that it must prove.
type Proven = (SocketAddr, Option<String>);

/// What becomes of a message from a stream.
enum Gate {
    Read,
    Skip,
    /// It ends the connection, too.
    End,
}

/// The open connections, by protocol and the peer's socket.
pub(super) struct Streams {
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    open: Mutex<HashMap<(Transport, SocketAddr), Open>>,
    /// Peers that are being connected to: whoever else wants to waits for that connection.
    opening: Mutex<HashMap<Proven, Weak<Turn>>>,
    opened: AtomicU64,
    certificates: Mutex<Option<Tls>>,
    handshakes_failed: AtomicU64,
    max_message: usize,
    caps: (usize, usize),
    idle: Duration,
}

impl Streams {
    pub(super) fn bind(
        config: &EndpointConfig,
        passed: &mut Passed,
        (max_message, caps, idle): (usize, (usize, usize), Duration),
    ) -> Result<(Self, Vec<(Transport, TcpListener)>), SipError> {
        let mut listeners = Vec::new();
        let mut bind = |transport, name, addresses: &[SocketAddr]| {
            let mut bound = Vec::new();
            for address in addresses {
                let listener = match passed.tcp(*address) {
                    Some(listener) => TcpListener::from_std(listener),
                    None => listen(*address),
                };
                let listener = listener.map_err(|e| bind_error(name, *address, &e))?;
                bound.push(listener.local_addr().map_err(|e| bind_error(name, *address, &e))?);
                listeners.push((transport, listener));
            }
            Ok(bound)
        };
        let (tcp, tls) = (bind(Transport::Tcp, "tcp", &config.tcp)?, bind(Transport::Tls, "tls", &config.tls)?);
        let streams = Self {
            tcp,
            tls,
            open: Mutex::default(),
            opening: Mutex::default(),
            opened: AtomicU64::new(0),
            certificates: Mutex::new(config.certificates.clone()),
            handshakes_failed: AtomicU64::new(0),
            max_message,
            caps,
            idle,
        };
        Ok((streams, listeners))
    }

    pub(super) fn addresses(&self, transport: Transport) -> &[SocketAddr] {
        match transport {
            Transport::Udp => &[],
            Transport::Tcp => &self.tcp,
            Transport::Tls => &self.tls,
        }
    }

    pub(super) fn open(&self) -> usize {
        lock(&self.open).len()
    }

    pub(super) fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    pub(super) fn certificates(&self) -> Option<Tls> {
        lock(&self.certificates).clone()
    }

    pub(super) fn certify(&self, tls: Tls) {
        *lock(&self.certificates) = Some(tls);
    }

    /// The connection that a peer and we have, whoever has opened it.
    pub(super) fn existing(&self, transport: Transport, peer: SocketAddr) -> Option<SipConnection> {
        lock(&self.open).get(&(transport, peer))?.conn.clone()
    }

    /// One that leads to who has proven this name.
    fn existing_to(&self, peer: SocketAddr, name: Option<&str>) -> Option<SipConnection> {
        let transport = if name.is_some() { Transport::Tls } else { Transport::Tcp };
        let open = lock(&self.open);
        open.get(&(transport, peer)).filter(|open| open.name.as_deref() == name)?.conn.clone()
    }

    /// A place for a connection, if there is one; whoever gets it fills it or gives it back.
    fn reserve(&self, transport: Transport, peer: SocketAddr) -> bool {
        let mut open = lock(&self.open);
        let room = open.len() < self.caps.0 && open.keys().filter(|(_, p)| p.ip() == peer.ip()).count() < self.caps.1;
        if room {
            open.insert((transport, peer), Open { conn: None, name: None, number: 0 });
        }
        room
    }

    /// Whoever holds it connects to this peer alone.
    fn turn(&self, peer: SocketAddr, name: Option<&str>) -> Arc<Turn> {
        let key = (peer, name.map(str::to_owned));
        let mut opening = lock(&self.opening);
        opening.retain(|_, turn| turn.strong_count() > 0);
        let turn = opening.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        opening.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn give_back(&self, transport: Transport, peer: SocketAddr) {
        lock(&self.open).remove(&(transport, peer));
    }

    fn handshake_failed(&self, error: &dyn std::fmt::Display) {
        // A scanner makes thousands: the first of them is said, then every hundredth.
        let failed = self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        if failed.is_multiple_of(100) {
            tracing::info!(%error, failed = failed + 1, "a TLS handshake with a caller failed");
        }
    }
}

impl RsipLayer {
    pub(super) async fn accept(self: Arc<Self>, transport: Transport, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if self.welcomes(peer) && self.streams.reserve(transport, peer) => {
                    // The address that the peer has called, of all that we listen on.
                    let local = stream.local_addr().ok().and_then(|bound| self.reachable(bound, peer));
                    match local {
                        Some(local) if transport == Transport::Tls => {
                            tokio::spawn(self.clone().welcome(stream, Flow { transport, local, peer }));
                        }
                        Some(local) => drop(self.open_tcp(stream, Flow { transport, local, peer }, false).await),
                        None => self.streams.give_back(transport, peer),
                    }
                }
                Ok(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    // Out of descriptors: wait for some to come back.
                    tracing::warn!(%error, "cannot accept a SIP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// The handshake with who calls us.
    async fn welcome(self: Arc<Self>, stream: TcpStream, flow: Flow) {
        let server = lock(&self.streams.certificates).as_ref().and_then(|tls| tls.server().cloned());
        let shaken = async {
            let acceptor = TlsAcceptor::from(server.ok_or_else(|| std::io::Error::other("no certificate"))?);
            stream.set_nodelay(true)?;
            timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await?
        };
        match shaken.await {
            Ok(stream) => {
                let (read, write) = tokio::io::split(stream);
                drop(self.open_stream((read, write), flow, None, false).await);
            }
            Err(error) => {
                self.streams.give_back(flow.transport, flow.peer);
                self.streams.handshake_failed(&error);
            }
        }
    }

    /// A connection to this peer: over TLS if there is a name that it must prove.
    pub(super) async fn stream_to(self: &Arc<Self>, peer: SocketAddr, name: Option<&str>) -> Option<SipConnection> {
        let (turn, asked) = (self.streams.turn(peer, name), Instant::now());
        let mut failed = turn.lock().await;
        if let Some(conn) = self.streams.existing_to(peer, name) {
            return Some(conn);
        }
        // Whoever waited for an attempt that failed has had its answer: the next one would take as long.
        if failed.is_some_and(|at| at >= asked) {
            return None;
        }
        let conn = self.connect_to(peer, name).await;
        if conn.is_none() {
            *failed = Some(Instant::now());
        }
        conn
    }

    async fn connect_to(self: &Arc<Self>, peer: SocketAddr, name: Option<&str>) -> Option<SipConnection> {
        let transport = if name.is_some() { Transport::Tls } else { Transport::Tcp };
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(peer)).await.ok()?.ok()?;
        let local = self.local_towards(transport, peer).or_else(|| stream.local_addr().ok())?;
        let flow = Flow { transport, local, peer };
        let Some(name) = name else { return self.open_tcp(stream, flow, true).await };
        let shaken = async {
            let client = lock(&self.streams.certificates).as_ref().map(|tls| Arc::clone(tls.client()));
            let client = client.ok_or_else(|| std::io::Error::other("TLS is not configured"))?;
            let server = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
            stream.set_nodelay(true)?;
            timeout(HANDSHAKE_LIMIT, TlsConnector::from(client).connect(server, stream)).await?
        };
        match shaken.await {
            Ok(stream) => self.open_stream(tokio::io::split(stream), flow, Some(name.to_owned()), true).await,
            Err(error) => {
                self.streams.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(server = name, %error, "a TLS handshake with a server failed");
                None
            }
        }
    }

    async fn open_tcp(self: &Arc<Self>, stream: TcpStream, flow: Flow, ours: bool) -> Option<SipConnection> {
        // Without it a message may wait for the acknowledgement of the one before.
        drop(stream.set_nodelay(true));
        self.open_stream(stream.into_split(), flow, None, ours).await
    }

    /// Starts the two tasks of a connection. `ours`: we have opened it, so we keep it alive.
    pub(super) async fn open_stream<R, W>(
        self: &Arc<Self>,
        (read, write): (R, W),
        flow: Flow,
        name: Option<String>,
        ours: bool,
    ) -> Option<SipConnection>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        #[expect(clippy::disallowed_methods, reason = "the crate's type for a direction that is not used")]
        let (_, incoming) = mpsc::unbounded_channel();
        let address = sip_addr(flow.transport, flow.peer);
        let channel = ChannelConnection::create_connection_bounded(incoming, outgoing, address, None).await.ok()?;
        let conn = SipConnection::Channel(channel);
        let (raw, raw_messages) = mpsc::channel(8);
        let origin = Origin { flow, conn: conn.clone(), raw: RawOut::Stream(raw) };
        let key = (flow.transport, flow.peer);
        let number = self.streams.opened.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.streams.open).insert(key, Open { conn: Some(conn.clone()), name, number });
        let closed = self.cancel.child_token();
        let tap = (self.tracer.clone(), flow);
        tokio::spawn(write_stream(write, messages, raw_messages, tap, closed.clone()));
        let layer = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = layer.read_stream(read, &origin, ours) => {}
            }
            closed.cancel();
            let mut open = lock(&layer.streams.open);
            if open.get(&key).is_some_and(|open| open.number == number) {
                open.remove(&key);
            }
        });
        Some(conn)
    }

    async fn read_stream<R>(self: &Arc<Self>, mut stream: R, origin: &Origin, ours: bool)
    where
        R: AsyncRead + Unpin + Send,
    {
        let (mut idle, limit) = (self.streams.idle, self.streams.max_message);
        let say = |bytes: &[u8]| {
            if let RawOut::Stream(out) = &origin.raw {
                // A peer that does not even take a line end is not kept alive by one.
                drop(out.try_send(bytes.to_vec()));
            }
        };
        let mut buffer: Vec<u8> = Vec::with_capacity(2048);
        let mut until = Instant::now() + idle;
        let pause = self.streams.idle / 3;
        let mut ping = ours.then(|| Instant::now() + pause);
        // When we have asked for a pong; whether the peer gives any, and whether it sends line ends that nobody asked for.
        let (mut asked, mut answers, mut strays) = (None::<Instant>, false, false);
        // What is still to come of a message that is not read.
        let mut skip = 0_usize;
        loop {
            let fresh = buffer.is_empty() && skip == 0;
            let wake = ping.map_or(until, |at| at.min(until));
            match timeout_at(wake, stream.read_buf(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => {}
                Err(_) if Instant::now() < until => {
                    say(PING);
                    ping = Some(Instant::now() + pause);
                    asked = Some(Instant::now());
                    if answers && !strays && fresh {
                        until = until.min(Instant::now() + PONG_LIMIT);
                    }
                    continue;
                }
                _ => return,
            }
            // A half message may not keep a connection open as long as silence may, however slowly it comes.
            if fresh {
                until = Instant::now() + self.streams.idle / 10;
            }
            loop {
                let skipped = skip.min(buffer.len());
                buffer.drain(..skipped);
                skip -= skipped;
                match next_frame(&buffer, limit) {
                    Frame::Blank { length, ping } => {
                        buffer.drain(..length);
                        if ping {
                            say(PONG);
                        } else if asked.take().is_some_and(|at| at.elapsed() <= PONG_LIMIT) {
                            answers = true;
                        } else {
                            // Such a peer proves nothing by a line end, nor by none.
                            strays = true;
                        }
                    }
                    Frame::Partial => break,
                    Frame::Broken => return,
                    Frame::Message(length) => {
                        let message: Vec<u8> = buffer.drain(..length).collect();
                        match self.admit_from_stream(origin.flow.peer, &message).await {
                            Gate::Read => {
                                if is_of_a_call(&message) {
                                    idle = idle.max(IDLE_WITH_CALL);
                                }
                                self.on_message(&message, origin).await;
                            }
                            Gate::Skip => {}
                            Gate::End => return,
                        }
                        until = Instant::now() + self.streams.idle / 10;
                    }
                    Frame::TooLong { head, total } => {
                        self.refuse_too_long(buffer.get(..head).unwrap_or_default(), origin).await;
                        skip = total;
                        until = Instant::now() + self.streams.idle / 10;
                    }
                }
            }
            if buffer.is_empty() && skip == 0 {
                until = Instant::now() + idle;
            }
        }
    }

    /// A stream repeats nothing, so what comes too fast waits, and its sender with it.
    async fn admit_from_stream(&self, peer: SocketAddr, message: &[u8]) -> Gate {
        let until = Instant::now() + ADMIT_LIMIT;
        while let Err(refusal) = self.admits(peer, message) {
            if !refusal.passes() || Instant::now() >= until {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return if refusal.is_of_one_message() { Gate::Skip } else { Gate::End };
            }
            tokio::time::sleep(ADMIT_PAUSE).await;
        }
        Gate::Read
    }

    /// RFC 3261 §21.5.7. Its head is all that is known of the message.
    async fn refuse_too_long(&self, head: &[u8], origin: &Origin) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let request = match catch_unwind(|| Message::parse(head)) {
            Ok(Ok(request)) => Some(Box::new(request)),
            Ok(Err((_, request))) => request,
            Err(_) => None,
        };
        if let Some(request) = request.filter(|request| request.status() == 0) {
            self.refuse(*request, 513, "Message Too Large", origin).await;
        }
    }
}

/// An INVITE of either side: a request of the peer's, or what it says to one of ours.
fn is_of_a_call(message: &[u8]) -> bool {
    let answers = || raw_header(message, "CSeq").is_some_and(|cseq| cseq.ends_with(b"INVITE"));
    message.starts_with(b"INVITE ") || (message.starts_with(b"SIP/2.0 ") && answers())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = super::socket_of(address, socket2::Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn write_stream<W: AsyncWrite + Unpin>(
    mut stream: W,
    mut messages: mpsc::Receiver<TransportEvent>,
    mut raw: mpsc::Receiver<Vec<u8>>,
    (tracer, flow): (Tracer, Flow),
    closed: CancellationToken,
) {
    loop {
        let bytes = tokio::select! {
            () = closed.cancelled() => break,
            Some(bytes) = raw.recv() => bytes,
            event = messages.recv() => match event {
                Some(TransportEvent::Incoming(message, ..)) => match message {
                    rsipstack::sip::SipMessage::Request(r) => r.to_bytes(),
                    rsipstack::sip::SipMessage::Response(r) => r.to_bytes(),
                },
                Some(_) => continue,
                None => break,
            },
        };
        tracer.record(true, flow, &bytes);
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if !matches!(timeout(WRITE_LIMIT, written).await, Ok(Ok(()))) {
            break;
        }
    }
    closed.cancel();
    // Over TLS a goodbye, so that the peer knows that nothing was cut off; whoever does not take it has gone.
    drop(timeout(Duration::from_secs(1), stream.shutdown()).await);
}

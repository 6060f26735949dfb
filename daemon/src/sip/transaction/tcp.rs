//! TCP connections: accept, connect, framing by Content-Length (RFC 3261 §18.3), caps. Enters: streams; leaves: whole
//! messages, admitted before they are parsed. A connection is two tasks that end together; nothing waits for a slow
//! peer longer than the write time limit.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rsipstack::transport::channel::ChannelConnection;
use rsipstack::transport::{SipConnection, TransportEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::passed::Passed;
use super::rsip::{Origin, RawOut, RsipLayer, lock, sip_addr};
use super::{Flow, Transport, TxnLayer};
use crate::sip::endpoint::{SipError, bind_error};
use crate::sip::message::split_head;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a message may wait for its source to be below its rate: as long as its transaction lives (timer B).
const ADMIT_LIMIT: Duration = Duration::from_secs(32);
const ADMIT_PAUSE: Duration = Duration::from_millis(50);
/// Messages that wait for a slow peer; beyond it its transactions wait.
const OUTGOING: usize = 64;

/// The open connections, by the peer's socket.
pub(super) struct Streams {
    addresses: Vec<SocketAddr>,
    open: Mutex<HashMap<SocketAddr, SipConnection>>,
    max_message: usize,
    caps: (usize, usize),
    idle: Duration,
}

impl Streams {
    pub(super) async fn bind(
        addresses: &[SocketAddr],
        passed: &mut Passed,
        (max_message, caps, idle): (usize, (usize, usize), Duration),
    ) -> Result<(Self, Vec<TcpListener>), SipError> {
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let listener = match passed.tcp(*address) {
                Some(listener) => TcpListener::from_std(listener),
                None => listen(*address),
            };
            let listener = listener.map_err(|e| bind_error("tcp", *address, &e))?;
            bound.push(listener.local_addr().map_err(|e| bind_error("tcp", *address, &e))?);
            listeners.push(listener);
        }
        let open = Mutex::default();
        Ok((Self { addresses: bound, open, max_message, caps, idle }, listeners))
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn open(&self) -> usize {
        lock(&self.open).len()
    }

    pub(super) fn existing(&self, peer: SocketAddr) -> Option<SipConnection> {
        lock(&self.open).get(&peer).cloned()
    }

    fn has_room(&self, peer: SocketAddr) -> bool {
        let open = lock(&self.open);
        open.len() < self.caps.0 && open.keys().filter(|p| p.ip() == peer.ip()).count() < self.caps.1
    }
}

impl RsipLayer {
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if self.welcomes(peer) && self.streams.has_room(peer) => {
                    // The address that the peer has called, of all that we listen on.
                    let local = stream.local_addr().ok().and_then(|bound| self.reachable(bound, peer));
                    if let Some(local) = local {
                        drop(self.open_stream(stream, local, peer).await);
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

    pub(super) async fn stream_to(self: &Arc<Self>, peer: SocketAddr) -> Option<SipConnection> {
        if let Some(conn) = self.streams.existing(peer) {
            return Some(conn);
        }
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(peer)).await.ok()?.ok()?;
        let local = self.local_towards(Transport::Tcp, peer).or_else(|| stream.local_addr().ok())?;
        self.open_stream(stream, local, peer).await
    }

    /// Starts the two tasks of a connection.
    async fn open_stream(
        self: &Arc<Self>,
        stream: TcpStream,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<SipConnection> {
        stream.set_nodelay(true).ok()?;
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        #[expect(clippy::disallowed_methods, reason = "the crate's type for a direction that is not used")]
        let (_, incoming) = mpsc::unbounded_channel();
        let address = sip_addr(Transport::Tcp, peer);
        let channel = ChannelConnection::create_connection_bounded(incoming, outgoing, address, None).await.ok()?;
        let conn = SipConnection::Channel(channel);
        let (raw, raw_messages) = mpsc::channel(8);
        let (read, write) = stream.into_split();
        let flow = Flow { transport: Transport::Tcp, local, peer };
        let origin = Origin { flow, conn: conn.clone(), raw: RawOut::Tcp(raw) };
        lock(&self.streams.open).insert(peer, conn.clone());
        let closed = self.cancel.child_token();
        tokio::spawn(write_stream(write, messages, raw_messages, closed.clone()));
        let layer = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = layer.read_stream(read, &origin) => {}
            }
            closed.cancel();
            lock(&layer.streams.open).remove(&peer);
        });
        Some(conn)
    }

    async fn read_stream(self: &Arc<Self>, mut stream: OwnedReadHalf, origin: &Origin) {
        let (idle, limit) = (self.streams.idle, self.streams.max_message);
        let mut buffer: Vec<u8> = Vec::with_capacity(2048);
        let mut until = Instant::now() + idle;
        loop {
            let fresh = buffer.is_empty();
            match timeout_at(until, stream.read_buf(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return,
            }
            // A half message may not keep a connection open as long as silence may, however slowly it comes.
            if fresh {
                until = Instant::now() + idle / 10;
            }
            loop {
                match next_frame(&buffer, limit) {
                    Frame::Blank { length, ping } => {
                        buffer.drain(..length);
                        if let (true, RawOut::Tcp(out)) = (ping, &origin.raw) {
                            drop(out.try_send(b"\r\n".to_vec())); // RFC 5626 §4.4.1
                        }
                    }
                    Frame::Partial => break,
                    Frame::Broken => return,
                    Frame::Message(length) => {
                        let message: Vec<u8> = buffer.drain(..length).collect();
                        if !self.admit_from_stream(origin.flow.peer, &message).await {
                            return;
                        }
                        self.on_message(&message, origin).await;
                        until = Instant::now() + idle / 10;
                    }
                }
            }
            if buffer.is_empty() {
                until = Instant::now() + idle;
            }
        }
    }

    /// A stream repeats nothing, so what comes too fast waits, and its sender with it. False if that does not help.
    async fn admit_from_stream(&self, peer: SocketAddr, message: &[u8]) -> bool {
        let until = Instant::now() + ADMIT_LIMIT;
        while let Err(refusal) = self.admits(peer, message) {
            if !refusal.passes() || Instant::now() >= until {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            tokio::time::sleep(ADMIT_PAUSE).await;
        }
        true
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = super::socket_of(address, socket2::Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// Line ends between messages; two of them are a ping.
    Blank {
        length: usize,
        ping: bool,
    },
    Partial,
    Broken,
    Message(usize),
}

fn next_frame(buffer: &[u8], limit: usize) -> Frame {
    let blank = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if blank > 0 {
        return Frame::Blank { length: blank, ping: blank >= 4 };
    }
    let Some((head, rest)) = split_head(buffer) else {
        return if buffer.len() > limit { Frame::Broken } else { Frame::Partial };
    };
    let Some(body) = content_length(head) else { return Frame::Broken };
    let head = buffer.len() - rest.len();
    match head.checked_add(body) {
        Some(total) if total > limit => Frame::Broken,
        Some(total) if total > buffer.len() => Frame::Partial,
        Some(total) => Frame::Message(total),
        None => Frame::Broken,
    }
}

/// Zero without the header (RFC 3261 §20.14 demands it, but a message without body survives its absence).
fn content_length(head: &[u8]) -> Option<usize> {
    for line in head.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (line.get(..colon)?.trim_ascii(), line.get(colon + 1..)?.trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"l") {
            return std::str::from_utf8(value).ok()?.parse().ok();
        }
    }
    Some(0)
}

async fn write_stream(
    mut stream: OwnedWriteHalf,
    mut messages: mpsc::Receiver<TransportEvent>,
    mut raw: mpsc::Receiver<Vec<u8>>,
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
        if !matches!(timeout(WRITE_LIMIT, stream.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
    }
    closed.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_content_length_says() {
        let one = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(next_frame(one, 1000), Frame::Message(one.len()));
        assert_eq!(next_frame(&[one.as_slice(), b"NEXT"].concat(), 1000), Frame::Message(one.len()));
        assert_eq!(next_frame(&one[..one.len() - 1], 1000), Frame::Partial);
        assert_eq!(next_frame(&one[..20], 1000), Frame::Partial);
        assert_eq!(next_frame(b"\r\n\r\nX", 1000), Frame::Blank { length: 4, ping: true });
        for bad in ["-1", "99999999999999999999", "18446744073709551615", "x", "2000"] {
            let text = format!("OPTIONS sip:a SIP/2.0\r\nl: {bad}\r\n\r\n");
            assert_eq!(next_frame(text.as_bytes(), 1000), Frame::Broken, "{bad}");
        }
        assert_eq!(next_frame(&[b'x'; 1001], 1000), Frame::Broken);
    }
}

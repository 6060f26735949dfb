//! The whole room over loopback sockets, with short timers: T1 is 10 ms, so 64·T1 is 640 ms.

mod addresses;
mod hostile;
mod loopback;
mod pki;
mod routes;
mod tls;
mod torture;
mod trunks;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use super::message::Message;
use super::{Endpoint, EndpointConfig, IncomingCall, Limits, Stats, Timers};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                                m=audio 4000 RTP/AVP 0\r\n";

/// SplitMix64: a seeded source for tests.
pub(super) fn seeded(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed;
    Box::new(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

pub(super) fn config(seed: u64) -> EndpointConfig {
    let ms = Duration::from_millis;
    EndpointConfig {
        udp: vec!["127.0.0.1:0".parse().unwrap()],
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        timers: Timers { t1: ms(10), t2: ms(80), t4: ms(100) },
        limits: Limits {
            max_calls: 1000,
            max_unacked_per_source: 1000,
            invites_per_second_per_source: 1e6,
            burst: 1_000_000,
            messages_per_second_per_source: 1e6,
            ..Limits::default()
        },
        ..EndpointConfig::new(seeded(seed))
    }
}

pub(super) async fn endpoint(seed: u64) -> (Endpoint, mpsc::Receiver<IncomingCall>) {
    Endpoint::bind(config(seed)).await.unwrap()
}

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Waits until the figures satisfy a condition.
pub(super) async fn until(endpoint: &Endpoint, met: impl Fn(&Stats) -> bool) {
    let mut every = interval(Duration::from_millis(5));
    let wait = async {
        while !met(&endpoint.stats()) {
            every.tick().await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "still {:?}", endpoint.stats());
}

/// Nothing is left: no dialog, no owner, no transaction, not even a finished one.
pub(super) async fn until_empty(endpoint: &Endpoint) {
    until(endpoint, |s| s.dialogs + s.calls + s.transactions.running + s.transactions.finished == 0).await;
}

/// A peer that speaks bytes.
pub(super) struct Raw {
    pub(super) socket: UdpSocket,
    pub(super) to: SocketAddr,
}

impl Raw {
    pub(super) async fn new(to: SocketAddr) -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), to }
    }

    pub(super) async fn send(&self, text: impl AsRef<[u8]>) {
        self.socket.send_to(text.as_ref(), self.to).await.unwrap();
    }

    pub(super) async fn receive(&self) -> Message {
        let mut buffer = [0; 8192];
        let (length, from) = soon(self.socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(from, self.to, "it comes from the socket that was spoken to");
        Message::parse(&buffer[..length]).unwrap()
    }

    /// The next message with this status.
    pub(super) async fn status(&self, status: u16) -> Message {
        loop {
            let message = self.receive().await;
            if message.status() == status {
                return message;
            }
        }
    }

    pub(super) fn request(&self, method: &str, call: &str, cseq: u32, to_tag: &str, body: &str) -> String {
        let me = self.socket.local_addr().unwrap();
        request("UDP", me, self.to, (method, call, cseq, to_tag, body))
    }
}

pub(super) fn request(
    protocol: &str,
    me: SocketAddr,
    to: SocketAddr,
    (method, call, cseq, to_tag, body): (&str, &str, u32, &str, &str),
) -> String {
    let tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let transport = if protocol == "TCP" { ";transport=tcp" } else { "" };
    format!(
        "{method} sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/{protocol} {me};rport;branch=z9hG4bK-{call}-{method}-{cseq}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@{me}>;tag=t-{call}\r\nTo: <sip:100@{to}>{tag}\r\nCall-ID: {call}\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:alice@{me}{transport}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

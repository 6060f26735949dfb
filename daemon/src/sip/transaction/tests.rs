//! What a connection does over minutes and hours, with a clock that is turned by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::passed::Passed;
use super::rsip::RsipLayer;
use super::{Flow, Transport, TxnEvent};
use crate::base::SystemClock;
use crate::sip::admission::Limits;
use crate::sip::tests::config;
use crate::sip::trace::Tracer;
use crate::sip::{EndpointConfig, Tls, TlsFiles};

const IDLE: Duration = Duration::from_secs(90);

async fn layer(seed: u64) -> (Arc<RsipLayer>, mpsc::Receiver<TxnEvent>) {
    let (events, received) = mpsc::channel(64);
    let limits = Limits { connection_idle: IDLE, ..Limits::default() };
    let certificates = Some(Tls::load(&TlsFiles::default()).unwrap());
    let config = EndpointConfig { udp: vec![], tcp: vec![], limits, certificates, ..config(seed) };
    let clock = Arc::new(SystemClock);
    let tracer = Tracer::new(clock.clone());
    (RsipLayer::start(&config, Passed::new(vec![]), clock, tracer, events).await.unwrap(), received)
}

/// When a connection of ours is closed, in seconds, whose peer says this and answers so many pings.
async fn closed_after(said: &str, mut pongs: usize) -> u64 {
    let (layer, _events) = layer(130).await;
    let (mut peer, ours): (DuplexStream, _) = duplex(1 << 16);
    let (local, remote) = (SocketAddr::from(([127, 0, 0, 1], 5060)), SocketAddr::from(([127, 0, 0, 1], 5070)));
    let flow = Flow { transport: Transport::Tcp, local, peer: remote };
    assert!(layer.open_stream(split(ours), flow, None, true).await.is_some());
    let begin = Instant::now();
    peer.write_all(said.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    while peer.read(&mut buffer).await.unwrap() > 0 {
        if pongs > 0 {
            pongs -= 1;
            peer.write_all(b"\r\n").await.unwrap();
        }
    }
    begin.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn only_who_answers_pings_is_given_up_for_not_answering_one() {
    assert_eq!(closed_after("", 0).await, 90, "it has never answered any");
    assert_eq!(closed_after("", 1).await, 70, "the second ping, and ten seconds");
    assert_eq!(closed_after("\r\n", 0).await, 90, "no pong: nobody had asked");
    assert_eq!(closed_after("\r\n", 1).await, 120, "its line ends mean nothing");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_ours_keeps_its_connection_as_one_of_the_peers_does() {
    let response = |method: &str| {
        format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:c@d>;tag=2\r\nCall-ID: id\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    assert_eq!(closed_after(&response("OPTIONS"), 0).await, 90);
    assert_eq!(closed_after(&response("INVITE"), 0).await, 3600);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_dead_server_fail_together() {
    let (layer, _events) = layer(131).await;
    // It takes connections and says nothing.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (peer, begin) = (server.local_addr().unwrap(), Instant::now());
    let to = || layer.stream_to(peer, Some("localhost"));
    let (first, second, third) = tokio::join!(to(), to(), to());
    assert!(first.is_none() && second.is_none() && third.is_none());
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert!(to().await.is_none());
    assert_eq!(begin.elapsed().as_secs(), 10, "and whoever comes later finds out anew");
}

//! Trunks on the wire: who is read, who may connect, what strangers learn.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::base::trunk::{Trunk, Trunks};

/// Only 127.0.0.9 may call.
fn carrier() -> Trunk {
    Trunk { peers: vec!["127.0.0.9".parse().unwrap()], ..Trunk::new("carrier".parse().unwrap()) }
}

async fn closed(seed: u64) -> (Endpoint, mpsc::Receiver<IncomingCall>) {
    Endpoint::bind(EndpointConfig { trunks: Trunks::new(&[carrier()]), ..config(seed) }).await.unwrap()
}

async fn at(source: &str, to: SocketAddr) -> Raw {
    Raw { socket: UdpSocket::bind(source).await.unwrap(), to }
}

/// Whether an OPTIONS is answered.
async fn is_heard(peer: &Raw, call: &str) -> bool {
    peer.send(peer.request("OPTIONS", call, 1, "", "")).await;
    let answered = async { while peer.receive().await.call_id() != Some(call) {} };
    timeout(Duration::from_millis(300), answered).await.is_ok()
}

/// Waits until one is: who is let in is decided by a task of its own.
async fn until_heard(peer: &Raw, call: &str) {
    for number in 0..50 {
        if is_heard(peer, &format!("{call}{number}")).await {
            return;
        }
    }
    panic!("{call} is not heard");
}

#[tokio::test]
async fn strangers_are_neither_read_nor_answered_and_a_reload_decides_anew() {
    let (b, mut incoming) = closed(110).await;
    let to = b.local_udp()[0];
    let (peer, stranger, ourselves) = (at("127.0.0.9:0", to).await, at("127.0.0.8:0", to).await, Raw::new(to).await);
    assert!(is_heard(&peer, "a").await && is_heard(&ourselves, "b").await);
    assert!(!is_heard(&stranger, "c").await);
    let noise = b"\x00\x01 no SIP at all".repeat(10);
    for _ in 0..100 {
        stranger.send(&noise).await;
    }
    until(&b, |stats| stats.transactions.dropped == 101).await;
    let (trunks, offences) = b.trunk_stats();
    assert_eq!((trunks[0].0.as_str(), offences), ("carrier", [101, 0, 0, 0, 0]));
    assert_eq!(b.stats().transactions.malformed, 0, "not read");

    // A stranger's connection ends before a word.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.8:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(b.local_tcp()[0]).await.unwrap();
    assert_eq!(soon(stream.read(&mut [0; 16])).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(b.local_tcp()[0]).await.is_ok());

    // A call is up; the trunk loses its address, and another has it.
    peer.send(peer.request("INVITE", "d", 1, "", OFFER)).await;
    let ring = soon(incoming.recv()).await.unwrap();
    assert_eq!(ring.trunk.as_ref().unwrap().name.as_str(), "carrier");
    let call = ring.answer(OFFER.into()).await.unwrap();
    let tag = peer.status(200).await.to_tag().unwrap().to_owned();
    peer.send(peer.request("ACK", "d", 1, &tag, "")).await;
    assert_eq!(call.snapshot().trunk.unwrap().as_str(), "carrier");
    let moved = Trunk { peers: vec!["127.0.0.8".parse().unwrap()], ..carrier() };
    b.trunks(Trunks::new(std::slice::from_ref(&moved))).await;
    until_heard(&stranger, "e").await;
    assert!(!is_heard(&peer, "f").await);
    // What a resolver says about its hosts opens the gate as well.
    let named = Trunk { hosts: vec!["sip:sip.example".parse().unwrap()], ..moved };
    b.trunks(Trunks::new(std::slice::from_ref(&named))).await;
    b.hosts(named.name.clone(), vec!["127.0.0.9".parse().unwrap()]).await;
    until_heard(&peer, "g").await;
    b.trunks(Trunks::new(&[Trunk { peers: Vec::new(), ..named }])).await;
    let shut_out = async { while is_heard(&stranger, "i").await {} };
    soon(shut_out).await;
    assert!(is_heard(&peer, "h").await, "a reload forgets no address of a host");
    peer.send(peer.request("BYE", "d", 2, &tag, "")).await;
    until(&b, |stats| stats.calls == 0).await;
    drop(call);
}

#[tokio::test]
async fn a_scanner_that_a_trunk_hands_on_ends_no_connection() {
    let (b, _incoming) = closed(112).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(b.local_tcp()[0]).await.unwrap();
    let me = stream.local_addr().unwrap();
    let options = |call: &str| request("TCP", me, b.local_tcp()[0], ("OPTIONS", call, 1, "", ""));
    let scan = options("scan").replace("Max-Forwards", "User-Agent: sipcli\r\nMax-Forwards");
    stream.write_all(format!("{scan}{}", options("call")).as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        assert_ne!(soon(stream.read_buf(&mut text)).await.unwrap(), 0, "closed");
    }
    let answer = Message::parse(&text).unwrap();
    assert_eq!((answer.status(), answer.call_id()), (200, Some("call")));
}

#[tokio::test]
async fn a_flood_of_one_trunk_does_not_reach_another() {
    let other = Trunk { peers: vec!["127.0.0.7".parse().unwrap()], ..Trunk::new("other".parse().unwrap()) };
    let trunks = Trunks::new(&[carrier(), other]);
    let (b, mut incoming) = Endpoint::bind(EndpointConfig { trunks, ..config(111) }).await.unwrap();
    let owner = tokio::spawn(async move {
        let mut calls = Vec::new();
        while let Some(call) = incoming.recv().await {
            calls.extend(call.answer(OFFER.into()).await);
        }
    });
    let to = b.local_udp()[0];
    let (flood, good) = (at("127.0.0.9:0", to).await, at("127.0.0.7:0", to).await);
    for number in 0..2000 {
        flood.send(flood.request("INVITE", &format!("f{number}"), 1, "", OFFER)).await;
    }
    good.send(good.request("INVITE", "good", 1, "", OFFER)).await;
    assert_eq!(good.status(200).await.call_id(), Some("good"));
    let stats = |name: &str| b.trunk_stats().0.into_iter().find(|(known, _)| known.as_str() == name).unwrap().1;
    // 10 per second, and the burst of this endpoint's limits is so large that it is the trunk's calls that end it.
    until(&b, |stats| stats.transactions.dropped + stats.refused.full > 0 || stats.calls > 30).await;
    assert!(stats("carrier").calls <= 30 && stats("other").calls == 1, "{:?}", b.trunk_stats());
    owner.abort();
}

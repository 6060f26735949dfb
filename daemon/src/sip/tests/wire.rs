//! What our endpoint does on the wire, seen by a peer that speaks bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::sip::message::{Method, Start};
use crate::sip::{CallEvent, DialRequest, DialogState, EndReason};

#[tokio::test]
async fn the_2xx_is_repeated_until_the_ack_and_copies_make_no_second_call() {
    let (b, mut incoming) = endpoint(20).await;
    let peer = Raw::new(b.local_udp()[0]).await;
    let invite = peer.request("INVITE", "c1", 1, "", OFFER);
    peer.send(&invite).await;
    peer.send(&invite).await;
    let ring = soon(incoming.recv()).await.unwrap();
    let mut call = ring.answer(OFFER.into()).await.unwrap();
    let first = peer.status(200).await;
    let again = peer.status(200).await;
    assert_eq!((first.to_tag(), &first.body), (again.to_tag(), &again.body));
    let tag = first.to_tag().unwrap();
    peer.send(peer.request("ACK", "c1", 1, tag, "").replace("-ACK-", "-other-")).await;
    assert!(matches!(soon(call.event()).await, CallEvent::Confirmed { answer: None }));
    peer.send(peer.request("BYE", "c1", 2, tag, "")).await;
    loop {
        if peer.status(200).await.header("CSeq") == Some("2 BYE") {
            break;
        }
    }
    assert!(matches!(soon(call.event()).await, CallEvent::Ended(EndReason::RemoteHangup)));
    assert!(incoming.try_recv().is_err(), "one INVITE, one call");
    until_empty(&b).await;
}

/// An endpoint in a process of its own that dies, as far as one process can show that; where its socket lives on.
struct Mortal {
    runtime: tokio::runtime::Runtime,
    socket: std::net::UdpSocket,
}

impl Mortal {
    async fn start(seed: u64) -> (Self, mpsc::Receiver<IncomingCall>, Raw) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = Self::config(&socket, seed);
        let handle = runtime.handle().clone();
        let bound = tokio::task::spawn_blocking(move || handle.block_on(Endpoint::bind(config))).await;
        let (_, incoming) = bound.unwrap().unwrap();
        let peer = Raw::new(socket.local_addr().unwrap()).await;
        (Self { runtime, socket }, incoming, peer)
    }

    fn config(socket: &std::net::UdpSocket, seed: u64) -> EndpointConfig {
        EndpointConfig {
            // Another one before it, so that what leaves by the first of all is found out.
            udp: vec!["127.0.0.1:0".parse().unwrap(), socket.local_addr().unwrap()],
            inherited: vec![socket.try_clone().unwrap().into()],
            ..config(seed)
        }
    }

    async fn die(self, state: &DialogState) -> (Endpoint, mpsc::Receiver<IncomingCall>, Vec<crate::sip::Call>) {
        self.runtime.shutdown_background();
        let state = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
        Endpoint::resume(Self::config(&self.socket, 77), vec![state]).await.unwrap()
    }
}

#[tokio::test]
async fn a_call_that_rang_in_another_process_is_refused_once_and_stays_refused() {
    let (before, mut incoming, peer) = Mortal::start(40).await;
    let invite = peer.request("INVITE", "c1", 1, "", OFFER);
    peer.send(&invite).await;
    let ring = soon(incoming.recv()).await.unwrap();
    ring.ringing().await.unwrap();
    let tag = peer.status(180).await.to_tag().unwrap().to_owned();
    let state = ring.snapshot();
    std::mem::forget(ring);
    let (b, mut incoming, calls) = before.die(&state).await;
    assert!(calls.is_empty(), "it is no call");
    let refusal = peer.status(503).await;
    assert_eq!((refusal.to_tag(), refusal.cseq()), (Some(tag.as_str()), Some(1)));
    assert!(refusal.header("Retry-After").is_some());
    assert!(refusal.header("Via").unwrap().contains("z9hG4bK-c1-INVITE-1"));
    peer.send(peer.request("CANCEL", "c1", 1, "", "").replace("-CANCEL-", "-INVITE-")).await;
    loop {
        let answer = peer.receive().await;
        if answer.method() == Some(Method::Cancel) {
            assert_eq!(answer.status(), 200, "RFC 3261 §9.2");
            break;
        }
    }
    peer.send(&invite).await;
    assert_eq!(peer.status(503).await.to_tag(), Some(tag.as_str()), "a copy is told the same");
    peer.send(peer.request("ACK", "c1", 1, &tag, "").replace("-ACK-", "-INVITE-")).await;
    assert!(incoming.try_recv().is_err(), "no second call");
    until_empty(&b).await;
}

#[tokio::test]
async fn an_answer_that_was_not_acknowledged_is_given_again_by_the_next_process() {
    let (before, mut incoming, peer) = Mortal::start(41).await;
    peer.send(peer.request("INVITE", "c1", 1, "", OFFER)).await;
    let call = soon(incoming.recv()).await.unwrap().answer(OFFER.into()).await.unwrap();
    let first = peer.status(200).await;
    let state = call.snapshot();
    std::mem::forget(call);
    let (b, _incoming, mut calls) = before.die(&state).await;
    let again = peer.status(200).await;
    assert_eq!((first.to_tag(), &first.body), (again.to_tag(), &again.body));
    let tag = first.to_tag().unwrap();
    peer.send(peer.request("ACK", "c1", 1, tag, "").replace("-ACK-", "-other-")).await;
    assert!(matches!(soon(calls[0].event()).await, CallEvent::Confirmed { answer: None }));
    assert!(calls[0].snapshot().invite.is_none(), "nothing is left to be answered");
    drop(calls);
    let bye = loop {
        let message = peer.receive().await;
        if message.status() == 0 {
            break message;
        }
    };
    assert_eq!((bye.method(), bye.to_tag()), (Some(Method::Bye), Some("t-c1")));
    peer.send(Message::response(&bye, 200, None).to_bytes()).await;
    until_empty(&b).await;
}

#[tokio::test]
async fn what_no_transaction_can_be_built_from_is_answered_all_the_same() {
    let (b, _incoming) = endpoint(21).await;
    let peer = Raw::new(b.local_udp()[0]).await;
    let options = |call: &str| peer.request("OPTIONS", call, 1, "", "");
    peer.send(options("a").replacen("OPTIONS ", "FOO ", 1)).await;
    let response = peer.status(501).await;
    assert_eq!(response.header("Allow"), Some(crate::sip::dialog::ALLOW));
    peer.send(options("b").replace("Max-Forwards: 70", "Max-Forwards: x")).await;
    assert_eq!(peer.status(400).await.call_id(), Some("b"));
    let hop = "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKq\r\n";
    peer.send(options("c").replacen("Via:", &format!("{}Via:", hop.repeat(75)), 1)).await;
    assert_eq!(peer.status(483).await.call_id(), Some("c"));
    peer.send(peer.request("BYE", "d", 1, "nobody", "")).await;
    assert_eq!(peer.status(481).await.call_id(), Some("d"));
    peer.send(peer.request("CANCEL", "e", 1, "", "")).await;
    assert_eq!(peer.status(481).await.call_id(), Some("e"));
    peer.send(options("f")).await;
    let response = peer.status(200).await;
    assert!(response.header("Via").unwrap().contains(&format!("rport={}", peer.socket.local_addr().unwrap().port())));
    until_empty(&b).await;
}

#[tokio::test]
async fn a_source_that_floods_is_dropped_before_the_parser() {
    let limits = Limits { burst: 5, invites_per_second_per_source: 0.001, ..config(0).limits };
    let (b, mut incoming) = Endpoint::bind(EndpointConfig { limits, ..config(22) }).await.unwrap();
    let peer = Raw::new(b.local_udp()[0]).await;
    for n in 0..50 {
        peer.send(peer.request("INVITE", &format!("f{n}"), 1, "", OFFER)).await;
    }
    until(&b, |s| s.transactions.dropped == 45).await;
    peer.send(peer.request("OPTIONS", "o", 1, "", "")).await;
    peer.status(200).await;
    let mut rang = 0;
    while let Ok(call) = incoming.try_recv() {
        rang += 1;
        drop(call);
    }
    assert_eq!(rang, 5);
    b.limit(config(0).limits).await;
    peer.send(peer.request("INVITE", "g", 1, "", OFFER)).await;
    drop(soon(incoming.recv()).await.expect("let in by the new limits"));
    until_empty(&b).await;
}

#[tokio::test]
async fn tcp_in_pieces_and_in_one_piece() {
    let limits = Limits { max_connections: (2, 2), ..config(0).limits };
    let (b, _incoming) = Endpoint::bind(EndpointConfig { limits, ..config(23) }).await.unwrap();
    let to = b.local_tcp()[0];
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let me = stream.local_addr().unwrap();
    let one = request("TCP", me, to, ("OPTIONS", "p1", 1, "", ""));
    let two = request("TCP", me, to, ("OPTIONS", "p2", 1, "", ""));
    let bytes = format!("\r\n{one}{two}{}", one.replace("OPTIONS", "FOO"));
    for piece in bytes.as_bytes().chunks(97) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !(text.contains("p1") && text.contains("p2") && text.contains("501")) {
        let length = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(length > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    stream.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(soon(stream.read(&mut buffer)).await.unwrap(), 2, "pong");
    // What is too long costs itself and nothing more.
    let long = format!("Content-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let long = one.replace("-p1-", "-p3-").replace("Content-Length: 0\r\n\r\n", &long);
    stream.write_all(format!("{long}{}", one.replace("p1", "p4")).as_bytes()).await.unwrap();
    while !(text.contains("SIP/2.0 513 ") && text.contains("Call-ID: p4")) {
        let length = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(length > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    // Beyond the cap a connection is closed at once; one that sends nonsense too.
    let _second = TcpStream::connect(to).await.unwrap();
    until(&b, |s| s.transactions.connections == 2).await;
    let mut third = TcpStream::connect(to).await.unwrap();
    assert!(matches!(soon(third.read(&mut buffer)).await, Ok(0) | Err(_)));
    stream.write_all(b"X: y\r\nContent-Length: -1\r\n\r\n").await.unwrap();
    assert!(matches!(soon(stream.read(&mut buffer)).await, Ok(0) | Err(_)));
    until(&b, |s| s.transactions.connections == 1).await;
}

#[tokio::test]
async fn a_request_uri_is_written_as_it_was_given_and_an_ack_finds_its_way() {
    let (a, _) = endpoint(26).await;
    let peer = Raw::new(a.local_udp()[0]).await;
    let me = peer.socket.local_addr().unwrap();
    let next = async |wanted| loop {
        let message = peer.receive().await;
        match &message.start {
            Start::Request { method, uri } if *method == wanted => break (uri.clone(), message),
            _ => continue,
        }
    };
    let number = format!("sip:*31%23;x=%41@{me};transport=udp");
    let to = || DialRequest {
        to: number.clone().into(),
        from_user: "tester".into(),
        sdp: OFFER.into(),
        ..DialRequest::default()
    };
    let out = a.dial(to()).await.unwrap();
    let (uri, invite) = next(Method::Invite).await;
    assert_eq!(uri, number);
    // A name without an address leads to where the answer came from.
    let contact = format!("sip:alice%40corp@{me};transport=udp");
    let answer = Message::response(&invite, 200, Some("t")).with("Contact", format!("<{contact}>"));
    let answer = answer.with("Record-Route", "<sip:proxy..example;lr>").with_sdp(Some(OFFER));
    peer.send(answer.to_bytes()).await;
    assert_eq!(next(Method::Ack).await.0, contact);
    drop(out);
    let (uri, bye) = next(Method::Bye).await;
    assert_eq!(uri, contact);
    peer.send(Message::response(&bye, 200, None).to_bytes()).await;
    let out = a.dial(to()).await.unwrap();
    let refusal = Message::response(&next(Method::Invite).await.1, 603, Some("u")).to_bytes();
    for _ in 0..2 {
        peer.send(&refusal).await;
        assert_eq!(next(Method::Ack).await.0, number, "each refusal has its ACK");
    }
    assert!(matches!(soon(out.answered()).await, Err(EndReason::Rejected { status: 603, .. })));
    until_empty(&a).await;
}

/// 200 callers that are answered and never heard of again: half of them before the ACK, half after it.
#[tokio::test]
async fn calls_that_vanish_leave_nothing() {
    let (b, mut incoming) = endpoint(24).await;
    let peer = Raw::new(b.local_udp()[0]).await;
    let mut calls = Vec::new();
    for n in 0..200 {
        let id = format!("v{n}");
        peer.send(peer.request("INVITE", &id, 1, "", OFFER)).await;
        let ring = soon(incoming.recv()).await.unwrap();
        let mut call = ring.answer(OFFER.into()).await.unwrap();
        if n % 2 == 0 {
            let tag = call.snapshot().local_tag;
            peer.send(peer.request("ACK", &id, 1, &tag, "").replace("-ACK-", "-z-")).await;
            assert!(matches!(soon(call.event()).await, CallEvent::Confirmed { .. }));
            calls.push(call);
        } else {
            tokio::spawn(async move { while !matches!(call.event().await, CallEvent::Ended(EndReason::NoAck)) {} });
        }
    }
    assert!(b.stats().dialogs > 0);
    drop(peer);
    // What the room `call` does when the RTP falls silent.
    for call in &calls {
        call.hangup().await;
    }
    drop(calls);
    until_empty(&b).await;
}

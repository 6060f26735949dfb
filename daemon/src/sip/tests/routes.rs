//! Ways that messages take: datagrams or connections, IPv4 or IPv6, and what happens where there is none.

use super::*;
use crate::sip::{DialRequest, EndReason, Transport};

/// A port of this address that is free for datagrams and connections.
fn both(address: &str) -> SocketAddr {
    (0..100)
        .find_map(|_| {
            let udp = std::net::UdpSocket::bind((address, 0)).ok()?;
            let local = udp.local_addr().ok()?;
            std::net::TcpListener::bind(local).ok().map(|_| local)
        })
        .expect("a port")
}

fn to(uri: String, sdp: String) -> DialRequest {
    DialRequest { to: uri.into(), from_user: "tester".into(), sdp, ..DialRequest::default() }
}

#[tokio::test]
async fn long_requests_go_over_tcp_if_the_peer_takes_it_and_small_ones_are_datagrams_again() {
    let (a, _) = endpoint(120).await;
    let long = format!("{OFFER}a=x:{}\r\n", "y".repeat(1500));
    for takes_tcp in [true, false] {
        let at = both("127.0.0.1");
        let tcp = if takes_tcp { vec![at] } else { vec![] };
        let (_b, mut incoming) = Endpoint::bind(EndpointConfig { udp: vec![at], tcp, ..config(121) }).await.unwrap();
        let uri = format!("sip:desk@{at}");
        let out = a.dial(to(uri.clone(), long.clone())).await.unwrap();
        let ring = soon(incoming.recv()).await.unwrap();
        let over = if takes_tcp { Transport::Tcp } else { Transport::Udp };
        assert_eq!(ring.snapshot().flow.transport, over, "the INVITE");
        let mut callee = ring.answer(OFFER.into()).await.unwrap();
        let (caller, _) = soon(out.answered()).await.unwrap();
        assert_eq!(caller.snapshot().flow.transport, Transport::Udp, "the dialog");
        caller.hangup().await;
        while !matches!(soon(callee.event()).await, crate::sip::CallEvent::Ended(EndReason::RemoteHangup)) {}
        // One that is cancelled is found by its CANCEL.
        let out = a.dial(to(uri, long.clone())).await.unwrap();
        let ring = soon(incoming.recv()).await.unwrap();
        ring.ringing().await.unwrap();
        out.cancel().await;
        assert_eq!(soon(ring.cancelled()).await, EndReason::Cancelled);
    }
}

#[tokio::test]
async fn calls_over_ipv6_have_addresses_in_brackets() {
    let at = both("::1");
    let of = |port| vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))];
    let (a, _) = Endpoint::bind(EndpointConfig { udp: of(0), tcp: of(0), ..config(124) }).await.unwrap();
    let (b, mut incoming) =
        Endpoint::bind(EndpointConfig { udp: vec![at], tcp: vec![at], ..config(125) }).await.unwrap();
    for how in ["", ";transport=tcp"] {
        let out = a.dial(to(format!("sip:desk@{at}{how}"), OFFER.into())).await.unwrap();
        let callee = soon(incoming.recv()).await.unwrap().answer(OFFER.into()).await.unwrap();
        assert!(callee.snapshot().contact.starts_with("sip:callbox@[::1]:"), "{}", callee.snapshot().contact);
        let (mut caller, _) = soon(out.answered()).await.unwrap();
        callee.hangup().await;
        while !matches!(soon(caller.event()).await, crate::sip::CallEvent::Ended(EndReason::RemoteHangup)) {}
    }
    until_empty(&b).await;
}

#[tokio::test]
async fn a_peer_behind_a_nat_is_answered_where_it_is() {
    let (b, _incoming) = endpoint(126).await;
    let peer = Raw::new(b.local_udp()[0]).await;
    let me = peer.socket.local_addr().unwrap();
    let hidden = peer.request("OPTIONS", "nat", 1, "", "").replacen(&format!("UDP {me};rport"), "UDP 10.9.8.7:5060", 1);
    peer.send(hidden).await;
    let via = peer.status(200).await.header("Via").unwrap().to_owned();
    assert!(via.contains(";received=127.0.0.1") && via.contains(&format!(";rport={}", me.port())), "{via}");
}

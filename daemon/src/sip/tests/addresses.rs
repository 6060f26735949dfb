//! Several addresses at once: a call stays on the one that it came to.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn listening(seed: u64, addresses: &[&str]) -> (Endpoint, mpsc::Receiver<IncomingCall>) {
    let all: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Endpoint::bind(EndpointConfig { udp: all.clone(), tcp: all, ..config(seed) }).await.unwrap()
}

#[tokio::test]
async fn a_call_belongs_to_the_address_that_was_called() {
    let (b, mut incoming) = listening(90, &["127.0.0.1:0", "127.0.0.2:0", "127.0.0.2:0"]).await;
    for (number, to) in b.local_udp().to_vec().into_iter().enumerate() {
        let peer = Raw::new(to).await;
        let call = format!("u{number}");
        peer.send(peer.request("INVITE", &call, 1, "", OFFER)).await;
        let call_up = soon(incoming.recv()).await.unwrap().answer(OFFER.into()).await.unwrap();
        let answer = peer.status(200).await;
        assert_eq!(answer.header("Contact"), Some(format!("<sip:callbox@{to}>").as_str()));
        peer.send(peer.request("ACK", &call, 1, answer.to_tag().unwrap(), "")).await;
        call_up.hangup().await;
        let mut buffer = [0; 4096];
        let bye = loop {
            let (length, from) = soon(peer.socket.recv_from(&mut buffer)).await.unwrap();
            let message = Message::parse(&buffer[..length]).unwrap();
            if message.status() == 0 {
                assert_eq!(from, to, "BYE leaves by the socket of the call");
                break message;
            }
        };
        peer.send(Message::response(&bye, 200, None).to_bytes()).await;
    }
    for (number, to) in b.local_tcp().to_vec().into_iter().enumerate() {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let me = stream.local_addr().unwrap();
        stream
            .write_all(request("TCP", me, to, ("INVITE", &format!("t{number}"), 1, "", OFFER)).as_bytes())
            .await
            .unwrap();
        let ringing = soon(incoming.recv()).await.unwrap();
        ringing.ringing().await.unwrap();
        let wanted = format!("Contact: <sip:callbox@{to};transport=tcp>");
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(&wanted) {
            assert_ne!(soon(stream.read_buf(&mut text)).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
        }
    }
}

#[tokio::test]
async fn both_families_share_a_port() {
    let port = UdpSocket::bind("[::1]:0").await.unwrap().local_addr().unwrap().port();
    let (_b, mut incoming) = listening(91, &[&format!("[::]:{port}"), &format!("0.0.0.0:{port}")]).await;
    let peer = Raw::new(SocketAddr::from(([127, 0, 0, 1], port))).await;
    peer.send(peer.request("INVITE", "f", 1, "", OFFER)).await;
    let ringing = soon(incoming.recv()).await.unwrap();
    assert_eq!(ringing.peer, peer.socket.local_addr().unwrap(), "no IPv4 address in IPv6 clothes");
}

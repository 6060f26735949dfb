//! Ten thousand datagrams from somebody who means harm.

use super::*;

/// One bad datagram.
fn bad(good: &str, random: &mut dyn FnMut() -> u64) -> Vec<u8> {
    let mut bytes = good.as_bytes().to_vec();
    let at = |random: &mut dyn FnMut() -> u64, len: usize| usize::try_from(random() % len.max(1) as u64).unwrap();
    match random() % 12 {
        0 => bytes.truncate(at(random, bytes.len())),
        1 => bytes = (0..at(random, 1400)).map(|_| random().to_le_bytes()[0]).collect(),
        2 | 3 => {
            for _ in 0..=at(random, 8) {
                let i = at(random, bytes.len());
                bytes[i] ^= 1 << (random() % 8);
            }
        }
        4 => {
            let i = at(random, bytes.len());
            bytes.splice(i..i, vec![0; at(random, 40)]);
        }
        5 => bytes = good.replacen("Contact:", &format!("X: {}\r\nContact:", "A".repeat(60_000)), 1).into_bytes(),
        6 => {
            let via = "Via: SIP/2.0/UDP 1.2.3.4;branch=z9hG4bKx\r\n".repeat(800);
            bytes = good.replacen("Max-Forwards", &format!("{via}Max-Forwards"), 1).into_bytes();
        }
        7 => bytes = good.replacen("CSeq: 1", "CSeq: 99999999999999999999", 1).into_bytes(),
        8 => bytes = good.replacen("Content-Length: ", "Content-Length: 9999999999999", 1).into_bytes(),
        9 => bytes = good.replacen("Via: SIP/2.0/UDP ", "Via: SIP/2.0/UDP [::::1]:99999;;;=\"", 1).into_bytes(),
        10 => {
            let (from, to) = (at(random, bytes.len()), at(random, bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        _ => {
            let i = at(random, bytes.len());
            let line = b"\r\n\xff\xfe: \"unclosed <sip:\x80@>;tag=\r\n".to_vec();
            bytes.splice(i..i, line);
        }
    }
    bytes
}

#[tokio::test]
async fn ten_thousand_bad_datagrams_change_nothing() {
    let (b, mut incoming) = endpoint(30).await;
    // Calls that mutants open are dropped, as by a room `call` that cannot use their offers.
    let owner = tokio::spawn(async move {
        while let Some(call) = incoming.recv().await {
            drop(call)
        }
    });
    let (hostile, friend) = (Raw::new(b.local_udp()[0]).await, Raw::new(b.local_udp()[0]).await);
    let mut random = seeded(20_261_121);
    let methods = ["INVITE", "OPTIONS", "BYE", "CANCEL", "ACK", "UPDATE", "REGISTER"];
    for n in 0..10_000_u32 {
        let method = methods[usize::try_from(random() % 7).unwrap()];
        let body = if method == "INVITE" { OFFER } else { "" };
        let good = hostile.request(method, &format!("h{n}"), 1, "", body);
        let bytes = bad(&good, &mut random);
        // Too long for a datagram is somebody else's bug.
        drop(hostile.socket.send_to(&bytes, hostile.to).await);
        if n % 100 == 99 {
            // Keeps the socket's buffer from overflowing, and proves that service goes on.
            friend.send(friend.request("OPTIONS", &format!("ok{n}"), 1, "", "")).await;
            let call = format!("ok{n}");
            while friend.status(200).await.call_id() != Some(call.as_str()) {}
        }
    }
    assert!(b.stats().transactions.malformed > 1000, "{:?}", b.stats());
    until_empty(&b).await;
    owner.abort();
}

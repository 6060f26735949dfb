//! The messages of RFC 4475 (all 49) and of RFC 5118 (all 12) against a whole endpoint: each is answered, or dropped, as
//! the RFC says. They are kept in the RFC's own notation (§2): `<allOneLine>`, `<hex>`, `<repeat>`; lines end with CRLF. Of
//! mpart01 the signature is shorter, and three lengths of RFC 5118 are those of their bodies.

use super::*;
use Outcome::{Answered, Dropped, Rings};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// With this status, and nobody was called.
    Answered(u16),
    /// It is a call, and can be answered.
    Rings,
    /// Without a word.
    Dropped,
}

macro_rules! cases {
    ($($rfc:literal $name:literal $outcome:expr),* $(,)?) => {
        &[$(($name, include_str!(concat!("torture/", $rfc, "/", $name, ".txt")), $outcome)),*]
    };
}

/// What RFC 4475 leaves to the receiver is said behind the line.
const RFC4475: &[(&str, &str, Outcome)] = cases![
    "rfc4475" "wsinv" Answered(481), // well-formed, and its To has a tag of no dialog
    "rfc4475" "intmeth" Answered(501),
    "rfc4475" "esc01" Rings,
    "rfc4475" "escnull" Answered(405), // as every REGISTER: we are no registrar
    "rfc4475" "esc02" Answered(501), // not REGISTER
    "rfc4475" "lwsdisp" Answered(200),
    "rfc4475" "longreq" Rings,
    "rfc4475" "dblreq" Answered(405), // the first request alone
    "rfc4475" "semiuri" Answered(200),
    "rfc4475" "transports" Answered(200),
    "rfc4475" "mpart01" Answered(405), // MESSAGE is not for us
    "rfc4475" "unreason" Dropped, // responses to nothing that we have asked, as all that follow
    "rfc4475" "noreason" Dropped,
    "rfc4475" "badinv01" Answered(400),
    "rfc4475" "clerr" Answered(400),
    "rfc4475" "ncl" Answered(400),
    "rfc4475" "scalar02" Answered(400),
    "rfc4475" "scalarlg" Dropped,
    "rfc4475" "quotbal" Answered(400),
    "rfc4475" "ltgtruri" Answered(400),
    "rfc4475" "lwsruri" Answered(400),
    "rfc4475" "lwsstart" Answered(400),
    "rfc4475" "trws" Answered(400),
    "rfc4475" "escruri" Rings, // "could choose to be liberal … and ignore the escaped headers"
    "rfc4475" "baddate" Rings, // "could choose to ignore" what it does not need
    "rfc4475" "regbadct" Answered(405),
    "rfc4475" "badaspec" Answered(200), // "could choose to be liberal"
    "rfc4475" "baddn" Answered(200), // likewise
    "rfc4475" "badvers" Answered(505),
    "rfc4475" "mismatch01" Answered(400),
    "rfc4475" "mismatch02" Answered(501), // or 400
    "rfc4475" "bigcode" Dropped,
    "rfc4475" "badbranch" Answered(400), // "could reject the request with a 400"
    "rfc4475" "insuf" Answered(400),
    "rfc4475" "unkscm" Answered(416),
    "rfc4475" "novelsc" Answered(416),
    "rfc4475" "unksm2" Answered(405),
    "rfc4475" "bext01" Answered(420),
    "rfc4475" "invut" Answered(415),
    "rfc4475" "regaut01" Answered(405),
    "rfc4475" "multi01" Answered(400),
    "rfc4475" "mcl01" Answered(400),
    "rfc4475" "bcast" Dropped,
    "rfc4475" "zeromf" Answered(200), // "should not respond with 483": it goes no further
    "rfc4475" "cparam01" Answered(405),
    "rfc4475" "cparam02" Answered(405),
    "rfc4475" "regescrt" Answered(405),
    "rfc4475" "sdp01" Answered(406),
    "rfc4475" "inv2543" Rings,
];

const RFC5118: &[(&str, &str, Outcome)] = cases![
    "rfc5118" "ipv6-good" Answered(405),
    "rfc5118" "ipv6-bad" Answered(400),
    "rfc5118" "port-ambiguous" Answered(405), // well-formed, whatever was meant
    "rfc5118" "port-unambiguous" Answered(405),
    "rfc5118" "via-received-param-with-delim" Answered(481), // a BYE of no dialog
    "rfc5118" "via-received-param-no-delim" Answered(200),
    "rfc5118" "ipv6-in-sdp" Rings,
    "rfc5118" "mult-ip-in-header" Answered(481),
    "rfc5118" "mult-ip-in-sdp" Rings,
    "rfc5118" "ipv4-mapped-ipv6" Rings,
    "rfc5118" "ipv6-bug-abnf-3-colons" Answered(200), // "must tolerate both"
    "rfc5118" "ipv6-correct-abnf-2-colons" Answered(200),
];

/// Text between two marks, wherever it stands, as `change` makes it.
fn between(text: &[u8], open: &str, close: &str, change: impl Fn(&str, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let find = |from: usize, what: &str| {
        text.get(from..)?.windows(what.len()).position(|w| w == what.as_bytes()).map(|at| from + at)
    };
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(begin) = find(at, open) {
        let head = find(begin, ">").unwrap() + 1;
        let end = find(head, close).unwrap();
        out.extend_from_slice(&text[at..begin]);
        out.extend(change(std::str::from_utf8(&text[begin..head]).unwrap(), &text[head..end]));
        at = end + close.len();
    }
    out.extend_from_slice(&text[at..]);
    out
}

/// RFC 4475 §2, backwards.
fn wire(text: &str) -> Vec<u8> {
    let joined = between(text.as_bytes(), "<allOneLine>", "</allOneLine>", |_, inner| {
        inner.iter().copied().filter(|b| *b != b'\n').collect()
    });
    let mut lines = Vec::new();
    for byte in joined {
        lines.extend_from_slice(if byte == b'\n' { b"\r\n" } else { std::slice::from_ref(&byte) });
    }
    let repeated = between(&lines, "<repeat", "</repeat>", |open, inner| {
        inner.repeat(open.trim_start_matches("<repeat count=").trim_end_matches('>').parse().unwrap())
    });
    between(&repeated, "<hex>", "</hex>", |_, inner| {
        let digits: Vec<u8> = inner.iter().copied().filter(u8::is_ascii_hexdigit).collect();
        hex::decode(&digits[..digits.len() / 2 * 2]).unwrap()
    })
}

/// RFC 3581, so that the answer comes to our socket whatever the message says of hosts.
fn with_rport(raw: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    let mut in_via = false;
    for line in raw.split_inclusive(|b| *b == b'\n') {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if in_via && !folded {
            break;
        }
        let name = line.split(|b| *b == b':').next().unwrap().trim_ascii();
        in_via |= name.eq_ignore_ascii_case(b"via") || name.eq_ignore_ascii_case(b"v");
        at += line.len();
    }
    let mut sent = raw;
    if in_via {
        sent.splice(at - 2..at - 2, *b";rport");
    }
    sent
}

async fn outcome(name: &str, text: &str, seed: u64) -> Outcome {
    let (b, mut incoming) = endpoint(seed).await;
    let peer = Raw::new(b.local_udp()[0]).await;
    peer.send(with_rport(wire(text))).await;
    // Whatever was said of it was said before this is answered.
    for probe in ["probe-1", "probe-2"] {
        peer.send(peer.request("OPTIONS", probe, 1, "", "")).await;
    }
    let (mut probes, mut said) = (0, None);
    while probes < 2 {
        // Not by our parser: what is refused is refused with what it said.
        let mut buffer = [0; 16_384];
        let (length, _) = soon(peer.socket.recv_from(&mut buffer)).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        match text.get(8..11).unwrap().parse::<u16>().unwrap() {
            _ if text.contains("Call-ID: probe-") => probes += 1,
            100 => {}
            status => said = Some((status, text)),
        }
    }
    match (incoming.try_recv(), said) {
        (Ok(call), None) => {
            drop(call.answer(OFFER.into()).await.unwrap());
            let answer = peer.status(200).await;
            assert!(answer.to_tag().is_some() && answer.sdp().is_some(), "{name}");
            Rings
        }
        (Ok(_), Some((_, text))) => panic!("{name}: a call, and {text}"),
        (Err(_), None) => Dropped,
        (Err(_), Some((status, text))) => {
            let header = match status {
                405 | 501 => "\r\nAllow: ",
                406 | 415 => "\r\nAccept: ",
                420 => "\r\nUnsupported: nothingSupportsThis, nothingSupportsThisEither\r\n",
                _ => "\r\nCSeq: ",
            };
            // Of what came without CSeq none can be given back.
            assert!(text.contains(header) || name == "insuf", "{name}: {text}");
            Answered(status)
        }
    }
}

#[tokio::test]
async fn every_torture_message_is_answered_or_dropped_as_the_rfcs_say() {
    assert_eq!((RFC4475.len(), RFC5118.len()), (49, 12));
    let mut wrong = Vec::new();
    for (number, (name, text, wanted)) in RFC4475.iter().chain(RFC5118).enumerate() {
        let found = outcome(name, text, 400 + number as u64).await;
        if found != *wanted {
            wrong.push(format!("{name}: {found:?}, and it should be {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

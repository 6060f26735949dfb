//! Messages of ours to those of the crate below, and back. Enters: bytes or messages; leaves: messages, and the transaction
//! that they belong to. Never here: a socket, or anything of the crate's that is passed on.

use std::net::{IpAddr, SocketAddr};

use rsipstack::sip::headers::make_header;
use rsipstack::sip::{Domain, Header, Headers, Host, HostWithPort, Request, Response, SipMessage, StatusCode, Version};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transport::SipAddr;

use super::{Flow, Transport};
use crate::sip::message::{Message, Method, ParseError, Start, Via, tag_of};
use crate::sip::uri::{Uri, split_list};

/// Of a message from outside: ours, that of the crate below, and the transaction that it belongs to. The error is what
/// to refuse it with, if it is to be answered at all.
pub(super) type Read = Result<Box<(Message, SipMessage, TransactionKey)>, Option<(Box<Message>, u16, &'static str)>>;

pub(super) fn read(raw: &[u8], flow: Flow) -> Read {
    let mut message = Message::parse(raw).map_err(|(error, request)| match (error, request) {
        (ParseError::Refuse(status, reason), Some(request)) => Some((request, status, reason)),
        _ => None,
    })?;
    let is_request = message.status() == 0;
    if is_request {
        stamp_via(&mut message, flow);
    }
    let Some(converted) = to_rsip(&legible(&message)) else {
        return Err(is_request.then(|| (Box::new(message), 400, "Bad Request")));
    };
    let key = match &converted {
        SipMessage::Request(request) => TransactionKey::from_request(request, TransactionRole::Server),
        SipMessage::Response(response) => TransactionKey::from_response(response, TransactionRole::Client),
    };
    let key = key.map_err(|_| None)?;
    Ok(Box::new((message, converted, key)))
}

/// RFC 3261 §18.2.1 and RFC 3581: where the response goes, written into the top Via.
pub(super) fn stamp_via(message: &mut Message, flow: Flow) {
    let Some((_, value)) = message.headers.iter_mut().find(|(name, _)| name == "Via") else { return };
    let others = split_list(value).get(1..).unwrap_or_default().join(", ");
    let Some(top) = Via::parse(value) else { return };
    let host = Uri::parse(&format!("sip:{}", top.sent_by)).and_then(|u| u.host.parse::<IpAddr>().ok());
    let ip = flow.peer.ip();
    let same = host == Some(ip);
    // A peer that gives an address which is not its own is behind a NAT, whether it knows of RFC 3581 or not.
    let wants_port = top.param("rport").is_some() || (host.is_some() && !same);
    let mut stamped = format!("SIP/2.0/{} {}", top.transport, top.sent_by);
    for p in &top.params {
        let name = p.split('=').next().unwrap_or(p);
        if !["rport", "received"].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            stamped.extend([";", p]);
        }
    }
    if !same || wants_port {
        stamped.extend([";received=", &ip.to_string()]);
    }
    if wants_port {
        stamped.extend([";rport=", &flow.peer.port().to_string()]);
    }
    if !others.is_empty() {
        stamped.extend([", ", &others]);
    }
    *value = stamped;
}

/// The request as the crate below can read it: it knows neither all the spaces that RFC 3261 allows, nor RFC 2543. It
/// sees no other tag than it needs to tell transactions apart; what we answer is made from ours.
fn legible(message: &Message) -> Message {
    let mut legible = message.clone();
    // A CANCEL is answered below, with what it said.
    let ours = message.status() == 0 && message.method() != Some(Method::Cancel);
    for (name, value) in &mut legible.headers {
        match name.as_ref() {
            "CSeq" => *value = value.split_whitespace().collect::<Vec<_>>().join(" "),
            "From" if ours => *value = format!("<sip:caller.invalid>;tag={}", tag_of(value).unwrap_or("none")),
            _ => {}
        }
    }
    legible
}

pub(super) fn sip_addr(transport: Transport, address: SocketAddr) -> SipAddr {
    let kind = match transport {
        Transport::Udp => rsipstack::sip::Transport::Udp,
        Transport::Tcp => rsipstack::sip::Transport::Tcp,
        Transport::Tls => rsipstack::sip::Transport::Tls,
    };
    SipAddr { r#type: Some(kind), addr: address.into() }
}

/// A Request-URI that is written as it is given. The crate below would write what it has understood: `%` escaped once more,
/// `tcp` in capitals; and then the digest of a request, the peer's routing and a CANCEL would be about another URI. It is
/// never asked where such a URI leads: every message of ours is given its connection and its address.
fn verbatim(uri: &str) -> Option<rsipstack::sip::Uri> {
    let host = Host::Domain(Domain(uri.to_owned()));
    let one_word = !uri.is_empty() && !uri.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    one_word.then(|| rsipstack::sip::Uri { host_with_port: HostWithPort { host, port: None }, ..Default::default() })
}

pub(super) fn to_rsip(message: &Message) -> Option<SipMessage> {
    let mut headers: Vec<Header> = message
        .headers
        .iter()
        .filter(|(name, _)| name != "Content-Length")
        .map(|(name, value)| make_header(name, value.clone()))
        .collect();
    headers.push(make_header("Content-Length", message.body.len().to_string()));
    let (headers, body, version) = (Headers::from(headers), message.body.clone(), Version::V2);
    Some(match &message.start {
        Start::Request { method, uri } => SipMessage::Request(Request {
            method: method.as_str().parse().ok()?,
            uri: verbatim(uri)?,
            version,
            headers,
            body,
        }),
        Start::Response { status, .. } => {
            let status_code = StatusCode::from(*status);
            SipMessage::Response(Response { status_code, wire_reason: None, version, headers, body })
        }
    })
}

fn from_parts(start: Start, headers: &Headers, body: &[u8]) -> Message {
    let blank = Message { start, headers: Vec::new(), body: body.to_vec() };
    headers.iter().fold(blank, |message, h| message.with(h.name(), h.value()))
}

pub(super) fn from_request(request: &Request) -> Message {
    let method = Method::parse(&request.method.to_string()).unwrap_or(Method::Options);
    from_parts(Start::Request { method, uri: request.uri.to_string() }, &request.headers, &request.body)
}

pub(super) fn from_response(response: &Response) -> Message {
    let reason = response.wire_reason.clone().unwrap_or_else(|| response.status_code.text().to_owned());
    let start = Start::Response { status: response.status_code.code(), reason };
    from_parts(start, &response.headers, &response.body)
}

/// There and back; used by the fuzz target.
pub(super) fn fuzz_round_trip(message: &Message) {
    match to_rsip(message) {
        Some(SipMessage::Request(r)) => {
            drop(TransactionKey::from_request(&r, TransactionRole::Server));
            drop(from_request(&r));
            drop(r.to_bytes());
        }
        Some(SipMessage::Response(r)) => {
            drop(TransactionKey::from_response(&r, TransactionRole::Client));
            drop(from_response(&r));
            drop(r.to_bytes());
        }
        None => {}
    }
}

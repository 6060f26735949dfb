//! What can be said about a request before any call is looked at (RFC 3261 §8.2). Enters: a request; leaves: the
//! response that refuses it, or nothing.

use super::refer::SIPFRAG;
use super::{ACCEPT, ALLOW, SUPPORTED};
use crate::sip::message::{Message, Method};

/// A refusal: status and the headers that explain it.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(super) fn plain(status: u16) -> Self {
        Self { status, headers: Vec::new() }
    }

    pub(super) fn retry(status: u16, seconds: u32) -> Self {
        Self { status, headers: vec![("Retry-After", seconds.to_string())] }
    }

    pub(super) fn because(status: u16, name: &'static str, value: impl Into<String>) -> Self {
        Self { status, headers: vec![(name, value.into())] }
    }

    pub(super) fn response(self, request: &Message, tag: &str) -> Message {
        let response = Message::response(request, self.status, Some(tag));
        self.headers.into_iter().fold(response, |r, (name, value)| r.with(name, value))
    }
}

/// Whether the sender demands an extension.
pub(super) fn requires(message: &Message, tag: &str) -> bool {
    message.list("Require").any(|required| required.trim().eq_ignore_ascii_case(tag))
}

/// The order of RFC 3261 §8.2: method, extensions, content.
pub(super) fn screen(request: &Message, in_dialog: bool) -> Result<Method, Refusal> {
    let Some(method) = request.method() else { return Err(Refusal::plain(400)) };
    match method {
        Method::Invite | Method::Options => {}
        // These make sense only where something they belong to exists.
        Method::Bye | Method::Info | Method::Update | Method::Prack | Method::Notify if in_dialog => {}
        Method::Bye | Method::Info | Method::Update | Method::Prack | Method::Notify => {
            return Err(Refusal::plain(481));
        }
        _ => return Err(Refusal::because(405, "Allow", ALLOW)),
    }
    // RFC 3261 §8.2.2.3.
    let known = |tag: &&str| SUPPORTED.split(", ").any(|known| known.eq_ignore_ascii_case(tag));
    let unknown: Vec<&str> = request.list("Require").map(str::trim).filter(|tag| !known(tag)).collect();
    if !unknown.is_empty() {
        return Err(Refusal::because(420, "Unsupported", unknown.join(", ")));
    }
    // RFC 3261 §8.2.3: a caller who does not take SDP cannot be answered. Without the header, SDP is meant (§13.2.1).
    let takes = |range: &str| {
        let range = range.split(';').next().unwrap_or_default().trim();
        [ACCEPT, "application/*", "*/*"].iter().any(|known| known.eq_ignore_ascii_case(range))
    };
    let speechless = request.header("Accept").is_some() && !request.list("Accept").any(takes);
    if method == Method::Invite && speechless {
        return Err(Refusal::because(406, "Accept", ACCEPT));
    }
    if method == Method::Bye || request.body.is_empty() {
        return Ok(method);
    }
    if request.list("Content-Encoding").any(|e| !e.eq_ignore_ascii_case("identity")) {
        return Err(Refusal::because(415, "Accept-Encoding", "identity"));
    }
    let types: &[&str] = match method {
        Method::Info => &["application/dtmf-relay", "application/dtmf", "application/media_control+xml"],
        Method::Notify => &[SIPFRAG],
        _ => &[ACCEPT],
    };
    let optional = request.header("Content-Disposition").is_some_and(|d| d.contains("handling=optional"));
    if !optional && !types.iter().any(|t| request.content_type_is(t)) {
        return Err(Refusal::because(415, "Accept", types.join(", ")));
    }
    Ok(method)
}

/// 200 to OPTIONS (RFC 3261 §11.2).
pub(super) fn capabilities(response: Message) -> Message {
    response
        .with("Allow", ALLOW)
        .with("Accept", ACCEPT)
        .with("Accept-Encoding", "identity")
        .with("Supported", SUPPORTED)
}

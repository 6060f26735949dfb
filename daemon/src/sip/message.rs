//! SIP messages as this room sees them, free of any crate's types. Enters: bytes of a datagram or of a framed stream
//! message; leaves: a start line, headers, a body. Tolerant where peers are sloppy (bare LF, compact names, bytes that
//! are not UTF-8 in display names), strict where a response could not be built or a transaction not be matched.

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::uri::{NameAddr, Uri, split_list};

/// More header lines than this is an attack, not a call.
pub const MAX_HEADERS: usize = 200;
/// RFC 3261 §8.1.1.6: more hops than this is a loop.
pub const MAX_HOPS: usize = 70;

/// The methods that the lower layers can carry. Any other name is answered 501 before a transaction exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the RFCs' own names")]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    Info,
    Update,
    Message,
    Notify,
    Prack,
    Publish,
    Refer,
    Register,
    Subscribe,
}

pub(super) const METHODS: [(Method, &str); 14] = [
    (Method::Invite, "INVITE"),
    (Method::Ack, "ACK"),
    (Method::Bye, "BYE"),
    (Method::Cancel, "CANCEL"),
    (Method::Options, "OPTIONS"),
    (Method::Info, "INFO"),
    (Method::Update, "UPDATE"),
    (Method::Message, "MESSAGE"),
    (Method::Notify, "NOTIFY"),
    (Method::Prack, "PRACK"),
    (Method::Publish, "PUBLISH"),
    (Method::Refer, "REFER"),
    (Method::Register, "REGISTER"),
    (Method::Subscribe, "SUBSCRIBE"),
];

impl Method {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        METHODS.iter().find(|(m, _)| *m == self).map_or("", |(_, name)| name)
    }

    /// Method names are case-sensitive (RFC 3261 §7.1).
    pub fn parse(name: &str) -> Option<Self> {
        METHODS.iter().find(|(_, n)| *n == name).map(|(m, _)| *m)
    }
}

/// Request line or status line.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum Start {
    Request { method: Method, uri: String },
    Response { status: u16, reason: String },
}

/// One SIP message. `Debug` prints the method or the status and nothing else: the rest is personal.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// First line.
    pub start: Start,
    /// In order; names in their long form where a short one exists.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// As it came; SDP as a rule.
    pub body: Vec<u8>,
}

/// Why bytes are no SIP message that could be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Not SIP at all, or a response, or without a Via: nothing can be answered.
    Unanswerable,
    /// A request that deserves this status and reason.
    Refuse(u16, &'static str),
}

const COMPACT: [(&str, &str); 12] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("c", "Content-Type"),
    ("l", "Content-Length"),
    ("e", "Content-Encoding"),
    ("k", "Supported"),
    ("x", "Session-Expires"),
    ("s", "Subject"),
    ("o", "Event"),
];

const COMMON: [&str; 22] = [
    "Via",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Max-Forwards",
    "Content-Type",
    "Content-Length",
    "User-Agent",
    "Allow",
    "Supported",
    "Require",
    "Record-Route",
    "Route",
    "Accept",
    "Content-Encoding",
    "Server",
    "Subject",
    "Retry-After",
    "Session-Expires",
    "Reason",
];

fn canonical(name: &str) -> Cow<'static, str> {
    let known = COMPACT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)).map(|(_, long)| *long);
    match known.or_else(|| COMMON.iter().copied().find(|n| n.eq_ignore_ascii_case(name))) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(name.to_owned()),
    }
}

impl Message {
    /// A request without headers.
    pub fn request(method: Method, uri: impl Into<String>) -> Self {
        Self { start: Start::Request { method, uri: uri.into() }, headers: Vec::with_capacity(12), body: Vec::new() }
    }

    /// A response to `request` with the headers that RFC 3261 §8.2.6.2 copies. `to_tag` is added to a To without tag.
    pub fn response(request: &Self, status: u16, to_tag: Option<&str>) -> Self {
        let start = Start::Response { status, reason: reason_phrase(status).to_owned() };
        let mut response = Self { start, headers: Vec::with_capacity(12), body: Vec::new() };
        for (name, value) in &request.headers {
            match name.as_ref() {
                "Via" | "From" | "Call-ID" | "CSeq" => response.headers.push((name.clone(), value.clone())),
                "Record-Route" if status > 100 && status < 300 => {
                    response.headers.push((name.clone(), value.clone()));
                }
                "To" => {
                    let mut value = value.clone();
                    if let (Some(tag), None) = (to_tag, tag_of(&value)) {
                        value.push_str(";tag=");
                        value.push_str(tag);
                    }
                    response.headers.push((name.clone(), value));
                }
                _ => {}
            }
        }
        response
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((canonical(name), value.into()));
        self
    }

    /// Adds a body and its type.
    #[must_use]
    pub fn with_body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut message = self.with("Content-Type", content_type);
        message.body = body.into();
        message
    }

    /// Adds an SDP body, if there is one.
    #[must_use]
    pub fn with_sdp(self, sdp: Option<&str>) -> Self {
        match sdp {
            Some(sdp) => self.with_body("application/sdp", sdp),
            None => self,
        }
    }

    /// The first value of a header by its long name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every line of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every value of a list header.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(split_list)
    }

    /// Method of a request; for a response, of the request that it answers.
    pub fn method(&self) -> Option<Method> {
        match &self.start {
            Start::Request { method, .. } => Some(*method),
            Start::Response { .. } => self.header("CSeq").and_then(|v| Method::parse(v.split_whitespace().nth(1)?)),
        }
    }

    /// Status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        if let Start::Response { status, .. } = self.start { status } else { 0 }
    }

    /// Number of the CSeq header.
    pub fn cseq(&self) -> Option<u32> {
        self.header("CSeq")?.split_whitespace().next()?.parse().ok()
    }

    /// Call-ID header.
    pub fn call_id(&self) -> Option<&str> {
        self.header("Call-ID")
    }

    /// Tag of the From header.
    pub fn from_tag(&self) -> Option<&str> {
        self.header("From").and_then(tag_of)
    }

    /// Tag of the To header.
    pub fn to_tag(&self) -> Option<&str> {
        self.header("To").and_then(tag_of)
    }

    /// Body as text if it is SDP and UTF-8 (lossy otherwise: SDP of sloppy peers must reach the parser).
    pub fn sdp(&self) -> Option<String> {
        if self.body.is_empty() || !self.content_type_is("application/sdp") {
            return None;
        }
        Some(String::from_utf8_lossy(&self.body).into_owned())
    }

    /// Whether the Content-Type, without parameters, is this one.
    pub fn content_type_is(&self, wanted: &str) -> bool {
        self.header("Content-Type")
            .is_some_and(|v| v.split_once(';').map_or(v, |(head, _)| head).trim().eq_ignore_ascii_case(wanted))
    }

    /// The bytes for the wire. Content-Length is always written from the body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(512 + self.body.len());
        let outcome = match &self.start {
            Start::Request { method, uri } => write!(text, "{} {uri} SIP/2.0\r\n", method.as_str()),
            Start::Response { status, reason } => write!(text, "SIP/2.0 {status} {reason}\r\n"),
        };
        debug_assert!(outcome.is_ok(), "writing to a String");
        for (name, value) in &self.headers {
            if !name.eq_ignore_ascii_case("Content-Length") {
                text.extend([name.as_ref(), ": ", value, "\r\n"]);
            }
        }
        text.extend(["Content-Length: ", &self.body.len().to_string(), "\r\n\r\n"]);
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads one message. The error carries what can still be answered, and the headers for it.
    ///
    /// # Errors
    /// [`ParseError::Unanswerable`] alone, or [`ParseError::Refuse`] with the request as far as it could be read.
    pub fn parse(raw: &[u8]) -> Result<Self, (ParseError, Option<Box<Self>>)> {
        const NOTHING: (ParseError, Option<Box<Message>>) = (ParseError::Unanswerable, None);
        let (head, body) = split_head(raw).ok_or(NOTHING)?;
        let first = head.split(|b| *b == b'\n').next().ok_or(NOTHING)?;
        let first = String::from_utf8_lossy(first.strip_suffix(b"\r").unwrap_or(first));
        let mut headers: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(16);
        let mut broken = false;
        for (name, value) in fields(head) {
            let Some(value) = value else {
                broken = true;
                continue;
            };
            if headers.len() == MAX_HEADERS {
                return Err(NOTHING);
            }
            broken |= name.is_empty() || !name.iter().copied().all(is_token);
            // A display name in Latin-1 must not lose a call.
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            headers.push((canonical(&String::from_utf8_lossy(name)), value));
        }
        let (start, verdict) = parse_start(&first).ok_or(NOTHING)?;
        let mut message = Self { start, headers, body: body.to_vec() };
        let verdict = verdict.or_else(|| message.verdict(broken));
        match verdict {
            None => Ok(message),
            Some(error) if message.status() == 0 && message.header("Via").is_some() => {
                message.body.clear();
                Err((error, Some(Box::new(message))))
            }
            Some(_) => Err(NOTHING),
        }
    }

    /// What keeps this message from being processed, if anything; trims the body to Content-Length.
    fn verdict(&mut self, broken: bool) -> Option<ParseError> {
        let refuse = |reason| Some(ParseError::Refuse(400, reason));
        if broken {
            return refuse("Bad Header Line");
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            let mut lines = self.all(name);
            match (lines.next(), lines.next()) {
                (Some(value), None) if !value.is_empty() && !value.contains('\0') => {}
                _ => return refuse("Bad Or Missing Header"),
            }
        }
        let via = self.header("Via").and_then(Via::parse);
        let modern = via.as_ref().is_some_and(Via::is_modern);
        // RFC 2543 knew callers without a tag.
        if self.header("From").and_then(NameAddr::parse).is_none() || (self.from_tag().is_none() && modern) {
            return refuse("Missing From Tag");
        }
        if self.header("To").and_then(NameAddr::parse).is_none() {
            return refuse("Bad To");
        }
        let cseq_method = self.header("CSeq").and_then(|v| v.split_whitespace().nth(1)).and_then(Method::parse);
        let line_method = self.method();
        if self.cseq().is_none_or(|n| n > i32::MAX as u32) || cseq_method.is_none() || line_method != cseq_method {
            return refuse("Bad CSeq");
        }
        if !via.is_some_and(|via| via_is_sound(&via)) {
            return refuse("Bad Via");
        }
        let mut lengths = self.all("Content-Length");
        let length = lengths.next().map(str::parse::<usize>);
        let one = lengths.next().is_none();
        drop(lengths);
        match length {
            None => {}
            Some(Ok(length)) if one && length <= self.body.len() => self.body.truncate(length),
            Some(_) => return refuse("Bad Content-Length"),
        }
        if self.header("Max-Forwards").is_some_and(|v| v.parse::<u8>().is_err()) {
            return refuse("Bad Max-Forwards");
        }
        if self.list("Via").take(MAX_HOPS + 1).count() > MAX_HOPS && self.status() == 0 {
            // The response would copy every hop: an answer larger than what a loop is worth. One line suffices.
            let mut kept = false;
            self.headers.retain(|(n, _)| n != "Via" || !std::mem::replace(&mut kept, true));
            return Some(ParseError::Refuse(483, "Too Many Hops"));
        }
        None
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.start {
            Start::Request { method, .. } => f.write_str(method.as_str()),
            Start::Response { status, .. } => write!(f, "{status} to {}", self.method().map_or("?", Method::as_str)),
        }
    }
}

/// Tag of a From or To value.
pub fn tag_of(value: &str) -> Option<&str> {
    NameAddr::parse(value)?.param("tag").filter(|t| !t.is_empty())
}

/// Where the head ends: at the first empty line, whatever its line ends.
pub fn split_head(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    while let Some(lf) = raw.get(at..)?.iter().position(|b| *b == b'\n') {
        let next = at + lf + 1;
        for end in [b"\r\n".as_slice(), b"\n"] {
            if raw.get(next..)?.starts_with(end) {
                let head = raw.get(..at + lf)?;
                return Some((head.strip_suffix(b"\r").unwrap_or(head), raw.get(next + end.len()..)?));
            }
        }
        at = next;
    }
    None
}

/// The header fields of a message up to its first empty line: names and values as they came, trimmed, folded lines joined
/// (RFC 3261 §7.3.1). There is no value where there is no colon. Whoever reads headers reads them here: two readers that
/// disagree about a folded line disagree about where the message ends.
pub(super) fn fields(raw: &[u8]) -> impl Iterator<Item = (&[u8], Option<Cow<'_, [u8]>>)> {
    let is_folded = |line: &&[u8]| line.starts_with(b" ") || line.starts_with(b"\t");
    let lines = raw.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip(1).take_while(|line| !line.is_empty()).skip_while(is_folded).peekable();
    std::iter::from_fn(move || {
        let line = lines.next()?;
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let mut value = Cow::Borrowed(value.get(1..).unwrap_or_default().trim_ascii());
        while let Some(more) = lines.next_if(is_folded).map(<[u8]>::trim_ascii) {
            if value.is_empty() {
                value = Cow::Borrowed(more);
            } else if !more.is_empty() {
                value.to_mut().push(b' ');
                value.to_mut().extend_from_slice(more);
            }
        }
        Some((name.trim_ascii(), colon.map(|_| value)))
    })
}

/// The first value of a header by its long name, as it came, in a message that nobody has parsed yet.
pub(super) fn raw_header<'a>(raw: &'a [u8], long: &str) -> Option<Cow<'a, [u8]>> {
    let short = COMPACT.iter().find(|(_, name)| *name == long).map_or(long, |(short, _)| *short);
    let wanted = |name: &[u8]| [long, short].iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    fields(raw).find(|(name, _)| wanted(name)).and_then(|(_, value)| value)
}

fn parse_start(line: &str) -> Option<(Start, Option<ParseError>)> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = code.parse().ok().filter(|c| (100..700).contains(c))?;
        return Some((Start::Response { status, reason: reason.trim().to_owned() }, None));
    }
    let parts: Vec<&str> = line.split(' ').collect();
    let (name, version) = (*parts.first()?, *parts.iter().rev().find(|part| !part.is_empty())?);
    // Spaces too many leave no doubt that this is a request, and none that it is a bad one.
    let (uri, torn) = match parts.as_slice() {
        [_, uri, _] => (*uri, uri.is_empty()),
        [_, rest @ ..] => (*rest.iter().find(|part| !part.is_empty())?, true),
        [] => return None,
    };
    if !version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case("SIP/")) {
        return None;
    }
    let Some(method) = Method::parse(name) else {
        let real = !name.is_empty() && name.bytes().all(is_token);
        // The method here is only a carrier for the refusal: it must not be ACK, which is never answered.
        let start = Start::Request { method: Method::Options, uri: uri.to_owned() };
        return real.then_some((start, Some(ParseError::Refuse(501, "Not Implemented"))));
    };
    let scheme = uri.split(':').next().unwrap_or_default();
    let (sip, tel) =
        (["sip", "sips"].iter().any(|s| s.eq_ignore_ascii_case(scheme)), scheme.eq_ignore_ascii_case("tel"));
    let start = Start::Request { method, uri: uri.to_owned() };
    let verdict = if !version.eq_ignore_ascii_case("SIP/2.0") {
        Some(ParseError::Refuse(505, "Version Not Supported"))
    } else if torn || uri.starts_with('<') || !uri.contains(':') || (sip && Uri::parse(uri).is_none()) {
        Some(ParseError::Refuse(400, "Bad Request Line"))
    } else if !sip && !tel {
        Some(ParseError::Refuse(416, "Unsupported URI Scheme"))
    } else {
        None
    };
    Some((start, verdict))
}

/// RFC 3261 §25.1 `token`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// One value of Via (RFC 3261 §20.42), with all the spaces that the grammar allows in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, `TLS` or another, as written.
    pub transport: &'a str,
    /// Host and port, without spaces.
    pub sent_by: String,
    /// The parameters, trimmed, none of them empty.
    pub params: Vec<String>,
}

impl<'a> Via<'a> {
    /// Reads the first of a header's values.
    pub fn parse(value: &'a str) -> Option<Self> {
        let value = split_list(value).first().copied()?;
        let (name, rest) = value.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !name.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return None;
        }
        let (transport, rest) = rest.trim().split_once(char::is_whitespace)?;
        let mut parts = rest.split(';');
        let sent_by: String = parts.next()?.chars().filter(|c| !c.is_whitespace()).collect();
        let trimmed = |part: &str| part.split('=').map(str::trim).collect::<Vec<_>>().join("=");
        let params: Vec<String> = parts.map(trimmed).collect();
        let sound = !sent_by.is_empty() && params.iter().all(|p| !p.is_empty() && !p.starts_with('='));
        sound.then_some(Self { transport, sent_by, params })
    }

    /// A parameter; empty text for a flag.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find_map(|p| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether it tells transactions apart as RFC 3261 wants (§8.1.1.7); before, nobody did.
    pub fn is_modern(&self) -> bool {
        self.param("branch").is_some_and(|branch| branch.starts_with(COOKIE))
    }
}

/// What every branch of RFC 3261 begins with.
const COOKIE: &str = "z9hG4bK";

fn via_is_sound(via: &Via<'_>) -> bool {
    let known = ["UDP", "TCP", "TLS"].iter().any(|t| via.transport.eq_ignore_ascii_case(t));
    // The cookie alone would make one transaction of all that such a peer sends (RFC 4475 §3.2.1).
    known && via.param("branch").is_none_or(|b| !b.is_empty() && b != COOKIE)
}

/// Standard phrase of a status.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        603 => "Decline",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "OPTIONS sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP 1.2.3.4;branch=z9hG4bKx\r\nf: <sip:c@d>;tag=1\r\n\
                        t: sip:a@b\r\ni: id\r\nCSeq: 1 OPTIONS\r\nl: 0\r\n\r\n";

    #[test]
    fn compact_names_bare_lf_and_folding() {
        let raw = GOOD.replace("\r\n", "\n").replace("tag=1\n", "\n ;tag=1\n");
        let message = Message::parse(raw.as_bytes()).unwrap();
        assert_eq!((message.call_id(), message.from_tag(), message.cseq()), (Some("id"), Some("1"), Some(1)));
        assert!(Message::parse(&message.to_bytes()).is_ok());
        let raw = GOOD.replace("l: 0", "Subject : x\r\n l: 9\r\n\r\n").replace("i: id", "i:\r\n\tid\r\n \r\no: refer");
        let message = Message::parse(raw.as_bytes()).unwrap();
        assert_eq!((message.call_id(), message.header("Event")), (Some("id"), Some("refer")));
        assert_eq!((message.header("Subject"), message.header("Content-Length")), (Some("x l: 9"), None));
        assert_eq!(raw_header(raw.as_bytes(), "Call-ID").as_deref(), Some(&b"id"[..]));
        assert_eq!(raw_header(raw.as_bytes(), "Content-Length"), None);
        let folded = GOOD.replace("l: 0", "Content-Length:\r\n 0");
        assert_eq!(Message::parse(folded.as_bytes()).unwrap().header("Content-Length"), Some("0"));
    }

    #[test]
    fn what_is_wrong_decides_the_status() {
        let status = |raw: String| match Message::parse(raw.as_bytes()) {
            Err((ParseError::Refuse(status, _), Some(_))) => status,
            Err(_) => 0,
            Ok(_) => 200,
        };
        assert_eq!(status(GOOD.into()), 200);
        assert_eq!(status(GOOD.replace("OPTIONS", "FOO")), 501);
        assert_eq!(status(GOOD.replace("1 OPTIONS", "1 BYE")), 400);
        assert_eq!(status(GOOD.replace("1 OPTIONS", "99999999999 OPTIONS")), 400);
        assert_eq!(status(GOOD.replace("l: 0", "l: 9")), 400);
        assert_eq!(status(GOOD.replace("l: 0", "l: -1")), 400);
        assert_eq!(status(GOOD.replace("i: id\r\n", "")), 400);
        assert_eq!(status(GOOD.replace("i: id\r\n", "i: id\r\ni: id\r\n")), 400);
        assert_eq!(status(GOOD.replace(";tag=1", "")), 400);
        assert_eq!(status(GOOD.replace("sip:a@b SIP/2.0", "http://a SIP/2.0")), 416);
        assert_eq!(status(GOOD.replace("sip:a@b SIP/2.0", "sip:a@b SIP/3.0")), 505);
        assert_eq!(status(GOOD.replace(";tag=1", "").replace("z9hG4bK", "")), 200, "RFC 2543");
        assert_eq!(status(GOOD.replace("l: 0", "Max-Forwards: x")), 400);
        assert_eq!(status(GOOD.replace("l: 0", &"v: SIP/2.0/UDP 1.1.1.1;branch=z9hG4bKy\r\n".repeat(80))), 483);
        assert_eq!(status(GOOD.replace("v:", "x:")), 0);
        assert_eq!(status(GOOD.replace("\r\n\r\n", "")), 0);
        assert_eq!(status("SIP/2.0 200 OK\r\nl: 0\r\n\r\n".into()), 0);
    }

    #[test]
    fn a_latin1_display_name_does_not_lose_the_call() {
        let mut raw = GOOD.as_bytes().to_vec();
        let at = GOOD.find("<sip:c").unwrap();
        raw.splice(at..at, *b"\"M\xfcller\" ");
        assert_eq!(Message::parse(&raw).unwrap().from_tag(), Some("1"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            drop(Message::parse(&raw));
        }

        #[test]
        fn what_parses_prints_and_parses_the_same(at in 0_usize..180, byte in proptest::prelude::any::<u8>()) {
            let mut raw = GOOD.as_bytes().to_vec();
            if let Some(slot) = raw.get_mut(at) { *slot = byte; }
            if let Ok(message) = Message::parse(&raw) {
                let again = Message::parse(&message.to_bytes());
                proptest::prop_assert!(again.is_ok());
            }
        }
    }
}

//! The state of one dialog as plain data (RFC 3261 §12): enough to answer and to send requests after a restart.
//! Enters: headers of the message that made the dialog; leaves: requests within it.

use serde::{Deserialize, Serialize};

use super::session::SessionTimer;
use crate::base::trunk::TrunkName;
use crate::base::{CallId, Pii};
use crate::sip::message::{Message, Method, Start, Via};
use crate::sip::transaction::{Flow, NextHop, Transport};
use crate::sip::uri::{NameAddr, Uri};

/// Who sent the first INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// They called.
    Uas,
    /// We called.
    Uac,
}

/// Where the call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// UAS: no final response yet.
    Ringing,
    /// UAS: 2xx sent, no ACK yet.
    Answered,
    /// UAC: no final response yet.
    Calling,
    /// UAC: we want out, the INVITE has no final response yet.
    Cancelling,
    /// Both sides agree that there is a call.
    Confirmed,
    /// BYE sent, or due as soon as the ACK is there.
    Terminating,
}

/// One dialog. Serialise it after every change and a call survives its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialogState {
    /// Our name for the call.
    pub call: CallId,
    /// Who called.
    pub role: Role,
    /// Where it is.
    pub phase: Phase,
    /// Call-ID.
    pub call_id: Pii<String>,
    /// Our tag.
    pub local_tag: String,
    /// Their tag; empty until they have one.
    pub remote_tag: String,
    /// Our From (UAC) or To (UAS) without tag.
    pub local: Pii<String>,
    /// Theirs.
    pub remote: Pii<String>,
    /// Their Contact: the Request-URI of our requests.
    pub remote_target: Pii<String>,
    /// In the order in which our requests carry it.
    pub route_set: Pii<Vec<String>>,
    /// CSeq of our last request.
    pub local_cseq: u32,
    /// CSeq of their last request.
    pub remote_cseq: Option<u32>,
    /// CSeq of the INVITE that made the dialog.
    pub invite_cseq: u32,
    /// What the dialog came over.
    pub flow: Flow,
    /// Our Contact.
    pub contact: String,
    /// Our last SDP: the offer where a re-INVITE brings none.
    pub local_sdp: Option<String>,
    /// Without a refresh the session is over (RFC 4028).
    #[serde(default)]
    pub session: Option<SessionTimer>,
    /// Whether their Allow names UPDATE.
    #[serde(default)]
    pub peer_updates: bool,
    /// The trunk that it goes through, where there are any.
    #[serde(default)]
    pub trunk: Option<TrunkName>,
    /// Over TLS, where we called: the name that the server's certificate must have; none takes the host that is called.
    #[serde(default)]
    pub server_name: Option<String>,
    /// UAS: the INVITE as it came, as long as another process may have to answer it. Its Via says where to.
    pub invite: Option<Pii<Vec<u8>>>,
}

impl DialogState {
    /// RFC 3261 §12.1.1: from an INVITE to us.
    pub fn from_invite(call: CallId, invite: &Message, flow: Flow, local_tag: String, contact: String) -> Option<Self> {
        let remote_target = contact_of(invite).or_else(|| caller_of_old(invite))?;
        Some(Self {
            call,
            role: Role::Uas,
            phase: Phase::Ringing,
            call_id: invite.call_id()?.to_owned().into(),
            local_tag,
            remote_tag: invite.from_tag().unwrap_or_default().to_owned(),
            local: without_tag(invite.header("To")?).into(),
            remote: without_tag(invite.header("From")?).into(),
            remote_target: remote_target.into(),
            route_set: invite.list("Record-Route").map(str::to_owned).collect::<Vec<_>>().into(),
            local_cseq: 0,
            remote_cseq: invite.cseq(),
            invite_cseq: invite.cseq()?,
            flow,
            contact,
            local_sdp: None,
            session: None,
            peer_updates: allows_update(invite),
            trunk: None,
            server_name: None,
            invite: Some(invite.to_bytes().into()),
        })
    }

    /// RFC 3261 §12.1.2: a 2xx to our INVITE completes what `dial` began.
    pub fn complete(&mut self, response: &Message) {
        if let Some(tag) = response.to_tag() {
            tag.clone_into(&mut self.remote_tag);
        }
        if let Some(to) = response.header("To") {
            self.remote = without_tag(to).into();
        }
        let mut routes: Vec<String> = response.list("Record-Route").map(str::to_owned).collect();
        routes.reverse();
        self.route_set = routes.into();
        self.peer_updates = allows_update(response);
        self.refresh_target(response);
    }

    /// RFC 3261 §12.2.1.2: target refresh.
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(target) = contact_of(message) {
            self.remote_target = target.into();
        }
    }

    /// A request within the dialog; CSeq goes up by one.
    pub fn request(&mut self, method: Method, branch: &str) -> (Message, NextHop) {
        self.local_cseq += 1;
        self.build(method, self.local_cseq, branch)
    }

    /// The ACK of a 2xx: CSeq of its INVITE (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32, branch: &str) -> (Message, NextHop) {
        self.build(Method::Ack, cseq, branch)
    }

    fn build(&self, method: Method, cseq: u32, branch: &str) -> (Message, NextHop) {
        let routes = self.route_set.reveal();
        let target = self.remote_target.reveal();
        let first = routes.first().and_then(|r| NameAddr::parse(r)).map(|r| r.uri);
        let loose = first.is_none_or(|r| Uri::parse(r).is_none_or(|u| u.param("lr").is_some()));
        // RFC 3261 §12.2.1.1: a strict router wants itself in the Request-URI and the target last.
        let (uri, carried): (&str, Vec<String>) = match first {
            Some(router) if !loose => {
                let rest = routes.iter().skip(1).cloned();
                (router, rest.chain([format!("<{target}>")]).collect())
            }
            _ => (target, routes.clone()),
        };
        let mut message = Message::request(method, uri)
            .with("Via", via(self.flow, branch))
            .with("Max-Forwards", "70")
            .with("From", with_tag(self.local.reveal(), &self.local_tag))
            .with("To", with_tag(self.remote.reveal(), &self.remote_tag))
            .with("Call-ID", self.call_id.reveal().as_str())
            .with("CSeq", format!("{cseq} {}", method.as_str()));
        for route in carried {
            message = message.with("Route", route);
        }
        if !matches!(method, Method::Bye | Method::Ack) {
            message = message.with("Contact", format!("<{}>", self.contact));
        }
        (message, self.next_hop(first.unwrap_or(target)))
    }

    fn next_hop(&self, uri: &str) -> NextHop {
        let wanted = Uri::parse(uri).and_then(|u| u.transport());
        // A dialog goes up, from datagrams to streams and from those to TLS, and never down again.
        let transport = match (self.flow.transport, wanted) {
            (Transport::Tls, _) | (_, Some(Transport::Tls)) => Transport::Tls,
            (Transport::Tcp, _) | (_, Some(Transport::Tcp)) => Transport::Tcp,
            (Transport::Udp, _) => Transport::Udp,
        };
        NextHop {
            transport,
            uri: uri.to_owned(),
            flow: (self.flow.transport == transport).then_some(self.flow),
            name: self.server_name.clone(),
        }
    }
}

/// Our Contact URI on this flow; `sips:` where the other side has begun with it (RFC 3261 §12.1.1).
pub(in crate::sip) fn contact_uri(user: &str, flow: Flow, secure: bool) -> String {
    let local = flow.local;
    match flow.transport {
        Transport::Udp => format!("sip:{user}@{local}"),
        Transport::Tcp => format!("sip:{user}@{local};transport=tcp"),
        Transport::Tls if secure => format!("sips:{user}@{local}"),
        Transport::Tls => format!("sip:{user}@{local};transport=tls"),
    }
}

/// Whether this request demands TLS at every hop: its Request-URI, its first Record-Route or its Contact is `sips:`.
pub(super) fn is_secure(request: &Message) -> bool {
    let asked = match &request.start {
        Start::Request { uri, .. } => Some(uri.as_str()),
        Start::Response { .. } => None,
    };
    let first = |name| request.list(name).next().and_then(NameAddr::parse).map(|a| a.uri);
    let sips = |uri: &str| Uri::parse(uri).is_some_and(|u| u.secure);
    [asked, first("Record-Route"), first("Contact")].into_iter().flatten().any(sips)
}

/// Our Via on this flow.
pub(super) fn via(flow: Flow, branch: &str) -> String {
    format!("SIP/2.0/{} {};rport;branch={branch}", flow.transport.name(), flow.local)
}

pub(super) fn with_tag(value: &str, tag: &str) -> String {
    if tag.is_empty() { value.to_owned() } else { format!("{value};tag={tag}") }
}

fn allows_update(message: &Message) -> bool {
    message.list("Allow").any(|method| method.trim() == Method::Update.as_str())
}

fn contact_of(message: &Message) -> Option<String> {
    let first = message.list("Contact").next()?;
    Some(NameAddr::parse(first)?.uri.to_owned()).filter(|u| Uri::parse(u).is_some())
}

/// RFC 2543 knew calls without Contact: then the caller is who From says.
fn caller_of_old(invite: &Message) -> Option<String> {
    let old = invite.header("Via").and_then(Via::parse).is_some_and(|via| !via.is_modern());
    let from = NameAddr::parse(invite.header("From")?)?.uri;
    (old && invite.header("Contact").is_none() && Uri::parse(from).is_some()).then(|| from.to_owned())
}

/// A From or To value as it came, but for its tag: display name and URI must be repeated exactly.
fn without_tag(value: &str) -> String {
    let Some(at) = value.rfind('>') else {
        return format!("<{}>", value.split(';').next().unwrap_or(value).trim());
    };
    let (address, parameters) = value.split_at_checked(at + 1).unwrap_or((value, ""));
    let mut kept = address.to_owned();
    for p in parameters.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        if !p.split('=').next().is_some_and(|n| n.trim().eq_ignore_ascii_case("tag")) {
            kept.extend([";", p]);
        }
    }
    kept
}

//! A call out through a trunk: server after server until one answers (RFC 3263 §4.3). Enters: a number, an offer; leaves:
//! the call, or why there is none. A server that says nothing is given up long before its transaction is; what a callee
//! says is never tried elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::line::{Line, Lines};
use super::locate::Target;
use crate::base::Pii;
use crate::base::trunk::{CallerId, Host, TrunkName};
use crate::sip::dialog::EndReason;
use crate::sip::endpoint::{DialRequest, SipError};
use crate::sip::handle::{Call, OutgoingCall, Progress};
use crate::sip::uri::Uri;

/// A server that has not said anything for so long is given up, if there is another one.
const SILENT: Duration = Duration::from_secs(4);

/// Whom to call, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// A number, or a SIP URI.
    pub to: Pii<String>,
    /// Through this trunk; none lets us choose.
    pub trunk: Option<TrunkName>,
    /// Whom we hand over, and whom they had called: shown if the trunk passes caller ids on (RFC 5806).
    pub on_behalf: Option<(CallerId, CallerId)>,
    /// Our offer.
    pub sdp: String,
}

/// Why no call was even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undialled {
    /// No trunk has a host.
    #[error("there is no trunk that calls can go out through: give one of the [[trunk]] sections `hosts`")]
    NoTrunk,
    /// No trunk of this name.
    #[error("there is no trunk `{0}` with hosts: name one of the configuration")]
    UnknownTrunk(TrunkName),
    /// Neither a number nor a SIP URI.
    #[error("this is neither a number nor a SIP address: give digits, or sip:USER@HOST")]
    BadNumber,
    /// DNS knows none of its hosts.
    #[error("none of the hosts of trunk `{0}` has an address that our sockets reach")]
    Unreachable(TrunkName),
    /// It has as many calls as it may.
    #[error("trunk `{0}` has as many calls as its max_calls allows: let one end, or raise it")]
    Full(TrunkName),
    /// The daemon stops.
    #[error("the SIP endpoint takes no new calls")]
    Closed,
}

/// A call that is on its way. Dropping it cancels.
pub struct Dialling {
    lines: Lines,
    order: Order,
    line: std::sync::Arc<Line>,
    /// Servers that are left, each with the name of its host.
    servers: VecDeque<(Host, Target)>,
    call: OutgoingCall,
    /// This server has said something.
    heard: bool,
    /// When it is given up, if it has not.
    silent_at: Instant,
}

impl Lines {
    /// Sends the first INVITE.
    ///
    /// # Errors
    /// [`Undialled`] says what to do about it.
    pub async fn dial(&self, order: Order) -> Result<Dialling, Undialled> {
        if !is_callable(order.to.reveal()) {
            return Err(Undialled::BadNumber);
        }
        let line = self.line(order.trunk.as_ref())?;
        let mut servers = VecDeque::new();
        for host in line.hosts() {
            let Some(named) = line.trunk.hosts.get(host) else { continue };
            servers.extend(self.servers(&line, host).await.into_iter().map(|server| (named.clone(), server)));
        }
        let call = loop {
            let Some((host, server)) = servers.pop_front() else {
                return Err(Undialled::Unreachable(line.trunk.name.clone()));
            };
            match self.endpoint().dial(request(&order, &line, &host, server, false)).await {
                Ok(call) => break call,
                Err(SipError::Closed) => return Err(Undialled::Closed),
                Err(SipError::TrunkFull) => return Err(Undialled::Full(line.trunk.name.clone())),
                Err(_) => {}
            }
        };
        let silent_at = Instant::now() + SILENT;
        Ok(Dialling { lines: self.clone(), order, line, servers, call, heard: false, silent_at })
    }
}

impl Dialling {
    /// The trunk that it goes through.
    #[must_use]
    pub fn trunk(&self) -> &TrunkName {
        &self.line.trunk.name
    }

    /// Our name for the call, as it is now: another server makes another call of it.
    #[must_use]
    pub fn id(&self) -> crate::base::CallId {
        self.call.id()
    }

    /// The next piece of news. Cancel-safe.
    pub async fn progress(&mut self) -> Progress {
        loop {
            let others = !self.servers.is_empty();
            let news = if others && !self.heard {
                timeout_at(self.silent_at, self.call.progress()).await.ok()
            } else {
                Some(self.call.progress().await)
            };
            match news {
                Some(Progress::Ended(reason)) if others && !self.heard && is_of_the_server(&reason) => {}
                None => {}
                Some(news) => {
                    self.heard = true;
                    return news;
                }
            }
            let why = "a server of a trunk does not take a call; the next one is tried";
            tracing::warn!(trunk = %self.line.trunk.name, why);
            if let Err(ended) = self.next_server().await {
                return ended;
            }
        }
    }

    async fn next_server(&mut self) -> Result<(), Progress> {
        while let Some((host, server)) = self.servers.front().cloned() {
            let called = self.lines.endpoint().dial(request(&self.order, &self.line, &host, server, true)).await;
            self.servers.pop_front();
            match called {
                Ok(call) => {
                    // The one before is cancelled as it is dropped.
                    self.call = call;
                    self.silent_at = Instant::now() + SILENT;
                    return Ok(());
                }
                Err(SipError::Closed) => break,
                Err(_) => {}
            }
        }
        Err(Progress::Ended(EndReason::Rejected { status: 503, reason: "Service Unavailable".to_owned() }))
    }

    /// The call, after [`Progress::Answered`].
    #[must_use]
    pub fn into_call(self) -> Call {
        self.call.into_call()
    }

    /// CANCEL.
    pub async fn cancel(self) {
        self.call.cancel().await;
    }
}

/// What another server might do better (RFC 3263 §4.3): no answer, no transport, a fault of its own.
fn is_of_the_server(reason: &EndReason) -> bool {
    matches!(reason, EndReason::Timeout | EndReason::Rejected { status: 408 | 500..=599, .. })
}

fn is_callable(to: &str) -> bool {
    let number = |c: char| c.is_ascii_alphanumeric() || "+*#-_.!~".contains(c);
    let clean = !to.bytes().any(|b| b.is_ascii_control() || b" <>\"".contains(&b));
    match Uri::parse(to) {
        Some(_) => clean,
        None => (1..=64).contains(&to.len()) && to.chars().all(number),
    }
}

fn request(order: &Order, line: &Line, host: &Host, server: Target, again: bool) -> DialRequest {
    let trunk = &line.trunk;
    let to = order.to.reveal();
    let to = if Uri::parse(to).is_some() {
        to.clone()
    } else {
        let user = percent_encoding::utf8_percent_encode(to, USER);
        let phone = if to.chars().any(|c| c.is_ascii_alphabetic()) { "" } else { ";user=phone" };
        format!("sip:{user}@{}{phone}", host.host_port())
    };
    let own = trunk.caller_id.as_ref().map(|id| id.as_str().to_owned());
    let passed = order.on_behalf.as_ref().filter(|_| trunk.pass_caller_id);
    let caller = passed.map(|(caller, _)| caller.as_str().to_owned()).or_else(|| own.clone());
    let from_user = caller.or_else(|| trunk.username.clone()).unwrap_or_else(|| "callbox".to_owned());
    let domain = trunk.domain();
    let mut headers: Vec<(&'static str, Pii<String>)> =
        line.route().into_iter().map(|route| ("Route", route.into())).collect();
    if let Some(own) = own {
        // RFC 3325 §9.1: who we are to the trunk, whatever From shows.
        headers.push(("P-Asserted-Identity", format!("<sip:{own}@{domain}>").into()));
    }
    if let Some((_, called)) = passed {
        headers.push(("Diversion", format!("<sip:{}@{domain}>;reason=unconditional", called.as_str()).into()));
    }
    DialRequest {
        to: to.into(),
        from_user,
        from_host: Some(domain),
        transport: Some(server.transport.into()),
        next: Some(server.peer),
        trunk: Some(trunk.name.clone()),
        again,
        server_name: Some(host.name.clone()),
        headers,
        sdp: order.sdp.clone(),
    }
}

/// What stands in a user part as it is (RFC 3261 §25.1), but `#` and what else a number does not hold.
const USER: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'#').add(b'%').add(b'"').add(b'<').add(b'>');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_can_be_called_and_nothing_else() {
        for to in ["+4930123", "*31#", "desk", "sip:a@b.example", "sips:a@[2001:db8::1]:5061;transport=tls"] {
            assert!(is_callable(to), "{to}");
        }
        for to in ["", "+49 30", "a@b", "tel:+1", "sip:a@b\r\nX: y", "<sip:a@b>", &"9".repeat(65)] {
            assert!(!is_callable(to), "{to}");
        }
    }

    #[test]
    fn only_faults_of_a_server_are_tried_elsewhere() {
        let rejected = |status| EndReason::Rejected { status, reason: String::new() };
        assert!([408, 500, 503, 599].into_iter().all(|status| is_of_the_server(&rejected(status))));
        assert!([302, 403, 404, 480, 486, 603].into_iter().all(|status| !is_of_the_server(&rejected(status))));
    }
}

//! The side that calls: INVITE, its responses, CANCEL; and the responses to requests within the dialog.

use super::machine::{Ctx, Due, Machine};
use super::sent::{authorisation, renewed};
use super::state::{DialogState, Phase, Role, contact_uri, via, with_tag};
use super::{ACCEPT, ALLOW, Action, Dial, EndReason, MIN_SE, Notice, RING_LIMIT, SUPPORTED};
use crate::base::CallId;
use crate::sip::message::{Message, Method, Start};
use crate::sip::reason;
use crate::sip::transaction::{NextHop, Transport, TxId};
use crate::sip::uri::Uri;

impl Machine {
    /// Sends the INVITE of a new call.
    pub(super) fn dial(call: CallId, dial: &Dial, ctx: &mut Ctx<'_>) -> Self {
        let to = dial.to.reveal();
        let called = Uri::parse(to);
        let contact = contact_uri(&dial.from_user, dial.flow, called.is_some_and(|uri| uri.secure));
        let state = DialogState {
            call,
            role: Role::Uac,
            phase: Phase::Calling,
            call_id: format!("{}{}", ctx.token(), ctx.token()).into(),
            local_tag: ctx.token(),
            remote_tag: String::new(),
            local: from_of(dial).into(),
            remote: format!("<{to}>").into(),
            remote_target: to.clone().into(),
            route_set: Vec::new().into(),
            local_cseq: 1,
            remote_cseq: None,
            invite_cseq: 1,
            flow: dial.flow,
            contact,
            local_sdp: Some(dial.sdp.clone()),
            session: None,
            peer_updates: false,
            // The address has been looked up: only here is it still known whose it should be (RFC 5922 §7.3).
            server_name: (dial.flow.transport == Transport::Tls)
                .then(|| dial.server_name.clone().or_else(|| called.map(|uri| uri.host.to_owned())))
                .flatten(),
            invite: None,
            trunk: dial.trunk.clone(),
        };
        let branch = ctx.branch();
        let invite = Message::request(Method::Invite, to.as_str())
            .with("Via", via(dial.flow, &branch))
            .with("Max-Forwards", "70")
            .with("From", with_tag(state.local.reveal(), &state.local_tag))
            .with("To", state.remote.reveal().as_str())
            .with("Call-ID", state.call_id.reveal().as_str())
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<{}>", state.contact))
            .with("Allow", ALLOW)
            .with("Accept", ACCEPT)
            .with("Supported", SUPPORTED)
            .with("User-Agent", ctx.agent);
        let invite = match ctx.session_expires {
            0 => invite,
            seconds => invite.with("Session-Expires", seconds.to_string()).with("Min-SE", MIN_SE.to_string()),
        };
        let invite =
            dial.headers.iter().fold(invite, |invite, (name, value)| invite.with(name, value.reveal().as_str()));
        let invite = invite.with_sdp(Some(&dial.sdp));
        let tx = ctx.new_tx();
        ctx.actions.push(Action::Request { tx, msg: invite.clone(), to: first_hop(&state) });
        let mut machine = Self::new(state, Some((tx, invite)));
        machine.deadline = Some((ctx.now + RING_LIMIT, Due::Ring));
        machine
    }

    /// The INVITE again, changed, as a new request of the same call (RFC 3261 §8.1.3.5).
    pub(super) fn dial_again(&mut self, ctx: &mut Ctx<'_>, change: impl FnOnce(Message) -> Message) {
        let Some((_, invite)) = self.invite.take() else { return };
        self.state.local_cseq += 1;
        self.state.invite_cseq = self.state.local_cseq;
        self.provisional = false;
        let invite = renewed(change(invite), &via(self.state.flow, &ctx.branch()), self.state.invite_cseq);
        let tx = ctx.new_tx();
        ctx.actions.push(Action::Request { tx, msg: invite.clone(), to: first_hop(&self.state) });
        self.invite = Some((tx, invite));
    }

    /// RFC 3261 §9.1: same branch, same CSeq number, same everything but the method.
    pub(super) fn send_cancel(&mut self, ctx: &mut Ctx<'_>) {
        let Some((_, invite)) = &self.invite else { return };
        let Start::Request { uri, .. } = &invite.start else { return };
        let mut cancel = Message::request(Method::Cancel, uri.as_str());
        for name in ["Via", "Max-Forwards", "From", "To", "Call-ID", "Route"] {
            for value in invite.all(name) {
                cancel = cancel.with(name, value);
            }
        }
        let cancel =
            cancel.with("CSeq", format!("{} CANCEL", self.state.invite_cseq)).with("Reason", reason::CANCELLED);
        let to = first_hop(&self.state);
        self.send(cancel, to, ctx);
    }

    pub(super) fn on_response(&mut self, tx: TxId, response: &Message, ctx: &mut Ctx<'_>) {
        if self.state.role == Role::Uac && self.invite.as_ref().is_some_and(|(t, _)| *t == tx) {
            return self.on_invite_response(response, ctx);
        }
        let Some(at) = self.pending.iter().position(|sent| sent.tx == tx) else { return };
        let status = response.status();
        if status < 200 {
            return;
        }
        let sent = self.pending.swap_remove(at);
        let method = sent.method;
        if matches!(status, 401 | 407) && self.send_authorised(&sent, response, ctx) {
            return;
        }
        match (method, self.state.phase) {
            (Method::Bye, _) => self.finish(EndReason::LocalHangup, ctx),
            (Method::Cancel | Method::Prack, _) => {}
            (Method::Refer, Phase::Confirmed) => self.on_referred(status, ctx),
            // RFC 3261 §12.2.1.2: these say that there is no dialog any more.
            (_, Phase::Confirmed) if status == 481 || status == 408 => self.bye(EndReason::Timeout, ctx),
            (Method::Invite | Method::Update, Phase::Confirmed) => {
                if method == Method::Invite {
                    self.credit = sent.credit();
                }
                self.on_refreshed(method, response, ctx);
            }
            // A 2xx to a re-INVITE that crossed our BYE: it is not acknowledged, the BYE ends the dialog all the same.
            (Method::Invite | Method::Update, _) => {}
            _ => ctx.notify(self.state.call, Notice::Reply { status }),
        }
    }

    fn on_invite_response(&mut self, response: &Message, ctx: &mut Ctx<'_>) {
        let cancelling = self.state.phase == Phase::Cancelling;
        match response.status() {
            status @ 100..200 => {
                let first = !std::mem::replace(&mut self.provisional, true);
                if cancelling && first {
                    self.send_cancel(ctx);
                } else if !cancelling && (status == 100 && first || status > 100 && self.acknowledge(response, ctx)) {
                    // 100 as well, once: whoever has several servers to try knows that this one is at work.
                    ctx.notify(self.state.call, Notice::Progress { status, sdp: response.sdp() });
                }
            }
            200..300 => {
                self.credit = self.invite.take().map(|(_, invite)| authorisation(&invite)).unwrap_or_default();
                self.state.complete(response);
                self.send_ack(ctx);
                self.deadline = None;
                if cancelling {
                    // The CANCEL crossed the 2xx: there is a call, and it ends now (RFC 3261 §9.1).
                    return self.bye(EndReason::LocalHangup, ctx);
                }
                self.state.phase = Phase::Confirmed;
                self.renew_as(response, ctx.now);
                // RFC 3261 §13.2.1: after a reliable provisional response with the answer the 2xx need not repeat it.
                let early = self.early.drain(..).find(|early| early.tag == self.state.remote_tag);
                let sdp = response.sdp().or_else(|| early.and_then(|early| early.sdp));
                ctx.notify(self.state.call, Notice::Answered { sdp });
            }
            422 if !cancelling && self.dial_longer(response, ctx) => {}
            401 | 407 if !cancelling && self.dial_authorised(response, ctx) => {}
            status => {
                self.invite = None;
                let reason = match &response.start {
                    Start::Response { reason, .. } => reason.clone(),
                    Start::Request { .. } => String::new(),
                };
                self.finish(EndReason::Rejected { status, reason }, ctx);
            }
        }
    }

    fn send_ack(&self, ctx: &mut Ctx<'_>) {
        let branch = ctx.branch();
        let (msg, to) = self.state.ack(self.state.invite_cseq, &branch);
        ctx.actions.push(Action::Ack { msg: self.credited(msg), to });
    }

    /// RFC 3261 §22.1: an ACK carries what its INVITE was let through with.
    pub(super) fn credited(&self, ack: Message) -> Message {
        self.credit.iter().fold(ack, |ack, (name, value)| ack.with(name, value))
    }

    /// A 2xx after the first one: repeated because our ACK was lost, or from another branch of a fork, which gets an
    /// ACK and a BYE (RFC 3261 §13.2.2.4).
    pub(super) fn on_stray_2xx(&self, response: &Message, ctx: &mut Ctx<'_>) {
        let number = response.cseq();
        // Of a re-INVITE: where they called, every INVITE of ours is one.
        let again = self.state.role == Role::Uas || number > Some(self.state.invite_cseq);
        if again && response.to_tag() == Some(&self.state.remote_tag) {
            return self.ack_reinvite(response, ctx);
        }
        if self.state.role != Role::Uac || number != Some(self.state.invite_cseq) {
            return;
        }
        if response.to_tag() == Some(&self.state.remote_tag) {
            return self.send_ack(ctx);
        }
        if self.state.remote_tag.is_empty() {
            return;
        }
        let mut fork = self.state.clone();
        fork.complete(response);
        let branch = ctx.branch();
        let (msg, to) = fork.ack(fork.invite_cseq, &branch);
        ctx.actions.push(Action::Ack { msg: self.credited(msg), to });
        let branch = ctx.branch();
        let (msg, to) = fork.request(Method::Bye, &branch);
        let tx = ctx.new_tx();
        ctx.actions.push(Action::Request { tx, msg, to });
    }
}

/// Who calls: a number of the trunk's, or a name at our own address.
fn from_of(dial: &Dial) -> String {
    match &dial.from_host {
        Some(host) => format!("<sip:{}@{host}>", dial.from_user),
        None => format!("<sip:{}@{}>", dial.from_user, dial.flow.local),
    }
}

fn first_hop(state: &DialogState) -> NextHop {
    // The endpoint has resolved the name: the flow says where to, the Request-URI stays what was dialled.
    let (flow, name) = (state.flow, state.server_name.clone());
    NextHop { transport: flow.transport, uri: format!("sip:{}", flow.peer), flow: Some(flow), name }
}

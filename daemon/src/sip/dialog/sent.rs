//! Requests of ours within a dialog until their final response, and the answer to a challenge (RFC 3261 §22). Enters: a
//! request to send, 401 and 407; leaves: the request, perhaps again with the digest that it was asked for.

use super::Action;
use super::machine::{Ctx, Machine};
use super::state::via;
use crate::sip::message::{Message, Method};
use crate::sip::transaction::{NextHop, TxId};

/// Challenges that one request answers: one of the registrar's kind, one of a proxy before it, and a stale nonce of each.
const CHALLENGES: u8 = 4;

/// A request that has no final response yet.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) tx: TxId,
    pub(super) method: Method,
    /// As it was sent, and where to: to be sent again with a digest.
    request: Box<(Message, NextHop)>,
    challenges: u8,
}

impl Sent {
    /// The digests that it carried.
    pub(super) fn credit(&self) -> Vec<(String, String)> {
        authorisation(&self.request.0)
    }
}

impl Machine {
    /// Sends a request within the dialog in a transaction of its own.
    pub(super) fn send(&mut self, msg: Message, to: NextHop, ctx: &mut Ctx<'_>) {
        self.send_counted(msg, to, 0, ctx);
    }

    fn send_counted(&mut self, msg: Message, to: NextHop, challenges: u8, ctx: &mut Ctx<'_>) {
        let Some(method) = msg.method() else { return };
        let tx = ctx.new_tx();
        self.pending.push(Sent { tx, method, request: Box::new((msg.clone(), to.clone())), challenges });
        ctx.actions.push(Action::Request { tx, msg, to });
    }

    /// The same request with the digest that this response asks for. Whether there is one.
    pub(super) fn send_authorised(&mut self, sent: &Sent, response: &Message, ctx: &mut Ctx<'_>) -> bool {
        let (msg, to) = sent.request.as_ref().clone();
        // RFC 3261 §22.1: nobody can answer a challenge to a CANCEL, which must not be sent anew.
        if sent.method == Method::Cancel || sent.challenges >= CHALLENGES {
            return false;
        }
        let Some(msg) = ctx.authorised(self.state.trunk.as_ref(), msg, response) else { return false };
        self.state.local_cseq += 1;
        let msg = renewed(msg, &via(self.state.flow, &ctx.branch()), self.state.local_cseq);
        self.send_counted(msg, to, sent.challenges + 1, ctx);
        true
    }

    /// The INVITE again with the digest that this response asks for. Whether there is one.
    pub(super) fn dial_authorised(&mut self, response: &Message, ctx: &mut Ctx<'_>) -> bool {
        let Some((_, invite)) = &self.invite else { return false };
        if self.challenges >= CHALLENGES {
            return false;
        }
        let Some(authorised) = ctx.authorised(self.state.trunk.as_ref(), invite.clone(), response) else {
            return false;
        };
        self.challenges += 1;
        self.dial_again(ctx, |_| authorised);
        true
    }
}

/// The digests that a request carries.
pub(super) fn authorisation(request: &Message) -> Vec<(String, String)> {
    let ours = |name: &str| matches!(name, "Authorization" | "Proxy-Authorization");
    let found = request.headers.iter().filter(|(name, _)| ours(name));
    found.map(|(name, value)| (name.to_string(), value.clone())).collect()
}

/// The request as a new one of its dialog (RFC 3261 §8.1.3.5).
pub(super) fn renewed(mut request: Message, via: &str, cseq: u32) -> Message {
    let method = request.method().map_or("", Method::as_str);
    request.headers.retain(|(name, _)| !matches!(name.as_ref(), "Via" | "CSeq"));
    request.with("Via", via).with("CSeq", format!("{cseq} {method}"))
}

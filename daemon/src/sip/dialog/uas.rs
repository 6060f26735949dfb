//! The side that was called: answers to the INVITE and to requests within the dialog.

use super::machine::{Ctx, Due, Machine, Reoffer};
use super::screen::{Refusal, capabilities, requires, screen};
use super::session::{SessionTimer, settle, stated};
use super::state::Phase;
use super::{ALLOW, CommandError, EndReason, Notice, OFFER_LIMIT, RING_LIMIT, SUPPORTED};
use crate::sip::message::{Message, Method};
use crate::sip::transaction::TxId;

impl Machine {
    fn dialog_response(&self, request: &Message, status: u16) -> Message {
        let response = Message::response(request, status, Some(&self.state.local_tag));
        if (101..300).contains(&status) {
            response.with("Contact", format!("<{}>", self.state.contact))
        } else {
            response
        }
    }

    /// 200 that agrees on a session; `sdp` for all but an UPDATE without offer.
    fn session_response(&self, request: &Message, session: Option<SessionTimer>, sdp: Option<&str>) -> Message {
        let response = self.dialog_response(request, 200).with("Allow", ALLOW).with("Supported", SUPPORTED);
        stated(response, session).with_sdp(sdp)
    }

    pub(super) fn ring(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        match (&self.invite, self.state.phase) {
            (Some((tx, request)), Phase::Ringing) => {
                let response = self.dialog_response(request, 180);
                let tx = *tx;
                match (requires(request, "100rel"), &self.reliable) {
                    (true, None) => self.respond_reliably(tx, response.with("Allow", ALLOW), ctx),
                    (true, Some(_)) => {}
                    (false, _) => ctx.respond(tx, response),
                }
                self.deadline = Some((ctx.now + RING_LIMIT, Due::Ring));
                Ok(())
            }
            _ => Err(CommandError::WrongState),
        }
    }

    pub(super) fn answer(&mut self, sdp: String, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        if self.invite.is_none() || self.state.phase != Phase::Ringing {
            return Err(CommandError::WrongState);
        }
        self.state.phase = Phase::Answered;
        self.state.local_sdp = Some(sdp);
        self.send_2xx(ctx);
        Ok(())
    }

    /// 200 with our SDP: for the first time, or because nobody knows whether the process before has sent it.
    pub(super) fn send_2xx(&mut self, ctx: &mut Ctx<'_>) {
        if let (Some((tx, request)), Some(sdp)) = (&self.invite, &self.state.local_sdp) {
            ctx.respond(*tx, self.session_response(request, self.state.session, Some(sdp)));
            self.deadline = Some((ctx.now + ctx.timers.t1x64(), Due::Ack));
            self.renew(ctx.now);
        }
    }

    /// 100, because 200 ms have passed (RFC 3261 §17.2.1). Not before: until then the peer repeats its INVITE, to
    /// whatever process there is.
    pub(super) fn trying(&mut self, ctx: &mut Ctx<'_>) {
        if let Some((tx, request)) = &self.invite {
            ctx.respond(*tx, Message::response(request, 100, None));
        }
        self.deadline = Some((ctx.now + RING_LIMIT, Due::Ring));
    }

    pub(super) fn reject(&mut self, status: u16, retry: Option<u32>, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        if self.state.phase != Phase::Ringing {
            return Err(CommandError::WrongState);
        }
        let status = if (300..700).contains(&status) { status } else { 500 };
        self.reject_now(status, retry, EndReason::LocalHangup, ctx);
        Ok(())
    }

    pub(super) fn reject_now(&mut self, status: u16, retry: Option<u32>, reason: EndReason, ctx: &mut Ctx<'_>) {
        if let Some((tx, request)) = self.invite.take() {
            let mut response = self.dialog_response(&request, status);
            if let Some(seconds) = retry {
                response = response.with("Retry-After", seconds.to_string());
            }
            ctx.respond(tx, response);
        }
        self.finish(reason, ctx);
    }

    /// CANCEL before the final response (RFC 3261 §9.2). After it, the layer below has answered and nothing changes.
    pub(super) fn on_cancel(&mut self, ctx: &mut Ctx<'_>) {
        if self.state.phase == Phase::Ringing {
            self.reject_now(487, None, EndReason::Cancelled, ctx);
        }
    }

    pub(super) fn on_ack(&mut self, tx: TxId, ack: &Message, ctx: &mut Ctx<'_>) {
        if self.reoffer.as_ref().is_some_and(|r| r.tx == tx) {
            self.reoffer = None;
            if let Some(answer) = ack.sdp() {
                ctx.notify(self.state.call, Notice::Confirmed { answer: Some(answer) });
            }
            return;
        }
        if !matches!(self.state.phase, Phase::Answered | Phase::Terminating)
            || self.invite.as_ref().is_none_or(|(t, _)| *t != tx)
        {
            return;
        }
        (self.invite, self.state.invite) = (None, None);
        match self.state.phase {
            Phase::Answered => {
                self.state.phase = Phase::Confirmed;
                self.deadline.take_if(|(_, due)| *due == Due::Ack);
                ctx.notify(self.state.call, Notice::Confirmed { answer: ack.sdp() });
            }
            Phase::Terminating if self.bye_owed => self.bye(EndReason::LocalHangup, ctx),
            _ => {}
        }
    }

    /// A request that carries both our tags.
    pub(super) fn on_request(&mut self, tx: TxId, request: Message, ctx: &mut Ctx<'_>) {
        let refuse = |refusal: Refusal, ctx: &mut Ctx<'_>| ctx.respond(tx, refusal.response(&request, ""));
        // RFC 3261 §12.2.2: old requests are out of order.
        let number = request.cseq().unwrap_or(0);
        if self.state.remote_cseq.is_some_and(|last| number <= last) {
            return refuse(Refusal::plain(500), ctx);
        }
        self.state.remote_cseq = Some(number);
        let method = match screen(&request, true) {
            Ok(method) => method,
            Err(refusal) => return refuse(refusal, ctx),
        };
        match method {
            Method::Bye => {
                ctx.respond(tx, self.dialog_response(&request, 200));
                self.on_bye(ctx);
            }
            Method::Options => ctx.respond(tx, capabilities(self.dialog_response(&request, 200))),
            Method::Info => {
                ctx.respond(tx, self.dialog_response(&request, 200));
                if let (Some(kind), false) = (request.header("Content-Type"), request.body.is_empty()) {
                    let content_type = kind.to_owned();
                    let body = request.body.into();
                    ctx.notify(self.state.call, Notice::Info { content_type, body });
                }
            }
            Method::Prack => self.on_prack(tx, &request, ctx),
            Method::Notify => self.on_notify(tx, &request, ctx),
            Method::Invite | Method::Update => self.on_reoffer(tx, method, request, ctx),
            _ => refuse(Refusal::plain(405), ctx),
        }
    }

    fn on_bye(&mut self, ctx: &mut Ctx<'_>) {
        // An early dialog may be ended by BYE too (RFC 3261 §15.1.2); its INVITE is then 487.
        if self.state.phase == Phase::Ringing {
            return self.reject_now(487, None, EndReason::Cancelled, ctx);
        }
        if let (Phase::Answered, Some((tx, _))) = (self.state.phase, self.invite.take()) {
            ctx.actions.push(super::Action::Abandon { tx }); // no ACK will come: stop repeating the 2xx
        }
        for sent in std::mem::take(&mut self.pending) {
            ctx.actions.push(super::Action::Abandon { tx: sent.tx });
        }
        self.finish(EndReason::RemoteHangup, ctx);
    }

    fn on_reoffer(&mut self, tx: TxId, method: Method, request: Message, ctx: &mut Ctx<'_>) {
        // The ACK may come after what was sent after it: offer and answer are complete without it, if ours was the answer.
        let settled = match self.state.phase {
            Phase::Confirmed => true,
            Phase::Answered => self.invite.as_ref().is_some_and(|(_, invite)| invite.sdp().is_some()),
            _ => false,
        };
        if !settled || self.reoffer.is_some() {
            // RFC 3261 §14.2, RFC 3311 §5.2: one at a time; "a randomly chosen value between 0 and 10".
            let seconds = u32::try_from((ctx.random)() % 11).unwrap_or(0);
            let status = if self.state.phase == Phase::Terminating { 481 } else { 500 };
            return ctx.respond(tx, Refusal::retry(status, seconds).response(&request, ""));
        }
        // RFC 3261 §14.2: our re-INVITE and theirs have crossed.
        if self.reinvites() && (method == Method::Invite || request.sdp().is_some()) {
            return ctx.respond(tx, Refusal::plain(491).response(&request, ""));
        }
        let session = match settle(&request, ctx.session_expires) {
            Ok(session) => session,
            Err(refusal) => return ctx.respond(tx, refusal.response(&request, "")),
        };
        self.state.refresh_target(&request);
        let sdp = request.sdp();
        if (&sdp, method) == (&None, Method::Update) {
            ctx.respond(tx, self.session_response(&request, session, None));
            self.state.session = session;
            return self.renew(ctx.now);
        }
        if method == Method::Invite {
            ctx.respond(tx, Message::response(&request, 100, None));
        }
        self.reoffer = Some(Reoffer { tx, request, answered: false, session });
        self.deadline = Some((ctx.now + OFFER_LIMIT, Due::Offer));
        ctx.notify(self.state.call, Notice::Offer { sdp });
    }

    pub(super) fn accept_offer(&mut self, sdp: String, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        let Some(reoffer) = self.reoffer.take_if(|r| !r.answered) else { return Err(CommandError::WrongState) };
        ctx.respond(reoffer.tx, self.session_response(&reoffer.request, reoffer.session, Some(&sdp)));
        self.state.session = reoffer.session;
        self.renew(ctx.now);
        self.state.local_sdp = Some(sdp);
        self.await_ack(ctx);
        if reoffer.request.method() == Some(Method::Invite) {
            self.reoffer = Some(Reoffer { answered: true, ..reoffer });
        }
        Ok(())
    }

    pub(super) fn refuse_offer(&mut self, status: u16, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        if self.reoffer.as_ref().is_none_or(|r| r.answered) {
            return Err(CommandError::WrongState);
        }
        self.await_ack(ctx);
        self.refuse_pending_offer(if (300..700).contains(&status) { status } else { 488 }, ctx);
        Ok(())
    }

    /// The time limit of an offer is over; if that had overtaken the ACK, the ACK's counts again.
    pub(super) fn await_ack(&mut self, ctx: &Ctx<'_>) {
        self.deadline = self.invite.is_some().then(|| (ctx.now + ctx.timers.t1x64(), Due::Ack));
    }

    pub(super) fn refuse_pending_offer(&mut self, status: u16, ctx: &mut Ctx<'_>) {
        if let Some(reoffer) = self.reoffer.take_if(|r| !r.answered) {
            ctx.respond(reoffer.tx, self.dialog_response(&reoffer.request, status));
        }
    }
}

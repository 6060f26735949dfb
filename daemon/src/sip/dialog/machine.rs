//! One call: its dialog, its pending transactions, its one deadline. Enters: events that the core has routed here,
//! commands of its owner; leaves: actions. Whatever happens, the owner hears `Ended` exactly once, and a machine whose
//! phase is `Terminating` ends by itself.

use std::time::Instant;

use super::reliable::{Early, Reliable};
use super::sent::Sent;
use super::session::SessionTimer;
use super::state::{DialogState, Phase};
use super::{Action, Command, CommandError, EndReason, Notice};
use crate::base::CallId;
use crate::base::trunk::{TrunkName, Trunks};
use crate::sip::digest::{Credentials, authorised};
use crate::sip::message::{Message, Method};
use crate::sip::reason;
use crate::sip::transaction::{Timers, TxId};

/// What a machine needs from the core while it works.
pub(super) struct Ctx<'a> {
    pub(super) actions: &'a mut Vec<Action>,
    pub(super) random: &'a mut (dyn FnMut() -> u64 + Send),
    pub(super) next_tx: &'a mut TxId,
    pub(super) agent: &'a str,
    pub(super) trunks: &'a Trunks,
    pub(super) timers: Timers,
    /// Seconds of a session that we ask for; 0 for no end.
    pub(super) session_expires: u32,
    pub(super) now: Instant,
}

impl Ctx<'_> {
    pub(super) fn respond(&mut self, tx: TxId, msg: Message) {
        let msg = if msg.status() > 100 { msg.with("Server", self.agent) } else { msg };
        self.actions.push(Action::Respond { tx, msg });
    }

    pub(super) fn notify(&mut self, call: CallId, notice: Notice) {
        self.actions.push(Action::Notify { call, notice });
    }

    /// The request with the digest that this response asks for, if the trunk has the password.
    pub(super) fn authorised(
        &mut self,
        trunk: Option<&TrunkName>,
        request: Message,
        response: &Message,
    ) -> Option<Message> {
        let cnonce = self.token();
        let trunk = self.trunks.named(trunk?)?;
        let (username, password) = trunk.login()?;
        authorised(request, response, &Credentials::new(username, password.clone()), &cnonce)
    }

    pub(super) fn token(&mut self) -> String {
        format!("{:016x}", (self.random)())
    }

    pub(super) fn branch(&mut self) -> String {
        // RFC 3261 §8.1.1.7: the magic cookie.
        format!("z9hG4bK{:016x}", (self.random)())
    }

    pub(super) fn new_tx(&mut self) -> TxId {
        let tx = *self.next_tx;
        *self.next_tx += 2;
        tx
    }
}

/// What happens when the deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The INVITE has had no response at all.
    Trying,
    /// Nobody answered: 480, or CANCEL.
    Ring,
    /// No ACK came.
    Ack,
    /// No reply to an offer came from the owner.
    Offer,
    /// The INVITE that we cancelled has no final response.
    Cancel,
    /// The BYE has none.
    Bye,
}

/// A re-INVITE or UPDATE that waits for the owner, or a re-INVITE that waits for its ACK.
#[derive(Debug)]
pub(super) struct Reoffer {
    pub(super) tx: TxId,
    pub(super) request: Message,
    pub(super) answered: bool,
    /// What its 2xx will say.
    pub(super) session: Option<SessionTimer>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) state: DialogState,
    /// Server or client transaction of the INVITE, and its request, while it lives.
    pub(super) invite: Option<(TxId, Message)>,
    pub(super) reoffer: Option<Reoffer>,
    pub(super) deadline: Option<(Instant, Due)>,
    /// When the session was agreed on last, and when it must be refreshed or is over.
    pub(super) renewed: Option<Instant>,
    pub(super) renewal: Option<Instant>,
    /// UAS: the 180 that the caller wants to acknowledge.
    pub(super) reliable: Option<Reliable>,
    /// UAC: the branches of a fork whose provisional responses were acknowledged.
    pub(super) early: Vec<Early>,
    /// Client transactions in the dialog: ours to count, and to report.
    pub(super) pending: Vec<Sent>,
    /// UAC: Authorization and Proxy-Authorization of the INVITE that was answered.
    pub(super) credit: Vec<(String, String)>,
    /// UAC: nonces that the INVITE has answered so far.
    pub(super) challenges: u8,
    /// A provisional response came, so that CANCEL may be sent.
    pub(super) provisional: bool,
    /// A REFER of ours whose end is not known.
    pub(super) referring: bool,
    /// The ACK that is due before a BYE may go out has not come.
    pub(super) bye_owed: bool,
    /// The owner has been told.
    pub(super) told: bool,
    /// Nothing is left to do: the core removes it.
    pub(super) done: bool,
}

impl Machine {
    pub(super) fn new(state: DialogState, invite: Option<(TxId, Message)>) -> Self {
        Self {
            state,
            invite,
            reoffer: None,
            deadline: None,
            renewed: None,
            renewal: None,
            reliable: None,
            early: Vec::new(),
            pending: Vec::new(),
            credit: Vec::new(),
            challenges: 0,
            provisional: false,
            referring: false,
            bye_owed: false,
            told: false,
            done: false,
        }
    }

    pub(super) fn command(&mut self, command: Command, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        if self.told || self.done {
            return Err(CommandError::Gone);
        }
        match command {
            Command::Ring => self.ring(ctx),
            Command::Answer { sdp } => self.answer(sdp, ctx),
            Command::Reject { status, retry_after, .. } => self.reject(status, retry_after, ctx),
            Command::AcceptOffer { sdp } => self.accept_offer(sdp, ctx),
            Command::RefuseOffer { status } => self.refuse_offer(status, ctx),
            Command::Info { content_type, body } => self.send_info(&content_type, &body, ctx),
            Command::Refer { to } => self.refer(to.reveal(), ctx),
            Command::Hangup => {
                self.hangup(EndReason::LocalHangup, ctx);
                Ok(())
            }
        }
    }

    /// Leaves the call the way the state demands.
    pub(super) fn hangup(&mut self, reason: EndReason, ctx: &mut Ctx<'_>) {
        match self.state.phase {
            Phase::Ringing => self.reject_now(480, None, reason, ctx),
            Phase::Answered => {
                // RFC 3261 §15: no BYE before the ACK, or before its time is over.
                self.bye_owed = true;
                self.state.phase = Phase::Terminating;
                self.end(reason, ctx);
            }
            Phase::Calling => {
                self.state.phase = Phase::Cancelling;
                self.deadline = Some((ctx.now + ctx.timers.t1x64(), Due::Cancel));
                if self.provisional {
                    self.send_cancel(ctx);
                }
                self.end(reason, ctx);
            }
            Phase::Confirmed => self.bye(reason, ctx),
            Phase::Cancelling | Phase::Terminating => self.end(reason, ctx),
        }
    }

    /// Sends BYE; the machine lives until its response, or until timer F and a little more.
    pub(super) fn bye(&mut self, reason: EndReason, ctx: &mut Ctx<'_>) {
        self.refuse_pending_offer(487, ctx);
        (self.bye_owed, self.renewal) = (false, None);
        self.state.phase = Phase::Terminating;
        let branch = ctx.branch();
        let (msg, to) = self.state.request(Method::Bye, &branch);
        let msg = msg.with("User-Agent", ctx.agent).with("Reason", reason::of(&reason));
        self.send(msg, to, ctx);
        self.deadline = Some((ctx.now + ctx.timers.t1x64() + ctx.timers.t1x64() / 4, Due::Bye));
        self.end(reason, ctx);
    }

    /// Tells the owner, once.
    pub(super) fn end(&mut self, reason: EndReason, ctx: &mut Ctx<'_>) {
        if !std::mem::replace(&mut self.told, true) {
            ctx.notify(self.state.call, Notice::Ended(reason));
        }
    }

    /// The call is over and nothing of it may stay.
    pub(super) fn finish(&mut self, reason: EndReason, ctx: &mut Ctx<'_>) {
        self.refuse_pending_offer(487, ctx);
        self.end(reason, ctx);
        (self.deadline, self.renewal, self.reliable) = (None, None, None);
        self.done = true;
    }

    /// When [`Machine::on_time`] wants to be called.
    pub(super) fn next(&self) -> Option<Instant> {
        let again = self.reliable.as_ref().and_then(|reliable| reliable.again);
        [self.deadline.map(|(at, _)| at), self.renewal, again].into_iter().flatten().min()
    }

    /// Whatever is due.
    pub(super) fn on_time(&mut self, ctx: &mut Ctx<'_>) {
        let due = |at: &Instant| *at <= ctx.now;
        let (renewal, again) = (self.renewal, self.reliable.as_ref().and_then(|reliable| reliable.again));
        let (renewal, again) = (renewal.filter(due).is_some(), again.filter(due).is_some());
        if let Some((_, due)) = self.deadline.take_if(|(at, _)| *at <= ctx.now) {
            self.on_deadline(due, ctx);
        }
        if again {
            self.on_unacknowledged(ctx);
        }
        if renewal {
            self.on_renewal(ctx);
        }
    }

    fn on_deadline(&mut self, due: Due, ctx: &mut Ctx<'_>) {
        match due {
            Due::Trying => self.trying(ctx),
            Due::Ring => self.hangup(EndReason::Timeout, ctx),
            Due::Ack => self.bye(EndReason::NoAck, ctx),
            Due::Offer => {
                self.await_ack(ctx);
                self.refuse_pending_offer(488, ctx);
            }
            Due::Cancel => {
                if let Some((tx, _)) = self.invite.take() {
                    ctx.actions.push(Action::Abandon { tx });
                }
                self.finish(EndReason::Timeout, ctx);
            }
            Due::Bye => {
                for sent in std::mem::take(&mut self.pending) {
                    ctx.actions.push(Action::Abandon { tx: sent.tx });
                }
                self.finish(EndReason::Timeout, ctx);
            }
        }
    }

    fn send_info(
        &mut self,
        content_type: &str,
        body: &crate::base::Pii<Vec<u8>>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), CommandError> {
        if self.state.phase != Phase::Confirmed {
            return Err(CommandError::WrongState);
        }
        let branch = ctx.branch();
        let (msg, to) = self.state.request(Method::Info, &branch);
        let msg = msg.with("User-Agent", ctx.agent).with_body(content_type, body.reveal().as_slice());
        self.send(msg, to, ctx);
        Ok(())
    }

    /// A transaction of this call is over.
    pub(super) fn on_ended(&mut self, tx: TxId, ctx: &mut Ctx<'_>) {
        self.pending.retain(|sent| sent.tx != tx);
        if self.reoffer.as_ref().is_some_and(|r| r.tx == tx) {
            let unacknowledged = self.reoffer.take().is_some_and(|r| r.answered);
            if unacknowledged && self.state.phase == Phase::Confirmed {
                self.bye(EndReason::NoAck, ctx); // RFC 3261 §14.2
            }
        }
        if self.invite.as_ref().is_some_and(|(t, _)| *t == tx) {
            match self.state.phase {
                Phase::Answered => self.bye(EndReason::NoAck, ctx),
                Phase::Terminating if self.bye_owed => self.bye(EndReason::NoAck, ctx),
                Phase::Calling | Phase::Cancelling | Phase::Ringing => self.finish(EndReason::Timeout, ctx),
                _ => self.invite = None,
            }
        }
        if self.state.phase == Phase::Terminating && !self.bye_owed && self.pending.is_empty() {
            self.finish(EndReason::LocalHangup, ctx);
        }
    }
}

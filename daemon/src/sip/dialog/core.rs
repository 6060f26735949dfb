//! All dialogs of an endpoint: which call an event belongs to, and what becomes of those that belong to none. Enters:
//! events, commands, the time; leaves: actions. Calls in the tables have a machine, a machine has a deadline or a
//! pending transaction or a confirmed dialog: nothing else is ever kept.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use super::entry::{Entry, TrunkCounts};
use super::machine::{Ctx, Due, Machine};
use super::screen::{Refusal, capabilities, screen};
use super::session::settle;
use super::state::{DialogState, Phase, contact_uri, is_secure, via};
use super::{Action, Command, CommandError, Dial, EndReason, Invitation, Notice, TRYING};
use crate::base::CallId;
use crate::base::trunk::{Trunk, TrunkName, Trunks};
use crate::sip::message::{Message, Method, Start};
use crate::sip::offences::Offence;
use crate::sip::transaction::{Flow, NextHop, Timers, TxId, TxnEvent};
use crate::sip::uri::{NameAddr, called_number};

/// What the core has to know.
pub struct CoreConfig {
    /// User-Agent and Server headers.
    pub agent: String,
    /// RFC 3261 timers.
    pub timers: Timers,
    /// Calls at once.
    pub max_calls: usize,
    /// Calls of one source without ACK.
    pub max_unacked_per_source: usize,
    /// Seconds for 503.
    pub retry_after: u32,
    /// Seconds after which a session without refresh is over, where the peer names none (RFC 4028); 0 for never.
    pub session_expires: u32,
    /// Whose calls they are.
    pub trunks: Trunks,
    /// Where call ids, tags, branches and Call-IDs come from.
    pub random: Box<dyn FnMut() -> u64 + Send>,
}

/// INVITEs refused before anybody was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// 503, `max_calls`.
    pub full: u64,
    /// 503, draining.
    pub draining: u64,
    /// 503, `max_unacked_per_source`.
    pub unacked: u64,
    /// 405, 415, 420, 481, 482 and their kind.
    pub unfit: u64,
}

/// The dialog core of one endpoint.
pub struct Core {
    config: CoreConfig,
    /// In boxes: a table has up to twice as many places as calls.
    calls: HashMap<CallId, Box<Machine>>,
    /// Call-ID and our tag.
    dialogs: HashMap<(String, String), CallId>,
    transactions: HashMap<TxId, CallId>,
    /// Requests of ours that belong to no call: registrations, keepalives.
    alone: HashSet<TxId>,
    deadlines: BTreeSet<(Instant, CallId)>,
    next_tx: TxId,
    draining: bool,
    refused: Refused,
    touched: Vec<CallId>,
    entry: Entry,
}

impl Core {
    /// A core without calls.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            entry: Entry::new(config.trunks.clone()),
            config,
            calls: HashMap::new(),
            dialogs: HashMap::new(),
            transactions: HashMap::new(),
            alone: HashSet::new(),
            deadlines: BTreeSet::new(),
            next_tx: 1,
            draining: false,
            refused: Refused::default(),
            touched: Vec::new(),
        }
    }

    /// Whether new INVITEs get 503 from now on; calls in progress stay.
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Other limits from now on; calls in progress stay, however many they are.
    pub fn limit(&mut self, max_calls: usize, max_unacked_per_source: usize, retry_after: u32) {
        self.config.max_calls = max_calls;
        self.config.max_unacked_per_source = max_unacked_per_source;
        self.config.retry_after = retry_after;
    }

    /// Other trunks from now on; calls in progress stay.
    pub fn trunks(&mut self, trunks: Trunks) {
        self.config.trunks = trunks.clone();
        self.entry.trunks(trunks);
    }

    /// Figures of the trunks.
    pub fn trunk_counts(&self) -> &[(TrunkName, TrunkCounts)] {
        self.entry.counts()
    }

    /// Who has offended since the last question.
    pub fn take_offences(&mut self) -> Vec<(IpAddr, Offence)> {
        self.entry.take_offences()
    }

    /// Machines, those that wait for the response to a BYE included.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// No machine at all.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.dialogs.is_empty() && self.transactions.is_empty() && self.deadlines.is_empty()
    }

    /// What was refused so far.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// The dialog of a call, to be kept somewhere.
    pub fn state(&self, call: CallId) -> Option<&DialogState> {
        self.calls.get(&call).map(|m| &m.state)
    }

    /// Calls whose state changed since the last question.
    pub fn take_touched(&mut self) -> Vec<CallId> {
        std::mem::take(&mut self.touched)
    }

    /// When [`Core::tick`] wants to be called, and which call has something due then.
    pub fn next_deadline(&self) -> Option<(Instant, CallId)> {
        self.deadlines.first().copied()
    }

    /// Takes in a dialog that outlived its process. `invite`: the transaction in which its INVITE is still to be
    /// answered. If it rang, it is refused with 503 and is no call; if it was answered but not acknowledged, it is
    /// answered again. Without a transaction a dialog without ACK counts as confirmed.
    ///
    /// # Errors
    /// [`CommandError::WrongState`] for a dialog that cannot go on, or is here already.
    pub fn restore(
        &mut self,
        mut state: DialogState,
        invite: Option<(TxId, Message)>,
        now: Instant,
    ) -> Result<Vec<Action>, CommandError> {
        if self.calls.contains_key(&state.call) {
            return Err(CommandError::WrongState);
        }
        let (mut actions, retry) = (Vec::new(), self.config.retry_after);
        match (state.phase, &invite) {
            (Phase::Confirmed, _) | (Phase::Answered, None) => {
                (state.phase, state.invite) = (Phase::Confirmed, None);
                let mut machine = Machine::new(state, None);
                machine.renew(now);
                self.insert(machine);
            }
            (Phase::Answered, Some((tx, _))) => {
                self.transactions.insert(*tx, state.call);
                let mut machine = Machine::new(state, invite);
                machine.send_2xx(&mut context(&mut self.config, &mut self.next_tx, &mut actions, now));
                self.insert(machine);
            }
            (Phase::Ringing, Some(_)) => {
                let mut machine = Machine::new(state, invite);
                let mut ctx = context(&mut self.config, &mut self.next_tx, &mut actions, now);
                machine.reject_now(503, Some(retry), EndReason::Shutdown, &mut ctx);
                actions.retain(|action| !matches!(action, Action::Notify { .. }));
            }
            _ => return Err(CommandError::WrongState),
        }
        Ok(actions)
    }

    /// The call that an event belongs to, if it is known already.
    pub fn call_of(&self, event: &TxnEvent) -> Option<CallId> {
        match event {
            TxnEvent::Request { msg, .. } => {
                dialog_key(msg.call_id(), msg.to_tag()).and_then(|key| self.dialogs.get(&key)).copied()
            }
            TxnEvent::Stray2xx { msg, .. } => {
                dialog_key(msg.call_id(), msg.from_tag()).and_then(|key| self.dialogs.get(&key)).copied()
            }
            TxnEvent::Ack { tx, .. }
            | TxnEvent::Cancel { tx }
            | TxnEvent::Response { tx, .. }
            | TxnEvent::Ended { tx } => self.transactions.get(tx).copied(),
        }
    }

    /// Ends a call whose machine cannot be trusted any more, without asking that.
    pub fn expel(&mut self, call: CallId, now: Instant) -> Vec<Action> {
        let Some(mut machine) = self.calls.remove(&call) else { return Vec::new() };
        self.entry.left(machine.state.trunk.as_ref());
        self.dialogs.retain(|_, c| *c != call);
        self.deadlines.retain(|(_, c)| *c != call);
        self.transactions.retain(|_, c| *c != call);
        let mut actions = Vec::new();
        let mut ctx = context(&mut self.config, &mut self.next_tx, &mut actions, now);
        let told = machine.told;
        if matches!(machine.state.phase, Phase::Confirmed | Phase::Answered | Phase::Terminating) {
            machine.reoffer = None;
            machine.bye(EndReason::Timeout, &mut ctx);
        } else {
            machine.finish(EndReason::Timeout, &mut ctx);
        }
        actions.retain(|action| !told || !matches!(action, Action::Notify { .. }));
        actions
    }

    /// Something came from below.
    pub fn handle(&mut self, event: TxnEvent, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            TxnEvent::Request { tx, flow, msg } => self.on_request(tx, flow, *msg, now, &mut actions),
            TxnEvent::Ack { tx, msg } => self.with_tx(tx, now, &mut actions, |m, ctx| m.on_ack(tx, &msg, ctx)),
            TxnEvent::Cancel { tx } => self.with_tx(tx, now, &mut actions, Machine::on_cancel),
            TxnEvent::Response { tx, msg } if self.alone.contains(&tx) => {
                if msg.status() >= 200 {
                    self.alone.remove(&tx);
                    actions.push(Action::Reply { tx, msg: Some(*msg) });
                }
            }
            TxnEvent::Response { tx, msg } => {
                self.with_tx(tx, now, &mut actions, |m, ctx| m.on_response(tx, &msg, ctx));
            }
            TxnEvent::Stray2xx { msg, .. } => {
                if let Some(call) = dialog_key(msg.call_id(), msg.from_tag()).and_then(|k| self.dialogs.get(&k)) {
                    let call = *call;
                    self.with_call(call, now, &mut actions, |m, ctx| m.on_stray_2xx(&msg, ctx));
                }
            }
            TxnEvent::Ended { tx } if self.alone.remove(&tx) => actions.push(Action::Reply { tx, msg: None }),
            TxnEvent::Ended { tx } => {
                self.with_tx(tx, now, &mut actions, |m, ctx| m.on_ended(tx, ctx));
                self.transactions.remove(&tx);
            }
        }
        actions
    }

    /// The owner of a call wants something.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing was done.
    pub fn command(&mut self, call: CallId, command: Command, now: Instant) -> Result<Vec<Action>, CommandError> {
        if !self.calls.contains_key(&call) {
            return Err(CommandError::Gone);
        }
        let (mut actions, mut outcome) = (Vec::new(), Ok(()));
        self.with_call(call, now, &mut actions, |m, ctx| outcome = m.command(command, ctx));
        outcome.map(|()| actions)
    }

    /// Whether a call through this trunk may be placed: whether it has fewer than it may.
    #[must_use]
    pub fn has_room(&self, trunk: Option<&TrunkName>) -> bool {
        trunk.is_none_or(|name| self.entry.has_room(name))
    }

    /// Places a call.
    pub fn dial(&mut self, dial: &Dial, now: Instant) -> (CallId, Vec<Action>) {
        let mut actions = Vec::new();
        let call = self.new_call_id();
        let mut ctx = context(&mut self.config, &mut self.next_tx, &mut actions, now);
        let machine = Machine::dial(call, dial, &mut ctx);
        self.insert(machine);
        self.index(&actions, call);
        (call, actions)
    }

    /// Sends a request that belongs to no call, without its Via; [`Action::Reply`] brings the final response.
    pub fn send(&mut self, request: Message, to: NextHop, flow: Flow, now: Instant) -> (TxId, Vec<Action>) {
        let mut actions = Vec::new();
        let mut ctx = context(&mut self.config, &mut self.next_tx, &mut actions, now);
        let (tx, branch) = (ctx.new_tx(), ctx.branch());
        let msg = request.with("Via", via(flow, &branch)).with("Max-Forwards", "70").with("User-Agent", ctx.agent);
        actions.push(Action::Request { tx, msg, to });
        self.alone.insert(tx);
        (tx, actions)
    }

    /// Ends every call: BYE, CANCEL or a refusal.
    pub fn hang_up_all(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for call in self.calls.keys().copied().collect::<Vec<_>>() {
            self.with_call(call, now, &mut actions, |m, ctx| m.hangup(EndReason::Shutdown, ctx));
        }
        actions
    }

    /// The first deadline, if it is due: one call at a time, so that it is known whose bug a panic is.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some((at, call)) = self.next_deadline().filter(|(at, _)| *at <= now) {
            self.with_call(call, now, &mut actions, Machine::on_time);
            self.deadlines.remove(&(at, call)); // also of a call that is gone
        }
        actions
    }

    fn on_request(&mut self, tx: TxId, flow: Flow, request: Message, now: Instant, actions: &mut Vec<Action>) {
        if request.to_tag().is_some() {
            let known = dialog_key(request.call_id(), request.to_tag()).and_then(|k| self.dialogs.get(&k)).copied();
            let tag = request.from_tag().unwrap_or_default();
            // Before the 2xx whoever has rung reliably may ask for something; a BYE from there ends no fork of others.
            let early = |m: &Machine| {
                m.state.phase == Phase::Calling
                    && request.method() != Some(Method::Bye)
                    && m.early.iter().any(|early| early.tag == tag)
            };
            let same_peer = |m: &Machine| tag == m.state.remote_tag || early(m);
            return match known.filter(|c| self.machine(*c).is_some_and(same_peer)) {
                Some(call) => {
                    let trunk = self.calls.get(&call).and_then(|m| m.state.trunk.as_ref());
                    let trunk = trunk.and_then(|name| self.entry.named(name));
                    let verified = self.entry.verify(&request, flow, trunk, &mut *self.config.random, now);
                    if let Err(refusal) = verified {
                        return self.refuse(tx, &request, refusal, actions, now);
                    }
                    self.transactions.insert(tx, call);
                    if let Some(machine) = self.calls.get_mut(&call).filter(|_| flow.transport.is_stream()) {
                        // The connection of before may be gone, and with it the way back (RFC 3261 §18).
                        machine.state.flow = Flow { peer: flow.peer, ..machine.state.flow };
                    }
                    self.with_call(call, now, actions, |m, ctx| m.on_request(tx, request, ctx));
                    // Answered at once: only a re-INVITE or an UPDATE that waits is still to be found by its number.
                    let waits = |m: &Machine| m.reoffer.as_ref().is_some_and(|r| r.tx == tx);
                    if !self.machine(call).is_some_and(waits) {
                        self.transactions.remove(&tx);
                    }
                }
                None => self.refuse(tx, &request, Refusal::plain(481), actions, now),
            };
        }
        let verdict = screen(&request, false).and_then(|method| {
            let trunk = self.entry.trunk(&request, flow);
            self.entry.verify(&request, flow, trunk, &mut *self.config.random, now)?;
            self.capacity(&request, flow).map(|()| method)
        });
        match verdict {
            Err(refusal) => self.refuse(tx, &request, refusal, actions, now),
            Ok(Method::Options) => {
                let mut ctx = context(&mut self.config, &mut self.next_tx, actions, now);
                let tag = ctx.token();
                ctx.respond(tx, capabilities(Message::response(&request, 200, Some(&tag))));
            }
            Ok(_) => self.on_invite(tx, flow, request, now, actions),
        }
    }

    /// OPTIONS is answered as the INVITE would be (RFC 3261 §11.2).
    fn capacity(&mut self, request: &Message, flow: Flow) -> Result<(), Refusal> {
        let retry = self.config.retry_after;
        let unsettled = |m: &&Machine| {
            m.state.flow.peer.ip() == flow.peer.ip() && matches!(m.state.phase, Phase::Ringing | Phase::Answered)
        };
        let merged = |m: &Machine| {
            m.state.role == super::Role::Uas
                && Some(m.state.call_id.reveal().as_str()) == request.call_id()
                && m.state.remote_tag == request.from_tag().unwrap_or_default()
                && Some(m.state.invite_cseq) == request.cseq()
        };
        if self.draining {
            self.refused.draining += 1;
        } else if request.method() == Some(Method::Invite) && self.machines().any(merged) {
            // RFC 3261 §8.2.2.2: the same request by another way.
            return Err(Refusal::plain(482));
        } else if self.calls.len() >= self.config.max_calls {
            self.refused.full += 1;
        } else if self.machines().filter(unsettled).count() >= self.config.max_unacked_per_source {
            self.refused.unacked += 1;
        } else if self.entry.is_full(request, flow) {
            self.refused.full += 1;
        } else {
            return Ok(());
        }
        Err(Refusal::retry(503, retry))
    }

    fn refuse(&mut self, tx: TxId, request: &Message, refusal: Refusal, actions: &mut Vec<Action>, now: Instant) {
        if !matches!(refusal.status, 401 | 503) {
            self.refused.unfit += 1;
        }
        let mut ctx = context(&mut self.config, &mut self.next_tx, actions, now);
        let tag = ctx.token();
        ctx.respond(tx, refusal.response(request, &tag));
    }

    fn on_invite(&mut self, tx: TxId, flow: Flow, invite: Message, now: Instant, actions: &mut Vec<Action>) {
        let call = self.new_call_id();
        let mut ctx = context(&mut self.config, &mut self.next_tx, actions, now);
        let tag = ctx.token();
        let to_user = match &invite.start {
            Start::Request { uri, .. } => called_number(uri),
            Start::Response { .. } => String::new(),
        };
        let contact = contact_uri("callbox", flow, is_secure(&invite));
        let Some(mut state) = DialogState::from_invite(call, &invite, flow, tag.clone(), contact) else {
            // No usable Contact: no dialog can be made (RFC 3261 §8.1.1.8).
            return ctx.respond(tx, Refusal::plain(400).response(&invite, &tag));
        };
        state.session = match settle(&invite, ctx.session_expires) {
            Ok(session) => session,
            Err(refusal) => return ctx.respond(tx, refusal.response(&invite, &tag)),
        };
        let trunk = self.entry.trunk(&invite, flow);
        state.trunk = trunk.as_ref().map(|trunk| trunk.name.clone());
        let invitation = Invitation {
            from: caller(&invite, trunk.as_deref()).into(),
            to_user,
            peer: flow.peer,
            offer: invite.sdp(),
            sip_call_id: state.call_id.clone(),
            trunk,
        };
        ctx.notify(call, Notice::Incoming(Box::new(invitation)));
        let mut machine = Machine::new(state, Some((tx, invite)));
        machine.deadline = Some((now + TRYING, Due::Trying));
        self.transactions.insert(tx, call);
        self.insert(machine);
    }

    fn new_call_id(&mut self) -> CallId {
        loop {
            let call = CallId((self.config.random)());
            if !self.calls.contains_key(&call) {
                return call;
            }
        }
    }

    fn machine(&self, call: CallId) -> Option<&Machine> {
        self.calls.get(&call).map(|machine| &**machine)
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.calls.values().map(|machine| &**machine)
    }

    fn insert(&mut self, machine: Machine) {
        let call = machine.state.call;
        self.entry.joined(machine.state.trunk.as_ref());
        self.dialogs.insert(key_of(&machine.state), call);
        self.deadlines.extend(machine.next().map(|at| (at, call)));
        self.calls.insert(call, Box::new(machine));
        self.touched.push(call);
    }

    fn with_tx(
        &mut self,
        tx: TxId,
        now: Instant,
        actions: &mut Vec<Action>,
        work: impl FnOnce(&mut Machine, &mut Ctx<'_>),
    ) {
        if let Some(call) = self.transactions.get(&tx).copied() {
            self.with_call(call, now, actions, work);
        }
    }

    /// Lets a machine work, then brings the tables up to date.
    fn with_call(
        &mut self,
        call: CallId,
        now: Instant,
        actions: &mut Vec<Action>,
        work: impl FnOnce(&mut Machine, &mut Ctx<'_>),
    ) {
        let Some(machine) = self.calls.get_mut(&call) else { return };
        let (before, told) = (machine.next(), machine.told);
        let mut own = Vec::new();
        work(machine, &mut context(&mut self.config, &mut self.next_tx, &mut own, now));
        let next = machine.next();
        if before != next {
            if let Some(at) = before {
                self.deadlines.remove(&(at, call));
            }
            self.deadlines.extend(next.map(|at| (at, call)));
        }
        if told {
            // Whoever has heard the end hears nothing more.
            own.retain(|a| !matches!(a, Action::Notify { .. }));
        }
        self.touched.push(call);
        if machine.done {
            let key = key_of(&machine.state);
            self.entry.left(machine.state.trunk.as_ref());
            self.calls.remove(&call);
            self.dialogs.remove(&key);
            self.deadlines.retain(|(_, c)| *c != call);
            self.transactions.retain(|_, c| *c != call);
        } else {
            self.index(&own, call);
        }
        actions.append(&mut own);
    }

    fn index(&mut self, actions: &[Action], call: CallId) {
        for action in actions {
            if let Action::Request { tx, .. } = action {
                self.transactions.insert(*tx, call);
            }
        }
    }
}

fn context<'a>(
    config: &'a mut CoreConfig,
    next_tx: &'a mut TxId,
    actions: &'a mut Vec<Action>,
    now: Instant,
) -> Ctx<'a> {
    let CoreConfig { agent, timers, random, session_expires, trunks, .. } = config;
    Ctx {
        trunks,
        actions,
        random: random.as_mut(),
        next_tx,
        agent,
        timers: *timers,
        session_expires: *session_expires,
        now,
    }
}

/// The URI of who calls: as From says, or as the network says where it is believed (RFC 3325 §9.1).
fn caller(invite: &Message, trunk: Option<&Trunk>) -> String {
    let believed = trunk.is_some_and(|trunk| trunk.trust_identity);
    let asserted = believed.then(|| invite.list("P-Asserted-Identity").find_map(NameAddr::parse)).flatten();
    let caller = asserted.or_else(|| invite.header("From").and_then(NameAddr::parse));
    caller.map_or_else(String::new, |caller| caller.uri.to_owned())
}

fn key_of(state: &DialogState) -> (String, String) {
    (state.call_id.reveal().clone(), state.local_tag.clone())
}

fn dialog_key(call_id: Option<&str>, tag: Option<&str>) -> Option<(String, String)> {
    Some((call_id?.to_owned(), tag?.to_owned()))
}

//! The endpoint: one task that owns the dialog core, and the door to it. Enters: events of the transaction layer,
//! questions of handles; leaves: actions to the layer, notices to handles. The task never waits for a handle: whoever
//! does not listen loses news, never the end of the call.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::admission::Limits;
use super::dialog::{
    Action, Command, CommandError, Core, CoreConfig, Dial, DialogState, EndReason, Notice, Refused, TrunkCounts,
};
use super::handle::{Call, EVENTS, Handle, IncomingCall, OutgoingCall, Shared};
use super::message::{Message, Method};
use super::offences::Offence;
use super::reason;
use super::tls::Tls;
use super::trace::{Seen, Tracer};
use super::traffic::Traffic;
use super::transaction::{self, Flow, NextHop, Timers, Transport, TxId, TxnEvent, TxnLayer, TxnStats};
use super::uri::Uri;
use crate::base::trunk::{TrunkName, Trunks};
use crate::base::{Advertised, CallId, Clock, Pii, SystemClock, spawn_essential};

/// Events of the transaction layer that wait for the task; beyond it the sockets wait.
const LAYER_EVENTS: usize = 1024;
/// Questions of handles that wait for the task; beyond it the handles wait.
const ASKS: usize = 1024;

/// How to build an [`Endpoint`].
pub struct EndpointConfig {
    /// Addresses for UDP; port 0 takes a free one.
    pub udp: Vec<SocketAddr>,
    /// Addresses for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Addresses for TLS; they need `certificates`.
    pub tls: Vec<SocketAddr>,
    /// What handshakes need, both ways; without it nobody is called over TLS.
    pub certificates: Option<Tls>,
    /// Sockets that are open already; one whose address is named above is used instead of being bound.
    pub inherited: Vec<OwnedFd>,
    /// User-Agent and Server.
    pub user_agent: String,
    /// Our address as peers see it, where it is not the bound one (NAT).
    pub advertised: Advertised,
    /// What is accepted.
    pub limits: Limits,
    /// Who may call; nobody named means everybody.
    pub trunks: Trunks,
    /// RFC 3261 timers; tests shorten them.
    pub timers: Timers,
    /// Seconds after which a session without refresh is over, where the peer names none (RFC 4028); 0 for never.
    pub session_expires: u32,
    /// Source of call ids, tags, branches and Call-IDs: 64 fresh bits each time. In production a generator seeded by
    /// the system, in tests by a number. Whoever can guess it can hijack calls.
    pub random: Box<dyn FnMut() -> u64 + Send>,
}

impl EndpointConfig {
    /// A configuration with the defaults and no socket.
    pub fn new(random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            certificates: None,
            inherited: Vec::new(),
            user_agent: concat!("Callbox/", env!("CARGO_PKG_VERSION")).to_owned(),
            advertised: Advertised::default(),
            limits: Limits::default(),
            trunks: Trunks::default(),
            timers: Timers::default(),
            session_expires: 1800,
            random,
        }
    }
}

/// What can go wrong outside of a call.
#[derive(Debug, thiserror::Error)]
pub enum SipError {
    /// A socket could not be bound.
    #[error("cannot bind SIP {protocol} {address}: {reason}; {advice}")]
    Bind {
        /// `udp`, `tcp` or `tls`.
        protocol: &'static str,
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        reason: std::io::ErrorKind,
        /// What to do about it.
        advice: &'static str,
    },
    /// Not a SIP URI that can be called.
    #[error("not a SIP address that can be called: give sip:USER@HOST[:PORT]")]
    BadTarget,
    /// The host has no address, or none that our sockets reach.
    #[error("the host of the SIP address cannot be reached from the configured sockets")]
    Unreachable,
    /// The trunk has as many calls as it may.
    #[error("the trunk has as many calls as its max_calls allows: let one end, or raise it")]
    TrunkFull,
    /// The endpoint was shut down.
    #[error("the SIP endpoint takes no new calls")]
    Closed,
}

pub(super) fn bind_error(protocol: &'static str, address: SocketAddr, error: &std::io::Error) -> SipError {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop the program that listens there or configure another port",
        std::io::ErrorKind::PermissionDenied => "use a port above 1023 or grant CAP_NET_BIND_SERVICE",
        std::io::ErrorKind::AddrNotAvailable => "configure an address of this machine",
        _ => "check the address in the configuration",
    };
    SipError::Bind { protocol, address, reason: error.kind(), advice }
}

/// An outgoing call.
#[derive(Debug, Clone, Default)]
pub struct DialRequest {
    /// `sip:USER@HOST[:PORT]`.
    pub to: Pii<String>,
    /// User part of From and Contact.
    pub from_user: String,
    /// Host of From; none is our own address.
    pub from_host: Option<String>,
    /// Protocol; `None` takes what the URI says, UDP otherwise.
    pub transport: Option<Transport>,
    /// Where the INVITE goes, where that is not the host of `to`: a server of the trunk's.
    pub next: Option<SocketAddr>,
    /// The trunk whose password answers a challenge.
    pub trunk: Option<TrunkName>,
    /// In place of a call that counts until its own server is given up: `max_calls` of the trunk has let it in.
    pub again: bool,
    /// Whose certificate the next hop has to show (RFC 5922); none is that of the host of `to`.
    pub server_name: Option<String>,
    /// More headers of the INVITE: identity, diversion, referral.
    pub headers: Vec<(&'static str, Pii<String>)>,
    /// Our offer.
    pub sdp: String,
}

/// Figures of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Dialogs, those that wait for the response to a BYE included.
    pub dialogs: usize,
    /// Calls whose owner has not yet been told the end.
    pub calls: usize,
    /// Everything below the dialogs.
    pub transactions: TxnStats,
    /// INVITEs refused before anybody was asked.
    pub refused: Refused,
}

/// Figures of a trunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrunkStats {
    /// Its dialogs, those that wait for the response to a BYE included.
    pub calls: usize,
    /// Messages dropped unread: more than its rate.
    pub too_fast: u64,
    /// INVITEs refused with 503: more than its calls.
    pub too_many: u64,
    /// Requests with a wrong password.
    pub wrong_password: u64,
}

/// Questions to the task.
#[derive(Debug)]
pub(super) enum Ask {
    Command { call: CallId, command: Command, reply: Option<oneshot::Sender<Result<(), CommandError>>> },
    Dial { dial: Dial, again: bool, reply: oneshot::Sender<Result<Handle, SipError>> },
    Send { request: Message, to: NextHop, flow: Flow, reply: oneshot::Sender<Option<Message>> },
    Drain(bool),
    Limit(Limits),
    Trunks(Trunks),
    Hosts(TrunkName, Vec<IpAddr>),
    HangUpAll,
    Stop,
}

/// Answers and places calls. Clones share everything; the endpoint lives until [`Endpoint::shutdown`].
#[derive(Clone)]
pub struct Endpoint {
    asks: mpsc::Sender<Ask>,
    layer: Arc<dyn TxnLayer>,
    figures: Arc<Mutex<Figures>>,
    tracer: Tracer,
}

/// What the task publishes.
#[derive(Debug, Default)]
struct Figures {
    dialogs: usize,
    calls: usize,
    refused: Refused,
    trunks: Vec<(TrunkName, TrunkCounts)>,
}

impl Endpoint {
    /// Binds the sockets and starts. The receiver gets every new call; one that nobody takes is refused with 503.
    ///
    /// # Errors
    /// [`SipError::Bind`] names the address and what to do.
    pub async fn bind(config: EndpointConfig) -> Result<(Self, mpsc::Receiver<IncomingCall>), SipError> {
        let (endpoint, incoming, _) = Self::resume(config, Vec::new()).await?;
        Ok((endpoint, incoming))
    }

    /// Binds, and goes on with calls of an earlier process before anything of the network is read, so that no request
    /// finds its dialog missing. A call that rang is refused, one whose 200 was not acknowledged is answered again. A
    /// dialog that cannot go on is left out.
    ///
    /// # Errors
    /// [`SipError::Bind`] names the address and what to do.
    pub async fn resume(
        mut config: EndpointConfig,
        dialogs: Vec<DialogState>,
    ) -> Result<(Self, mpsc::Receiver<IncomingCall>, Vec<Call>), SipError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (to_task, events) = mpsc::channel(LAYER_EVENTS);
        let inherited = std::mem::take(&mut config.inherited);
        let tracer = Tracer::new(clock.clone());
        let layer = transaction::start(&config, inherited, clock.clone(), tracer.clone(), to_task).await?;
        let (asks, questions) = mpsc::channel(ASKS);
        let (to_owner, incoming) = mpsc::channel(config.limits.max_calls.max(1));
        let figures = Arc::new(Mutex::default());
        let EndpointConfig { user_agent, limits, timers, session_expires, random, trunks, .. } = config;
        let core = Core::new(CoreConfig {
            trunks: trunks.clone(),
            agent: user_agent,
            timers,
            max_calls: limits.max_calls,
            max_unacked_per_source: limits.max_unacked_per_source,
            retry_after: limits.retry_after,
            session_expires,
            random,
        });
        let mut task = Task {
            core,
            layer: layer.clone(),
            clock,
            slots: HashMap::new(),
            waiting: HashMap::new(),
            asks: asks.clone(),
            incoming: to_owner,
            figures: Arc::clone(&figures),
            tracer: tracer.clone(),
            retry_after: limits.retry_after,
            trunks,
        };
        let calls = dialogs.into_iter().filter_map(|state| task.restore(state)).map(Call::new).collect();
        layer.listen();
        spawn_essential(task.run(events, questions));
        Ok((Self { asks, layer, figures, tracer }, incoming, calls))
    }

    /// Where UDP listens.
    pub fn local_udp(&self) -> &[SocketAddr] {
        self.layer.local(Transport::Udp)
    }

    /// Where TCP listens.
    pub fn local_tcp(&self) -> &[SocketAddr] {
        self.layer.local(Transport::Tcp)
    }

    /// Where TLS listens.
    pub fn local_tls(&self) -> &[SocketAddr] {
        self.layer.local(Transport::Tls)
    }

    /// What handshakes are made with now.
    pub fn certificates(&self) -> Option<Tls> {
        self.layer.certificates()
    }

    /// Other certificates for later handshakes; connections and their calls stay.
    pub fn certify(&self, tls: Tls) {
        self.layer.certify(tls);
    }

    /// Places a call. The INVITE is on its way when this returns.
    ///
    /// # Errors
    /// [`SipError`] if the address cannot be called; refusals of the peer come through [`OutgoingCall`].
    pub async fn dial(&self, request: DialRequest) -> Result<OutgoingCall, SipError> {
        let to = request.to.reveal();
        let uri = Uri::parse(to).ok_or(SipError::BadTarget)?;
        if to.bytes().any(|b| b.is_ascii_control() || b" <>\"".contains(&b)) {
            return Err(SipError::BadTarget);
        }
        let transport = request.transport.or_else(|| uri.transport()).unwrap_or_default();
        // RFC 3261 §8.1.2: nothing less than TLS for `sips:`.
        let transport = if uri.secure { Transport::Tls } else { transport };
        let reachable = |peer: &SocketAddr| self.layer.local_towards(transport, *peer).is_some();
        let port = uri.port_for(transport);
        let literal = || Some(SocketAddr::new(uri.host.parse::<IpAddr>().ok()?, port));
        let peer = match request.next.or_else(literal) {
            Some(peer) => peer,
            None => {
                let mut found = tokio::net::lookup_host((uri.host, port)).await.map_err(|_| SipError::Unreachable)?;
                found.find(reachable).ok_or(SipError::Unreachable)?
            }
        };
        let flow = self.flow(transport, peer)?;
        let DialRequest { to, from_user, from_host, trunk, again, server_name, headers, sdp, .. } = request;
        let dial = Dial { to, from_user, flow, sdp, from_host, trunk, server_name, headers };
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Dial { dial, again, reply }).await.map_err(|_| SipError::Closed)?;
        answer.await.map_err(|_| SipError::Closed)?.map(OutgoingCall::new)
    }

    /// The flow from us to a peer.
    ///
    /// # Errors
    /// [`SipError::Unreachable`] if none of our sockets reaches it.
    pub fn flow(&self, transport: Transport, peer: SocketAddr) -> Result<Flow, SipError> {
        let local = self.layer.local_towards(transport, peer).ok_or(SipError::Unreachable)?;
        Ok(Flow { transport, local, peer })
    }

    /// Sends a request that belongs to no call, without its Via, to the peer of `flow`; `uri` says the same with a name.
    /// Comes back with the final response, 408 and 503 of our own included.
    ///
    /// # Errors
    /// [`SipError::Closed`] once the endpoint is shut down.
    pub async fn request(&self, request: Message, uri: String, flow: Flow) -> Result<Message, SipError> {
        let name = Uri::parse(&uri).map(|uri| uri.host.to_owned());
        let to = NextHop { transport: flow.transport, uri: format!("sip:{}", flow.peer), flow: Some(flow), name };
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Send { request, to, flow, reply }).await.map_err(|_| SipError::Closed)?;
        answer.await.ok().flatten().ok_or(SipError::Closed)
    }

    /// New calls get 503 from now on; calls in progress stay.
    pub async fn drain(&self) {
        drop(self.asks.send(Ask::Drain(true)).await);
    }

    /// New calls are taken again.
    pub async fn take_calls(&self) {
        drop(self.asks.send(Ask::Drain(false)).await);
    }

    /// Other limits for new calls, from now on; those of sockets and transactions stay as they were bound.
    pub async fn limit(&self, limits: Limits) {
        self.layer.limit(limits.clone());
        drop(self.asks.send(Ask::Limit(limits)).await);
    }

    /// The signalling of a call that is up or was not long ago, as far as it is remembered.
    pub fn trace(&self, call: CallId) -> Vec<Seen> {
        self.tracer.of(call)
    }

    /// Other trunks from now on; calls that are up stay, whoever's they are.
    pub async fn trunks(&self, trunks: Trunks) {
        drop(self.asks.send(Ask::Trunks(trunks)).await);
    }

    /// What the names of a trunk's hosts mean: these addresses may call, too. They stay until others are named.
    pub async fn hosts(&self, trunk: TrunkName, addresses: Vec<IpAddr>) {
        drop(self.asks.send(Ask::Hosts(trunk, addresses)).await);
    }

    /// How much is signalled.
    pub fn traffic(&self) -> &Traffic {
        self.tracer.traffic()
    }

    /// Figures, a moment old.
    pub fn stats(&self) -> Stats {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let Figures { dialogs, calls, refused, .. } = *figures;
        drop(figures);
        Stats { dialogs, calls, transactions: self.layer.stats(), refused }
    }

    /// Figures of each trunk, a moment old, and how often each of [`Offence::ALL`] happened.
    pub fn trunk_stats(&self) -> (Vec<(TrunkName, TrunkStats)>, [u64; Offence::ALL.len()]) {
        let (offences, dropped) = self.layer.refused();
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = |(name, too_fast): (TrunkName, u64)| {
            let counts = figures.trunks.iter().find(|(known, _)| *known == name).map(|(_, counts)| *counts);
            let TrunkCounts { calls, too_many, wrong_password } = counts.unwrap_or_default();
            (name, TrunkStats { calls, too_fast, too_many, wrong_password })
        };
        (dropped.into_iter().map(stats).collect(), offences)
    }

    /// Refuses new calls, hangs up the others, waits at most `grace` for the peers' responses, closes the sockets.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain().await;
        drop(self.asks.send(Ask::HangUpAll).await);
        let quiet = async {
            let mut every = interval(Duration::from_millis(20));
            every.tick().await;
            loop {
                every.tick().await;
                if self.stats().dialogs == 0 {
                    break;
                }
            }
        };
        drop(timeout(grace, quiet).await);
        drop(self.asks.send(Ask::Stop).await);
        self.layer.shutdown();
    }
}

struct Slot {
    /// In boxes: a channel takes the room of 32 messages at once.
    events: mpsc::Sender<Box<Notice>>,
    shared: Arc<Shared>,
}

struct Task {
    core: Core,
    layer: Arc<dyn TxnLayer>,
    clock: Arc<dyn Clock>,
    slots: HashMap<CallId, Slot>,
    /// Who waits for the response to a request that belongs to no call.
    waiting: HashMap<TxId, oneshot::Sender<Option<Message>>>,
    asks: mpsc::Sender<Ask>,
    incoming: mpsc::Sender<IncomingCall>,
    figures: Arc<Mutex<Figures>>,
    tracer: Tracer,
    retry_after: u32,
    trunks: Trunks,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<TxnEvent>, mut asks: mpsc::Receiver<Ask>) {
        let mut sweep = interval(Duration::from_secs(1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.core.next_deadline().map(|(at, _)| Instant::from_std(at));
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let actions = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => {
                        let call = self.core.call_of(&event);
                        log_reason(call, &event);
                        self.guarded(call, |core, now| core.handle(event, now))
                    }
                    // The layer is gone: so are all calls.
                    None => break,
                },
                Some(ask) = asks.recv() => match ask {
                    Ask::Stop => break,
                    ask => self.on_ask(ask),
                },
                () = due => self.guarded(self.core.next_deadline().map(|(_, call)| call), Core::tick),
                _ = sweep.tick() => self.hang_up_orphans(),
            };
            self.perform(actions);
            self.publish();
        }
        for call in self.slots.keys().copied().collect::<Vec<_>>() {
            self.notify(call, Notice::Ended(EndReason::Shutdown));
        }
    }

    fn on_ask(&mut self, ask: Ask) -> Vec<Action> {
        let now = self.clock.now();
        match ask {
            Ask::Command { call, command, reply } => {
                let mut outcome = Err(CommandError::Gone);
                let actions = self.guarded(Some(call), |core, now| {
                    let done = core.command(call, command, now);
                    outcome = done.as_ref().map(drop).map_err(|error| *error);
                    done.unwrap_or_default()
                });
                if let Some(reply) = reply {
                    // Whoever asked and left does not want to know.
                    let _left = reply.send(outcome);
                }
                actions
            }
            Ask::Send { request, to, flow, reply } => {
                let (tx, actions) = self.core.send(request, to, flow, now);
                self.waiting.insert(tx, reply);
                actions
            }
            Ask::Dial { dial, again: false, reply } if !self.core.has_room(dial.trunk.as_ref()) => {
                drop(reply.send(Err(SipError::TrunkFull)));
                Vec::new()
            }
            Ask::Dial { dial, reply, .. } => {
                let (call, actions) = self.core.dial(&dial, now);
                if let Some(handle) = self.open(call) {
                    // A handle that comes back hangs up as it is dropped.
                    drop(reply.send(Ok(handle)));
                }
                actions
            }
            Ask::Drain(draining) => {
                self.core.drain(draining);
                Vec::new()
            }
            Ask::Limit(limits) => {
                self.core.limit(limits.max_calls, limits.max_unacked_per_source, limits.retry_after);
                self.retry_after = limits.retry_after;
                Vec::new()
            }
            Ask::Trunks(trunks) => {
                self.trunks = trunks.with_hosts_of(&self.trunks);
                self.follow_trunks();
                Vec::new()
            }
            Ask::Hosts(trunk, addresses) => {
                self.trunks.set_hosts(&trunk, addresses);
                self.follow_trunks();
                Vec::new()
            }
            Ask::HangUpAll => self.core.hang_up_all(now),
            Ask::Stop => Vec::new(),
        }
    }

    fn follow_trunks(&mut self) {
        self.core.trunks(self.trunks.clone());
        self.layer.trunks(self.trunks.clone());
    }

    /// Lets the core work. A panic in it is our bug: it costs the call that was worked on, and not the others.
    fn guarded(
        &mut self,
        call: Option<CallId>,
        work: impl FnOnce(&mut Core, std::time::Instant) -> Vec<Action>,
    ) -> Vec<Action> {
        let (core, now) = (&mut self.core, self.clock.now());
        let worked = catch_unwind(AssertUnwindSafe(|| work(core, now)));
        worked.unwrap_or_else(|_| {
            tracing::error!(
                call = call.map(tracing::field::display),
                "a bug of ours: signalling panicked; this call is ended"
            );
            call.map(|call| self.core.expel(call, now)).unwrap_or_default()
        })
    }

    /// Goes on with a call of an earlier process, or refuses it.
    fn restore(&mut self, state: DialogState) -> Option<Handle> {
        let (call, flow) = (state.call, state.flow);
        let invite = state.invite.as_ref().and_then(|raw| Message::parse(raw.reveal()).ok());
        let invite = invite.and_then(|invite| Some((self.layer.adopt(&invite, flow)?, invite)));
        let actions = self.core.restore(state, invite, self.clock.now()).ok()?;
        let handle = self.open(call);
        self.perform(actions);
        handle
    }

    /// Makes the handle of a call that the core has just begun.
    fn open(&mut self, call: CallId) -> Option<Handle> {
        let state = self.core.state(call)?.clone();
        self.tracer.name(call, state.call_id.reveal());
        let shared = Shared::new(state);
        let (to_owner, events) = mpsc::channel(EVENTS);
        self.slots.insert(call, Slot { events: to_owner, shared: Arc::clone(&shared) });
        Some(Handle { call, asks: self.asks.clone(), events, shared })
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut queue = std::collections::VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Respond { tx, msg } => self.layer.respond(tx, msg),
                Action::Request { tx, msg, to } => self.layer.request(tx, msg, to),
                Action::Ack { msg, to } => self.layer.ack(msg, to),
                Action::Abandon { tx } => self.layer.abandon(tx),
                Action::Reply { tx, msg } => {
                    if let Some(waiting) = self.waiting.remove(&tx) {
                        // Whoever asked and left does not want to know.
                        let _left = waiting.send(msg);
                    }
                }
                Action::Notify { call, notice } => queue.extend(self.notify(call, notice)),
            }
        }
    }

    fn notify(&mut self, call: CallId, notice: Notice) -> Vec<Action> {
        let now = self.clock.now();
        match notice {
            Notice::Incoming(invitation) => {
                let Some(handle) = self.open(call) else { return Vec::new() };
                let Err(refused) = self.incoming.try_send(IncomingCall::new(*invitation, handle)) else {
                    return Vec::new();
                };
                // Nobody takes calls: say so. The handle's own 480 comes too late and is ignored.
                let command =
                    Command::Reject { status: 503, reason: String::new(), retry_after: Some(self.retry_after) };
                let actions = self.core.command(call, command, now).unwrap_or_default();
                drop(refused);
                actions
            }
            Notice::Ended(reason) => {
                if let Some(slot) = self.slots.remove(&call) {
                    tracing::debug!(%call, reason = end_name(&reason), "SIP call ended");
                    slot.shared.ended.send_replace(Some(reason.clone()));
                    // If the queue is full, the closed channel says the same.
                    let _full = slot.events.try_send(Box::new(Notice::Ended(reason)));
                }
                Vec::new()
            }
            notice => {
                let Some(slot) = self.slots.get(&call) else { return Vec::new() };
                let was_offer = matches!(notice, Notice::Offer { .. });
                match slot.events.try_send(Box::new(notice)) {
                    Err(_) if was_offer => {
                        self.core.command(call, Command::RefuseOffer { status: 488 }, now).unwrap_or_default()
                    }
                    _ => Vec::new(),
                }
            }
        }
    }

    /// Calls whose handle was dropped while the queue was full.
    fn hang_up_orphans(&mut self) -> Vec<Action> {
        let orphans: Vec<CallId> = self.slots.iter().filter(|(_, s)| s.events.is_closed()).map(|(c, _)| *c).collect();
        let now = self.clock.now();
        orphans.into_iter().flat_map(|c| self.core.command(c, Command::Hangup, now).unwrap_or_default()).collect()
    }

    fn publish(&mut self) {
        for call in self.core.take_touched() {
            if let (Some(slot), Some(state)) = (self.slots.get(&call), self.core.state(call)) {
                slot.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone_from(state);
            }
        }
        for (source, offence) in self.core.take_offences() {
            self.layer.offended(source, offence);
        }
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        (figures.dialogs, figures.calls, figures.refused) = (self.core.len(), self.slots.len(), self.core.refused());
        let trunks = self.core.trunk_counts();
        if figures.trunks != trunks {
            trunks.clone_into(&mut figures.trunks);
        }
    }
}

/// What the other side says of its BYE: whoever looks for the cause of calls that end too soon begins here.
fn log_reason(call: Option<CallId>, event: &TxnEvent) {
    if let (Some(call), TxnEvent::Request { msg, .. }) = (call, event)
        && msg.method() == Some(Method::Bye)
        && let Some((protocol, cause)) = reason::read(msg)
    {
        tracing::info!(%call, protocol, cause, "the other side hangs up and says why");
    }
}

fn end_name(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::LocalHangup => "local hangup",
        EndReason::RemoteHangup => "remote hangup",
        EndReason::Cancelled => "cancelled",
        EndReason::NoAck => "no ack",
        EndReason::Rejected { .. } => "rejected",
        EndReason::Timeout => "timeout",
        EndReason::Shutdown => "shutdown",
    }
}

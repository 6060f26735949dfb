//! Which engine serves which call. Enters: calls; engines that become ready or are lost, and what they say. Leaves: requests
//! on each engine's own bounded queue, news on each call's. Never here: a process, a socket, a wait.
//!
//! A call has a seat for each role, and keeps it: its engine knows what it has said. Whoever loses a seat loses all of them
//! and takes new ones at once where engines are ready, so that to a call there is one engine, which it has, or has not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callbox_wire::{CallId, Event, Request, Role, RoleInfo};
use tokio::sync::{mpsc, watch};

use super::counts::Counts;
use super::port::{Port, Refused};
use super::{EngineReport, EngineState, News, Place};

/// News that wait for one call: more than the credit of audio that it can have asked for, and a turn's tokens. When
/// full, the call is stuck; its news are dropped and counted, and its own watchdog ends it.
const NEWS: usize = 2048;

/// Requests of all calls that wait for one engine; some seconds of audio of many calls. When full, a call's request is
/// refused, and the call says so to its caller.
const REQUESTS: usize = 8192;

/// From this number on lines are of no call: phrases, documents and adapters have the highest there are.
const OWN_WORK: u64 = u64::MAX - 15;

/// The order in which seats are taken: where the language model is, the others are best, too.
const SEATING: [Role; 4] = [Role::Mind, Role::Ears, Role::Voice, Role::Embed];

/// An engine among others; its index is its name between the parts of this room.
struct Member {
    place: Place,
    requests: mpsc::Sender<Request>,
    state: EngineState,
    /// How often it was lost.
    times: u64,
    process: Option<i32>,
}

impl Member {
    fn offers(&self, role: Role) -> bool {
        matches!(&self.state, EngineState::Ready(roles) if roles.iter().any(|info| info.role == role))
    }
}

/// The engine of each role.
type Seats = [Option<usize>; 4];

struct Line {
    /// In boxes: a channel takes the room of 32 messages at once.
    news: mpsc::Sender<Box<News>>,
    seats: Seats,
    /// It stays where it is, because it is this engine that is spoken to.
    pinned: bool,
}

impl Line {
    fn engines(&self) -> impl Iterator<Item = usize> + use<> {
        let seats = self.seats;
        (0..seats.len()).filter(move |&at| !seats[..at].contains(&seats[at])).filter_map(move |at| seats[at])
    }

    fn is_seated(&self) -> bool {
        self.seats.iter().any(Option::is_some)
    }

    fn tell(&self, call: CallId, news: News) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.news.try_send(Box::new(news)) {
            tracing::error!(%call, "a call does not read its engine's events; one was dropped");
        }
    }
}

struct Inner {
    members: Vec<Member>,
    lines: HashMap<CallId, Line>,
}

/// All engines and all calls.
pub(super) struct Fleet {
    pub(super) counts: Counts,
    inner: Mutex<Inner>,
    state: watch::Sender<EngineState>,
}

impl Fleet {
    /// Engines at these places, and each one's queue of requests.
    pub(super) fn new(places: Vec<Place>) -> (Arc<Self>, Vec<mpsc::Receiver<Request>>) {
        let member = |place| {
            let (requests, queue) = mpsc::channel(REQUESTS);
            (Member { place, requests, state: EngineState::Starting, times: 0, process: None }, queue)
        };
        let (members, queues) = places.into_iter().map(member).unzip();
        let inner = Mutex::new(Inner { members, lines: HashMap::new() });
        let state = watch::Sender::new(EngineState::Starting);
        (Arc::new(Self { counts: Counts::default(), inner, state }), queues)
    }

    pub(super) fn state(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    pub(super) fn attach(self: &Arc<Self>, call: CallId) -> Port {
        let mut inner = self.lock();
        let (sender, news) = mpsc::channel(NEWS);
        let seats = inner.free_seats();
        let line = Line { news: sender, seats, pinned: false };
        let served = line.is_seated();
        inner.lines.insert(call, line);
        Port::new(call, news, Arc::clone(self), served)
    }

    /// A line to this one engine.
    pub(super) fn attach_to(self: &Arc<Self>, call: CallId, engine: usize) -> Port {
        let (sender, news) = mpsc::channel(NEWS);
        self.lock().lines.insert(call, Line { news: sender, seats: [Some(engine); 4], pinned: true });
        Port::new(call, news, Arc::clone(self), true)
    }

    pub(super) fn detach(&self, call: CallId) {
        let mut inner = self.lock();
        let Some(line) = inner.lines.remove(&call) else { return };
        if inner.forget(call, &line).is_err() {
            tracing::debug!(%call, "the engine was not told that the call is over");
        }
    }

    /// What a call without an engine asks for is lost, as what it had asked the last one for.
    pub(super) fn send(&self, call: CallId, request: Request) -> Result<(), Refused> {
        let inner = self.lock();
        let Some(line) = inner.lines.get(&call) else { return Ok(()) };
        match request.role() {
            Some(role) => line.seats[seat(role)].map_or(Ok(()), |engine| inner.ask(engine, request)),
            None => line.engines().try_for_each(|engine| inner.ask(engine, request.clone())),
        }
    }

    /// Something for every engine that offers this role; false if one has no place for it.
    pub(super) fn send_all(&self, request: &Request) -> bool {
        let inner = self.lock();
        let offer = |at: &usize| request.role().is_none_or(|role| inner.members[*at].offers(role));
        // All of them are asked, whatever one says.
        (0..inner.members.len()).filter(offer).filter(|&at| inner.ask(at, request.clone()).is_err()).count() == 0
    }

    /// The engines that offer this role now.
    pub(super) fn that_offer(&self, role: Role) -> Vec<usize> {
        let inner = self.lock();
        (0..inner.members.len()).filter(|&at| inner.members[at].offers(role)).collect()
    }

    /// An engine said something.
    pub(super) fn event(&self, engine: usize, event: Event) {
        self.counts.heard(&event);
        let Some(call) = event.call() else { return };
        let inner = self.lock();
        // What it still says to a call that has left it means nothing there.
        if let Some(line) = inner.lines.get(&call).filter(|line| line.seats.contains(&Some(engine))) {
            line.tell(call, News::Event(event));
        }
    }

    pub(super) fn name(&self, engine: usize) -> String {
        self.lock().members[engine].place.name.clone()
    }

    /// This process is an engine now.
    pub(super) fn runs(&self, engine: usize, process: Option<i32>) {
        self.lock().members[engine].process = process;
    }

    /// An engine serves from now on: whoever waits for one is told.
    pub(super) fn ready(&self, engine: usize, roles: Vec<RoleInfo>) {
        let mut inner = self.lock();
        inner.members[engine].state = EngineState::Ready(roles);
        let waiting: Vec<CallId> =
            inner.lines.iter().filter(|(_, line)| !line.is_seated()).map(|(id, _)| *id).collect();
        for call in waiting {
            inner.seat(call);
        }
        inner.fill();
        self.publish(&inner);
    }

    /// An engine is gone: its calls are told, and go on elsewhere where they can.
    pub(super) fn lost(&self, engine: usize, reason: String) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let member = &mut inner.members[engine];
        member.times += 1;
        member.state = EngineState::Lost { reason, times: member.times };
        member.process = None;
        // A first failure is news to whoever waits, too: they wait for nothing else.
        let of_it = |line: &Line| line.seats.contains(&Some(engine)) || !line.is_seated();
        let calls: Vec<CallId> = inner.lines.iter().filter(|(_, line)| of_it(line)).map(|(id, _)| *id).collect();
        for call in calls {
            inner.unseat(call, engine);
        }
        self.publish(inner);
    }

    fn publish(&self, inner: &Inner) {
        self.state.send_replace(inner.together());
    }

    pub(super) fn reports(&self) -> Vec<EngineReport> {
        let inner = self.lock();
        let of = |at: usize| inner.lines.iter().filter(move |(_, line)| line.seats.contains(&Some(at)));
        let report = |(at, member): (usize, &Member)| EngineReport {
            place: member.place.clone(),
            state: member.state.clone(),
            calls: of(at).filter(|(call, _)| call.0 < OWN_WORK).count(),
            process: member.process,
        };
        inner.members.iter().enumerate().map(report).collect()
    }

    /// Requests that wait for an engine.
    pub(super) fn waiting(&self) -> usize {
        self.lock().members.iter().map(|member| REQUESTS.saturating_sub(member.requests.capacity())).sum()
    }

    pub(super) fn attached(&self) -> usize {
        self.lock().lines.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn ask(&self, engine: usize, request: Request) -> Result<(), Refused> {
        self.members[engine].requests.try_send(request).map_err(|_| Refused)
    }

    fn forget(&self, call: CallId, line: &Line) -> Result<(), Refused> {
        line.engines().try_for_each(|engine| self.ask(engine, Request::Forget { call }))
    }

    /// Roles that some engine is there for, without which there is no conversation.
    fn needed(&self) -> impl Iterator<Item = Role> {
        let placed = |role: &Role| self.members.iter().any(|member| member.place.roles.contains(role));
        let alone = !SEATING.iter().any(|role| *role != Role::Embed && placed(role));
        SEATING.into_iter().filter(placed).filter(move |role| *role != Role::Embed || alone)
    }

    /// The best engine for a role: one of the first rank that is ready; of those, one that serves this call already, then the
    /// one with the fewest calls.
    fn best(&self, role: Role, taken: &Seats) -> Option<usize> {
        let calls = |at: usize| self.lines.values().filter(|line| line.seats[seat(role)] == Some(at)).count();
        let ready = (0..self.members.len()).filter(|&at| self.members[at].offers(role));
        ready.min_by_key(|&at| (self.members[at].place.rank, !taken.contains(&Some(at)), calls(at)))
    }

    /// Seats for a call; none at all if one is missing that it needs.
    fn free_seats(&self) -> Seats {
        let mut seats = Seats::default();
        for role in SEATING {
            seats[seat(role)] = self.best(role, &seats);
        }
        if self.needed().all(|role| seats[seat(role)].is_some()) { seats } else { Seats::default() }
    }

    fn seat(&mut self, call: CallId) {
        let seats = self.free_seats();
        let Some(line) = self.lines.get_mut(&call) else { return };
        line.seats = seats;
        if line.is_seated() {
            line.tell(call, News::Ready);
        }
    }

    /// Takes a call from all of its engines, of which `gone` is no more, and to others if there are some.
    fn unseat(&mut self, call: CallId, gone: usize) {
        let Some(line) = self.lines.get_mut(&call) else { return };
        let needed = line.pinned || !line.is_seated() || {
            let embeds = seat(Role::Embed);
            (0..line.seats.len()).any(|at| at != embeds && line.seats[at] == Some(gone))
                || line.seats[..embeds] == [None; 3]
        };
        if !needed {
            // Sentences without a vector are no reason to apologise.
            line.seats[seat(Role::Embed)] = None;
            return self.fill();
        }
        line.tell(call, News::Lost);
        let (pinned, engines) = (line.pinned, line.engines());
        line.seats = Seats::default();
        // Those that go on shall not go on with this.
        for at in engines.filter(|at| *at != gone) {
            if self.ask(at, Request::Forget { call }).is_err() {
                tracing::debug!(%call, "an engine was not told that the call has left it");
            }
        }
        if !pinned {
            self.seat(call);
        }
    }

    /// Seats that no conversation waits for, for those who sit.
    fn fill(&mut self) {
        let embeds = seat(Role::Embed);
        let engine = self.best(Role::Embed, &Seats::default());
        let without = |line: &&mut Line| line.is_seated() && line.seats[embeds].is_none();
        self.lines.values_mut().filter(without).for_each(|line| line.seats[embeds] = engine);
    }

    /// All engines as one.
    fn together(&self) -> EngineState {
        let info = |role: Role| {
            let engine = self.best(role, &Seats::default())?;
            let EngineState::Ready(roles) = &self.members[engine].state else { return None };
            roles.iter().find(|info| info.role == role).cloned()
        };
        let roles: Vec<RoleInfo> = Role::ALL.into_iter().filter_map(info).collect();
        if !roles.is_empty() && self.needed().all(|role| roles.iter().any(|info| info.role == role)) {
            return EngineState::Ready(roles);
        }
        let lost = |member: &Member| match &member.state {
            EngineState::Lost { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let lost: Vec<String> = self.members.iter().filter_map(lost).collect();
        match lost.first() {
            Some(_) => EngineState::Lost {
                reason: lost.join("; "),
                times: self.members.iter().map(|member| member.times).sum(),
            },
            None => EngineState::Starting,
        }
    }
}

const fn seat(role: Role) -> usize {
    match role {
        Role::Ears => 0,
        Role::Mind => 1,
        Role::Voice => 2,
        Role::Embed => 3,
    }
}

//! The live state of every trunk: registrations that are kept up, hosts that are asked whether they are there. Enters:
//! trunks of the configuration, now and after a reload; leaves: reports, and the servers for calls out in their order.
//! One task per trunk for its registration and one per host for its keepalive; all end with the trunk.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::Undialled;
use super::locate::{Names, Target, locate};
use super::registration::{Identity, Registered, Registration};
use crate::base::trunk::{Host, Trunk, TrunkName, Trunks};
use crate::base::{Clock, spawn_essential};
use crate::sip::digest::{Credentials, authorised};
use crate::sip::endpoint::Endpoint;
use crate::sip::message::{Message, Method};
use crate::sip::transaction::Flow;

/// How long servers of a host are known before DNS is asked again.
const LOCATED: Duration = Duration::from_secs(60);
/// How long an address that a name has had may call us; longer than any call lasts.
const SEEN: Duration = Duration::from_secs(24 * 3600);
/// Addresses of one trunk that are remembered.
const MOST_SEEN: usize = 256;
/// How long taking a registration back may hold up the end of the daemon.
const LEAVE: Duration = Duration::from_secs(2);

/// Source of random bits; see [`crate::sip::EndpointConfig::random`].
type Random = Box<dyn FnMut() -> u64 + Send>;

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// As configured.
    pub host: String,
    /// Whether it answered the last OPTIONS; none if it was not asked yet.
    pub up: Option<bool>,
    /// What it answered, if it is up.
    pub status: Option<u16>,
    /// How long that took.
    pub took: Option<Duration>,
}

/// What is known of a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkReport {
    /// Its name.
    pub name: TrunkName,
    /// Its registration; none if it has none.
    pub registered: Option<Registered>,
    /// Its hosts.
    pub hosts: Vec<HostReport>,
}

impl TrunkReport {
    /// Whether it has a registration that is valid.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self.registered, Some(Registered::Until(_)))
    }

    /// Whether calls can go out: registered where that is asked for, and some host not known to be down.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let registered = self.registered.is_none() || self.is_registered();
        registered && (self.hosts.is_empty() || self.hosts.iter().any(|host| host.up != Some(false)))
    }
}

#[derive(Default)]
struct LineState {
    registered: Option<Registered>,
    /// The host that has the registration.
    registrar: usize,
    route: Vec<String>,
    hosts: Vec<HostReport>,
    /// Servers of each host, and when they were looked up.
    located: Vec<Option<(Instant, Vec<Target>)>>,
    /// Addresses that names of hosts have had, and when last: who has called from one may still have to end that call.
    seen: Vec<(IpAddr, Instant)>,
}

/// One trunk at work.
pub(super) struct Line {
    pub(super) trunk: Arc<Trunk>,
    state: Mutex<LineState>,
    /// Ends its tasks.
    _stop: DropGuard,
}

struct Shared {
    endpoint: Endpoint,
    names: Arc<dyn Names>,
    clock: Arc<dyn Clock>,
    random: Mutex<Random>,
    lines: Mutex<Vec<Arc<Line>>>,
}

/// All trunks at work. Clones share everything.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

impl Lines {
    /// No trunk yet.
    pub fn new(endpoint: Endpoint, names: Arc<dyn Names>, clock: Arc<dyn Clock>, random: Random) -> Self {
        let (random, lines) = (Mutex::new(random), Mutex::default());
        Self(Arc::new(Shared { endpoint, names, clock, random, lines }))
    }

    /// These are the trunks from now on. One that has not changed keeps its registration.
    pub fn set(&self, trunks: &Trunks) {
        let mut lines = lock(&self.0.lines);
        let before = std::mem::take(&mut *lines);
        for trunk in trunks.iter() {
            let same = before.iter().find(|line| line.trunk == *trunk);
            lines.push(same.map_or_else(|| self.begin(Arc::clone(trunk)), Arc::clone));
        }
        // A trunk that has changed but for its account registers the same contact, which must stay.
        let stays = |gone: &Line| lines.iter().any(|line| line.trunk.register && aor(&line.trunk) == aor(&gone.trunk));
        let now = self.0.clock.now();
        for gone in before.into_iter().filter(|line| line.report(now).is_registered() && !stays(line)) {
            let lines = self.clone();
            spawn_essential(async move { drop(timeout(LEAVE, lines.unregister(gone)).await) });
        }
    }

    /// What is known of every trunk.
    #[must_use]
    pub fn report(&self) -> Vec<TrunkReport> {
        let now = self.0.clock.now();
        lock(&self.0.lines).iter().map(|line| line.report(now)).collect()
    }

    /// Takes every registration back; calls that are up do not need them.
    pub async fn leave(&self) {
        let lines: Vec<_> = std::mem::take(&mut *lock(&self.0.lines));
        let mut leaving = JoinSet::new();
        let now = self.0.clock.now();
        for line in lines.into_iter().filter(|line| line.report(now).is_registered()) {
            let lines = self.clone();
            leaving.spawn(async move { lines.unregister(line).await });
        }
        // Whoever is not done by then is forgotten by the registrar in time.
        drop(timeout(LEAVE, leaving.join_all()).await);
    }

    /// The endpoint below.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(super) fn random(&self) -> u64 {
        (lock(&self.0.random))()
    }

    /// Whether calls can go out through this trunk at all.
    #[must_use]
    pub fn leads_out(&self, name: &TrunkName) -> bool {
        self.line(Some(name)).is_ok()
    }

    /// The trunk that a call would go through, and the server that it would be sent to first.
    ///
    /// # Errors
    /// [`Undialled`], if there is none.
    pub async fn towards(&self, name: Option<&TrunkName>) -> Result<(Arc<Trunk>, SocketAddr), Undialled> {
        let line = self.line(name)?;
        for host in line.hosts() {
            if let Some(server) = self.servers(&line, host).await.first() {
                return Ok((Arc::clone(&line.trunk), server.peer));
            }
        }
        Err(Undialled::Unreachable(line.trunk.name.clone()))
    }

    /// The trunk of a name; without one the first that calls can go out through, or the first at all.
    pub(super) fn line(&self, name: Option<&TrunkName>) -> Result<Arc<Line>, Undialled> {
        let lines = lock(&self.0.lines);
        let fits = |line: &&Arc<Line>| name.is_none_or(|name| line.trunk.name == *name) && !line.trunk.hosts.is_empty();
        let mut fit = lines.iter().filter(fits).peekable();
        let first = fit.peek().copied();
        let now = self.0.clock.now();
        let best = fit.find(|line| line.report(now).is_up()).or(first);
        best.cloned().ok_or_else(|| name.cloned().map_or(Undialled::NoTrunk, Undialled::UnknownTrunk))
    }

    fn begin(&self, trunk: Arc<Trunk>) -> Arc<Line> {
        let stop = CancellationToken::new();
        let hosts =
            trunk.hosts.iter().map(|host| HostReport { host: host.to_string(), up: None, status: None, took: None });
        let state = LineState {
            registered: trunk.register.then_some(Registered::Trying),
            hosts: hosts.collect(),
            located: vec![None; trunk.hosts.len()],
            ..LineState::default()
        };
        let line = Arc::new(Line { state: Mutex::new(state), _stop: stop.clone().drop_guard(), trunk });
        let until = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            spawn_essential(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            });
        };
        // They hold the trunk weakly: when nobody else does, they end.
        if line.trunk.register {
            let (lines, weak) = (self.clone(), Arc::downgrade(&line));
            until(Box::pin(async move { lines.keep_registered(weak).await }));
        }
        if line.trunk.hosts.iter().any(|host| host.address().is_none()) {
            let (lines, weak) = (self.clone(), Arc::downgrade(&line));
            until(Box::pin(async move { lines.keep_located(weak).await }));
        }
        if line.trunk.keepalive_s > 0 {
            for host in 0..line.trunk.hosts.len() {
                let (lines, weak) = (self.clone(), Arc::downgrade(&line));
                until(Box::pin(async move { lines.keep_asking(weak, host).await }));
            }
        }
        line
    }

    async fn keep_registered(self, weak: std::sync::Weak<Line>) {
        let Some(line) = weak.upgrade() else { return };
        let mut registration = Registration::new(self.identity(&line.trunk), self.0.clock.now());
        drop(line);
        loop {
            let Some(due) = registration.due() else { return };
            tokio::time::sleep_until(due.into()).await;
            let Some(line) = weak.upgrade() else { return };
            self.register(&line, &mut registration).await;
            let mut state = lock(&line.state);
            let before = state.registered.replace(registration.state());
            registration.route().clone_into(&mut state.route);
            state.registrar = registration.host();
            tell(&line.trunk, before, registration.state());
        }
    }

    /// One attempt with the host that is due.
    async fn register(&self, line: &Line, registration: &mut Registration) {
        let trunk = &line.trunk;
        let tried = registration.host();
        let Some(host) = trunk.hosts.get(tried) else { return };
        let mut login = self.login(trunk);
        let server = self.servers(line, tried).await.into_iter().next();
        let flow = server.and_then(|server| self.0.endpoint.flow(server.transport.into(), server.peer).ok());
        let contact = flow.map_or_else(String::new, |flow| contact(trunk, flow));
        let (mut next, mut status) = (Some(registration.request(&contact)), 408);
        while let Some(request) = next {
            let response = match flow {
                Some(flow) => self.0.endpoint.request(request, host.to_string(), flow).await.ok(),
                None => None,
            };
            status = response.as_ref().map_or(408, Message::status);
            let now = self.0.clock.now();
            next = registration.on_response(response.as_ref(), &contact, &mut login, now, self.random());
        }
        // Also while the registration of before is still valid: it is to be refreshed before it ends.
        if matches!(status, 408 | 500..=599) {
            line.another_server(tried);
        }
    }

    async fn unregister(&self, line: Arc<Line>) {
        let mut registration = Registration::new(self.identity(&line.trunk), self.0.clock.now());
        let mut login = self.login(&line.trunk);
        let registrar = lock(&line.state).registrar;
        let Some(server) = self.servers(&line, registrar).await.into_iter().next() else { return };
        let Ok(flow) = self.0.endpoint.flow(server.transport.into(), server.peer) else { return };
        let (contact, now) = (contact(&line.trunk, flow), self.0.clock.now());
        let mut next = Some(registration.leave(&contact));
        while let Some(request) = next {
            let uri = line.trunk.hosts.get(registrar).map(Host::to_string).unwrap_or_default();
            let response = self.0.endpoint.request(request, uri, flow).await.ok();
            next = registration.on_response(response.as_ref(), &contact, &mut login, now, self.random());
        }
    }

    fn identity(&self, trunk: &Trunk) -> Identity {
        let domain = trunk.domain();
        Identity {
            aor: aor(trunk),
            registrar: format!("sip:{domain}"),
            expires: trunk.register_s.get(),
            hosts: trunk.hosts.len(),
            call_id: format!("{:016x}{:016x}", self.random(), self.random()),
            tag: format!("{:016x}", self.random()),
        }
    }

    /// Answers challenges with the trunk's password.
    fn login(&self, trunk: &Trunk) -> impl FnMut(Message, &Message) -> Option<Message> + Send + use<> {
        let credentials = trunk.login().map(|(username, password)| Credentials::new(username, password.clone()));
        let cnonce = format!("{:016x}", self.random());
        move |request, response| authorised(request, response, credentials.as_ref()?, &cnonce)
    }

    /// Looks names up again and again: their servers may call us, though we call none of them.
    async fn keep_located(self, weak: std::sync::Weak<Line>) {
        loop {
            let Some(line) = weak.upgrade() else { return };
            for host in 0..line.trunk.hosts.len() {
                drop(self.servers(&line, host).await);
            }
            drop(line);
            tokio::time::sleep(LOCATED).await;
        }
    }

    /// Asks one host again and again whether it is there (RFC 3261 §11).
    async fn keep_asking(self, weak: std::sync::Weak<Line>, host: usize) {
        loop {
            let Some(line) = weak.upgrade() else { return };
            let pause = Duration::from_secs(line.trunk.keepalive_s.into());
            let asked = self.0.clock.now();
            let response = self.ask(&line, host).await;
            let took = self.0.clock.now().saturating_duration_since(asked);
            let status = response.as_ref().map_or(408, Message::status);
            line.answered(host, status, took);
            drop(line);
            // Not all hosts of all boxes at the same instant.
            tokio::time::sleep(pause.mul_f64((self.random() % 1000) as f64 / 5000.0 + 0.9)).await;
        }
    }

    async fn ask(&self, line: &Line, host: usize) -> Option<Message> {
        let server = self.servers(line, host).await.into_iter().next()?;
        let flow = self.0.endpoint.flow(server.transport.into(), server.peer).ok()?;
        let uri = line.trunk.hosts.get(host)?.to_string();
        let from = contact(&line.trunk, flow);
        let request = Message::request(Method::Options, uri.as_str())
            .with("From", format!("<{from}>;tag={:016x}", self.random()))
            .with("To", format!("<{uri}>"))
            .with("Call-ID", format!("{:016x}{:016x}", self.random(), self.random()))
            .with("CSeq", "1 OPTIONS")
            .with("Contact", format!("<{from}>"))
            .with("Accept", crate::sip::dialog::ACCEPT);
        self.0.endpoint.request(request, uri, flow).await.ok()
    }

    /// The servers of a host, from DNS at most every minute.
    pub(super) async fn servers(&self, line: &Line, host: usize) -> Vec<Target> {
        let now = self.0.clock.now();
        if let Some(Some((at, known))) = lock(&line.state).located.get(host)
            && now.saturating_duration_since(*at) < LOCATED
        {
            return known.clone();
        }
        let Some(named) = line.trunk.hosts.get(host) else { return Vec::new() };
        let found = locate(self.0.names.as_ref(), named, line.trunk.transport, &mut || self.random()).await;
        if named.address().is_none() && !found.is_empty() {
            // Who is called may call.
            let known = line.seen(now, &found);
            self.0.endpoint.hosts(line.trunk.name.clone(), known).await;
        }
        line.located(host, now, found)
    }
}

impl Line {
    /// These are the servers of a host; those of before, if DNS does not answer.
    fn located(&self, host: usize, now: Instant, found: Vec<Target>) -> Vec<Target> {
        let mut state = lock(&self.state);
        match state.located.get_mut(host) {
            Some(located) if !found.is_empty() => *located = Some((now, found.clone())),
            Some(Some((_, before))) => return before.clone(),
            _ => {}
        }
        found
    }

    /// Names have these addresses now; all that they have had of late.
    fn seen(&self, now: Instant, found: &[Target]) -> Vec<IpAddr> {
        let mut state = lock(&self.state);
        let new = |ip: &IpAddr| found.iter().any(|server| server.peer.ip() == *ip);
        state.seen.retain(|(ip, at)| !new(ip) && now.saturating_duration_since(*at) < SEEN);
        let surplus = (state.seen.len() + found.len()).saturating_sub(MOST_SEEN).min(state.seen.len());
        state.seen.drain(..surplus);
        for server in found {
            let ip = server.peer.ip();
            if !state.seen.iter().any(|(seen, _)| *seen == ip) {
                state.seen.push((ip, now));
            }
        }
        state.seen.iter().map(|(ip, _)| *ip).collect()
    }

    /// A server of a host does not answer: the next of them is asked first (RFC 3263 §4.3).
    fn another_server(&self, host: usize) {
        if let Some(Some((_, servers))) = lock(&self.state).located.get_mut(host)
            && !servers.is_empty()
        {
            servers.rotate_left(1);
        }
    }

    /// The final response of a host to OPTIONS; 408 for none.
    fn answered(&self, host: usize, status: u16, took: Duration) {
        // Whatever it says, it is there; but for one that says that it is not.
        let up = !matches!(status, 408 | 503);
        if !up {
            self.another_server(host);
        }
        let mut state = lock(&self.state);
        let Some(report) = state.hosts.get_mut(host) else { return };
        let (trunk, host) = (self.trunk.name.as_str(), report.host.as_str());
        match (up, report.up) {
            (false, Some(true) | None) => tracing::warn!(trunk, host, status, "a host of a trunk does not answer"),
            (true, Some(false)) => tracing::info!(trunk, host, status, "a host of a trunk answers again"),
            (true, None) => tracing::info!(trunk, host, status, "a host of a trunk answers"),
            _ => {}
        }
        (report.up, report.status, report.took) = (Some(up), up.then_some(status), up.then_some(took));
    }

    fn report(&self, now: Instant) -> TrunkReport {
        let state = lock(&self.state);
        let registered = state.registered.map(|registered| match registered {
            // Nobody has refreshed it.
            Registered::Until(until) if until <= now => Registered::Failed(408),
            registered => registered,
        });
        TrunkReport { name: self.trunk.name.clone(), registered, hosts: state.hosts.clone() }
    }

    /// Hosts in the order in which they are to be tried: those that do not answer last.
    pub(super) fn hosts(&self) -> Vec<usize> {
        let state = lock(&self.state);
        let mut order: Vec<usize> = (0..self.trunk.hosts.len()).collect();
        order.sort_by_key(|host| state.hosts.get(*host).is_some_and(|report| report.up == Some(false)));
        order
    }

    /// Route of requests through its registrar (RFC 3608).
    pub(super) fn route(&self) -> Vec<String> {
        lock(&self.state).route.clone()
    }
}

/// Our address of record at a trunk.
fn aor(trunk: &Trunk) -> String {
    format!("sip:{}@{}", trunk.username.as_deref().unwrap_or("callbox"), trunk.domain())
}

/// Our URI on a flow, under the name that the trunk knows us by.
fn contact(trunk: &Trunk, flow: Flow) -> String {
    let user = trunk.username.as_deref().unwrap_or("callbox");
    crate::sip::dialog::contact_uri(user, flow, false)
}

fn tell(trunk: &Trunk, before: Option<Registered>, after: Registered) {
    let trunk = trunk.name.as_str();
    match (before, after) {
        (Some(Registered::Until(_)), Registered::Until(_)) => {}
        (_, Registered::Until(_)) => tracing::info!(trunk, "registered"),
        (Some(Registered::Failed(was)), Registered::Failed(status)) if was == status => {}
        (_, Registered::Failed(408)) => {
            tracing::warn!(trunk, "the registrar does not answer; calls to us will not come")
        }
        (_, Registered::Failed(status)) => {
            tracing::warn!(trunk, status, "the registration was refused: check username and password of the trunk");
        }
        (_, Registered::Trying) => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ManualClock;
    use crate::base::trunk::Protocol;

    fn server(number: u16) -> Target {
        let [third, fourth] = number.to_be_bytes();
        Target { transport: Protocol::Udp, peer: ([198, 18, third, fourth], 5060).into() }
    }

    #[test]
    fn servers_take_turns_and_what_a_name_has_meant_is_remembered() {
        let hosts = vec!["sip:carrier.test".parse().unwrap()];
        let trunk = Arc::new(Trunk { hosts, ..Trunk::new("carrier".parse().unwrap()) });
        let state = LineState { located: vec![None], ..LineState::default() };
        let line = Line { trunk, state: Mutex::new(state), _stop: CancellationToken::new().drop_guard() };
        let clock = ManualClock::default();
        let ip = |number| server(number).peer.ip();
        assert_eq!(line.located(0, clock.now(), vec![server(1), server(2)]), [server(1), server(2)]);
        assert_eq!(line.seen(clock.now(), &[server(1), server(2)]), [ip(1), ip(2)]);
        // One that does not answer is asked after the others; DNS that does not answer changes nothing.
        line.another_server(0);
        assert_eq!(line.located(0, clock.now(), Vec::new()), [server(2), server(1)]);
        // An address that the name has lost may still call, for a day.
        clock.advance(SEEN / 2);
        assert_eq!(line.seen(clock.now(), &[server(2)]), [ip(1), ip(2)]);
        clock.advance(SEEN / 2);
        assert_eq!(line.seen(clock.now(), &[server(3)]), [ip(2), ip(3)]);
        for number in 4..300 {
            line.seen(clock.now(), &[server(number)]);
        }
        let seen = line.seen(clock.now(), &[server(300)]);
        assert_eq!((seen.len(), seen.first(), seen.last()), (MOST_SEEN, Some(&ip(45)), Some(&ip(300))), "the newest");
    }
}

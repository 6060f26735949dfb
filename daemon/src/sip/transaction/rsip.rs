//! The adapter over rsipstack: its four transaction machines and nothing else of it. Enters: bytes from sockets that we
//! bind and read ourselves; leaves: [`TxnEvent`]s. Its listeners, queues, dialogs, resolver and generators are not used:
//! admission acts before any parser, and a full event queue holds the socket back instead of growing.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rsipstack::EndpointBuilder;
use rsipstack::sip::{Request, SipMessage};
use rsipstack::transaction::endpoint::{EndpointInnerRef, EndpointOption};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transaction::transaction::{Transaction, TransactionEvent, TransactionEventSender};
use rsipstack::transport::SipConnection;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::convert::{from_request, from_response, read, sip_addr, stamp_via, to_rsip};
use super::passed::Passed;
use super::stream::Streams;
use super::udp::{self, Udp, Wire};
use super::{Flow, NextHop, Transport, TxId, TxnEvent, TxnLayer, TxnStats};
use crate::base::trunk::{TrunkName, Trunks};
use crate::base::{Advertised, Clock, spawn_essential};
use crate::sip::EndpointConfig;
use crate::sip::admission::{Admission, Limits, Refusal};
use crate::sip::endpoint::SipError;
use crate::sip::message::{Message, Method, Start, Via};
use crate::sip::offences::Offence;
use crate::sip::reason;
use crate::sip::tls::Tls;
use crate::sip::trace::Tracer;
use crate::sip::uri::Uri;

/// Responses to what could not be parsed, in one second: a mirror for nobody.
const REFUSALS_PER_SECOND: usize = 50;

/// Peers whose route is remembered for a second.
const ROUTES: usize = 1024;

/// RFC 3261 §18.1.1: longer requests go over TCP, because nobody knows what fits into a packet on the whole way.
const DATAGRAM: usize = 1300;
/// Long requests whose CANCEL would find them.
const RAISED: usize = 256;
/// How long a peer may take to accept a connection for a long request, and how long one that did not is not asked again.
const RAISE_LIMIT: Duration = Duration::from_secs(1);
const ONLY_UDP: Duration = Duration::from_secs(300);

/// Where a message came from and how to answer it without a transaction.
pub(super) struct Origin {
    pub(super) flow: Flow,
    pub(super) conn: SipConnection,
    pub(super) raw: RawOut,
}

/// Bytes past the transaction machines.
#[derive(Clone)]
pub(super) enum RawOut {
    Udp(Arc<Wire>),
    Stream(mpsc::Sender<Vec<u8>>),
}

struct Entry {
    to: TransactionEventSender,
    key: TransactionKey,
    /// When it is ended by force: a response that could not be sent leaves its machine without any timer.
    deadline: Option<Instant>,
}

pub(super) struct RsipLayer {
    /// For tasks that outlive a borrow.
    me: Weak<Self>,
    inner: EndpointInnerRef,
    table: Mutex<HashMap<TxId, Entry>>,
    next: AtomicU64,
    events: mpsc::Sender<TxnEvent>,
    udp: Vec<Udp>,
    udp_addresses: Vec<SocketAddr>,
    pub(super) streams: Streams,
    /// Until they are listened to.
    listeners: Mutex<Vec<(Transport, TcpListener)>>,
    admission: Mutex<Admission>,
    /// What the routing table said in this second; asked for every datagram where a socket is bound to no address.
    routes: Mutex<HashMap<IpAddr, IpAddr>>,
    /// Branches of requests that went over TCP because they were long.
    raised: Mutex<VecDeque<String>>,
    /// Peers that took no connection, until when that is believed.
    only_udp: Mutex<HashMap<SocketAddr, Instant>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tracer: Tracer,
    pub(super) cancel: CancellationToken,
    advertised: Advertised,
    max_transactions: usize,
    t1x64: Duration,
    malformed: AtomicU64,
    pub(super) dropped: AtomicU64,
    refusals: AtomicUsize,
    running: AtomicUsize,
}

impl RsipLayer {
    pub(super) async fn start(
        config: &EndpointConfig,
        mut passed: Passed,
        clock: Arc<dyn Clock>,
        tracer: Tracer,
        events: mpsc::Sender<TxnEvent>,
    ) -> Result<Arc<Self>, SipError> {
        let cancel = CancellationToken::new();
        let mut udp = Vec::new();
        for address in &config.udp {
            udp.push(udp::bind(*address, passed.udp(*address), tracer.clone()).await?);
        }
        let limits = super::socket_limits(&config.limits);
        let (streams, listeners) = Streams::bind(config, &mut passed, limits)?;
        passed.warn_of_unused();
        let timers = config.timers;
        // Built without its own listeners: `serve()` is never called, only its clockwork below.
        let endpoint = EndpointBuilder::new()
            .with_user_agent(&config.user_agent)
            .with_cancel_token(cancel.clone())
            .with_option(EndpointOption {
                t1: timers.t1,
                t2: timers.t2,
                t4: timers.t4,
                t1x64: timers.t1x64(),
                auto_ack_2xx: false,
                ..EndpointOption::default()
            })
            .build();
        let mut admission = Admission::new(config.limits.clone());
        admission.trunks(config.trunks.clone(), clock.now());
        let layer = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            inner: endpoint.inner,
            table: Mutex::default(),
            next: AtomicU64::new(2),
            events,
            udp_addresses: udp.iter().map(|u| u.local).collect(),
            udp,
            streams,
            listeners: Mutex::default(),
            admission: Mutex::new(admission),
            routes: Mutex::default(),
            raised: Mutex::default(),
            only_udp: Mutex::default(),
            clock,
            tracer,
            cancel,
            advertised: config.advertised.clone(),
            max_transactions: config.limits.max_transactions,
            t1x64: timers.t1x64(),
            malformed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refusals: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        });
        *lock(&layer.listeners) = listeners;
        let inner = layer.inner.clone();
        layer.until_shutdown(async move { inner.process_timer().await });
        layer.until_shutdown(layer.clone().sweep());
        Ok(layer)
    }

    /// Runs a task that ends when the layer is shut down.
    pub(super) fn until_shutdown(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        spawn_essential(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }

    async fn read_udp(self: Arc<Self>, index: usize) {
        let Some(udp) = self.udp.get(index) else { return };
        let mut buffer = vec![0_u8; 65_536];
        loop {
            let (length, peer) = match udp.wire.receive(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "cannot read from the SIP socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let raw = buffer.get(..length).unwrap_or_default();
            if length <= 4 || !self.admit(peer, raw) {
                continue; // keep-alives: CRLF, CRLFCRLF, a NUL
            }
            let Some(local) = self.reachable(udp.local, peer) else { continue };
            let flow = Flow { transport: Transport::Udp, local, peer };
            let origin = Origin { flow, conn: udp.conn.clone(), raw: RawOut::Udp(Arc::clone(&udp.wire)) };
            self.on_message(raw, &origin).await;
        }
    }

    /// The gate before the parser, for a stream that it has let in.
    pub(super) fn admits(&self, peer: SocketAddr, raw: &[u8]) -> Result<(), Refusal> {
        lock(&self.admission).admit_connected(peer.ip(), raw, self.clock.now())
    }

    /// The gate before a stream.
    pub(super) fn welcomes(&self, peer: SocketAddr) -> bool {
        lock(&self.admission).welcome(peer.ip(), self.clock.now()).is_ok()
    }

    fn admit(&self, peer: SocketAddr, raw: &[u8]) -> bool {
        let admitted = lock(&self.admission).admit(peer.ip(), raw, self.clock.now()).is_ok();
        if !admitted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// One message from outside.
    pub(super) async fn on_message(self: &Arc<Self>, raw: &[u8], origin: &Origin) {
        // A panic of a parser, ours or that of the crate below, costs its message and no more.
        let flow = origin.flow;
        self.tracer.record(false, flow, raw);
        let read = catch_unwind(|| read(raw, flow)).unwrap_or(Err(None));
        let (message, converted, key) = match read {
            Ok(read) => *read,
            Err(refusal) => {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                self.offended(flow.peer.ip(), Offence::Malformed);
                if let Some((request, status, reason)) = refusal {
                    self.refuse(*request, status, reason, origin).await;
                }
                return;
            }
        };
        let known = self.inner.transactions.get(&key).is_some();
        match (converted, message.method()) {
            (SipMessage::Response(_), Some(Method::Invite)) if !known && (200..300).contains(&message.status()) => {
                self.emit(TxnEvent::Stray2xx { flow: origin.flow, msg: Box::new(message) }).await;
            }
            // Whoever repeats a refusal has not had its ACK. Below, it would go where the Request-URI leads.
            (SipMessage::Response(_), Some(Method::Invite)) if !known && message.status() >= 300 => {
                if let Some(Some(ack)) = self.inner.finished_transactions.get(&key) {
                    let from = sip_addr(origin.flow.transport, origin.flow.peer);
                    drop(origin.conn.send(ack, Some(&from)).await);
                }
            }
            (SipMessage::Request(request), Some(method))
                if !known
                    && !matches!(method, Method::Ack | Method::Cancel)
                    && self.inner.finished_transactions.get(&key).is_none() =>
            {
                if self.running.load(Ordering::Relaxed) >= self.max_transactions {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                self.begin_server(key, request, message, method, origin).await;
            }
            (converted, _) => {
                let from = sip_addr(origin.flow.transport, origin.flow.peer);
                // Errors here are a peer's address that cannot be reached: nothing to do about them.
                drop(self.inner.on_received_message(converted, origin.conn.clone(), &from).await);
            }
        }
    }

    async fn begin_server(
        self: &Arc<Self>,
        key: TransactionKey,
        request: Request,
        message: Message,
        method: Method,
        origin: &Origin,
    ) {
        // An INVITE may ring as long as the core allows; anything else is answered at once or never.
        let deadline = (method != Method::Invite).then(|| self.clock.now() + self.t1x64);
        let (id, tx) = self.serve(key, request, origin.conn.clone(), deadline);
        // Sent from the reader, so that requests arrive in the order of the wire.
        self.emit(TxnEvent::Request { tx: id, flow: origin.flow, msg: Box::new(message) }).await;
        tokio::spawn(self.clone().drive(id, tx));
    }

    /// A server transaction; somebody has to drive it.
    fn serve(
        &self,
        key: TransactionKey,
        request: Request,
        conn: SipConnection,
        deadline: Option<Instant>,
    ) -> (TxId, Transaction) {
        let tx = Transaction::new_server(key.clone(), request, self.inner.clone(), Some(conn));
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        lock(&self.table).insert(id, Entry { to: tx.tu_sender.clone(), key, deadline });
        self.running.fetch_add(1, Ordering::Relaxed);
        (id, tx)
    }

    /// One task per transaction: its timers run only while somebody waits for it.
    async fn drive(self: Arc<Self>, id: TxId, mut tx: Transaction) {
        let cancel = self.cancel.clone();
        loop {
            let message = tokio::select! {
                () = cancel.cancelled() => break,
                message = tx.receive() => message,
            };
            let event = match message {
                None => break,
                Some(SipMessage::Response(r)) => TxnEvent::Response { tx: id, msg: Box::new(from_response(&r)) },
                Some(SipMessage::Request(r)) => match r.method {
                    rsipstack::sip::Method::Ack => TxnEvent::Ack { tx: id, msg: Box::new(from_request(&r)) },
                    rsipstack::sip::Method::Cancel => {
                        if let Some((protocol, cause)) = reason::read(&from_request(&r)) {
                            tracing::info!(protocol, cause, "a caller gives up and says why");
                        }
                        TxnEvent::Cancel { tx: id }
                    }
                    _ => continue,
                },
            };
            self.emit(event).await;
        }
        lock(&self.table).remove(&id);
        drop(tx);
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.emit(TxnEvent::Ended { tx: id }).await;
    }

    async fn emit(&self, event: TxnEvent) {
        // The receiver is gone only when the endpoint is: then nobody wants the event.
        drop(self.events.send(event).await);
    }

    /// Answers what no transaction can be built from (RFC 3261 §16.3, §21.4.1), statelessly and at a bounded rate.
    pub(super) async fn refuse(&self, mut request: Message, status: u16, reason: &str, origin: &Origin) {
        if request.method() == Some(Method::Ack) || self.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS_PER_SECOND
        {
            return;
        }
        stamp_via(&mut request, origin.flow);
        let mut response = Message::response(&request, status, Some("refused"));
        if status == 501 {
            response = response.with("Allow", crate::sip::dialog::ALLOW);
        }
        if let Start::Response { reason: phrase, .. } = &mut response.start {
            reason.clone_into(phrase);
        }
        let bytes = response.to_bytes();
        match &origin.raw {
            // To the source itself: an address in a broken Via is not to be trusted with a packet.
            RawOut::Udp(wire) => drop(wire.send(&bytes, origin.flow.peer).await),
            RawOut::Stream(out) => drop(out.try_send(bytes)),
        }
    }

    /// Ends by force what its own timers did not end.
    async fn sweep(self: Arc<Self>) {
        let mut every = tokio::time::interval(Duration::from_secs(1).min(self.t1x64 / 4));
        loop {
            every.tick().await;
            self.refusals.store(0, Ordering::Relaxed);
            lock(&self.routes).clear();
            let now = self.clock.now();
            for entry in lock(&self.table).values() {
                if entry.deadline.is_some_and(|at| at <= now) {
                    drop(entry.to.send(TransactionEvent::Terminate(entry.key.clone())));
                }
            }
        }
    }

    async fn send_request(self: Arc<Self>, id: TxId, request: Message, to: NextHop) {
        let (request, to) = self.raise(request, to).await;
        let started = async {
            let (conn, peer) = self.connect(&to).await?;
            let SipMessage::Request(converted) = to_rsip(&request)? else { return None };
            let key = TransactionKey::from_request(&converted, TransactionRole::Client).ok()?;
            let mut tx = Transaction::new_client(key.clone(), converted, self.inner.clone(), Some(conn));
            tx.destination = Some(sip_addr(to.transport, peer));
            lock(&self.table).insert(id, Entry { to: tx.tu_sender.clone(), key, deadline: None });
            self.running.fetch_add(1, Ordering::Relaxed);
            Some(match tx.send().await {
                Ok(()) => Ok(tx),
                Err(_) => Err(()),
            })
        };
        match started.await {
            Some(Ok(tx)) => return self.drive(id, tx).await,
            Some(Err(())) => {
                lock(&self.table).remove(&id);
                self.running.fetch_sub(1, Ordering::Relaxed);
            }
            None => {}
        }
        // RFC 3261 §8.1.3.1: a transport error is a 503.
        let msg = Box::new(Message::response(&request, 503, None));
        self.emit(TxnEvent::Response { tx: id, msg }).await;
        self.emit(TxnEvent::Ended { tx: id }).await;
    }

    /// RFC 3261 §18.1.1: what may not fit into a datagram goes over TCP, if the peer takes that; and who took the INVITE
    /// that way gets its CANCEL so. The dialog stays where it is: smaller requests are datagrams again.
    async fn raise(self: &Arc<Self>, mut request: Message, to: NextHop) -> (Message, NextHop) {
        let branch = request.header("Via").and_then(Via::parse).and_then(|via| Some(via.param("branch")?.to_owned()));
        let (Transport::Udp, Some(branch)) = (to.transport, branch) else { return (request, to) };
        let follows = request.method() == Some(Method::Cancel) && lock(&self.raised).contains(&branch);
        if !follows && request.to_bytes().len() <= DATAGRAM {
            return (request, to);
        }
        let Some(peer) = self.look_up(&to).await else { return (request, to) };
        let refused = lock(&self.only_udp).get(&peer).is_some_and(|until| *until > self.clock.now());
        let local = self.local_towards(Transport::Tcp, peer);
        if let (false, Some(local)) = (refused, local)
            && let Ok(Some(_)) = tokio::time::timeout(RAISE_LIMIT, self.stream_to(peer, None)).await
        {
            if let Some((_, via)) = request.headers.iter_mut().find(|(name, _)| name == "Via") {
                *via = format!("SIP/2.0/TCP {local};rport;branch={branch}");
            }
            let mut raised = lock(&self.raised);
            if raised.len() >= RAISED {
                raised.pop_front();
            }
            raised.push_back(branch);
            drop(raised);
            return (
                request,
                NextHop { transport: Transport::Tcp, uri: format!("sip:{peer}"), flow: None, name: None },
            );
        }
        let mut only_udp = lock(&self.only_udp);
        if only_udp.len() >= ROUTES {
            only_udp.clear();
        }
        if !refused {
            only_udp.insert(peer, self.clock.now() + ONLY_UDP);
        }
        drop(only_udp);
        (request, to)
    }

    /// Where a request of ours goes.
    async fn look_up(&self, to: &NextHop) -> Option<SocketAddr> {
        let uri = Uri::parse(&to.uri)?;
        // RFC 3261 §19.1.1: `maddr` says where to send what is addressed to somebody else.
        let host = uri.param("maddr").filter(|maddr| !maddr.is_empty()).unwrap_or(uri.host);
        let port = uri.port_for(to.transport);
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if ip.is_multicast() => None,
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await.ok();
                let found = found.and_then(|mut all| all.find(|address| self.reaches(to.transport, *address)));
                // A proxy that names itself by SRV records alone: it is where the dialog's messages come from.
                found.or_else(|| to.flow.map(|flow| flow.peer))
            }
        }
    }

    /// The connection and the address for a request of ours.
    async fn connect(self: &Arc<Self>, to: &NextHop) -> Option<(SipConnection, SocketAddr)> {
        if let (true, Some(flow)) = (to.transport.is_stream(), to.flow)
            && let Some(conn) = self.streams.existing(to.transport, flow.peer)
        {
            return Some((conn, flow.peer));
        }
        let peer = self.look_up(to).await?;
        match to.transport {
            Transport::Udp => self.udp_of(to.flow, peer).map(|u| (u.conn.clone(), peer)),
            Transport::Tcp => Some((self.stream_to(peer, None).await?, peer)),
            Transport::Tls => {
                let name = to.name.as_deref().or_else(|| Uri::parse(&to.uri).map(|uri| uri.host))?;
                Some((self.stream_to(peer, Some(name)).await?, peer))
            }
        }
    }

    fn reaches(&self, transport: Transport, peer: SocketAddr) -> bool {
        transport.is_stream() || self.udp_towards(peer).is_some()
    }

    fn route(&self, peer: SocketAddr) -> Option<IpAddr> {
        let mut routes = lock(&self.routes);
        if let Some(local) = routes.get(&peer.ip()) {
            return Some(*local);
        }
        let local = route_towards(peer)?;
        if routes.len() >= ROUTES {
            routes.clear();
        }
        routes.insert(peer.ip(), local);
        Some(local)
    }

    /// The socket that a dialog came over; else one that reaches the peer.
    fn udp_of(&self, flow: Option<Flow>, peer: SocketAddr) -> Option<&Udp> {
        let came_over = |udp: &&Udp| {
            flow.is_some_and(|flow| {
                let any = udp.local.ip().is_unspecified() || self.advertised.is(flow.local.ip());
                udp.local.port() == flow.local.port() && (any || udp.local.ip() == flow.local.ip())
            })
        };
        let family = |udp: &&Udp| udp.local.is_ipv4() == peer.is_ipv4();
        self.udp.iter().filter(family).find(came_over).or_else(|| self.udp_towards(peer))
    }

    /// One of our addresses as this peer can reach it.
    pub(super) fn reachable(&self, bound: SocketAddr, peer: SocketAddr) -> Option<SocketAddr> {
        let ip = match self.advertised.towards(peer.ip()) {
            Some(ip) => ip,
            None if bound.ip().is_unspecified() => self.route(peer)?,
            None => bound.ip(),
        };
        Some(SocketAddr::new(ip, bound.port()))
    }

    fn udp_towards(&self, peer: SocketAddr) -> Option<&Udp> {
        self.udp.iter().find(|u| u.local.is_ipv4() == peer.is_ipv4())
    }
}

impl TxnLayer for RsipLayer {
    fn respond(&self, tx: TxId, response: Message) {
        let Some(SipMessage::Response(converted)) = to_rsip(&response) else { return };
        if let Some(entry) = lock(&self.table).get_mut(&tx) {
            if response.status() >= 200 {
                entry.deadline = Some(self.clock.now() + self.t1x64 + self.t1x64 / 8);
            }
            drop(entry.to.send(TransactionEvent::Respond(converted)));
        }
    }

    fn request(&self, tx: TxId, request: Message, to: NextHop) {
        if let Some(layer) = self.me.upgrade() {
            tokio::spawn(layer.send_request(tx, request, to));
        }
    }

    fn ack(&self, ack: Message, to: NextHop) {
        let Some(layer) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            match (layer.connect(&to).await, to_rsip(&ack)) {
                // A lost ACK is repeated when the 2xx is.
                (Some((conn, peer)), Some(ack)) => drop(conn.send(ack, Some(&sip_addr(to.transport, peer))).await),
                _ => tracing::warn!(
                    transport = to.transport.name(),
                    "an ACK could not be sent: no way leads to its peer"
                ),
            }
        });
    }

    fn adopt(&self, invite: &Message, flow: Flow) -> Option<TxId> {
        let layer = self.me.upgrade()?;
        let conn = match flow.transport {
            Transport::Udp => self.udp_of(Some(flow), flow.peer)?.conn.clone(),
            Transport::Tcp | Transport::Tls => return None,
        };
        let SipMessage::Request(request) = to_rsip(invite)? else { return None };
        let key = TransactionKey::from_request(&request, TransactionRole::Server).ok()?;
        let (id, tx) = self.serve(key, request, conn, None);
        tokio::spawn(layer.drive(id, tx));
        Some(id)
    }

    fn listen(&self) {
        let Some(layer) = self.me.upgrade() else { return };
        for index in 0..self.udp.len() {
            self.until_shutdown(layer.clone().read_udp(index));
        }
        for (transport, listener) in std::mem::take(&mut *lock(&self.listeners)) {
            self.until_shutdown(layer.clone().accept(transport, listener));
        }
    }

    fn abandon(&self, tx: TxId) {
        if let Some(entry) = lock(&self.table).get(&tx) {
            drop(entry.to.send(TransactionEvent::Terminate(entry.key.clone())));
        }
    }

    fn local(&self, transport: Transport) -> &[SocketAddr] {
        match transport {
            Transport::Udp => &self.udp_addresses,
            stream => self.streams.addresses(stream),
        }
    }

    fn local_towards(&self, transport: Transport, peer: SocketAddr) -> Option<SocketAddr> {
        let bound = match transport {
            Transport::Udp => self.udp_towards(peer).map(|u| u.local)?,
            // Without a listener the peer can still answer over our connection; any port will do in Via and Contact.
            stream => {
                let listens = self.streams.addresses(stream).iter().copied().find(|a| a.is_ipv4() == peer.is_ipv4());
                listens.unwrap_or_else(|| any_address(peer, stream.default_port()))
            }
        };
        self.reachable(bound, peer)
    }

    fn limit(&self, limits: Limits) {
        lock(&self.admission).limit(limits);
    }

    fn certificates(&self) -> Option<Tls> {
        self.streams.certificates()
    }

    fn certify(&self, tls: Tls) {
        self.streams.certify(tls);
    }

    fn trunks(&self, trunks: Trunks) {
        lock(&self.admission).trunks(trunks, self.clock.now());
    }

    fn offended(&self, source: IpAddr, offence: Offence) {
        lock(&self.admission).offended(source, offence, self.clock.now());
    }

    fn refused(&self) -> ([u64; Offence::ALL.len()], Vec<(TrunkName, u64)>) {
        let admission = lock(&self.admission);
        (admission.offences(), admission.refused().map(|(name, count)| (name.clone(), count)).collect())
    }

    fn stats(&self) -> TxnStats {
        TxnStats {
            running: self.running.load(Ordering::Relaxed),
            finished: self.inner.get_stats().finished_transactions,
            connections: self.streams.open(),
            handshakes_failed: self.streams.handshakes_failed(),
            malformed: self.malformed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    fn shutdown(&self) {
        self.cancel.cancel();
    }
}

fn any_address(peer: SocketAddr, port: u16) -> SocketAddr {
    if peer.is_ipv4() { ([0, 0, 0, 0], port).into() } else { ([0_u16; 8], port).into() }
}

/// Our own address on the way to this peer, as the routing table says.
fn route_towards(peer: SocketAddr) -> Option<IpAddr> {
    let probe = std::net::UdpSocket::bind(any_address(peer, 0)).ok()?;
    probe.connect(peer).ok()?;
    Some(probe.local_addr().ok()?.ip())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

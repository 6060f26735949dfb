//! The adapter over rsipstack: its four transaction machines and nothing else of it. Enters: bytes from sockets that we
//! bind and read ourselves; leaves: [`TxnEvent`]s. Its listeners, queues, dialogs, resolver and generators are not used:
//! admission acts before any parser, and a full event queue holds the socket back instead of growing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rsipstack::EndpointBuilder;
use rsipstack::sip::headers::make_header;
use rsipstack::sip::{Header, Headers, Request, Response, SipMessage, StatusCode, Version};
use rsipstack::transaction::endpoint::{EndpointInnerRef, EndpointOption};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transaction::transaction::{Transaction, TransactionEvent, TransactionEventSender};
use rsipstack::transport::udp::UdpConnection;
use rsipstack::transport::{SipAddr, SipConnection};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::passed::Passed;
use super::tcp::Streams;
use super::{Flow, NextHop, Transport, TxId, TxnEvent, TxnLayer, TxnStats};
use crate::base::{Clock, spawn_essential};
use crate::sip::EndpointConfig;
use crate::sip::admission::{Admission, Limits, Refusal};
use crate::sip::endpoint::{SipError, bind_error};
use crate::sip::message::{Message, Method, ParseError, Start};
use crate::sip::offences::Offence;
use crate::sip::trunk::{TrunkName, Trunks};
use crate::sip::uri::{Uri, param, split_list};

/// Responses to what could not be parsed, in one second: a mirror for nobody.
const REFUSALS_PER_SECOND: usize = 50;

/// Peers whose route is remembered for a second.
const ROUTES: usize = 1024;

/// One UDP socket of ours.
struct Udp {
    socket: Arc<UdpSocket>,
    conn: SipConnection,
    local: SocketAddr,
}

/// Where a message came from and how to answer it without a transaction.
pub(super) struct Origin {
    pub(super) flow: Flow,
    pub(super) conn: SipConnection,
    pub(super) raw: RawOut,
}

/// Bytes past the transaction machines.
#[derive(Clone)]
pub(super) enum RawOut {
    Udp(Arc<UdpSocket>),
    Tcp(mpsc::Sender<Vec<u8>>),
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
    listeners: Mutex<Vec<TcpListener>>,
    admission: Mutex<Admission>,
    /// What the routing table said in this second; asked for every datagram where a socket is bound to no address.
    routes: Mutex<HashMap<IpAddr, IpAddr>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cancel: CancellationToken,
    advertised: Option<IpAddr>,
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
        events: mpsc::Sender<TxnEvent>,
    ) -> Result<Arc<Self>, SipError> {
        let cancel = CancellationToken::new();
        let mut udp = Vec::new();
        for address in &config.udp {
            udp.push(bind_udp(*address, passed.udp(*address)).await?);
        }
        let limits = super::socket_limits(&config.limits);
        let (streams, listeners) = Streams::bind(&config.tcp, &mut passed, limits).await?;
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
            clock,
            cancel,
            advertised: config.advertised,
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
            let (length, peer) = match udp.socket.recv_from(&mut buffer).await {
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
            let origin = Origin { flow, conn: udp.conn.clone(), raw: RawOut::Udp(udp.socket.clone()) };
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
                    rsipstack::sip::Method::Cancel => TxnEvent::Cancel { tx: id },
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
    async fn refuse(&self, mut request: Message, status: u16, reason: &str, origin: &Origin) {
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
            RawOut::Udp(socket) => drop(socket.send_to(&bytes, origin.flow.peer).await),
            RawOut::Tcp(out) => drop(out.try_send(bytes)),
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

    /// The connection and the address for a request of ours.
    async fn connect(self: &Arc<Self>, to: &NextHop) -> Option<(SipConnection, SocketAddr)> {
        if let (Transport::Tcp, Some(flow)) = (to.transport, to.flow)
            && let Some(conn) = self.streams.existing(flow.peer)
        {
            return Some((conn, flow.peer));
        }
        let uri = Uri::parse(&to.uri)?;
        let peer = match uri.literal() {
            Some(peer) => peer,
            None => {
                let name = (uri.host, uri.port.unwrap_or(5060));
                tokio::net::lookup_host(name).await.ok()?.find(|a| self.reaches(to.transport, *a))?
            }
        };
        match to.transport {
            Transport::Udp => self.udp_of(to.flow, peer).map(|u| (u.conn.clone(), peer)),
            Transport::Tcp => Some((self.stream_to(peer).await?, peer)),
        }
    }

    fn reaches(&self, transport: Transport, peer: SocketAddr) -> bool {
        transport == Transport::Tcp || self.udp_towards(peer).is_some()
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
                let any = udp.local.ip().is_unspecified() || self.advertised == Some(flow.local.ip());
                udp.local.port() == flow.local.port() && (any || udp.local.ip() == flow.local.ip())
            })
        };
        let family = |udp: &&Udp| udp.local.is_ipv4() == peer.is_ipv4();
        self.udp.iter().filter(family).find(came_over).or_else(|| self.udp_towards(peer))
    }

    /// One of our addresses as this peer can reach it.
    pub(super) fn reachable(&self, bound: SocketAddr, peer: SocketAddr) -> Option<SocketAddr> {
        let ip = match self.advertised {
            Some(ip) if ip.is_ipv4() == bound.is_ipv4() => ip,
            _ if bound.ip().is_unspecified() => self.route(peer)?,
            _ => bound.ip(),
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
            if let (Some((conn, peer)), Some(ack)) = (layer.connect(&to).await, to_rsip(&ack)) {
                // A lost ACK is repeated when the 2xx is.
                drop(conn.send(ack, Some(&sip_addr(to.transport, peer))).await);
            }
        });
    }

    fn adopt(&self, invite: &Message, flow: Flow) -> Option<TxId> {
        let layer = self.me.upgrade()?;
        let conn = match flow.transport {
            Transport::Udp => self.udp_towards(flow.peer)?.conn.clone(),
            Transport::Tcp => return None,
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
        for listener in std::mem::take(&mut *lock(&self.listeners)) {
            self.until_shutdown(layer.clone().accept(listener));
        }
    }

    fn abandon(&self, tx: TxId) {
        if let Some(entry) = lock(&self.table).get(&tx) {
            drop(entry.to.send(TransactionEvent::Terminate(entry.key.clone())));
        }
    }

    fn local(&self) -> (&[SocketAddr], &[SocketAddr]) {
        (&self.udp_addresses, self.streams.addresses())
    }

    fn local_towards(&self, transport: Transport, peer: SocketAddr) -> Option<SocketAddr> {
        let bound = match transport {
            Transport::Udp => self.udp_towards(peer).map(|u| u.local)?,
            // Without a listener the peer can still answer over our connection; any port will do in Via and Contact.
            Transport::Tcp => {
                let listens = self.streams.addresses().iter().copied().find(|a| a.is_ipv4() == peer.is_ipv4());
                listens.unwrap_or_else(|| any_address(peer, 5060))
            }
        };
        self.reachable(bound, peer)
    }

    fn limit(&self, limits: Limits) {
        lock(&self.admission).limit(limits);
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
            malformed: self.malformed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    fn shutdown(&self) {
        self.cancel.cancel();
    }
}

/// Of a message from outside: ours, that of the crate below, and the transaction that it belongs to. The error is what
/// to refuse it with, if it is to be answered at all.
type Read = Result<Box<(Message, SipMessage, TransactionKey)>, Option<(Box<Message>, u16, &'static str)>>;

fn read(raw: &[u8], flow: Flow) -> Read {
    let mut message = Message::parse(raw).map_err(|(error, request)| match (error, request) {
        (ParseError::Refuse(status, reason), Some(request)) => Some((request, status, reason)),
        _ => None,
    })?;
    let is_request = message.status() == 0;
    if is_request {
        stamp_via(&mut message, flow);
    }
    let Some(converted) = to_rsip(&message) else {
        return Err(is_request.then(|| (Box::new(message), 400, "Bad Request")));
    };
    let key = match &converted {
        SipMessage::Request(request) => TransactionKey::from_request(request, TransactionRole::Server),
        SipMessage::Response(response) => TransactionKey::from_response(response, TransactionRole::Client),
    };
    let key = key.map_err(|_| None)?;
    Ok(Box::new((message, converted, key)))
}

async fn bind_udp(address: SocketAddr, passed: Option<std::net::UdpSocket>) -> Result<Udp, SipError> {
    let socket = match passed {
        Some(socket) => UdpSocket::from_std(socket),
        None => super::socket_of(address, socket2::Type::DGRAM).and_then(|socket| {
            socket.bind(&address.into())?;
            UdpSocket::from_std(socket.into())
        }),
    };
    let socket = socket.map_err(|e| bind_error("udp", address, &e))?;
    // A burst of INVITEs must wait in the kernel rather than be lost; where it may not, the default has to do.
    drop(socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20));
    let socket = Arc::new(socket);
    let local = socket.local_addr().map_err(|e| bind_error("udp", address, &e))?;
    let conn = UdpConnection::from_socket(socket.clone(), None, None)
        .await
        .map_err(|_| bind_error("udp", address, &std::io::Error::other("no local address")))?;
    Ok(Udp { socket, conn: SipConnection::Udp(conn), local })
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

/// RFC 3261 §18.2.1 and RFC 3581: where the response goes, written into the top Via.
fn stamp_via(message: &mut Message, flow: Flow) {
    let Some((_, value)) = message.headers.iter_mut().find(|(name, _)| name == "Via") else { return };
    let (top, others) = {
        let values = split_list(value);
        let Some((top, others)) = values.split_first() else { return };
        ((*top).to_owned(), others.join(", "))
    };
    let (sent_by, parameters) = top.split_once(';').unwrap_or((&top, ""));
    let host = sent_by.rsplit(char::is_whitespace).next().unwrap_or_default();
    let ip = flow.peer.ip();
    let same = Uri::parse(&format!("sip:{host}")).and_then(|u| u.host.parse().ok()) == Some(ip);
    let wants_port = param(parameters, "rport").is_some();
    let mut stamped = sent_by.trim().to_owned();
    for p in parameters.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        let name = p.split('=').next().unwrap_or(p).trim();
        if !name.eq_ignore_ascii_case("rport") && !name.eq_ignore_ascii_case("received") {
            stamped.extend([";", p]);
        }
    }
    if !same || wants_port {
        stamped.extend([";received=", &ip.to_string()]);
    }
    if wants_port {
        stamped.extend([";rport=", &flow.peer.port().to_string()]);
    }
    if !others.is_empty() {
        stamped.extend([", ", &others]);
    }
    *value = stamped;
}

pub(super) fn sip_addr(transport: Transport, address: SocketAddr) -> SipAddr {
    let kind = match transport {
        Transport::Udp => rsipstack::sip::Transport::Udp,
        Transport::Tcp => rsipstack::sip::Transport::Tcp,
    };
    SipAddr { r#type: Some(kind), addr: address.into() }
}

fn to_rsip(message: &Message) -> Option<SipMessage> {
    let mut headers: Vec<Header> = message
        .headers
        .iter()
        .filter(|(name, _)| name != "Content-Length")
        .map(|(name, value)| make_header(name, value.clone()))
        .collect();
    headers.push(make_header("Content-Length", message.body.len().to_string()));
    let (headers, body, version) = (Headers::from(headers), message.body.clone(), Version::V2);
    Some(match &message.start {
        Start::Request { method, uri } => SipMessage::Request(Request {
            method: method.as_str().parse().ok()?,
            uri: rsipstack::sip::parse_uri(uri).ok()?,
            version,
            headers,
            body,
        }),
        Start::Response { status, .. } => {
            let status_code = StatusCode::from(*status);
            SipMessage::Response(Response { status_code, wire_reason: None, version, headers, body })
        }
    })
}

fn from_parts(start: Start, headers: &Headers, body: &[u8]) -> Message {
    let blank = Message { start, headers: Vec::new(), body: body.to_vec() };
    headers.iter().fold(blank, |message, h| message.with(h.name(), h.value()))
}

fn from_request(request: &Request) -> Message {
    let method = Method::parse(&request.method.to_string()).unwrap_or(Method::Options);
    from_parts(Start::Request { method, uri: request.uri.to_string() }, &request.headers, &request.body)
}

fn from_response(response: &Response) -> Message {
    let reason = response.wire_reason.clone().unwrap_or_else(|| response.status_code.text().to_owned());
    let start = Start::Response { status: response.status_code.code(), reason };
    from_parts(start, &response.headers, &response.body)
}

/// There and back; used by the fuzz target.
pub(super) fn fuzz_round_trip(message: &Message) {
    match to_rsip(message) {
        Some(SipMessage::Request(r)) => {
            drop(TransactionKey::from_request(&r, TransactionRole::Server));
            drop(from_request(&r));
            drop(r.to_bytes());
        }
        Some(SipMessage::Response(r)) => {
            drop(TransactionKey::from_response(&r, TransactionRole::Client));
            drop(from_response(&r));
            drop(r.to_bytes());
        }
        None => {}
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

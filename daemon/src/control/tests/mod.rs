//! The control thread as its clients meet it, and as it meets hostile ones.

mod access;
mod document;
mod watching;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::base::{CallId, Known, ManualClock, Origin, Pii, Source, SystemClock, TurnId};
use crate::knowledge::{Document, Knowledge};
use crate::storage::{CallRecord, Direction, MediaStats, Record, Scope, Storage, Timestamp, TurnRecord};

/// Names of tokens.
static TOKENS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

struct House {
    control: Control,
    state: ControlState,
    storage: Storage,
    folder: tempfile::TempDir,
    queue: mpsc::Receiver<Order>,
}

fn house() -> House {
    let folder = tempfile::tempdir().expect("a folder");
    let (control, state, storage, queue) = start(&folder, Arc::new(SystemClock));
    House { control, state, storage, folder, queue }
}

/// A control thread on what lies in this folder.
fn start(folder: &tempfile::TempDir, clock: Arc<dyn Clock>) -> (Control, ControlState, Storage, mpsc::Receiver<Order>) {
    let storage = Storage::open(&folder.path().join("callbox.db"), Arc::clone(&clock)).expect("a database");
    let (orders, queue) = Orders::new();
    let state = ControlState {
        orders,
        readiness: Readiness::default(),
        live: LiveCalls::new(10, Arc::clone(&clock)),
        storage: storage.handle(),
        metrics: Metrics::new(Arc::clone(&clock)),
        traces: Traces::new(|call| if call == CallId(7) { vec![message()] } else { Vec::new() }),
        answers: Answers::begin(None, Arc::clone(&clock)).expect("a thread"),
        knowledge: documents(folder.path()),
        gpus: Gpus::default(),
        engines: Arc::new(Vec::new),
        clock,
        trunks: Arc::new(|| serde_json::json!({ "carrier": { "calls": 1 } })),
        recorded: Recorded::default(),
        agents: watch::channel::<Arc<[AgentCard]>>(Arc::new([card("desk")])).1,
        models: Arc::new(|| Ok(PackCard { pack: "tiny".into(), version: None, models: Vec::new() })),
    };
    let control = Control::start(config(folder, state.clone())).expect("started");
    (control, state, storage, queue)
}

/// An agent who knows when breakfast is.
fn documents(folder: &Path) -> Knowledge {
    let knowledge = Knowledge::new(folder.join("knowledge"));
    let document = Document::new("house.md", "Breakfast is served from seven.").expect("a document");
    knowledge.serve([("desk", Arc::from([document]))].into_iter());
    knowledge
}

fn card(name: &str) -> AgentCard {
    let texts = || vec!["*".to_owned()];
    let [name, persona, greeting, goodbye] = [name, "Kind.", "Hello.", "Bye."].map(str::to_owned);
    AgentCard { name, numbers: texts(), persona, facts: texts(), greeting, goodbye, transfers: texts() }
}

fn message() -> TracedMessage {
    let here = ([127, 0, 0, 1], 5060).into();
    let message = "OPTIONS sip:alice@example SIP/2.0\r\n\r\n".into();
    TracedMessage { at_us: 1, sent: true, transport: "UDP".into(), local: here, peer: here, message }
}

#[test]
fn reports_are_for_everybody_and_a_wrong_question_is_told() {
    let house = house();
    for kind in ["summary", "calls", "turns", "latency", "outcomes", "events"] {
        let (status, body) = house.tcp(&format!("/api/v1/reports/{kind}?since_s=7200"));
        let rows = serde_json::from_str::<Value>(&body).expect("JSON")["rows"].as_array().map(Vec::len);
        assert_eq!((status, rows.map(|rows| rows > 0)), (200, Some(kind == "summary" || kind == "calls")), "{body}");
    }
    assert_eq!(house.tcp("/api/v1/reports/all").0, 404);
    assert_eq!(house.tcp("/api/v1/reports/calls?since=1").0, 400);
}

#[test]
fn the_signalling_of_a_call_is_shown_where_callers_are() {
    let house = house();
    let id = CallId(7).to_string();
    let shown: Trace = serde_json::from_value(house.unix(&format!("/api/v1/calls/{id}/trace"))).expect("its form");
    assert_eq!((shown.id.as_str(), shown.messages.as_slice()), (id.as_str(), [message()].as_slice()));
    let (status, body) = house.tcp(&format!("/api/v1/calls/{id}/trace"));
    assert_eq!(status, 403, "{body}");
    assert!(!body.contains("alice"), "{body}");
}

#[test]
fn a_person_is_found_and_erased_by_number_and_who_asked_is_noted() {
    let house = house();
    house.storage.handle().record(stored(1, 1_000_000, Some(2_000_000)));
    let up = house.state.live.enter(live(2, 3_000_000));
    house.storage.handle().record(stored(2, 3_000_000, None));
    house.storage.handle().flush();
    let socket = house.folder.path().join("control.sock");
    let ask = |what: &str| {
        let (status, body) = posted(&socket, &format!("/api/v1/privacy/{what}"), r#"{"caller": "+1 (555) 0100"}"#);
        assert_eq!(status, 200, "{body}");
        body
    };
    let found = ask("show");
    assert_eq!(found["calls"].as_array().map(Vec::len), Some(2), "{found}");
    assert_eq!(found["live"][0].as_str(), Some(&*CallId(2).to_string()), "{found}");
    let erased = ask("erase");
    assert_eq!((erased["calls"].as_u64(), erased["live"].as_u64()), (Some(2), Some(1)), "{erased}");
    // The end of the one that is up, and what was said until then.
    house.storage.handle().record(stored(2, 3_000_000, Some(4_000_000)));
    drop(up);
    house.storage.handle().flush();
    assert_eq!(house.unix("/api/v1/calls")["calls"], serde_json::json!([]));

    house.storage.handle().flush();
    let looks = house.unix("/api/v1/audit");
    let actions: Vec<_> =
        looks["entries"].as_array().expect("entries").iter().map(|look| look["action"].as_str()).collect();
    assert_eq!(actions, [Some("call.list"), Some("privacy.erase"), Some("privacy.show")], "each once");
    let who = format!("uid {}", rustix::process::geteuid().as_raw());
    assert_eq!(looks["entries"][0]["who"].as_str(), Some(&*who));
    assert!(!looks.to_string().contains("0100"), "{looks}");

    let admin = house.token(Scope::Admin);
    let body = Some(r#"{"caller": "+15550100"}"#);
    assert_eq!(house.ask("POST", "/api/v1/privacy/erase", Some(&admin), body).0, 403);
    assert_eq!(house.tcp("/api/v1/audit").0, 403);
    assert_eq!(posted(&socket, "/api/v1/privacy/show", r#"{"caller": " "}"#).0, 400);
}

fn config(folder: &tempfile::TempDir, state: ControlState) -> ControlConfig {
    let http = "127.0.0.1:0".parse().expect("an address");
    let (_, certificates) = watch::channel(None);
    ControlConfig { http, socket: folder.path().join("control.sock"), certificates, show_callers: false, state }
}

impl House {
    /// As a viewer; paths that are open, as nobody.
    fn tcp(&self, path: &str) -> (u16, String) {
        let token = path.starts_with("/api/").then(|| self.token(Scope::Viewer));
        self.ask("GET", path, token.as_deref(), None)
    }

    /// Over TCP.
    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> (u16, String) {
        let mut stream = TcpStream::connect(self.control.http()).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        request(&mut stream, method, path, token, body);
        answer(stream)
    }

    /// A token of this scope.
    fn token(&self, scope: Scope) -> String {
        let name = TOKENS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let wanted = format!(r#"{{"name":"t{name}","scope":"{}","expires_s":60}}"#, scope.as_str());
        let (status, made) = posted(&self.folder.path().join("control.sock"), "/api/v1/tokens", &wanted);
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().expect("a token").to_owned()
    }

    fn unix(&self, path: &str) -> Value {
        let (status, body) = order(&self.folder.path().join("control.sock"), "GET", path);
        assert_eq!(status, 200, "{body}");
        body
    }
}

fn request(stream: &mut impl Write, method: &str, path: &str, token: Option<&str>, body: Option<&str>) {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let kind = if body.is_some() { "Content-Type: application/json\r\n" } else { "" };
    let body = body.unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: callbox\r\nConnection: close\r\n{token}{kind}");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
}

fn answer(mut stream: impl Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

fn live(id: u64, started: i64) -> LiveCall {
    LiveCall {
        id: CallId(id),
        agent: "frontdesk".into(),
        direction: Direction::Inbound,
        from: Pii::new("+15550100".into()),
        to: Pii::new("100".into()),
        codec: "PCMU".into(),
        started: Timestamp(started),
        state: LiveState::Listening,
        turns: 0,
    }
}

fn stored(id: u64, started: i64, ended: Option<i64>) -> Record {
    let LiveCall { id, agent, direction, from, to, codec, started, turns, .. } = live(id, started);
    let (answered, ended, media) = (None, ended.map(Timestamp), MediaStats::default());
    let end_reason = ended.map(|_| "caller_hangup".into());
    let call = CallRecord { id, agent, direction, from, to, codec, started, answered, ended, end_reason, turns, media };
    Record::Call(Box::new(call))
}

#[test]
fn health_follows_the_latches() {
    let house = house();
    assert_eq!(house.tcp("/health/live").0, 200);
    assert_eq!(house.tcp("/health/startup").0, 503);
    for latch in Latch::ALL {
        assert_eq!(house.tcp("/health/ready").0, if latch == Latch::Drain { 200 } else { 503 });
        house.state.readiness.ready(latch);
    }
    assert_eq!((house.tcp("/health").0, house.tcp("/health/startup").0), (200, 200));
    house.state.readiness.not_ready(Latch::Ears, "the engine is being started again");
    let (status, body) = house.tcp("/health/ready");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["waiting_for"]["engine:ears"]), (503, &"the engine is being started again".into()));
    assert_eq!(house.tcp("/health/startup").0, 200, "a start ends once");
    assert_eq!(house.tcp("/health").0, 503);
}

#[test]
fn answers_while_every_worker_is_blocked() {
    let house = house();
    let (release, blocked) = (Arc::new(std::sync::Barrier::new(3)), Arc::new(std::sync::Barrier::new(3)));
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    for _ in 0..2 {
        let (release, blocked) = (Arc::clone(&release), Arc::clone(&blocked));
        workers.spawn(async move {
            blocked.wait();
            release.wait();
        });
    }
    blocked.wait();
    let times: Vec<Duration> = (0..20)
        .map(|_| {
            let begun = SystemClock.now();
            assert_eq!(house.tcp("/health/live").0, 200);
            assert_eq!(house.tcp("/metrics").0, 200);
            SystemClock.now() - begun
        })
        .collect();
    release.wait();
    let mut sorted = times.clone();
    sorted.sort();
    // The median: other processes of a test machine may take a slice of one.
    assert!(sorted[10] < Duration::from_millis(100), "{times:?}");
}

#[test]
fn one_list_of_calls_page_by_page() {
    let house = house();
    for id in 1..=5 {
        house.state.storage.record(stored(id, id as i64 * 10, (id != 2).then_some(99)));
    }
    // Written when it was answered, and still up.
    house.state.storage.record(stored(7, 70, None));
    house.state.storage.flush();
    let entry = house.state.live.enter(live(7, 70));
    let _older = house.state.live.enter(live(6, 35));
    entry.update(|call| call.turns = 3);

    let mut seen = Vec::new();
    let mut path = "/api/v1/calls?limit=2".to_owned();
    loop {
        let page = house.unix(&path);
        for call in page["calls"].as_array().expect("calls") {
            seen.push((
                call["id"].as_str().expect("an id").to_owned(),
                call["state"].as_str().expect("a state").to_owned(),
            ));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/calls?limit=2&before={next}");
    }
    let expected =
        [(7, "listening"), (5, "ended"), (4, "ended"), (6, "listening"), (3, "ended"), (2, "lost"), (1, "ended")];
    assert_eq!(seen, expected.map(|(id, state)| (CallId(id).to_string(), state.to_owned())));
    assert_eq!(house.unix("/api/v1/calls/7")["turns"], 3);
    drop(entry);
    assert_eq!(house.unix("/api/v1/calls/7")["state"], "lost");
}

#[test]
fn tcp_shows_no_caller_and_the_socket_does() {
    let house = house();
    let _entry = house.state.live.enter(live(8, 80));
    house.state.storage.record(stored(1, 10, Some(20)));
    house.state.storage.record(Record::Turn(Box::new(TurnRecord {
        caller_text: Pii::new("swordfish".into()),
        agent_text: Pii::new("the swordfish is fresh".into()),
        heard_text: Pii::new("the swordfish".into()),
        source: Some(Source::Known(Known { entry: 3, origin: Origin::Learned, score: 0.75 })),
        model: None,
        knowledge: Vec::new(),
        timings_us: [(crate::storage::Timing::Stt, 250_000)].into(),
        ..TurnRecord::new(CallId(1), TurnId(1), Timestamp(11))
    })));
    house.state.storage.flush();
    for path in ["/api/v1/calls", "/api/v1/calls/1", "/api/v1/calls/8", "/health", "/metrics"] {
        let (status, body) = house.tcp(path);
        assert!(status == 200 || path == "/health", "{path}: {body}");
        assert!(!body.contains("5550100") && !body.contains("swordfish"), "{path}: {body}");
    }
    let call = house.unix("/api/v1/calls/1");
    assert_eq!((&call["from"], &call["state"]), (&"+15550100".into(), &"ended".into()));
    assert_eq!(call["started"], "1970-01-01T00:00:00.000Z");
    let exchange = &call["exchanges"][0];
    assert_eq!((&exchange["caller_text"], &exchange["timings_us"]["stt"]), (&"swordfish".into(), &250_000.into()));
    assert_eq!((&exchange["source"], &exchange["entry"]), (&"learned".into(), &3.into()));
    assert_eq!(exchange["score"], 0.75);
    let mode = std::fs::metadata(house.folder.path().join("control.sock")).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn mistakes_are_problems_in_one_sentence() {
    let house = house();
    for (path, status) in [
        ("/nowhere", 404),
        ("/api/v1/calls/1", 404),
        ("/api/v1/calls/xyz", 400),
        ("/api/v1/calls?limit=many", 400),
        ("/api/v1/calls?limt=3", 400),
        ("/api/v1/calls?before=yesterday", 400),
        ("/api/v1/calls?since=yesterday", 400),
        ("/api/v1/calls?limit=501", 400),
        ("/api/v1/agents/nobody", 404),
    ] {
        let (found, body) = house.tcp(path);
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((found, &problem["status"]), (status, &status.into()), "{path}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{path}: {body}");
    }
    let mut stream = TcpStream::connect(house.control.http()).expect("connected");
    stream.write_all(b"DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    assert_eq!(answer(stream).0, 405);
}

#[test]
fn hostile_clients_lose_their_connection_and_cost_nobody_else_an_answer() {
    let house = house();
    // Half a request each, and never the rest.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(house.control.http()).expect("connected");
            stream.write_all(b"GET /health HTTP/1.1\r\nX: ").expect("sent");
            stream
        })
        .collect();
    assert_eq!(house.tcp("/health/live").0, 200);
    let mut huge = TcpStream::connect(house.control.http()).expect("connected");
    let head = format!("GET /health/live HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    // The server closes before it has read all of it, so sending may fail, and reading may end in a reset.
    drop(huge.write_all(head.as_bytes()));
    let mut reply = Vec::new();
    drop(huge.read_to_end(&mut reply));
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&reply));
    for garbage in
        [&b"\0\xff\x16\x03\x01"[..], b"GET / HTTP/9.9\r\n\r\n", b"GET http:// HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(house.control.http()).expect("connected");
        stream.write_all(garbage).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        drop(stream.read_to_end(&mut reply));
    }
    assert_eq!(house.tcp("/health/live").0, 200);
    // They are thrown out in the end: the read comes back long before its own time-out.
    let mut first = slow.into_iter().next().expect("one");
    first.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    first.read_to_end(&mut reply).expect("closed by the server");
}

#[test]
fn only_one_daemon_has_the_socket_and_a_dead_one_does_not_keep_it() {
    let House { control, state, folder, storage: _storage, queue: _queue } = house();
    let second = Control::start(config(&folder, state.clone())).err().expect("refused").to_string();
    assert!(second.contains("is running already"), "{second}");
    let path = folder.path().join("control.sock");
    drop(control);
    assert!(!path.exists(), "a socket is removed at the end");
    drop(UnixListener::bind(&path).expect("left behind by a killed daemon"));
    let third = Control::start(config(&folder, state.clone())).expect("a dead socket is replaced");
    let taken = ControlConfig {
        http: third.http(),
        socket: folder.path().join("other.sock"),
        certificates: watch::channel(None).1,
        show_callers: false,
        state: state.clone(),
    };
    let fourth = Control::start(taken).err().expect("refused").to_string();
    assert!(fourth.starts_with("http.listen: 127.0.0.1:"), "{fourth}");
    drop(third);
    std::fs::write(&path, "precious").expect("written");
    assert!(Control::start(config(&folder, state)).is_err());
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
}

/// What the daemon answers to a method and a path on its Unix socket.
fn order(socket: &Path, method: &str, path: &str) -> (u16, Value) {
    sent(socket, method, path, None)
}

fn posted(socket: &Path, path: &str, body: &str) -> (u16, Value) {
    sent(socket, "POST", path, Some(body))
}

fn sent(socket: &Path, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
    let (status, body) = raw(socket, method, path, body);
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn raw(socket: &Path, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("connected");
    request(&mut stream, method, path, None, body);
    answer(stream)
}

fn adapter(name: &str) -> AdapterCard {
    let (name, agents) = (name.to_owned(), vec!["desk".to_owned()]);
    AdapterCard { name, rank: 8, base: None, bytes: 1, loaded: true, sha256: Some("ab".into()), agents }
}

#[test]
fn orders_are_taken_and_wrong_ones_are_told() {
    let House { control: _control, state, folder, mut queue, storage: _storage } = house();
    let socket = folder.path().join("control.sock");
    let orders = state.orders.clone();
    let daemon = std::thread::spawn(move || {
        let mut limits = Vec::new();
        while let Some(order) = queue.blocking_recv() {
            match order {
                Order::Drain { limit, done } => {
                    limits.push(limit);
                    orders.drain_is(DrainStatus { state: DrainState::Waiting, calls: 2, seconds_left: Some(9) });
                    done.send(()).expect("waited for");
                }
                Order::Resume { done } => {
                    orders.drain_is(DrainStatus::default());
                    done.send(()).expect("waited for");
                }
                Order::Call { call, done } => {
                    assert_eq!((call.to.reveal().as_str(), call.agent.as_str()), ("+4930123", "desk"));
                    done.send(Err(NotCalled::NotReached("the line is busy".into()))).expect("waited for");
                }
                Order::LogLevel { wanted, done } => {
                    done.send(wanted.unwrap_or_default()).expect("waited for");
                }
                Order::Adapters { done } => {
                    done.send(Ok(vec![adapter("desk")])).expect("waited for");
                }
                Order::LoadAdapter { name, done } => {
                    done.send(Err(NotAdapted::Wrong(format!("{name} does not fit")))).expect("waited for");
                }
                Order::UnloadAdapter { name, done } => {
                    done.send(Err(NotAdapted::Missing(format!("no {name}")))).expect("waited for");
                }
                Order::Reload { done } => {
                    done.send(Err(ReloadError::Configuration("x.toml:3: wrong".into()))).expect("waited for");
                    return limits;
                }
            }
        }
        limits
    });
    let (status, drain) = order(&socket, "POST", "/api/v1/drain?limit_s=9");
    assert_eq!((status, &drain["state"], &drain["calls"]), (200, &"waiting".into(), &2.into()));
    assert_eq!(order(&socket, "POST", "/api/v1/drain").0, 200);
    assert_eq!(order(&socket, "POST", "/api/v1/drain?limit_s=99999999").0, 400);
    assert_eq!(order(&socket, "POST", "/api/v1/drain?limt_s=9").0, 400);
    assert_eq!(order(&socket, "GET", "/api/v1/drain").1["seconds_left"], 9);
    let (status, drain) = order(&socket, "DELETE", "/api/v1/drain");
    assert_eq!((status, &drain["state"], drain.get("seconds_left")), (200, &"open".into(), None));
    let body = r#"{"to":"+4930123","agent":"desk"}"#;
    let (status, problem) = posted(&socket, "/api/v1/calls", body);
    assert_eq!((status, &problem["detail"]), (502, &"the line is busy".into()));
    assert_eq!(posted(&socket, "/api/v1/calls", r#"{"to":"+4930123"}"#).0, 400, "no agent");
    let (status, adapters) = order(&socket, "GET", "/api/v1/adapters");
    assert_eq!((status, &adapters["adapters"][0]["name"]), (200, &"desk".into()));
    let (status, problem) = order(&socket, "PUT", "/api/v1/adapters/desk");
    assert_eq!((status, &problem["detail"]), (422, &"desk does not fit".into()));
    assert_eq!(order(&socket, "DELETE", "/api/v1/adapters/desk").0, 404);
    let level = sent(&socket, "PUT", "/api/v1/log-level", Some(r#"{"level":"debug"}"#));
    assert_eq!(level, (200, serde_json::json!({ "level": "debug" })));
    assert_eq!(sent(&socket, "PUT", "/api/v1/log-level", Some(r#"{"level":"loud"}"#)).0, 400);
    assert_eq!(order(&socket, "GET", "/api/v1/log-level"), (200, serde_json::json!({ "level": "info" })));
    let (status, problem) = order(&socket, "POST", "/api/v1/reload");
    assert_eq!((status, &problem["detail"]), (422, &"x.toml:3: wrong".into()));
    assert_eq!(daemon.join().expect("ended"), [Some(Duration::from_secs(9)), None]);
    assert_eq!(order(&socket, "POST", "/api/v1/drain").0, 503, "nobody takes orders any more");
}

#[test]
fn known_answers_are_listed_added_and_taken_out() {
    let house = house();
    let rules = crate::cache::Rules {
        agent: "desk".into(),
        own: std::collections::BTreeSet::new(),
        prompt: String::new(),
        mind: String::new(),
        voice: String::new(),
        speaker: None,
        threshold: 0.5,
        ttl: Duration::from_secs(60),
        most: 9,
        learn: false,
        faq: vec![("When is breakfast?".into(), "From seven.".into()), ("Is there a pool?".into(), "Yes.".into())],
    };
    house.state.answers.flush();
    house.state.answers.serve(vec![rules]);
    let page = house.unix("/api/v1/cache?agent=desk&limit=1");
    assert_eq!((&page["entries"][0]["question"], &page["next"]), (&"When is breakfast?".into(), &1.into()));
    let page = house.unix("/api/v1/cache?after=1&origin=faq");
    assert_eq!((&page["entries"][0]["answer"], &page["next"]), (&"Yes.".into(), &Value::Null));
    assert_eq!(house.unix("/api/v1/cache/2")["ready"], false);
    assert_eq!(house.unix("/api/v1/cache/stats")["agents"][0]["faq"], 2);
    for path in ["/api/v1/cache", "/api/v1/cache/1"] {
        let (status, body) = house.tcp(path);
        assert!(status == 403 && !body.contains("breakfast"), "{path}: {status} {body}");
    }
    assert_eq!(house.tcp("/api/v1/cache/stats").0, 200);
    let socket = house.folder.path().join("control.sock");
    let order =
        |method: &str, path: &str, body: &str| raw(&socket, method, path, Some(body).filter(|body| !body.is_empty()));
    let wanted = r#"{"agent": "desk", "question": "Is there a sauna?", "answer": "Yes."}"#;
    let (status, body) = order("POST", "/api/v1/cache", wanted);
    assert_eq!((status, body.as_str()), (201, r#"{"id":3}"#));
    assert_eq!(order("POST", "/api/v1/cache", &wanted.replace("desk", "night")).0, 422);
    assert_eq!(order("POST", "/api/v1/cache", "{}").0, 400);
    assert_eq!(order("POST", "/api/v1/cache/warm?agent=desk", ""), (200, r#"{"rendering":2}"#.to_owned()));
    assert_eq!(order("DELETE", "/api/v1/cache/3", "").0, 200);
    assert_eq!(order("DELETE", "/api/v1/cache/3", "").0, 404);
    assert_eq!(order("DELETE", "/api/v1/cache?origin=best", "").0, 400);
    assert_eq!(order("DELETE", "/api/v1/cache?agent=desk", ""), (200, r#"{"removed":2}"#.to_owned()));
}

#[test]
fn a_self_test_that_fails_is_told_to_probes_for_a_while_and_closes_no_latch() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Arc::new(ManualClock::default()));
    let (control, state, storage, queue) = start(&folder, Arc::clone(&clock) as Arc<dyn Clock>);
    let house = House { control, state, storage, folder, queue };
    Latch::ALL.into_iter().for_each(|latch| house.state.readiness.ready(latch));
    let socket = house.folder.path().join("control.sock");
    let tell = |body: &str| posted(&socket, "/api/v1/selftest", body).0;
    assert_eq!((house.tcp("/health/ready").0, &house.unix("/health")["parts"]["selftest"]), (200, &Value::Null));

    assert_eq!(tell(r#"{"passed": false, "why": "no answer", "good_for_s": 180}"#), 200);
    let (status, body) = house.tcp("/health/ready");
    assert!(status == 503 && body.contains("the self-test call of 0 s ago failed: no answer"), "{status} {body}");
    assert_eq!((house.tcp("/health").0, house.tcp("/health/startup").0, house.tcp("/health/live").0), (503, 200, 200));
    assert!(house.state.readiness.is_ready(), "calls are taken all the same");
    assert!(house.tcp("/metrics").1.contains("callbox_selftest_passed 0\n"));

    assert_eq!(tell(r#"{"passed": true, "voice_to_voice_ms": 750, "good_for_s": 180}"#), 200);
    assert_eq!((house.tcp("/health/ready").0, &house.unix("/health")["parts"]["selftest"]), (200, &"ready".into()));
    assert!(house.tcp("/metrics").1.contains("callbox_selftest_voice_to_voice_seconds 0.75\n"));
    clock.advance(Duration::from_secs(180));
    assert_eq!(house.unix("/health")["parts"]["selftest"], Value::Null);
    assert!(!house.tcp("/metrics").1.contains("callbox_selftest_"));

    for (wrong, status) in [
        (r#"{"passed": true, "good_for_s": 0}"#, 422),
        (r#"{"passed": true, "good_for_s": 90000}"#, 422),
        (r#"{"passed": false, "why": "a\nb", "good_for_s": 9}"#, 422),
        (r#"{"passed": true}"#, 400),
    ] {
        assert_eq!(tell(wrong), status, "{wrong}");
    }
    let token = house.token(Scope::Admin);
    assert_eq!(house.ask("POST", "/api/v1/selftest", Some(&token), Some("{}")).0, 403, "on the control socket only");
}

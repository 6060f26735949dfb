//! `callbox` against a control thread: what it prints, and its exit codes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use callbox::base::{CallId, Clock, Pii, SystemClock, TurnId};
use callbox::cache::Answers;
use callbox::control::{
    AgentCard, Control, ControlConfig, ControlState, Latch, LiveCall, LiveCalls, LiveState, Orders, Readiness,
    Recorded, Traces,
};
use callbox::storage::{Direction, Record, Storage, Timestamp, Timing, TurnRecord};
use callbox::telemetry::Metrics;
use tokio::sync::watch;

/// Runs it: exit code, standard output, standard error.
fn callbox(arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_callbox")).args(arguments).output().expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (done.status.code().expect("a code"), text(done.stdout), text(done.stderr))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn asks_a_running_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let storage = Storage::open(&folder.path().join("callbox.db"), Arc::clone(&clock)).expect("a database");
    let state = ControlState {
        readiness: Readiness::default(),
        live: LiveCalls::new(10, Arc::clone(&clock)),
        storage: storage.handle(),
        metrics: Metrics::new(Arc::clone(&clock)),
        orders: Orders::new().0,
        traces: Traces::new(|_| Vec::new()),
        trunks: Arc::new(|| serde_json::json!({})),
        agents: watch::channel::<Arc<[AgentCard]>>(Arc::new([])).1,
        models: Arc::new(|| Err("there are none".to_owned())),
        recorded: Recorded::default(),
        answers: Answers::begin(None, Arc::clone(&clock)).expect("a thread"),
        knowledge: callbox::knowledge::Knowledge::new(folder.path().join("knowledge")),
        clock,
        gpus: callbox::gpu::Gpus::default(),
        engines: Arc::new(Vec::new),
    };
    let socket = folder.path().join("control.sock");
    let http = "127.0.0.1:0".parse().expect("an address");
    let certificates = watch::channel(None).1;
    let config =
        ControlConfig { http, socket: socket.clone(), certificates, show_callers: false, state: state.clone() };
    let control = Control::start(config).expect("started");
    let socket = path(&socket);

    let (code, out, _) = callbox(&["health", "--socket", socket]);
    assert_eq!(code, 1);
    assert!(out.contains("not ready") && out.contains("engine:mind    starting"), "{out}");
    assert_eq!(callbox(&["health", "--wait", "1", "--socket", socket]).0, 1, "it waits in vain");
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_callbox"))
        .args(["health", "--wait", "60", "--socket", socket])
        .spawn()
        .expect("started");
    Latch::ALL.into_iter().for_each(|latch| state.readiness.ready(latch));
    assert!(waiting.wait().expect("ended").success(), "it waits until calls are answered");
    let (code, out, _) = callbox(&["health", "--json", "--socket", socket]);
    assert_eq!(
        (code, serde_json::from_str::<serde_json::Value>(&out).expect("JSON")["status"].as_str()),
        (0, Some("ready"))
    );

    let (code, token, _) = callbox(&["token", "create", "alice", "--scope", "operator", "--socket", socket]);
    assert!(code == 0 && token.starts_with("cbx_"), "{token}");
    let (code, _, said) = callbox(&["token", "create", "alice", "--socket", socket]);
    assert!(code == 1 && said.contains("revoke it first"), "{said}");
    let (_, listed, _) = callbox(&["token", "list", "--socket", socket]);
    assert!(listed.contains("alice") && listed.contains("operator") && !listed.contains(token.trim()), "{listed}");
    assert_eq!(callbox(&["token", "revoke", "alice", "--socket", socket]).1, "revoked: alice\n");
    state.storage.flush();
    let (_, audit, _) = callbox(&["audit", "--limit", "1", "--socket", socket]);
    assert!(audit.contains("DELETE /api/v1/tokens/{name}") && audit.contains("more: --before "), "{audit}");

    let _entry = state.live.enter(LiveCall {
        id: CallId(0xab),
        agent: "frontdesk".into(),
        direction: Direction::Inbound,
        from: Pii::new("+15550100\u{1b}[2J".into()),
        to: Pii::new("100".into()),
        codec: "PCMU".into(),
        started: Timestamp(0),
        state: LiveState::Speaking,
        turns: 1,
    });
    state.storage.record(Record::Turn(Box::new(TurnRecord {
        caller_text: Pii::new("when do you open".into()),
        agent_text: Pii::new("At nine. On Sunday at ten.".into()),
        heard_text: Pii::new("At nine.".into()),
        interrupted: true,
        timings_us: [(Timing::Prefill, 80_500), (Timing::Endpoint, 300_000)].into(),
        ..TurnRecord::new(CallId(0xab), TurnId(1), Timestamp(0))
    })));
    state.storage.flush();
    let (code, out, _) = callbox(&["call", "list", "--socket", socket]);
    assert_eq!(code, 0);
    assert!(
        out.contains("00000000000000ab  1970-01-01T00:00:00.000Z  speaking   frontdesk     +15550100\u{fffd}[2J"),
        "{out}"
    );
    let (code, out, _) = callbox(&["call", "show", "ab", "--socket", socket]);
    assert_eq!(code, 0);
    assert!(
        out.contains(
            "[1] caller  when do you open\n[1] agent   At nine.  (interrupted)\n    prefill 80 ms, endpoint 300 ms\n"
        ),
        "{out}"
    );
    let (code, _, error) = callbox(&["call", "show", "99", "--socket", socket]);
    assert_eq!((code, error.as_str()), (1, "callbox: no call 0000000000000099 is known\n"));

    drop(control);
    let (code, _, error) = callbox(&["call", "list", "--socket", socket]);
    assert_eq!((code, error.lines().count()), (1, 1));
    assert!(error.starts_with("callbox: no callboxd is running at "), "{error}");
}

#[test]
fn exit_codes_tell_usage_from_configuration_from_failure() {
    assert_eq!(callbox(&["helth"]).0, 2);
    assert_eq!(callbox(&["call", "show", "no-id"]).0, 2);
    assert_eq!(callbox(&["call", "list", "--before", "yesterday"]).0, 2);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbox.toml");
    std::fs::write(&file, "[sip]\nudpp = 1").expect("written");
    let (code, _, error) = callbox(&["check", "--config", path(&file)]);
    assert_eq!(code, 78);
    assert!(error.ends_with("callbox.toml:2: unknown key `udpp` in [sip]; did you mean `udp`?\n"), "{error}");
    assert_eq!(callbox(&["health", "--config", path(&file)]).0, 78);
    assert_eq!(callbox(&["check", "--config", "/nonexistent.toml"]).0, 78);
    std::fs::write(&file, "[http]\nsocket = \"none/control.sock\"\nlisten = \"192.0.2.1:1\"").expect("written");
    let (code, out, _) = callbox(&["check", "--config", path(&file)]);
    assert_eq!(code, 1);
    assert!(out.contains("http.listen: TCP 192.0.2.1:1 is no address of this machine; change the key\n"), "{out}");
    assert!(out.contains("is missing: run `callbox models pull starter`\n"), "{out}");
    assert!(out.contains(&format!("http.socket: the folder {}/none cannot be used", folder.path().display())), "{out}");
}

//! The engine room without an engine, and with one that dies.

use std::time::Duration;

use callbox_wire::frame::{Decoder, encode};
use callbox_wire::{
    ChatMessage, ChatRole, ClauseId, Event, Failure, Pcm, Request, Role, RoleInfo, Sampling, TurnId, VERSION,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::adapters::Adapters;
use super::link::{Link, LinkError};
use super::pulse::{Pulse, Queueing, Schedstat};
use super::*;

fn script() -> Script {
    toml::from_str("answer = [{ heard = 'when is breakfast', say = 'From seven to ten.' }]\nfirst_token_ms = 400")
        .expect("a script")
}

fn think(call: CallId, turn: TurnId) -> Request {
    let content = "when is breakfast".to_owned();
    let messages = vec![ChatMessage { role: ChatRole::User, content }];
    Request::Think { call, turn, messages, sampling: Sampling::default() }
}

async fn event(port: &mut Port) -> Event {
    loop {
        match port.recv().await.expect("attached") {
            News::Event(event) => return event,
            News::Ready | News::Lost => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_scripted_turn_is_thought_and_spoken_within_its_credit() {
    let engine = Engine::start(ScriptedEngine::new(script()), Vec::new());
    engine.ready(Duration::from_secs(1)).await.expect("ready");
    let call = CallId(7);
    let mut port = engine.attach(call);
    port.send(think(call, TurnId(1))).expect("room");
    let mut answer = String::new();
    while let Event::Token { text, .. } = event(&mut port).await {
        answer += &text;
    }
    assert_eq!(answer, "From seven to ten.");

    let speak = |credit| Request::Speak {
        call,
        turn: TurnId(2),
        clause: ClauseId(0),
        text: answer,
        rate: 8000,
        credit,
        voice: None,
    };
    port.send(speak(10)).expect("room");
    for _ in 0..10 {
        assert!(matches!(event(&mut port).await, Event::Audio { pcm, .. } if pcm.0.len() == 160));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(port.try_recv(), None, "no frame beyond the credit");
    port.send(Request::Grant { call, turn: TurnId(2), frames: 100 }).expect("room");
    while !matches!(event(&mut port).await, Event::Spoken { frames: 54, .. }) {}

    drop(port);
    assert_eq!(engine.attached(), 0);
    engine.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_cancelled_turn_arrives() {
    let engine = Engine::start(ScriptedEngine::new(script()), Vec::new());
    engine.ready(Duration::from_secs(1)).await.expect("ready");
    let call = CallId(7);
    let mut port = engine.attach(call);
    port.send(think(call, TurnId(1))).expect("room");
    port.send(Request::Cancel { call, turn: TurnId(1) }).expect("room");
    port.send(Request::Hear { call, pcm: Pcm(vec![9000; 512]) }).expect("room");
    assert!(matches!(event(&mut port).await, Event::Activity { at: 512, speech, .. } if speech > 0.9));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(port.try_recv(), None);
}

/// The other end of a link, played by the test.
async fn say(stream: &mut UnixStream, event: &Event) {
    let mut bytes = Vec::new();
    encode(event, &mut bytes).expect("short");
    stream.write_all(&bytes).await.expect("the link reads");
}

fn ready(version: u16) -> Event {
    Event::Ready { version, roles: vec![RoleInfo { role: Role::Ears, model: "m".into(), load_ms: 1, warmup_ms: 1 }] }
}

#[tokio::test(start_paused = true)]
async fn an_engine_of_another_release_is_refused() {
    let (near, mut far) = UnixStream::pair().expect("sockets");
    say(&mut far, &ready(VERSION + 1)).await;
    assert!(matches!(Link::greet(near, Duration::from_secs(1)).await, Err(LinkError::Version(_))));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stops_answering_is_noticed() {
    let (near, mut far) = UnixStream::pair().expect("sockets");
    say(&mut far, &ready(VERSION)).await;
    let (link, roles) = Link::greet(near, Duration::from_secs(1)).await.expect("greeted");
    assert_eq!(roles.len(), 1);
    let (_requests, mut queue) = mpsc::channel(8);
    let (beat, patience) = (Duration::from_secs(1), Duration::from_secs(5));
    let answering = async {
        let (mut decoder, mut buffer, mut answers) = (Decoder::default(), [0; 4096], 0);
        loop {
            let len = far.read(&mut buffer).await.expect("the link writes");
            if len == 0 {
                return;
            }
            decoder.push(&buffer[..len]);
            while let Some(request) = decoder.pop::<Request>().expect("well formed") {
                if let Request::Ping { nonce } = request
                    && answers < 3
                {
                    answers += 1;
                    say(&mut far, &Event::Pong { nonce }).await;
                }
            }
        }
    };
    let started = tokio::time::Instant::now();
    let carrying = link.carry(&mut queue, |_| (), Pulse::new(beat, Box::new(Crowded(0.0))), patience);
    tokio::select! {
        error = carrying => assert!(matches!(error, LinkError::Silent(_)), "{error}"),
        () = answering => unreachable!("the link stays open"),
    }
    assert!(started.elapsed() >= patience + 2 * beat, "three answers kept it alive: {:?}", started.elapsed());

    // One that does not even read, while calls go on speaking to it.
    let (near, mut far) = UnixStream::pair().expect("sockets");
    say(&mut far, &ready(VERSION)).await;
    let (link, _) = Link::greet(near, Duration::from_secs(1)).await.expect("greeted");
    let (requests, mut queue) = mpsc::channel(8);
    let speaking =
        async { while requests.send(Request::Hear { call: CallId(7), pcm: Pcm(vec![9000; 512]) }).await.is_ok() {} };
    let pulse = Pulse::new(beat, Box::new(Crowded(0.0)));
    let carrying = timeout(10 * patience, link.carry(&mut queue, |_| (), pulse, patience));
    tokio::select! {
        end = carrying => assert!(matches!(end, Ok(LinkError::Silent(_))), "{end:?}"),
        () = speaking => unreachable!("the link stays open"),
    }
}

/// An engine that waits for a processor this share of each second.
struct Crowded(f64);

impl Queueing for Crowded {
    fn waited(&mut self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_waits_for_a_processor_is_waited_for() {
    let silent_for = async |share: f64| {
        let (near, mut far) = UnixStream::pair().expect("sockets");
        say(&mut far, &ready(VERSION)).await;
        let (link, _) = Link::greet(near, Duration::from_secs(1)).await.expect("greeted");
        let (_requests, mut queue) = mpsc::channel(8);
        let pulse = Pulse::new(Duration::from_secs(1), Box::new(Crowded(share)));
        let started = tokio::time::Instant::now();
        let end = link.carry(&mut queue, |_| (), pulse, Duration::from_secs(5)).await;
        assert!(matches!(end, LinkError::Silent(_)), "{end}");
        started.elapsed().as_secs()
    };
    assert_eq!([silent_for(0.0).await, silent_for(0.5).await, silent_for(0.9).await], [5, 10, 50]);
}

#[test]
fn the_kernel_tells_of_every_thread() {
    let mut own = Schedstat::of(std::process::id().try_into().ok());
    assert!(own.is_told(), "this kernel keeps no schedstat: busy engines are taken for hung ones");
    assert!(own.waited() < Duration::from_secs(60));
    assert!(!Schedstat::of(None).is_told());
}

#[tokio::test]
async fn a_program_that_cannot_start_is_one_sentence_and_calls_hear_of_it() {
    let launch = Launch {
        program: "/nonexistent/callbox-engine".into(),
        arguments: Vec::new(),
        environment: Vec::new(),
        socket: std::env::temp_dir().join("callbox-no-engine.sock"),
        outlives: false,
    };
    let engine = Engine::start(EngineProcess::new(launch, RestartPolicy::default()), Vec::new());
    let mut port = engine.attach(CallId(1));
    let reason = engine.ready(Duration::from_secs(5)).await.expect_err("there is no program");
    assert!(reason.starts_with("/nonexistent/callbox-engine cannot be started"), "{reason}");
    assert_eq!(port.recv().await, Some(News::Lost));
    engine.stop().await;
}

fn scripted() -> Vec<Placed> {
    vec![(Place { roles: Role::ALL.into(), ..Place::default() }, Box::new(ScriptedEngine::new(script())))]
}

fn files(name: &str) -> AdapterFiles {
    AdapterFiles { name: name.into(), folder: "/adapters".into(), sha256: format!("of {name}") }
}

#[tokio::test(start_paused = true)]
async fn adapters_that_are_wanted_are_loaded_first_and_one_that_does_not_fit_keeps_none_back() {
    let (near, mut far) = UnixStream::pair().expect("sockets");
    say(&mut far, &ready(VERSION)).await;
    let (mut link, _) = Link::greet(near, Duration::from_secs(1)).await.expect("greeted");
    let (call, turn) = (CallId(1), TurnId(0));
    let (role, failure, reason) = (Role::Mind, Failure::Invalid, "it does not fit".to_owned());
    say(&mut far, &Event::Failed { call, turn, role, failure, reason }).await;
    let info = AdapterInfo { name: "right".into(), sha256: "of right".into(), rank: 8, layers: 1, bytes: 1 };
    say(&mut far, &Event::Adapters { call, turn, adapters: vec![info.clone()] }).await;
    let adapters = Adapters::wanting(vec![files("wrong"), files("right")]);
    link.adapt(&adapters, Duration::from_secs(1)).await.expect("both were answered");
    assert_eq!(adapters.loaded(&[0]), [info]);
    let silent = link.adapt(&adapters, Duration::from_secs(1)).await;
    assert!(matches!(silent, Err(LinkError::Silent(_))), "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn adapters_come_and_go_while_an_engine_serves() {
    let engine = Engine::of(scripted(), Vec::new(), vec![files("a")]);
    engine.ready(Duration::from_secs(5)).await.expect("ready");
    let names = || engine.adapters().into_iter().map(|info| info.name).collect::<Vec<_>>();
    engine.load_adapter(files("b")).await.expect("loaded");
    assert_eq!(names(), ["a", "b"]);
    engine.drop_adapter("a").await.expect("dropped");
    assert_eq!(names(), ["b"]);
    let gone = engine.drop_adapter("a").await;
    assert!(matches!(&gone, Err(NotDone::Wrong(why)) if why.contains("no adapter a")), "{gone:?}");
    let (call, turn, messages) = (CallId(7), TurnId(1), Vec::new());
    let mut port = engine.attach(call);
    let think = Request::ThinkWith { adapter: "b".into(), call, turn, messages, sampling: Box::default() };
    port.send(think).expect("room");
    assert!(matches!(event(&mut port).await, Event::Failed { failure: Failure::Invalid, .. }), "nothing was asked");
    engine.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_not_there_is_no_fault_of_what_it_was_asked() {
    let engine = Engine::start(ScriptedEngine::new(script()), Vec::new());
    let early = engine.load_adapter(files("a")).await;
    let sentence = "the engine is not ready; try again when `callbox health` says ready";
    assert_eq!(early, Err(NotDone::NotNow(sentence.into())));
    engine.ready(Duration::from_secs(5)).await.expect("ready");
    assert_eq!(engine.load_adapter(files("a")).await, Ok(()));
}

fn place(name: &str, rank: u8, roles: &[Role]) -> Place {
    Place { name: name.into(), card: None, rank, roles: roles.into() }
}

fn infos(roles: &[Role]) -> Vec<RoleInfo> {
    roles.iter().map(|role| RoleInfo { role: *role, model: "m".into(), load_ms: 1, warmup_ms: 1 }).collect()
}

/// What an engine is asked for, and by whom.
fn asked(queue: &mut mpsc::Receiver<Request>) -> Vec<(u64, Option<Role>)> {
    std::iter::from_fn(|| queue.try_recv().ok())
        .map(|request| (request.call().map_or(0, |call| call.0), request.role()))
        .collect()
}

fn calls(fleet: &Fleet) -> Vec<usize> {
    fleet.reports().iter().map(|report| report.calls).collect()
}

#[test]
fn a_card_that_dies_hands_its_calls_to_the_others_and_the_processor_takes_those_of_the_last() {
    let places = [place("gpu0", 0, &Role::ALL), place("gpu1", 0, &Role::ALL), place("cpu", 1, &Role::ALL)];
    let (fleet, mut queues) = Fleet::new(places.into());
    let mut early = fleet.attach(CallId(1));
    assert!(!early.was_served() && early.send(think(CallId(1), TurnId(1))).is_ok(), "lost, as nobody is there");
    (0..3).for_each(|engine| fleet.ready(engine, infos(&Role::ALL)));
    assert_eq!((early.try_recv(), early.try_recv()), (Some(News::Ready), None));
    let mut ports: Vec<Port> = (2..=4).map(|call| fleet.attach(CallId(call))).collect();
    assert!(ports.iter().all(Port::was_served));
    let own = fleet.attach(CallId(u64::MAX));
    assert_eq!(calls(&fleet), [2, 2, 0], "spread over the cards; the daemon's own work is no call");
    drop(own);
    asked(&mut queues[0]);

    fleet.lost(0, "it fell off the bus".into());
    assert_eq!(calls(&fleet), [0, 4, 0]);
    assert!(matches!(*fleet.state().borrow(), EngineState::Ready(_)));
    let news = |port: &mut Port| std::iter::from_fn(|| port.try_recv()).collect::<Vec<_>>();
    let told: Vec<_> = std::iter::once(&mut early).chain(&mut ports).map(news).collect();
    let moved = told.iter().filter(|told| **told == [News::Lost, News::Ready]).count();
    assert_eq!((moved, told.iter().filter(|told| told.is_empty()).count()), (2, 2), "{told:?}");

    fleet.lost(1, "so did this".into());
    assert_eq!(calls(&fleet), [0, 0, 4]);
    asked(&mut queues[2]);
    early.send(think(CallId(1), TurnId(2))).expect("room");
    assert_eq!(asked(&mut queues[2]), [(1, Some(Role::Mind))]);
    fleet.event(0, Event::Token { call: CallId(1), turn: TurnId(1), text: "late".into() });
    assert_eq!(news(&mut early), [News::Lost, News::Ready], "nothing of an engine that it has left");

    fleet.ready(0, infos(&Role::ALL));
    assert_eq!(calls(&fleet), [0, 0, 4], "whoever sits, stays");
    drop(fleet.attach(CallId(5)));
    assert_eq!(asked(&mut queues[0]), [(5, None)], "a new call takes the card, and is forgotten there");
    fleet.lost(0, "again".into());
    fleet.lost(2, "and the processor".into());
    assert!(matches!(&*fleet.state().borrow(), EngineState::Lost { times: 4, reason } if reason.contains("so did")));
    assert_eq!(news(&mut early), [News::Lost]);
}

#[test]
fn roles_on_two_cards_serve_one_call_and_it_loses_both_together() {
    let (thinks, speaks) = ([Role::Mind], [Role::Ears, Role::Voice]);
    let places = [place("gpu0", 0, &thinks), place("gpu1", 0, &speaks), place("cpu", 1, &[Role::Mind, Role::Embed])];
    let (fleet, mut queues) = Fleet::new(places.into());
    fleet.ready(0, infos(&thinks));
    fleet.ready(2, infos(&[Role::Mind, Role::Embed]));
    assert_eq!(*fleet.state().borrow(), EngineState::Starting, "there are no ears yet");
    let mut port = fleet.attach(CallId(1));
    fleet.ready(1, infos(&speaks));
    assert_eq!(port.try_recv(), Some(News::Ready));
    for request in [
        Request::Listen { call: CallId(1) },
        think(CallId(1), TurnId(1)),
        Request::Embed { call: CallId(1), turn: TurnId(1), text: String::new(), urgent: true },
        Request::Cancel { call: CallId(1), turn: TurnId(1) },
    ] {
        port.send(request).expect("room");
    }
    assert_eq!(asked(&mut queues[0]), [(1, Some(Role::Mind)), (1, None)]);
    assert_eq!(asked(&mut queues[1]), [(1, Some(Role::Ears)), (1, None)]);
    assert_eq!(asked(&mut queues[2]), [(1, Some(Role::Embed)), (1, None)]);

    fleet.lost(0, "gone".into());
    assert_eq!((port.try_recv(), port.try_recv(), port.try_recv()), (Some(News::Lost), Some(News::Ready), None));
    assert_eq!(asked(&mut queues[1]), [(1, None)], "the ears forget what they heard: they will hear it again");
    port.send(think(CallId(1), TurnId(2))).expect("room");
    assert_eq!(asked(&mut queues[2]), [(1, None), (1, Some(Role::Mind))]);
}

#[test]
fn sentences_without_vectors_are_no_loss_to_a_call() {
    let (needed, embeds) = ([Role::Ears, Role::Mind, Role::Voice], [Role::Embed]);
    let (fleet, mut queues) = Fleet::new(vec![place("gpu0", 0, &needed), place("cpu", 1, &embeds)]);
    fleet.ready(0, infos(&needed));
    let mut port = fleet.attach(CallId(1));
    assert!(port.was_served());
    let embed = || Request::Embed { call: CallId(1), turn: TurnId(1), text: String::new(), urgent: true };
    port.send(embed()).expect("nobody to ask");
    fleet.ready(1, infos(&embeds));
    fleet.lost(1, "gone".into());
    fleet.ready(1, infos(&embeds));
    assert_eq!(port.try_recv(), None);
    port.send(embed()).expect("room");
    assert_eq!(asked(&mut queues[1]), [(1, Some(Role::Embed))]);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_one_engine_cannot_load_is_in_none() {
    let places = vec![place("gpu0", 0, &Role::ALL), place("gpu1", 0, &Role::ALL)];
    let (fleet, mut queues) = Fleet::new(places);
    (0..2).for_each(|engine| fleet.ready(engine, infos(&Role::ALL)));
    let (stop, tasks, (prime, _)) = (CancellationToken::new(), TaskTracker::new(), watch::channel(Arc::default()));
    let adapters = Adapters::wanting(Vec::new());
    let engine = Engine { fleet: Arc::clone(&fleet), prime: Arc::new(prime), adapters, stop, tasks };
    let mut first = queues.remove(0);
    let mut second = queues.remove(0);
    let info = AdapterInfo { name: "a".into(), sha256: "of a".into(), rank: 8, layers: 1, bytes: 1 };
    let playing = async {
        let mut said = Vec::new();
        loop {
            let (engine, request) = tokio::select! {
                Some(request) = first.recv() => (0, request),
                Some(request) = second.recv() => (1, request),
            };
            let (call, turn) = match &request {
                Request::LoadAdapter { call, turn, .. } | Request::DropAdapter { call, turn, .. } => (*call, *turn),
                _ => continue,
            };
            let drops = matches!(request, Request::DropAdapter { .. });
            said.push((engine, drops));
            let (role, failure, reason) = (Role::Mind, Failure::Internal, "no memory".to_owned());
            fleet.event(
                engine,
                match engine {
                    0 => Event::Adapters { call, turn, adapters: if drops { vec![] } else { vec![info.clone()] } },
                    _ => Event::Failed { call, turn, role, failure, reason },
                },
            );
            if drops {
                return said;
            }
        }
    };
    let (loaded, said) = tokio::join!(engine.load_adapter(files("a")), playing);
    assert_eq!(loaded, Err(NotDone::Wrong("no memory".into())));
    assert_eq!(said, [(0, false), (1, false), (0, true)]);
    assert!(engine.adapters().is_empty());
}

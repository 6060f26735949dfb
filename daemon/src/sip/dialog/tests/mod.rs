//! Replays without sockets: what the wire would bring, what we would send.

mod entry;
mod extensions;
mod transfer;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::base::trunk::Trunks;
use crate::base::{Clock, ManualClock};
use crate::sip::message::{Method, Start};
use crate::sip::transaction::{Timers, Transport, TxnEvent};

const SDP: &str = "v=0\r\n";

struct Bench {
    core: Core,
    clock: ManualClock,
    next_tx: TxId,
}

fn flow() -> Flow {
    let (local, peer) = ("192.0.2.1:5060".parse().unwrap(), "10.0.0.9:5070".parse().unwrap());
    Flow { transport: Transport::Udp, local, peer }
}

/// Without a trunk.
fn unnamed() -> Dial {
    let to = String::new().into();
    Dial {
        to,
        from_user: String::new(),
        flow: flow(),
        sdp: String::new(),
        from_host: None,
        trunk: None,
        server_name: None,
        headers: Vec::new(),
    }
}

fn core(max_calls: usize) -> Core {
    let mut seed = 0_u64;
    Core::new(CoreConfig {
        agent: "test".into(),
        timers: Timers::default(),
        max_calls,
        max_unacked_per_source: 3,
        retry_after: 7,
        session_expires: 1800,
        trunks: Trunks::default(),
        random: Box::new(move || {
            seed += 1;
            seed
        }),
    })
}

fn bench() -> Bench {
    Bench { core: core(10), clock: ManualClock::default(), next_tx: 2 }
}

fn request(method: Method, call: &str, cseq: u32, to_tag: &str) -> Message {
    let to = if to_tag.is_empty() { "<sip:100@us>".to_owned() } else { format!("<sip:100@us>;tag={to_tag}") };
    Message::request(method, "sip:100@192.0.2.1")
        .with("Via", "SIP/2.0/UDP 10.0.0.9:5070;branch=z9hG4bKa")
        .with("From", "\"A\" <sip:alice@10.0.0.9>;tag=theirs")
        .with("To", to)
        .with("Call-ID", call)
        .with("CSeq", format!("{cseq} {}", method.as_str()))
        .with("Contact", "<sip:alice@10.0.0.9:5070>")
}

fn invite(call: &str) -> Message {
    request(Method::Invite, call, 1, "").with("Record-Route", "<sip:p2;lr>, <sip:p1;lr>").with_sdp(Some(SDP))
}

impl Bench {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn receive(&mut self, msg: Message) -> (TxId, Vec<Action>) {
        let tx = self.next_tx;
        self.next_tx += 2;
        let event = TxnEvent::Request { tx, flow: flow(), msg: Box::new(msg) };
        (tx, self.core.handle(event, self.clock.now()))
    }

    fn event(&mut self, event: TxnEvent) -> Vec<Action> {
        self.core.handle(event, self.clock.now())
    }

    fn ask(&mut self, call: CallId, command: Command) -> Vec<Action> {
        self.core.command(call, command, self.clock.now()).unwrap()
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.clock.advance(time);
        let now = self.clock.now();
        let due = |core: &Core| core.next_deadline().is_some_and(|(at, _)| at <= now);
        let mut actions = Vec::new();
        while due(&self.core) {
            actions.extend(self.core.tick(now));
        }
        actions
    }

    /// A call up to a phase.
    fn ringing(&mut self, call: &str) -> (CallId, TxId) {
        let (tx, actions) = self.receive(invite(call));
        assert!(statuses(&actions).is_empty(), "an INVITE that is answered soon has no 100");
        (notices(&actions)[0].0, tx)
    }

    fn answered(&mut self, call: &str) -> (CallId, TxId) {
        let (id, tx) = self.ringing(call);
        assert_eq!(statuses(&self.ask(id, Command::Ring)), [180]);
        assert_eq!(statuses(&self.ask(id, Command::Answer { sdp: SDP.into() })), [200]);
        (id, tx)
    }

    fn confirmed(&mut self, call: &str) -> CallId {
        let (id, tx) = self.answered(call);
        let msg = Box::new(request(Method::Ack, call, 1, &self.tag(id)));
        let actions = self.event(TxnEvent::Ack { tx, msg });
        assert_eq!(notices(&actions), [(id, Notice::Confirmed { answer: None })]);
        self.event(TxnEvent::Ended { tx });
        id
    }

    fn tag(&self, id: CallId) -> String {
        self.core.state(id).unwrap().local_tag.clone()
    }

    fn dialled(&mut self) -> (CallId, TxId, Message) {
        let to = "sip:bob@10.0.0.9:5070".to_owned().into();
        let dial = Dial { to, from_user: "callbox".into(), flow: flow(), sdp: SDP.into(), ..unnamed() };
        let (id, actions) = self.core.dial(&dial, self.clock.now());
        let (tx, msg) = requests(&actions).remove(0);
        (id, tx, msg)
    }
}

fn statuses(actions: &[Action]) -> Vec<u16> {
    actions.iter().filter_map(|a| if let Action::Respond { msg, .. } = a { Some(msg.status()) } else { None }).collect()
}

fn response(actions: &[Action]) -> &Message {
    actions.iter().find_map(|a| if let Action::Respond { msg, .. } = a { Some(msg) } else { None }).unwrap()
}

fn notices(actions: &[Action]) -> Vec<(CallId, Notice)> {
    let notice =
        |a: &Action| if let Action::Notify { call, notice } = a { Some((*call, notice.clone())) } else { None };
    actions.iter().filter_map(notice).collect()
}

fn requests(actions: &[Action]) -> Vec<(TxId, Message)> {
    let request = |a: &Action| if let Action::Request { tx, msg, .. } = a { Some((*tx, msg.clone())) } else { None };
    actions.iter().filter_map(request).collect()
}

fn ended(call: CallId, reason: EndReason) -> Vec<(CallId, Notice)> {
    vec![(call, Notice::Ended(reason))]
}

fn reply(tx: TxId, to: &Message, status: u16) -> TxnEvent {
    let msg = Message::response(to, status, Some("remote")).with("Contact", "<sip:bob@10.0.0.9:6000>");
    TxnEvent::Response {
        tx,
        msg: Box::new(msg.with("Record-Route", "<sip:r1;lr>").with("Record-Route", "<sip:r2;lr>")),
    }
}

#[test]
fn a_call_from_invite_to_their_bye() {
    let mut b = bench();
    let id = b.confirmed("c");
    let (_, actions) = b.receive(request(Method::Bye, "c", 2, &b.tag(id)));
    assert_eq!(statuses(&actions), [200]);
    assert_eq!(notices(&actions), ended(id, EndReason::RemoteHangup));
    assert!(b.core.is_empty());
}

#[test]
fn the_answer_carries_what_a_dialog_needs() {
    let mut b = bench();
    let (id, _) = b.ringing("c");
    let actions = b.ask(id, Command::Answer { sdp: SDP.into() });
    let ok = response(&actions);
    assert_eq!(ok.to_tag(), Some(b.tag(id).as_str()));
    assert_eq!(ok.header("Contact"), Some("<sip:callbox@192.0.2.1:5060>"));
    assert_eq!(ok.list("Record-Route").collect::<Vec<_>>(), ["<sip:p2;lr>", "<sip:p1;lr>"]);
    assert_eq!((ok.header("Allow"), ok.sdp().as_deref()), (Some(ALLOW), Some(SDP)));
}

#[test]
fn a_restored_dialog_answers_bye_and_sends_one() {
    let mut b = bench();
    let id = b.confirmed("c");
    let json = serde_json::to_string(b.core.state(id).unwrap()).unwrap();
    let state: DialogState = serde_json::from_str(&json).unwrap();
    assert_eq!(Some(&state), b.core.state(id));

    let mut fresh = bench();
    fresh.core.restore(state.clone(), None, fresh.clock.now()).unwrap();
    let (_, actions) = fresh.receive(request(Method::Bye, "c", 2, &state.local_tag));
    assert_eq!(statuses(&actions), [200]);
    assert!(fresh.core.is_empty());

    let mut fresh = bench();
    fresh.core.restore(state.clone(), None, fresh.clock.now()).unwrap();
    let again = fresh.core.restore(state.clone(), None, fresh.clock.now());
    assert!(matches!(again, Err(CommandError::WrongState)));
    let actions = fresh.ask(id, Command::Hangup);
    let (tx, bye) = requests(&actions).remove(0);
    assert!(matches!(&bye.start, Start::Request { method: Method::Bye, uri } if uri == "sip:alice@10.0.0.9:5070"));
    assert_eq!((bye.from_tag(), bye.to_tag()), (Some(state.local_tag.as_str()), Some("theirs")));
    assert_eq!(bye.header("To"), Some("\"A\" <sip:alice@10.0.0.9>;tag=theirs"));
    assert_eq!(bye.list("Route").collect::<Vec<_>>(), ["<sip:p2;lr>", "<sip:p1;lr>"]);
    assert_eq!(bye.cseq(), Some(state.local_cseq + 1));
    let Some(Action::Request { to, .. }) = actions.iter().find(|a| matches!(a, Action::Request { .. })) else {
        panic!()
    };
    assert_eq!(to.uri, "sip:p2;lr");
    fresh.event(reply(tx, &bye, 200));
    assert!(fresh.core.is_empty());
}

#[test]
fn a_strict_router_gets_itself_in_the_request_uri() {
    let mut b = bench();
    let id = b.confirmed("c");
    let mut state = b.core.state(id).unwrap().clone();
    state.route_set = vec!["<sip:strict>".to_owned(), "<sip:p1;lr>".to_owned()].into();
    let (bye, _) = state.request(Method::Bye, "z9hG4bKx");
    assert!(matches!(&bye.start, Start::Request { uri, .. } if uri == "sip:strict"));
    assert_eq!(bye.list("Route").collect::<Vec<_>>(), ["<sip:p1;lr>", "<sip:alice@10.0.0.9:5070>"]);
}

#[test]
fn cancel_before_and_after_the_answer() {
    let mut b = bench();
    let (id, tx) = b.ringing("c");
    let actions = b.event(TxnEvent::Cancel { tx });
    assert_eq!((statuses(&actions), notices(&actions)), (vec![487], ended(id, EndReason::Cancelled)));
    assert_eq!(b.core.command(id, Command::Answer { sdp: SDP.into() }, b.now()).unwrap_err(), CommandError::Gone);
    let (id, tx) = b.answered("d");
    assert!(b.event(TxnEvent::Cancel { tx }).is_empty());
    assert_eq!(b.core.state(id).unwrap().phase, Phase::Answered);
}

#[test]
fn without_ack_the_call_ends_with_bye() {
    let mut b = bench();
    let (id, _) = b.answered("c");
    assert!(b.pass(Duration::from_secs(31)).is_empty());
    let actions = b.pass(Duration::from_secs(1));
    assert_eq!(notices(&actions), ended(id, EndReason::NoAck));
    assert_eq!(requests(&actions)[0].1.method(), Some(Method::Bye));
    // A peer that vanished does not answer the BYE either.
    b.pass(Duration::from_secs(41));
    assert!(b.core.is_empty());
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut b = bench();
    let (id, tx) = b.answered("c");
    let actions = b.ask(id, Command::Hangup);
    assert!(requests(&actions).is_empty() && notices(&actions) == ended(id, EndReason::LocalHangup));
    let msg = Box::new(request(Method::Ack, "c", 1, &b.tag(id)));
    let actions = b.event(TxnEvent::Ack { tx, msg });
    assert_eq!(requests(&actions)[0].1.method(), Some(Method::Bye));
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut b = bench();
    let (_, actions) = b.receive(request(Method::Invite, "c", 1, ""));
    let (id, Notice::Incoming(invitation)) = notices(&actions).remove(0) else { panic!() };
    assert_eq!((invitation.offer, invitation.to_user.as_str()), (None, "100"));
    assert_eq!(invitation.from.reveal(), "sip:alice@10.0.0.9");
    b.ask(id, Command::Answer { sdp: SDP.into() });
    let msg = Box::new(request(Method::Ack, "c", 1, &b.tag(id)).with_sdp(Some("theirs")));
    let actions = b.event(TxnEvent::Ack { tx: 2, msg });
    assert_eq!(notices(&actions), [(id, Notice::Confirmed { answer: Some("theirs".into()) })]);
}

#[test]
fn refusals_outside_of_dialogs() {
    let mut b = bench();
    let mut status = |msg: Message| {
        let (_, actions) = b.receive(msg);
        let response = response(&actions).clone();
        assert!(response.to_tag().is_some());
        response
    };
    let get = |r: &Message, name: &str| r.header(name).map(str::to_owned);
    for method in [Method::Bye, Method::Info, Method::Update, Method::Prack, Method::Notify] {
        assert_eq!(status(request(method, "x", 1, "")).status(), 481, "{method:?}");
    }
    for method in [Method::Message, Method::Register, Method::Subscribe, Method::Publish, Method::Refer] {
        let refusal = status(request(method, "x", 1, ""));
        assert_eq!((refusal.status(), get(&refusal, "Allow").as_deref()), (405, Some(ALLOW)), "{method:?}");
    }
    for method in [Method::Bye, Method::Invite, Method::Options, Method::Info] {
        assert_eq!(status(request(method, "x", 1, "unknown")).status(), 481, "{method:?}");
    }
    let refusal = status(invite("x").with("Require", "100rel, replaces, timer"));
    assert_eq!((refusal.status(), get(&refusal, "Unsupported").as_deref()), (420, Some("replaces")));
    let refusal = status(request(Method::Invite, "x", 1, "").with_body("text/plain", "hi"));
    assert_eq!((refusal.status(), get(&refusal, "Accept").as_deref()), (415, Some(ACCEPT)));
    assert_eq!(status(invite("x").with("Content-Encoding", "gzip")).status(), 415);
    let options = status(request(Method::Options, "x", 1, ""));
    assert_eq!((options.status(), get(&options, "Allow").as_deref()), (200, Some(ALLOW)));
    assert_eq!(
        (get(&options, "Accept").as_deref(), get(&options, "Supported").as_deref()),
        (Some(ACCEPT), Some(SUPPORTED))
    );
    let mut no_contact = invite("x");
    no_contact.headers.retain(|(name, _)| name != "Contact");
    assert_eq!(status(no_contact).status(), 400);
    assert!(b.core.is_empty());
}

#[test]
fn full_busy_draining_and_merged() {
    let mut b = bench();
    b.core = core(4);
    b.ringing("c");
    let (_, actions) = b.receive(invite("c"));
    assert_eq!(statuses(&actions), [482]);
    b.ringing("d");
    let (third, tx) = b.ringing("e");
    let (_, actions) = b.receive(invite("f"));
    assert_eq!((statuses(&actions), response(&actions).header("Retry-After")), (vec![503], Some("7")));
    assert_eq!(b.core.refused().unacked, 1);
    b.ask(third, Command::Answer { sdp: SDP.into() });
    let msg = Box::new(request(Method::Ack, "e", 1, &b.tag(third)));
    b.event(TxnEvent::Ack { tx, msg });
    b.ringing("g");
    let (_, actions) = b.receive(invite("h"));
    assert_eq!((statuses(&actions), b.core.refused().full), (vec![503], 1));
    b.core.drain(true);
    let (_, actions) = b.receive(request(Method::Options, "i", 1, ""));
    assert_eq!((statuses(&actions), b.core.refused().draining), (vec![503], 1));
    b.core.drain(false);
    let (_, actions) = b.receive(invite("j"));
    assert_eq!((statuses(&actions), b.core.refused().full), (vec![503], 2), "not draining, but full again");
    b.core.limit(9, 9, 3);
    b.ringing("k");
}

#[test]
fn requests_within_the_dialog() {
    let mut b = bench();
    let id = b.confirmed("c");
    let tag = b.tag(id);
    let mut status = |msg: Message| statuses(&b.receive(msg).1);
    assert_eq!(status(request(Method::Options, "c", 2, &tag)), [200]);
    assert_eq!(status(request(Method::Update, "c", 3, &tag)), [200]);
    assert_eq!(status(request(Method::Options, "c", 2, &tag)), [500]);
    assert_eq!(status(request(Method::Message, "c", 4, &tag)), [405]);
    assert_eq!(status(request(Method::Notify, "c", 5, &tag)), [481]);
    assert_eq!(status(request(Method::Info, "c", 6, &tag).with_body("x/y", "z")), [415]);
    let mut stranger = request(Method::Bye, "c", 7, &tag);
    stranger.headers.iter_mut().filter(|(n, _)| n == "From").for_each(|(_, v)| *v = v.replace("theirs", "other"));
    assert_eq!(status(stranger), [481]);
    let dtmf = request(Method::Info, "c", 8, &tag).with_body("application/dtmf-relay", "Signal=5");
    let (_, actions) = b.receive(dtmf);
    assert_eq!(statuses(&actions), [200]);
    assert!(matches!(&notices(&actions)[..], [(_, Notice::Info { body, .. })] if body.reveal() == b"Signal=5"));
}

#[test]
fn an_offer_may_overtake_the_ack() {
    let mut b = bench();
    let (id, tx) = b.answered("c");
    let tag = b.tag(id);
    let (_, actions) = b.receive(request(Method::Update, "c", 2, &tag));
    assert_eq!(statuses(&actions), [200]);
    let (_, actions) = b.receive(request(Method::Invite, "c", 3, &tag).with_sdp(Some("hold")));
    assert_eq!(notices(&actions), [(id, Notice::Offer { sdp: Some("hold".into()) })]);
    let msg = Box::new(request(Method::Ack, "c", 1, &tag));
    assert_eq!(notices(&b.event(TxnEvent::Ack { tx, msg })), [(id, Notice::Confirmed { answer: None })]);
    assert_eq!(statuses(&b.pass(OFFER_LIMIT)), [488], "the owner did not reply");
    // Without an ACK the call ends as any other.
    let (id, _) = b.answered("d");
    b.receive(request(Method::Invite, "d", 2, &b.tag(id)).with_sdp(Some("hold")));
    assert_eq!(statuses(&b.pass(OFFER_LIMIT)), [488]);
    assert_eq!(notices(&b.pass(Timers::default().t1x64())), ended(id, EndReason::NoAck));
}

#[test]
fn re_invites_are_offers() {
    let mut b = bench();
    let id = b.confirmed("c");
    let tag = b.tag(id);
    let (tx, actions) = b.receive(request(Method::Invite, "c", 2, &tag).with_sdp(Some("hold")));
    assert_eq!(
        (statuses(&actions), notices(&actions)),
        (vec![100], vec![(id, Notice::Offer { sdp: Some("hold".into()) })])
    );
    let (_, actions) = b.receive(request(Method::Invite, "c", 3, &tag).with_sdp(Some("again")));
    assert_eq!(statuses(&actions), [500]);
    let actions = b.ask(id, Command::AcceptOffer { sdp: "held".into() });
    assert_eq!(response(&actions).sdp().as_deref(), Some("held"));
    b.event(TxnEvent::Ack { tx, msg: Box::new(request(Method::Ack, "c", 2, &tag)) });
    b.event(TxnEvent::Ended { tx });
    // Without SDP ours is wanted, whatever was agreed on; unanswered offers are refused and leave the call alone.
    let (tx, actions) = b.receive(request(Method::Invite, "c", 4, &tag));
    assert_eq!((statuses(&actions), notices(&actions)), (vec![100], vec![(id, Notice::Offer { sdp: None })]));
    let actions = b.ask(id, Command::AcceptOffer { sdp: "ours".into() });
    assert_eq!(response(&actions).sdp().as_deref(), Some("ours"));
    let msg = Box::new(request(Method::Ack, "c", 4, &tag).with_sdp(Some("new")));
    assert_eq!(notices(&b.event(TxnEvent::Ack { tx, msg })), [(id, Notice::Confirmed { answer: Some("new".into()) })]);
    b.receive(request(Method::Update, "c", 5, &tag).with_sdp(Some("late")));
    assert_eq!(statuses(&b.pass(OFFER_LIMIT)), [488]);
    assert_eq!(b.core.state(id).unwrap().phase, Phase::Confirmed);
    // A re-INVITE whose 2xx is never acknowledged ends the call.
    let (tx, _) = b.receive(request(Method::Invite, "c", 6, &tag));
    b.ask(id, Command::AcceptOffer { sdp: "ours".into() });
    let actions = b.event(TxnEvent::Ended { tx });
    assert_eq!(notices(&actions), ended(id, EndReason::NoAck));
}

#[test]
fn dialling_answer_and_a_repeated_2xx() {
    let mut b = bench();
    let (id, tx, invite) = b.dialled();
    assert_eq!(notices(&b.event(reply(tx, &invite, 180))), [(id, Notice::Progress { status: 180, sdp: None })]);
    let actions = b.event(reply(tx, &invite, 200));
    let ack = |actions: &[Action]| {
        actions.iter().find_map(|a| if let Action::Ack { msg, .. } = a { Some(msg.clone()) } else { None }).unwrap()
    };
    let first = ack(&actions);
    assert!(matches!(&first.start, Start::Request { uri, .. } if uri == "sip:bob@10.0.0.9:6000"));
    assert_eq!((first.cseq(), first.to_tag()), (Some(1), Some("remote")));
    assert_eq!(first.list("Route").collect::<Vec<_>>(), ["<sip:r2;lr>", "<sip:r1;lr>"]);
    b.event(TxnEvent::Ended { tx });
    let TxnEvent::Response { msg, .. } = reply(tx, &invite, 200) else { panic!() };
    assert_eq!(ack(&b.event(TxnEvent::Stray2xx { flow: flow(), msg })).cseq(), Some(1));
    let fork = Message::response(&invite, 200, Some("fork")).with("Contact", "<sip:f@h>");
    let actions = b.event(TxnEvent::Stray2xx { flow: flow(), msg: Box::new(fork) });
    assert_eq!((ack(&actions).to_tag(), requests(&actions)[0].1.method()), (Some("fork"), Some(Method::Bye)));
    let bye = requests(&b.ask(id, Command::Hangup)).remove(0).1;
    assert_eq!((bye.cseq(), bye.to_tag()), (Some(2), Some("remote")));
}

#[test]
fn dialling_refused_and_cancelled() {
    let mut b = bench();
    let (id, tx, invite) = b.dialled();
    let actions = b.event(reply(tx, &invite, 486));
    let reason = "Busy Here".to_owned();
    assert_eq!(notices(&actions), ended(id, EndReason::Rejected { status: 486, reason }));
    b.event(TxnEvent::Ended { tx });
    // No CANCEL before a provisional response (RFC 3261 §9.1).
    let (id, tx, invite) = b.dialled();
    assert!(requests(&b.ask(id, Command::Hangup)).is_empty());
    let actions = b.event(reply(tx, &invite, 180));
    let (_, cancel) = requests(&actions).remove(0);
    assert_eq!((cancel.method(), cancel.cseq()), (Some(Method::Cancel), Some(1)));
    assert_eq!(cancel.header("Via"), invite.header("Via"));
    // The 2xx was faster: ACK, then BYE.
    let actions = b.event(reply(tx, &invite, 200));
    assert!(actions.iter().any(|a| matches!(a, Action::Ack { .. })));
    assert_eq!(requests(&actions)[0].1.method(), Some(Method::Bye));
    b.pass(Duration::from_secs(41));
    assert!(b.core.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Request(usize, u32, bool, bool),
    Ack(u64, bool),
    Cancel(u64),
    Response(u64, u16),
    Ended(u64),
    Command(usize, usize),
    Dial,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..14, 1_u32..6, any::<bool>(), any::<bool>()).prop_map(|(m, c, t, b)| Step::Request(m, c, t, b)),
        2 => (0_u64..40, any::<bool>()).prop_map(|(t, b)| Step::Ack(t, b)),
        1 => (0_u64..40).prop_map(Step::Cancel),
        3 => (0_u64..40, 100_u16..700).prop_map(|(t, s)| Step::Response(t, s)),
        1 => (0_u64..40).prop_map(Step::Ended),
        4 => (0_usize..4, 0_usize..7).prop_map(|(c, k)| Step::Command(c, k)),
        1 => Just(Step::Dial),
        1 => (0_u64..40).prop_map(Step::Pass),
    ]
}

fn command(kind: usize) -> Command {
    match kind {
        0 => Command::Ring,
        1 => Command::Answer { sdp: SDP.into() },
        2 => Command::Reject { status: 486, reason: String::new(), retry_after: Some(1) },
        3 => Command::Hangup,
        4 => Command::AcceptOffer { sdp: SDP.into() },
        5 => Command::RefuseOffer { status: 488 },
        _ => Command::Info { content_type: "a/b".into(), body: vec![1].into() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any order of events: no panic, never two final responses to one request, the owner hears one end and nothing
    /// after it, and once everybody hangs up and time passes, nothing is left.
    #[test]
    fn any_order_of_events(steps in proptest::collection::vec(step(), 1..60)) {
        let mut b = bench();
        let mut calls: Vec<CallId> = Vec::new();
        let mut finals: HashMap<TxId, u16> = HashMap::new();
        let mut over: HashMap<CallId, usize> = HashMap::new();
        let mut methods = [Method::Invite; 14];
        for (slot, m) in methods.iter_mut().zip([
            Method::Invite, Method::Bye, Method::Options, Method::Info, Method::Update, Method::Message,
            Method::Notify, Method::Prack, Method::Refer, Method::Register,
        ]) { *slot = m; }
        let mut check = |actions: &[Action], calls: &mut Vec<CallId>| -> Result<(), TestCaseError> {
            for action in actions {
                match action {
                    Action::Respond { tx, msg } if msg.status() >= 200 => {
                        prop_assert_eq!(finals.insert(*tx, msg.status()), None, "two finals");
                    }
                    Action::Respond { tx, .. } => prop_assert!(!finals.contains_key(tx), "provisional after final"),
                    Action::Notify { call, notice } => {
                        prop_assert_eq!(over.get(call), None, "notice after the end");
                        match notice {
                            Notice::Incoming(_) => calls.push(*call),
                            Notice::Ended(_) => { over.insert(*call, 1); }
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        for step in steps {
            let actions = match step {
                Step::Request(m, cseq, tagged, body) => {
                    let tag = match (tagged, calls.first().and_then(|c| b.core.state(*c))) {
                        (true, Some(state)) => state.local_tag.clone(),
                        _ => String::new(),
                    };
                    let msg = request(methods[m], "c", cseq, &tag);
                    b.receive(if body { msg.with_sdp(Some(SDP)) } else { msg }).1
                }
                Step::Ack(tx, body) => {
                    let msg = request(Method::Ack, "c", 1, "x");
                    let msg = Box::new(if body { msg.with_sdp(Some(SDP)) } else { msg });
                    b.event(TxnEvent::Ack { tx, msg })
                }
                Step::Cancel(tx) => b.event(TxnEvent::Cancel { tx }),
                Step::Response(tx, status) => {
                    let to = request(Method::Invite, "c", 1, "");
                    b.event(reply(tx, &to, status))
                }
                Step::Ended(tx) => b.event(TxnEvent::Ended { tx }),
                Step::Command(c, kind) => match calls.get(c).copied() {
                    Some(call) => b.core.command(call, command(kind), b.clock.now()).unwrap_or_default(),
                    None => Vec::new(),
                },
                Step::Dial => {
                    let to = "sip:bob@10.0.0.9".to_owned().into();
                    let dial = Dial { to, from_user: "u".into(), flow: flow(), sdp: SDP.into(), ..unnamed() };
                    let (call, actions) = b.core.dial(&dial, b.clock.now());
                    calls.push(call);
                    actions
                }
                Step::Pass(seconds) => b.pass(Duration::from_secs(seconds)),
            };
            check(&actions, &mut calls)?;
        }
        let actions = b.core.hang_up_all(b.clock.now());
        check(&actions, &mut calls)?;
        for _ in 0..4 {
            let actions = b.pass(RING_LIMIT);
            check(&actions, &mut calls)?;
        }
        for tx in 0..200 {
            let actions = b.event(TxnEvent::Ended { tx });
            check(&actions, &mut calls)?;
        }
        prop_assert!(b.core.is_empty(), "{} calls left", b.core.len());
        for call in calls {
            prop_assert!(over.contains_key(&call), "an owner was not told");
        }
    }
}

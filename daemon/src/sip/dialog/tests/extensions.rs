//! Session timers (RFC 4028) and reliable provisional responses (RFC 3262), in both roles.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn timed(call: &str, session_expires: &str) -> Message {
    let invite = request(Method::Invite, call, 1, "").with_sdp(Some(SDP)).with("Supported", "timer");
    let invite = invite.with("Allow", "INVITE, ACK, BYE, UPDATE");
    if session_expires.is_empty() { invite } else { invite.with("Session-Expires", session_expires) }
}

impl Bench {
    /// A call that was answered and acknowledged; the 200.
    fn up(&mut self, call: &str, invite: Message) -> (CallId, Message) {
        let (tx, actions) = self.receive(invite);
        let id = notices(&actions)[0].0;
        self.ask(id, Command::Ring);
        let actions = self.ask(id, Command::Answer { sdp: SDP.into() });
        let ok = response(&actions).clone();
        let msg = Box::new(request(Method::Ack, call, 1, &self.tag(id)));
        self.event(TxnEvent::Ack { tx, msg });
        self.event(TxnEvent::Ended { tx });
        (id, ok)
    }

    /// The one request that time brings.
    fn due(&mut self, time: Duration) -> (TxId, Message) {
        let mut requests = requests(&self.pass(time));
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

fn session(message: &Message) -> Option<&str> {
    message.header("Session-Expires")
}

fn ok(tx: TxId, to: &Message, session_expires: &str) -> TxnEvent {
    let msg = Message::response(to, 200, None).with("Session-Expires", session_expires);
    TxnEvent::Response { tx, msg: Box::new(msg) }
}

#[test]
fn a_caller_who_does_not_refresh_is_gone() {
    let mut b = bench();
    let (id, answer) = b.up("c", timed("c", "120"));
    assert_eq!((session(&answer), answer.header("Require")), (Some("120;refresher=uac"), Some("timer")));
    assert!(b.pass(60 * SECOND).is_empty());
    let tag = b.tag(id);
    let (_, actions) = b.receive(
        request(Method::Update, "c", 2, &tag).with("Session-Expires", "120;refresher=uac").with("Supported", "timer"),
    );
    assert_eq!(session(response(&actions)), Some("120;refresher=uac"));
    // 32 s before the end there is time for a BYE.
    assert!(b.pass(87 * SECOND).is_empty());
    let actions = b.pass(SECOND);
    assert_eq!(requests(&actions)[0].1.method(), Some(Method::Bye));
    assert_eq!(notices(&actions), ended(id, EndReason::Timeout));
}

#[test]
fn we_refresh_with_update_or_with_a_re_invite() {
    let mut b = bench();
    let (id, answer) = b.up("c", timed("c", "120;refresher=uas"));
    assert_eq!((session(&answer), answer.header("Require")), (Some("120;refresher=uas"), None));
    let (tx, update) = b.due(60 * SECOND);
    assert_eq!((update.method(), session(&update)), (Some(Method::Update), Some("120;refresher=uac")));
    b.event(ok(tx, &update, "120;refresher=uac"));
    // One that the peer does not take after all: the same again as a re-INVITE, with the offer that counts.
    let (tx, update) = b.due(60 * SECOND);
    b.event(reply(tx, &update, 405));
    let (tx, again) = b.due(Duration::ZERO);
    assert_eq!((again.method(), again.sdp().as_deref()), (Some(Method::Invite), Some(SDP)));
    // Theirs crosses ours.
    let tag = b.tag(id);
    let (_, actions) = b.receive(request(Method::Invite, "c", 2, &tag).with_sdp(Some(SDP)));
    assert_eq!(statuses(&actions), [491]);
    let actions = b.event(ok(tx, &again, "120;refresher=uac"));
    let acks = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Ack { .. })).count();
    assert_eq!(acks(&actions), 1);
    let TxnEvent::Response { msg, .. } = ok(tx, &again, "120;refresher=uac") else { panic!() };
    let repeated = msg.with("Contact", "<sip:alice@10.0.0.9:5070>");
    assert_eq!(acks(&b.event(TxnEvent::Stray2xx { flow: flow(), msg: Box::new(repeated) })), 1);
    // Refused for the moment: once more a little later, and at the end of the time BYE.
    let (tx, again) = b.due(60 * SECOND);
    b.event(reply(tx, &again, 491));
    let (tx, again) = b.due(4 * SECOND);
    b.event(reply(tx, &again, 488));
    let (_, bye) = b.due(24 * SECOND);
    assert_eq!(bye.method(), Some(Method::Bye));
}

#[test]
fn a_refresh_that_is_refused_as_too_short_is_raised_once() {
    let mut b = bench();
    b.up("c", timed("c", "120;refresher=uas"));
    let (tx, update) = b.due(60 * SECOND);
    let refusal = |tx, to: &Message| {
        let msg = Message::response(to, 422, None).with("Min-SE", "300");
        TxnEvent::Response { tx, msg: Box::new(msg) }
    };
    b.event(refusal(tx, &update));
    let (tx, again) = b.due(Duration::ZERO);
    assert_eq!(session(&again), Some("300;refresher=uac"));
    b.event(refusal(tx, &again));
    assert!(b.pass(10 * SECOND).is_empty(), "it would be refused for ever");
}

#[test]
fn an_interval_that_is_too_small_is_refused_and_one_of_ours_is_raised() {
    let mut b = bench();
    let (_, actions) = b.receive(timed("c", "60"));
    assert_eq!((response(&actions).status(), response(&actions).header("Min-SE")), (422, Some("90")));
    assert!(b.core.is_empty());
    // Who knows nothing of timers cannot be refused, nor asked to refresh: a proxy wanted it.
    let mut ignorant = timed("d", "60");
    ignorant.headers.retain(|(name, _)| name != "Supported");
    assert_eq!(session(&b.up("d", ignorant).1), Some("90;refresher=uas"));
    assert_eq!(session(&b.up("e", timed("e", "")).1), Some("1800;refresher=uac"));
    assert_eq!(session(&b.up("f", request(Method::Invite, "f", 1, "").with_sdp(Some(SDP))).1), None);

    let (id, tx, invite) = b.dialled();
    assert_eq!((session(&invite), invite.header("Supported")), (Some("1800"), Some(SUPPORTED)));
    let refusal = Message::response(&invite, 422, Some("remote")).with("Min-SE", "3600");
    let (tx, again) = requests(&b.event(TxnEvent::Response { tx, msg: Box::new(refusal.clone()) })).remove(0);
    assert_eq!((session(&again), again.header("Min-SE"), again.cseq()), (Some("3600"), Some("3600"), Some(2)));
    assert_eq!((again.call_id(), again.from_tag()), (invite.call_id(), invite.from_tag()));
    let actions = b.event(TxnEvent::Response { tx, msg: Box::new(refusal) });
    assert!(
        matches!(&notices(&actions)[..], [(call, Notice::Ended(EndReason::Rejected { status: 422, .. }))] if *call == id)
    );
}

#[test]
fn ringing_that_must_arrive_is_repeated_until_its_prack() {
    let mut b = bench();
    let (_, actions) = b.receive(invite("c").with("Require", "100rel"));
    let id = notices(&actions)[0].0;
    let actions = b.ask(id, Command::Ring);
    let ringing = response(&actions);
    let rseq = ringing.header("RSeq").unwrap().to_owned();
    assert_eq!((ringing.status(), ringing.header("Require")), (180, Some("100rel")));
    assert_eq!(statuses(&b.pass(SECOND / 2)), [180]);
    assert!(b.pass(SECOND - Duration::from_millis(1)).is_empty());
    assert_eq!(response(&b.pass(Duration::from_millis(1))).header("RSeq"), Some(rseq.as_str()));
    let tag = b.tag(id);
    let mut prack = |cseq, rack: &str| {
        let (_, actions) = b.receive(request(Method::Prack, "c", cseq, &tag).with("RAck", rack));
        statuses(&actions)
    };
    assert_eq!(prack(2, "7 1 INVITE"), [481]);
    assert_eq!(prack(3, &format!("{rseq} 1 INVITE")), [200]);
    assert!(b.pass(40 * SECOND).is_empty());
    assert_eq!(statuses(&b.ask(id, Command::Answer { sdp: SDP.into() })), [200]);

    let mut b = bench();
    // Answered and acknowledged without a PRACK: nothing is repeated, and the session still has its end.
    b.up("e", timed("e", "120").with("Require", "100rel"));
    assert!(b.pass(60 * SECOND).is_empty());
    assert_eq!(requests(&b.pass(28 * SECOND))[0].1.method(), Some(Method::Bye));

    let (_, actions) = b.receive(invite("d").with("Require", "100rel"));
    let id = notices(&actions)[0].0;
    b.ask(id, Command::Ring);
    let sent: Vec<u16> = (0..70).flat_map(|_| statuses(&b.pass(SECOND / 2))).collect();
    assert_eq!((sent.len(), sent.last()), (7, Some(&504)), "{sent:?}");
}

#[test]
fn ringing_of_a_peer_is_acknowledged_once() {
    let mut b = bench();
    let (id, tx, invite) = b.dialled();
    let ringing = |rseq: &str| {
        let TxnEvent::Response { msg, .. } = reply(tx, &invite, 183) else { panic!() };
        TxnEvent::Response { tx, msg: Box::new(msg.with("Require", "100rel").with("RSeq", rseq)) }
    };
    let actions = b.event(ringing("9"));
    let (prack_tx, prack) = requests(&actions).remove(0);
    assert_eq!(
        (prack.method(), prack.header("RAck"), prack.cseq()),
        (Some(Method::Prack), Some("9 1 INVITE"), Some(2))
    );
    assert_eq!(prack.list("Route").collect::<Vec<_>>(), ["<sip:r2;lr>", "<sip:r1;lr>"]);
    assert_eq!(notices(&actions), [(id, Notice::Progress { status: 183, sdp: None })]);
    assert!(b.event(ringing("9")).is_empty());
    assert!(b.event(reply(prack_tx, &prack, 200)).is_empty());
    let actions = b.event(reply(tx, &invite, 200));
    assert_eq!(notices(&actions), [(id, Notice::Answered { sdp: None })]);
    assert_eq!(requests(&b.ask(id, Command::Hangup))[0].1.cseq(), Some(3));
}

#[test]
fn an_answer_in_a_reliable_response_need_not_come_again() {
    let mut b = bench();
    let (id, tx, invite) = b.dialled();
    let progress = |status, sdp| Notice::Progress { status, sdp };
    // That a server is at work is news, once.
    assert_eq!(notices(&b.event(reply(tx, &invite, 100))), [(id, progress(100, None))]);
    assert!(b.event(reply(tx, &invite, 100)).is_empty());
    let TxnEvent::Response { msg, .. } = reply(tx, &invite, 183) else { panic!() };
    let early = msg.with("Require", "100rel").with("RSeq", "1").with_sdp(Some(SDP));
    let actions = b.event(TxnEvent::Response { tx, msg: Box::new(early.clone()) });
    assert_eq!(notices(&actions), [(id, progress(183, Some(SDP.into())))]);
    // Whoever rings may ask for another session, but not yet; only BYE needs a dialog that is up.
    let asks = |method: Method| {
        let from = early.header("To").unwrap().to_owned();
        Message::request(method, invite.header("Contact").unwrap().trim_matches(['<', '>']))
            .with("Via", "SIP/2.0/UDP 10.0.0.9:5070;branch=z9hG4bKe")
            .with("From", from)
            .with("To", invite.header("From").unwrap())
            .with("Call-ID", invite.call_id().unwrap())
            .with("CSeq", format!("1 {}", method.as_str()))
            .with("Contact", "<sip:bob@10.0.0.9>")
    };
    let (_, actions) = b.receive(asks(Method::Update).with_sdp(Some(SDP)));
    assert_eq!(statuses(&actions), [500]);
    assert!(response(&actions).header("Retry-After").is_some());
    assert_eq!(statuses(&b.receive(asks(Method::Bye)).1), [481]);
    let actions = b.event(reply(tx, &invite, 200));
    assert_eq!(notices(&actions), [(id, Notice::Answered { sdp: Some(SDP.into()) })]);
}

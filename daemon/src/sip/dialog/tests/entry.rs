//! What a trunk's calls must show: a password, and room for one more.

use super::*;
use crate::base::Secret;
use crate::sip::digest::{Challenge, Credentials};
use crate::sip::offences::Offence;

/// Of the peer that [`flow`] comes from.
fn trunk(change: impl FnOnce(&mut Trunk)) -> Bench {
    let mut trunk = Trunk { peers: vec!["10.0.0.0/8".parse().unwrap()], ..Trunk::new("carrier".parse().unwrap()) };
    change(&mut trunk);
    let mut bench = bench();
    bench.core.trunks(Trunks::new(&[trunk]));
    bench
}

fn asking() -> Bench {
    trunk(|trunk| {
        (trunk.challenge, trunk.username, trunk.password) = (true, Some("alice".into()), Some(Secret::new("s3cret")));
    })
}

fn signed(request: Message, challenge: &Challenge, password: &str, nc: u32) -> Message {
    let credentials = Credentials::new("alice", Secret::new(password));
    let method = request.method().unwrap().as_str();
    let (name, value) = credentials.answer(challenge, method, "sip:100@192.0.2.1", b"", nc, "c");
    request.with(name, value)
}

/// The challenge of a 401.
fn challenged(actions: &[Action]) -> Challenge {
    assert_eq!(statuses(actions), [401]);
    assert!(response(actions).header("To").unwrap().contains("tag="), "RFC 3261 §8.2.6.2");
    Challenge::parse_all(response(actions)).remove(0)
}

#[test]
fn who_knows_the_password_is_let_in_and_may_change_the_call() {
    let mut b = asking();
    let (_, actions) = b.receive(invite("c"));
    assert!(notices(&actions).is_empty(), "nobody is told of a call that may not be one");
    let first = challenged(&actions);
    let (_, actions) = b.receive(signed(invite("c"), &first, "wrong", 1));
    let again = challenged(&actions);
    assert!(!again.stale);
    assert_eq!(b.core.take_offences(), [(flow().peer.ip(), Offence::Password)]);
    let (tx, actions) = b.receive(signed(invite("c"), &again, "s3cret", 1));
    let (id, Notice::Incoming(invitation)) = notices(&actions).remove(0) else { panic!("{actions:?}") };
    assert_eq!(invitation.trunk.unwrap().name.as_str(), "carrier");
    b.ask(id, Command::Answer { sdp: SDP.into() });
    let tag = b.tag(id);
    b.event(TxnEvent::Ack { tx, msg: Box::new(request(Method::Ack, "c", 1, &tag)) });
    // What sends the audio elsewhere wants the password again; the same answer is not taken twice.
    let reinvite = |cseq| request(Method::Invite, "c", cseq, &tag).with_sdp(Some(SDP));
    let (_, actions) = b.receive(reinvite(2));
    challenged(&actions);
    let (_, actions) = b.receive(signed(reinvite(3), &again, "s3cret", 1));
    assert!(challenged(&actions).stale);
    let (_, actions) = b.receive(signed(reinvite(4), &again, "s3cret", 2));
    assert!(matches!(notices(&actions).as_slice(), [(_, Notice::Offer { .. })]));
    // What asks and what ends is not asked.
    let (_, actions) = b.receive(request(Method::Options, "o", 1, ""));
    assert_eq!(statuses(&actions), [200]);
    let (_, actions) = b.receive(request(Method::Bye, "c", 5, &tag));
    assert!(statuses(&actions).contains(&200));
    let [(_, counts)] = b.core.trunk_counts() else { panic!("one trunk") };
    assert_eq!((counts.calls, counts.wrong_password), (0, 1));
    assert!(b.core.is_empty());
}

#[test]
fn a_flood_of_unknown_callers_leaves_nothing() {
    let mut b = asking();
    for number in 0..1000 {
        let (tx, actions) = b.receive(invite(&format!("c{number}")));
        challenged(&actions);
        b.event(TxnEvent::Ended { tx });
    }
    assert!(b.core.is_empty() && b.core.take_offences().is_empty());
}

#[test]
fn a_trunk_has_so_many_calls_and_no_more_whatever_the_others_do() {
    let mut b = trunk(|trunk| trunk.max_calls = std::num::NonZeroU32::new(2).unwrap());
    let (one, _) = (b.confirmed("a"), b.confirmed("b"));
    let (_, actions) = b.receive(invite("c"));
    assert_eq!((statuses(&actions), response(&actions).header("Retry-After")), (vec![503], Some("7")));
    let elsewhere = Flow { peer: "192.0.2.9:5060".parse().unwrap(), ..flow() };
    let event = TxnEvent::Request { tx: 900, flow: elsewhere, msg: Box::new(invite("d")) };
    assert!(statuses(&b.event(event)).is_empty(), "another's call rings");
    let tag = b.tag(one);
    b.receive(request(Method::Bye, "a", 2, &tag));
    let (_, actions) = b.receive(invite("e"));
    assert!(statuses(&actions).is_empty(), "there is room again");
    let [(_, counts)] = b.core.trunk_counts() else { panic!("one trunk") };
    assert_eq!((counts.calls, counts.too_many), (2, 1));
}

#[test]
fn the_networks_word_on_the_caller_counts_where_it_is_believed() {
    let asserted = || invite("c").with("P-Asserted-Identity", "\"B\" <sip:+4930@net>, <tel:+4930>");
    let mut b = trunk(|_| {});
    let caller = |actions: &[Action]| match notices(actions).remove(0) {
        (_, Notice::Incoming(invitation)) => invitation.from.reveal().clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(caller(&b.receive(asserted()).1), "sip:alice@10.0.0.9");
    let mut b = trunk(|trunk| trunk.trust_identity = true);
    assert_eq!(caller(&b.receive(asserted()).1), "sip:+4930@net");
    assert_eq!(caller(&b.receive(invite("d")).1), "sip:alice@10.0.0.9", "where the network is silent");
}

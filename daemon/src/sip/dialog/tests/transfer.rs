//! REFER and its NOTIFYs (RFC 3515), and challenges that requests of ours answer (RFC 3261 §22).

use super::*;
use crate::base::Secret;
use crate::base::trunk::{Trunk, Trunks};

fn refer(b: &mut Bench, id: CallId) -> (TxId, Message) {
    let actions = b.ask(id, Command::Refer { to: "sip:desk@pbx.test".to_owned().into() });
    requests(&actions).remove(0)
}

fn told(b: &mut Bench, id: CallId, cseq: u32, state: &str, fragment: &str) -> Vec<Action> {
    let tag = b.tag(id);
    let notify = request(Method::Notify, "c", cseq, &tag).with("Event", "refer").with("Subscription-State", state);
    b.receive(notify.with_body("message/sipfrag", fragment)).1
}

fn answered(b: &mut Bench, tx: TxId, to: &Message, status: u16) -> Vec<Action> {
    b.event(TxnEvent::Response { tx, msg: Box::new(Message::response(to, status, None)) })
}

#[test]
fn a_transfer_is_followed_to_its_end() {
    let mut b = bench();
    let id = b.confirmed("c");
    let (tx, request) = refer(&mut b, id);
    assert_eq!(request.header("Refer-To"), Some("<sip:desk@pbx.test>"));
    assert!(request.header("Referred-By").is_some());
    let again = b.core.command(id, Command::Refer { to: "sip:x@y".to_owned().into() }, b.now());
    assert!(matches!(again, Err(CommandError::WrongState)), "one at a time");
    let news = |actions: &[Action]| match &notices(actions)[..] {
        [(_, Notice::Referred(news))] => *news,
        other => panic!("{other:?}"),
    };
    // The first NOTIFY may overtake the 202.
    assert_eq!(news(&told(&mut b, id, 2, "active;expires=60", "SIP/2.0 100 Trying")), Referral::Progress(100));
    assert_eq!(news(&answered(&mut b, tx, &request, 202)), Referral::Accepted);
    assert_eq!(news(&told(&mut b, id, 3, "active", "SIP/2.0 180 Ringing\r\n")), Referral::Progress(180));
    assert_eq!(
        news(&told(&mut b, id, 4, "terminated;reason=noresource", "SIP/2.0 486 Busy Here")),
        Referral::Done(486)
    );
    let late = told(&mut b, id, 5, "terminated", "SIP/2.0 200 OK");
    assert_eq!((statuses(&late), notices(&late)), (vec![481], vec![]), "it is over");
    // The call is still up, and another attempt may be made.
    let (tx, request) = refer(&mut b, id);
    assert_eq!(news(&answered(&mut b, tx, &request, 603)), Referral::Refused(603));
    let (tx, request) = refer(&mut b, id);
    answered(&mut b, tx, &request, 202);
    assert_eq!(news(&told(&mut b, id, 6, "terminated;reason=timeout", "SIP/2.0 100 Trying")), Referral::Done(408));
}

#[test]
fn a_notify_of_another_kind_is_refused_and_no_dialog_of_it_is_known() {
    let mut b = bench();
    let id = b.confirmed("c");
    refer(&mut b, id);
    let tag = b.tag(id);
    let (_, actions) = b.receive(request(Method::Notify, "c", 2, &tag).with("Event", "presence"));
    assert_eq!((statuses(&actions), response(&actions).header("Allow-Events")), (vec![489], Some("refer")));
    let (_, actions) = b.receive(request(Method::Notify, "d", 1, "").with("Event", "refer"));
    assert_eq!(statuses(&actions), [481]);
}

fn with_password() -> Bench {
    let mut b = bench();
    let mut trunk = Trunk::new("carrier".parse().unwrap());
    (trunk.username, trunk.password) = (Some("box".into()), Some(Secret::new("s3cret")));
    b.core.trunks(Trunks::new(&[trunk]));
    b
}

fn dial(b: &mut Bench) -> (CallId, TxId, Message) {
    let to = "sip:bob@10.0.0.9:5070".to_owned().into();
    let dial = Dial { to, sdp: SDP.into(), trunk: Some("carrier".parse().unwrap()), ..unnamed() };
    let (id, actions) = b.core.dial(&dial, b.now());
    let (tx, msg) = requests(&actions).remove(0);
    (id, tx, msg)
}

fn challenged(b: &mut Bench, tx: TxId, to: &Message, nonce: &str) -> Vec<Action> {
    let msg = Message::response(to, 407, None)
        .with("Proxy-Authenticate", format!("Digest realm=\"carrier\", nonce=\"{nonce}\", qop=\"auth\""));
    b.event(TxnEvent::Response { tx, msg: Box::new(msg) })
}

#[test]
fn every_request_answers_a_challenge_and_a_wrong_password_ends_it() {
    let mut b = with_password();
    let (id, tx, invite) = dial(&mut b);
    let (tx, again) = requests(&challenged(&mut b, tx, &invite, "one")).remove(0);
    let credit = again.header("Proxy-Authorization").expect("a digest").to_owned();
    assert!(credit.contains("username=\"box\"") && !credit.contains("s3cret"));
    assert_eq!((again.cseq(), again.call_id()), (Some(2), invite.call_id()));
    assert_ne!(again.header("Via"), invite.header("Via"), "another transaction");
    let msg =
        Box::new(Message::response(&again, 200, Some("b")).with("Contact", "<sip:bob@10.0.0.9>").with_sdp(Some(SDP)));
    let actions = b.event(TxnEvent::Response { tx, msg });
    let ack = actions.iter().find_map(|a| if let Action::Ack { msg, .. } = a { Some(msg) } else { None }).unwrap();
    assert_eq!((ack.cseq(), ack.header("Proxy-Authorization")), (Some(2), Some(credit.as_str())));
    // Each request within the dialog is asked for itself.
    let (tx, bye) = requests(&b.ask(id, Command::Hangup)).remove(0);
    let (tx, again) = requests(&challenged(&mut b, tx, &bye, "two")).remove(0);
    assert_eq!((again.method(), again.cseq()), (Some(Method::Bye), Some(4)));
    // The same nonce, or a fresh one that is not called stale: the password is wrong, and not said a third time.
    assert!(requests(&challenged(&mut b, tx, &again, "three")).is_empty());
    b.event(TxnEvent::Ended { tx });
    assert!(b.core.is_empty());
}

#[test]
fn a_call_whose_password_is_wrong_is_rejected_and_one_without_password_as_well() {
    let mut b = with_password();
    let (id, tx, invite) = dial(&mut b);
    let (tx, again) = requests(&challenged(&mut b, tx, &invite, "one")).remove(0);
    let rejected = |actions: &[Action]| matches!(&notices(actions)[..], [(of, Notice::Ended(EndReason::Rejected { status: 407, .. }))] if *of == id);
    assert!(rejected(&challenged(&mut b, tx, &again, "two")));
    let mut b = bench();
    let (_, tx, invite) = dial(&mut b);
    assert!(requests(&challenged(&mut b, tx, &invite, "one")).is_empty());
}

#[test]
fn a_trunk_has_room_for_as_many_calls_as_it_may_have_in_and_out() {
    let mut b = bench();
    let carrier = Trunk { max_calls: 1.try_into().unwrap(), ..Trunk::new("carrier".parse().unwrap()) };
    b.core.trunks(Trunks::new(&[carrier]));
    let name = "carrier".parse().unwrap();
    assert!(b.core.has_room(Some(&name)) && b.core.has_room(None));
    let (_, tx, invite) = dial(&mut b);
    assert!(!b.core.has_room(Some(&name)) && b.core.has_room(None));
    answered(&mut b, tx, &invite, 486);
    assert!(b.core.has_room(Some(&name)));
}

//! The examples of the RFCs, what real peers write, and both sides against each other.

use std::time::{Duration, Instant};

use super::*;
use crate::base::{Clock, ManualClock, Secret};
use crate::sip::message::{Message, Method};

fn response(header: &str, values: &[&str]) -> Message {
    let request = Message::request(Method::Invite, "sip:a@b");
    values.iter().fold(Message::response(&request, 401, None), |message, value| message.with(header, *value))
}

fn parse(values: &[&str]) -> Vec<Challenge> {
    Challenge::parse_all(&response("WWW-Authenticate", values))
}

/// The parameter `response` of an answer.
fn answered(
    challenge: &str,
    (user, password): (&str, &str),
    (method, uri): (&str, &str),
    nc: u32,
    cnonce: &str,
) -> String {
    let challenge = parse(&[challenge]).pop().expect("a challenge");
    let credentials = Credentials::new(user, Secret::new(password));
    let (_, value) = credentials.answer(&challenge, method, uri, b"v=0\r\n", nc, cnonce);
    Parameters::read(&value)[0].get("response").expect("a response").to_owned()
}

const MUFASA: &str = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
                      nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                      opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

#[test]
fn the_examples_of_the_rfcs() {
    let get = ("GET", "/dir/index.html");
    // RFC 7616 §3.9.1.
    for (algorithm, expected) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let challenge = format!("{MUFASA}, algorithm={algorithm}");
        assert_eq!(answered(&challenge, ("Mufasa", "Circle of Life"), get, 1, CNONCE), expected, "{algorithm}");
    }
    // RFC 2617 §3.5, and RFC 2069 §2.4 as its erratum corrects it: no qop, no count.
    let nonce = "nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
    let old = format!("Digest realm=\"testrealm@host.com\", {nonce}");
    let with = format!("{old}, qop=\"auth,auth-int\"");
    let told = answered(&with, ("Mufasa", "Circle Of Life"), get, 1, "0a4f113b");
    assert_eq!(told, "6629fae49393a05397450978507c4ef1");
    assert_eq!(answered(&old, ("Mufasa", "CircleOfLife"), get, 1, ""), "1949323746fe6a43ef61f9606e7febea");
    // No RFC has an example of these; computed with Python's hashlib.
    let bob = format!("Digest realm=\"biloxi.com\", {nonce}");
    for (more, nc, expected) in [
        ("qop=auth, algorithm=MD5-sess", 10, "c0a5870829c575198432ba651b8a41de"),
        ("qop=auth, algorithm=SHA-256-sess", 10, "8a60b78646a6e353ae8f4bfb727dca7b5f00f7f94f9ff2fc2aff7e192999cc04"),
        ("qop=auth-int", 1, "77226bb823dc077c1ad3537415667bae"),
    ] {
        let told =
            answered(&format!("{bob}, {more}"), ("bob", "zanzibar"), ("INVITE", "sip:bob@biloxi.com"), nc, "0a4f113b");
        assert_eq!(told, expected, "{more}");
    }
}

#[test]
fn what_real_peers_write_is_read() {
    // RFC 3665 §2.1 itself lacks a comma.
    let bob = Parameters::read(
        "Digest username=\"bob\", realm=\"atlanta.example.com\" nonce=\"ea9c8e88df84f1cec4341ae6cbe5a359\", opaque=\"\", \
         uri=\"sips:ss2.biloxi.example.com\", response=\"dfe56131d1958046689d83306477ecc\"",
    );
    assert_eq!(bob[0].get("nonce"), Some("ea9c8e88df84f1cec4341ae6cbe5a359"));
    assert_eq!((bob[0].get("opaque"), bob[0].get("uri")), (Some(""), Some("sips:ss2.biloxi.example.com")));
    for odd in [
        "digest REALM=x,NONCE=abc==,Qop=auth,algorithm=\"md5\",stale=TRUE",
        "Digest  realm = \"x\" , nonce = \"abc==\" ; qop = \"auth\" , , algorithm = MD5, stale=\"true\"",
        "Digest realm=\"x\", nonce=\"abc==\", stale=true, domain=\"sip:a sip:b\", algorithm=MD5, qop=\"auth",
    ] {
        let found = parse(&[odd]);
        let [one] = found.as_slice() else { panic!("{odd}: {found:?}") };
        assert_eq!((one.realm.as_str(), one.nonce.as_str(), one.stale), ("x", "abc==", true), "{odd}");
        assert_eq!((one.qop, one.algorithm), (Some(Qop::Auth), Some(Algorithm::Md5)), "{odd}");
    }
    let quoted = parse(&["Digest realm=\"a \\\"b\\\", nonce=c\", nonce=\"d\""]);
    assert_eq!((quoted[0].realm.as_str(), quoted[0].nonce.as_str()), ("a \\\"b\\\", nonce=c", "d"));
    for none in [
        "",
        "Digest",
        "Digest realm=\"x\"",
        "Basic realm=\"x\", nonce=\"y\"",
        "Digest realm=x, nonce=y, algorithm=SHA-3",
        "Digest realm=x, nonce=y, qop=\"auth-conf\"",
    ] {
        assert_eq!(parse(&[none]), [], "{none}");
    }
}

#[test]
fn of_each_realm_the_strongest_is_answered_and_of_equals_the_first() {
    let found = parse(&[
        "Digest realm=\"a\", nonce=\"1\", algorithm=MD5, Digest realm=\"a\", nonce=\"2\", algorithm=SHA-256",
        "Bearer x=y, Digest realm=\"a\", nonce=\"3\", algorithm=SHA-256",
        "Digest realm=\"a\", nonce=\"4\", algorithm=unknown",
        "Digest realm=\"b\", nonce=\"5\"",
    ]);
    let told: Vec<_> = found.iter().map(|c| (c.realm.as_str(), c.nonce.as_str(), c.algorithm)).collect();
    assert_eq!(told, [("a", "2", Some(Algorithm::Sha256)), ("b", "5", None)]);
    let proxy = Challenge::parse_all(&response("Proxy-Authenticate", &["Digest realm=\"a\", nonce=\"6\""]));
    let (name, value) = Credentials::new("u\"x", Secret::new("p")).answer(&proxy[0], "BYE", "sip:b", b"", 1, "c");
    assert_eq!(name, "Proxy-Authorization");
    assert!(value.starts_with("Digest username=\"u\\\"x\", realm=\"a\", nonce=\"6\", uri=\"sip:b\", response=\""));
    assert!(
        !value.contains("qop") && !value.contains("nc=") && !value.contains("algorithm"),
        "as it was asked: {value}"
    );
}

const BOTH: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Md5];

/// One peer that asks, one that answers.
struct Pair {
    clock: ManualClock,
    challenger: Challenger,
    password: Secret,
    random: u64,
}

impl Pair {
    fn new() -> Self {
        let clock = ManualClock::default();
        let challenger = Challenger::new("callbox", [7; 32], clock.now());
        Self { clock, challenger, password: Secret::new("s3cret"), random: 0 }
    }

    fn challenge(&mut self, stale: bool) -> Challenge {
        self.random += 1;
        let values = self.challenger.challenges(&BOTH, stale, self.random, self.clock.now());
        parse(&values.iter().map(String::as_str).collect::<Vec<_>>()).remove(0)
    }

    fn answer(&self, challenge: &Challenge, user: &str, password: &str, nc: u32) -> Message {
        let credentials = Credentials::new(user, Secret::new(password));
        let (name, value) = credentials.answer(challenge, "INVITE", "sip:a@b", b"", nc, "c0ffee");
        Message::request(Method::Invite, "sip:a@b").with(name, value)
    }

    fn verify(&mut self, request: &Message) -> Verdict {
        self.challenger.verify(request, &BOTH, ("alice", &self.password), self.clock.now())
    }

    /// How the right answer is judged.
    fn judged(&mut self, challenge: &Challenge, nc: u32) -> Verdict {
        let request = self.answer(challenge, "alice", "s3cret", nc);
        self.verify(&request)
    }
}

#[test]
fn who_knows_the_password_comes_in_once_for_each_count() {
    let mut pair = Pair::new();
    assert_eq!(pair.verify(&Message::request(Method::Invite, "sip:a@b")), Verdict::Missing);
    let challenge = pair.challenge(false);
    assert_eq!((challenge.algorithm, challenge.qop), (Some(Algorithm::Sha256), Some(Qop::Auth)));
    for (user, password) in [("alice", "wrong"), ("bob", "s3cret"), ("", "")] {
        let request = pair.answer(&challenge, user, password, 1);
        assert_eq!(pair.verify(&request), Verdict::Wrong, "{user}");
    }
    // 9, 10, 16: counts are hexadecimal. 12 overtakes 11; none counts twice.
    for nc in [1, 9, 10, 16, 12, 11, 80, 79] {
        assert_eq!(pair.judged(&challenge, nc), Verdict::Right, "{nc}");
        assert_eq!(pair.judged(&challenge, nc), Verdict::Stale, "{nc} again");
    }
    assert_eq!(pair.judged(&challenge, 13), Verdict::Stale, "too far behind to know");
    assert_eq!(pair.judged(&challenge, 0), Verdict::Wrong, "RFC 7616 §3.4: the first is 1");
    let other = Message::request(Method::Bye, "sip:a@b");
    let stolen = pair.answer(&challenge, "alice", "s3cret", 90);
    let moved = other.with("Authorization", stolen.header("Authorization").expect("there"));
    assert_eq!(pair.verify(&moved), Verdict::Wrong, "another method");
    let weak = pair.answer(&Challenge { algorithm: None, ..challenge.clone() }, "alice", "s3cret", 92);
    let verdict = pair.challenger.verify(&weak, &BOTH[..1], ("alice", &pair.password), pair.clock.now());
    assert_eq!(verdict, Verdict::Missing, "a hash that was not offered");
    let elsewhere = Challenge { realm: "elsewhere".into(), ..challenge };
    assert_eq!(pair.judged(&elsewhere, 91), Verdict::Missing, "an answer for somebody else");
}

#[test]
fn each_algorithm_comes_in_and_without_qop_once() {
    let mut pair = Pair::new();
    for algorithm in [None, Some(Algorithm::Md5), Some(Algorithm::Md5Sess), Some(Algorithm::Sha256Sess)] {
        let challenge = Challenge { algorithm, ..pair.challenge(false) };
        assert_eq!(pair.judged(&challenge, 1), Verdict::Right, "{algorithm:?}");
        let old = Challenge { qop: None, ..pair.challenge(false) };
        assert_eq!((pair.judged(&old, 1), pair.judged(&old, 2)), (Verdict::Right, Verdict::Stale), "{algorithm:?}");
    }
}

#[test]
fn an_old_or_foreign_nonce_is_stale_and_a_changed_one_too() {
    let mut pair = Pair::new();
    let challenge = pair.challenge(false);
    pair.clock.advance(Duration::from_secs(299));
    assert_eq!(pair.judged(&challenge, 1), Verdict::Right);
    pair.clock.advance(Duration::from_secs(2));
    assert_eq!(pair.judged(&challenge, 2), Verdict::Stale);
    let again = pair.challenge(true);
    assert!(again.stale);
    assert_eq!(pair.judged(&again, 1), Verdict::Right);
    // A process that was started again has another key.
    let mut next = Pair { challenger: Challenger::new("callbox", [8; 32], pair.clock.now()), ..Pair::new() };
    assert_eq!(next.judged(&again, 2), Verdict::Stale);
    for nonce in ["", "x", "00", &again.nonce.replacen('0', "1", 1), &format!("{}00", again.nonce), "é"] {
        let changed = Challenge { nonce: nonce.to_owned(), ..again.clone() };
        assert_eq!(pair.judged(&changed, 3), Verdict::Stale, "{nonce}");
    }
}

#[test]
fn what_is_remembered_is_bounded_and_nothing_forgotten_comes_in_again() {
    let mut pair = Pair::new();
    let first = pair.challenge(false);
    assert_eq!(pair.judged(&first, 1), Verdict::Right);
    for _ in 0..5000 {
        pair.clock.advance(Duration::from_millis(10));
        let challenge = pair.challenge(false);
        assert_eq!(pair.judged(&challenge, 1), Verdict::Right);
    }
    assert!(pair.challenger.used.len() <= 4096);
    assert_eq!(pair.judged(&first, 1), Verdict::Stale);
}

proptest::proptest! {
    #[test]
    fn any_text_is_survived_and_what_we_write_we_read(text in ".{0,200}") {
        fuzz(&text);
        fuzz(&format!("Digest realm=\"{text}\", nonce=\"n\""));
        fuzz(&format!("Digest nonce={text}"));
        let mut pair = Pair::new();
        for value in [text.clone(), format!("Digest realm=\"callbox\", {text}")] {
            let request = Message::request(Method::Invite, "sip:a@b").with("Authorization", value);
            proptest::prop_assert_ne!(pair.verify(&request), Verdict::Right);
        }
    }

    #[test]
    fn both_sides_agree(user in "[ -~]{1,20}", password in "[ -~]{1,20}", nc in 1_u32.., random in proptest::num::u64::ANY) {
        let born = ManualClock::default().now();
        let asks = || Challenger::new("a realm", [1; 32], born);
        for value in asks().challenges(&BOTH, false, random, born + Duration::from_secs(1)) {
            let challenge = parse(&[&value]).remove(0);
            let credentials = Credentials::new(user.as_str(), Secret::new(password.as_str()));
            let (name, answer) = credentials.answer(&challenge, "INVITE", "sip:a@b;transport=tcp", b"x", nc, "c");
            let request = Message::request(Method::Invite, "sip:a@b").with(name, answer);
            let now: Instant = born + Duration::from_secs(2);
            let verdict = asks().verify(&request, &BOTH, (&user, &Secret::new(password.as_str())), now);
            proptest::prop_assert_eq!(verdict, Verdict::Right, "{}", value);
        }
    }
}

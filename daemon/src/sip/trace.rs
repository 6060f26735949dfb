//! The signalling of live and recent calls, in memory. Enters: every message that was let in and every one that was sent;
//! leaves: those of one call, without secrets, for the control socket,
//! and how many there were. Bounded in bytes; the oldest call goes first, and
//! whoever never became a call takes nothing from those who did. Never here: a file, a log line, a password.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::message::{raw_header, split_head};
use super::traffic::Traffic;
use super::transaction::Flow;
use crate::base::{CallId, Clock};

/// Bytes of all calls, of all that is not (yet) a call, and of one of either.
const CALLS: usize = 8 << 20;
const STRANGERS: usize = 512 << 10;
const ONE: usize = 48 << 10;
/// What a message takes beside its bytes.
const OVERHEAD: usize = 128;
/// Messages of a call's beginning that stay when a long call has to forget some.
const BEGINNING: usize = 12;
/// How far back a message is looked for that comes again.
const REPEATED: usize = 8;
/// Calls that one Call-ID may have; whoever makes more with it loses the first ones' traces.
const NAMESAKES: usize = 8;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: SystemTime,
    /// We sent it.
    pub sent: bool,
    /// Between whom.
    pub flow: Flow,
    /// As on the wire, but with secrets overwritten.
    pub bytes: Box<[u8]>,
}

#[derive(Default)]
struct Dialog {
    messages: VecDeque<Seen>,
    bytes: usize,
    /// A Call-ID that has two calls (a loop, a fork) is the trace of both.
    calls: VecDeque<CallId>,
    touched: u64,
}

/// Dialogs of one kind, the one that was touched longest ago first.
#[derive(Default)]
struct Order {
    by_age: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
}

#[derive(Default)]
struct Ring {
    /// By Call-ID.
    dialogs: HashMap<Arc<[u8]>, Dialog>,
    names: HashMap<CallId, Arc<[u8]>>,
    calls: Order,
    strangers: Order,
    touches: u64,
}

/// Keeps what it is shown; clones share it.
#[derive(Clone)]
pub(super) struct Tracer {
    ring: Arc<Mutex<Ring>>,
    traffic: Arc<Traffic>,
    clock: Arc<dyn Clock>,
}

impl Tracer {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { ring: Arc::default(), traffic: Arc::default(), clock }
    }

    /// A message was let in, or sent.
    pub(super) fn record(&self, sent: bool, flow: Flow, raw: &[u8]) {
        self.traffic.count(sent, raw);
        let Some(id) = call_id(raw) else { return };
        let seen = Seen { at: self.clock.wall(), sent, flow, bytes: masked(raw) };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.record(&id, seen) {
            self.traffic.repeated(sent);
        }
    }

    /// How many messages there were.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// This Call-ID is that call.
    pub(super) fn name(&self, call: CallId, call_id: &str) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).name(call, call_id.as_bytes());
    }

    /// What is known of a call, oldest first.
    pub(super) fn of(&self, call: CallId) -> Vec<Seen> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let dialog = ring.names.get(&call).and_then(|id| ring.dialogs.get(id));
        let mut seen: Vec<Seen> = dialog.map(|d| d.messages.iter().cloned().collect()).unwrap_or_default();
        drop(ring);
        // A socket that is bound to no address does not know which one it sent from; the peer's messages say it.
        let known = seen.iter().map(|one| one.flow.local.ip()).find(|ip| !ip.is_unspecified());
        for one in &mut seen {
            if let (true, Some(ip)) = (one.flow.local.ip().is_unspecified(), known) {
                one.flow.local = SocketAddr::new(ip, one.flow.local.port());
            }
        }
        seen
    }
}

impl Ring {
    /// Whether the same was there a moment ago.
    fn record(&mut self, id: &[u8], seen: Seen) -> bool {
        let id: Arc<[u8]> = match self.dialogs.get_key_value(id) {
            Some((id, _)) => Arc::clone(id),
            None => id.into(),
        };
        self.touches += 1;
        let dialog = self.dialogs.entry(Arc::clone(&id)).or_default();
        let order = if dialog.calls.is_empty() { &mut self.strangers } else { &mut self.calls };
        order.by_age.remove(&dialog.touched);
        order.by_age.insert(self.touches, id);
        dialog.touched = self.touches;
        let size = seen.bytes.len() + OVERHEAD;
        let mut latest = dialog.messages.iter().rev().take(REPEATED);
        let again = latest.any(|before| before.sent == seen.sent && before.bytes == seen.bytes);
        dialog.messages.push_back(seen);
        (dialog.bytes, order.bytes) = (dialog.bytes + size, order.bytes + size);
        while dialog.bytes > ONE && dialog.messages.len() > 1 {
            let oldest = if dialog.messages.len() > BEGINNING + 1 { BEGINNING } else { 0 };
            let gone = dialog.messages.remove(oldest).map_or(0, |gone| gone.bytes.len() + OVERHEAD);
            (dialog.bytes, order.bytes) = (dialog.bytes - gone, order.bytes - gone);
        }
        self.forget();
        again
    }

    fn name(&mut self, call: CallId, id: &[u8]) {
        let (id, dialog) = match self.dialogs.get_key_value(id) {
            Some((known, _)) => (Arc::clone(known), self.dialogs.entry(Arc::clone(known)).or_default()),
            None => {
                let id: Arc<[u8]> = id.into();
                (Arc::clone(&id), self.dialogs.entry(id).or_default())
            }
        };
        if dialog.calls.is_empty() {
            self.strangers.by_age.remove(&dialog.touched);
            self.strangers.bytes -= dialog.bytes;
            if dialog.touched == 0 {
                self.touches += 1;
                dialog.touched = self.touches;
            }
            self.calls.by_age.insert(dialog.touched, Arc::clone(&id));
            self.calls.bytes += dialog.bytes;
        }
        dialog.calls.retain(|known| *known != call);
        dialog.calls.push_back(call);
        let gone = if dialog.calls.len() > NAMESAKES { dialog.calls.pop_front() } else { None };
        self.names.insert(call, id);
        if let Some(gone) = gone {
            self.names.remove(&gone);
        }
        self.forget();
    }

    fn forget(&mut self) {
        for (order, most) in [(&mut self.calls, CALLS), (&mut self.strangers, STRANGERS)] {
            // A name alone takes room, too.
            while order.bytes + order.by_age.len() * OVERHEAD > most {
                let Some((_, id)) = order.by_age.pop_first() else { break };
                let Some(gone) = self.dialogs.remove(&id) else { continue };
                order.bytes -= gone.bytes;
                for call in gone.calls {
                    self.names.remove(&call);
                }
            }
        }
    }
}

/// The Call-ID of a message.
fn call_id(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (head, _) = split_head(raw)?;
    raw_header(head, "Call-ID").filter(|value| !value.is_empty())
}

/// Header fields whose values let somebody in.
const SECRET_HEADERS: [&[u8]; 2] = [b"authorization", b"proxy-authorization"];
/// Lines of SDP that hold keys.
const SECRET_LINES: [&[u8]; 3] = [b"a=crypto:", b"a=key-mgmt:", b"k="];

/// A copy of the same length without passwords' digests, keys and digits that were pressed.
fn masked(raw: &[u8]) -> Box<[u8]> {
    let mut copy: Box<[u8]> = raw.into();
    let head = split_head(raw).map_or(raw.len(), |(_, body)| raw.len() - body.len());
    // Bodies of INFO that are digits: a PIN, as likely as not.
    let digits = raw_header(raw, "Content-Type")
        .is_some_and(|kind| kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/dtmf")));
    let (mut at, mut secret_goes_on) = (0, false);
    for line in raw.split_inclusive(|b| *b == b'\n') {
        let end = at + line.len();
        let begins = |with: &[u8]| line.get(..with.len()).is_some_and(|l| l.eq_ignore_ascii_case(with));
        let from = if at < head {
            let folded = line.starts_with(b" ") || line.starts_with(b"\t");
            let name = line.split(|b| *b == b':').next().unwrap_or_default().trim_ascii();
            let secret = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
            secret_goes_on = if folded { secret_goes_on } else { secret };
            let after_name = line.iter().position(|b| *b == b':').map_or(0, |colon| colon + 1);
            secret_goes_on.then_some(if folded { 0 } else { after_name })
        } else if digits {
            // `application/dtmf` is the digit and nothing else; of the other only a length is known to be none.
            let equals = line.iter().position(|b| *b == b'=');
            let name = line.get(..equals.unwrap_or(0)).unwrap_or_default().trim_ascii();
            (!name.eq_ignore_ascii_case(b"duration")).then_some(equals.map_or(0, |equals| equals + 1))
        } else {
            SECRET_LINES.iter().find(|name| begins(name)).map(|name| name.len())
        };
        if let (Some(from), Some(line)) = (from, copy.get_mut(at..end)) {
            for byte in line.iter_mut().skip(from).filter(|b| !b.is_ascii_whitespace()) {
                *byte = b'*';
            }
        }
        at = end;
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ManualClock;
    use crate::sip::Transport;

    fn flow() -> Flow {
        let at = |text: &str| text.parse().unwrap();
        Flow { transport: Transport::Udp, local: at("0.0.0.0:5060"), peer: at("192.0.2.9:5060") }
    }

    fn message(id: &str, body: &str) -> Vec<u8> {
        format!("INVITE sip:a@b SIP/2.0\r\nCall-ID: {id}\r\n\r\n{body}").into_bytes()
    }

    #[test]
    fn secrets_are_overwritten_and_lengths_stay() {
        let raw = b"INVITE sip:a@b SIP/2.0\r\ni: x\r\nProxy-AUTHORIZATION : Digest username=\"alice\",\r\n response=\"abc\"\r\n\
                    Subject: hello\r\nAuthorization: Digest response=\"def\"\r\nContent-Type: application/sdp\r\n\r\n\
                    v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:c2VjcmV0\r\nk=clear:pw\r\nm=audio 1\r\n";
        let kept = String::from_utf8(masked(raw).into()).unwrap();
        assert_eq!(kept.len(), raw.len());
        for secret in ["alice", "abc", "def", "c2VjcmV0", "pw"] {
            assert!(!kept.contains(secret), "{secret} in {kept}");
        }
        assert!(kept.contains("Subject: hello\r\n") && kept.ends_with("m=audio 1\r\n"), "{kept}");
        let info =
            b"INFO sip:a SIP/2.0\r\ni: x\r\nContent-Type: application/dtmf-relay\r\n\r\nSignal=7\r\nDuration=100\r\n";
        let kept = String::from_utf8(masked(info).into()).unwrap();
        assert!(kept.ends_with("Signal=*\r\nDuration=100\r\n"), "{kept}");
        for signal in ["Signal=", "Signal  = ", "Signal\t=", " SIGNAL=", "Signal\u{a0}="] {
            let body = format!("Duration=160\r\n{signal}7\r\n");
            assert_eq!(super::super::info::key("application/dtmf-relay", body.as_bytes()), Some('7'), "{signal}");
            let info = format!("INFO sip:a SIP/2.0\r\ni: x\r\nContent-Type:\r\n application/dtmf-relay\r\n\r\n{body}");
            assert_eq!(masked(info.as_bytes()), info.replace('7', "*").into_bytes().into_boxed_slice(), "{signal}");
        }
        let info = b"INFO sip:a SIP/2.0\r\ni: x\r\nc: application/dtmf\r\n\r\n7";
        assert!(masked(info).ends_with(b"\r\n\r\n*"));
    }

    #[test]
    fn a_call_is_found_by_its_number_and_strangers_do_not_push_it_out() {
        let tracer = Tracer::new(Arc::new(ManualClock::default()));
        tracer.record(true, flow(), &message("mine", "first"));
        tracer.name(CallId(7), "mine");
        for n in 0..20_000 {
            tracer.record(false, flow(), &message(&format!("stranger-{n}"), &"x".repeat(400)));
        }
        let here = Flow { local: "192.0.2.1:5060".parse().unwrap(), ..flow() };
        tracer.record(false, here, &message("mine", "second"));
        let seen = tracer.of(CallId(7));
        assert_eq!(seen.iter().map(|s| s.sent).collect::<Vec<_>>(), [true, false]);
        assert_eq!(seen[0].flow.local, here.local, "of a socket without address");
        let ring = tracer.ring.lock().unwrap();
        assert!(ring.strangers.bytes <= STRANGERS, "{}", ring.strangers.bytes);
        assert!(ring.dialogs.len() < 2000, "{}", ring.dialogs.len());
        drop(ring);
        assert!(tracer.of(CallId(8)).is_empty());
        // One Call-ID for every call: the last ones are found by it.
        for n in 100..1000 {
            tracer.name(CallId(n), "mine");
        }
        let ring = tracer.ring.lock().unwrap();
        assert_eq!((ring.names.len(), ring.dialogs[b"mine".as_slice()].calls.len()), (NAMESAKES, NAMESAKES));
        drop(ring);
        assert_eq!((tracer.of(CallId(999)).len(), tracer.of(CallId(7)).len()), (2, 0));
    }

    #[test]
    fn what_comes_again_is_told_from_what_is_new() {
        let tracer = Tracer::new(Arc::new(ManualClock::default()));
        for (sent, body) in [(false, "a"), (false, "a"), (true, "a"), (false, "b"), (false, "a"), (true, "c")] {
            tracer.record(sent, flow(), &message("mine", body));
        }
        tracer.record(false, flow(), &message("another", "a"));
        assert_eq!((tracer.traffic().repetitions(false), tracer.traffic().repetitions(true)), (2, 0));
    }

    #[test]
    fn bytes_are_bounded_for_one_call_and_for_all() {
        let tracer = Tracer::new(Arc::new(ManualClock::default()));
        for n in 0..500 {
            tracer.record(n % 2 == 0, flow(), &message("long", &format!("{n}{}", "x".repeat(1000))));
        }
        tracer.name(CallId(1), "long");
        let seen = tracer.of(CallId(1));
        assert!(seen[0].bytes.ends_with(b"x") && seen[0].bytes.windows(2).any(|w| w == b"0x"), "its beginning stays");
        assert!(seen.last().unwrap().bytes.windows(4).any(|w| w == b"499x"), "and its end");
        for n in 0..2000_u64 {
            let id = n.to_string();
            tracer.name(CallId(100 + n), &id);
            for _ in 0..20 {
                tracer.record(false, flow(), &message(&id, &"y".repeat(1000)));
            }
        }
        let ring = tracer.ring.lock().unwrap();
        let held: usize = ring.dialogs.values().flat_map(|d| &d.messages).map(|m| m.bytes.len() + OVERHEAD).sum();
        assert_eq!(held, ring.calls.bytes + ring.strangers.bytes, "the count is right");
        assert!(held <= CALLS + STRANGERS, "{held}");
        assert!(ring.names.len() <= ring.dialogs.len() && ring.names.contains_key(&CallId(2099)));
        assert!(!ring.names.contains_key(&CallId(1)), "the oldest went first");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_masked_in_place(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            proptest::prop_assert_eq!(masked(&raw).len(), raw.len());
            call_id(&raw);
        }
    }
}

//! Two sessions, each the other's far end, joined by nothing but this file's clock.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use callbox::base::{ClauseId, Clock, SystemClock, TurnId};
use callbox::media::rtp::Packet;
use callbox::media::srtp::{Keys, MasterKey, Suite};
use callbox::media::{Codec, Ends, Event, FRAME, PlayFrame, Session, SessionParameters};

const LEFT: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);
const RIGHT: ([u8; 4], u16) = ([10, 0, 0, 2], 5000);

fn parameters(remote: SocketAddr, ssrc: u32) -> SessionParameters {
    SessionParameters {
        remote_rtcp: remote,
        rtcp_mux: true,
        ssrc,
        sequence: 65_530,
        timestamp: u32::MAX - 1000,
        silence: Duration::from_secs(2),
        ..SessionParameters::new(Codec::Pcmu, remote)
    }
}

struct End {
    session: Session,
    ends: Ends,
    address: SocketAddr,
    heard: Vec<i16>,
    events: Vec<Event>,
}

impl End {
    fn new(address: SocketAddr, remote: SocketAddr, ssrc: u32, now: Instant) -> Self {
        let (session, ends) = Session::new(parameters(remote, ssrc), now, SystemTime::UNIX_EPOCH);
        Self { session, ends, address, heard: Vec::new(), events: Vec::new() }
    }

    /// Keeps one play-out frame waiting, loud as told, and returns what is to be sent.
    fn tick(&mut self, now: Instant, level: i16) -> Vec<Vec<u8>> {
        if level != 0 {
            self.ends.play.push(PlayFrame { turn: TurnId(1), clause: ClauseId(2), samples: [level; FRAME] });
        }
        let mut out = Vec::new();
        self.session.tick(now, |packet| out.push(packet.bytes.to_vec()));
        self.session.report(now, |packet| out.push(packet.bytes.to_vec()));
        while let Some(frame) = self.ends.frames.pop() {
            self.heard.push(frame.samples[FRAME / 2]);
        }
        while let Ok(event) = self.ends.events.pop() {
            self.events.push(event);
        }
        out
    }

    /// Whether it says goodbye to somebody.
    fn goodbye(&mut self) -> bool {
        let mut said = false;
        self.session.goodbye(SystemClock.now(), |_| said = true);
        said
    }
}

struct Call {
    now: Instant,
    left: End,
    right: End,
}

impl Call {
    fn new() -> Self {
        let now = SystemClock.now();
        let (left, right) = (LEFT.into(), RIGHT.into());
        Self { now, left: End::new(left, right, 1, now), right: End::new(right, left, 2, now) }
    }

    /// 20 ms, of which every packet spends `way` on the network.
    fn tick(&mut self, way: Duration) {
        let (from_left, from_right) = (self.left.tick(self.now, 4000), self.right.tick(self.now, -4000));
        for bytes in from_left {
            self.right.session.handle_packet(self.now + way, &bytes, self.left.address);
        }
        for bytes in from_right {
            self.left.session.handle_packet(self.now + way, &bytes, self.right.address);
        }
        self.now += Duration::from_millis(20);
    }

    fn run(&mut self, ticks: usize) {
        (0..ticks).for_each(|_| self.tick(Duration::from_millis(7)));
    }
}

fn near(level: i16, expected: i16) -> bool {
    (level - expected).abs() < 100
}

#[test]
fn both_hear_each_other_and_know_the_round_trip() {
    let mut call = Call::new();
    call.run(1500);
    for (end, level) in [(&call.left, -4000), (&call.right, 4000)] {
        assert!(end.heard[10..].iter().all(|heard| near(*heard, level)), "{:?}", &end.heard[..20]);
        let stats = end.session.stats(call.now);
        let round_trip = stats.round_trip.expect("measured");
        // There and back, less than a tick of which is our own.
        assert!((Duration::from_millis(13)..Duration::from_millis(15)).contains(&round_trip), "{round_trip:?}");
        assert_eq!((stats.far_loss, stats.rejected, stats.received), (Some(0.0), 0, 1500));
        assert!(stats.jitter_ms < 0.5);
    }
}

#[test]
fn a_new_codec_and_a_new_sender_are_followed() {
    let mut call = Call::new();
    call.run(100);
    call.left.session.update(SessionParameters { codec: Codec::Pcma, payload_type: 8, ..parameters(RIGHT.into(), 1) });
    call.run(100);
    // The far end is replaced: another identifier, sequence and timestamp from the same address.
    let mut other = parameters(RIGHT.into(), 77);
    (other.sequence, other.timestamp) = (9, 1_000_000);
    let (session, ends) = Session::new(other, call.now, SystemTime::UNIX_EPOCH);
    (call.left.session, call.left.ends) = (session, ends);
    call.run(100);
    let heard = &call.right.heard;
    let understood = heard.iter().filter(|heard| near(**heard, 4000)).count();
    assert!(understood > 285, "{understood} of {}", heard.len());
    assert_eq!(call.right.session.stats(call.now).buffer.resets, 1);
}

#[test]
fn a_sealed_call_goes_on_elsewhere_after_its_numbers_have_wrapped() {
    for suite in [Suite::AesCm80, Suite::AesCm32, Suite::AesGcm128, Suite::AesGcm256] {
        let key = |octet| MasterKey::new(suite, vec![octet; suite.octets()]).expect("as long as it must be");
        let sealed = |remote: SocketAddr, ssrc: u32| {
            let (send, receive) = (key(ssrc as u8), key(3 - ssrc as u8));
            SessionParameters { keys: Some(Keys { send, receive }), ..parameters(remote, ssrc) }
        };
        let mut call = Call::new();
        call.left.session.update(sealed(RIGHT.into(), 1));
        call.right.session.update(sealed(LEFT.into(), 2));
        call.run(100);
        let stats = call.left.session.stats(call.now);
        assert_eq!((stats.roll_over, stats.progress.heard.map(|(_, index)| index >> 16)), (1, Some(1)));
        // Another process, which knows no more than what was kept.
        let (sequence, timestamp, _) = stats.next.expect("a stream");
        let (roll_over, progress) = (stats.roll_over, stats.progress);
        let kept =
            SessionParameters { sequence: sequence + 9, timestamp, roll_over, progress, ..sealed(RIGHT.into(), 1) };
        let (session, ends) = Session::new(kept, call.now, SystemTime::UNIX_EPOCH);
        (call.left.session, call.left.ends) = (session, ends);
        call.run(100);
        for (end, level) in [(&call.left, -4000), (&call.right, 4000)] {
            assert_eq!(end.session.stats(call.now).rejected, 0, "{suite:?}");
            assert!(end.heard[end.heard.len() - 50..].iter().all(|heard| near(*heard, level)), "{suite:?}");
        }
    }
}

#[test]
fn a_call_that_was_plain_for_a_while_is_sealed_again_without_reuse_or_deafness() {
    let key = |octet| {
        let suite = Suite::AesGcm128;
        MasterKey::new(suite, vec![octet; suite.octets()]).expect("as long as it must be")
    };
    // Of both ends; none for plain.
    let agree = |call: &mut Call, octet: Option<u8>| {
        let keys =
            |send: u32| octet.map(|octet| Keys { send: key(octet + send as u8), receive: key(octet + 3 - send as u8) });
        call.left.session.update(SessionParameters { keys: keys(1), ..parameters(RIGHT.into(), 1) });
        call.right.session.update(SessionParameters { keys: keys(2), ..parameters(LEFT.into(), 2) });
    };
    for begins_plain in [false, true] {
        let (mut call, mut reports) = (Call::new(), 0);
        let first = if begins_plain { None } else { Some(0) };
        for octet in [first, Some(10), Some(0), None, Some(0), Some(10)] {
            agree(&mut call, octet);
            // Enough for a report, and at first for the sequence numbers to wrap.
            call.run(500);
            let progress = call.left.session.stats(call.now).progress;
            assert!(progress.rtcp > reports || octet.is_none(), "{octet:?}");
            assert!(progress.rtcp >= reports, "an index twice");
            reports = progress.rtcp;
        }
        // The far end has a key since after the wrap.
        assert_eq!(call.left.session.stats(call.now).roll_over, u32::from(!begins_plain));
        for (end, level) in [(&call.left, -4000), (&call.right, 4000)] {
            assert_eq!(end.session.stats(call.now).rejected, 0);
            assert!(end.heard[10..].iter().all(|heard| near(*heard, level)));
        }
    }
}

#[test]
fn one_stray_packet_of_another_stream_is_not_heard() {
    let mut call = Call::new();
    call.run(100);
    for n in 0..100 {
        let stray =
            Packet { marker: false, payload_type: 0, sequence: n * 7, timestamp: 5, ssrc: 66, payload: &[0; 160] };
        let bytes = [&stray.header()[..], stray.payload].concat();
        call.right.session.handle_packet(call.now, &bytes, LEFT.into());
        call.run(1);
    }
    assert!(call.right.heard[10..].iter().all(|heard| near(*heard, 4000)));
}

#[test]
fn nothing_is_sent_to_who_has_neither_agreed_nor_spoken() {
    let (mut now, unconfirmed) =
        (SystemClock.now(), |confirmed| SessionParameters { confirmed, ..parameters(RIGHT.into(), 1) });
    let mut end = End::new(LEFT.into(), RIGHT.into(), 1, now);
    end.session.update(unconfirmed(false));
    let mut sent = |end: &mut End| {
        now += Duration::from_millis(20);
        end.tick(now, 4000).len()
    };
    assert_eq!((0..500).map(|_| sent(&mut end)).sum::<usize>(), 0, "audio and reports");
    assert!(!end.goodbye());
    end.session.update(unconfirmed(true));
    assert_eq!(sent(&mut end), 1);
    end.session.update(unconfirmed(false));
    assert_eq!(sent(&mut end), 0);
    let packet = Packet { marker: false, payload_type: 0, sequence: 1, timestamp: 5, ssrc: 66, payload: &[0; 160] };
    end.session.handle_packet(SystemClock.now(), &[&packet.header()[..], packet.payload].concat(), RIGHT.into());
    assert_eq!(sent(&mut end), 1);
    assert!(end.goodbye());
    // Whoever sends audio need not be at the address that was named for reports.
    let elsewhere = ([10, 0, 0, 3], 5001).into();
    end.session.update(SessionParameters { rtcp_mux: false, remote_rtcp: elsewhere, ..unconfirmed(false) });
    assert!(!end.goodbye());
    let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
    for nothing in [&[][..], &[0x80, 0, 0, 0], &report] {
        let rejected = end.session.stats(SystemClock.now()).rejected;
        end.session.handle_rtcp(SystemClock.now(), nothing, elsewhere);
        let believed = end.session.stats(SystemClock.now()).rejected == rejected;
        assert_eq!(end.goodbye(), believed);
        assert_eq!(believed, nothing == report);
    }
}

#[test]
fn who_is_back_from_a_long_hold_has_time_to_speak() {
    let mut now = SystemClock.now();
    let mut end = End::new(LEFT.into(), RIGHT.into(), 1, now);
    let mut silences = |end: &mut End, ticks: u32| {
        end.events.clear();
        for _ in 0..ticks {
            now += Duration::from_millis(20);
            end.tick(now, 0);
        }
        end.events.iter().filter(|event| matches!(event, Event::Silence { .. })).count()
    };
    assert_eq!(silences(&mut end, 399), 3, "2, 4 and 6 s");
    end.session.update(parameters(RIGHT.into(), 1));
    assert_eq!((silences(&mut end, 99), silences(&mut end, 1)), (0, 1));
}

#[test]
fn hold_silence_and_resume() {
    let mut call = Call::new();
    call.run(50);
    call.left.session.update(SessionParameters { send: false, ..parameters(RIGHT.into(), 1) });
    call.run(250);
    let silences: Vec<_> = call.right.events.iter().filter(|event| matches!(event, Event::Silence { .. })).collect();
    assert_eq!(silences.len(), 1, "2 s after the report that came 2.5 s after the start");
    assert!(call.left.events.iter().all(|event| !matches!(event, Event::Drained)), "the queue waits");
    let sent = call.left.session.stats(call.now).sent;
    call.left.session.update(parameters(RIGHT.into(), 9));
    let first = call.left.tick(call.now, 4000).remove(0);
    let packet = Packet::parse(&first).expect("packet");
    // Time has gone on, numbers have not, and the marker tells.
    assert!(packet.marker);
    assert_eq!(packet.ssrc, 1, "our stream goes on");
    assert_eq!(packet.sequence, 65_530_u16.wrapping_add(sent as u16));
    assert_eq!(packet.timestamp, (u32::MAX - 1000).wrapping_add(300 * 160));
    call.run(100);
    assert!(call.right.heard[310..].iter().filter(|heard| near(**heard, 4000)).count() > 80);
}

//! Datagrams at the RTP port of a call, from its far end, with ticks between them. Each begins with its length and with
//! the milliseconds since the one before.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use callbox::base::{Clock, SystemClock};
use callbox::media::{Codec, LatchRule, Session, SessionParameters};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(|| SystemClock.now());

fuzz_target!(|data: &[u8]| {
    let source = SocketAddr::from(([127, 0, 0, 1], 4000));
    let parameters = SessionParameters {
        codec: Codec::Pcmu,
        payload_type: 0,
        telephone_event: Some(101),
        remote_rtp: source,
        remote_rtcp: source,
        rtcp_mux: true,
        send: true,
        latch: LatchRule::Any,
        ssrc: 1,
        sequence: 2,
        timestamp: 3,
        cname: String::from("callbox"),
        silence: Duration::from_secs(5),
        confirmed: true,
    };
    let mut now = *START;
    let (mut session, mut ends) = Session::new(parameters, now, SystemTime::UNIX_EPOCH);
    let mut rest = data;
    while let Some(([length, wait], after)) = rest.split_first_chunk::<2>() {
        let (datagram, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        session.handle_packet(now, datagram, source);
        for _ in 0..=wait / 20 {
            now += Duration::from_millis(20);
            assert!(session.tick(now).is_some());
            session.report(now);
            assert!(ends.frames.pop().is_ok() && ends.frames.pop().is_err());
            while ends.events.pop().is_ok() {}
        }
    }
});

//! Datagrams at the RTP port of a call, from its far end, with ticks between them. Each begins with its length and with
//! the milliseconds since the one before. The first octet chooses the codec, and whether and how packets are sealed.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use callbox::base::{Clock, SystemClock};
use callbox::media::srtp::{Keys, MasterKey, Suite};
use callbox::media::{Codec, Session, SessionParameters};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(|| SystemClock.now());

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let source = SocketAddr::from(([127, 0, 0, 1], 4000));
    let codec = [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus][usize::from(first & 3)];
    // Encrypted, nothing gets far: every other call is plain.
    let suites = [Suite::AesCm80, Suite::AesCm32, Suite::AesGcm128, Suite::AesGcm256];
    let key = |suite: Suite| MasterKey::new(suite, vec![7; suite.octets()]).expect("as long as it must be");
    let keys = |suite| Keys { send: key(suite), receive: key(suite) };
    let parameters = SessionParameters {
        remote_rtcp: source,
        rtcp_mux: true,
        silence: Duration::from_secs(5),
        ptime: 10 * u16::from(first >> 5),
        keys: (first & 4 != 0).then(|| keys(suites[usize::from(first >> 3 & 3)])),
        ..SessionParameters::new(codec, source)
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
            session.tick(now, |_| {});
            session.report(now, |_| {});
            assert!(ends.frames.pop().is_some() && ends.frames.pop().is_none());
            while ends.events.pop().is_ok() {}
        }
    }
});

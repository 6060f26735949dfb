//! One call's audio path allocates nothing: not for packets, good or bad, not for frames, keys, losses or reports.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, SystemTime};

use callbox::base::{ClauseId, Clock, SystemClock, TurnId};
use callbox::media::rtp::Packet;
use callbox::media::{Codec, FRAME, LatchRule, PlayFrame, Session, SessionParameters};

struct Counting;

thread_local! {
    /// Of this thread: the test's runner allocates as it pleases. Needs no allocation itself.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_minutes_of_a_call_allocate_nothing() {
    let start = SystemClock.now();
    let source = "127.0.0.1:4000".parse().expect("address");
    let parameters = SessionParameters {
        codec: Codec::Pcmu,
        payload_type: 0,
        telephone_event: Some(101),
        remote_rtp: source,
        remote_rtcp: "127.0.0.1:4001".parse().expect("address"),
        rtcp_mux: true,
        send: true,
        latch: LatchRule::Any,
        ssrc: 7,
        sequence: 65_000,
        timestamp: u32::MAX - 8000,
        cname: "callbox".into(),
        confirmed: true,
        silence: Duration::from_secs(5),
    };
    let (mut session, mut ends) = Session::new(parameters, start, SystemTime::UNIX_EPOCH);
    let mut bytes = [0; 172];
    let (mut heard, mut sent, mut reports) = (0, 0, 0);
    let before = ALLOCATIONS.get();
    for n in 0..30_000_u32 {
        let now = start + Duration::from_millis(20) * n;
        let payload_type = if n % 500 > 490 { 101 } else { 0 };
        let ssrc = 1 + n / 7000;
        let packet = Packet { marker: false, payload_type, sequence: n as u16, timestamp: n * 160, ssrc, payload: &[] };
        bytes[..12].copy_from_slice(&packet.header());
        bytes[12..].fill(if payload_type == 0 { n as u8 } else { 5 });
        // Every eleventh is lost, some come twice, some are cut short, some come from a stranger.
        if n % 11 != 0 {
            session.handle_packet(now, &bytes, source);
            session.handle_packet(now, &bytes[..(n % 172) as usize], source);
        }
        if n % 100 < 50 {
            assert!(ends.play.push(PlayFrame { turn: TurnId(n), clause: ClauseId(0), samples: [1000; FRAME] }));
        }
        if n % 997 == 0 {
            ends.play.flush();
        }
        sent += usize::from(session.tick(now).is_some());
        reports += usize::from(session.report(now).is_some());
        heard += usize::from(ends.frames.pop().is_ok());
        while ends.events.pop().is_ok() {}
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!((sent, heard), (30_000, 30_000));
    assert!(reports > 80 && session.stats(start).keys > 50, "{reports} {:?}", session.stats(start));
}

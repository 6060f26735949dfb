//! One call's audio path allocates nothing: not for packets, good or bad, in whatever codec, sealed or not, not for frames, keys, losses or reports.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, SystemTime};

use callbox::base::{ClauseId, Clock, SystemClock, TurnId};
use callbox::media::srtp::{Keys, MasterKey, Suite};
use callbox::media::{Codec, FRAME, PlayFrame, Session, SessionParameters};

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
    let (start, source) = (SystemClock.now(), "127.0.0.1:4000".parse().expect("address"));
    let keys = |suite: Suite| MasterKey::new(suite, vec![7; suite.octets()]).expect("as long as it must be");
    for (codec, suite) in
        [(Codec::Pcmu, None), (Codec::G722, Some(Suite::AesCm80)), (Codec::Opus, Some(Suite::AesGcm128))]
    {
        let parameters = SessionParameters {
            remote_rtcp: "127.0.0.1:4001".parse().expect("address"),
            rtcp_mux: true,
            sequence: 65_000,
            timestamp: u32::MAX - 8000,
            silence: Duration::from_secs(5),
            keys: suite.map(|suite| Keys { send: keys(suite), receive: keys(suite) }),
            ..SessionParameters::new(codec, source)
        };
        let (mut session, mut ends) = Session::new(parameters.clone(), start, SystemTime::UNIX_EPOCH);
        // The far end: as we are.
        let (mut peer, mut far) = Session::new(parameters.clone(), start, SystemTime::UNIX_EPOCH);
        let (mut heard, mut sent, mut reports) = (0, 0, 0);
        let (mut bytes, mut length) = ([0; 600], 0);
        let mut before = 0;
        for n in 0..30_000_u32 {
            // Both have spoken: there is room for what may come back as an echo.
            if n == 200 {
                before = ALLOCATIONS.get();
            }
            let now = start + Duration::from_millis(20) * n;
            if n % 700 == 0 {
                peer.press(callbox::media::Keys::parse("1").expect("a key"));
            }
            // What is to be played is allocated by whoever wants it played.
            let ours = ALLOCATIONS.get();
            if n % 3 == 0 {
                far.play.push(PlayFrame { turn: TurnId(n), clause: ClauseId(0), samples: [n as i16; FRAME] });
            }
            // Never silent for a second.
            if n % 100 < 60 {
                assert!(ends.play.push(PlayFrame { turn: TurnId(n), clause: ClauseId(0), samples: [1000; FRAME] }));
            }
            ALLOCATIONS.set(ours);
            // Every eleventh is lost, some come twice, some are cut short.
            peer.tick(now, |packet| {
                length = packet.bytes.len();
                bytes[..length].copy_from_slice(packet.bytes);
                if n % 11 != 0 {
                    session.handle_packet(now, packet.bytes, source);
                    session.handle_packet(now, &packet.bytes[..n as usize % length], source);
                }
            });
            if n % 13 == 0 {
                session.handle_packet(now, &bytes[..length], source);
            }
            if n % 997 == 0 {
                ends.play.flush();
            }
            session.tick(now, |_| sent += 1);
            session.report(now, |_| reports += 1);
            heard += usize::from(ends.frames.pop().is_some());
            while far.frames.pop().is_some() {}
            while ends.events.pop().is_ok() {}
            while far.events.pop().is_ok() {}
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{codec:?}");
        assert_eq!((sent, heard), (30_000, 30_000));
        assert!(reports > 80 && session.stats(start).keys > 30, "{codec:?} {reports} {:?}", session.stats(start));
    }
}

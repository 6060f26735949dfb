//! The media thread with real sockets on loopback: calls talk to each other, vanish, change, exhaust the ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use callbox::base::{ClauseId, TurnId};
use callbox::media::{
    Codec, Direction, Event, FRAME, Media, MediaConfig, MediaError, MediaSession, MediaThread, PlayFrame, Reservation,
    SessionParameters,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn media(ports: std::ops::RangeInclusive<u16>, max_sessions: usize) -> Media {
    MediaThread::start(MediaConfig { bind: LOCALHOST, ports, max_sessions }).expect("media thread")
}

fn parameters(port: u16, ssrc: u32) -> SessionParameters {
    SessionParameters {
        ssrc,
        sequence: 1,
        timestamp: 2,
        silence: Duration::from_millis(300),
        ..SessionParameters::new(Codec::Pcma, SocketAddr::new(LOCALHOST, port))
    }
}

/// Two calls, each the other's far end.
fn pair(media: &Media) -> (MediaSession, MediaSession) {
    let (left, right) = (media.reserve().expect("port"), media.reserve().expect("port"));
    let (to_left, to_right) = (parameters(left.port(), 1), parameters(right.port(), 2));
    (media.open(left, to_right).expect("open"), media.open(right, to_left).expect("open"))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

fn frame(turn: u32, level: i16) -> PlayFrame {
    PlayFrame { turn: TurnId(turn), clause: ClauseId(0), samples: [level; FRAME] }
}

#[tokio::test]
async fn what_one_end_plays_the_other_hears() {
    let media = media(20_000..=20_099, 10);
    let (mut left, mut right) = pair(&media);
    let mut tap = right.tap(1000).expect("tap");
    for n in 0..25 {
        left.push(frame(1, 1000 + n)).expect("room");
    }
    let (mut loud, mut last) = (0, None);
    within(async {
        while loud < 25 {
            right.readable().await;
            while let Some(frame) = right.recv() {
                assert!(last.is_none_or(|last| frame.timestamp == last + FRAME as u64), "one frame every 20 ms");
                last = Some(frame.timestamp);
                loud += usize::from(frame.samples[80] > 500);
            }
        }
    })
    .await;
    let mut played = Vec::new();
    within(async {
        while !played.contains(&Event::Drained) {
            left.readable().await;
            played.extend(left.events());
        }
    })
    .await;
    assert_eq!(played[0], Event::Played { turn: TurnId(1), clause: ClauseId(0), frames: 25 });
    let (mut received, mut sent) = (0, 0);
    while let Some(frame) = tap.recv() {
        match frame.direction {
            Direction::Received => received += usize::from(frame.samples[80] > 500),
            Direction::Sent => sent += 1,
        }
    }
    assert!(received == 25 && sent >= 25, "{received} {sent}");
    let stats = right.stats();
    assert_eq!((stats.buffer.lost, stats.rejected, stats.frames_dropped), (0, 0, 0));
}

#[tokio::test]
async fn two_hundred_calls_that_vanish_leave_nothing() {
    let media = media(21_000..=21_999, 400);
    let calls: Vec<_> = (0..100).map(|_| pair(&media)).collect();
    let stats = media.stats();
    assert_eq!((stats.sessions, stats.ports_used, stats.ports), (200, 200, 500));
    drop(calls);
    within(media.idle()).await;
    let stats = media.stats();
    assert_eq!((stats.sessions, stats.ports_used), (0, 0));
    // The sockets are closed as well: the same ports can be bound.
    for port in 21_000..21_400 {
        drop(UdpSocket::bind((LOCALHOST, port)).expect("free"));
    }
}

#[tokio::test]
async fn used_up_ports_are_an_error_and_come_back() {
    let media = media(22_000..=22_007, 3);
    let foreign = UdpSocket::bind((LOCALHOST, 22_003)).expect("port");
    let taken: Vec<_> = (0..3).map(|_| media.reserve().expect("port")).collect();
    assert_eq!(taken.iter().map(Reservation::port).collect::<Vec<_>>(), [22_000, 22_004, 22_006]);
    assert!(matches!(media.reserve(), Err(MediaError::Exhausted { used: 3, limit: 3 })));
    drop((taken, foreign));
    assert_eq!(media.reserve().expect("free again").port() % 2, 0);
    let range = MediaThread::start(MediaConfig { bind: LOCALHOST, ports: 7..=7, max_sessions: 1 });
    assert!(matches!(range, Err(MediaError::Range(7, 7))));
}

#[tokio::test]
async fn hold_freezes_the_queue_and_strangers_are_not_heard() {
    let media = media(23_000..=23_099, 10);
    let (mut left, mut right) = pair(&media);
    within(async {
        while left.stats().received == 0 {
            left.readable().await;
            while left.recv().is_some() {}
        }
    })
    .await;
    let port = 23_000;
    let stranger = UdpSocket::bind((LOCALHOST, 0)).expect("port");
    stranger.send_to(&[0x80, 8, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 0x2a, 0x2a], (LOCALHOST, port)).expect("send");
    let held = SessionParameters { send: false, ..parameters(23_002, 1) };
    left.update(held).expect("room");
    within(async {
        while left.stats().rejected == 0 || !right.events().any(|event| matches!(event, Event::Silence { .. })) {
            right.readable().await;
            while right.recv().is_some() {}
        }
    })
    .await;
    left.push(frame(3, 9000)).expect("room");
    for _ in 0..3 {
        within(left.readable()).await;
    }
    assert_eq!(left.queued(), 1);
    left.update(parameters(23_002, 1)).expect("room");
    within(async {
        while !left.events().any(|event| event == Event::Drained) {
            left.readable().await;
        }
    })
    .await;
    assert_eq!(left.queued(), 0);
    assert!(left.is_alive());
}

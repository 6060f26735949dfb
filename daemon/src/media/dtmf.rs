//! Keys pressed by the caller, from telephone events (RFC 4733 §2.3). Payloads enter with their timestamp, keys leave.
//! An event is known by its timestamp alone: marker bits are lost or never set, end packets come three times or not at
//! all, and packets overtake each other.

use std::time::{Duration, Instant};

/// Longer than any gap between updates of one event, which senders keep under 50 ms.
const LOST_END: Duration = Duration::from_millis(150);

/// Longer than packets of an event are on their way. An older timestamp that comes later is of a sender that began its
/// time anew, which gateways do in the middle of a call.
const LATE: Duration = Duration::from_secs(5);

/// A key that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `0`-`9`, `*`, `#`, `A`-`D`.
    pub digit: char,
    /// How long it was held.
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Pressed {
    /// First timestamp of the event, or of its current segment if it lasts longer than 8.19 s.
    timestamp: u32,
    event: u8,
    /// Ticks per second.
    clock: u32,
    earlier: u64,
    duration: u16,
    updated: Instant,
}

/// The keys in the order of their numbers as telephone events (RFC 4733 §3.2).
pub(super) const EVENTS: &[u8; 16] = b"0123456789*#ABCD";

/// The keys as they lie on the pad, row after row: each row has a low tone, each column a high one (ITU-T Q.23), in hertz.
pub(super) const PAD: &[u8; 16] = b"123A456B789C*0#D";
pub(super) const LOW: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
pub(super) const HIGH: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];

/// The two tones of a key in hertz, the low one first.
pub(super) fn tones(digit: char) -> Option<(f32, f32)> {
    let place = PAD.iter().position(|key| char::from(*key) == digit)?;
    Some((LOW[place / 4], HIGH[place % 4]))
}

/// The state of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Receiver {
    pressed: Option<Pressed>,
    /// Timestamp of the newest event that is over, and when it was.
    over: Option<(u32, Instant)>,
}

impl Receiver {
    /// Takes the payload of a telephone-event packet of a clock of so many ticks per second; returns a key that this
    /// packet ends. A clock that is not the one agreed on makes a key seem longer or shorter, nothing else.
    pub fn handle(&mut self, now: Instant, clock: u32, timestamp: u32, payload: &[u8]) -> Option<Key> {
        let [event @ 0..=15, flags, high, low, ..] = *payload else { return None };
        let late =
            |(over, at): (u32, Instant)| now.saturating_duration_since(at) < LATE && older_or_same(timestamp, over);
        if self.over.is_some_and(late) {
            return None;
        }
        let (duration, end) = (u16::from_be_bytes([high, low]), flags & 0x80 != 0);
        let mut ended = None;
        let mut pressed = Pressed { timestamp, event, clock, earlier: 0, duration, updated: now };
        if let Some(current) = self.pressed {
            if current.timestamp == timestamp {
                pressed.earlier = current.earlier;
                pressed.duration = duration.max(current.duration);
            } else if older_or_same(timestamp, current.timestamp) {
                return None;
            } else if current.continued_by(timestamp, event) {
                pressed.earlier = current.earlier + u64::from(current.duration);
            } else {
                ended = Some(self.end(current, now));
            }
        }
        if end {
            // A lost end packet of one key and the end of the next in the same packet would need two answers: the
            // update packets between them rule this out unless everything was lost, and then the first key is reported.
            if ended.is_none() {
                return Some(self.end(pressed, now));
            }
        }
        self.pressed = Some(pressed);
        ended
    }

    /// Ends a key whose end packets were lost. Call it at least every 20 ms.
    pub fn tick(&mut self, now: Instant) -> Option<Key> {
        let pressed = self.pressed.filter(|pressed| now.saturating_duration_since(pressed.updated) >= LOST_END)?;
        Some(self.end(pressed, now))
    }

    fn end(&mut self, pressed: Pressed, now: Instant) -> Key {
        self.over = Some((pressed.timestamp, now));
        self.pressed = None;
        let digit = EVENTS.get(usize::from(pressed.event)).map_or('?', |byte| char::from(*byte));
        let ticks = pressed.earlier + u64::from(pressed.duration);
        Key { digit, duration: Duration::from_micros(ticks * 1_000_000 / u64::from(pressed.clock.max(1))) }
    }
}

impl Pressed {
    /// RFC 4733 §2.5.1.3: a long event goes on in a new segment, which starts where the full one ended.
    fn continued_by(&self, timestamp: u32, event: u8) -> bool {
        self.duration == u16::MAX && event == self.event && timestamp == self.timestamp.wrapping_add(u16::MAX.into())
    }
}

fn older_or_same(timestamp: u32, than: u32) -> bool {
    than.wrapping_sub(timestamp) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};
    use proptest::prelude::*;

    const END: u8 = 0x80;

    fn play(packets: &[(u32, u8, u8, u16)]) -> Vec<(char, u128)> {
        let (mut receiver, mut now, mut keys) = (Receiver::default(), SystemClock.now(), Vec::new());
        for (timestamp, event, flags, duration) in packets {
            let [high, low] = duration.to_be_bytes();
            keys.extend(receiver.handle(now, 8000, *timestamp, &[*event, flags | 10, high, low]));
            now += Duration::from_millis(20);
            keys.extend(receiver.tick(now));
        }
        keys.extend(receiver.tick(now + LOST_END));
        keys.iter().map(|key| (key.digit, key.duration.as_millis())).collect()
    }

    #[test]
    fn one_press_is_one_key() {
        let press = [(100, 5, 0, 160), (100, 5, 0, 320), (100, 5, END, 480), (100, 5, END, 480), (100, 5, END, 480)];
        assert_eq!(play(&press), [('5', 60)]);
    }

    #[test]
    fn every_lost_subset_of_a_press_is_one_key_or_none() {
        let press = [(100, 11, 0, 160), (100, 11, 0, 320), (100, 11, END, 480), (100, 11, END, 480)];
        for subset in 1_usize..16 {
            let kept: Vec<_> = (0..4).filter(|bit| subset & 1 << bit != 0).map(|bit| press[bit]).collect();
            let keys = play(&kept);
            assert_eq!(keys.len(), 1, "{subset:04b}");
            assert_eq!(keys[0].0, '#');
        }
    }

    #[test]
    fn overtaken_packets_add_nothing() {
        let press = [(100, 1, 0, 160), (100, 1, END, 480), (100, 1, 0, 320), (900, 1, 0, 160), (100, 1, END, 480)];
        assert_eq!(play(&press), [('1', 60), ('1', 20)]);
    }

    #[test]
    fn same_digit_twice_and_a_lost_end_between() {
        assert_eq!(play(&[(100, 7, 0, 320), (900, 7, 0, 160), (900, 7, END, 320)]), [('7', 40), ('7', 40)]);
    }

    #[test]
    fn a_long_press_spans_segments() {
        let next = 100 + u32::from(u16::MAX);
        assert_eq!(play(&[(100, 0, 0, u16::MAX), (next, 0, 0, 800), (next, 0, END, 1600)]), [('0', 8391)]);
    }

    #[test]
    fn timestamps_wrap() {
        assert_eq!(play(&[(u32::MAX - 10, 3, END, 160), (600, 4, END, 160)]), [('3', 20), ('4', 20)]);
    }

    #[test]
    fn flash_and_short_payloads_are_no_keys() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.handle(SystemClock.now(), 8000, 1, &[16, END, 1, 0]), None);
        assert_eq!(receiver.handle(SystemClock.now(), 8000, 1, &[1, END, 1]), None);
        assert_eq!(receiver.tick(SystemClock.now() + LOST_END), None);
    }

    #[test]
    fn keys_of_a_sender_that_began_its_time_anew_count() {
        let (mut receiver, now) = (Receiver::default(), SystemClock.now());
        let end = [5, END | 10, 3, 32];
        assert!(receiver.handle(now, 8000, 3_000_000_000, &end).is_some());
        assert!(
            receiver.handle(now + LATE / 2, 8000, 2_900_000_000, &end).is_none(),
            "a late packet of an earlier key"
        );
        assert!(receiver.handle(now + LATE, 8000, 2_900_000_000, &end).is_some());
    }

    proptest! {
        #[test]
        fn never_more_keys_than_timestamps(packets in proptest::collection::vec((0..4_u32, any::<u8>(), any::<u8>(), any::<u16>()), 0..60)) {
            let packets: Vec<_> = packets.into_iter().map(|(t, e, f, d)| (t * 1000, e, f, d)).collect();
            prop_assert!(play(&packets).len() <= 4);
        }
    }
}

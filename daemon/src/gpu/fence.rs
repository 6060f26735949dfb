//! Whether an engine may use a card. Enters: what was seen of the cards, the time; leaves: yes, or why not. Never here: an
//! engine. A card that was reset, or that failed once, is tried again, after a time that doubles with each failure: an engine
//! serves only after a warm-up of its own, so what is tried is the card, and not a call.

use std::time::{Duration, Instant};

use super::Seen;
use super::card::{is_of_the_card, meaning};

/// After the first critical error.
const FIRST: Duration = Duration::from_secs(60);

/// The longest wait; a card that was well for so long has its failures forgiven.
const LONGEST: Duration = Duration::from_secs(3600);

/// Around one card.
#[derive(Clone, Debug)]
pub struct Fence {
    uuid: String,
    /// Critical errors that have had their consequence.
    counted: u64,
    failures: u32,
    /// Until when it is closed, and after which error.
    closed: Option<(Instant, u64)>,
}

impl Fence {
    /// Open, around the card of this name.
    #[must_use]
    pub fn new(uuid: String) -> Self {
        Self { uuid, counted: 0, failures: 0, closed: None }
    }

    /// Why no engine may use the card, a sentence; none: it may.
    pub fn judge(&mut self, seen: &Seen, now: Instant) -> Option<String> {
        let Some(card) = seen.cards.iter().find(|card| card.identity.uuid == self.uuid) else {
            return Some(format!("the card {} is not there any more: restart the machine", self.uuid));
        };
        let shown = format!("GPU {}", card.identity.number());
        let of_the_card = card.xids.iter().filter(|(xid, _)| is_of_the_card(**xid));
        let errors = of_the_card.clone().map(|(_, count)| count).sum();
        if errors > self.counted {
            self.counted = errors;
            let wait = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
            self.failures = self.failures.saturating_add(1);
            self.closed = Some((now + wait, card.last_xid.unwrap_or_default()));
        }
        if card.reading.is_none() {
            return Some(format!("{shown} cannot be reached"));
        }
        let (until, xid) = self.closed?;
        if until <= now {
            if until + LONGEST <= now {
                (self.failures, self.closed) = (0, None);
            }
            return None;
        }
        let seconds = (until - now).as_secs_f64().ceil();
        Some(format!("{shown} had XID {xid}, {}: it is tried again in {seconds} s", meaning(xid)))
    }

    /// When to judge again although nothing was seen.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.closed.map(|(until, _)| until)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::card::{Card, Identity, Reading};
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    fn seen(reading: Option<Reading>, xids: &[(u64, u64)]) -> Seen {
        let identity = Identity { uuid: "GPU-1".into(), ..Identity::default() };
        let mut card = Card::new(identity, reading, xids.iter().copied().collect::<BTreeMap<_, _>>());
        card.last_xid = xids.last().map(|(xid, _)| *xid);
        Seen { driver: None, cards: vec![card] }
    }

    fn well(xids: &[(u64, u64)]) -> Seen {
        seen(Some(Reading::default()), xids)
    }

    #[test]
    fn each_failure_of_a_card_keeps_it_away_for_twice_as_long_and_a_program_s_does_not() {
        let mut fence = Fence::new("GPU-1".into());
        let mut now = ManualClock::default().now();
        assert_eq!(fence.judge(&well(&[(31, 5)]), now), None);
        for (count, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)] {
            let broken = well(&[(79, count)]);
            let reason = fence.judge(&broken, now).expect("closed");
            assert!(reason.starts_with("GPU 0 had XID 79, the card has fallen off the bus"), "{reason}");
            now += Duration::from_secs(60 * minutes);
            assert!(fence.judge(&broken, now.checked_sub(Duration::from_secs(1)).expect("after the start")).is_some());
            assert_eq!(fence.deadline(), Some(now));
            assert_eq!(fence.judge(&broken, now), None, "tried again after {minutes} min");
        }
        now += LONGEST;
        assert_eq!(fence.judge(&well(&[(79, 8)]), now), None);
        fence.judge(&well(&[(79, 9)]), now);
        assert_eq!(fence.deadline(), Some(now + FIRST), "an hour without a failure: forgiven");
    }

    #[test]
    fn a_card_that_cannot_be_reached_is_let_in_again_when_it_can() {
        let mut fence = Fence::new("GPU-1".into());
        let now = ManualClock::default().now();
        assert!(fence.judge(&seen(None, &[]), now).expect("closed").contains("cannot be reached"));
        assert!(fence.judge(&Seen::default(), now).expect("closed").contains("not there"));
        assert_eq!(fence.judge(&well(&[]), now), None);
    }
}

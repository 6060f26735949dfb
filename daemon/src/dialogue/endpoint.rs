//! When the caller speaks and for how long they have been quiet.
//!
//! Enters: the ears' probability of speech per window, and when it arrived. Leaves: [`Edge`]s, and the instant at which
//! a given silence will have lasted long enough. Never here: words, or what to do about them.
//!
//! The rules, all of them:
//! * **Hysteresis.** Speech begins (or goes on after a pause) once windows of at least `start` add up to `start_ms`; a
//!   window under `end` breaks that run. Speech lasts while windows are at least `end`.
//! * **Silence is measured in audio, and counted in time.** It begins at the arrival that the last voiced window would
//!   have had on a punctual stream, so work that makes the engine late delays nothing. But it counts only as far as
//!   windows have shown it, plus [`SLACK`]: news that is merely late is not silence. If no window comes for [`STALL`]
//!   (a sender that suppresses silence), time alone counts.
//! * **A run that may become speech holds the decision** until it is confirmed or broken.

use std::time::{Duration, Instant};

use callbox_wire::EARS_RATE;

use super::agent::TurnTaking;

/// How much silence may be assumed beyond the last window that arrived: one window, and as much again on its way.
pub(super) const SLACK: Duration = Duration::from_millis(64);

/// A listening stream without news for this long is taken to be silent.
pub(super) const STALL: Duration = Duration::from_millis(800);

/// Samples per window of the ears.
pub(super) const WINDOW: u64 = 512;

/// How far the stream's clock may creep against ours per window, far above any crystal's error.
const CREEP: Duration = Duration::from_micros(50);

/// A stream that is this late has lost audio; its clock starts anew.
const REANCHOR: Duration = Duration::from_millis(500);

/// A change that a window brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// An utterance began.
    Began,
    /// The utterance went on after a pause.
    Resumed {
        /// How long the pause was.
        pause: Duration,
    },
    /// The caller paused; maybe that was all.
    Paused,
}

/// What the caller is saying, or has said and nobody has taken yet. In samples of the listening stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Utterance {
    /// Where it begins.
    pub onset: u64,
    /// Where its last stretch of unbroken speech begins.
    pub burst: u64,
    /// Where its last voiced window ends.
    pub last: u64,
    /// Whether the caller is speaking at this moment.
    pub talking: bool,
}

/// Follows one listening stream.
#[derive(Debug)]
pub struct Endpointer {
    rules: TurnTaking,
    /// Where the last window ended.
    head: u64,
    /// When the last window arrived.
    arrived: Option<Instant>,
    /// When sample 0 was sent, as seen from the most punctual windows.
    origin: Option<Instant>,
    /// Start and length in samples of a run of windows that may become speech.
    run: Option<(u64, u64)>,
    utterance: Option<Utterance>,
}

impl Endpointer {
    /// A stream of which nothing was heard yet.
    #[must_use]
    pub fn new(rules: TurnTaking) -> Self {
        Self { rules, head: 0, arrived: None, origin: None, run: None, utterance: None }
    }

    /// Forgets everything: a new stream begins at sample 0.
    pub fn reset(&mut self) {
        *self = Self::new(self.rules.clone());
    }

    /// Takes a window that ends at sample `at`. Windows out of order, and probabilities that are none, are ignored.
    pub fn window(&mut self, now: Instant, at: u64, speech: f32) -> Option<Edge> {
        if at <= self.head || !(0.0..=1.0).contains(&speech) {
            return None;
        }
        let start = at.saturating_sub(WINDOW).max(self.head);
        self.head = at;
        self.arrived = Some(now);
        self.follow_clock(now, at);
        if let Some(utterance) = self.utterance.as_mut().filter(|utterance| utterance.talking) {
            if speech >= self.rules.end.get() {
                utterance.last = at;
                return None;
            }
            utterance.talking = false;
            return Some(Edge::Paused);
        }
        if speech >= self.rules.start.get() {
            let (from, length) = self.run.unwrap_or((start, 0));
            self.run = Some((from, length + (at - start)));
        } else if speech < self.rules.end.get() {
            self.run = None;
        }
        let (from, _) = self.run.filter(|(_, length)| duration(*length) >= self.rules.start_ms.get())?;
        self.run = None;
        if let Some(utterance) = &mut self.utterance {
            let pause = duration(from.saturating_sub(utterance.last));
            *utterance = Utterance { burst: from, last: at, talking: true, ..*utterance };
            Some(Edge::Resumed { pause })
        } else {
            self.utterance = Some(Utterance { onset: from, burst: from, last: at, talking: true });
            Some(Edge::Began)
        }
    }

    /// What the caller is saying.
    #[must_use]
    pub fn utterance(&self) -> Option<&Utterance> {
        self.utterance.as_ref()
    }

    /// Takes the utterance away: it was answered, or is not worth one. A caller who is speaking begins another.
    pub fn take(&mut self) -> Option<Utterance> {
        self.utterance.take()
    }

    /// Moves the beginning of the utterance to its last stretch of speech: what was before is known.
    pub fn forget_before_burst(&mut self) {
        if let Some(utterance) = &mut self.utterance {
            utterance.onset = utterance.burst;
        }
    }

    /// Where the last window ended; nothing later was heard.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// How long the present stretch of speech is.
    #[must_use]
    pub fn burst(&self) -> Duration {
        self.utterance
            .filter(|utterance| utterance.talking)
            .map_or(Duration::ZERO, |utterance| duration(utterance.last - utterance.burst))
    }

    /// When the last voiced window of the utterance was sent.
    #[must_use]
    pub fn last_voiced(&self) -> Option<Instant> {
        Some(self.origin? + duration(self.utterance?.last))
    }

    /// When the utterance will have been followed by `silence`, if no more windows come; `None` without an utterance.
    /// Every window may move it.
    #[must_use]
    pub fn quiet_at(&self, silence: Duration) -> Option<Instant> {
        let utterance = self.utterance?;
        let by_time = self.last_voiced()? + silence;
        let seen = duration(self.head - utterance.last) + SLACK;
        if utterance.talking || self.run.is_some() || seen < silence {
            Some(by_time.max(self.arrived? + STALL))
        } else {
            Some(by_time)
        }
    }

    /// The origin is the earliest that any window suggests, and creeps towards later ones.
    fn follow_clock(&mut self, now: Instant, at: u64) {
        let Some(seen) = now.checked_sub(duration(at)) else { return };
        self.origin = Some(match self.origin {
            Some(origin) if seen > origin && seen - origin < REANCHOR => seen.min(origin + CREEP),
            _ => seen,
        });
    }
}

/// The time that so many samples of the listening stream last.
#[must_use]
pub(super) fn duration(samples: u64) -> Duration {
    let rate = u64::from(EARS_RATE);
    Duration::from_secs(samples / rate) + Duration::from_micros(samples % rate * 1_000_000 / rate)
}

/// How many samples of the listening stream fit into a time.
#[must_use]
pub(super) fn samples(time: Duration) -> u64 {
    time.as_secs() * u64::from(EARS_RATE) + u64::from(time.subsec_micros()) * u64::from(EARS_RATE) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};

    struct Stream {
        ears: Endpointer,
        origin: Instant,
        at: u64,
    }

    impl Stream {
        fn new() -> Self {
            Self { ears: Endpointer::new(TurnTaking::default()), origin: SystemClock.now(), at: 0 }
        }

        /// Windows of this probability, the last of them `late` after its audio.
        fn play(&mut self, windows: u32, speech: f32, late: Duration) -> Vec<Edge> {
            (0..windows)
                .filter_map(|_| {
                    self.at += WINDOW;
                    let now = self.origin + duration(self.at) + late;
                    self.ears.window(now, self.at, speech)
                })
                .collect()
        }

        fn now(&self) -> Instant {
            self.origin + duration(self.at)
        }
    }

    const MS: Duration = Duration::from_millis(1);
    const ON_TIME: Duration = Duration::ZERO;

    #[test]
    fn clicks_are_no_speech_and_dips_are_no_pause() {
        let mut line = Stream::new();
        for _ in 0..20 {
            assert_eq!(line.play(2, 0.9, ON_TIME), []);
            assert_eq!(line.play(1, 0.1, ON_TIME), []);
        }
        assert_eq!(line.play(3, 0.6, ON_TIME), [Edge::Began]);
        assert_eq!(line.play(10, 0.4, ON_TIME), []);
        assert_eq!(line.play(1, 0.3, ON_TIME), [Edge::Paused]);
        assert_eq!(line.play(10, 0.45, ON_TIME), [], "between the thresholds nothing begins");
        let pause = 11 * 32 * MS;
        assert_eq!(line.play(3, 0.5, ON_TIME), [Edge::Resumed { pause }]);
        let utterance = line.ears.utterance().copied().expect("speaking");
        assert_eq!((utterance.onset, utterance.last), (60 * WINDOW, line.at));
        assert_eq!(line.ears.burst(), 96 * MS);
    }

    #[test]
    fn silence_ends_on_the_millisecond_between_windows() {
        let mut line = Stream::new();
        line.play(20, 0.9, ON_TIME);
        let last = line.now();
        line.play(2, 0.0, ON_TIME);
        assert_eq!(line.ears.quiet_at(110 * MS), Some(last + 110 * MS));
    }

    #[test]
    fn late_news_is_not_silence_and_lateness_adds_no_delay() {
        let mut line = Stream::new();
        line.play(20, 0.9, ON_TIME);
        let last = line.now();
        line.play(1, 0.0, ON_TIME);
        assert!(line.ears.quiet_at(450 * MS) > Some(last + 450 * MS), "32 ms of silence were seen, not 450");
        line.play(13, 0.0, 300 * MS);
        assert_eq!(line.ears.quiet_at(450 * MS).map(|at| at - last < 452 * MS), Some(true));
    }

    #[test]
    fn a_stream_that_stops_is_silent_in_the_end() {
        let mut line = Stream::new();
        line.play(20, 0.9, ON_TIME);
        assert_eq!(line.ears.quiet_at(450 * MS), Some(line.now() + STALL));
    }

    #[test]
    fn a_possible_word_holds_the_decision() {
        let mut line = Stream::new();
        line.play(20, 0.9, ON_TIME);
        let last = line.now();
        line.play(12, 0.0, ON_TIME);
        line.play(2, 0.9, ON_TIME);
        assert!(line.ears.quiet_at(450 * MS) > Some(last + 450 * MS));
        line.play(1, 0.0, ON_TIME);
        assert_eq!(line.ears.quiet_at(450 * MS), Some(last + 450 * MS));
    }
}

//! Whatever is said to a dialogue, in whatever order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use callbox_wire::{CallId, ClauseId, Failure, Role, Transcript, TurnId};
use proptest::prelude::*;

use super::sim::{AGENT, THOUGHT};
use crate::base::{Clock, Known, Origin, Passage, SystemClock};
use crate::dialogue::{Action, Agent, Dialogue, Input};

/// An input about the newest turn, or one that is `back` turns older.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// So many windows of speech or silence.
    Windows(u8, bool),
    Heard(u32, &'static str),
    Token(u32, &'static str),
    Thought(u32),
    Recalled(u32, bool),
    Retrieved(u32, bool),
    Audio(u32, u32),
    Spoken(u32, u32, u32),
    Played(u32, u32, u32),
    Failed(u32, Role, Failure),
    Other(Input),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let back = prop_oneof![4 => Just(0_u32), 1 => 0..4_u32];
    let step = prop_oneof![
        3 => (0..3000_u64).prop_map(Step::Wait),
        6 => (1..24_u8, any::<bool>()).prop_map(|(count, speech)| Step::Windows(count, speech)),
        4 => (back.clone(), prop::sample::select(vec!["", "When?", "and", "goodbye.", "Tell me about it."])).prop_map(|(back, text)| Step::Heard(back, text)),
        4 => (back.clone(), prop::sample::select(vec![" We", " open, yes.", "...", " at 9", " daily and", "\n"])).prop_map(|(back, text)| Step::Token(back, text)),
        2 => back.clone().prop_map(Step::Thought),
        2 => (back.clone(), any::<bool>()).prop_map(|(back, known)| Step::Recalled(back, known)),
        3 => (back.clone(), any::<bool>()).prop_map(|(back, any)| Step::Retrieved(back, any)),
        4 => (back.clone(), 0..3_u32).prop_map(|(back, clause)| Step::Audio(back, clause)),
        3 => (back.clone(), 0..3_u32, 0..9_u32).prop_map(|(back, clause, frames)| Step::Spoken(back, clause, frames)),
        3 => (back.clone(), 0..3_u32, 0..9_u32).prop_map(|(back, clause, frames)| Step::Played(back, clause, frames)),
        1 => (back, prop::sample::select(vec![Role::Ears, Role::Mind, Role::Voice]), prop::sample::select(vec![Failure::Overloaded, Failure::Invalid, Failure::Internal])).prop_map(|(back, role, failure)| Step::Failed(back, role, failure)),
        3 => prop::sample::select(vec![
            Input::PlayoutDrained, Input::Dtmf('5'), Input::Dtmf('#'), Input::Tick, Input::Answered,
            Input::Activity { at: 5, speech: f32::NAN },
        ]).prop_map(Step::Other),
        1 => prop::sample::select(vec![Input::EngineLost, Input::Recorded, Input::EngineReady, Input::EngineReady, Input::Drain]).prop_map(Step::Other),
    ];
    prop::collection::vec(step, 0..300)
}

#[derive(Default)]
struct Watch {
    newest: u32,
    over: bool,
    cancelled: HashSet<TurnId>,
    played: HashSet<TurnId>,
    finished: HashSet<TurnId>,
    working: HashSet<TurnId>,
    longest: usize,
    /// Turns whose transcription was asked for, has come, whose audio has come.
    asked: HashSet<TurnId>,
    heard: HashSet<TurnId>,
    audible: HashSet<TurnId>,
}

impl Watch {
    fn told(&mut self, input: &Input) {
        match input {
            Input::Heard { turn, .. } => self.heard.insert(*turn),
            Input::Audio { turn, .. } => self.audible.insert(*turn),
            _ => false,
        };
    }

    fn see(&mut self, actions: &[Action]) -> Result<(), TestCaseError> {
        for action in actions {
            prop_assert!(!self.over, "after the end: {:?}", action);
            match action {
                Action::Transcribe { turn, .. } | Action::Think { turn, .. } | Action::Speak { turn, .. } => {
                    prop_assert!(!self.cancelled.contains(turn) && !self.finished.contains(turn));
                    self.newest = self.newest.max(turn.0);
                    self.working.insert(*turn);
                    prop_assert!(self.working.len() <= 1, "one turn at a time");
                    match action {
                        Action::Transcribe { .. } => {
                            self.asked.insert(*turn);
                        }
                        // Every token of this test names its turn.
                        Action::Speak { text, .. } => {
                            let of = |word: &str| word.strip_prefix("turn").and_then(|id| id.parse().ok());
                            prop_assert!(
                                text.split_whitespace().filter_map(of).all(|id: u32| id == turn.0),
                                "{}",
                                text
                            );
                        }
                        _ => prop_assert!(!self.asked.contains(turn) || self.heard.contains(turn)),
                    }
                    if let Action::Think { messages, .. } = action {
                        let chars = messages.iter().map(|message| message.content.chars().count()).sum();
                        self.longest = self.longest.max(chars);
                    }
                }
                Action::Play { turn } => {
                    prop_assert!(!self.cancelled.contains(turn) && !self.finished.contains(turn), "stale");
                    prop_assert!(self.played.insert(*turn), "once");
                    prop_assert!(self.audible.contains(turn), "something to be heard");
                }
                Action::Cancel { turn } => {
                    self.cancelled.insert(*turn);
                    self.working.remove(turn);
                }
                Action::Record(record) => {
                    if !self.cancelled.contains(&record.turn) {
                        self.finished.insert(record.turn);
                        self.working.remove(&record.turn);
                    }
                }
                Action::Hangup(_) => self.over = true,
                Action::Recall { turn, .. } | Action::Retrieve { turn, .. } => {
                    prop_assert!(!self.cancelled.contains(turn) && !self.finished.contains(turn));
                }
                Action::PlayStored(_) | Action::Flush | Action::Transfer { .. } | Action::Mark(_) => {}
            }
        }
        Ok(())
    }
}

proptest! {

    #[test]
    fn no_order_of_inputs_breaks_a_promise(steps in steps()) {
        let agent = Arc::new(Agent::parse("test", AGENT).expect("valid"));
        let mut now = SystemClock.now() + Duration::from_secs(3600);
        let mut dialogue = Dialogue::new(CallId(1), agent, now);
        let (mut watch, mut at) = (Watch::default(), 0);
        let tell = |now, input, watch: &mut Watch, dialogue: &mut Dialogue| {
            let mut out = Vec::new();
            watch.told(&input);
            dialogue.handle(now, input, &mut out);
            // A wait that is over is dealt with: the caller of this room never spins.
            prop_assert!(dialogue.deadline().is_none_or(|at| at > now), "{:?}", dialogue);
            watch.see(&out)
        };
        tell(now, Input::Answered, &mut watch, &mut dialogue)?;
        for step in steps {
            let turn = |back: u32, watch: &Watch| TurnId(watch.newest.saturating_sub(back));
            let input = match step {
                Step::Wait(ms) => {
                    let until = now + Duration::from_millis(ms);
                    while let Some(deadline) = dialogue.deadline().filter(|at| *at <= until) {
                        now = now.max(deadline);
                        tell(now, Input::Tick, &mut watch, &mut dialogue)?;
                    }
                    now = until;
                    Input::Tick
                }
                Step::Windows(count, speech) => {
                    for _ in 0..count {
                        at += 512;
                        now += Duration::from_millis(32);
                        let speech = if speech { 0.9 } else { 0.1 };
                        tell(now, Input::Activity { at, speech }, &mut watch, &mut dialogue)?;
                    }
                    Input::Tick
                }
                Step::Heard(back, text) => Input::Heard {
                    turn: turn(back, &watch),
                    transcript: Transcript {
                        text: text.to_owned(), declined: None, no_speech: 0.0, mean_logprob: 0.0,
                        audio_ms: 0, queue_us: 0, compute_us: 0,
                    },
                },
                Step::Token(back, text) => {
                    let turn = turn(back, &watch);
                    Input::Token { turn, text: format!("{text} turn{turn} ") }
                }
                Step::Thought(back) => Input::Thought { turn: turn(back, &watch), thought: THOUGHT },
                Step::Recalled(back, known) => {
                    let source = Known { entry: 1, origin: Origin::Learned, score: 1.0 };
                    let answer = known.then(|| (vec!["We know,".to_owned(), "we do.".to_owned()], source));
                    Input::Recalled { turn: turn(back, &watch), answer }
                }
                Step::Retrieved(back, any) => {
                    let passage = Passage { name: "a.md: Garden".to_owned(), text: "It is open.".to_owned() };
                    Input::Retrieved { turn: turn(back, &watch), found: any.then(|| vec![passage]) }
                }
                Step::Audio(back, clause) => Input::Audio { turn: turn(back, &watch), clause: ClauseId(clause) },
                Step::Spoken(back, clause, frames) => Input::Spoken {
                    turn: turn(back, &watch), clause: ClauseId(clause), frames, compute_us: 1,
                },
                Step::Played(back, clause, frames) => Input::Played {
                    turn: turn(back, &watch), clause: ClauseId(clause), frames,
                },
                Step::Failed(back, role, failure) => Input::Failed { turn: turn(back, &watch), role, failure },
                Step::Other(input) => input,
            };
            tell(now, input, &mut watch, &mut dialogue)?;
        }
        // Instructions, history, and the words that are still open.
        prop_assert!(watch.longest < 500 + 3000 + 3000 + 1500, "{}", watch.longest);
        tell(now, Input::HungUp, &mut watch, &mut dialogue)?;
        prop_assert!(watch.working.is_empty(), "all work is completed or cancelled: {:?}", watch.working);
        watch.over = true;
        for input in [Input::Tick, Input::EngineLost, Input::Answered, Input::Drain] {
            now += Duration::from_secs(60);
            tell(now, input, &mut watch, &mut dialogue)?;
        }
    }

    #[test]
    fn the_same_inputs_at_the_same_times_give_the_same_actions(windows in prop::collection::vec((1..40_u8, any::<bool>()), 0..20)) {
        let agent = Arc::new(Agent::parse("test", AGENT).expect("valid"));
        let start = SystemClock.now() + Duration::from_secs(3600);
        let run = || {
            let mut dialogue = Dialogue::new(CallId(1), Arc::clone(&agent), start);
            let (mut out, mut at) = (Vec::new(), 0);
            dialogue.handle(start, Input::Answered, &mut out);
            for (count, speech) in &windows {
                for _ in 0..*count {
                    at += 512;
                    let input = Input::Activity { at, speech: if *speech { 0.9 } else { 0.0 } };
                    dialogue.handle(start + Duration::from_millis(at / 16), input, &mut out);
                }
            }
            out
        };
        prop_assert_eq!(run(), run());
    }
}

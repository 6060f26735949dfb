//! The simulated line. What it does is what the room `call`, the engine and the playout promise, nothing more.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbox_wire::{CallId, ClauseId, Finish, Thought, Transcript, TurnId};

use crate::base::{Clock, Known, Origin, Passage, SystemClock};
use crate::dialogue::{Action, Agent, Dialogue, HangupReason, Input, StoredPhrase, TurnRecord};

pub(super) const AGENT: &str = "
name = 'desk'
numbers = ['*']
persona = 'You are kind.'
facts = ['Open from nine.']
greeting = 'Good day.'
goodbye = 'Thank you, goodbye.'
silence_prompts = ['Are you still there?', 'Hello?']
";

/// How long the engine takes for what, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Delays {
    pub(super) stt: u64,
    /// Until the first token.
    pub(super) prefill: u64,
    pub(super) token: u64,
    /// Until the first frame of a clause.
    pub(super) tts: u64,
}

pub(super) const FAST: Delays = Delays { stt: 50, prefill: 40, token: 5, tts: 20 };
pub(super) const SLOW: Delays = Delays { stt: 300, prefill: 400, token: 67, tts: 120 };

#[derive(Clone, Debug)]
enum Due {
    Input(Input),
    Window,
}

pub(super) struct Line {
    pub(super) dialogue: Dialogue,
    origin: Instant,
    /// Milliseconds.
    pub(super) now: u64,
    delays: Delays,
    due: BTreeMap<(u64, u64), Due>,
    order: u64,
    head: u64,
    /// The millisecond at which the listening stream began.
    began: u64,
    /// What the engine has not heard is heard by the next one.
    pub(super) records_audio: bool,
    /// When the caller speaks, in milliseconds.
    speech: Vec<(u64, u64)>,
    /// What the ears hear in the transcriptions to come; the last one is repeated.
    pub(super) words: VecDeque<&'static str>,
    pub(super) answers: VecDeque<&'static str>,
    /// What is known of every question, after so many milliseconds.
    pub(super) known: Option<(u64, &'static str)>,
    /// What documents say of every question, and after how many milliseconds; none if there are none.
    pub(super) documents: Option<(u64, Vec<Passage>)>,
    pub(super) engine: bool,
    cancelled: HashSet<TurnId>,
    released: HashSet<TurnId>,
    held: BTreeMap<TurnId, Vec<(ClauseId, u32)>>,
    /// What the playout has before it: frames by turn and clause, or a stored phrase.
    playout: VecDeque<(Option<(TurnId, ClauseId)>, u32)>,
    played: BTreeMap<(TurnId, ClauseId), u32>,
    sending: bool,
    /// Everything that was done, with its millisecond.
    pub(super) log: Vec<(u64, Action)>,
}

impl Line {
    pub(super) fn new(delays: Delays, speech: &[(u64, u64)], words: &[&'static str], answers: &[&'static str]) -> Self {
        Self::with(AGENT, delays, speech, words, answers)
    }

    pub(super) fn with(
        agent: &str,
        delays: Delays,
        speech: &[(u64, u64)],
        words: &[&'static str],
        answers: &[&'static str],
    ) -> Self {
        let origin = SystemClock.now() + Duration::from_secs(3600);
        let agent = Arc::new(Agent::parse("test", agent).expect("a valid agent"));
        let mut line = Self {
            dialogue: Dialogue::new(CallId(1), agent, origin),
            origin,
            now: 0,
            delays,
            due: BTreeMap::new(),
            order: 0,
            head: 0,
            began: 0,
            records_audio: false,
            speech: speech.to_vec(),
            words: words.iter().copied().collect(),
            answers: answers.iter().copied().collect(),
            known: None,
            documents: None,
            engine: true,
            cancelled: HashSet::new(),
            released: HashSet::new(),
            held: BTreeMap::new(),
            playout: VecDeque::new(),
            played: BTreeMap::new(),
            sending: false,
            log: Vec::new(),
        };
        line.schedule(32, Due::Window);
        line
    }

    /// Something that happens at a given millisecond.
    pub(super) fn at(&mut self, ms: u64, input: Input) {
        self.schedule(ms, Due::Input(input));
    }

    fn schedule(&mut self, ms: u64, due: Due) {
        self.order += 1;
        self.due.insert((ms, self.order), due);
    }

    pub(super) fn instant(&self, ms: u64) -> Instant {
        self.origin + Duration::from_millis(ms)
    }

    pub(super) fn ms(&self, at: Option<Instant>) -> u64 {
        u64::try_from(at.expect("it happened").duration_since(self.origin).as_millis()).expect("short")
    }

    /// Runs until the given millisecond.
    pub(super) fn run(&mut self, until: u64) -> &mut Self {
        loop {
            let tick = self.dialogue.deadline().map(|at| {
                let micros = at.saturating_duration_since(self.origin).as_micros();
                u64::try_from(micros.div_ceil(1000)).expect("short")
            });
            let next = self.due.keys().next().copied();
            let (ms, input) = match (next, tick) {
                (Some((ms, _)), Some(tick)) if tick < ms => (tick, Due::Input(Input::Tick)),
                (None, Some(tick)) => (tick, Due::Input(Input::Tick)),
                (Some(key), _) => (key.0, self.due.get(&key).cloned().expect("listed")),
                (None, None) => break,
            };
            if ms > until {
                break;
            }
            if !matches!(input, Due::Input(Input::Tick)) {
                self.due.remove(&next.expect("it came from there"));
            }
            self.now = self.now.max(ms);
            self.step(input);
        }
        self.now = until;
        self
    }

    fn step(&mut self, due: Due) {
        let input = match due {
            Due::Window => {
                self.schedule(self.now + 32, Due::Window);
                if !self.engine {
                    return;
                }
                self.window(self.now - 16)
            }
            Due::Input(Input::Audio { turn, clause }) if self.released.contains(&turn) => {
                self.give(turn, clause);
                Input::Audio { turn, clause }
            }
            Due::Input(Input::Audio { turn, clause }) => {
                if !self.cancelled.contains(&turn) {
                    self.held.entry(turn).or_default().push((clause, 1));
                }
                Input::Audio { turn, clause }
            }
            Due::Input(Input::PlayoutDrained) => return self.send_frame(),
            Due::Input(Input::EngineLost) => {
                self.began += self.dialogue.unheard_from() / 16;
                self.engine = false;
                self.due.retain(|_, due| {
                    matches!(
                        due,
                        Due::Window
                            | Due::Input(
                                Input::Answered
                                    | Input::PlayoutDrained
                                    | Input::EngineReady
                                    | Input::EngineLost
                                    | Input::Drain
                                    | Input::HungUp
                                    | Input::Dtmf(_)
                                    | Input::Unreached(_)
                            )
                    )
                });
                Input::EngineLost
            }
            Due::Input(Input::EngineReady) => {
                self.engine = true;
                self.head = 0;
                if !self.records_audio {
                    self.began = self.now;
                    return self.tell(Input::EngineReady);
                }
                self.tell(Input::Recorded);
                self.tell(Input::EngineReady);
                // Faster than real time.
                while self.began + self.head / 16 + 32 <= self.now {
                    let window = self.window(self.began + self.head / 16 + 16);
                    self.tell(window);
                }
                return;
            }
            Due::Input(input) => input,
        };
        // Nothing of a turn is sent after its cancellation was read; what was on its way then is played by `properties`.
        self.tell(input);
    }

    /// What the ears make of 32 ms.
    fn window(&mut self, middle: u64) -> Input {
        self.head += 512;
        let speaks = self.speech.iter().any(|(from, to)| (*from..*to).contains(&middle));
        Input::Activity { at: self.head, speech: if speaks { 0.95 } else { 0.02 } }
    }

    /// The daemon dies with its engine and its playout; so much later another one goes on, which has an engine at once.
    pub(super) fn crash(&mut self, gap: u64) {
        let kept = serde_json::to_string(&self.dialogue.kept().expect("a call that is up")).expect("plain data");
        let kept = serde_json::from_str(&kept).expect("what was written");
        self.began += self.dialogue.unheard_from() / 16;
        self.due.retain(|_, due| matches!(due, Due::Window));
        self.playout.clear();
        self.held.clear();
        self.sending = false;
        self.engine = false;
        self.now += gap;
        let agent = Arc::clone(&self.dialogue.agent);
        let gap = Duration::from_millis(gap);
        self.dialogue = Dialogue::restore(CallId(1), agent, kept, gap, self.instant(self.now));
        self.at(self.now, Input::EngineReady);
    }

    /// No engine is ready after all.
    pub(super) fn forget_engine(&mut self) {
        self.due.retain(|_, due| matches!(due, Due::Window));
    }

    fn tell(&mut self, input: Input) {
        let mut out = Vec::new();
        self.dialogue.handle(self.instant(self.now), input, &mut out);
        for action in out {
            self.obey(&action);
            self.log.push((self.now, action));
        }
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Transcribe { turn, from, to } => {
                assert!(*to <= self.head && from < to, "a span that was heard");
                let text = if self.words.len() > 1 { self.words.pop_front() } else { self.words.front().copied() };
                let transcript = Transcript {
                    text: text.unwrap_or_default().to_owned(),
                    declined: None,
                    no_speech: 0.0,
                    mean_logprob: 0.0,
                    audio_ms: 0,
                    queue_us: 0,
                    compute_us: 0,
                };
                self.at(self.now + self.delays.stt, Input::Heard { turn: *turn, transcript });
            }
            Action::Think { turn, .. } => {
                let text =
                    if self.answers.len() > 1 { self.answers.pop_front() } else { self.answers.front().copied() };
                let mut ms = self.now + self.delays.prefill;
                for token in text.unwrap_or_default().split_inclusive(' ') {
                    self.at(ms, Input::Token { turn: *turn, text: token.to_owned() });
                    ms += self.delays.token;
                }
                self.at(ms, Input::Thought { turn: *turn, thought: THOUGHT });
            }
            Action::Recall { turn, .. } => {
                if let Some((delay, text)) = self.known {
                    let known = Known { entry: 7, origin: Origin::Faq, score: 0.9 };
                    let answer = Some((vec![text.to_owned()], known));
                    self.at(self.now + delay, Input::Recalled { turn: *turn, answer });
                }
            }
            Action::Retrieve { turn, .. } => {
                let (delay, found) = self.documents.clone().map_or((0, None), |(delay, found)| (delay, Some(found)));
                self.at(self.now + delay, Input::Retrieved { turn: *turn, found });
            }
            Action::Speak { turn, clause, text } => {
                let frames = frames(text);
                let ms = self.now + self.delays.tts;
                for _ in 0..frames {
                    self.at(ms, Input::Audio { turn: *turn, clause: *clause });
                }
                self.at(ms, Input::Spoken { turn: *turn, clause: *clause, frames, compute_us: 0 });
            }
            Action::Play { turn } => {
                assert!(!self.cancelled.contains(turn), "a cancelled turn is never played");
                self.released.insert(*turn);
                for (clause, _) in self.held.remove(turn).unwrap_or_default() {
                    self.give(*turn, clause);
                }
            }
            Action::PlayStored(_) => {
                self.playout.push_back((None, 50));
                self.start_sending();
            }
            Action::Cancel { turn } => {
                self.cancelled.insert(*turn);
                self.held.remove(turn);
                self.due.retain(|_, due| match due {
                    Due::Input(
                        Input::Heard { turn: of, .. }
                        | Input::Token { turn: of, .. }
                        | Input::Thought { turn: of, .. }
                        | Input::Audio { turn: of, .. }
                        | Input::Spoken { turn: of, .. }
                        | Input::Recalled { turn: of, .. }
                        | Input::Retrieved { turn: of, .. },
                    ) => of != turn,
                    _ => true,
                });
            }
            Action::Flush => self.playout.clear(),
            Action::Hangup(_) => self.engine = false,
            Action::Transfer { .. } | Action::Record(_) | Action::Mark(_) => {}
        }
    }

    fn give(&mut self, turn: TurnId, clause: ClauseId) {
        self.playout.push_back((Some((turn, clause)), 1));
        self.start_sending();
    }

    fn start_sending(&mut self) {
        if !self.sending {
            self.sending = true;
            self.schedule(self.now, Due::Input(Input::PlayoutDrained));
        }
    }

    /// The playout's own clock: one frame now, the next in 20 ms.
    fn send_frame(&mut self) {
        let Some((what, frames)) = self.playout.front_mut() else {
            self.sending = false;
            return self.tell(Input::PlayoutDrained);
        };
        let what = *what;
        *frames -= 1;
        if *frames == 0 {
            self.playout.pop_front();
        }
        self.schedule(self.now + 20, Due::Input(Input::PlayoutDrained));
        if let Some((turn, clause)) = what {
            let played = self.played.entry((turn, clause)).or_default();
            *played += 1;
            let frames = *played;
            self.tell(Input::Played { turn, clause, frames });
        }
    }

    pub(super) fn records(&self) -> Vec<&TurnRecord> {
        self.log
            .iter()
            .filter_map(|(_, action)| if let Action::Record(record) = action { Some(&**record) } else { None })
            .collect()
    }

    /// Milliseconds of the actions that are as wanted.
    pub(super) fn times(&self, wanted: impl Fn(&Action) -> bool) -> Vec<u64> {
        self.log.iter().filter(|(_, action)| wanted(action)).map(|(ms, _)| *ms).collect()
    }

    /// Whether the caller knows that the call is recorded.
    pub(super) fn is_recorded(&self) -> bool {
        self.dialogue.is_recorded()
    }

    pub(super) fn hung_up(&self) -> Option<(u64, HangupReason)> {
        self.log
            .iter()
            .find_map(|(ms, action)| if let Action::Hangup(reason) = action { Some((*ms, *reason)) } else { None })
    }

    pub(super) fn stored(&self) -> Vec<StoredPhrase> {
        self.log
            .iter()
            .filter_map(|(_, action)| if let Action::PlayStored(phrase) = action { Some(*phrase) } else { None })
            .collect()
    }

    /// The last message of every question that the model was asked.
    pub(super) fn questions(&self) -> Vec<&str> {
        self.log
            .iter()
            .filter_map(|(_, action)| if let Action::Think { messages, .. } = action { messages.last() } else { None })
            .map(|message| message.content.as_str())
            .collect()
    }

    pub(super) fn spoken(&self) -> Vec<&str> {
        self.log
            .iter()
            .filter_map(|(_, action)| if let Action::Speak { text, .. } = action { Some(text.as_str()) } else { None })
            .collect()
    }
}

/// Fifteen characters a second.
pub(super) fn frames(text: &str) -> u32 {
    u32::try_from(text.chars().count() * 50 / 15 + 1).expect("short")
}

pub(super) const THOUGHT: Thought = Thought {
    finish: Finish::Stop,
    prompt_tokens: 100,
    cached_tokens: 90,
    answer_tokens: 10,
    queue_us: 0,
    prefill_us: 0,
    decode_us: 0,
};

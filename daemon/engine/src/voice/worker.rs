//! The voice's thread: commands, and what clauses say, in; events out. Between two steps it reads all commands that have come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use callbox_wire::{CallId, ClauseId, Event, FRAME_MS, Failure, Pcm, Request, Role, TurnId};
use crossbeam_channel::{Receiver, Sender, TrySendError, select};

use super::network::{Spoken, Together, Window};
use super::reader::{ClauseKey, Reading, Text};
use super::resample::Resampler;
use super::schedule::{self, Clause, Speaking, Step, Turn, Work};
use super::speech::{Sentence, Speech, SpeechError, Trim};
use super::{Cancelled, Command};
use crate::device::{Gate, Urgency};
use crate::role::SharedOutlet;

/// What computes: a voice, or a script of a test.
pub(super) trait Compute: Send + Sync {
    /// Samples per second.
    fn rate(&self) -> u32;

    /// Of each sentence with its seed, an utterance.
    fn begin(&self, wanted: &[(Sentence, u64)]) -> Result<Vec<Spoken>, SpeechError>;

    /// Makes these windows.
    fn advance(&self, windows: &mut [Window]) -> Result<(), SpeechError>;
}

impl Compute for Speech {
    fn rate(&self) -> u32 {
        self.network.rate()
    }

    fn begin(&self, wanted: &[(Sentence, u64)]) -> Result<Vec<Spoken>, SpeechError> {
        self.begin(wanted)
    }

    fn advance(&self, windows: &mut [Window]) -> Result<(), SpeechError> {
        Ok(self.network.advance(windows)?)
    }
}

pub(super) struct Scheduler {
    speech: Arc<dyn Compute>,
    together: Together,
    texts: Sender<Text>,
    gate: Gate,
    outlet: SharedOutlet,
    cancelled: Arc<Cancelled>,
    turns: Vec<Turn>,
    /// Clauses that there were.
    clauses: u64,
}

/// Seconds of the first window of a turn, of the second, and of the others: 24, 40 and 64 frames of the medium Piper voices.
const FIRST_WINDOW: f32 = 0.278;
const SECOND_WINDOW: f32 = 0.464;
pub(super) const LARGE_WINDOW: f32 = 0.743;
/// Turns that wait or speak at once.
const MAX_TURNS: usize = 512;
/// Clauses of one turn that wait.
const MAX_CLAUSES: usize = 64;
/// Bytes of one clause's text.
const MAX_TEXT: usize = 8192;

/// What the thread is told.
enum News {
    Command(Command),
    Reading(Reading),
}

impl Scheduler {
    pub(super) fn new(
        speech: Arc<dyn Compute>,
        together: Together,
        texts: Sender<Text>,
        gate: Gate,
        outlet: SharedOutlet,
        cancelled: Arc<Cancelled>,
    ) -> Self {
        Self { speech, together, texts, gate, outlet, cancelled, turns: Vec::new(), clauses: 0 }
    }

    pub(super) fn run(&mut self, commands: &Receiver<Command>, readings: &Receiver<Reading>) {
        loop {
            let step = schedule::next(&self.turns, self.together);
            let news = if step.is_some() {
                select! {
                    recv(commands) -> command => command.map(|command| Some(News::Command(command))),
                    recv(readings) -> reading => reading.map(|reading| Some(News::Reading(reading))),
                    default => Ok(None),
                }
            } else {
                select! {
                    recv(commands) -> command => command.map(|command| Some(News::Command(command))),
                    recv(readings) -> reading => reading.map(|reading| Some(News::Reading(reading))),
                }
            };
            match (news, step) {
                (Ok(Some(News::Command(Command::Beat(done)))), _) => done(),
                (Ok(Some(News::Command(Command::Do(request, asked)))), _) => self.take(request, asked),
                (Ok(Some(News::Reading(reading))), _) => self.read(reading),
                (Ok(None), Some(step)) => self.step(&step),
                (Ok(None), None) => {}
                // Nobody asks any more, or the reader has panicked.
                (Err(_), _) => return,
            }
        }
    }

    fn take(&mut self, request: Request, asked: Instant) {
        match request {
            Request::Speak { call, turn, clause, text, rate, credit, voice } => {
                if !matches!(rate, 8000 | 16_000) || text.len() > MAX_TEXT {
                    return self.fail(
                        call,
                        turn,
                        Failure::Invalid,
                        "a rate that is not 8000 or 16000, or a text too long",
                    );
                }
                let Some(index) = self.turn(call, turn) else {
                    return self.fail(call, turn, Failure::Overloaded, "too many turns are being spoken");
                };
                if self.turns[index].clauses.len() >= MAX_CLAUSES {
                    return self.fail(call, turn, Failure::Overloaded, "too many clauses of a turn are waiting");
                }
                self.clauses += 1;
                let (number, seed) = (self.clauses, seed(&text));
                let new = Clause {
                    id: clause,
                    number,
                    wanted: Arc::default(),
                    seed,
                    rate,
                    asked,
                    frames: 0,
                    first_us: None,
                    compute_us: 0,
                    work: Work::Reading,
                };
                let (clause, wanted) = (ClauseKey { call, turn, number }, Arc::downgrade(&new.wanted));
                match self.texts.try_send(Text { clause, text, voice, wanted }) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => {
                        return self.fail(call, turn, Failure::Overloaded, "too many clauses are waiting");
                    }
                    Err(TrySendError::Disconnected(_)) => {
                        return self.fail(call, turn, Failure::Internal, "the voice cannot read any more");
                    }
                }
                let turn = &mut self.turns[index];
                turn.credit = turn.credit.saturating_add(credit);
                turn.clauses.push_back(new);
                self.flush(index);
            }
            Request::Grant { call, turn, frames } => {
                // A grant for a turn that is over changes nothing.
                if let Some(index) = self.turns.iter().position(|t| (t.call, t.turn) == (call, turn)) {
                    self.turns[index].grant(frames);
                    self.flush(index);
                }
            }
            Request::Cancel { call, turn } => {
                self.turns.retain(|t| (t.call, t.turn) != (call, turn));
                self.cancelled.served(call, Some(turn));
            }
            Request::Forget { call } => {
                self.turns.retain(|t| t.call != call);
                self.cancelled.served(call, None);
            }
            _ => {}
        }
    }

    /// The turn's place; idle turns make room for it.
    fn turn(&mut self, call: CallId, turn: TurnId) -> Option<usize> {
        if let Some(index) = self.turns.iter().position(|t| (t.call, t.turn) == (call, turn)) {
            return Some(index);
        }
        self.turns.retain(|t| t.call != call || !t.clauses.is_empty());
        if self.turns.len() >= MAX_TURNS {
            let idle = self.turns.iter().position(|t| t.clauses.is_empty())?;
            self.turns.swap_remove(idle);
        }
        self.turns.push(Turn::new(call, turn));
        Some(self.turns.len() - 1)
    }

    fn fail(&self, call: CallId, turn: TurnId, failure: Failure, reason: &str) {
        self.outlet.send(Event::Failed { call, turn, role: Role::Voice, failure, reason: reason.into() });
    }

    /// What a clause says is known; the clause may be gone meanwhile.
    fn read(&mut self, Reading { clause: ClauseKey { call, turn, number }, sentences }: Reading) {
        let Some(index) = self.turns.iter().position(|t| (t.call, t.turn) == (call, turn)) else { return };
        let Some(clause) = self.turns[index].clauses.iter_mut().find(|clause| clause.number == number) else { return };
        match sentences {
            Ok(sentences) if sentences.is_empty() => clause.work = Work::Made,
            Ok(sentences) => {
                let rate = self.speech.rate();
                clause.work = Work::Speaking(Box::new(Speaking {
                    sentences: sentences.into(),
                    utterance: None,
                    windows: 0,
                    trim: Trim::new(rate),
                    resampler: Resampler::new(rate, clause.rate),
                }));
            }
            Err(error) if error.is_nobody() => {
                self.turns.remove(index);
                return self.fail(call, turn, Failure::Invalid, &error.to_string());
            }
            Err(error) => {
                tracing::error!(call = %call, %error, "a clause has no phonemes");
                self.turns.remove(index);
                return self.fail(call, turn, Failure::Internal, "a text cannot be read aloud: the log says why");
            }
        }
        self.flush(index);
    }

    /// Computes the starts of sentences or windows, and sends what may be sent.
    fn step(&mut self, step: &Step) {
        let (Step::Sentences(of) | Step::Windows(of)) = step;
        let has_spoken = of.first().is_some_and(|&first| self.turns[first].has_spoken);
        let urgency = if has_spoken { Urgency::NextAudio } else { Urgency::FirstAudio };
        let made = match step {
            Step::Sentences(of) => self.begin(of, urgency),
            Step::Windows(of) => self.windows(of, urgency),
        };
        if let Err(error) = made {
            let gone: Vec<(CallId, TurnId)> = of.iter().map(|&at| (self.turns[at].call, self.turns[at].turn)).collect();
            self.turns.retain(|turn| !gone.contains(&(turn.call, turn.turn)));
            for (call, turn) in gone {
                tracing::error!(call = %call, %error, "a sentence cannot be computed");
                self.fail(call, turn, Failure::Internal, "the voice's network fails");
            }
        }
    }

    /// Has a sentence of each of these turns begin.
    fn begin(&mut self, of: &[usize], urgency: Urgency) -> Result<(), SpeechError> {
        let wanted = of.iter().filter_map(|&at| {
            let seed = self.turns[at].clauses.front()?.seed;
            Some((at, (self.turns[at].speaking()?.sentences.pop_front()?, seed)))
        });
        let (of, wanted): (Vec<usize>, Vec<(Sentence, u64)>) = wanted.unzip();
        let permit = self.gate.enter(urgency);
        let started = now();
        let begun = self.speech.begin(&wanted);
        let took = micros(started);
        drop(permit);
        for ((&at, (sentence, _)), utterance) in of.iter().zip(&wanted).zip(begun?) {
            if let Some(speaking) = self.turns[at].speaking() {
                speaking.utterance = Some((utterance, sentence.pause_ms));
            }
            self.charge(at, took);
        }
        Ok(())
    }

    /// Makes a window of each of these turns.
    fn windows(&mut self, of: &[usize], urgency: Urgency) -> Result<(), SpeechError> {
        let (mut windows, mut turns) = (Vec::new(), Vec::new());
        for &at in of {
            let has_spoken = self.turns[at].has_spoken;
            let Some(speaking) = self.turns[at].speaking() else { continue };
            let Some((spoken, pause_ms)) = speaking.utterance.take() else { continue };
            windows.push(Window { spoken, seconds: speaking.window(has_spoken), samples: Vec::new() });
            turns.push((at, pause_ms));
        }
        let permit = self.gate.enter(urgency);
        let started = now();
        let made = self.speech.advance(&mut windows);
        let took = micros(started);
        drop(permit);
        made?;
        let rate = self.speech.rate();
        for ((at, pause_ms), window) in turns.into_iter().zip(windows) {
            self.charge(at, took);
            let Turn { clauses, pcm, .. } = &mut self.turns[at];
            if let Some(Clause { work, .. }) = clauses.front_mut()
                && let Work::Speaking(speaking) = work
                && speaking.hear(window, (rate, pause_ms), pcm)
            {
                *work = Work::Made;
            }
            self.flush(at);
        }
        Ok(())
    }

    /// What is done at once is counted for each: so long it took.
    fn charge(&mut self, at: usize, took: u64) {
        if let Some(clause) = self.turns[at].clauses.front_mut() {
            clause.compute_us += took;
        }
    }

    /// Sends the frames for which there is credit, and the end of each clause that is complete.
    fn flush(&mut self, index: usize) {
        let turn = &mut self.turns[index];
        while let Some(clause) = turn.clauses.front_mut() {
            let samples = (clause.rate * FRAME_MS / 1000) as usize;
            let made = matches!(clause.work, Work::Made);
            while turn.credit > 0 && (turn.pcm.len() >= samples || made && !turn.pcm.is_empty()) {
                let mut frame: Vec<i16> = turn.pcm.drain(..samples.min(turn.pcm.len())).collect();
                frame.resize(samples, 0);
                clause.frames += 1;
                clause.first_us.get_or_insert_with(|| micros(clause.asked));
                turn.credit -= 1;
                turn.in_hand += 1;
                turn.has_spoken = true;
                send(&self.outlet, &self.cancelled, (turn.call, turn.turn, clause.id), frame);
            }
            if !made || !turn.pcm.is_empty() {
                return;
            }
            let spoken = Event::Spoken {
                call: turn.call,
                turn: turn.turn,
                clause: clause.id,
                frames: clause.frames,
                first_us: clause.first_us.unwrap_or_default(),
                compute_us: clause.compute_us,
            };
            let noted = self.cancelled.lock();
            if !noted.contains_key(&(turn.call, Some(turn.turn))) && !noted.contains_key(&(turn.call, None)) {
                self.outlet.send(spoken);
            }
            drop(noted);
            turn.clauses.pop_front();
        }
    }
}

/// Sends a frame unless its turn was cancelled; the lock makes that one act.
fn send(
    outlet: &SharedOutlet,
    cancelled: &Cancelled,
    (call, turn, clause): (CallId, TurnId, ClauseId),
    frame: Vec<i16>,
) {
    let noted = cancelled.lock();
    if !noted.contains_key(&(call, Some(turn))) && !noted.contains_key(&(call, None)) {
        outlet.send(Event::Audio { call, turn, clause, pcm: Pcm(frame) });
    }
}

impl Speaking {
    /// How long the next window is, in seconds.
    fn window(&mut self, has_spoken: bool) -> f32 {
        self.windows += 1;
        match (self.windows, has_spoken) {
            (1, false) => FIRST_WINDOW,
            (1, true) | (2, _) => SECOND_WINDOW,
            _ => LARGE_WINDOW,
        }
    }

    /// Makes the call's samples of a window; true if that was the last of the clause.
    fn hear(&mut self, window: Window, (rate, pause_ms): (u32, u32), pcm: &mut VecDeque<i16>) -> bool {
        let (mut trimmed, mut out) = (Vec::new(), Vec::new());
        self.trim.push(&window.samples, &mut trimmed);
        let ends = window.spoken.is_finished();
        let last = ends && self.sentences.is_empty();
        if ends {
            trimmed.resize(trimmed.len() + (rate * pause_ms / 1000) as usize, 0.0);
        } else {
            self.utterance = Some((window.spoken, pause_ms));
        }
        if last {
            self.trim.finish(&mut trimmed);
        }
        self.resampler.push(&trimmed, &mut out);
        if last {
            self.resampler.finish(&mut out);
        }
        pcm.extend(out.iter().map(|x| (x * 32_767.0).round().clamp(-32_768.0, 32_767.0) as i16));
        last
    }
}

/// The same text is spoken the same way each time (FNV-1a).
fn seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[expect(clippy::disallowed_methods, reason = "the edge: what a clause cost is measured here")]
fn now() -> Instant {
    Instant::now()
}

fn micros(since: Instant) -> u64 {
    u64::try_from(now().duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::models::kokoro::{FRAME, Utterance};
    use crate::role::Outlet;
    use crate::voice::network::NetworkError;

    /// Speaks each id as a frame of that value, and fails with whatever begins beside the id 13.
    #[derive(Default)]
    struct Script(Mutex<Vec<usize>>);

    impl Compute for Script {
        fn rate(&self) -> u32 {
            24_000
        }

        fn begin(&self, wanted: &[(Sentence, u64)]) -> Result<Vec<Spoken>, SpeechError> {
            self.0.lock().expect("no panic").push(wanted.len());
            if wanted.iter().any(|(sentence, _)| sentence.ids.contains(&13)) {
                let (path, why) = ("script".into(), "13".into());
                return Err(NetworkError::Speaker { path, why }.into());
            }
            let samples = |ids: &[usize]| ids.iter().flat_map(|&id| vec![id as f32 / 1e3; FRAME]).collect();
            let spoken =
                |(sentence, _): &(Sentence, u64)| Spoken::Kokoro(Box::new(Utterance::ready(samples(&sentence.ids))));
            Ok(wanted.iter().map(spoken).collect())
        }

        fn advance(&self, windows: &mut [Window]) -> Result<(), SpeechError> {
            for window in windows {
                let Spoken::Kokoro(utterance) = &mut window.spoken else { continue };
                utterance.take((window.seconds * 40.0) as usize, &mut window.samples);
            }
            Ok(())
        }
    }

    #[derive(Default)]
    struct Kept(Mutex<Vec<Event>>);

    impl Outlet for Kept {
        fn send(&self, event: Event) {
            self.0.lock().expect("no panic").push(event);
        }
    }

    struct Rig {
        scheduler: Scheduler,
        script: Arc<Script>,
        cancelled: Arc<Cancelled>,
        kept: Arc<Kept>,
        texts: Receiver<Text>,
    }

    impl Rig {
        fn new(sentences: usize) -> Self {
            let (script, kept, cancelled) = (Arc::<Script>::default(), Arc::<Kept>::default(), Arc::default());
            let (send, texts) = crossbeam_channel::bounded(4);
            let together = Together { sentences, windows: 1 };
            let (outlet, gate) = (Arc::<Kept>::clone(&kept), Gate::default());
            let scheduler =
                Scheduler::new(Arc::<Script>::clone(&script), together, send, gate, outlet, Arc::clone(&cancelled));
            Self { scheduler, script, cancelled, kept, texts }
        }

        /// Of each call one clause with sentences of these ids.
        fn speak(&mut self, sentences: &[&[&[usize]]]) {
            for (call, sentences) in (1..).zip(sentences) {
                let (call, text) = (CallId(call), "any".into());
                let (turn, clause) = (TurnId(1), ClauseId(0));
                let request = Request::Speak { call, turn, clause, text, rate: 8000, credit: 9999, voice: None };
                self.scheduler.take(request, now());
                let clause = self.texts.try_recv().expect("it is to be read").clause;
                let sentences =
                    sentences.iter().map(|ids| Sentence { ids: ids.to_vec(), speaker: None, pause_ms: 20 }).collect();
                self.scheduler.read(Reading { clause, sentences: Ok(sentences) });
            }
        }

        fn step(&mut self) -> bool {
            let step = schedule::next(&self.scheduler.turns, self.scheduler.together);
            step.iter().for_each(|step| self.scheduler.step(step));
            step.is_some()
        }

        /// The calls of which something was said, in the order of their first frames, and those that failed.
        fn heard(&self) -> (Vec<u64>, Vec<u64>) {
            let (mut heard, mut failed) = (Vec::new(), Vec::new());
            for event in self.kept.0.lock().expect("no panic").iter() {
                match event {
                    Event::Audio { call, .. } if !heard.contains(&call.0) => heard.push(call.0),
                    Event::Failed { call, .. } => failed.push(call.0),
                    _ => {}
                }
            }
            (heard, failed)
        }

        fn said(&self, of: u64) -> Vec<i16> {
            let events = self.kept.0.lock().expect("no panic");
            let of = events.iter().filter_map(|event| match event {
                Event::Audio { call, pcm, .. } if call.0 == of => Some(pcm.0.clone()),
                _ => None,
            });
            of.flatten().collect()
        }
    }

    #[test]
    fn what_begins_together_says_what_it_says_alone() {
        let clauses: [&[&[usize]]; 4] = [&[&[100; 9], &[200; 7]], &[&[300; 8]], &[&[400; 90]], &[&[500; 7], &[600; 8]]];
        let (mut alone, mut together) = (Rig::new(1), Rig::new(8));
        for rig in [&mut alone, &mut together] {
            rig.speak(&clauses);
            while rig.step() {}
        }
        assert_eq!(alone.script.0.lock().expect("no panic")[..], [1; 6]);
        assert_eq!(together.script.0.lock().expect("no panic")[..], [3, 1, 2], "the long one begins alone");
        assert_eq!(alone.heard(), (vec![1, 2, 3, 4], vec![]));
        assert_eq!(together.heard(), (vec![1, 2, 4, 3], vec![]));
        for call in 1..=4 {
            assert_eq!(alone.said(call), together.said(call), "{call}");
            assert!(together.said(call).len() > 8 * 7 * 25);
        }
    }

    #[test]
    fn a_turn_that_is_cancelled_or_fails_costs_others_nothing() {
        let mut rig = Rig::new(8);
        rig.speak(&[&[&[100; 9]], &[&[200; 9]], &[&[300; 9]]]);
        rig.cancelled.note(CallId(2), Some(TurnId(1)));
        while rig.step() {}
        assert_eq!(rig.heard(), (vec![1, 3], vec![]));
        rig.scheduler.take(Request::Cancel { call: CallId(2), turn: TurnId(1) }, now());
        let mut rig = Rig::new(2);
        rig.speak(&[&[&[100; 9]], &[&[13; 9]], &[&[300; 9]], &[&[400; 9]]]);
        while rig.step() {}
        assert_eq!(rig.heard(), (vec![3, 4], vec![1, 2]), "who began with it fails with it");
        assert_eq!(rig.script.0.lock().expect("no panic")[..], [2, 2]);
    }

    #[test]
    fn what_was_read_of_a_clause_that_is_gone_is_dropped() {
        let mut rig = Rig::new(1);
        let speak = |call| {
            let (turn, clause, text) = (TurnId(1), ClauseId(0), "any".into());
            Request::Speak { call: CallId(call), turn, clause, text, rate: 8000, credit: 9, voice: None }
        };
        rig.scheduler.take(speak(1), now());
        rig.scheduler.take(Request::Forget { call: CallId(1) }, now());
        rig.scheduler.take(speak(1), now());
        let read = |clause, id| Reading {
            clause,
            sentences: Ok(vec![Sentence { ids: vec![id; 9], speaker: None, pause_ms: 0 }]),
        };
        let texts = [(); 2].map(|()| rig.texts.try_recv().expect("it is to be read"));
        assert_eq!(texts.each_ref().map(|text| text.wanted.strong_count()), [0, 1], "the first need not be read");
        let [old, new] = texts.map(|text| text.clause);
        rig.scheduler.read(read(old, 100));
        assert!(!rig.step());
        rig.scheduler.read(read(new, 200));
        while rig.step() {}
        assert!(rig.said(1).iter().any(|&x| x > 4000), "the second");
        (2..9).for_each(|call| rig.scheduler.take(speak(call), now()));
        assert_eq!(rig.heard().1, [6, 7, 8], "four wait to be read");
    }
}

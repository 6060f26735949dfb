//! The voice's thread: commands in; events out. Between two windows it reads all commands that have come.

use std::sync::Arc;
use std::time::Instant;

use callbox_wire::{CallId, ClauseId, Event, FRAME_MS, Failure, Pcm, Request, Role, TurnId};
use crossbeam_channel::{Receiver, TryRecvError};

use super::resample::Resampler;
use super::schedule::{self, Clause, Speaking, Turn, Work};
use super::speech::{Speech, SpeechError, Trim};
use super::{Cancelled, Command};
use crate::device::{Gate, Urgency};
use crate::role::SharedOutlet;

pub(super) struct Scheduler {
    speech: Arc<Speech>,
    gate: Gate,
    outlet: SharedOutlet,
    cancelled: Arc<Cancelled>,
    turns: Vec<Turn>,
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

impl Scheduler {
    pub(super) fn new(speech: Arc<Speech>, gate: Gate, outlet: SharedOutlet, cancelled: Arc<Cancelled>) -> Self {
        Self { speech, gate, outlet, cancelled, turns: Vec::new() }
    }

    pub(super) fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let work = schedule::next(&self.turns);
            let command = if work.is_some() {
                commands.try_recv()
            } else {
                commands.recv().map_err(|_| TryRecvError::Disconnected)
            };
            match (command, work) {
                (Ok(Command::Beat(done)), _) => done(),
                (Ok(Command::Do(request, asked)), _) => self.take(request, asked),
                (Err(TryRecvError::Empty), Some(index)) => self.step(index),
                (Err(TryRecvError::Empty), None) => {}
                (Err(TryRecvError::Disconnected), _) => return,
            }
        }
    }

    fn take(&mut self, request: Request, asked: Instant) {
        match request {
            Request::Speak { call, turn, clause, text, rate, credit } => {
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
                let turn = &mut self.turns[index];
                turn.credit = turn.credit.saturating_add(credit);
                turn.clauses.push_back(Clause {
                    id: clause,
                    text,
                    rate,
                    asked,
                    frames: 0,
                    first_us: None,
                    compute_us: 0,
                    work: Work::Waiting,
                });
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

    /// Computes one sentence's start or one window for a turn, and sends what may be sent.
    #[expect(clippy::disallowed_methods, reason = "the edge: what a clause cost is measured here")]
    fn step(&mut self, index: usize) {
        let turn = &mut self.turns[index];
        let (call, id) = (turn.call, turn.turn);
        let urgency = if turn.has_spoken { Urgency::NextAudio } else { Urgency::FirstAudio };
        let Some(clause) = turn.clauses.front_mut() else { return };
        let seed = seed(&clause.text);
        match &mut clause.work {
            Work::Waiting => match self.speech.sentences(&clause.text) {
                Ok(sentences) if sentences.is_empty() => clause.work = Work::Made,
                Ok(sentences) => {
                    let rate = self.speech.network.rate();
                    clause.work = Work::Speaking(Box::new(Speaking {
                        sentences: sentences.into(),
                        utterance: None,
                        windows: 0,
                        trim: Trim::new(rate),
                        resampler: Resampler::new(rate, clause.rate),
                    }));
                }
                Err(error) => {
                    tracing::error!(call = %call, %error, "a clause has no phonemes");
                    self.turns.remove(index);
                    return self.fail(call, id, Failure::Internal, "espeak-ng does not answer");
                }
            },
            Work::Speaking(speaking) => {
                let permit = self.gate.enter(urgency);
                let started = Instant::now();
                let made = speaking.step(&self.speech, seed, turn.has_spoken, &mut turn.pcm);
                clause.compute_us += micros(started);
                drop(permit);
                match made {
                    Ok(true) => clause.work = Work::Made,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(call = %call, %error, "a sentence cannot be computed");
                        self.turns.remove(index);
                        return self.fail(call, id, Failure::Internal, "the voice's network fails");
                    }
                }
            }
            Work::Made => {}
        }
        self.flush(index);
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
    /// Starts a sentence or makes one window of it; true if that was the last.
    fn step(
        &mut self,
        speech: &Speech,
        seed: u64,
        has_spoken: bool,
        pcm: &mut std::collections::VecDeque<i16>,
    ) -> Result<bool, SpeechError> {
        let Some((utterance, pause_ms)) = &mut self.utterance else {
            let Some(sentence) = self.sentences.pop_front() else { return Ok(true) };
            self.utterance = Some((speech.begin(&sentence, seed)?, sentence.pause_ms));
            return Ok(false);
        };
        let window = match (self.windows, has_spoken) {
            (0, false) => FIRST_WINDOW,
            (0, true) | (1, _) => SECOND_WINDOW,
            _ => LARGE_WINDOW,
        };
        self.windows += 1;
        let (mut samples, mut trimmed, mut out) = (Vec::new(), Vec::new(), Vec::new());
        speech.network.advance(utterance, window, &mut samples)?;
        self.trim.push(&samples, &mut trimmed);
        let mut last = false;
        if utterance.is_finished() {
            let pause = speech.network.rate() * *pause_ms / 1000;
            trimmed.resize(trimmed.len() + pause as usize, 0.0);
            self.utterance = None;
            last = self.sentences.is_empty();
        }
        if last {
            self.trim.finish(&mut trimmed);
        }
        self.resampler.push(&trimmed, &mut out);
        if last {
            self.resampler.finish(&mut out);
        }
        pcm.extend(out.iter().map(|x| (x * 32_767.0).round().clamp(-32_768.0, 32_767.0) as i16));
        Ok(last)
    }
}

/// The same text is spoken the same way each time (FNV-1a).
fn seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[expect(clippy::disallowed_methods, reason = "the edge: what a clause cost is measured here")]
fn micros(since: Instant) -> u64 {
    u64::try_from(Instant::now().duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

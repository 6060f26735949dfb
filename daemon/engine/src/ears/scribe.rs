//! The thread that owns Whisper: one utterance after the other, or several of one bucket together, a step at a time.
//!
//! Enters: jobs from the desk. Leaves: [`Event::Heard`] or [`Event::Failed`]. Between any two steps others may compute, and
//! the work may end, if nobody wants any of it: at most one layer of the encoder or one token is computed for nobody.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use callbox_wire::{Event, Failure, Transcript};

use super::desk::{Desk, Job};
use super::{failed, now};
use crate::device::{Gate, Permit, Urgency};
use crate::models::whisper::{Hearing, Pace, RATE, Whisper};
use crate::role::SharedOutlet;

pub(super) fn run(whisper: &Whisper, desk: &Desk, gate: &Gate, outlet: &SharedOutlet) {
    while let Some(jobs) = desk.take(|samples| whisper.batch(samples)) {
        let started = now();
        let mut turns = Turns::new(gate, jobs.iter().map(|job| Arc::clone(&job.cancelled)).collect());
        if turns.between() == ControlFlow::Break(()) {
            continue;
        }
        let utterances: Vec<_> = jobs.iter().map(|job| (job.samples.as_slice(), job.language)).collect();
        let outcome = whisper.transcribe_all(&utterances, &mut turns);
        let waited = turns.waited;
        drop(turns);
        let computed = now().saturating_duration_since(started).saturating_sub(waited);
        match outcome {
            Ok(None) => {}
            Ok(Some(hearings)) => {
                for (job, hearing) in jobs.iter().zip(hearings) {
                    let queued = started.saturating_duration_since(job.asked);
                    desk.report(job, outlet, heard(job, hearing, queued + waited, computed));
                }
            }
            Err(error) => {
                for job in &jobs {
                    tracing::error!(call = %job.call, turn = %job.turn, %error, "transcription failed");
                    let event = failed(job.call, job.turn, Failure::Internal, "the speech model failed");
                    desk.report(job, outlet, event);
                }
            }
        }
    }
}

fn heard(job: &Job, hearing: Hearing, queued: Duration, computed: Duration) -> Event {
    Event::Heard {
        call: job.call,
        turn: job.turn,
        transcript: Transcript {
            text: hearing.text,
            declined: hearing.declined,
            no_speech: hearing.no_speech,
            mean_logprob: hearing.mean_logprob,
            audio_ms: (job.samples.len() * 1000 / RATE) as u32,
            queue_us: micros(queued),
            compute_us: micros(computed),
        },
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

/// Permission to compute, given back between steps.
struct Turns<'a> {
    gate: &'a Gate,
    permit: Option<Permit>,
    /// Of each utterance.
    cancelled: Vec<Arc<AtomicBool>>,
    waited: Duration,
}

impl<'a> Turns<'a> {
    fn new(gate: &'a Gate, cancelled: Vec<Arc<AtomicBool>>) -> Self {
        Self { gate, permit: None, cancelled, waited: Duration::ZERO }
    }
}

impl Pace for Turns<'_> {
    fn between(&mut self) -> ControlFlow<()> {
        drop(self.permit.take());
        if self.cancelled.iter().all(|cancelled| cancelled.load(Ordering::Relaxed)) {
            return ControlFlow::Break(());
        }
        let before = now();
        self.permit = Some(self.gate.enter(Urgency::Transcribe));
        self.waited += now().saturating_duration_since(before);
        ControlFlow::Continue(())
    }
}

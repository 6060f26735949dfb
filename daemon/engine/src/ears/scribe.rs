//! The thread that owns Whisper: one utterance after the other, a step at a time.
//!
//! Enters: jobs from the desk. Leaves: [`Event::Heard`] or [`Event::Failed`]. Between any two steps others may compute, and
//! the job may end: at most one layer of the encoder or one token is computed for nobody.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use callbox_wire::{Event, Failure, Transcript};

use super::desk::Desk;
use super::{failed, now};
use crate::device::{Gate, Permit, Urgency};
use crate::models::whisper::{Pace, RATE, Whisper};
use crate::role::SharedOutlet;

pub(super) fn run(whisper: &Whisper, desk: &Desk, gate: &Gate, outlet: &SharedOutlet) {
    while let Some(job) = desk.take() {
        let queued = now().saturating_duration_since(job.asked);
        let started = now();
        let mut turns = Turns::new(gate, Arc::clone(&job.cancelled));
        if turns.between() == ControlFlow::Break(()) {
            continue;
        }
        let outcome = whisper.transcribe(&job.samples, &mut turns);
        let waited = turns.waited;
        drop(turns);
        let event = match outcome {
            Ok(None) => continue,
            Ok(Some(hearing)) => {
                let computed = now().saturating_duration_since(started).saturating_sub(waited);
                Event::Heard {
                    call: job.call,
                    turn: job.turn,
                    transcript: Transcript {
                        text: hearing.text,
                        declined: hearing.declined,
                        no_speech: hearing.no_speech,
                        mean_logprob: hearing.mean_logprob,
                        audio_ms: (job.samples.len() * 1000 / RATE) as u32,
                        queue_us: micros(queued + waited),
                        compute_us: micros(computed),
                    },
                }
            }
            Err(error) => {
                tracing::error!(call = %job.call, turn = %job.turn, %error, "transcription failed");
                failed(job.call, job.turn, Failure::Internal, "the speech model failed")
            }
        };
        desk.report(&job, outlet, event);
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

/// Permission to compute, given back between steps.
struct Turns<'a> {
    gate: &'a Gate,
    permit: Option<Permit>,
    cancelled: Arc<AtomicBool>,
    waited: Duration,
}

impl<'a> Turns<'a> {
    fn new(gate: &'a Gate, cancelled: Arc<AtomicBool>) -> Self {
        Self { gate, permit: None, cancelled, waited: Duration::ZERO }
    }
}

impl Pace for Turns<'_> {
    fn between(&mut self) -> ControlFlow<()> {
        drop(self.permit.take());
        if self.cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let before = now();
        self.permit = Some(self.gate.enter(Urgency::Transcribe));
        self.waited += now().saturating_duration_since(before);
        ControlFlow::Continue(())
    }
}

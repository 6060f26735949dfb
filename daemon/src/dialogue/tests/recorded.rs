//! Nobody is recorded who was not told so.

use super::sim::{AGENT, FAST, Line};
use crate::dialogue::{Input, Outcome, TurnKind};

const CONSENT: &str = "This call is recorded.";

/// Milliseconds of [`CONSENT`], at fifteen characters a second.
const LASTS: u64 = 1500;

fn agent() -> String {
    AGENT.replacen("greeting", &format!("record = true\nconsent = \"{CONSENT}\"\ngreeting"), 1)
}

fn line(speech: &[(u64, u64)]) -> Line {
    let mut line = Line::with(&agent(), FAST, speech, &["When do you open?"], &["We open at nine."]);
    line.at(0, Input::Answered);
    line
}

#[test]
fn the_announcement_comes_first_and_recording_begins_once_it_was_heard() {
    let mut line = line(&[]);
    line.run(LASTS - 500);
    assert!(!line.is_recorded());
    line.run(LASTS + 400);
    assert!(line.is_recorded());
    line.run(8000);
    assert_eq!(line.spoken()[..2], [CONSENT, "Good day."]);
    let mut silent = Line::new(FAST, &[], &[], &[]);
    silent.at(0, Input::Answered);
    silent.run(8000);
    assert!(!silent.is_recorded(), "an agent that does not record");
}

#[test]
fn nobody_talks_over_the_announcement_and_the_greeting_behind_it_may_be_cut() {
    let mut early = line(&[(300, 1200)]);
    early.run(8000);
    let greeting = early.records()[0];
    assert_eq!((greeting.kind, greeting.outcome), (TurnKind::Greeting, Outcome::Completed));
    assert!(early.is_recorded());
}

#[test]
fn whoever_did_not_hear_it_hears_it_again_from_the_next_engine_and_the_next_daemon() {
    let mut line = line(&[]);
    line.run(LASTS - 300);
    line.at(LASTS - 200, Input::EngineLost);
    line.at(LASTS + 800, Input::EngineReady);
    line.run(LASTS + 900);
    assert!(!line.is_recorded());
    line.run(10_000);
    assert!(line.is_recorded());
    assert_eq!(line.spoken().iter().filter(|text| **text == CONSENT).count(), 2);

    let mut line = self::line(&[]);
    line.run(LASTS - 500);
    line.crash(200);
    assert!(!line.is_recorded());
    line.run(10_000);
    assert!(line.is_recorded());
    line.crash(200);
    assert!(line.is_recorded(), "who knows it, knows it");
}

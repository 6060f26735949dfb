//! What the caller hears when the engine fails.

use callbox_wire::{Failure, Role};

use super::sim::{FAST, Line, SLOW};
use crate::dialogue::{Action, HangupReason, Input, Outcome, StoredPhrase, TurnKind};

const ANSWER: &str = "We open at nine in the morning, and we close at six in the evening on all days but Sunday.";
const QUESTION: &str = "When do you open?";
const ASKS: (u64, u64) = (2016, 3008);

fn line(speech: &[(u64, u64)]) -> Line {
    let mut line = Line::new(FAST, speech, &[QUESTION], &[ANSWER]);
    line.at(0, Input::Answered);
    line
}

#[test]
fn a_lost_engine_is_apologised_for_at_once_and_the_question_asked_again() {
    let mut line = line(&[ASKS]);
    line.at(4500, Input::EngineLost);
    line.at(6500, Input::EngineReady);
    line.run(20_000);
    let lost: Vec<_> = line.log.iter().filter(|(ms, _)| *ms == 4500).map(|(_, action)| action.clone()).collect();
    assert!(
        matches!(
            lost[..],
            [Action::Flush, Action::Cancel { .. }, Action::Record(_), Action::PlayStored(StoredPhrase::Apology)]
        ),
        "{lost:?}"
    );
    assert_eq!(line.questions(), [QUESTION, QUESTION]);
    let outcomes: Vec<_> = line.records()[1..].iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Completed]);
}

#[test]
fn what_was_lost_before_it_was_heard_is_asked_for() {
    let mut line = line(&[ASKS, (9024, 9984)]);
    line.at(2500, Input::EngineLost);
    line.at(4400, Input::EngineReady);
    line.run(20_000);
    assert_eq!(line.stored(), [StoredPhrase::OneMoment]);
    assert_eq!(line.records()[1].kind, TurnKind::Repeat);
    assert_eq!(line.questions(), [QUESTION], "and the next question works");
}

#[test]
fn what_was_recorded_is_answered_and_not_asked_for() {
    for lost in (2016..4000).step_by(31) {
        let mut line = line(&[ASKS]);
        line.records_audio = true;
        line.at(lost, Input::EngineLost);
        line.at(lost + 2000, Input::EngineReady);
        line.run(20_000);
        let answer = line.records().into_iter().rfind(|record| record.kind == TurnKind::Answer);
        assert_eq!(answer.map(|record| record.outcome), Some(Outcome::Completed), "lost at {lost} ms");
        assert!(line.records().iter().all(|record| record.kind != TurnKind::Repeat), "lost at {lost} ms");
    }
}

#[test]
fn an_engine_lost_between_turns_is_not_noticed() {
    let mut line = line(&[(5024, 6016)]);
    line.at(2500, Input::EngineLost);
    line.at(4500, Input::EngineReady);
    line.run(16_000);
    assert_eq!((line.stored().len(), line.questions()), (0, vec![QUESTION]));
}

#[test]
fn an_engine_that_does_not_come_back_ends_the_call() {
    let mut line = line(&[ASKS]);
    line.at(4500, Input::EngineLost);
    line.run(60_000);
    let moments = [StoredPhrase::OneMoment; 5];
    assert_eq!(line.stored(), [&[StoredPhrase::Apology][..], &moments, &[StoredPhrase::Goodbye]].concat());
    let (ms, reason) = line.hung_up().expect("nobody to talk to");
    assert_eq!((ms, reason), (4500 + 20_000 + 1000 + 200, HangupReason::EngineLost));
}

#[test]
fn whoever_waits_for_an_engine_never_hears_nothing_for_two_seconds() {
    // From when the caller is known to speak.
    for lost in (2300..6500).step_by(97) {
        for down in [900, 2800, 6000] {
            let mut line = Line::new(SLOW, &[ASKS], &[QUESTION], &[ANSWER]);
            line.records_audio = true;
            line.at(0, Input::Answered);
            line.at(lost, Input::EngineLost);
            line.at(lost + down, Input::EngineReady);
            line.run(20_000);
            let told = line.log.iter().filter(|(ms, _)| *ms >= lost);
            let heard = told.filter_map(|(ms, action)| match action {
                Action::PlayStored(_) => Some((*ms, *ms + 1000)),
                Action::Play { .. } => Some((*ms, u64::MAX / 2)),
                _ => None,
            });
            let mut silent_since = lost.max(ASKS.1);
            for (from, to) in heard {
                assert!(
                    from <= silent_since + 2000,
                    "lost at {lost} for {down} ms: nothing from {silent_since} to {from}"
                );
                silent_since = silent_since.max(to);
            }
            assert_eq!(silent_since, u64::MAX / 2, "lost at {lost} for {down} ms: no answer");
        }
    }
}

#[test]
fn a_call_that_is_answered_without_an_engine_is_greeted_when_there_is_one() {
    let mut line = Line::new(FAST, &[], &[], &[ANSWER]);
    line.at(0, Input::EngineLost);
    line.at(10, Input::Answered);
    line.at(3000, Input::EngineReady);
    line.run(5000);
    assert_eq!((line.stored(), line.spoken()), (vec![StoredPhrase::OneMoment; 2], vec!["Good day."]));
}

#[test]
fn an_overloaded_engine_is_asked_again_and_the_caller_for_patience() {
    let mut line = Line::new(SLOW, &[ASKS], &[QUESTION], &["We open at nine."]);
    line.at(0, Input::Answered);
    line.run(3500);
    let Some((_, Action::Think { turn, .. })) =
        line.log.iter().rfind(|(_, action)| matches!(action, Action::Think { .. }))
    else {
        panic!("asked");
    };
    let turn = *turn;
    line.at(3500, Input::Failed { turn, role: Role::Mind, failure: Failure::Overloaded });
    line.run(12_000);
    assert_eq!(line.stored(), [StoredPhrase::OneMoment]);
    assert_eq!(line.times(|action| matches!(action, Action::Think { .. })), [3418, 3700]);
    let record = line.records()[1];
    assert_eq!((record.outcome, record.retries), (Outcome::Completed, 1));
}

#[test]
fn an_engine_that_always_fails_gives_an_apology_and_the_call_goes_on() {
    for (failure, tries) in [(Failure::Overloaded, 5), (Failure::Internal, 2), (Failure::Invalid, 1)] {
        let mut line = Line::new(FAST, &[ASKS, (15_008, 16_000)], &[QUESTION], &["We open at nine."]);
        line.at(0, Input::Answered);
        let mut seen = 0;
        for ms in (0..14_000).step_by(5) {
            line.run(ms);
            let thinks: Vec<_> = line
                .log
                .iter()
                .filter_map(|(_, action)| if let Action::Think { turn, .. } = action { Some(*turn) } else { None })
                .collect();
            if thinks.len() > seen {
                seen = thinks.len();
                line.at(ms, Input::Failed { turn: thinks[seen - 1], role: Role::Mind, failure });
            }
        }
        assert_eq!(seen, tries, "{failure:?}");
        assert_eq!(line.stored().last(), Some(&StoredPhrase::Apology));
        let record = line.records()[1];
        assert_eq!((record.outcome, record.failure), (Outcome::Failed, Some((Role::Mind, failure))));
        line.run(25_000);
        assert_eq!(line.records().last().map(|record| record.outcome), Some(Outcome::Completed), "{failure:?}");
    }
}

#[test]
fn a_conversation_that_the_engine_cannot_hold_is_halved_until_it_can() {
    let asks: Vec<_> = (0..6).map(|n| (2016 + n * 8000, 3008 + n * 8000)).collect();
    let mut line = Line::new(FAST, &asks, &[QUESTION], &["We open at nine."]);
    line.at(0, Input::Answered);
    let (mut seen, mut refused) = (0, 0);
    for ms in (0..55_000).step_by(5) {
        line.run(ms);
        for (_, action) in line.log.split_off(seen) {
            if let Action::Think { turn, messages, .. } = &action
                && messages.len() > 4
            {
                refused += 1;
                line.at(ms, Input::Failed { turn: *turn, role: Role::Mind, failure: Failure::Invalid });
            }
            line.log.push((ms, action));
        }
        seen = line.log.len();
    }
    let answers = line.records().into_iter().filter(|record| record.kind == TurnKind::Answer);
    assert!(answers.clone().all(|record| record.outcome == Outcome::Completed) && answers.count() == 6);
    assert!(line.stored().is_empty() && refused >= 2, "{refused}");
}

#[test]
fn an_engine_that_never_answers_is_given_up() {
    let mut line = line(&[ASKS]);
    line.run(3100);
    line.engine = true;
    line.answers.clear();
    line.answers.push_back("");
    line.run(40_000);
    assert!(line.stored().contains(&StoredPhrase::Apology), "an answer without words is a failure");
}

#[test]
fn a_hang_up_cancels_and_ends_everything() {
    let mut line = line(&[ASKS]);
    line.at(4500, Input::HungUp);
    line.run(4500);
    let last: Vec<_> = line.log.iter().rev().take(2).map(|(_, action)| action.clone()).collect();
    assert!(matches!(last[..], [Action::Record(_), Action::Cancel { .. }]), "{last:?}");
    let (actions, record) = (line.log.len(), line.records()[1].outcome);
    assert_eq!(record, Outcome::Abandoned);
    line.run(60_000);
    assert_eq!((line.log.len(), line.dialogue.deadline()), (actions, None));
}

#[test]
fn an_engine_that_is_lost_again_and_again_ends_the_call_unless_answers_are_heard() {
    let mut patient = line(&[ASKS, (18_016, 19_008), (38_016, 39_008), (58_016, 59_008), (78_016, 79_008)]);
    for loss in 0..5 {
        patient.at(4500 + loss * 20_000, Input::EngineLost);
        patient.at(6500 + loss * 20_000, Input::EngineReady);
    }
    patient.run(100_000);
    assert!(patient.hung_up().is_none_or(|(_, reason)| reason != HangupReason::EngineLost));

    let mut line = line(&[ASKS]);
    for loss in 0..4 {
        line.at(4500 + loss * 4000, Input::EngineLost);
        line.at(6500 + loss * 4000, Input::EngineReady);
    }
    line.run(40_000);
    let (ms, reason) = line.hung_up().expect("bounded");
    assert_eq!(reason, HangupReason::EngineLost);
    assert!((17_700..17_720).contains(&ms), "the fourth loss at 16 500 ms, the goodbye: {ms}");
}

#[test]
fn a_voice_that_fails_in_mid_answer_is_apologised_for_after_what_was_said() {
    let mut line = line(&[ASKS]);
    line.run(4500);
    let turn = line.records().last().map(|record| record.turn.next()).expect("greeted");
    line.at(4500, Input::Failed { turn, role: Role::Voice, failure: Failure::Internal });
    line.run(8000);
    assert_eq!(line.stored(), [StoredPhrase::Apology]);
    assert!(line.times(|action| *action == Action::Flush).is_empty());
    let record = line.records()[1];
    assert_eq!((record.outcome, record.failure), (Outcome::Failed, Some((Role::Voice, Failure::Internal))));
    assert!(!record.heard.reveal().is_empty());
}

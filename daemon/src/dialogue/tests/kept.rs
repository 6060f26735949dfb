//! What the caller hears when the daemon dies and another goes on.

use super::sim::{FAST, Line};
use crate::dialogue::{Action, HangupReason, Input, Mark, Outcome, StoredPhrase, TurnKind};

const ANSWER: &str = "We open at nine in the morning. We close at six in the evening. On Sunday we are closed all day.";
const QUESTION: &str = "When do you open?";
const ASKS: (u64, u64) = (2016, 3008);
const GAP: u64 = 200;

fn line(speech: &[(u64, u64)]) -> Line {
    let mut line = Line::new(FAST, speech, &[QUESTION], &[ANSWER]);
    line.at(0, Input::Answered);
    line
}

#[test]
fn an_answer_goes_on_with_the_clause_that_was_cut() {
    let mut line = line(&[ASKS]);
    line.run(6500);
    let said = line.spoken().len();
    line.crash(GAP);
    line.run(13_000);
    assert_eq!(line.questions(), [QUESTION], "the answer was known");
    assert_eq!(line.spoken()[said..], ["We close at six in the evening.", "On Sunday we are closed all day."]);
    let last = *line.records().last().expect("the answer");
    assert_eq!((last.outcome, last.kind), (Outcome::Completed, TurnKind::Answer));
    assert_eq!((last.generated.reveal().as_str(), last.heard.reveal().as_str()), (ANSWER, ANSWER));
}

#[test]
fn what_was_said_before_is_remembered() {
    let mut line = line(&[ASKS, (14_016, 15_008)]);
    line.run(12_500);
    line.crash(GAP);
    line.run(25_000);
    let asked = line.log.iter().rev().find_map(|(_, action)| match action {
        Action::Think { messages, .. } => Some(messages.iter().map(|m| m.content.as_str()).skip(1).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(asked.expect("a second question"), [QUESTION, ANSWER, QUESTION]);
    let turns: Vec<_> = line.records().iter().map(|record| record.turn.0).collect();
    assert!(turns.windows(2).all(|pair| pair[0] < pair[1]), "no turn id is used twice: {turns:?}");
}

#[test]
fn what_was_said_into_the_crash_is_asked_for() {
    let mut line = line(&[ASKS]);
    line.run(2500);
    line.crash(GAP);
    line.run(10_000);
    assert!(line.records().iter().any(|record| record.kind == TurnKind::Repeat));
}

#[test]
fn a_goodbye_still_ends_the_call() {
    let mut line = Line::new(FAST, &[ASKS], &["Goodbye."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(4200);
    assert!(line.hung_up().is_none());
    line.crash(GAP);
    line.run(20_000);
    assert_eq!(line.hung_up().expect("the goodbye").1, HangupReason::Farewell);
}

#[test]
fn whenever_it_is_cut_off_the_next_question_is_answered() {
    for at in (50..13_000).step_by(90) {
        let mut line = line(&[ASKS, (17_024, 18_016)]);
        line.run(at);
        line.crash(GAP);
        line.run(16_900);
        let begun = line.records().len();
        line.run(32_000);
        let answered = line.records()[begun..].iter().any(|record| record.generated.reveal() == ANSWER);
        assert!(
            answered,
            "cut off at {at} ms: {:?}",
            line.times(|action| matches!(action, Action::Mark(Mark::Listening)))
        );
    }
}

#[test]
fn a_question_that_was_cut_off_anywhere_is_answered_if_it_was_recorded() {
    for at in (1900..6000).step_by(37) {
        for gap in [40, 900, 5000] {
            let mut line = line(&[ASKS]);
            line.records_audio = true;
            line.run(at);
            line.crash(gap);
            line.run(at + gap + 16_000);
            let asked_for = line.records().iter().any(|record| record.kind == TurnKind::Repeat);
            assert!(!asked_for, "cut off at {at} ms for {gap} ms: the caller had to say it again");
            let answer = line.records().into_iter().rfind(|record| record.kind == TurnKind::Answer);
            let answer = answer.unwrap_or_else(|| panic!("cut off at {at} ms for {gap} ms: no answer"));
            assert_eq!(
                (answer.outcome, answer.generated.reveal().as_str()),
                (Outcome::Completed, ANSWER),
                "at {at} ms"
            );
        }
    }
}

#[test]
fn a_caller_who_is_owed_something_is_asked_for_patience_if_there_is_no_engine() {
    let mut line = line(&[ASKS]);
    line.run(2500);
    line.crash(GAP);
    line.forget_engine();
    line.run(2500 + GAP + 699);
    assert!(line.stored().is_empty());
    line.run(2500 + GAP + 701);
    assert_eq!(line.stored(), [StoredPhrase::OneMoment]);
}

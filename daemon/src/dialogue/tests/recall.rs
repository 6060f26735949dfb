//! Answers that are known.

use super::sim::{AGENT, FAST, Line, SLOW};
use crate::base::Source;
use crate::dialogue::{Action, Input, Outcome, Stage};

const QUESTION: &[(u64, u64)] = &[(3000, 4200)];

/// One question, whose answer is known after so many milliseconds.
fn asked(known_after: u64, speech: &[(u64, u64)], words: &[&'static str]) -> Line {
    let mut line = Line::new(SLOW, speech, words, &["The model says that we open at nine."]);
    line.known = Some((known_after, "We open at eight."));
    line.at(0, Input::Answered);
    line
}

fn recalls(line: &Line) -> usize {
    line.times(|action| matches!(action, Action::Recall { .. })).len()
}

#[test]
fn a_known_answer_is_spoken_and_the_mind_is_told_to_stop() {
    let mut line = asked(10, QUESTION, &["When do you open?"]);
    line.run(12_000);
    assert_eq!(line.spoken(), ["Good day.", "We open at eight."]);
    let record = line.records()[1];
    assert_eq!((record.outcome, record.heard.reveal().as_str()), (Outcome::Completed, "We open at eight."));
    assert!(matches!(record.source, Source::Known(known) if known.entry == 7));
    assert!(
        record.thought.is_none()
            && record.times.stages().any(|(stage, took)| stage == Stage::Cache && took.as_millis() == 10)
    );
    assert!(record.times.stages().all(|(stage, _)| stage != Stage::Llm));
    let (think, cancel) = (
        line.times(|action| matches!(action, Action::Think { .. })),
        line.times(|action| matches!(action, Action::Cancel { .. })),
    );
    assert_eq!(cancel[0], think[0] + 10, "nobody waited for it, and nobody thinks on");
}

#[test]
fn a_mark_that_the_ears_miss_and_a_word_that_they_add_keep_nobody_waiting() {
    let played = |known: bool, words: &'static str| {
        let mut line = asked(10, QUESTION, &[words]);
        line.known = line.known.filter(|_| known);
        line.run(12_000);
        line.times(|action| matches!(action, Action::Play { .. }))[1]
    };
    let complete = played(true, "When do you open?");
    assert_eq!(played(true, "When do you open? And"), complete);
    assert!(played(false, "When do you open? And") > complete + 500);
    assert_eq!(played(true, "When do you open"), complete);
    assert!(played(false, "When do you open") > complete + 100);
    assert!(played(true, "When do you open and") > complete + 400);
}

#[test]
fn what_is_known_later_than_the_minds_first_clause_is_not_said() {
    let mut line = asked(2000, QUESTION, &["When do you open?"]);
    line.run(12_000);
    assert_eq!(line.spoken()[1..3].join(" "), "The model says that we open at nine.");
    assert_eq!(line.records()[1].source, Source::Mind);
}

#[test]
fn the_mind_knows_what_was_said_for_it() {
    let mut line = asked(10, &[(3000, 4200), (9000, 10_000)], &["When do you open?", "Why so late?"]);
    line.run(9500);
    line.known = None;
    line.run(18_000);
    let messages = line
        .log
        .iter()
        .rev()
        .find_map(|(_, action)| if let Action::Think { messages, .. } = action { Some(messages.clone()) } else { None })
        .expect("the second question");
    let said: Vec<&str> = messages.iter().skip(1).map(|message| message.content.as_str()).collect();
    assert_eq!(said, ["When do you open?", "We open at eight.", "Why so late?"]);
    assert!(!line.records()[2].alone && line.records()[1].alone);
}

#[test]
fn a_caller_who_goes_on_revokes_it_and_one_who_speaks_over_it_stops_it() {
    let mut line = asked(10, &[(3000, 3800), (4350, 5400)], &["When do you open and", "When do you open and close?"]);
    line.run(14_000);
    assert_eq!(line.times(|action| matches!(action, Action::Play { .. })).len(), 2, "the greeting and one answer");
    assert_eq!(recalls(&line), 2);

    let mut line = asked(10, &[(3000, 4200), (5000, 6000)], &["When do you open?", "Stop."]);
    line.run(5600);
    let record = line.records()[1];
    assert_eq!(record.outcome, Outcome::Interrupted);
    assert!(record.heard.reveal().len() < "We open at eight.".len(), "{:?}", record.heard.reveal());
}

#[test]
fn a_question_that_is_only_a_part_of_one_is_not_looked_up() {
    // The first question was interrupted before a word of the answer was heard: the second one belongs to it.
    let mut line = asked(10, &[(3000, 4200), (4900, 5900)], &["When do you open", "on Sunday?"]);
    line.run(5300);
    let before = recalls(&line);
    line.run(14_000);
    assert!(before >= 1);
    let questions = line.questions();
    if questions.last().is_some_and(|question| question.starts_with("When do you open")) {
        assert_eq!(recalls(&line), before);
    }

    let mut line = Line::with(AGENT, FAST, &[], &[], &["Two."]);
    line.known = Some((1, "We open at eight."));
    line.at(0, Input::Answered);
    line.at(3000, Input::Dtmf('2'));
    line.run(9000);
    assert_eq!(recalls(&line), 0, "a key is no question");
}

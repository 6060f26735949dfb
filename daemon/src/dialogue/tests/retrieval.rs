//! What an agent's documents say.

use super::sim::{FAST, Line, SLOW};
use crate::base::{Passage, Source};
use crate::dialogue::{Action, Input, Stage};

const TWO: &[(u64, u64)] = &[(3000, 4200), (9000, 10_000)];

fn asked(speech: &[(u64, u64)], words: &[&'static str], documents: Option<(u64, Vec<Passage>)>) -> Line {
    let mut line = Line::new(FAST, speech, words, &["From seven until ten."]);
    line.documents = documents;
    line.at(0, Input::Answered);
    line
}

fn pool() -> Passage {
    Passage { name: "house.md: Pool".to_owned(), text: "It opens at seven.".to_owned() }
}

/// What the model was told last, but for its instructions.
fn told(line: &Line) -> Vec<String> {
    let thoughts = line.log.iter().rev();
    let mut messages = thoughts.filter_map(|(_, action)| match action {
        Action::Think { messages, .. } => Some(messages),
        _ => None,
    });
    messages.next().expect("a question").iter().skip(1).map(|message| message.content.clone()).collect()
}

#[test]
fn the_model_is_asked_once_the_documents_are_and_told_what_they_say() {
    let mut line = asked(TWO, &["When does the pool open?", "And close?"], Some((40, vec![pool()])));
    line.run(9000);
    let at = |wanted: fn(&Action) -> bool| line.times(wanted)[0];
    assert_eq!(
        at(|action| matches!(action, Action::Think { .. })),
        at(|action| matches!(action, Action::Retrieve { .. })) + 40
    );
    assert_eq!(told(&line), ["More facts:\n- Pool: It opens at seven.\n\nWhen does the pool open?"]);
    let record = line.records()[1];
    assert_eq!((&record.knowledge[..], record.source), (&["house.md: Pool".to_owned()][..], Source::Mind));
    assert!(record.times.stages().any(|(stage, took)| stage == Stage::Knowledge && took.as_millis() == 40));

    line.run(18_000);
    let questions: Vec<String> = line
        .log
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Retrieve { question, .. } => Some(question.reveal().clone()),
            _ => None,
        })
        .collect();
    assert_eq!(questions, ["When does the pool open?", "When does the pool open? And close?"]);
    let told = told(&line);
    assert_eq!((told.len(), told[2].as_str()), (3, "And close?"), "it still sees what it was told before");
    assert!(line.records()[2].knowledge.is_empty());
}

#[test]
fn without_documents_nothing_waits_and_nothing_is_told() {
    let mut line = asked(TWO, &["When does the pool open?", "And close?"], None);
    line.run(9000);
    assert_eq!(told(&line), ["When does the pool open?"]);
    assert!(line.records()[1].times.stages().all(|(stage, _)| stage != Stage::Knowledge));
}

#[test]
fn a_known_answer_does_not_wait_for_the_documents() {
    let mut line = Line::new(SLOW, &[(3000, 4200)], &["When do you open?"], &["Nobody thinks."]);
    line.documents = Some((200, vec![pool()]));
    line.known = Some((10, "We open at eight."));
    line.at(0, Input::Answered);
    line.run(12_000);
    assert_eq!(line.spoken()[1], "We open at eight.");
    assert!(line.times(|action| matches!(action, Action::Think { .. })).is_empty());
    assert!(
        line.records()[1].knowledge.is_empty()
            && line.records()[1].times.stages().all(|(stage, _)| stage != Stage::Knowledge)
    );
}

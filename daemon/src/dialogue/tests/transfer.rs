//! Callers who are handed over, and those who come back.

use super::sim::{AGENT, FAST, Line};
use crate::dialogue::{Action, Input, Outcome, TurnKind, Unreached};

const TRANSFERS: &str = "
[[transfers]]
name = 'desk'
to = '+493012346'
phrases = ['speak to a human']
keys = '0'
when = 'the caller wants a person'
announce = 'I connect you.'
unreached = 'Nobody is there.'
";

const ASKS: (u64, u64) = (2016, 3008);

fn line(speech: &[(u64, u64)], words: &[&'static str], answers: &[&'static str]) -> Line {
    let mut line = Line::with(&format!("{AGENT}{TRANSFERS}"), FAST, speech, words, answers);
    line.at(0, Input::Answered);
    line
}

/// When the caller was handed over.
fn handed_over(line: &Line) -> Vec<u64> {
    let transfers = line.log.iter().filter(|(_, action)| *action == Action::Transfer { name: "desk".into() });
    transfers.map(|(ms, _)| *ms).collect()
}

#[test]
fn words_keys_and_the_model_hand_a_caller_over_after_the_announcement() {
    let by_words = line(&[ASKS], &["I want to speak to a human."], &["never asked"]);
    let mut by_key = line(&[], &[], &["never asked"]);
    by_key.at(3000, Input::Dtmf('0'));
    let by_model = line(&[ASKS], &["Is anybody there?"], &["[transfer desk]"]);
    for (mut line, questions) in [(by_words, 0), (by_key, 0), (by_model, 1)] {
        line.run(60_000);
        assert_eq!(line.spoken(), ["Good day.", "I connect you."]);
        let [at] = handed_over(&line)[..] else { panic!("{:?}", line.log) };
        let announced = line.records()[1];
        assert_eq!((announced.kind, announced.outcome), (TurnKind::Transfer, Outcome::Completed));
        assert!(at >= line.ms(announced.times.first_played), "after it was heard");
        assert_eq!(line.questions().len(), questions);
        assert_eq!(line.records().len(), 2, "nobody breaks the silence of somebody who is away");
        assert!(line.hung_up().is_none());
    }
}

#[test]
fn a_caller_who_comes_back_is_told_and_the_model_knows() {
    let mut line =
        line(&[ASKS, (12_000, 13_000)], &["I want to speak to a human.", "Then when do you open?"], &["At nine."]);
    line.at(8000, Input::Unreached(Unreached::NoAnswer));
    line.run(20_000);
    assert_eq!(line.spoken(), ["Good day.", "I connect you.", "Nobody is there.", "At nine."]);
    let asked = line.log.iter().find_map(|(_, action)| match action {
        Action::Think { messages, .. } => Some(messages.iter().map(|m| m.content.clone()).collect::<Vec<_>>()),
        _ => None,
    });
    let asked = asked.expect("one question");
    assert!(asked.iter().any(|text| text.contains("the transfer to desk failed: nobody answered")), "{asked:?}");
}

#[test]
fn what_is_said_meanwhile_is_not_for_the_agent() {
    let mut line = line(&[ASKS, (9000, 30_000)], &["Let me speak to a human please."], &["never asked"]);
    line.at(12_000, Input::Dtmf('5'));
    line.run(60_000);
    assert_eq!((handed_over(&line).len(), line.records().len()), (1, 2));
}

#[test]
fn neither_a_lost_engine_nor_the_longest_call_ends_a_conversation_of_others() {
    let joined = || line(&[ASKS], &["I want to speak to a human."], &["never asked"]);
    let mut long = joined();
    long.run(2_000_000);
    assert_eq!((long.hung_up(), long.records().len()), (None, 2), "half an hour later");
    let mut alone = joined();
    for (ms, input) in
        [(6000, Input::EngineLost), (60_000, Input::Unreached(Unreached::Busy)), (61_000, Input::EngineReady)]
    {
        alone.at(ms, input);
    }
    alone.run(65_000);
    assert_eq!(alone.spoken().last(), Some(&"Nobody is there."), "{:?}", alone.spoken());
}

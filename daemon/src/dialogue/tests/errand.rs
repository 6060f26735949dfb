//! What operators have an agent do.

use super::sim::{AGENT, FAST, Line};
use crate::dialogue::{Action, Errand, Input, NoErrand, Outcome, TurnKind};

const DESK: &str = "\n[[transfers]]\nname = 'desk'\nto = '+493012346'\nkeys = '0'\nannounce = 'I connect you.'\n";

fn line(speech: &[(u64, u64)], words: &[&'static str], answers: &[&'static str]) -> Line {
    let mut line = Line::with(&format!("{AGENT}{DESK}"), FAST, speech, words, answers);
    line.at(0, Input::Answered);
    line
}

fn say(text: &str) -> Errand {
    Errand::Say(text.into())
}

#[test]
fn an_operator_is_heard_when_nobody_has_the_floor_and_the_model_knows_whose_words_they_are() {
    let mut line =
        line(&[(2016, 3008), (9_000, 10_000)], &["When do you open?", "And who comes?"], &["At nine.", "A man."]);
    // While the caller speaks.
    line.run(2500);
    assert_eq!(line.dialogue.take_errand(say("A colleague comes.")), Ok(()));
    line.run(14_000);
    assert_eq!(line.spoken(), ["Good day.", "At nine.", "A colleague comes.", "A man."]);
    let told = line.records()[2];
    assert_eq!((told.kind, told.outcome), (TurnKind::Operator, Outcome::Completed));
    let asked = line.log.iter().rev().find_map(|(_, action)| match action {
        Action::Think { messages, .. } => {
            Some(messages.iter().map(|m| m.content.clone()).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    });
    assert!(
        asked.is_some_and(|asked| asked.contains("an operator has you tell the caller something)|A colleague comes."))
    );
}

#[test]
fn an_operator_hands_a_caller_over_and_not_twice() {
    let mut line = line(&[], &[], &[]);
    line.run(3000);
    assert_eq!(line.dialogue.take_errand(Errand::Transfer("nobody".into())), Err(NoErrand::Unknown));
    assert_eq!(line.dialogue.take_errand(Errand::Transfer("desk".into())), Ok(()));
    line.run(8000);
    assert_eq!(line.spoken(), ["Good day.", "I connect you."]);
    assert_eq!(line.times(|action| *action == Action::Transfer { name: "desk".into() }).len(), 1);
    assert_eq!(line.dialogue.take_errand(say("Hello?")), Err(NoErrand::Away));
}

#[test]
fn errands_wait_on_hold_are_bounded_and_outlive_the_daemon() {
    let mut line = line(&[], &[], &[]);
    line.run(3000);
    line.at(3000, Input::Hold(true));
    line.run(3100);
    for _ in 0..4 {
        assert_eq!(line.dialogue.take_errand(say("One.")), Ok(()));
    }
    assert_eq!(line.dialogue.take_errand(say("Five.")), Err(NoErrand::Full));
    line.run(6000);
    assert_eq!(line.spoken(), ["Good day."], "whoever is on hold hears nothing");
    line.crash(300);
    line.at(8000, Input::Hold(false));
    line.run(20_000);
    assert_eq!(line.spoken().iter().filter(|said| **said == "One.").count(), 4, "{:?}", line.spoken());
    line.at(20_000, Input::Drain);
    line.run(20_100);
    assert_eq!(line.dialogue.take_errand(say("Late.")), Err(NoErrand::Over));
    assert!(!format!("{:?}", say("swordfish")).contains("swordfish"));
}

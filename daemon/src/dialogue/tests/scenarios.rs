//! Conversations that go well, and callers who are human.

use super::sim::{AGENT, Delays, FAST, Line, SLOW};
use crate::dialogue::{Action, HangupReason, Input, Mark, Outcome, Stage, TurnKind};

const ANSWER: &str = "We open at nine.";

/// The caller speaks from 2016 ms to 3008 ms, on the windows' grid.
const ASKS: (u64, u64) = (2016, 3008);

fn plays(action: &Action) -> bool {
    matches!(action, Action::Play { .. })
}

#[test]
fn a_call_is_greeted_answered_and_ended() {
    let mut line = Line::new(FAST, &[ASKS, (6016, 6912)], &["When do you open?", "Thanks, goodbye."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(20_000);
    let kinds: Vec<_> = line.records().iter().map(|record| (record.kind, record.outcome)).collect();
    assert_eq!(
        kinds,
        [
            (TurnKind::Greeting, Outcome::Completed),
            (TurnKind::Answer, Outcome::Completed),
            (TurnKind::Goodbye, Outcome::Completed)
        ]
    );
    assert_eq!(line.questions(), ["When do you open?"], "a goodbye is no question for the model");
    assert_eq!(line.spoken(), ["Good day.", ANSWER, "Thank you, goodbye."]);
    let answer = line.records()[1];
    assert_eq!(answer.caller.as_ref().map(|text| text.reveal().as_str()), Some("When do you open?"));
    assert_eq!(answer.heard, answer.generated);
    assert!(answer.times.stages().map(|(stage, _)| stage).eq([
        Stage::Endpoint,
        Stage::Stt,
        Stage::Llm,
        Stage::Tts,
        Stage::Playout
    ]));
    let (hung_up, reason) = line.hung_up().expect("after the goodbye");
    assert_eq!(reason, HangupReason::Farewell);
    assert!(hung_up > line.ms(line.records()[2].times.first_played) + 1200, "after its last frame");
    assert_eq!(line.log.last().map(|(_, action)| action.clone()), Some(Action::Hangup(reason)), "and nothing after it");
}

#[test]
fn on_hold_nobody_is_silent_and_music_is_no_question() {
    let music = (5024, 60_000);
    let mut line = Line::new(FAST, &[music, (66_016, 67_008)], &["When do you open?"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.at(4000, Input::Hold(true));
    line.at(62_000, Input::Hold(false));
    line.run(65_000);
    assert_eq!((line.records().len(), line.hung_up()), (1, None), "the greeting, and no prompt");
    line.run(75_000);
    assert_eq!(line.questions(), ["When do you open?"]);
    // A box that stops does not wait for the caller to come back.
    let mut line = Line::new(FAST, &[], &[], &[]);
    line.at(0, Input::Answered);
    line.at(4000, Input::Hold(true));
    line.at(5000, Input::Drain);
    line.run(60_000);
    assert_eq!(line.hung_up().map(|(_, reason)| reason), Some(HangupReason::Drain));
}

/// The committed answer starts at the later of two instants, to the millisecond: the end of the turn, and the end of a
/// pipeline that began at the speculation. "We open at nine." is one clause, complete with its fifth event.
#[test]
fn an_answer_starts_when_the_turn_has_ended_and_the_work_is_done_and_not_later() {
    let spoke = ASKS.1;
    for (delays, words, hold) in [
        (FAST, "When do you open?", 300),
        (SLOW, "When do you open?", 300),
        (FAST, "when do you open", 450),
        (FAST, "When do you open and", 1000),
        (SLOW, "When do you open and", 1000),
        (Delays { stt: 0, prefill: 0, token: 0, tts: 0 }, "When do you open?", 300),
        (Delays { stt: 170, prefill: 20, token: 0, tts: 0 }, "When do you open?", 300),
    ] {
        let mut line = Line::new(delays, &[ASKS], &[words], &[ANSWER]);
        line.at(0, Input::Answered);
        line.run(9000);
        let pipeline = 110 + delays.stt + delays.prefill + 4 * delays.token + delays.tts;
        let wanted = spoke + u64::max(hold, pipeline);
        assert_eq!(line.times(plays)[1], wanted, "{words:?}: hold {hold}, pipeline {pipeline}");
        let record = line.records()[1];
        assert_eq!(line.ms(record.times.end_of_speech), spoke);
        assert_eq!(
            line.ms(record.times.endpoint),
            spoke + hold.max(110 + delays.stt),
            "decided when the words are known"
        );
        assert_eq!(record.attempts, 1);
        assert_eq!(line.questions().len(), 1, "the speculative work is used, not done again");
    }
}

#[test]
fn a_caller_who_goes_on_is_not_answered_twice() {
    let speech = [(2016, 2912), (3136, 4000)];
    let mut line = Line::new(FAST, &speech, &["I would like", "I would like a room."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(9000);
    assert_eq!(line.times(|action| matches!(action, Action::Mark(Mark::Revoked { .. }))).len(), 1);
    assert_eq!(line.questions().last(), Some(&"I would like a room."));
    let record = line.records()[1];
    assert_eq!((record.attempts, record.outcome), (2, Outcome::Completed));
    assert_eq!(line.times(plays).len(), 2, "the greeting and one answer");
    let spans: Vec<_> = line
        .log
        .iter()
        .filter_map(
            |(_, action)| if let Action::Transcribe { from, to, .. } = action { Some((*from, *to)) } else { None },
        )
        .collect();
    assert_eq!(spans[0].0, spans[1].0, "the whole utterance is transcribed again");
    assert!(spans[1].1 > spans[0].1);
}

#[test]
fn until_something_is_heard_a_decision_can_be_taken_back() {
    // The turn ends at 2912 + 300 ms; a slow model needs longer, and at 3300 ms the caller goes on.
    let speech = [(2016, 2912), (3328, 4000)];
    let mut line = Line::new(SLOW, &speech, &["I have a question.", "I have a question. When do you open?"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(12_000);
    assert_eq!(line.times(|action| matches!(action, Action::Mark(Mark::EndOfTurn { .. }))).len(), 2);
    assert_eq!(line.records().len(), 2);
    assert_eq!(line.records()[1].attempts, 2);
}

#[test]
fn a_caller_who_pauses_long_is_given_more_time() {
    // Pauses of 416 ms in open-ended words: seen once, longer ones are waited for.
    let speech = [(2016, 2912), (3328, 4000), (8000, 8960)];
    let mut line = Line::new(SLOW, &speech, &["well I", "well I have a dog", "and a cat"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(15_000);
    let quiet: Vec<_> = line.records()[1..]
        .iter()
        .map(|record| line.ms(record.times.endpoint) - line.ms(record.times.end_of_speech))
        .collect();
    assert_eq!(quiet, [450, 450], "\"well I\" hangs: a pause of 416 ms is nothing new there");
    let mut line = Line::new(FAST, &speech, &["a dog.", "a dog. A cat.", "A bird."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(15_000);
    let last = line.records().last().copied().expect("answered");
    let quiet = line.ms(last.times.endpoint) - line.ms(last.times.end_of_speech);
    assert!((400..700).contains(&quiet), "more than 300 ms, not {quiet}");
}

#[test]
fn barge_in_stops_everything_in_the_same_step() {
    let answer = "We open at nine in the morning, and we close at six in the evening on all days but Sunday.";
    let mut line = Line::new(FAST, &[ASKS, (5024, 6016)], &["When do you open?", "And on Sunday?"], &[answer, ANSWER]);
    line.at(0, Input::Answered);
    line.run(12_000);
    let flush = line.times(|action| *action == Action::Flush);
    assert_eq!(flush, [5024 + 320], "300 ms of speech, seen at the next window");
    let at: Vec<_> = line.log.iter().filter(|(ms, _)| *ms == flush[0]).map(|(_, action)| action).collect();
    assert!(matches!(at[..], [Action::Flush, Action::Cancel { .. }, Action::Mark(_), Action::Record(_)]), "{at:?}");
    let record = line.records()[1];
    assert_eq!(record.outcome, Outcome::Interrupted);
    let (heard, generated) = (record.heard.reveal(), record.generated.reveal());
    assert!(generated.starts_with(heard.as_str()) && heard.len() > 10 && heard.len() < generated.len(), "{heard:?}");
    let sent = f64::from(record.frames_played) / 50.0 * 15.0;
    assert!((heard.len() as f64 - sent).abs() < 12.0, "{} characters of {sent} that were sent", heard.len());
    let Some((_, Action::Think { messages, .. })) =
        line.log.iter().rfind(|(_, action)| matches!(action, Action::Think { .. }))
    else {
        panic!("the interruption is a question");
    };
    let told: Vec<_> = messages.iter().skip(1).map(|message| message.content.as_str()).collect();
    assert_eq!(told, ["When do you open?", &format!("{heard} —"), "(interrupts you) And on Sunday?"]);
    assert_eq!(line.records()[2].outcome, Outcome::Completed);
}

#[test]
fn the_greeting_can_be_interrupted_and_a_nod_interrupts_nothing() {
    let agent =
        AGENT.replace("Good day.", "Good day, you have reached the front desk of the hotel. How can I help you?");
    let mut line = Line::with(&agent, FAST, &[(1024, 1248), (1536, 1760)], &["Uh-huh."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(7000);
    assert_eq!(line.records()[0].outcome, Outcome::Completed);
    assert!(line.questions().is_empty(), "two nods are not one interruption");
    let mut line = Line::with(&agent, FAST, &[(1024, 2016)], &["When do you open?"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(7000);
    assert_eq!(line.records()[0].outcome, Outcome::Interrupted);
    assert_eq!(line.questions(), ["When do you open?"]);
}

#[test]
fn silence_is_broken_twice_and_then_ends_the_call() {
    let mut line = Line::new(FAST, &[], &[""], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(60_000);
    assert_eq!(line.spoken(), ["Good day.", "Are you still there?", "Hello?", "Thank you, goodbye."]);
    let (ms, reason) = line.hung_up().expect("nobody is there");
    assert_eq!(reason, HangupReason::Silence);
    assert!((24_000..32_000).contains(&ms));
}

#[test]
fn noise_is_not_answered_but_asked_about_the_second_time() {
    let mut line = Line::new(FAST, &[ASKS, (4000, 4992), (9024, 9984)], &["", "", "When do you open?"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(4900);
    assert_eq!(line.spoken(), ["Good day."]);
    line.run(15_000);
    assert_eq!(line.spoken()[1..], ["Sorry, I did not catch that.", "Could you say it again?", ANSWER]);
}

#[test]
fn keys_are_a_question_and_interrupt() {
    let mut line = Line::new(FAST, &[], &[], &[ANSWER]);
    line.at(0, Input::Answered);
    for (ms, key) in [(100, '4'), (400, '2'), (410, 'x'), (700, '#')] {
        line.at(ms, Input::Dtmf(key));
    }
    line.run(5000);
    assert_eq!(line.records()[0].outcome, Outcome::Interrupted);
    assert_eq!(line.questions(), ["(presses 4 2 on the telephone's keypad)"]);
}

#[test]
fn a_drain_lets_the_turn_end_and_says_goodbye() {
    let mut line = Line::new(FAST, &[ASKS], &["When do you open?"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.at(2500, Input::Drain);
    line.run(30_000);
    assert_eq!(line.spoken()[1..], [ANSWER, "Thank you, goodbye."]);
    assert_eq!(line.hung_up().map(|(_, reason)| reason), Some(HangupReason::Drain));
}

#[test]
fn the_longest_call_ends_with_a_goodbye_even_if_the_caller_never_stops() {
    let agent = format!("{AGENT}[limits]\ncall_seconds = 20\n");
    let mut line = Line::with(&agent, FAST, &[(2016, 200_000)], &["bla"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(60_000);
    let (ms, reason) = line.hung_up().expect("bounded");
    assert_eq!(reason, HangupReason::MaxDuration);
    assert!((35_000..40_000).contains(&ms), "20 s, 15 s for the last turn, the goodbye: {ms}");
}

#[test]
fn a_long_story_is_not_transcribed_from_its_beginning_each_time() {
    let speech = [(2016, 18_016), (18_304, 19_008)];
    let mut line = Line::new(FAST, &speech, &["A long story", "with an end."], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(25_000);
    assert_eq!(line.questions().last(), Some(&"A long story with an end."));
}

#[test]
fn what_still_comes_of_a_cancelled_attempt_changes_nothing() {
    let mut line = Line::new(FAST, &[(2016, 2912), (3136, 30_000)], &["I would like"], &[ANSWER]);
    line.at(0, Input::Answered);
    line.run(4000);
    let Some((_, Action::Cancel { turn })) =
        line.log.iter().find(|(_, action)| matches!(action, Action::Cancel { .. }))
    else {
        panic!("revoked");
    };
    let (turn, actions) = (*turn, line.log.len());
    line.at(4001, Input::Token { turn, text: "Stale. And stale.".to_owned() });
    line.at(4002, Input::Thought { turn, thought: super::sim::THOUGHT });
    line.at(4003, Input::Audio { turn, clause: callbox_wire::ClauseId(0) });
    line.at(4004, Input::Played { turn, clause: callbox_wire::ClauseId(0), frames: 9 });
    line.run(4100);
    assert_eq!(line.log.len(), actions);
}

#[test]
fn no_word_is_in_any_debug_output() {
    let mut line = Line::new(FAST, &[ASKS], &["When do you open, please?"], &[ANSWER]);
    line.at(0, Input::Answered);
    for ms in (0..9000).step_by(50) {
        line.run(ms);
        let printed = format!("{:?} {:?}", line.dialogue, line.log);
        assert!(!printed.contains("please") && !printed.contains("nine"), "{printed}");
    }
    let input = Input::Token { turn: callbox_wire::TurnId(1), text: "nine".to_owned() };
    assert_eq!(format!("{input:?}"), "Token(1)");
}

//! Screens as a reader sees them, and what keys and events make of them.

use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::super::link::Told;
use super::super::look::Look;
use super::super::sse::Event;
use super::super::state::{Key, State, Wish};
use super::*;
use crate::printable::acts;

const BEGIN: &str = "2026-11-22T10:00:00Z";

fn at(seconds: u64) -> Timestamp {
    BEGIN.parse::<Timestamp>().expect("a time") + Duration::from_secs(seconds)
}

fn event(name: &str, data: &Value) -> Told {
    Told::Event(Event { name: name.into(), id: None, data: data.to_string() })
}

fn call(id: &str, from: &str, state: &str) -> Value {
    json!({ "id": id, "state": state, "agent": "desk", "direction": "inbound", "from": from, "to": "reception",
        "codec": "PCMU", "started": BEGIN, "turns": 1 })
}

/// The screen's lines without what is blank at their end.
fn screen(state: &State, width: u16, height: u16, now: Timestamp) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let drawn = terminal.draw(|frame| {
        draw(frame, state, now);
    });
    drawn.expect("drawn");
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    let line = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    rows.map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

#[track_caller]
fn assert_screen(shown: &str, expected: &str) {
    assert!(shown == expected, "shown:\n{shown}\nexpected:\n{expected}");
}

fn health(parts: &Value, trunks: &Value, storage: &Value) -> Value {
    let ready = parts.as_object().expect("parts").values().all(|why| why == "ready");
    json!({ "status": if ready { "ready" } else { "not ready" }, "version": "0.1.0", "uptime_seconds": 4000,
        "parts": parts, "calls": 2, "trunks": trunks, "storage": storage })
}

fn well() -> Look {
    let parts = json!({ "storage": "ready", "sip": "ready", "media": "ready", "engine:ears": "ready",
        "engine:mind": "ready", "engine:voice": "ready", "drain": "ready" });
    let trunks = json!({ "provider": { "calls": 2, "registered": true } });
    let metrics = "# TYPE callbox_calls counter\ncallbox_calls_total 17\ncallbox_calls_refused_total{reason=\"full\"} 1\n\
                   callbox_calls_refused_total{reason=\"no_agent\"} 2\ncallbox_engine_restarts_total{engine=\"0\"} 0\n";
    Look::new(health(&parts, &trunks, &json!({ "fault": null, "records_lost": 0 })), metrics, Some(812.4))
}

/// Two callers: one has been answered once and asks again.
fn talking() -> State {
    let mut state = State::default();
    state.looked(Ok(well()), at(0));
    state.told(Told::Live, at(0));
    let up = json!({ "calls": [call("9a01361893ac11d2", "+4930123456", "listening"), call("1b", "sip:bob@example", "held")] });
    state.told(event("snapshot", &up), at(0));
    let record = json!({ "exchanges": [
        { "turn": 0, "caller_text": "", "agent_text": "Good morning.", "heard_text": "Good morning.", "interrupted": false,
          "timings_us": {} },
        { "turn": 1, "caller_text": "Is there a garden?", "agent_text": "There is, and a swimming pool.",
          "heard_text": "There is, and a swimming pool.", "interrupted": false,
          "timings_us": { "pause": 110_000, "stt": 95_400, "prefill": 180_000, "first_clause": 120_000,
              "tts_first": 90_000, "hold": 40_000, "playout": 8_000, "endpoint": 500_000, "voice_to_voice": 643_400 } },
    ] });
    state.record("9a01361893ac11d2", Ok(record), at(1));
    for (name, data) in [
        ("caller_speaking", json!({})),
        ("caller_said", json!({ "turn": 2, "text": "And when is breakfast" })),
        ("end_of_turn", json!({ "turn": 2, "quiet_ms": 500 })),
        ("agent_says", json!({ "turn": 2, "clause": 0, "text": "From seven" })),
        ("agent_says", json!({ "turn": 2, "clause": 1, "text": "until ten in the morning." })),
    ] {
        let mut data = data;
        data["call"] = "9a01361893ac11d2".into();
        state.told(event(name, &data), at(60));
    }
    state
}

#[test]
fn a_narrow_screen_has_the_list_above_the_call() {
    assert_screen(&screen(&talking(), 80, 24, at(65)), include_str!("screens/narrow.txt"));
}

#[test]
fn a_wide_screen_has_the_list_beside_the_call() {
    assert_screen(&screen(&talking(), 120, 24, at(65)), include_str!("screens/wide.txt"));
}

#[test]
fn nobody_is_on_the_telephone_and_the_box_is_well() {
    let mut state = State::default();
    state.looked(Ok(well()), at(0));
    assert_screen(&screen(&state, 80, 14, at(0)), include_str!("screens/nobody.txt"));
}

#[test]
fn what_is_wrong_is_said_above_the_calls() {
    let mut state = talking();
    let parts = json!({ "storage": "ready", "sip": "ready", "media": "ready", "engine:ears": "ready",
        "engine:mind": "starting", "engine:voice": "ready", "drain": "ready" });
    let trunks = json!({ "provider": { "calls": 0, "registered": false } });
    let storage = json!({ "fault": "the disk is full", "records_lost": 3 });
    let look =
        Look::new(health(&parts, &trunks, &storage), "callbox_engine_restarts_total{engine=\"0\"} 1\n", Some(3200.0));
    state.looked(Ok(look), at(65));
    state.told(event("lost", &json!({ "lost": 12 })), at(65));
    assert_screen(&screen(&state, 80, 24, at(65)), include_str!("screens/alerts.txt"));
}

#[test]
fn a_self_test_that_fails_is_no_refusal() {
    let mut state = State::default();
    let parts = json!({ "sip": "ready", "selftest": "the self-test call of 20 s ago failed: no answer" });
    state.looked(Ok(Look::new(health(&parts, &json!({}), &json!({ "records_lost": 0 })), "", None)), at(0));
    let shown = screen(&state, 80, 24, at(0));
    assert!(shown.contains("Calls are taken, and the self-test fails."), "{shown}");
    assert!(shown.contains("! Self-test: the self-test call of 20 s ago failed: no answer"), "{shown}");
}

#[test]
fn a_daemon_that_is_away_is_named_and_so_is_its_return() {
    let mut state = talking();
    state.told(Told::Gone("no callboxd is running at control.sock".into()), at(70));
    state.told(Told::Gone("no callboxd is running at control.sock".into()), at(72));
    assert_screen(&screen(&state, 80, 24, at(95)), include_str!("screens/away.txt"));
    state.told(Told::Live, at(96));
    assert_screen(&screen(&state, 80, 24, at(96)), include_str!("screens/back.txt"));
    // The next daemon knows one of the two calls.
    let up = json!({ "calls": [call("1b", "sip:bob@example", "speaking")] });
    let wish = state.told(event("snapshot", &up), at(96));
    assert_eq!(state.chosen().expect("kept").doing, super::super::calls::Doing::Ended("while nobody watched".into()));
    assert_eq!(
        (wish, state.calls.up()),
        (Some(Wish::Record("9a01361893ac11d2".into())), 1),
        "its last turns are asked for"
    );
    state.tick(at(200));
    assert_eq!(state.chosen().expect("the other").id, "1b", "what has ended leaves the list");
}

#[test]
fn help_covers_the_calls_until_a_key_is_pressed() {
    let mut state = talking();
    state.key(Key::Letter('?'), at(65));
    assert_screen(&screen(&state, 80, 24, at(65)), include_str!("screens/help.txt"));
    state.key(Key::Letter('x'), at(65));
    assert!(!state.helps && state.doomed().is_none(), "the key does nothing else");
}

#[test]
fn a_call_is_hung_up_only_after_a_yes() {
    let mut state = talking();
    let id = state.chosen().expect("a call").id.clone();
    assert_eq!(state.key(Key::Letter('x'), at(65)), None);
    assert_screen(&screen(&state, 80, 24, at(65)), include_str!("screens/doomed.txt"));
    assert_eq!(state.key(Key::Open, at(65)), None);
    assert!(state.doomed().is_none() && !state.opened);
    state.key(Key::Letter('x'), at(66));
    assert_eq!(state.key(Key::Letter('y'), at(66)), Some(Wish::HangUp(id.clone())));
    state.hung_up(Err("no such call".into()), at(66));
    assert_eq!(state.said(), Some("Not hung up: no such call"));
    // Who has gone meanwhile is not asked about, and nobody else in their place.
    state.key(Key::Letter('x'), at(67));
    state.told(event("call_ended", &json!({ "call": id, "reason": "caller_hangup" })), at(68));
    assert!(state.doomed().is_none());
    assert_eq!(state.key(Key::Letter('y'), at(68)), None);
    state.key(Key::Letter('x'), at(68));
    assert!(state.doomed().is_none(), "it has ended");
    assert!(screen(&state, 80, 24, at(68)).contains("The call has ended: caller_hangup."));
}

#[test]
fn keys_choose_open_and_leave() {
    let mut state = talking();
    assert_eq!(state.place(), Some(0));
    assert_eq!(state.key(Key::Down, at(65)), Some(Wish::Record("1b".into())), "its earlier turns are asked for");
    assert_eq!(state.key(Key::Letter('j'), at(65)), None, "there is no further one");
    assert_eq!(state.place(), Some(1));
    assert_eq!(state.key(Key::Letter('k'), at(65)), None, "asked for once");
    assert_eq!(state.place(), Some(0));
    state.key(Key::Open, at(65));
    let alone = screen(&state, 80, 24, at(65));
    assert!(!alone.contains("Calls that are up") && alone.contains("Is there a garden?") && alone.contains("esc back"));
    state.key(Key::Back, at(65));
    assert!(screen(&state, 80, 24, at(65)).contains("Calls that are up"));
    assert_eq!(state.key(Key::Letter('q'), at(65)), Some(Wish::Quit));
    assert_eq!(state.key(Key::Stop, at(65)), Some(Wish::Quit));
}

#[test]
fn what_was_said_can_be_read_back() {
    let mut state = talking();
    let turn = |turn: u64| {
        json!({ "call": "9a01361893ac11d2", "turn": turn, "caller_text": format!("Question {turn}."),
        "heard_text": "Yes.", "interrupted": turn == 30, "timings_us": {} })
    };
    for number in 2..31 {
        state.told(event("turn_ended", &turn(number)), at(70));
    }
    let end = screen(&state, 80, 24, at(70));
    assert!(
        end.contains("Question 30.") && end.contains("Agent   Yes. … (interrupted)") && !end.contains("Question 20.")
    );
    (0..9).for_each(|_| drop(state.key(Key::PageUp, at(70))));
    let earlier = screen(&state, 80, 24, at(70));
    assert!(earlier.contains("Is there a garden?") && earlier.contains("more lines below"), "{earlier}");
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    let mut most = 0;
    (0..50).for_each(|_| drop(state.key(Key::PageUp, at(70))));
    terminal.draw(|frame| most = draw(frame, &state, at(70))).expect("drawn");
    state.at_most_back(most);
    (0..most.div_ceil(10)).for_each(|_| drop(state.key(Key::PageDown, at(70))));
    assert!(screen(&state, 80, 24, at(70)).contains("Question 30."), "no further back than to the first");
}

#[test]
fn a_caller_who_goes_on_takes_the_answer_back() {
    let mut state = talking();
    state.told(event("turn_revoked", &json!({ "call": "9a01361893ac11d2", "turn": 2 })), at(66));
    let shown = screen(&state, 80, 24, at(66));
    assert!(shown.contains("And when is breakfast") && !shown.contains("From seven"), "{shown}");
    assert!(shown.contains("The caller speaks."));
}

#[test]
fn the_same_told_twice_is_shown_once() {
    let mut state = talking();
    let turn = json!({ "call": "9a01361893ac11d2", "turn": 1, "caller_text": "Is there a garden?", "heard_text": "There is.",
        "interrupted": false, "timings_us": {} });
    state.told(event("turn_ended", &turn), at(66));
    state.told(
        event("call_started", &json!({ "call": "1b", "agent": "desk", "direction": "inbound", "started": BEGIN })),
        at(66),
    );
    assert_eq!((state.chosen().expect("a call").said.len(), state.calls.up()), (2, 2));
}

#[test]
fn nothing_that_a_caller_chooses_acts_on_the_terminal() {
    let evil = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\nword";
    let mut state = State::default();
    let parts = json!({ "engine:\u{1b}[2Jx": evil });
    let look =
        Look::new(health(&parts, &json!({ evil: { "registered": false } }), &json!({ "fault": evil })), "", None);
    state.looked(Ok(look), at(0));
    let mut evil_call = call("1", evil, evil);
    for name in ["agent", "codec"] {
        evil_call[name] = evil.into();
    }
    state.told(event("snapshot", &json!({ "calls": [evil_call] })), at(0));
    state.record("1", Ok(json!({ "exchanges": [{ "turn": 1, "caller_text": evil, "agent_text": evil }] })), at(0));
    state.told(event("caller_said", &json!({ "call": "1", "text": evil })), at(0));
    state.told(event("agent_says", &json!({ "call": "1", "clause": 0, "text": evil })), at(0));
    state.told(event("transfer", &json!({ "call": "1", "to": evil })), at(0));
    state.key(Key::Letter('x'), at(0));
    for _ in 0..2 {
        let shown = screen(&state, 120, 40, at(0));
        assert!(shown.contains("[2J") && shown.contains("word"), "{shown}");
        assert!(!shown.chars().any(|c| acts(c) && c != '\n'), "{shown:?}");
        state.looked(Err(evil.into()), at(1));
        state.told(Told::Gone(evil.into()), at(1));
        state.hung_up(Err(evil.into()), at(1));
    }
}

proptest! {
    #[test]
    fn whatever_is_told_can_be_drawn_at_any_size(
        events in proptest::collection::vec((0_usize..12, "[a-z\u{1b}東\u{301} ]{0,30}", 0_u64..5), 0..20),
        keys in proptest::collection::vec(prop_oneof![
            Just(Key::Up), Just(Key::Down), Just(Key::Open), Just(Key::Back), Just(Key::PageUp),
            any::<char>().prop_map(Key::Letter),
        ], 0..8),
        (width, height) in (1_u16..140, 1_u16..40),
    ) {
        const NAMES: [&str; 12] = ["snapshot", "call_started", "caller_said", "end_of_turn", "agent_says", "turn_ended",
            "turn_revoked", "hold", "transfer", "lost", "call_ended", "other"];
        let mut state = talking();
        for (name, text, number) in events {
            let data = json!({ "call": format!("{}", number % 2), "id": text, "turn": number, "clause": number, "text": text,
                "caller_text": text, "timings_us": { "pause": number, "voice_to_voice": u64::MAX }, "lost": number,
                "calls": [call(&text, &text, &text)], "held": true, "to": text, "started": "no time" });
            state.told(event(NAMES[name], &data), at(number));
        }
        for key in keys {
            state.key(key, at(9));
        }
        screen(&state, width, height, at(10));
    }
}

//! The files that are shipped.

use std::path::PathBuf;

use serde::Deserialize;

use crate::dialogue::{Agent, TurnTaking, system_prompt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Demo {
    agent: String,
    question: Vec<Question>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    ask: String,
    fact: String,
    expect: Vec<Vec<String>>,
}

fn config() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn plain(text: &str) -> String {
    let words = text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
    format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn the_example_agent_is_valid_small_and_names_the_defaults() {
    let agent = Agent::read(&config().join("agents/frontdesk.toml")).expect("valid");
    assert_eq!(agent.turns, TurnTaking::default());
    assert!(agent.facts.len() >= 10);
    // English has more than four characters to a token.
    assert!(system_prompt(&agent).len() < 350 * 4, "{}", system_prompt(&agent).len());
}

#[test]
fn every_demo_question_is_answered_by_its_fact_and_by_no_question() {
    let text = std::fs::read_to_string(config().join("demo.toml")).expect("shipped");
    let demo: Demo = toml::from_str(&text).expect("valid");
    let agent = Agent::read(&config().join(format!("agents/{}.toml", demo.agent))).expect("valid");
    assert_eq!(demo.question.len(), 5);
    for question in demo.question {
        let accepts = |text: &str| {
            question.expect.iter().all(|any| any.iter().any(|wanted| plain(text).contains(&plain(wanted))))
        };
        assert!(agent.facts.iter().any(|fact| fact.as_str() == question.fact), "{}", question.fact);
        assert!(accepts(&question.fact), "{}", question.fact);
        assert!(!accepts(&question.ask), "the question gives its answer away");
        assert_eq!(agent.facts.iter().filter(|fact| accepts(fact.as_str())).count(), 1, "{}", question.ask);
    }
}

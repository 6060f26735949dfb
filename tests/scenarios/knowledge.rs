//! What agents know beside their facts: documents of the owner's folder, and those that operators add.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, say};
use serde::Deserialize;
use serde_json::Value;

use crate::api::callbox;
use crate::cache::answered;
use crate::converse;

const AGENT: &str = r#"
name = "test"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
greeting = "Good morning, this is the garden hotel. How can I help you?"
goodbye = "Thank you for calling. Goodbye."
[sampling]
max_tokens = 40
"#;

#[derive(Deserialize)]
struct Place {
    ask: Vec<(String, String)>,
    nothing: Vec<String>,
}

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/knowledge")
}

async fn add(daemon: &Daemon, place: &str) -> anyhow::Result<()> {
    for file in std::fs::read_dir(documents().join(place))? {
        let file = file?.path();
        callbox(daemon, &["knowledge", "add", "--agent", "test", &file.display().to_string()]).await?;
    }
    let ready = || async {
        let list = daemon.api("/api/v1/knowledge").await.ok()?;
        list["documents"].as_array()?.iter().all(|document| document["without_vector"] == 0).then_some(())
    };
    eventually("vectors of all passages", Duration::from_secs(60), ready).await
}

async fn found(daemon: &Daemon, question: &str) -> anyhow::Result<Vec<String>> {
    let said = callbox(daemon, &["knowledge", "query", "--agent", "test", "--json", question]).await?;
    let found: Value = serde_json::from_str(&said)?;
    let passages = found["passages"].as_array().context("passages")?.iter();
    Ok(passages.map(|passage| format!("{}: {}", passage["name"], passage["text"])).collect())
}

/// Three is what the model is shown of short passages, and of long ones.
#[tokio::test]
async fn questions_in_a_callers_words_find_their_passage_and_small_talk_finds_none() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup { agent: AGENT, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let places: BTreeMap<String, Place> =
        toml::from_str(&std::fs::read_to_string(documents().join("questions.toml"))?)?;
    let (mut asked, mut right, mut none, mut empty, mut complaints) = (0_u32, 0_u32, 0_u32, 0_u32, String::new());
    for (name, place) in places {
        add(&daemon, &name).await?;
        for (question, answer) in place.ask {
            let found = found(&daemon, &question).await?;
            let hit = found.iter().take(3).any(|passage| passage.contains(&answer));
            (asked, right) = (asked + 1, right + u32::from(hit));
            if !hit {
                complaints += &format!("{question} wants {answer:?}: {found:#?}\n");
            }
        }
        for question in place.nothing {
            let found = found(&daemon, &question).await?;
            (none, empty) = (none + 1, empty + u32::from(found.is_empty()));
            if !found.is_empty() {
                complaints += &format!("{question} wants nothing: {found:#?}\n");
            }
        }
        for document in daemon.api("/api/v1/knowledge").await?["documents"].as_array().context("documents")? {
            let document = document["name"].as_str().context("a name")?;
            callbox(&daemon, &["knowledge", "remove", "--agent", "test", document]).await?;
        }
    }
    println!(
        "{right} of {asked} questions found their passage, {empty} of {none} that have none found none\n{complaints}"
    );
    ensure!(asked >= 50 && right * 100 >= asked * 90 && empty * 100 >= none * 80, "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_caller_hears_what_a_document_says_and_the_record_says_which() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup { agent: AGENT, ..Setup::new(Engine::Pack("tiny")) }).await?;
    add(&daemon, "hotel").await?;
    let asked = say("What does a double room with a balcony cost?", 0.0, 0.3, daemon.dir()).await?;
    converse(&daemon, asked).await?;
    let (id, answer) = answered(&daemon, 1).await?;
    let shown = answer["knowledge"].as_array().context("passages in the record")?;
    ensure!(shown.iter().any(|passage| passage == "rooms.csv"), "{answer}");
    ensure!(answer["source"] == "model" && answer["timings_us"]["knowledge"].is_u64(), "{answer}");
    ensure!(answer["agent_text"].as_str().is_some_and(|text| text.contains("139")), "{answer}");
    let told = callbox(&daemon, &["call", "show", &id]).await?;
    ensure!(told.contains("and from rooms.csv"), "{told}");
    ensure!(daemon.metric("callbox_knowledge_lookups_total").await? >= Some(1.0), "{}", daemon.metrics().await?);
    ensure!(!daemon.log().contains("balcony"), "a caller's words are in the log");
    Ok(())
}

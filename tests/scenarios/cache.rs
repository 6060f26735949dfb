//! Questions whose answer is known: in other words, nearly, and learned from an earlier call.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, say, share_heard, transcribe};
use callbox_tests::labelled::{Embedder, Labelled, tally};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::callbox;
use crate::callers::tone;
use crate::converse;

const FAQ: &str = r#"
[[answer]]
ask = ["When is breakfast served?"]
say = "Our famous pancakes are ready from seven until ten in the morning."
"#;

const AGENT: &str = r#"
name = "test"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
facts = ["The hotel has a garden and a swimming pool."]
greeting = "Good morning, this is the garden hotel. How can I help you?"
goodbye = "Thank you for calling. Goodbye."
[sampling]
max_tokens = 40
[cache]
faq = "test.faq"
"#;

/// The last answer of the call that ended last, and the name of that call.
pub(crate) async fn answered(daemon: &Daemon, calls: usize) -> anyhow::Result<(String, Value)> {
    let probe = || async {
        let page = daemon.api("/api/v1/calls").await.ok()?;
        let ended = page["calls"].as_array()?.iter().filter(|call| call["state"] == "ended").count();
        let id = page["calls"][0]["id"].as_str().filter(|_| ended == calls)?.to_owned();
        let call = daemon.api(&format!("/api/v1/calls/{id}")).await.ok()?;
        // Whom nobody had asked anything is left out: "Are you still there?"
        let answered = call["exchanges"].as_array()?.iter().rfind(|exchange| exchange["caller_text"] != "")?;
        Some((id, answered.clone()))
    };
    eventually("the record of a call", Duration::from_secs(20), probe).await
}

#[tokio::test]
async fn a_question_in_other_words_is_answered_from_memory_and_a_near_miss_is_not() -> anyhow::Result<()> {
    let setup = Setup { agent: AGENT, faq: Some(("test.faq", FAQ)), ..Setup::new(Engine::Pack("tiny")) };
    let daemon = Daemon::start(setup).await?;
    let warmed = callbox(&daemon, &["cache", "warm", "--json"]).await?;
    let stats: Value = serde_json::from_str(&warmed)?;
    ensure!(stats["agents"][0]["ready"] == 1 && stats["agents"][0]["faq"] == 1, "{warmed}");
    let embedded = || async {
        let stats = daemon.api("/api/v1/cache/stats").await.ok()?;
        (stats["agents"][0]["without_vector"] == 0).then_some(())
    };
    eventually("vectors", Duration::from_secs(10), embedded).await?;

    let asked = say("What time do you serve breakfast, please?", 0.0, 0.3, daemon.dir()).await?;
    let begun = Instant::now();
    let heard = converse(&daemon, asked).await?;
    let (id, answer) = answered(&daemon, 1).await?;
    ensure!(answer["source"] == "faq" && answer["entry"] == 1, "{answer}");
    ensure!(answer["score"].as_f64().is_some_and(|score| score > 0.5), "{answer}");
    ensure!(answer["agent_text"] == "Our famous pancakes are ready from seven until ten in the morning.", "{answer}");
    ensure!(answer["timings_us"]["cache"].is_u64() && answer["timings_us"]["prefill"].is_null(), "{answer}");
    let text = transcribe(&heard.track().samples(begun), daemon.dir()).await?;
    ensure!(share_heard("pancakes are ready from seven until ten", &text) > 0.7, "{text}");
    let shown = callbox(&daemon, &["call", "show", &id]).await?;
    ensure!(shown.contains("from the cache: entry 1 (faq), likeness "), "{shown}");

    let asked = say("What time do you serve breakfast on Sunday, please?", 0.0, 0.3, daemon.dir()).await?;
    converse(&daemon, asked).await?;
    let (_, answer) = answered(&daemon, 2).await?;
    ensure!(answer["source"] == "model" && answer["model"].is_string(), "{answer}");

    let report = callbox(&daemon, &["report", "cache", "--format", "csv"]).await?;
    ensure!(report.lines().any(|line| line.starts_with("test,faq,1,50")), "{report}");
    // A pause in a question is looked up, too.
    ensure!(daemon.metric("callbox_cache_lookups_total").await? >= Some(2.0), "{}", daemon.metrics().await?);
    let log = daemon.log();
    ensure!(!log.to_lowercase().contains("pancakes"), "an answer is in the log");
    Ok(())
}

const SCRIPT: &str = "ms_per_character = 20\nstt_ms = 50\nfirst_token_ms = 50\n[[answer]]\nheard = \"When is breakfast?\"\nsay = \"From seven to ten.\"\n";

const LEARNS: &str = r#"
name = "test"
numbers = ["*"]
persona = "You are kind."
greeting = "Good morning."
goodbye = "Goodbye."
[cache]
learn = true
[privacy]
transcripts = "full"
"#;

#[tokio::test]
async fn what_was_answered_once_is_known_and_forgotten_when_it_is_taken_out() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup { agent: LEARNS, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    for (number, source) in [(1, "model"), (2, "learned")] {
        converse(&daemon, tone(400.0, 1.0)).await?;
        let (_, answer) = answered(&daemon, number).await?;
        ensure!(answer["source"] == source && answer["agent_text"] == "From seven to ten.", "{answer}");
        let learned = || async { (daemon.metric("callbox_cache_learned_total").await.ok()?? >= 1.0).then_some(()) };
        eventually("it to be learned", Duration::from_secs(5), learned).await?;
    }
    let list = callbox(&daemon, &["cache", "list"]).await?;
    ensure!(list.contains("learned") && list.contains("When is breakfast?"), "{list}");
    let added = callbox(&daemon, &["cache", "add", "--agent", "test", "When is dinner?", "From six."]).await?;
    ensure!(added.starts_with("added: entry "), "{added}");
    let export = callbox(&daemon, &["cache", "export"]).await?;
    ensure!(export.contains("ask = [\"When is dinner?\"]") && export.contains("say = \"From six.\""), "{export}");
    let gone = callbox(&daemon, &["cache", "purge", "--origin", "learned"]).await?;
    ensure!(gone == "taken out: 1\n", "{gone}");
    converse(&daemon, tone(400.0, 1.0)).await?;
    let (_, answer) = answered(&daemon, 3).await?;
    ensure!(answer["source"] == "model", "it was taken out: {answer}");
    Ok(())
}

#[tokio::test]
async fn the_labelled_set_is_told_apart() -> anyhow::Result<()> {
    let models = std::env::var_os("CALLBOX_MODELS").context("CALLBOX_MODELS says where the models are")?;
    let set = Labelled::read()?;
    let mut embedder = Embedder::start(models.as_ref()).await?;
    let mut vectors = std::collections::BTreeMap::new();
    for text in set.texts() {
        vectors.insert(text.to_owned(), embedder.embed(text).await?);
    }
    embedder.stop().await;
    let (tuning, held_out) = tally(&set, &vectors);
    for tally in [&tuning, &held_out] {
        ensure!(tally.precision() >= 99.0 && tally.recall() >= 70.0 && tally.wrong_strict == 0, "{tally:#?}");
    }
    ensure!(tuning.same + tuning.different + held_out.same + held_out.different >= 300);
    Ok(())
}

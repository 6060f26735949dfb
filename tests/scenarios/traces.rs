//! What a collector of OpenTelemetry is sent: a trace of each call, true to the record, with nothing of its caller; and what
//! a call notices of a collector that is not there: nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Collector, Daemon, Engine, Setup, attribute, eventually, free_port, scenario};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;

use crate::PATIENCE;
use crate::callers::{ask, call, meanwhile, tone};

/// What is heard takes a while, so that stages have a length.
const SCRIPT: &str = "ms_per_character = 20\nstt_ms = 40\nfirst_token_ms = 60\ntoken_ms = 10\ntts_ms = 30\n\
                      [[answer]]\nheard = \"is there a garden\"\nsay = \"There is a large one.\"\n";

async fn daemon(collector: SocketAddr) -> anyhow::Result<Daemon> {
    let more = format!("[telemetry]\notlp = \"http://{collector}\"");
    Daemon::start(Setup { more, ..Setup::new(Engine::Scripted(SCRIPT)) }).await
}

async fn converse(daemon: &Daemon) -> anyhow::Result<()> {
    let (sipp, mut rtp) = call(daemon, scenario("call").lasting(Duration::from_secs(8))).await?;
    ask(&mut rtp, tone(400.0, 0.6)).await?;
    meanwhile(&mut rtp, sipp.done(PATIENCE)).await
}

/// The spans of the one call that is over.
async fn trace(collector: &Collector) -> anyhow::Result<Vec<Span>> {
    let over = || async { collector.spans().ok().filter(|spans| spans.iter().any(|span| span.name == "call")) };
    eventually("the trace of a call", PATIENCE, over).await
}

fn is_within(part: &Span, whole: &Span) -> bool {
    whole.start_time_unix_nano <= part.start_time_unix_nano
        && part.start_time_unix_nano <= part.end_time_unix_nano
        && part.end_time_unix_nano <= whole.end_time_unix_nano
}

const fn lasted_us(span: &Span) -> u64 {
    (span.end_time_unix_nano - span.start_time_unix_nano) / 1000
}

#[tokio::test]
async fn a_call_is_one_trace_true_to_its_record_and_names_no_caller() -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let collector = Collector::listen(address).await?;
    let daemon = daemon(address).await?;
    converse(&daemon).await?;
    let spans = trace(&collector).await?;

    // One tree: a whole, turns of it, stages of these.
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (span.span_id.as_slice(), span)).collect();
    ensure!(by_id.len() == spans.len(), "a span was sent twice: {spans:?}");
    let whole = spans.iter().find(|span| span.parent_span_id.is_empty()).context("a root")?;
    ensure!(whole.name == "call" && whole.kind == i32::from(SpanKind::Server), "{whole:?}");
    for span in spans.iter().filter(|span| span.span_id != whole.span_id) {
        ensure!(span.trace_id == whole.trace_id, "of another trace: {span:?}");
        let parent = by_id.get(span.parent_span_id.as_slice()).with_context(|| format!("no parent: {span:?}"))?;
        let wanted = if matches!(span.name.as_str(), "setup" | "turn") { "call" } else { "turn" };
        ensure!(parent.name == wanted && is_within(span, parent), "{span:?} is no part of {parent:?}");
    }

    // The record says the same.
    let id = attribute(&whole.attributes, "callbox.call.id").context("the call's id")?;
    ensure!(whole.trace_id == u128::from_str_radix(&id, 16)?.to_be_bytes(), "the trace is not named like the call");
    let record = daemon.api(&format!("/api/v1/calls/{id}")).await?;
    let said = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (key, field) in [
        ("agent", "agent"),
        ("call.direction", "direction"),
        ("call.codec", "codec"),
        ("call.end_reason", "end_reason"),
        ("call.turns", "turns"),
    ] {
        let told = attribute(&whole.attributes, &format!("callbox.{key}"));
        ensure!(told == Some(said(&record[field])), "{key}: {told:?}, and on record {record}");
    }
    let turns: Vec<&Span> = spans.iter().filter(|span| span.name == "turn").collect();
    let kinds: BTreeSet<_> = turns.iter().filter_map(|turn| attribute(&turn.attributes, "callbox.turn.kind")).collect();
    ensure!(kinds.is_superset(&["greeting", "answer"].map(str::to_owned).into()), "{kinds:?}");
    let answer =
        turns.iter().find(|turn| attribute(&turn.attributes, "callbox.turn.kind").as_deref() == Some("answer"));
    let answer = answer.context("an answer")?;
    let stages: BTreeMap<&str, &Span> = spans
        .iter()
        .filter(|span| span.parent_span_id == answer.span_id)
        .map(|span| (span.name.as_str(), span))
        .collect();
    let number = attribute(&answer.attributes, "callbox.turn.number").context("its number")?;
    let rows = record["exchanges"].as_array().context("turns")?;
    let kept = rows.iter().find(|turn| said(&turn["turn"]) == number).context("the turn on record")?;
    for (stage, timing, least) in [
        ("speech to text", "stt", 40),
        ("first token", "prefill", 60),
        ("first audio", "tts_first", 30),
        ("playout", "playout", 0),
    ] {
        let span = stages.get(stage).with_context(|| format!("no {stage}: {stages:?}"))?;
        let known = kept["timings_us"][timing].as_u64().with_context(|| format!("{timing}: {kept}"))?;
        ensure!(
            lasted_us(span).abs_diff(known) <= 1 && known >= least * 1000,
            "{stage}: {} us, on record {known}",
            lasted_us(span)
        );
    }
    let begins = |stage: &str| stages.get(stage).map(|span| span.start_time_unix_nano);
    ensure!(begins("speech to text") < begins("first token") && begins("first token") < begins("first audio"));
    let spoke = stages.get("speaking").context("speaking")?;
    let before_ms = (spoke.start_time_unix_nano - stages["end of turn"].start_time_unix_nano) / 1_000_000;
    let told = attribute(&answer.attributes, "callbox.turn.voice_to_voice_ms");
    ensure!(
        told.as_deref().and_then(|ms| ms.parse().ok()).is_some_and(|ms: u64| ms.abs_diff(before_ms) <= 1),
        "{told:?}, {before_ms}"
    );

    // Nothing of who called, and of what was said.
    for (request, bytes) in collector.requests()? {
        let text = String::from_utf8_lossy(&bytes);
        for word in ["garden", "large one", Daemon::USER, "sipp", "127.0.0.1"] {
            ensure!(!text.contains(word), "{word}: {request:?}");
        }
        let about = request.resource_spans[0].resource.as_ref().context("a resource")?;
        ensure!(attribute(&about.attributes, "service.name").as_deref() == Some("callbox"), "{about:?}");
    }
    ensure!(daemon.metric("callbox_trace_spans_dropped_total").await? == Some(0.0));
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_line_of_the_log_and_gets_the_trace_when_it_is_back() -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let daemon = daemon(address).await?;
    converse(&daemon).await?;
    ensure!(daemon.turns().await?.len() == 2, "a call is what it is without a collector");
    let lines = |daemon: &Daemon| daemon.log().lines().filter(|line| line.contains("collector of traces")).count();
    ensure!(lines(&daemon) == 1, "{}", daemon.log());
    let collector = Collector::listen(address).await?;
    let spans = trace(&collector).await?;
    ensure!(spans.iter().filter(|span| span.name == "turn").count() == 2, "{spans:?}");
    let (exported, sent) = (daemon.metric("callbox_trace_spans_exported_total").await?, spans.len());
    ensure!(exported == Some(sent as f64), "{exported:?} of {sent}");
    ensure!(lines(&daemon) == 2, "that it is back, and nothing else: {}", daemon.log());
    drop(collector);
    ensure!(daemon.stop().await?.success(), "the end does not wait for a collector");
    Ok(())
}

//! Calls that talk: each asks, is answered, listens, and asks again. Time stands still while nobody is answered, so minutes of
//! calls take as long as their steps. Which rows go into a step is decided as the mind's scheduler decides it.

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{Cache, Piece, Wanted};
use serde_json::json;

use super::mind::{DRAWN, drawn, fill, four_billion};
use crate::Setting;
use crate::draw::Draw;
use crate::report::{Bar, Report, Row, Times, Weights, millis, now};

/// Tokens of a question with what the template puts around it.
const QUESTION: usize = 32;
/// Tokens until the first clause can be spoken: six words and a comma.
const CLAUSE: usize = 8;
/// Tokens of an answer, and the time from one question of a call to its next, in ms.
const ANSWER: usize = 40;
const TURN: f64 = 10_000.0;
/// Rows of a prompt in one step, alone and beside answers.
const ALONE: usize = 128;
const BESIDE: usize = 24;

struct Call {
    cache: Cache,
    /// When it asks next, or asked.
    asks: f64,
    question: Vec<u32>,
    /// Tokens of the answer so far; none while nobody is answered.
    said: Option<usize>,
}

pub(super) fn talking(setting: &Setting, report: &mut Report) -> Result<()> {
    let (calls, history, minutes) = if setting.quick { (8, 40, 0.2) } else { (64, 1500, 1.0) };
    let context = history + QUESTION + ANSWER + 32;
    let mut model = drawn(setting, four_billion(setting.quick), context, calls * (context + 32))?;
    let vocabulary = model.spec().vocabulary;
    let mut draw = Draw::new(setting.seed);
    let mut caches: Vec<Cache> = (0..calls).map(|_| model.cache(context)).collect();
    fill(&mut model, &mut caches, history, &mut draw)?;
    let mut calls: Vec<Call> = caches
        .into_iter()
        .map(|cache| Call { cache, asks: draw.share() * TURN, question: Vec::new(), said: None })
        .collect();

    let (mut time, mut first, mut steps, mut most) = (0.0, Vec::new(), Vec::new(), 0);
    while time < minutes * 60_000.0 {
        for call in calls.iter_mut().filter(|call| call.said.is_none() && call.asks <= time) {
            call.question = draw.tokens(QUESTION, vocabulary);
            call.said = Some(0);
        }
        if calls.iter().all(|call| call.said.is_none()) {
            time = calls.iter().map(|call| call.asks).fold(f64::INFINITY, f64::min);
            continue;
        }
        let chunk = if calls.iter().any(|call| call.said > Some(0)) { BESIDE } else { ALONE };
        let asking = |call: &&Call| call.said == Some(0);
        let oldest = calls.iter().filter(asking).map(|call| call.asks).fold(f64::INFINITY, f64::min);
        let mut pieces = Vec::new();
        for call in &mut calls {
            let done = call.cache.len() - history;
            let tokens = match call.said {
                None => continue,
                Some(0) if call.asks > oldest => continue,
                Some(0) => &call.question[done..QUESTION.min(done + chunk)],
                Some(_) => &[7][..],
            };
            let wanted = if done + tokens.len() >= QUESTION { Wanted::Last } else { Wanted::Nothing };
            pieces.push(Piece { tokens, cache: &mut call.cache, wanted, adapter: None });
        }
        most = most.max(pieces.len());
        let started = now();
        let wanted = pieces.iter().filter(|piece| piece.wanted != Wanted::Nothing).count();
        model.step_near(&mut pieces, &vec![DRAWN; wanted], &mut || true)?.context("it was stopped")?;
        let took = millis(started.elapsed());
        time += took;
        steps.push(took);
        for call in &mut calls {
            let whole = call.cache.len() >= history + QUESTION;
            let Some(said) = call.said.as_mut().filter(|_| whole) else { continue };
            *said += 1;
            if *said == CLAUSE {
                first.push(time - call.asks);
            }
            if *said == ANSWER {
                // The next question begins where this one did: conversations do not grow here.
                call.cache.truncate(history);
                call.said = None;
                call.asks += TURN * (0.8 + 0.4 * draw.share());
            }
        }
    }
    let (first, steps) = (Times::from(first), Times::from(steps));
    report.row(Row {
        key: "talking".into(),
        name: format!("4B shape, bf16, {} calls that talk: question to first clause, p95", calls.len()),
        weights: Weights::Drawn,
        figure: first.at(0.95),
        unit: "ms",
        bar: Some(Bar::Most(120.0)),
        more: json!({
            "first_clause": first.json(),
            "step": steps.json(),
            "rows_of_a_step_at_most": most,
            "history_tokens": history,
            "question_tokens": QUESTION,
            "clause_tokens": CLAUSE,
            "answer_tokens": ANSWER,
            "turn_s": TURN / 1000.0,
        }),
    });
    Ok(())
}

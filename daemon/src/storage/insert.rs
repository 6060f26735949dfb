//! Rows of records. Enters: a batch; leaves: one transaction. Records of a call that was erased are left out.

use rusqlite::{Connection, Transaction, params};

use super::house::Erased;
use super::privacy::party;
use super::{CallRecord, Direction, EventRecord, Record, RecordingRecord, TurnRecord, audit, tokens};
use crate::base::Source;

/// Writes a batch, all of it or nothing.
pub(super) fn write(connection: &mut Connection, batch: &[Record], erased: &Erased) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for record in batch {
        match record {
            Record::Call(call) if erased.has(call.id) => {}
            Record::Turn(turn) if erased.has(turn.call) => {}
            Record::Recording(part) if erased.has(part.call) => {}
            Record::Call(call) => write_call(&transaction, call)?,
            Record::Turn(turn) => write_turn(&transaction, turn)?,
            Record::Event(event) => write_event(&transaction, event)?,
            Record::Audit(entry) => audit::write(&transaction, entry)?,
            Record::Recording(part) => write_recording(&transaction, part)?,
            Record::Token(token) => tokens::write(&transaction, token)?,
            Record::Revoked(name) => tokens::remove(&transaction, name)?,
        }
    }
    transaction.commit()
}

/// SQLite's integers are signed.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn write_call(transaction: &Transaction<'_>, call: &CallRecord) -> rusqlite::Result<()> {
    let CallRecord { id, agent, direction, from, to, codec, started, answered, ended, end_reason, turns, media } = call;
    let far_end = match direction {
        Direction::Inbound => from,
        Direction::Outbound => to,
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO calls (id, agent, direction, caller, callee, codec, started_us, answered_us, \
             ended_us, end_reason, turns, packets_in, packets_lost, packets_late, packets_out, jitter_us, party) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            id.to_string(),
            agent,
            direction.as_str(),
            from.reveal(),
            to.reveal(),
            codec,
            started.0,
            answered.map(|at| at.0),
            ended.map(|at| at.0),
            end_reason,
            turns,
            int(media.packets_in),
            int(media.packets_lost),
            int(media.packets_late),
            int(media.packets_out),
            media.jitter_us,
            party(far_end.reveal()),
        ])?;
    Ok(())
}

fn write_turn(transaction: &Transaction<'_>, record: &TurnRecord) -> rusqlite::Result<()> {
    let (call, turn) = (record.call.to_string(), record.turn.0);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO turns (call, turn, started_us, caller_text, agent_text, heard_text, interrupted, \
             prompt_tokens, cached_tokens, answer_tokens, kind, outcome, failure, retries, stt_us, tts_us) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            call,
            turn,
            record.started.0,
            record.caller_text.reveal(),
            record.agent_text.reveal(),
            record.heard_text.reveal(),
            record.interrupted,
            record.prompt_tokens,
            record.cached_tokens,
            record.answer_tokens,
            record.kind,
            record.outcome,
            record.failure,
            record.retries,
            int(record.stt_us),
            int(record.tts_us),
        ])?;
    if let Some(source) = record.source {
        let known = if let Source::Known(known) = source { Some(known) } else { None };
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO sources (call, turn, source, model, entry, score, knowledge) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                call,
                turn,
                source.as_str(),
                record.model,
                known.map(|known| int(known.entry)),
                known.map(|known| f64::from(known.score)),
                (!record.knowledge.is_empty()).then(|| record.knowledge.join("\n")),
            ])?;
    }
    let mut stage = transaction
        .prepare_cached("INSERT OR REPLACE INTO stages (call, turn, stage, took_us) VALUES (?1, ?2, ?3, ?4)")?;
    for (timing, took) in &record.timings_us {
        stage.execute(params![call, turn, timing.as_str(), int(*took)])?;
    }
    Ok(())
}

fn write_event(transaction: &Transaction<'_>, event: &EventRecord) -> rusqlite::Result<()> {
    let EventRecord { at, kind, detail } = event;
    transaction
        .prepare_cached("INSERT INTO events (at_us, kind, detail) VALUES (?1, ?2, ?3)")?
        .execute(params![at.0, kind, detail])?;
    Ok(())
}

fn write_recording(transaction: &Transaction<'_>, record: &RecordingRecord) -> rusqlite::Result<()> {
    let RecordingRecord { call, part, begun, ended, frames, lost, bytes, key } = record;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO recordings (call, part, begun_us, ended, frames, lost, bytes, key_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![call.to_string(), part, begun.0, ended, int(*frames), int(*lost), int(*bytes), key])?;
    Ok(())
}

//! Finding calls. Enters: what is looked for; leaves: a page of them, newest first. Whatever is looked for has an index that
//! is in the order of the page, so that a page costs the same among a million calls, however rare they are in it. Where the
//! direction does not matter, both are read and merged: that halves the number of indexes.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::read::{CALL, call};
use super::{CallRecord, Cursor, Direction, Timestamp};
use crate::base::{CallId, Pii};

/// Which calls are looked for; what is absent is any.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// Begun at this time or later.
    pub since: Option<Timestamp>,
    /// Begun before this time.
    pub until: Option<Timestamp>,
    /// Taken by this agent.
    pub agent: Option<String>,
    /// Who called whom.
    pub direction: Option<Direction>,
    /// Ended for this reason.
    pub reason: Option<String>,
    /// With this far end, however its number is written, and however it was kept.
    pub caller: Option<Pii<String>>,
}

const BOTH: [Option<Direction>; 2] = [Some(Direction::Inbound), Some(Direction::Outbound)];

impl Wanted {
    /// The index that holds what is looked for, and in which directions it has to be read.
    fn index(&self) -> (&'static str, Vec<Option<Direction>>) {
        let within = self.direction.map_or_else(|| BOTH.to_vec(), |direction| vec![Some(direction)]);
        match (&self.caller, &self.agent, &self.reason) {
            (Some(_), ..) => ("calls_by_party", vec![self.direction]),
            (None, Some(_), Some(_)) => ("calls_by_agent_and_reason", within),
            (None, Some(_), None) => ("calls_by_agent", within),
            (None, None, Some(_)) => ("calls_by_reason", within),
            (None, None, None) if self.direction.is_some() => ("calls_by_direction", within),
            (None, None, None) => ("calls_by_start", vec![None]),
        }
    }
}

/// A page, from below `before`. `parties` are the names under which the wanted caller may have been kept.
pub(super) fn calls(
    connection: &Connection,
    wanted: &Wanted,
    parties: Option<&[String]>,
    limit: u32,
    before: Option<Cursor>,
) -> rusqlite::Result<Vec<CallRecord>> {
    // One bound from above, because an index is entered at one: the earlier of the two.
    let end = wanted.until.map(|until| Cursor { started: until, id: CallId(0) });
    let newest = Cursor { started: Timestamp(i64::MAX), id: CallId(u64::MAX) };
    let before = before.into_iter().chain(end).min().unwrap_or(newest);
    let (index, directions) = wanted.index();
    let parties: Vec<Option<&String>> = parties.map_or_else(|| vec![None], |names| names.iter().map(Some).collect());
    let (mut parts, mut values) = (Vec::new(), Vec::<Value>::new());
    for (direction, party) in directions.iter().flat_map(|way| parties.iter().map(move |party| (*way, *party))) {
        let mut conditions = String::from("(started_us, id) < (?, ?)");
        values.extend([before.started.0.into(), before.id.to_string().into()]);
        let mut add = |condition: &str, value: Option<Value>| {
            if let Some(value) = value {
                conditions.push_str(" AND ");
                conditions.push_str(condition);
                values.push(value);
            }
        };
        add("started_us >= ?", wanted.since.map(|at| at.0.into()));
        add("agent = ?", wanted.agent.clone().map(Into::into));
        add("direction = ?", direction.map(|direction| direction.as_str().to_owned().into()));
        add("end_reason = ?", wanted.reason.clone().map(Into::into));
        add("party = ?", party.map(|party| party.clone().into()));
        values.push(limit.into());
        parts.push(format!(
            "SELECT found FROM (SELECT id AS found FROM calls INDEXED BY {index} WHERE {conditions} \
             ORDER BY started_us DESC, id DESC LIMIT ?)"
        ));
    }
    values.push(limit.into());
    let found = parts.join(" UNION ALL ");
    connection
        .prepare_cached(&format!("{CALL} JOIN ({found}) ON id = found ORDER BY started_us DESC, id DESC LIMIT ?"))?
        .query_map(params_from_iter(values), call)?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Callers, Privacy};
    use crate::storage::{HashKey, Rules};

    /// Every set of things to look for, some of them set.
    fn every() -> impl Iterator<Item = Wanted> {
        (0..64_u8).map(|bits| {
            let set = |bit: u8| bits & (1 << bit) != 0;
            Wanted {
                since: set(0).then_some(Timestamp(20)),
                until: set(1).then_some(Timestamp(80)),
                agent: set(2).then(|| "frontdesk".to_owned()),
                direction: set(3).then_some(Direction::Outbound),
                reason: set(4).then(|| "caller_hangup".to_owned()),
                caller: set(5).then(|| Pii::new("+15550100".to_owned())),
            }
        })
    }

    fn fits(wanted: &Wanted, call: &CallRecord) -> bool {
        wanted.since.is_none_or(|since| call.started >= since)
            && wanted.until.is_none_or(|until| call.started < until)
            && wanted.agent.as_ref().is_none_or(|agent| *agent == call.agent)
            && wanted.direction.is_none_or(|direction| direction == call.direction)
            && wanted.reason.as_ref().is_none_or(|reason| Some(reason) == call.end_reason.as_ref())
            && wanted.caller.as_ref().is_none_or(|caller| {
                *caller
                    == match call.direction {
                        Direction::Inbound => call.from.clone(),
                        Direction::Outbound => call.to.clone(),
                    }
            })
    }

    #[test]
    fn whatever_is_looked_for_is_found_page_by_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = super::super::tests::open(&folder.path().join("callbox.db")).expect("open");
        let handle = storage.handle();
        let mut all: Vec<CallRecord> = (1..=96)
            .map(|id: u64| {
                let mut call = super::super::tests::call(id, (id % 50) as i64 * 2);
                let set = |bit: u64| id & (1 << bit) != 0;
                if set(0) {
                    call.agent = "night".into();
                }
                if set(1) {
                    call.direction = Direction::Outbound;
                }
                if set(2) {
                    call.end_reason = Some("caller_hangup".into());
                }
                if set(3) {
                    call.from = Pii::new("+15550199".into());
                }
                if call.direction == Direction::Outbound {
                    std::mem::swap(&mut call.from, &mut call.to);
                }
                handle.record(super::super::Record::Call(Box::new(call.clone())));
                call
            })
            .collect();
        handle.flush();
        all.sort_by_key(|call| std::cmp::Reverse((call.started, call.id)));
        for wanted in every() {
            let mut found = Vec::new();
            let mut before = None;
            loop {
                let page = handle.calls(&wanted, 7, before).expect("read");
                before = page.last().map(|call| Cursor { started: call.started, id: call.id });
                if page.is_empty() {
                    break;
                }
                found.extend(page.iter().map(|call| call.id));
            }
            let expected: Vec<CallId> = all.iter().filter(|call| fits(&wanted, call)).map(|call| call.id).collect();
            assert_eq!(found, expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_caller_is_found_however_the_number_is_written_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = super::super::tests::open(&folder.path().join("callbox.db")).expect("open");
        let handle = storage.handle();
        let keep = |id| {
            let call = super::super::tests::call(id, 10);
            handle.keep(super::super::Record::Call(Box::new(call)), Privacy::default());
        };
        keep(1);
        let key = Some(HashKey::new("a key of sixteen bytes or more"));
        handle.set_rules(Rules { callers: Callers::Hashed, key, ..Rules::default() });
        keep(2);
        handle.flush();
        let found = |number: &str| {
            let wanted = Wanted { caller: Some(Pii::new(number.to_owned())), ..Wanted::default() };
            handle.calls(&wanted, 9, None).expect("read")
        };
        let both = found("+1 (555) 0100");
        assert_eq!(both.iter().map(|call| call.id.0).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(found(both[0].from.reveal()), both[..1], "and by the hash");
        assert!(found("+15550101").is_empty());
    }
}

//! What is kept of callers. Enters: records as they happened, and the owner's rules; leaves: records as they are kept.
//! Done by whoever records, so that what must not be kept never reaches the queue. Never here: the disk, a log line.

mod party;
mod redact;

pub use party::{HashKey, party};
pub use redact::redacted;

use super::{CallRecord, Direction, Record, TurnRecord};
use crate::base::{Callers, Pii, Privacy, Transcripts};

/// Days after which something is deleted; none keeps it for ever.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Retention {
    /// Calls with all that belongs to them, and events.
    pub calls: Option<u32>,
    /// What was said.
    pub transcripts: Option<u32>,
    /// What is known of recordings; their files are somebody else's.
    pub recordings: Option<u32>,
    /// Who has looked.
    pub audit: Option<u32>,
}

/// The owner's rules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// What of what was said.
    pub transcripts: Transcripts,
    /// How far ends are named.
    pub callers: Callers,
    /// For hashes; without one nobody can be hashed.
    pub key: Option<HashKey>,
    /// How long.
    pub retention: Retention,
}

impl Rules {
    /// The record as it is kept, of an agent that may want something else.
    pub(super) fn apply(&self, record: Record, own: Privacy) -> Record {
        match record {
            Record::Call(mut call) => {
                self.name(&mut call, own.callers.unwrap_or(self.callers));
                Record::Call(call)
            }
            Record::Turn(mut turn) => {
                words(&mut turn, own.transcripts.unwrap_or(self.transcripts));
                Record::Turn(turn)
            }
            other => other,
        }
    }

    /// Every name under which a far end may have been kept.
    #[must_use]
    pub fn names(&self, number: &str) -> Vec<String> {
        let plain = party(number);
        // Who is named by a hash has no other name.
        let hashed = self.key.as_ref().map(|key| key.hash(&plain)).filter(|hashed| *hashed != plain);
        std::iter::once(plain).chain(hashed).collect()
    }

    fn name(&self, call: &mut CallRecord, how: Callers) {
        if how == Callers::Plain {
            return;
        }
        let far_end = match call.direction {
            Direction::Inbound => &mut call.from,
            Direction::Outbound => &mut call.to,
        };
        // Without a key, which the configuration does not allow: nobody rather than everybody.
        *far_end = Pii::new(self.key.as_ref().map(|key| key.hash(&party(far_end.reveal()))).unwrap_or_default());
    }
}

fn words(turn: &mut TurnRecord, how: Transcripts) {
    for text in [&mut turn.caller_text, &mut turn.agent_text, &mut turn.heard_text] {
        match how {
            Transcripts::Full => {}
            Transcripts::Redacted => *text = Pii::new(redacted(text.reveal())),
            Transcripts::Off => *text = Pii::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, turn};
    use super::*;

    #[test]
    fn an_agent_may_keep_less_or_more_than_the_rules_say() {
        let key = Some(HashKey::new("a key of sixteen bytes or more"));
        let rules = Rules { callers: Callers::Hashed, transcripts: Transcripts::Off, key, ..Rules::default() };
        let (Record::Call(kept), Record::Turn(said)) = (
            rules.apply(Record::Call(Box::new(call(1, 0))), Privacy::default()),
            rules.apply(Record::Turn(Box::new(turn(1, 1))), Privacy::default()),
        ) else {
            panic!("another kind of record");
        };
        assert!(kept.from.reveal().starts_with("hmac:") && kept.to.reveal() == "100", "our own number is no secret");
        assert_eq!([said.caller_text, said.agent_text, said.heard_text], [const { Pii::new(String::new()) }; 3]);
        assert_eq!(rules.names("+1 (555) 0100").last(), Some(kept.from.reveal()), "found by number all the same");
        assert_eq!(rules.names(kept.from.reveal()), [kept.from.reveal().as_str()], "and by its hash, once");

        let own = Privacy { transcripts: Some(Transcripts::Full), callers: Some(Callers::Plain) };
        for record in [Record::Call(Box::new(call(1, 0))), Record::Turn(Box::new(turn(1, 1)))] {
            assert_eq!(rules.apply(record.clone(), own), record);
        }
        let mut out = call(2, 0);
        out.direction = Direction::Outbound;
        let Record::Call(out) = rules.apply(Record::Call(Box::new(out)), Privacy::default()) else { panic!("a call") };
        assert!(
            out.to.reveal().starts_with("hmac:") && out.from.reveal() == "+15550100",
            "who was called is the far end"
        );
    }
}

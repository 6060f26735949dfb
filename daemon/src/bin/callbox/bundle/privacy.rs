//! What may not leave. Enters: a configuration, calls; leaves: the configuration without secrets, and whether a text names
//! one of the callers.

use std::collections::HashSet;

use anyhow::Context as _;
use callbox::config::Config;
use callbox::storage::StoredCall;
use toml::{Table, Value};

/// Parts of a key's name that make its value a secret.
const SECRET: [&str; 6] = ["secret", "password", "passphrase", "token", "credential", "key"];

/// The effective configuration as TOML.
pub(super) fn without_secrets(config: &Config) -> anyhow::Result<String> {
    let mut table = Table::try_from(config).context("the configuration cannot be written")?;
    redact(&mut table);
    toml::to_string(&table).context("the configuration cannot be written")
}

fn redact(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => redact(inner),
            Value::Array(values) => values.iter_mut().filter_map(Value::as_table_mut).for_each(redact),
            _ if SECRET.iter().any(|word| key.contains(word)) => *value = "[redacted]".into(),
            _ => {}
        }
    }
}

/// Numbers and addresses of callers, and what was said, three words at a time: one may be anybody's.
#[derive(Default)]
pub(super) struct Private {
    names: HashSet<String>,
    runs: HashSet<[String; 3]>,
}

impl Private {
    pub(super) fn of(calls: &[StoredCall]) -> Self {
        let mut private = Self::default();
        for call in calls {
            for party in call.call.iter().flat_map(|call| [call.from.reveal(), call.to.reveal()]) {
                // `sip`, a port, `reception` are nobody; a number, an address, `jane.doe` are.
                let telling =
                    |word: &&String| word.len() >= 4 && word.contains(|c: char| c.is_ascii_digit() || c == '.');
                let (_, address) = party.split_once(':').unwrap_or(("", party));
                let parts = address.split('@').filter_map(|part| part.split([':', ';', '>']).next());
                private.names.extend(parts.flat_map(words).collect::<Vec<_>>().iter().filter(telling).cloned());
            }
            for turn in &call.turns {
                for text in [&turn.caller_text, &turn.agent_text, &turn.heard_text] {
                    private.runs.extend(runs(&words(text.reveal())));
                }
            }
        }
        private
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        let words = words(text);
        words.iter().any(|word| self.names.contains(word)) || runs(&words).any(|run| self.runs.contains(&run))
    }
}

fn words(text: &str) -> Vec<String> {
    let inner = |c: char| c.is_alphanumeric() || c == '.' || c == '\'';
    text.split(|c| !inner(c))
        .map(|word| word.trim_matches(['.', '\'']).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

fn runs(words: &[String]) -> impl Iterator<Item = [String; 3]> {
    words.windows(3).filter_map(|run| run.to_vec().try_into().ok())
}

#[cfg(test)]
mod tests {
    use callbox::base::{CallId, Pii, TurnId};
    use callbox::storage::{CallRecord, Direction, MediaStats, Timestamp, TurnRecord};

    use super::*;

    #[test]
    fn numbers_addresses_and_words_of_a_caller_are_found_and_ordinary_lines_are_not() {
        let call = CallRecord {
            id: CallId(1),
            agent: "frontdesk".into(),
            direction: Direction::Inbound,
            from: Pii::new("sip:+15550100@192.0.2.7:5060;user=phone".into()),
            to: Pii::new("reception".into()),
            codec: "PCMU".into(),
            started: Timestamp(0),
            answered: None,
            ended: None,
            end_reason: None,
            turns: 1,
            media: MediaStats::default(),
        };
        let turn = TurnRecord {
            caller_text: Pii::new("My name is Penelope.".into()),
            agent_text: Pii::new("Welcome back, Penelope Pitstop!".into()),
            heard_text: Pii::new(String::new()),
            ..TurnRecord::new(CallId(1), TurnId(1), Timestamp(0))
        };
        let private = Private::of(&[StoredCall { call: Some(call), turns: vec![turn] }]);
        for text in [
            "from +15550100",
            "\"15550100\"",
            "peer=192.0.2.7:5060",
            "said my NAME is",
            "{\"m\":\"welcome back penelope\"}",
        ] {
            assert!(private.is_in(text), "{text}");
        }
        for text in ["reception answered on 5060 with PCMU", "my name", "192.0.2.70", "welcome, penelope", ""] {
            assert!(!private.is_in(text), "{text}");
        }
    }

    #[test]
    fn secrets_are_redacted_by_the_names_of_their_keys() {
        let mut table: Table = toml::from_str(
            "[trunk]\nhost = \"h\"\npassword = \"swordfish\"\n[[user]]\napi_token = \"swordfish\"\nname = \"n\"\n\
             [tls]\nprivate_key = \"swordfish\"",
        )
        .expect("valid");
        redact(&mut table);
        let text = toml::to_string(&table).expect("text");
        assert!(
            !text.contains("swordfish") && text.contains("host = \"h\"") && text.contains("name = \"n\""),
            "{text}"
        );
        assert!(without_secrets(&Config::default()).expect("text").contains("max_calls = 100"));
    }
}

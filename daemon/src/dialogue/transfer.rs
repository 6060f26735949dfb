//! Handing the caller over to somebody else. Enters: words, keys or a mark of the model that ask for it, and what came of
//! it. Leaves: the announcement, then [`Action::Transfer`]; if nobody was reached, the caller is told and the history
//! knows. Never here: how a call is passed on.

use serde::{Deserialize, Serialize};

use super::agent::{Millis, Name, Phrase};
use super::io::Action;
use super::machine::Dialogue;
use super::record::TurnKind;
use super::turn::Turn;

/// Most targets of one agent.
pub(super) const MOST_TRANSFERS: usize = 20;

/// Somebody whom callers can be handed over to.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Its name: letters, digits, `-` and `_`. The model asks for it by this name.
    pub name: Name,
    /// Whom to call: a number, or `sip:USER@HOST`.
    pub to: Phrase<200>,
    /// Through which trunk the box calls, where it does; default the first that calls can go out through.
    #[serde(default)]
    pub trunk: Option<String>,
    /// How.
    #[serde(default)]
    pub how: How,
    /// Words of the caller that ask for it, such as "speak to a human". Default none.
    #[serde(default)]
    pub phrases: Vec<Phrase<80>>,
    /// Keys that ask for it, such as "0". Default none.
    #[serde(default)]
    pub keys: Option<Keys>,
    /// When the model is to ask for it, for its instructions: "the caller wants to speak to a person". Default never.
    #[serde(default)]
    pub when: Option<Phrase<160>>,
    /// Said before.
    #[serde(default = "announce")]
    pub announce: Phrase<300>,
    /// Said if nobody was reached.
    #[serde(default = "unreached")]
    pub unreached: Phrase<300>,
    /// How long it rings there, in milliseconds. Default 25 000; 3000 to 180 000.
    #[serde(default = "ring")]
    pub ring_ms: Millis<3000, 180_000>,
}

/// How a caller is handed over (RFC 5589).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The trunk is asked to do it (REFER); if it does not want to, as `bridge`.
    #[default]
    Blind,
    /// The box calls, joins the two when somebody answers, and then, if both came through the same address, asks the trunk
    /// to take over (REFER with Replaces).
    Attended,
    /// The box calls and stays between the two.
    Bridge,
}

impl Transfer {
    /// Whether anything can ask for it.
    pub(super) fn is_asked_for(&self) -> bool {
        self.keys.is_some() || self.when.is_some() || !self.phrases.is_empty()
    }
}

/// Keys of a telephone.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Keys(String);

impl TryFrom<String> for Keys {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if (1..=8).contains(&text.len()) && text.chars().all(|c| c.is_ascii_digit() || c == '*') {
            Ok(Self(text))
        } else {
            Err("keys are 1 to 8 of 0-9 and *")
        }
    }
}

fn phrase(text: &str) -> Phrase<300> {
    Phrase::fixed(text)
}

fn announce() -> Phrase<300> {
    phrase("One moment, I will connect you.")
}

fn unreached() -> Phrase<300> {
    phrase("I am sorry, nobody can be reached there at the moment. Is there anything else that I can do for you?")
}

fn ring() -> Millis<3000, 180_000> {
    Millis::fixed(25_000)
}

/// Why a caller is back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreached {
    /// The line there is busy.
    Busy,
    /// It rang, and nobody answered.
    NoAnswer,
    /// They declined.
    Declined,
    /// The call could not be made.
    Failed,
}

impl Unreached {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Busy, Self::NoAnswer, Self::Declined, Self::Failed];

    /// For the model's history, and for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "the line is busy",
            Self::NoAnswer => "nobody answered",
            Self::Declined => "the call was declined",
            Self::Failed => "the call could not be made",
        }
    }
}

/// The mark that the model answers with.
pub(super) fn mark(name: &str) -> String {
    format!("[transfer {name}]")
}

/// What a clause says besides a mark, and the name in the mark.
fn without_mark(clause: &str) -> Option<(String, &str)> {
    let (before, rest) = clause.split_once("[transfer ")?;
    let (name, after) = rest.split_once(']')?;
    Some((format!("{} {}", before.trim(), after.trim_start_matches(['.', '!']).trim()).trim().to_owned(), name.trim()))
}

/// Whether these words of a caller ask for one of these phrases: each word of it, one after the other. "Do not" and
/// "don't" before it leave it to the model.
fn asks(words: &str, phrase: &str) -> bool {
    let bare = |text: &str| -> Vec<String> {
        let words =
            text.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase());
        words.map(|word| word.replace('’', "'")).filter(|word| !word.is_empty()).collect()
    };
    let (said, wanted) = (bare(words), bare(phrase));
    let negated = |before: &[String]| before.iter().any(|word| word == "not" || word.ends_with("n't"));
    !wanted.is_empty()
        && said.windows(wanted.len()).position(|window| window == wanted).is_some_and(|at| !negated(&said[..at]))
}

impl Dialogue {
    /// The target that these words ask for.
    pub(super) fn asked_for(&self, words: &str) -> Option<&Transfer> {
        self.agent.transfers.iter().find(|transfer| transfer.phrases.iter().any(|phrase| asks(words, phrase.as_str())))
    }

    /// Keys that are complete need not be waited for, unless more of them would mean another target.
    pub(super) fn keys_are_complete(&self) -> bool {
        let keys = self.agent.transfers.iter().filter_map(|transfer| transfer.keys.as_ref());
        let mut longer = false;
        let mut exact = false;
        for Keys(keys) in keys {
            exact |= *keys == self.keys;
            longer |= keys.len() > self.keys.len() && keys.starts_with(&self.keys);
        }
        exact && !longer
    }

    /// The target that these keys ask for.
    pub(super) fn keyed(&self, keys: &str) -> Option<&Transfer> {
        self.agent.transfers.iter().find(|transfer| transfer.keys.as_ref().is_some_and(|Keys(wanted)| wanted == keys))
    }

    /// Makes a turn the announcement of a transfer.
    pub(super) fn announce(turn: &mut Turn, transfer: &Transfer) {
        turn.kind = TurnKind::Transfer;
        turn.script = Some(transfer.announce.as_str().to_owned());
        turn.connects = Some(transfer.name.as_str().to_owned());
    }

    /// Takes the model's marks out of clauses; one of a known target makes the turn its announcement.
    pub(super) fn take_marks(&mut self, clauses: Vec<String>) -> Vec<String> {
        if self.agent.transfers.is_empty() || self.turn.as_ref().is_none_or(|turn| turn.script.is_some()) {
            return clauses;
        }
        let mut spoken = Vec::with_capacity(clauses.len());
        for clause in clauses {
            let Some((rest, name)) = without_mark(&clause) else {
                spoken.push(clause);
                continue;
            };
            let known = self.agent.transfers.iter().find(|transfer| transfer.name.as_str() == name);
            if let (Some(turn), Some(transfer)) = (&mut self.turn, known) {
                turn.connects = Some(name.to_owned());
                turn.kind = TurnKind::Transfer;
                let silent = rest.is_empty() && !turn.has_clauses() && spoken.is_empty();
                spoken.push(if silent { transfer.announce.as_str().to_owned() } else { rest });
            } else if !rest.is_empty() {
                spoken.push(rest);
            }
        }
        spoken.retain(|clause| !clause.is_empty());
        spoken
    }

    /// Whether the caller was handed over and may come back.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// The announcement was heard, or cannot be: the caller is somebody else's now.
    pub(super) fn hand_over(&mut self, name: String, out: &mut Vec<Action>) {
        self.away = Some(name.clone());
        out.push(Action::Transfer { name });
    }

    /// The caller is back.
    pub(super) fn unreached(&mut self, why: Unreached, out: &mut Vec<Action>) {
        let Some(name) = self.away.take() else { return };
        // Their listening stream begins anew.
        self.utterance_over();
        self.ears.reset();
        self.idle_since = self.now;
        let transfer = self.agent.transfers.iter().find(|transfer| transfer.name.as_str() == name);
        let text = transfer.map_or_else(|| unreached().as_str().to_owned(), |t| t.unreached.as_str().to_owned());
        let id = self.new_id();
        let mut turn = Turn::new(id, TurnKind::Unreached, self.now);
        // For the model: so that it does not try the same again without being asked.
        turn.caller = Some(format!("(the transfer to {name} failed: {}; you speak to the caller again)", why.as_str()));
        turn.script = Some(text);
        turn.times.endpoint = Some(self.now);
        self.turn = Some(turn);
        if self.is_up() {
            self.work(out);
        } else if let Some(turn) = self.turn.take() {
            self.owe(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_ask_for_a_target_unless_they_deny_it() {
        let phrase = "speak to a human";
        for said in ["I want to speak to a human.", "Can I Speak, to a human please?", "speak to a human"] {
            assert!(asks(said, phrase), "{said}");
        }
        for said in ["I don't want to speak to a human.", "speak to human", "Please do not let me speak to a human", ""]
        {
            assert!(!asks(said, phrase), "{said}");
        }
        assert!(!asks("anything", "..."));
    }

    #[test]
    fn a_mark_is_taken_out_of_a_clause() {
        assert_eq!(without_mark("[transfer desk]"), Some((String::new(), "desk")));
        assert_eq!(without_mark("I connect you. [transfer desk]."), Some(("I connect you.".into(), "desk")));
        assert_eq!(without_mark("[transfer desk"), None);
        assert_eq!(without_mark("no mark"), None);
    }
}

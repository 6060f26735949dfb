//! What an operator has the agent do. Enters: words, or a target; leaves: a turn of the agent, as soon as nobody has the
//! floor. Never here: an operator who speaks over the caller.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::io::Action;
use super::machine::{Dialogue, Phase};
use super::record::TurnKind;
use super::turn::Turn;

/// Errands that wait; one more is refused.
const MOST: usize = 4;

/// Something that an operator wants. `Debug` prints no words.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// Say this.
    Say(String),
    /// Hand the caller over to this transfer of the agent.
    Transfer(String),
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say(_) => f.write_str("Say"),
            Self::Transfer(to) => write!(f, "Transfer({to})"),
        }
    }
}

/// Why an errand is not run; its `Display` is one sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoErrand {
    /// There is no conversation, or it is about to end.
    #[error("the conversation ends")]
    Over,
    /// The caller speaks with somebody else.
    #[error("the caller was handed over and speaks with somebody else")]
    Away,
    /// Too many wait.
    #[error("{MOST} errands of this call wait already")]
    Full,
    /// Nobody of that name.
    #[error("its agent has no transfer of that name")]
    Unknown,
}

impl Dialogue {
    /// Takes an errand; it is run at the next [`super::Input::Tick`] at which nobody has the floor.
    ///
    /// # Errors
    /// [`NoErrand`]; nothing has changed then.
    pub fn take_errand(&mut self, errand: Errand) -> Result<(), NoErrand> {
        if self.phase != Phase::Live || self.closing.is_some() || self.leaving.is_some() {
            return Err(NoErrand::Over);
        }
        if self.away.is_some() {
            return Err(NoErrand::Away);
        }
        if let Errand::Transfer(to) = &errand
            && !self.agent.transfers.iter().any(|transfer| transfer.name.as_str() == to)
        {
            return Err(NoErrand::Unknown);
        }
        if self.errands.len() >= MOST {
            return Err(NoErrand::Full);
        }
        self.errands.push_back(errand);
        Ok(())
    }

    /// Whether one can be run now, if nobody has the floor.
    pub(super) fn has_errand(&self) -> bool {
        !self.errands.is_empty() && !self.held && self.keys_by.is_none()
    }

    pub(super) fn run_errand(&mut self, out: &mut Vec<Action>) {
        let Some(errand) = self.errands.pop_front() else { return };
        let id = self.new_id();
        let mut turn = Turn::new(id, TurnKind::Operator, self.now);
        // The model is told whose idea it was, so that it does not take the words for its own.
        match errand {
            Errand::Say(text) => {
                turn.caller = Some("(an operator has you tell the caller something)".to_owned());
                turn.script = Some(text);
            }
            Errand::Transfer(to) => {
                let Some(transfer) = self.agent.transfers.iter().find(|known| known.name.as_str() == to) else {
                    return;
                };
                turn.caller = Some(format!("(an operator has you hand the caller over to {to})"));
                Self::announce(&mut turn, transfer);
            }
        }
        turn.times.endpoint = Some(self.now);
        self.turn = Some(turn);
        self.work(out);
    }
}

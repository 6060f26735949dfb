//! An agent's documents in one call. Enters: what a question is about, its vector; leaves: passages, always, and soon. Never
//! here: a choice of which of them the model is shown.

use std::time::{Duration, Instant};

use callbox_wire::TurnId;

use crate::base::Passage;
use crate::dialogue::Agent;
use crate::knowledge::Knowledge;

/// From the question to its vector, at most: then what its words alone find has to do.
const DEADLINE: Duration = Duration::from_millis(250);

struct Waiting {
    turn: TurnId,
    question: String,
    by: Instant,
}

/// What a turn was told that its documents say; none if there are no documents.
pub(super) type Found = (TurnId, Option<Vec<Passage>>);

/// One call's side of the documents.
#[derive(Default)]
pub(super) struct Retrieval {
    waiting: Option<Box<Waiting>>,
    found: Option<Box<Found>>,
}

impl Retrieval {
    /// A question; true if its vector is to be asked for.
    pub(super) fn ask(
        &mut self,
        knowledge: &Knowledge,
        agent: &Agent,
        turn: TurnId,
        question: String,
        now: Instant,
    ) -> bool {
        *self = Self::default();
        let has = knowledge.has(agent.name.as_str());
        if has {
            self.waiting = Some(Box::new(Waiting { turn, question, by: now + DEADLINE }));
        } else {
            self.found = Some(Box::new((turn, None)));
        }
        has
    }

    /// The vector of a turn's words came, or will not.
    pub(super) fn embedded(&mut self, knowledge: &Knowledge, agent: &Agent, turn: TurnId, vector: Option<&[f32]>) {
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.turn == turn) {
            let passages = knowledge.look(agent.name.as_str(), &waiting.question, vector);
            self.found = Some(Box::new((turn, Some(passages))));
        }
    }

    /// When the vector is not waited for any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.by)
    }

    /// Whether that has come: the turn that waits.
    pub(super) fn is_late(&self, now: Instant) -> Option<TurnId> {
        self.waiting.as_ref().filter(|waiting| waiting.by <= now).map(|waiting| waiting.turn)
    }

    /// What was found since this was last asked.
    pub(super) fn take(&mut self) -> Option<Found> {
        self.found.take().map(|found| *found)
    }

    /// A turn is not wanted any more.
    pub(super) fn cancelled(&mut self, turn: TurnId) {
        self.waiting.take_if(|waiting| waiting.turn == turn);
        self.found.take_if(|found| found.0 == turn);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::{Clock as _, SystemClock};
    use crate::knowledge::Document;

    #[test]
    fn a_question_is_always_answered_and_never_late() {
        let folder = tempfile::tempdir().expect("a folder");
        let knowledge = Knowledge::new(folder.path().to_owned());
        let text = "name = 'desk'\nnumbers = ['*']\npersona = 'Kind.'\ngreeting = 'Hello.'\ngoodbye = 'Bye.'\n";
        let agent = Agent::parse("desk.toml", text).expect("valid");
        let (now, turn, mut retrieval) = (SystemClock.now(), TurnId(3), Retrieval::default());
        let question = || "When does the pool open?".to_owned();
        assert!(!retrieval.ask(&knowledge, &agent, turn, question(), now));
        assert_eq!(retrieval.take(), Some((turn, None)), "there are no documents");

        let pool: Arc<[Document]> = Arc::new([Document::new("a.md", "The pool opens at seven.").expect("a document")]);
        knowledge.serve([("desk", pool)].into_iter());
        assert!(retrieval.ask(&knowledge, &agent, turn, question(), now));
        assert_eq!((retrieval.take(), retrieval.is_late(now)), (None, None));
        let late = retrieval.deadline().expect("a deadline");
        assert_eq!(retrieval.is_late(late), Some(turn));
        retrieval.embedded(&knowledge, &agent, TurnId(2), Some(&[1.0]));
        assert_eq!(retrieval.take(), None, "of another turn");
        retrieval.embedded(&knowledge, &agent, turn, None);
        let (of, found) = retrieval.take().expect("found by its words");
        assert_eq!((of, found.map(|found| found.len()), retrieval.deadline()), (turn, Some(1), None));

        assert!(retrieval.ask(&knowledge, &agent, turn, question(), now));
        retrieval.cancelled(turn);
        retrieval.embedded(&knowledge, &agent, turn, None);
        assert_eq!((retrieval.take(), retrieval.deadline()), (None, None));
    }
}

//! What the model is told.
//!
//! Enters: the agent's file and what was said. Leaves: messages whose beginning is the same, byte for byte, in every call
//! of that agent, so that an engine computes it once. Never here: the date, the caller's number, anything else that
//! would make two calls differ before the first word.

use callbox_wire::{ChatMessage, ChatRole};

use super::agent::Agent;
use super::transfer::mark;

/// How a telephone wants to be spoken to.
const STYLE: &str = "You are on the telephone: answer in one short sentence, two at most. Plain spoken words only, \
                     no lists, no markdown, no emoji. Use only these facts; if they do not tell, say that you do not \
                     know and offer to take a message.";

/// Ends what the caller heard of an answer that they interrupted.
const CUT_OFF: &str = " —";

/// Begins what the caller said after that, so that the model does not take its own sentence for a finished one.
const INTERRUPTING: &str = "(interrupts you) ";

/// The agent's instructions.
#[must_use]
pub fn system_prompt(agent: &Agent) -> String {
    let mut text = format!("{} {STYLE}\nFacts:\n", agent.persona.as_str());
    for fact in &agent.facts {
        text.push_str("- ");
        text.push_str(fact.as_str());
        text.push('\n');
    }
    for transfer in &agent.transfers {
        if let Some(when) = &transfer.when {
            text.push_str(&format!("If {}, answer only: {}\n", when.as_str(), mark(transfer.name.as_str())));
        }
    }
    text.push_str("You have already greeted the caller.");
    text
}

/// The messages that begin every conversation of this agent, for `Request::Prime`.
#[must_use]
pub fn prime_messages(agent: &Agent) -> Vec<ChatMessage> {
    vec![ChatMessage { role: ChatRole::System, content: system_prompt(agent) }]
}

/// A conversation so far: questions and answers in turn, the system message apart.
pub struct History {
    system: ChatMessage,
    budget: usize,
    /// Alternating, from a user's to an assistant's.
    turns: Vec<ChatMessage>,
    /// Said by the caller and not answered; belongs to the next question.
    pending: String,
    interrupted: bool,
}

impl History {
    /// The beginning of a conversation.
    #[must_use]
    pub fn new(agent: &Agent) -> Self {
        let system = ChatMessage { role: ChatRole::System, content: system_prompt(agent) };
        let budget = agent.limits.history_chars as usize;
        Self { system, budget, turns: Vec::new(), pending: String::new(), interrupted: false }
    }

    /// One that goes on.
    pub(super) fn resume(agent: &Agent, turns: Vec<ChatMessage>, pending: String, interrupted: bool) -> Self {
        Self { turns, pending, interrupted, ..Self::new(agent) }
    }

    /// What [`History::resume`] needs.
    pub(super) fn kept(&self) -> (&[ChatMessage], &str, bool) {
        (&self.turns, &self.pending, self.interrupted)
    }

    /// What to send to have this answered.
    #[must_use]
    pub fn ask(&self, text: &str) -> Vec<ChatMessage> {
        let mut messages = Vec::with_capacity(self.turns.len() + 2);
        messages.push(self.system.clone());
        messages.extend(self.turns.iter().cloned());
        messages.push(ChatMessage { role: ChatRole::User, content: self.question(text) });
        messages
    }

    /// The caller heard the whole answer.
    pub fn answered(&mut self, question: &str, answer: &str) {
        self.exchange(question, answer.trim().to_owned());
        self.interrupted = false;
    }

    /// The caller heard only this much of the answer. If that is nothing, their question is still open.
    pub fn interrupted(&mut self, question: &str, heard: &str) {
        let heard = heard.trim();
        if heard.is_empty() {
            self.pending = shortened(self.joined(question), self.budget);
            return;
        }
        self.exchange(question, format!("{heard}{CUT_OFF}"));
        self.interrupted = true;
    }

    /// Characters held, the system message apart.
    #[must_use]
    pub fn chars(&self) -> usize {
        self.turns.iter().map(|message| message.content.chars().count()).sum::<usize>() + self.pending.chars().count()
    }

    fn joined(&self, text: &str) -> String {
        [self.pending.as_str(), text.trim()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn question(&self, text: &str) -> String {
        let mark = if self.interrupted { INTERRUPTING } else { "" };
        format!("{mark}{}", self.joined(text))
    }

    fn exchange(&mut self, question: &str, answer: String) {
        let question = self.question(question);
        self.pending.clear();
        self.turns.push(ChatMessage { role: ChatRole::User, content: question });
        self.turns.push(ChatMessage { role: ChatRole::Assistant, content: answer });
        if self.chars() > self.budget {
            // To the half: what is kept then stays a known prefix for many turns.
            self.forget(self.budget / 2);
        }
    }

    /// Forgets half of what was said, for an engine that cannot hold it all; false if nothing is left to forget.
    pub(super) fn halve(&mut self) -> bool {
        let chars = self.chars();
        self.forget(chars / 2);
        self.pending = shortened(std::mem::take(&mut self.pending), chars / 2);
        chars > 0
    }

    /// Forgets the oldest exchanges until no more than so many characters are held, or none is left.
    fn forget(&mut self, most: usize) {
        let mut chars = self.chars();
        let mut drop = 0;
        while chars > most && drop < self.turns.len() {
            chars -= self.turns[drop..drop + 2].iter().map(|message| message.content.chars().count()).sum::<usize>();
            drop += 2;
        }
        self.turns.drain(..drop);
    }
}

/// At most so many characters, the last ones.
pub(super) fn shortened(text: String, most: usize) -> String {
    match text.chars().count().checked_sub(most) {
        None | Some(0) => text,
        Some(excess) => text.chars().skip(excess).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        Agent::parse(
            "desk.toml",
            "name = 'desk'\nnumbers = ['*']\npersona = 'You are kind.'\nfacts = ['Open from nine.', 'Closed on Sunday.']\n\
             greeting = 'Hello.'\ngoodbye = 'Bye.'\n[limits]\nhistory_chars = 200\n",
        )
        .expect("valid")
    }

    fn contents(messages: &[ChatMessage]) -> Vec<&str> {
        messages.iter().skip(1).map(|message| message.content.as_str()).collect()
    }

    #[test]
    fn the_beginning_is_always_the_primed_one() {
        let agent = agent();
        let mut history = History::new(&agent);
        let primed = prime_messages(&agent);
        assert!(primed[0].content.contains("- Open from nine.\n- Closed on Sunday.\n"));
        for turn in 0..50 {
            assert!(history.ask("When?").starts_with(&primed));
            history.answered(&format!("Question {turn}?"), "An answer of some length, so that the budget is met.");
            assert!(history.chars() <= 200);
        }
        assert_eq!(history.ask("When?")[1].role, ChatRole::User);
        assert!(history.ask("x").iter().any(|message| message.content == "Question 49?"), "the newest is kept");
    }

    #[test]
    fn an_interrupted_answer_is_what_was_heard_of_it() {
        let mut history = History::new(&agent());
        history.interrupted("When is breakfast?", "From seven");
        let messages = history.ask("And dinner?");
        assert_eq!(contents(&messages), ["When is breakfast?", "From seven —", "(interrupts you) And dinner?"]);
        history.answered("And dinner?", "At six.");
        assert_eq!(contents(&history.ask("Thanks.")).last(), Some(&"Thanks."));
    }

    #[test]
    fn a_question_of_which_no_answer_was_heard_stays_open() {
        let mut history = History::new(&agent());
        history.interrupted("When is breakfast", "");
        assert_eq!(contents(&history.ask("on Sunday?")), ["When is breakfast on Sunday?"]);
    }
}

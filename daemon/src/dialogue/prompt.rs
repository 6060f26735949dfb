//! What the model is told.
//!
//! Enters: the agent's file and what was said. Leaves: messages whose beginning is the same, byte for byte, in every call
//! of that agent, so that an engine computes it once. Never here: the date, the caller's number, anything else that
//! would make two calls differ before the first word.

use std::sync::Arc;

use callbox_wire::{ChatMessage, ChatRole};

use super::agent::{Agent, tokens};
use super::transfer::mark;
use crate::base::Passage;

/// How a telephone wants to be spoken to.
const STYLE: &str = "You are on the telephone: answer in one short sentence, two at most. Plain spoken words only, \
                     no lists, no markdown, no emoji. Use only these facts; if they do not tell, say that you do not \
                     know and offer to take a message.";

/// Ends what the caller heard of an answer that they interrupted.
const CUT_OFF: &str = " —";

/// Begins what the caller said after that, so that the model does not take its own sentence for a finished one.
const INTERRUPTING: &str = "(interrupts you) ";

/// Begins what stands before a question.
const DOCUMENTS: &str = "More facts:\n";

/// Ends it.
const QUESTION: &str = "\n\n";

/// A question of fewer words is about what was asked before.
const SHORT: usize = 6;

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
    agent: Arc<Agent>,
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
    pub fn new(agent: Arc<Agent>) -> Self {
        let budget = agent.limits.history_chars as usize;
        Self { agent, budget, turns: Vec::new(), pending: String::new(), interrupted: false }
    }

    /// One that goes on.
    pub(super) fn resume(agent: Arc<Agent>, turns: Vec<ChatMessage>, pending: String, interrupted: bool) -> Self {
        Self { turns, pending, interrupted, ..Self::new(agent) }
    }

    /// What [`History::resume`] needs.
    pub(super) fn kept(&self) -> (&[ChatMessage], &str, bool) {
        (&self.turns, &self.pending, self.interrupted)
    }

    /// What to send to have this answered.
    #[must_use]
    pub fn ask(&self, text: &str, passages: &[Passage]) -> Vec<ChatMessage> {
        let mut messages = prime_messages(&self.agent);
        messages.extend(self.turns.iter().cloned());
        messages.push(ChatMessage { role: ChatRole::User, content: self.question(text, passages) });
        messages
    }

    /// What a question is about: with the one before, if it is too short to stand alone.
    #[must_use]
    pub fn about(&self, text: &str) -> String {
        let text = self.joined(text);
        let asked = self.turns.iter().rev().find(|message| message.role == ChatRole::User);
        match asked.filter(|_| text.split_whitespace().count() < SHORT) {
            Some(before) => {
                let before = before.content.rsplit_once(QUESTION).map_or(before.content.as_str(), |(_, asked)| asked);
                format!("{before} {text}")
            }
            None => text,
        }
    }

    /// Of the passages that were found, the first ones that fit, but for those that the model has seen and still sees.
    #[must_use]
    pub fn choose(&self, found: Vec<Passage>) -> Vec<Passage> {
        let mut room = self.agent.knowledge.tokens;
        let seen = |passage: &Passage| self.turns.iter().any(|message| message.content.contains(&listed(passage)));
        let new = found.into_iter().filter(|passage| !seen(passage));
        let fitting = new.take_while(|passage| {
            let needed = tokens(&listed(passage));
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        });
        fitting.collect()
    }

    /// The caller heard the whole answer.
    pub fn answered(&mut self, question: &str, passages: &[Passage], answer: &str) {
        self.exchange(question, passages, answer.trim().to_owned());
        self.interrupted = false;
    }

    /// The caller heard only this much of the answer. If that is nothing, their question is still open.
    pub fn interrupted(&mut self, question: &str, passages: &[Passage], heard: &str) {
        let heard = heard.trim();
        if heard.is_empty() {
            self.pending = shortened(self.joined(question), self.budget);
            return;
        }
        self.exchange(question, passages, format!("{heard}{CUT_OFF}"));
        self.interrupted = true;
    }

    /// Characters held, the system message apart.
    #[must_use]
    pub fn chars(&self) -> usize {
        self.turns.iter().map(|message| message.content.chars().count()).sum::<usize>() + self.pending.chars().count()
    }

    /// Whether nothing was said so far.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.turns.is_empty() && self.pending.is_empty()
    }

    /// Whether the caller's last words were not answered, or not to the end: what is said next belongs to them.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.interrupted || !self.pending.is_empty()
    }

    /// Whether the agent's last words were a question.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.turns.last().is_some_and(|message| message.content.trim_end().ends_with('?'))
    }

    fn joined(&self, text: &str) -> String {
        [self.pending.as_str(), text.trim()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Passages stand before the question and not in the instructions: those are the same for all, and computed already.
    fn question(&self, text: &str, passages: &[Passage]) -> String {
        let mark = if self.interrupted { INTERRUPTING } else { "" };
        let question = format!("{mark}{}", self.joined(text));
        if passages.is_empty() {
            return question;
        }
        let listed: String = passages.iter().map(listed).collect();
        format!("{DOCUMENTS}{}{QUESTION}{question}", listed.trim_end())
    }

    fn exchange(&mut self, question: &str, passages: &[Passage], answer: String) {
        let question = self.question(question, passages);
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

/// A passage, as a fact of the agent's file is listed; its document's name says nothing to a caller.
fn listed(passage: &Passage) -> String {
    match passage.name.split_once(": ") {
        Some((_, headings)) => format!("- {headings}: {}\n", passage.text),
        None => format!("- {}\n", passage.text),
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
        let primed = prime_messages(&agent);
        let mut history = History::new(Arc::new(agent));
        assert!(primed[0].content.contains("- Open from nine.\n- Closed on Sunday.\n"));
        for turn in 0..50 {
            assert!(history.ask("When?", &[]).starts_with(&primed));
            history.answered(&format!("Question {turn}?"), &[], "An answer of some length, so that the budget is met.");
            assert!(history.chars() <= 200);
        }
        assert_eq!(history.ask("When?", &[])[1].role, ChatRole::User);
        assert!(history.ask("x", &[]).iter().any(|message| message.content == "Question 49?"), "the newest is kept");
    }

    #[test]
    fn an_interrupted_answer_is_what_was_heard_of_it() {
        let mut history = History::new(Arc::new(agent()));
        history.interrupted("When is breakfast?", &[], "From seven");
        let messages = history.ask("And dinner?", &[]);
        assert_eq!(contents(&messages), ["When is breakfast?", "From seven —", "(interrupts you) And dinner?"]);
        history.answered("And dinner?", &[], "At six.");
        assert_eq!(contents(&history.ask("Thanks.", &[])).last(), Some(&"Thanks."));
    }

    #[test]
    fn a_question_of_which_no_answer_was_heard_stays_open() {
        let mut history = History::new(Arc::new(agent()));
        history.interrupted("When is breakfast", &[], "");
        assert_eq!(contents(&history.ask("on Sunday?", &[])), ["When is breakfast on Sunday?"]);
    }

    #[test]
    fn passages_stand_before_the_question_once_and_no_more_than_fit() {
        let passage = |name: &str, text: &str| Passage { name: name.into(), text: text.into() };
        let pool = passage("house.md: Pool", "Open from seven.");
        let prices = passage("prices.csv", "Room: Double; Price: 120.");
        let mut history = History::new(Arc::new(agent()));
        assert_eq!(history.about("When does it open?"), "When does it open?");
        let chosen = history.choose(vec![pool.clone(), prices.clone()]);
        let asked = "More facts:\n- Pool: Open from seven.\n- Room: Double; Price: 120.\n\nWhen does the pool open?";
        assert_eq!(contents(&history.ask("When does the pool open?", &chosen)), [asked]);
        history.answered("When does the pool open?", &chosen, "At seven.");
        assert_eq!(history.choose(vec![pool.clone(), prices]), [], "the model sees them still");
        assert_eq!(history.about("And close?"), "When does the pool open? And close?");
        assert_eq!(history.about("What does a room with a view cost?"), "What does a room with a view cost?");
        let long = passage("a.txt", &"Many words of a long passage. ".repeat(13));
        assert_eq!(history.choose(vec![long.clone(), long.clone()]).len(), 1, "a budget of 200 tokens");
    }
}

//! What came of the calls: for each question its latency, and whether the answer was right. Enters: recordings; leaves:
//! lines for people, JSON for programs.

use std::ops::Range;

use serde::Serialize;

use super::line::Heard;
use super::measure::{self, RATE};
use super::questions::Question;

/// One question and its answer.
#[derive(Serialize)]
pub(crate) struct Answer {
    /// Which call.
    pub(crate) call: usize,
    /// Which question, from 0.
    pub(crate) question: usize,
    /// What was asked.
    asked: String,
    /// Voice-to-voice: from the last voiced sample that was sent to the first that was received.
    voice_to_voice_ms: Option<usize>,
    /// What was heard, as our own ears write it.
    pub(crate) text: Option<String>,
    /// Whether it holds what it must; absent where nothing was asked for.
    right: Option<bool>,
    /// Where it lies in the received stream.
    #[serde(skip)]
    pub(crate) span: Option<Range<usize>>,
}

/// All answers, and what they have in common.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(crate) answers: Vec<Answer>,
    /// Questions that got no answer.
    unanswered: usize,
    /// Answers that lack what they must hold.
    wrong: usize,
    /// Calls that ended before all was asked, and why.
    cut_off: Vec<String>,
    voice_to_voice_p50_ms: Option<usize>,
    voice_to_voice_p95_ms: Option<usize>,
    voice_to_voice_max_ms: Option<usize>,
}

impl Answer {
    /// Looks for what it must hold.
    pub(crate) fn check(&mut self, question: &Question) {
        if question.is_checked() {
            self.right = Some(self.text.as_deref().is_some_and(|text| question.is_answered_by(text)));
        }
    }
}

impl Report {
    /// Adds a call.
    pub(crate) fn add(&mut self, call: usize, questions: &[Question], heard: &Heard) {
        let received = &heard.received;
        for (number, question) in questions.iter().enumerate() {
            let until = heard.asked_at.get(number + 1).map_or(received.len(), |next| (*next).min(received.len()));
            let asked = heard.asked_at.get(number).and_then(|from| said(&heard.sent, *from, question));
            let answer = asked.and_then(|asked| measure::answer_to(&asked, received.get(..until)?));
            let span = answer.as_ref().map(|(_, first)| {
                let rest = measure::voiced(&received[first.start..until]);
                first.start..rest.last().map_or(first.end, |last| first.start + last.end)
            });
            self.answers.push(Answer {
                call,
                question: number,
                asked: question.ask.clone(),
                voice_to_voice_ms: answer.map(|(latency, _)| latency),
                text: None,
                right: None,
                span,
            });
        }
        self.cut_off.extend(heard.cut_off.clone());
    }

    /// Computes what all answers have in common.
    pub(crate) fn summarise(&mut self) {
        let latencies: Vec<usize> = self.answers.iter().filter_map(|answer| answer.voice_to_voice_ms).collect();
        self.unanswered = self.answers.len() - latencies.len();
        self.wrong = self.answers.iter().filter(|answer| answer.right == Some(false)).count();
        self.voice_to_voice_p50_ms = measure::percentile(&latencies, 50);
        self.voice_to_voice_p95_ms = measure::percentile(&latencies, 95);
        self.voice_to_voice_max_ms = latencies.into_iter().max();
    }

    /// Whether every question was answered, and none of the answers was wrong.
    pub(crate) const fn passed(&self) -> bool {
        self.unanswered == 0 && self.wrong == 0 && self.cut_off.is_empty()
    }

    /// The longest voice-to-voice.
    pub(crate) const fn longest_ms(&self) -> Option<usize> {
        self.voice_to_voice_max_ms
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!();
        for answer in &self.answers {
            let mark = match answer.right {
                Some(true) => "right",
                Some(false) => "WRONG",
                None => "     ",
            };
            let latency = answer.voice_to_voice_ms.map_or_else(|| "no answer".to_owned(), |ms| format!("{ms:>6} ms"));
            println!("{mark}  {latency}  {}", answer.asked);
            if let Some(text) = &answer.text {
                println!("                   heard: {text}");
            }
        }
        for reason in &self.cut_off {
            println!("a call ended early: {reason}");
        }
        if let (Some(p50), Some(p95), Some(max)) =
            (self.voice_to_voice_p50_ms, self.voice_to_voice_p95_ms, self.voice_to_voice_max_ms)
        {
            println!("voice-to-voice: p50 {p50} ms, p95 {p95} ms, longest {max} ms");
        }
        println!("{} asked, {} unanswered, {} wrong", self.answers.len(), self.unanswered, self.wrong);
    }
}

/// Where a question that began at `from` was voiced.
fn said(sent: &[i16], from: usize, question: &Question) -> Option<Range<usize>> {
    let until = (from + question.samples.len() + RATE / 2).min(sent.len());
    let stretches = measure::voiced(sent.get(from..until)?);
    let (first, last) = (stretches.first()?, stretches.last()?);
    Some(from + first.start..from + last.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_belongs_to_its_question() {
        let tone = |ms: usize| (0..ms * 16).map(|n| if n % 32 < 16 { 4000_i16 } else { -4000 });
        let quiet = |ms: usize| std::iter::repeat_n(0_i16, ms * 16);
        let question =
            Question { ask: "?".into(), samples: tone(500).chain(quiet(100)).collect(), ..Question::default() };
        let heard = Heard {
            sent: quiet(1000).chain(tone(500)).chain(quiet(3500)).chain(tone(500)).chain(quiet(2500)).collect(),
            received: quiet(2300).chain(tone(1000)).chain(quiet(2900)).chain(tone(300)).chain(quiet(1500)).collect(),
            asked_at: vec![16_000, 80_000],
            cut_off: None,
        };
        let mut report = Report::default();
        report.add(0, &[question.clone(), question.clone(), question], &heard);
        report.summarise();
        let latencies: Vec<_> = report.answers.iter().map(|answer| answer.voice_to_voice_ms).collect();
        assert_eq!(latencies, [Some(800), Some(700), None]);
        assert_eq!((report.unanswered, report.wrong, report.passed()), (1, 0, false));
    }
}

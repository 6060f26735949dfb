//! Plain words in; phonemes out, by the program `espeak-ng`, kept running.
//!
//! It is licensed under the GPL and therefore never linked: one line of text goes to its input, one line of phonemes
//! comes back. A process that dies or stops answering is replaced once per request. Never here: markup, and of English
//! no digits, which [`super::normalise`] has already turned into words.

use std::path::{Path, PathBuf};

use super::child::Child;
use super::sentence::{self, Sentence, clauses};

/// Why there are no phonemes.
#[derive(Debug, thiserror::Error)]
pub enum EspeakError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}; install the package espeak-ng")]
    Missing {
        /// Its path or name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended, or does not answer, also after a restart.
    #[error("espeak-ng does not answer")]
    Dead,
}

/// A running `espeak-ng`.
pub struct Espeak {
    program: PathBuf,
    voice: String,
    /// Whether what is one sound of two letters has a [`TIE`] between them.
    ties: bool,
    longest: usize,
    process: Option<Process>,
}

struct Process {
    child: Child,
    /// What it answers to [`MARK`].
    mark: String,
}

/// A line whose answer, followed by an empty one, ends the answer to a request.
const MARK: &str = "x";
/// Between the letters of one sound, where it was asked for.
pub(super) const TIE: char = '^';
/// A sentence longer than this, in phonemes, ends at its next comma, unless something else is wanted: attention is
/// quadratic, and the first audio waits for all of it.
pub(super) const MAX_SENTENCE: usize = 250;

impl Espeak {
    /// Starts the program with one of its voices, such as `en-us`.
    ///
    /// # Errors
    /// If it cannot be started or does not answer.
    pub fn start(program: &Path, voice: &str) -> Result<Self, EspeakError> {
        Self::start_as(program, voice, false)
    }

    /// The same; `ties`: with a `^` between the letters of one sound.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(program: &Path, voice: &str, ties: bool) -> Result<Self, EspeakError> {
        let (program, voice) = (program.to_owned(), voice.to_owned());
        let mut espeak = Self { program, voice, ties, longest: MAX_SENTENCE, process: None };
        espeak.process = Some(espeak.spawn()?);
        Ok(espeak)
    }

    /// A sentence longer than this, in phonemes, ends at its next comma.
    pub fn end_at_commas_after(&mut self, phonemes: usize) {
        self.longest = phonemes;
    }

    /// The sentences of a text without digits or markup.
    ///
    /// # Errors
    /// If the program is gone and cannot be replaced.
    pub fn sentences(&mut self, text: &str) -> Result<Vec<Sentence>, EspeakError> {
        let clauses = clauses(text);
        if clauses.is_empty() {
            return Ok(Vec::new());
        }
        let lines: Vec<&str> = clauses.iter().map(|(words, _)| words.as_str()).collect();
        Ok(sentence::sentences(&clauses, &self.phonemes(&lines)?, self.longest))
    }

    /// The phonemes of lines that hold no clause end, one for one.
    pub(super) fn phonemes(&mut self, lines: &[&str]) -> Result<Vec<String>, EspeakError> {
        match self.ask(lines) {
            Err(EspeakError::Missing { .. }) => Err(EspeakError::Dead),
            Err(EspeakError::Dead) => {
                tracing::warn!("espeak-ng is gone: starting it again");
                self.ask(lines)
            }
            Ok(answers) => Ok(answers),
        }
    }

    /// The process id, for tests that end it.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    fn spawn(&self) -> Result<Process, EspeakError> {
        let tie = format!("--tie={TIE}");
        let mut arguments = vec!["-q", "--ipa", "-b", "1", "-v", &self.voice];
        if self.ties {
            arguments.push(&tie);
        }
        let mut process = Process { child: Child::start(&self.program, &arguments)?, mark: String::new() };
        process.child.write(&format!("{MARK}\n\n"))?;
        process.mark = process.child.read()?;
        process.child.read()?;
        if process.mark.is_empty() { Err(EspeakError::Dead) } else { Ok(process) }
    }

    /// The answers to lines that hold no clause end, one for one.
    fn ask(&mut self, lines: &[&str]) -> Result<Vec<String>, EspeakError> {
        // Kept only if it has said all: what comes too late would be taken for the answer to what is asked next.
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.spawn()?,
        };
        let answers = lines.iter().map(|line| process.answer(line)).collect::<Result<_, _>>()?;
        self.process = Some(process);
        Ok(answers)
    }
}

impl Process {
    fn answer(&mut self, line: &str) -> Result<String, EspeakError> {
        self.child.write(&format!("{line}\n{MARK}\n\n"))?;
        let mut answer: Vec<String> = Vec::new();
        loop {
            let line = self.child.read()?;
            if line.is_empty() && answer.last() == Some(&self.mark) {
                answer.pop();
                break;
            }
            answer.push(line);
        }
        let spoken: Vec<String> = answer.iter().filter(|line| !line.is_empty()).map(|line| decompose(line)).collect();
        Ok(spoken.join(" "))
    }
}

/// Canonical decomposition of the letters that espeak-ng's IPA has composed, without its `(en)` language marks.
fn decompose(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut depth = 0_u32;
    for c in line.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            'ç' => out.push_str("c\u{327}"),
            'ã' => out.push_str("a\u{303}"),
            'ẽ' => out.push_str("e\u{303}"),
            'ĩ' => out.push_str("i\u{303}"),
            'õ' => out.push_str("o\u{303}"),
            'ũ' => out.push_str("u\u{303}"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_is_not_asked_again() {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/voice/echo.sh");
        let mut espeak = Espeak::start(Path::new(program), "any").expect("it starts");
        assert!(espeak.phonemes(&["late"]).is_err());
        assert_eq!(espeak.pid(), None);
        assert_eq!(espeak.phonemes(&["soon"]).expect("another answers"), ["soon"]);
        assert!(espeak.pid().is_some());
    }
}

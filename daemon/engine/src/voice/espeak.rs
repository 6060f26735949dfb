//! Plain words in; phonemes out, by the program `espeak-ng`, kept running.
//!
//! It is licensed under the GPL and therefore never linked: one line of text goes to its input, one line of phonemes
//! comes back. A process that dies or stops answering is replaced once per request. Never here: digits or markup, which
//! [`super::normalise`] has already turned into words.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

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

/// One sentence as the voice's network takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Phonemes and the punctuation that shapes their melody.
    pub phonemes: String,
    /// The punctuation at its end, if any.
    pub end: Option<char>,
}

/// A running `espeak-ng`.
pub struct Espeak {
    program: PathBuf,
    voice: String,
    longest: usize,
    process: Option<Process>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it answers to [`MARK`].
    mark: String,
}

/// A line whose answer, followed by an empty one, ends the answer to a request.
const MARK: &str = "x";
const PATIENCE: Duration = Duration::from_secs(3);
/// A line without punctuation is cut here, in bytes.
const MAX_LINE: usize = 250;
/// A sentence longer than this, in phonemes, ends at its next comma, unless something else is wanted: attention is
/// quadratic, and the first audio waits for all of it.
const MAX_SENTENCE: usize = 250;

impl Espeak {
    /// Starts the program with one of its voices, such as `en-us`.
    ///
    /// # Errors
    /// If it cannot be started or does not answer.
    pub fn start(program: &Path, voice: &str) -> Result<Self, EspeakError> {
        let (program, voice) = (program.to_owned(), voice.to_owned());
        let mut espeak = Self { program, voice, longest: MAX_SENTENCE, process: None };
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
        let answers = match self.ask(&lines) {
            Ok(answers) => answers,
            Err(EspeakError::Missing { .. }) => return Err(EspeakError::Dead),
            Err(EspeakError::Dead) => {
                tracing::warn!("espeak-ng is gone: starting it again");
                self.process = None;
                self.ask(&lines)?
            }
        };
        let mut sentences = Vec::new();
        let mut phonemes = String::new();
        for (answer, (_, end)) in answers.iter().zip(&clauses) {
            if answer.is_empty() {
                continue;
            }
            if !phonemes.is_empty() && !phonemes.ends_with(' ') {
                phonemes.push(' ');
            }
            phonemes.push_str(answer);
            phonemes.extend(end);
            match end {
                Some('.' | '!' | '?') => {
                    sentences.push(Sentence { phonemes: std::mem::take(&mut phonemes), end: *end })
                }
                Some(_) if phonemes.chars().count() > self.longest => {
                    sentences.push(Sentence { phonemes: std::mem::take(&mut phonemes), end: *end });
                }
                Some(_) => phonemes.push(' '),
                None => {}
            }
        }
        if !phonemes.is_empty() {
            let end = clauses.last().and_then(|(_, end)| *end);
            sentences.push(Sentence { phonemes, end });
        }
        Ok(sentences)
    }

    /// The process id, for tests that end it.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    fn spawn(&self) -> Result<Process, EspeakError> {
        let fault = |source| EspeakError::Missing { program: self.program.display().to_string(), source };
        let mut child = Command::new(&self.program)
            .args(["-q", "--ipa", "-b", "1", "-v", &self.voice])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fault)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(EspeakError::Dead);
        };
        let (send, lines) = bounded(64);
        std::thread::Builder::new()
            .name("espeak".into())
            .spawn(move || {
                // Ends when the process does, or when nobody wants its lines any more.
                for line in BufReader::new(output).lines() {
                    let Ok(line) = line else { break };
                    if send.send(line).is_err() {
                        break;
                    }
                }
            })
            .map_err(fault)?;
        let mut process = Process { child, input, lines, mark: String::new() };
        process.write(&format!("{MARK}\n\n"))?;
        process.mark = process.read()?;
        process.read()?;
        if process.mark.is_empty() { Err(EspeakError::Dead) } else { Ok(process) }
    }

    /// The answers to lines that hold no clause end, one for one.
    fn ask(&mut self, lines: &[&str]) -> Result<Vec<String>, EspeakError> {
        if self.process.is_none() {
            self.process = Some(self.spawn()?);
        }
        let process = self.process.as_mut().ok_or(EspeakError::Dead)?;
        lines.iter().map(|line| process.answer(line)).collect()
    }
}

impl Process {
    fn write(&mut self, text: &str) -> Result<(), EspeakError> {
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).map_err(|_| EspeakError::Dead)
    }

    fn read(&mut self) -> Result<String, EspeakError> {
        let line = self.lines.recv_timeout(PATIENCE).map_err(|_| EspeakError::Dead)?;
        Ok(line.trim().to_owned())
    }

    fn answer(&mut self, line: &str) -> Result<String, EspeakError> {
        self.write(&format!("{line}\n{MARK}\n\n"))?;
        let mut answer: Vec<String> = Vec::new();
        loop {
            let line = self.read()?;
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

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already; either way it is to be gone and waited for.
        if self.child.kill().is_err() || self.child.wait().is_err() {
            tracing::debug!("espeak-ng was gone already");
        }
    }
}

/// Cuts a text at punctuation that is followed by a space or the end, as espeak-ng would.
fn clauses(text: &str) -> Vec<(String, Option<char>)> {
    let mut clauses: Vec<(String, Option<char>)> = Vec::new();
    let mut words = String::new();
    let mut chars = text.chars().peekable();
    let mut close = |words: &mut String, end: Option<char>| {
        let spoken = words.trim();
        if spoken.chars().any(char::is_alphanumeric) {
            clauses.push((spoken.to_owned(), end));
        } else if let (Some(last), Some(_)) = (clauses.last_mut(), end) {
            // Punctuation after punctuation: the stronger one stays.
            if last.1.is_none() || matches!(end, Some('.' | '!' | '?')) && matches!(last.1, Some(',' | ';' | ':')) {
                last.1 = end;
            }
        }
        words.clear();
    };
    while let Some(c) = chars.next() {
        let ends = matches!(c, '.' | ',' | '!' | '?' | ';' | ':')
            && chars
                .peek()
                .is_none_or(|next| next.is_whitespace() || matches!(next, '.' | ',' | '!' | '?' | ';' | ':'));
        if ends {
            close(&mut words, Some(c));
        } else if words.len() > MAX_LINE && c.is_whitespace() || words.len() > 2 * MAX_LINE {
            close(&mut words, Some(','));
        } else if c.is_control() {
            words.push(' ');
        } else {
            words.push(c);
        }
    }
    close(&mut words, None);
    clauses
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
    fn clauses_end_where_a_speaker_pauses() {
        let cut =
            |text| clauses(text).into_iter().map(|(w, e)| format!("{w}|{}", e.unwrap_or('-'))).collect::<Vec<_>>();
        assert_eq!(cut("Hello, world. How are you?"), ["Hello|,", "world|.", "How are you|?"]);
        assert_eq!(cut("a.b and so on"), ["a.b and so on|-"]);
        assert_eq!(cut("well... , yes!?"), ["well|.", "yes|!"]);
        assert_eq!(cut(" .,!"), [""; 0]);
    }
}

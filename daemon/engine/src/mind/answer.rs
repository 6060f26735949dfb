//! Tokens' bytes to text that may be sent.
//!
//! Enters: bytes, in any pieces. Leaves: whole characters, none of which belongs to a stop text. Never here: a token.

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The answer goes on; the text may be empty.
    More(String),
    /// A stop text was met; this is the last of the answer.
    Stopped(String),
}

/// The text of one answer on its way out.
pub(super) struct Answer {
    stops: Vec<String>,
    /// Not yet whole characters.
    bytes: Vec<u8>,
    /// May be the beginning of a stop text.
    held: String,
}

impl Answer {
    /// An answer that ends at any of `stops`; empty ones mean nothing.
    #[must_use]
    pub(super) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, bytes: Vec::new(), held: String::new() }
    }

    /// Takes a token's bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Said {
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Said::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Said::More(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, when the answer ends without a stop text.
    pub(super) fn finish(&mut self) -> String {
        self.bytes.clear();
        std::mem::take(&mut self.held)
    }

    fn take_characters(&mut self) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let (valid, rest) = self.bytes.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.bytes = rest.to_vec();
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes = rest[broken..].to_vec();
                }
            }
        }
    }
}

/// How many bytes at the end of `text` begin `stop`, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .rev()
        .find(|&at| stop.get(..at).is_some_and(|start| text.ends_with(start)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stop_text_ends_the_answer_across_any_border() {
        let text = "Well… é, yes!\nCaller: no";
        for cut in 0..text.len() {
            let mut answer = Answer::new(&["\nCaller:".into(), "zebra".into(), String::new()]);
            let mut out = String::new();
            let mut stopped = false;
            for part in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                if stopped {
                    break;
                }
                match answer.push(part) {
                    Said::More(more) => out.push_str(&more),
                    Said::Stopped(last) => {
                        out.push_str(&last);
                        stopped = true;
                    }
                }
            }
            assert_eq!((out.as_str(), stopped), ("Well… é, yes!", true));
        }
    }

    proptest! {
        #[test]
        fn without_a_stop_everything_comes_out_in_order(text in "[ab é🙂]{0,30}", step in 1_usize..5) {
            let mut answer = Answer::new(&["aab".repeat(20), "🙂🙂🙂c".into()]);
            let mut out = String::new();
            for bytes in text.as_bytes().chunks(step) {
                match answer.push(bytes) {
                    Said::More(more) => out.push_str(&more),
                    Said::Stopped(_) => prop_assert!(false, "no stop text was in it"),
                }
            }
            out.push_str(&answer.finish());
            prop_assert_eq!(out, text);
        }
    }
}

//! Server-Sent Events taken apart (WHATWG HTML, §9.2.6). Enters: bytes, cut anywhere; leaves: events. Never here: what an
//! event means.

/// Bytes of one event; the longest is the list of all calls.
const MOST: usize = 16 << 20;

/// One event.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Event {
    /// Its kind; empty if it has none.
    pub(super) name: String,
    /// Where to go on from.
    pub(super) id: Option<String>,
    /// Lines, joined.
    pub(super) data: String,
}

/// An event does not end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("callboxd sends an event of more than {MOST} bytes; install one release of both")]
pub(super) struct TooLong;

/// Takes a stream apart.
#[derive(Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it ends no further line.
    returned: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes; what ends in them leaves.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for byte in bytes {
            let returned = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if returned => {}
                b'\n' | b'\r' => events.extend(self.end_of_line()),
                _ if self.line.len() + self.event.data.len() < MOST => self.line.push(*byte),
                _ => return Err(TooLong),
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, `retry`, or what another version says.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        chunks.iter().flat_map(|chunk| parser.take(chunk).expect("short")).collect()
    }

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.into(), id: id.map(Into::into), data: data.into() }
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let text = ": beat\n\nevent: snapshot\nid: 7-1\ndata: {\"calls\":[]}\n\nevent:x\ndata\ndata:  b\nretry: 5\n\nevent: y\n\ndata: z\n";
        let expected = [event("snapshot", Some("7-1"), "{\"calls\":[]}"), event("x", None, "\n b")];
        assert_eq!(all(&[text.as_bytes()]), expected, "without data it is no event, and without an empty line no end");
    }

    #[test]
    fn lines_end_in_three_ways_and_bad_letters_are_replaced() {
        for end in ["\n", "\r", "\r\n"] {
            let text = ["event: a", "data: 1", "", "data: 2", "", ""].join(end);
            assert_eq!(all(&[text.as_bytes()]), [event("a", None, "1"), event("", None, "2")], "{end:?}");
        }
        assert_eq!(all(&[b"data: \xff\n\n"]), [event("", None, "\u{fffd}")]);
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut parser = Parser::default();
        let mut line = b"data: ".to_vec();
        line.resize(MOST, b'x');
        assert_eq!(parser.take(&line), Ok(vec![]));
        assert_eq!(parser.take(b"xx"), Err(TooLong));
    }

    proptest! {
        #[test]
        fn bytes_cut_anywhere_give_the_same_events(
            text in "((event|id|data|retry|)(: ?|)[a-zé\u{0}:]{0,4}(\n|\r|\r\n)|\n|\r\n|\r){0,24}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = text.as_bytes();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(all(&pieces), all(&[bytes]));
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in any::<Vec<u8>>()) {
            all(&[&bytes]);
        }
    }
}

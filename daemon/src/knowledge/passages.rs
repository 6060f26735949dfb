//! Documents, cut into passages. Enters: Markdown, plain text or CSV; leaves: pieces of a few sentences, each with the
//! headings that it stands under, so that it can be understood alone. Never here: a choice of which are shown to the model.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::DocumentError;

/// Characters of a passage, at most: some 100 tokens, well below what the embedder reads.
pub(super) const LONGEST: usize = 400;

/// Characters from which on the next block is another passage: two matters in one are found by neither.
const ENOUGH: usize = 120;

/// What a document is written in, by the end of its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Markdown,
    Text,
    Table,
}

impl Kind {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "md" | "markdown" => Some(Self::Markdown),
            "txt" => Some(Self::Text),
            "csv" => Some(Self::Table),
            _ => None,
        }
    }
}

/// A piece of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// The headings that it stands under, the outermost first.
    pub(super) headings: String,
    /// On one line.
    pub(super) text: String,
}

/// Cuts a document.
pub(super) fn cut(kind: Kind, text: &str) -> Result<Vec<Piece>, DocumentError> {
    Ok(match kind {
        Kind::Markdown => markdown(text),
        Kind::Text => {
            let mut pieces = Pieces::default();
            text.replace("\r\n", "\n").split("\n\n").for_each(|paragraph| pieces.block(paragraph));
            pieces.finish()
        }
        Kind::Table => table(text)?,
    })
}

/// What is cut, as it grows: short blocks under the same headings share a piece.
#[derive(Default)]
struct Pieces {
    headings: Vec<(usize, String)>,
    done: Vec<Piece>,
    open: String,
}

impl Pieces {
    fn heading(&mut self, level: usize, text: &str) {
        self.close();
        self.headings.retain(|(of, _)| *of < level);
        self.headings.push((level, one_line(text)));
    }

    fn block(&mut self, text: &str) {
        if chars(&self.open) >= ENOUGH {
            self.close();
        }
        for part in sentences(&one_line(text)) {
            if !self.open.is_empty() && chars(&self.open) + chars(&part) >= LONGEST {
                self.close();
            }
            if !self.open.is_empty() {
                self.open.push(' ');
            }
            self.open.push_str(&part);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let headings: Vec<&str> = self.headings.iter().map(|(_, text)| text.as_str()).collect();
            self.done.push(Piece { headings: headings.join(", "), text: std::mem::take(&mut self.open) });
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        self.close();
        self.done
    }
}

fn markdown(text: &str) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let (mut block, mut cell, mut columns, mut row) = (String::new(), String::new(), Vec::new(), Vec::new());
    let mut in_table = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Text(text) | Event::Code(text) => if in_table { &mut cell } else { &mut block }.push_str(&text),
            Event::SoftBreak | Event::HardBreak => block.push(' '),
            Event::Start(Tag::Table(_)) => {
                in_table = true;
                columns.clear();
            }
            Event::End(TagEnd::TableCell) => row.push(std::mem::take(&mut cell)),
            Event::End(TagEnd::TableHead) => columns = std::mem::take(&mut row),
            Event::End(TagEnd::TableRow) => pieces.block(&told(&columns, &std::mem::take(&mut row))),
            Event::End(TagEnd::Table) => in_table = false,
            Event::End(TagEnd::Heading(level)) => pieces.heading(level as usize, &std::mem::take(&mut block)),
            // What an item says before its own list, and what stands between blocks.
            Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::CodeBlock) | Event::Start(Tag::List(_)) => {
                pieces.block(&std::mem::take(&mut block));
            }
            _ => {}
        }
    }
    pieces.finish()
}

/// Each row is a passage of its own: rows are alike, and one of them is wanted.
fn table(text: &str) -> Result<Vec<Piece>, DocumentError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let wrong = |error: csv::Error| DocumentError::Table(error.to_string());
    let columns: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
    let mut pieces = Vec::new();
    for row in reader.records() {
        let row: Vec<String> = row.map_err(wrong)?.iter().map(str::to_owned).collect();
        let mut row_pieces = Pieces::default();
        row_pieces.block(&told(&columns, &row));
        pieces.extend(row_pieces.finish());
    }
    Ok(pieces)
}

/// A row in words: `Room: Double; Price: 120 euros.`
fn told(columns: &[String], row: &[String]) -> String {
    let cells = row.iter().enumerate().filter(|(_, cell)| !cell.is_empty());
    let cells = cells.map(|(at, cell)| match columns.get(at).filter(|column| !column.is_empty()) {
        Some(column) => format!("{column}: {cell}"),
        None => cell.clone(),
    });
    let told = cells.collect::<Vec<_>>().join("; ");
    if told.is_empty() { told } else { format!("{told}.") }
}

/// Without what a prompt must not depend on, or be broken by.
fn one_line(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// A block as it is, or in sentences if it is too long for one passage, or in words if a sentence is.
fn sentences(block: &str) -> Vec<String> {
    if block.is_empty() {
        return Vec::new();
    }
    if chars(block) <= LONGEST {
        return vec![block.to_owned()];
    }
    let mut parts: Vec<String> = Vec::new();
    let mut ended = true;
    for word in block.split(' ') {
        let cut: String = word.chars().take(LONGEST).collect();
        match parts.last_mut() {
            Some(part) if !ended && chars(part) + 1 + chars(&cut) <= LONGEST => {
                part.push(' ');
                part.push_str(&cut);
            }
            _ => parts.push(cut),
        }
        ended = word.ends_with(['.', '!', '?']);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(name: &str, text: &str) -> Vec<(String, String)> {
        let pieces = cut(Kind::of(name).expect("known"), text).expect("cut");
        pieces.into_iter().map(|piece| (piece.headings, piece.text)).collect()
    }

    fn pair(headings: &str, text: &str) -> (String, String) {
        (headings.to_owned(), text.to_owned())
    }

    #[test]
    fn passages_stand_under_their_headings() {
        let text = "Welcome.\n\n# Rooms\n\nAll have a *bath*.\n\n## Double\n\n- a balcony\n- a view\n  - of the sea\n\n\
                    | Season | Price |\n|---|---|\n| Summer | 120 euros |\n\n# Garden\nOpen until\nnine.\n";
        assert_eq!(
            told("house.md", text),
            [
                pair("", "Welcome."),
                pair("Rooms", "All have a bath."),
                pair("Rooms, Double", "a balcony a view of the sea Season: Summer; Price: 120 euros."),
                pair("Garden", "Open until nine."),
            ]
        );
        assert_eq!(told("a.txt", "One.\r\nTwo.\n\nThree."), [pair("", "One. Two. Three.")]);
    }

    #[test]
    fn a_row_of_a_table_is_a_passage() {
        let text = "Room,Price\nSingle,80\n\"Double, sea view\",\"120\"\nSuite,,more\n";
        let rows = ["Room: Single; Price: 80.", "Room: Double, sea view; Price: 120.", "Room: Suite; more."];
        assert_eq!(told("prices.csv", text), rows.map(|row| pair("", row)));
    }

    #[test]
    fn long_blocks_are_cut_at_sentences() {
        let sentence = "This sentence has some words that say little. ";
        let pieces = told("a.txt", &sentence.repeat(30));
        assert!(pieces.len() > 2 && pieces.iter().all(|(_, text)| text.ends_with("little.")), "{pieces:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_written_no_passage_is_long_or_breaks_a_line(text in "(?s).{0,3000}", kind in 0..3) {
            let kind = [Kind::Markdown, Kind::Text, Kind::Table][kind as usize];
            for piece in cut(kind, &text).unwrap_or_default() {
                prop_assert!(!piece.text.is_empty() && chars(&piece.text) <= LONGEST);
                prop_assert!(!piece.text.chars().any(char::is_control));
            }
        }
    }
}

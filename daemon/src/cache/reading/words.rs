//! Text to words that can be compared. Enters: what a caller said, as the ears wrote it, or what an operator typed.
//! Leaves: words in lower case without their endings, several words that are one as one, numbers as digits. Never here: a
//! judgement.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::lexicon::{JOINED, NUMBERS, ORDINALS, SAME};
use crate::base::stem;

/// A word of a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    /// As it was said, in lower case, contractions written out.
    pub(super) plain: String,
    /// Without its ending, and the first of those that mean the same.
    pub(super) concept: String,
    /// Written with a capital, though it begins no sentence.
    pub(super) capital: bool,
    /// A sentence, or a part of one, ends with it.
    pub(super) last: bool,
}

impl Word {
    fn new(plain: &str, capital: bool) -> Self {
        Self { plain: plain.to_owned(), concept: concept(plain), capital, last: false }
    }

    /// A number, or a place in a row.
    pub(super) fn number(&self) -> Option<&str> {
        self.plain.starts_with(|c: char| c.is_ascii_digit()).then_some(self.plain.as_str())
    }
}

/// What stands for a word and for all that mean the same.
pub(super) fn concept(word: &str) -> String {
    static SAMES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let pairs = SAME.iter().flat_map(|group| group.iter().map(|word| (stem(word), stem(group[0]))));
        pairs.collect()
    });
    let stem = stem(word);
    SAMES.get(&stem).cloned().unwrap_or(stem)
}

/// A word and what is in front of it in a contraction, written out.
fn write_out(word: &str) -> Vec<&str> {
    match word {
        "can't" | "cannot" | "cant" => return vec!["can", "not"],
        "won't" | "wont" => return vec!["will", "not"],
        "shan't" => return vec!["shall", "not"],
        "dont" => return vec!["do", "not"],
        "isnt" => return vec!["is", "not"],
        "arent" => return vec!["are", "not"],
        "doesnt" => return vec!["does", "not"],
        "let's" => return vec!["let", "us"],
        "o'clock" => return vec![],
        _ => {}
    }
    if let Some(rest) = word.strip_suffix("n't") {
        return vec![rest, "not"];
    }
    for (ending, whole) in [("'re", "are"), ("'m", "am"), ("'ve", "have"), ("'ll", "will"), ("'d", "would")] {
        if let Some(rest) = word.strip_suffix(ending) {
            return vec![rest, whole];
        }
    }
    const IS: [&str; 11] = ["what", "where", "when", "who", "how", "why", "it", "that", "there", "here", "he"];
    match word.strip_suffix("'s") {
        Some(rest) if IS.contains(&rest) || rest == "she" => vec![rest, "is"],
        Some(rest) => vec![rest],
        None => vec![word.trim_matches('\'')],
    }
}

/// The words of a text, in order.
pub(super) fn words(text: &str) -> Vec<Word> {
    let text: String =
        text.chars().map(|c| if matches!(c, '\u{2019}' | '\u{2018}' | '`') { '\'' } else { c }).collect();
    let mut found: Vec<Word> = Vec::new();
    let mut begins = true;
    for piece in text.split_whitespace() {
        let dotted = piece.replace('.', "").to_lowercase();
        let parts: Vec<&str> = match dotted.trim_matches(|c: char| !c.is_alphanumeric()) {
            short @ ("am" | "pm" | "dr" | "mr" | "mrs" | "ms" | "eg" | "ie") if piece.contains('.') => {
                found.push(Word::new(short, false));
                // "Dr. Brown": the point ends no sentence.
                begins = false;
                continue;
            }
            _ => split(piece),
        };
        for part in parts {
            let lower = part.to_lowercase();
            let capital = !begins && part.starts_with(char::is_uppercase) && !is_i(&lower);
            for word in write_out(&lower) {
                match time(word) {
                    Some(parts) => found.extend(parts.iter().map(|part| Word::new(part, false))),
                    None if word.is_empty() => {}
                    None => found.push(Word::new(word, capital)),
                }
            }
            begins = false;
        }
        begins = begins || piece.ends_with(['.', '?', '!']);
        if let Some(word) = found.last_mut() {
            word.last = piece.ends_with(['.', '?', '!', ',', ';', ':']);
        }
    }
    if let Some(word) = found.last_mut() {
        word.last = true;
    }
    numbers(joined(found))
}

fn is_i(word: &str) -> bool {
    word == "i" || word.starts_with("i'")
}

/// The parts of a piece between spaces: words, and numbers with their points.
fn split(piece: &str) -> Vec<&str> {
    let number = piece.trim_matches(|c: char| !c.is_ascii_digit());
    if number.contains([':', '.', ',']) && number.chars().all(|c| c.is_ascii_digit() || ":.,".contains(c)) {
        return vec![number];
    }
    piece
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|part| part.chars().any(char::is_alphanumeric))
        .collect()
}

/// Digits as they are compared: "7.30" and "7:30" alike, "1,000" as a number; "7pm" as two words.
fn time(word: &str) -> Option<Vec<String>> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let end = word.find(|c: char| !c.is_ascii_digit() && !":.,".contains(c)).unwrap_or(word.len());
    let (digits, unit) = word.split_at(end);
    let thousands = digits.split(',').skip(1).all(|group| group.len() == 3) && digits.contains(',');
    let digits = if thousands { digits.replace(',', "") } else { digits.replace(['.', ','], ":") };
    let digits = digits.strip_suffix(":00").unwrap_or(&digits).to_owned();
    Some(match unit {
        "" => vec![digits],
        "st" | "nd" | "rd" | "th" => vec![format!("{digits}th")],
        unit => vec![digits, unit.to_owned()],
    })
}

/// Several words that are one, as one.
fn joined(words: Vec<Word>) -> Vec<Word> {
    /// Of each first word what may follow, the longest first, and what all of it is.
    type Ends = Vec<(Vec<&'static str>, &'static str)>;
    static JOINS: LazyLock<HashMap<&str, Ends>> = LazyLock::new(|| {
        let mut joins: HashMap<&str, Ends> = HashMap::new();
        for (several, one) in JOINED {
            let mut parts = several.split(' ');
            let first = parts.next().unwrap_or_default();
            joins.entry(first).or_default().push((parts.collect(), one));
        }
        joins.values_mut().for_each(|ends| ends.sort_by_key(|(parts, _)| std::cmp::Reverse(parts.len())));
        joins
    });
    let mut out = Vec::with_capacity(words.len());
    let mut rest = words.as_slice();
    while let [first, after @ ..] = rest {
        let follows = |parts: &[&str]| {
            parts.len() <= after.len() && parts.iter().zip(after).all(|(part, word)| *part == word.plain)
        };
        let ends = JOINS.get(first.plain.as_str()).into_iter().flatten();
        match ends.into_iter().find(|(parts, _)| follows(parts)) {
            Some((parts, one)) => {
                let (joined, left) = rest.split_at(1 + parts.len());
                let last = joined.last().is_some_and(|word| word.last);
                out.push(Word { last, ..Word::new(one, false) });
                rest = left;
            }
            None => {
                out.push(first.clone());
                rest = after;
            }
        }
    }
    out
}

/// Units of which "one" is no more than "a".
const UNITS: [&str; 8] = ["minute", "hour", "day", "night", "week", "month", "year", "person"];

/// Numbers in words as digits, clock times in words as clock times.
fn numbers(words: Vec<Word>) -> Vec<Word> {
    let value =
        |word: &str| NUMBERS.iter().chain(&[("one", 1)]).find(|(name, _)| *name == word).map(|(_, value)| *value);
    let mut out: Vec<Word> = Vec::with_capacity(words.len());
    let mut rest = words.as_slice();
    while let Some(first) = rest.first() {
        let next = rest.get(1).map_or("", |word| word.plain.as_str());
        if let Some((_, place)) = ORDINALS.iter().find(|(name, _)| *name == first.plain) {
            out.push(Word::new(&format!("{place}th"), false));
            rest = &rest[1..];
            continue;
        }
        let clock = match (first.plain.as_str(), next) {
            ("half", "past") => Some((0, 30)),
            ("quarter", "past") => Some((0, 15)),
            ("quarter", "to") => Some((1, 45)),
            _ => None,
        };
        let hour = rest.get(2).and_then(|word| value(&word.plain).or_else(|| word.plain.parse().ok()));
        if let (Some((less, minutes)), Some(hour)) = (clock, hour.filter(|hour| (1..=24).contains(hour))) {
            out.push(Word::new(&format!("{}:{minutes}", hour - less), false));
            rest = &rest[3..];
            continue;
        }
        let Some(mut sum) = value(&first.plain) else {
            out.push(first.clone());
            rest = &rest[1..];
            continue;
        };
        let mut used = 1;
        while let Some(word) = rest.get(used) {
            let and = word.plain == "and"
                && sum % 100 == 0
                && sum > 0
                && rest.get(used + 1).is_some_and(|word| value(&word.plain).is_some());
            match (word.plain.as_str(), value(&word.plain)) {
                ("hundred", _) if (1..=99).contains(&sum) => sum *= 100,
                ("thousand", _) if (1..=999).contains(&sum) => sum *= 1000,
                (_, Some(small)) if small < 10 && small > 0 && sum % 10 == 0 && sum >= 20 => sum += small,
                (_, Some(small)) if small < 100 && sum % 100 == 0 && sum >= 100 => sum += small,
                _ if and => {}
                _ => break,
            }
            used += 1;
        }
        rest = &rest[used..];
        // "One" is a number where it counts something, and else a word.
        let counts = |word: &Word| UNITS.contains(&stem(&word.plain).as_str());
        if sum == 1 && used == 1 && rest.first().is_none_or(|word| counts(word) || word.plain == "of") {
            out.push(first.clone());
        } else {
            out.push(Word::new(&sum.to_string(), false));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        words(text).into_iter().map(|word| word.plain).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_written_out_and_numbers_are_digits() {
        for (text, wanted) in [
            ("Isn't it Dr. Miller's turn?", "is not it dr miller turn"),
            ("I can't come at 7.30 p.m.", "i can not come at 7:30 pm"),
            ("at half past seven, or 8pm", "at 7:30 or 8 pm"),
            ("quarter to nine o'clock", "8:45"),
            ("one hundred and forty-two dollars, 1,000 francs", "142 dollars 1000 francs"),
            ("twenty one days, the 3rd or the fourth of March", "21 days the 3th or the 4th of march"),
            ("Is Wi-Fi free of charge?", "is wifi gratis"),
            ("for one night or two nights", "for one night or 2 nights"),
            ("line one to platform three", "line 1 to platform 3"),
            ("What's your e-mail?", "what is your email"),
        ] {
            assert_eq!(plain(text), wanted, "{text}");
        }
    }

    #[test]
    fn endings_make_no_difference() {
        for group in [
            &["close", "closes", "closed", "closing"][..],
            &["cancel", "cancelled", "cancelling", "cancels"],
            &["vaccinate", "vaccination", "vaccinated", "vaccinations"],
            &["library", "libraries"],
            &["child", "children", "kids"],
            &["stop", "stopped"],
            &["serve", "serving"],
            &["appointment", "appointments"],
        ] {
            let concepts: Vec<String> = group.iter().map(|word| concept(word)).collect();
            assert!(concepts.iter().all(|concept| *concept == concepts[0]), "{concepts:?}");
        }
        assert_ne!(concept("bill"), concept("bed"));
    }
}

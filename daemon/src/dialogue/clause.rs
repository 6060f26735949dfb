//! Streaming text → clauses that can be spoken one by one.
//!
//! Enters: text in pieces of any size. Leaves: clauses whose concatenation is that text, but for white space between
//! them. Never here: a cut inside a number, a time, a price, an abbreviation or a telephone number.
//!
//! The first words are cut as early as it sounds natural, because the caller waits for them; what follows is cut into
//! whole sentences where that can be, because they sound better, within a bound.

/// As long as fewer words than this were cut, the caller waits, and the early rules hold. A model that is slower than this
/// many words while they are spoken could not keep up anyway.
const EARLY: usize = 4;
/// Words before a comma that may be an early clause: "Yes," is one.
const FIRST_COMMA: usize = 1;
/// Words before a conjunction or preposition that may be an early clause.
const FIRST_SOFT: usize = 4;
/// Words after which an early clause is cut between any two that allow it.
const FIRST_ANY: usize = 10;
/// Words of a later clause before the end of a sentence cuts it: "Yes. No." is one.
const LATER_SENTENCE: usize = 3;
/// Words of a later clause before a comma cuts it.
const LATER_COMMA: usize = 8;
/// Characters of a later clause after which it is cut between any two words that allow it …
const LATER_ANY: usize = 180;
/// … and after which it is cut between any two at all.
const LONGEST: usize = 400;

/// Words that begin a new group of words, and do not cling to what stands before them ("of", "in" and "to" do).
const SOFT: &[&str] = &[
    "after", "and", "at", "because", "before", "between", "but", "during", "for", "from", "if", "or", "so", "through",
    "unless", "until", "when", "where", "which", "while", "who", "with", "without",
];

/// Words after which nothing may be cut.
const CLINGING: &[&str] = &[
    "a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "my", "no", "of", "on", "or", "our", "per", "the",
    "their", "to", "until", "was", "with", "your",
];

/// A full stop after these belongs to them.
const ABBREVIATIONS: &[&str] = &[
    "approx", "apt", "ave", "blvd", "co", "dept", "dr", "e.g", "etc", "ext", "fig", "i.e", "inc", "jr", "ltd", "mr",
    "mrs", "ms", "no", "prof", "rd", "rm", "sr", "st", "tel", "vs",
];

const NUMBERS: &[&str] = &[
    "zero",
    "oh",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
    "million",
    "point",
    "o'clock",
    "half",
    "quarter",
    "past",
    "double",
    "triple",
];

/// What numbers count: "five dollars and fifty cents" is one price.
const UNITS: &[&str] = &[
    "dollar", "dollars", "euro", "euros", "feet", "foot", "hour", "hours", "kilo", "kilos", "pound", "pounds", "year",
];

/// What ends a sentence, and what divides it, where no white space follows: in Chinese, Japanese and Hindi.
const STOPS: [char; 4] = ['。', '！', '？', '।'];
const PAUSES: [char; 2] = ['、', '，'];

/// What belongs to the mark before it.
const CLOSING: [char; 8] = ['」', '』', '）', '】', '》', '〉', '”', '’'];

/// Between these, a pause is within a number, or within a guess at one.
const NUMERALS: &str = "〇零一二三四五六七八九十百千万两";

/// Cuts one answer into clauses.
#[derive(Clone, Default)]
pub struct Cutter {
    rest: String,
    /// Words cut so far.
    words: usize,
}

impl Cutter {
    /// For text that is known as a whole: only sentences are cut.
    #[must_use]
    pub fn for_script() -> Self {
        Self { words: EARLY, ..Self::default() }
    }

    /// Takes the next piece of text, and hands every clause that it completes to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<String>) {
        self.rest.push_str(text);
        self.cut_all(false, out);
    }

    /// The text is complete: the rest is cut.
    pub fn finish(&mut self, out: &mut Vec<String>) {
        self.cut_all(true, out);
        let rest = std::mem::take(&mut self.rest);
        if !rest.trim().is_empty() {
            self.words += count(&words(&rest));
            out.push(rest.trim().to_owned());
        }
    }

    fn cut_all(&mut self, done: bool, out: &mut Vec<String>) {
        while let Some(end) = next_cut(&self.rest, self.words < EARLY, done) {
            let clause: String = self.rest.drain(..end).collect();
            self.words += count(&words(&clause));
            out.push(clause.trim().to_owned());
        }
    }
}

/// Whether there is anything in a clause to be said.
pub(super) fn is_speakable(clause: &str) -> bool {
    clause.chars().any(char::is_alphanumeric)
}

/// The clause without the marks of a markdown that the model was asked not to write.
pub(super) fn without_markup(clause: &str) -> String {
    clause.chars().filter(|c| !matches!(c, '*' | '#' | '`' | '_' | '|')).collect::<String>().trim().to_owned()
}

/// A word with its place in the text; where words are not divided by white space, all of them up to the next mark.
struct Word<'a> {
    text: &'a str,
    end: usize,
    /// White space or another word follows, so nothing can be added to it.
    whole: bool,
    /// A line ends after it.
    breaks: bool,
}

impl Word<'_> {
    /// How many words it counts as. Where there is no white space, a word is about two characters.
    fn count(&self) -> usize {
        (self.text.chars().filter(|c| is_unspaced(*c)).count() / 2).max(1)
    }
}

fn count(words: &[Word<'_>]) -> usize {
    words.iter().map(Word::count).sum()
}

/// Kana, and Chinese characters.
fn is_unspaced(c: char) -> bool {
    matches!(c, '々' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// Whether a pause, seen from what stands before it, divides a sentence.
fn divides(pause: char, before: Option<char>) -> bool {
    PAUSES.contains(&pause) && !before.is_some_and(|c| c.is_numeric() || NUMERALS.contains(c))
}

/// The part of a word up to the first mark that needs no white space after it, and what stands after that.
fn at_mark(word: &str) -> Option<(&str, &str)> {
    let mut before = None;
    for (at, c) in word.char_indices() {
        if STOPS.contains(&c) || divides(c, before) {
            let is_mark = |c: char| STOPS.contains(&c) || PAUSES.contains(&c) || CLOSING.contains(&c);
            let (_, rest) = word.split_at(at);
            let after = rest.trim_start_matches(is_mark);
            return (!after.is_empty()).then(|| word.split_at(word.len() - after.len()));
        }
        before = Some(c);
    }
    None
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let start = text.len() - rest.len();
        let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (mut word, after) = rest.split_at(length);
        let next = after.trim_start();
        let (space, _) = after.split_at(after.len() - next.len());
        while let Some((part, others)) = at_mark(word) {
            let end = start + length - others.len();
            words.push(Word { text: part, end, whole: true, breaks: false });
            word = others;
        }
        words.push(Word { text: word, end: start + length, whole: !space.is_empty(), breaks: space.contains('\n') });
        rest = next;
    }
    words
}

/// Where to cut, as an offset; `None` if more text is needed to know.
fn next_cut(text: &str, first: bool, done: bool) -> Option<usize> {
    let words = words(text);
    let (mut speakable, mut count) = (false, 0);
    for (index, word) in words.iter().enumerate() {
        speakable |= is_speakable(word.text);
        count += word.count();
        let next = words.get(index + 1);
        if !speakable || (next.is_none() && done) {
            continue;
        }
        match judge(word, next, count, first, done) {
            Verdict::Cut => return Some(word.end),
            Verdict::Wait => return None,
            Verdict::Pass => {}
        }
        let (Some(next), true) = (next, word.whole) else { continue };
        if between(word, next, count, first, done) {
            return Some(word.end);
        }
    }
    None
}

enum Verdict {
    Cut,
    Pass,
    /// It depends on what comes next.
    Wait,
}

/// Whether the punctuation at the end of a word, with which there are `count`, ends a clause.
fn judge(word: &Word<'_>, next: Option<&Word<'_>>, count: usize, first: bool, done: bool) -> Verdict {
    if word.breaks {
        return Verdict::Cut;
    }
    let core = word.text.trim_end_matches(['"', '\'', ')', ']', '*', '”', '’', '_']).trim_end_matches(CLOSING);
    let comma = if first { FIRST_COMMA } else { LATER_COMMA };
    let sentence = if first { 1 } else { LATER_SENTENCE };
    let mut backwards = core.chars().rev();
    match (backwards.next(), backwards.next()) {
        // A comma after a letter is at the end of its word: it cannot be a thousands separator.
        (Some(','), Some(before)) if before.is_alphabetic() && !is_number(core) => {
            if count >= comma {
                Verdict::Cut
            } else {
                Verdict::Pass
            }
        }
        (Some(pause), before) if divides(pause, before) => {
            if count >= comma {
                Verdict::Cut
            } else {
                Verdict::Pass
            }
        }
        _ if !word.whole => Verdict::Pass,
        (Some('!' | '?' | ';' | '…' | '。' | '！' | '？' | '।'), _) => {
            if count >= sentence {
                Verdict::Cut
            } else {
                Verdict::Pass
            }
        }
        (Some('.'), _) => match next {
            _ if count < sentence => Verdict::Pass,
            // "1. First": the mark of a list, not a sentence.
            _ if count == 1 && is_number(core) => Verdict::Pass,
            _ if !is_abbreviation(core) => Verdict::Cut,
            None => Verdict::Wait,
            Some(next) if ends_sentence(core, next.text) => Verdict::Cut,
            Some(_) => Verdict::Pass,
        },
        (Some(',' | ':' | '—' | '–'), _) if count >= comma => {
            if !is_number(core) {
                return Verdict::Cut;
            }
            match next {
                Some(next) if is_number(next.text) => Verdict::Pass,
                Some(next) if next.whole || done => Verdict::Cut,
                _ => Verdict::Wait,
            }
        }
        _ => Verdict::Pass,
    }
}

/// Whether to cut between two words without punctuation.
fn between(word: &Word<'_>, next: &Word<'_>, count: usize, first: bool, done: bool) -> bool {
    if word.end >= LONGEST {
        return true;
    }
    if !(next.whole || done) || is_number(word.text) || clings(word.text) || is_short_form(word.text) {
        return false;
    }
    let (before, after) = (bare(word.text), bare(next.text));
    if after == "and" && UNITS.contains(&before.as_str()) {
        return false;
    }
    let soft = SOFT.contains(&after.as_str());
    if first {
        (count >= FIRST_SOFT && soft) || (count >= FIRST_ANY && !is_number(next.text))
    } else {
        word.end >= LATER_ANY && (soft || !is_number(next.text))
    }
}

/// Whether an abbreviation's full stop also ends the sentence, seen from the word after it.
fn ends_sentence(core: &str, next: &str) -> bool {
    let first = next.chars().find(|c| c.is_alphanumeric());
    match bare(core).as_str() {
        "no" => !first.is_some_and(|c| c.is_ascii_digit()),
        "a.m" | "p.m" | "etc" | "inc" | "ltd" => first.is_some_and(char::is_uppercase),
        _ => false,
    }
}

fn is_abbreviation(core: &str) -> bool {
    let bare = bare(core);
    let letters = bare.chars().filter(|c| c.is_alphabetic()).count();
    ABBREVIATIONS.contains(&bare.as_str())
        // Initials, "U.S.", "a.m.": single letters with full stops. "I" ends a sentence more often than a name.
        || (letters > 0 && bare != "i" && bare.split('.').all(|part| part.chars().count() <= 1))
}

/// An abbreviation with its full stop.
fn is_short_form(word: &str) -> bool {
    word.ends_with('.') && is_abbreviation(word)
}

fn is_number(word: &str) -> bool {
    let bare = bare(word);
    word.contains(|c: char| c.is_ascii_digit() || "$€£".contains(c))
        || bare.split('-').any(|part| NUMBERS.contains(&part))
}

fn clings(word: &str) -> bool {
    CLINGING.contains(&bare(word).as_str())
}

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase().replace('’', "'")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a model would send it: tokens begin with their space.
    fn cut(text: &str) -> Vec<String> {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for piece in text.split_inclusive(|c: char| !c.is_alphanumeric()) {
            cutter.push(piece, &mut out);
        }
        cutter.finish(&mut out);
        out
    }

    #[test]
    fn clauses_end_where_a_speaker_would_breathe() {
        for (text, wanted) in [
            ("Yes. We open at nine thirty.", &["Yes.", "We open at nine thirty."][..]),
            (
                "Breakfast is served daily from seven to ten thirty.",
                &["Breakfast is served daily", "from seven to ten thirty."],
            ),
            (
                "Yes, parking is free for guests. It is behind the house.",
                &["Yes,", "parking is free for guests.", "It is behind the house."],
            ),
            (
                "You pay $1,200.50 a week, plus tax of 9.5 percent.",
                &["You pay $1,200.50 a week,", "plus tax of 9.5 percent."],
            ),
            ("Our number is 555, 0123, 44. Call us.", &["Our number is 555, 0123, 44.", "Call us."]),
            (
                "Call five five five, oh one two three, any day.",
                &["Call five five five, oh one two three,", "any day."],
            ),
            (
                "Dr. St. James sees you at 9.30 a.m. on Mr. Hall's day.",
                &["Dr. St. James sees you", "at 9.30 a.m. on Mr. Hall's day."],
            ),
            (
                "It opens at 9 a.m. We are at No. 5 Main St. today.",
                &["It opens at 9 a.m.", "We are at No. 5 Main St. today."],
            ),
            ("No. We do not.", &["No.", "We do not."]),
            (
                "One room costs one hundred and five dollars and a half.",
                &["One room costs one hundred and five dollars and a half."],
            ),
            ("First line\nSecond line", &["First line", "Second line"]),
            ("See harborview.com or www.example.org.", &["See harborview.com or www.example.org."]),
            ("...", &["..."]),
        ] {
            assert_eq!(cut(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn chinese_japanese_and_hindi_need_no_white_space() {
        for (text, wanted) in [
            (
                "はい、朝食は毎日七時からです。駐車場は無料です。",
                &["はい、", "朝食は毎日七時からです。", "駐車場は無料です。"][..],
            ),
            (
                "您好，早餐七点开始。停车免费，就在酒店后面。需要帮忙吗？",
                &["您好，", "早餐七点开始。", "停车免费，就在酒店后面。", "需要帮忙吗？"],
            ),
            (
                "हाँ। नाश्ता सात बजे शुरू होता है।पार्किंग होटल के पीछे है।",
                &["हाँ।", "नाश्ता सात बजे शुरू होता है।", "पार्किंग होटल के पीछे है।"],
            ),
            ("「もう満室です！？」少々お待ちください。", &["「もう満室です！？」", "少々お待ちください。"]),
            ("二、三日で1，200円か３，０００円です。", &["二、三日で1，200円か３，０００円です。"]),
            ("Breakfast（朝食）is at 7。Parking is free。", &["Breakfast（朝食）is at 7。", "Parking is free。"]),
        ] {
            assert_eq!(cut(text), wanted, "{text:?}");
        }
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        cutter.push("はい、", &mut out);
        assert_eq!(out, ["はい、"], "without waiting for what follows");
    }

    #[test]
    fn the_first_clause_needs_no_full_stop() {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for token in ["Break", "fast", " is", " served", " every", " morning"] {
            cutter.push(token, &mut out);
        }
        assert!(out.is_empty());
        cutter.push(",", &mut out);
        assert_eq!(out, ["Breakfast is served every morning,"], "without waiting for the token after the comma");
    }

    #[test]
    fn endless_text_is_cut_all_the_same() {
        let clauses = cut(&"one ".repeat(1000));
        assert!(clauses.len() > 5 && clauses.iter().all(|clause| clause.len() <= LONGEST + 5));
    }

    fn squeezed(text: &str) -> String {
        text.chars().filter(|c| !c.is_whitespace()).collect()
    }

    proptest! {
        #[test]
        fn no_text_is_lost_or_doubled_however_it_arrives(
            text in prop_oneof![
                ".{0,200}",
                "([a-zA-Z$0-9]{1,9}[ .,!?:;\n—)\"']{1,2}){0,60}",
                "([あ-んa-z0-9一二三、，。！？।」 ]{1,9}){0,30}",
                "((the|from|nine|thirty|a\\.m\\.|Mr\\.|5|555-0101|\\$1,200|and|room)[ ,.]{1,2}){0,60}",
            ],
            step in 1_usize..9,
        ) {
            let (mut cutter, mut out) = (Cutter::default(), Vec::new());
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(step) {
                cutter.push(&piece.iter().collect::<String>(), &mut out);
            }
            cutter.finish(&mut out);
            prop_assert_eq!(squeezed(&out.concat()), squeezed(&text));
            prop_assert!(out.iter().all(|clause| !clause.trim().is_empty()));
            for pair in out.windows(2) {
                let (end, start) = (pair[0].chars().last(), pair[1].chars().next());
                // Words of this text are short, so nothing of it is cut for its length inside a number.
                let digits = end.is_some_and(|c| c.is_ascii_digit()) && start.is_some_and(|c| c.is_ascii_digit());
                prop_assert!(!digits || pair[0].len() >= LONGEST || text.contains('\n'), "{:?}", pair);
            }
        }
    }
}

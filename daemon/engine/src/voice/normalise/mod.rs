//! Text as a person writes it in; the words that are said, with commas and full stops, out.
//!
//! What a telephone agent says: times, money, dates, telephone numbers, addresses, room numbers, units, ranges,
//! abbreviations, addresses of the web. Rules look at a token and its neighbours, the first that fits wins ([`RULES`]).
//! No digit is left, nothing panics, and the output is at most forty times the input. English.

mod clean;
mod numbers;
mod quantities;
mod times;
mod words;

use quantities as q;

/// More is cut off: it would be minutes of speech.
const MAX_INPUT: usize = 8192;

/// A token without its outer punctuation, and what stood at its end.
#[derive(Clone, Copy)]
struct Token<'a> {
    core: &'a str,
    end: &'a str,
}

/// What a rule makes of the tokens before it: the words, and how many tokens they stand for.
type Spoken = Option<(String, usize)>;
/// A rule sees all tokens and the place.
type Rule = fn(&[Token], usize) -> Spoken;

const RULES: [Rule; 16] = [
    words::web,
    times::clock_range,
    times::clock,
    q::phone,
    times::iso_date,
    times::month_day,
    q::money,
    q::fraction,
    times::slash_date,
    words::address,
    words::labelled,
    times::day_range,
    q::range,
    q::measure,
    words::abbreviation,
    q::plain,
];

/// A text of another language without what is not spoken: its words and digits are left to who reads that language.
pub(super) fn plain(text: &str) -> String {
    clean::clean(&clean::punctuated(cut(text)))
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_INPUT).map_or(text, |(at, _)| text.split_at(at).0)
}

/// Writes a text out as it is said.
pub fn normalise(text: &str) -> String {
    let cleaned = clean::clean(cut(text));
    let tokens: Vec<Token> = cleaned.split_whitespace().map(token).collect();
    let mut out = String::with_capacity(cleaned.len() * 2);
    let mut at = 0;
    while at < tokens.len() {
        let (words, used) =
            RULES.iter().find_map(|rule| rule(&tokens, at)).unwrap_or_else(|| (words::fallback(tokens[at].core), 1));
        let used = used.clamp(1, tokens.len() - at);
        let last = tokens[at + used - 1];
        let abbreviated =
            last.end == "." && at + used < tokens.len() && words::swallows_stop(last.core, tokens[at + used].core);
        // Of `p.m.,` only the comma is punctuation.
        let end =
            last.end.strip_prefix('.').filter(|rest| rest.starts_with([',', ';', ':', '?', '!'])).unwrap_or(last.end);
        push(&mut out, &words, if abbreviated { "" } else { end });
        at += used;
    }
    // Whatever no rule has seen.
    if out.bytes().any(|b| b.is_ascii_digit()) { words::spell_digits(&out) } else { out }
}

fn token(text: &str) -> Token<'_> {
    let core = text.trim_end_matches(['.', ',', '!', '?', ';', ':']);
    let end = text.strip_prefix(core).unwrap_or_default();
    Token { core: core.trim_start_matches(['.', ',', '!', '?', ';', ':']), end }
}

fn push(out: &mut String, words: &str, end: &str) {
    let words = words.trim();
    if !words.is_empty() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(words);
    }
    // One mark is enough; the strongest.
    let mark = ['?', '!', '.', ';', ':', ','].into_iter().find(|&mark| end.contains(mark));
    if let Some(mark) = mark.filter(|_| !out.is_empty()) {
        match out.chars().next_back() {
            Some(',' | ';' | ':') => {
                out.pop();
                out.push(mark);
            }
            Some('.' | '!' | '?') => {}
            _ => out.push(mark),
        }
    }
}

/// The token at `at`, or an empty one.
fn core<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.core)
}

//! Abbreviations, postal and web addresses, room numbers, codes, and what is left of any token.

use super::numbers::{all_digits, cardinal, digits, house};
use super::{Spoken, Token, core};

const TOP_LEVEL: [&str; 18] = [
    "com", "org", "net", "io", "gov", "edu", "co", "us", "uk", "de", "info", "health", "eu", "biz", "ca", "app", "ai",
    "dev",
];

/// `joe@example.com`, `www.example.com/help`, `https://example.org`.
pub(super) fn web(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    let bare = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let host = bare.unwrap_or(text).split('/').next()?;
    let top = host.rsplit_once('.').map(|(_, top)| top);
    let is_web = bare.is_some()
        || host.starts_with("www.")
        || text.contains('@') && text.len() > 2
        || top.is_some_and(|top| {
            TOP_LEVEL.contains(&top.to_ascii_lowercase().as_str()) && host.starts_with(char::is_alphanumeric)
        });
    if !is_web {
        return None;
    }
    let mut out = String::new();
    for c in bare.unwrap_or(text).trim_end_matches('/').chars() {
        match c {
            '.' => out.push_str(" dot "),
            '@' => out.push_str(" at "),
            '/' => out.push_str(" slash "),
            '-' => out.push_str(" dash "),
            '_' => out.push_str(" underscore "),
            '0'..='9' => {
                out.push(' ');
                out.push_str(&digits(c.encode_utf8(&mut [0; 4])));
                out.push(' ');
            }
            c if c.is_alphabetic() => out.push(c),
            _ => out.push(' '),
        }
    }
    let words: Vec<&str> = out.split_whitespace().map(|word| if word == "www" { "W W W" } else { word }).collect();
    Some((words.join(" "), 1))
}

const STREETS: [(&str, &str); 20] = [
    ("St", "Street"),
    ("Ave", "Avenue"),
    ("Rd", "Road"),
    ("Blvd", "Boulevard"),
    ("Dr", "Drive"),
    ("Ln", "Lane"),
    ("Ct", "Court"),
    ("Pl", "Place"),
    ("Hwy", "Highway"),
    ("Pkwy", "Parkway"),
    ("Sq", "Square"),
    ("Ter", "Terrace"),
    ("Street", "Street"),
    ("Avenue", "Avenue"),
    ("Road", "Road"),
    ("Boulevard", "Boulevard"),
    ("Drive", "Drive"),
    ("Lane", "Lane"),
    ("Court", "Court"),
    ("Way", "Way"),
];
const COMPASS: [(&str, &str); 8] = [
    ("N", "North"),
    ("S", "South"),
    ("E", "East"),
    ("W", "West"),
    ("NE", "Northeast"),
    ("NW", "Northwest"),
    ("SE", "Southeast"),
    ("SW", "Southwest"),
];

fn lookup(table: &[(&str, &'static str)], text: &str) -> Option<&'static str> {
    table.iter().find(|(written, _)| *written == text).map(|&(_, said)| said)
}

/// `1450 Maple St.`, `22 N Main Street`, `300 5th Ave`: number, at most four words, kind of street.
pub(super) fn address(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    if !all_digits(text) || text.len() > 5 || !tokens[at].end.is_empty() {
        return None;
    }
    let mut words = vec![house(text.parse().ok()?)];
    for (used, token) in tokens.get(at + 1..)?.iter().enumerate().take(5) {
        let name = token.core;
        if used > 0
            && let Some(street) = lookup(&STREETS, name)
        {
            words.push(street.to_owned());
            return Some((words.join(" "), used + 2));
        }
        let direction = lookup(&COMPASS, name);
        let ordinal = ["st", "nd", "rd", "th"].iter().any(|end| name.strip_suffix(end).is_some_and(all_digits));
        let capital =
            name.starts_with(|c: char| c.is_uppercase()) && name.chars().all(|c| c.is_alphabetic() || c == '\'');
        if !(direction.is_some() || ordinal || capital) || !token.end.is_empty() && direction.is_none() {
            return None;
        }
        words.push(match direction {
            Some(direction) => direction.to_owned(),
            None if ordinal => super::quantities::plain(&[*token], 0)?.0,
            None => name.to_owned(),
        });
    }
    None
}

/// Words whose number is a name, said in pairs, and words whose number is a code, said digit by digit.
const NUMBERED: [(&str, &str); 16] = [
    ("room", "room"),
    ("rm", "room"),
    ("suite", "suite"),
    ("ste", "suite"),
    ("apartment", "apartment"),
    ("apt", "apartment"),
    ("unit", "unit"),
    ("flight", "flight"),
    ("gate", "gate"),
    ("route", "route"),
    ("highway", "highway"),
    ("bus", "bus"),
    ("building", "building"),
    ("bldg", "building"),
    ("box", "box"),
    ("interstate", "interstate"),
];
const CODED: [(&str, &str); 13] = [
    ("code", "code"),
    ("pin", "pin"),
    ("extension", "extension"),
    ("ext", "extension"),
    ("zip", "zip"),
    ("confirmation", "confirmation"),
    ("reference", "reference"),
    ("account", "account"),
    ("order", "order"),
    ("ticket", "ticket"),
    ("case", "case"),
    ("policy", "policy"),
    ("invoice", "invoice"),
];

/// `Room 204`, `Suite 200`, `ext. 42`, `code 4821`, `account number 12345`, `IL 62704`, `AB12CD`.
pub(super) fn labelled(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    let lower = text.to_ascii_lowercase();
    let next = core(tokens, at + 1).trim_start_matches('#');
    let joined = matches!(tokens[at].end, "" | "." | ":");
    if joined && let Some(label) = lookup(&NUMBERED, &lower) {
        let label = if label == lower { text } else { label };
        if all_digits(next) && next.len() <= 5 && !next.starts_with('0') {
            return Some((format!("{label} {}", house(next.parse().ok()?)), 2));
        }
        return code(next).map(|said| (format!("{label} {said}"), 2));
    }
    if joined && let Some(label) = lookup(&CODED, &lower) {
        let label = if label == lower { text } else { label };
        let (number, skip) = match next.to_ascii_lowercase().as_str() {
            "number" | "no" | "is" | "code" => (core(tokens, at + 2).trim_start_matches('#'), 1),
            _ => (next, 0),
        };
        let between = if skip == 1 && next != "no" { format!(" {next}") } else { String::new() };
        let said = if all_digits(number) && number.len() <= 20 { Some(spaced(number)) } else { code(number) };
        return said.map(|said| (format!("{label}{between} {said}"), 2 + skip));
    }
    let state = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) && tokens[at].end.is_empty();
    if state && next.len() == 5 && all_digits(next) {
        let letters: Vec<String> = text.chars().map(letter).collect();
        return Some((format!("{} {}", letters.join(" "), digits(next)), 2));
    }
    code(text).map(|said| (said, 1))
}

/// Digit by digit; from six digits on, with a pause after each three.
fn spaced(number: &str) -> String {
    let groups: Vec<String> = match number.len() {
        0..=5 => vec![digits(number)],
        _ => number.as_bytes().chunks(3).map(|group| digits(&String::from_utf8_lossy(group))).collect(),
    };
    groups.join(", ")
}

/// A letter by its name. A lone `A` would be said as the article; espeak-ng says "eh" as the letter.
fn letter(c: char) -> String {
    if c == 'A' { "eh".to_owned() } else { c.to_string() }
}

/// Longer runs of capital letters are words.
const MAX_SPELT: usize = 3;

/// Capital letters and digits mixed, such as `B12`, `AB-12CD`.
fn code(text: &str) -> Option<String> {
    let letters = text.bytes().filter(u8::is_ascii_uppercase).count();
    let figures = text.bytes().filter(u8::is_ascii_digit).count();
    if letters == 0
        || figures == 0
        || letters + figures + text.bytes().filter(|b| *b == b'-').count() != text.len()
        || text.len() > 24
    {
        return None;
    }
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches(|d: char| d.is_ascii_digit()).len();
        let (head, tail) = rest.split_at(run.max(1));
        match run {
            0 if c == '-' => {}
            0 => out.push(letter(c)),
            1..=2 if !head.starts_with('0') => out.push(cardinal(head.parse().ok()?)),
            _ => out.push(digits(head)),
        }
        rest = tail;
    }
    if text.split(|c: char| !c.is_ascii_uppercase()).any(|run| run.len() > MAX_SPELT) {
        return None;
    }
    Some(out.join(" "))
}

/// Written without its stop; said; whether it stands only before a name or number.
const ABBREVIATIONS: [(&str, &str); 34] = [
    ("Mr", "Mister"),
    ("Mrs", "Missus"),
    ("Ms", "Miss"),
    ("Prof", "Professor"),
    ("Jr", "Junior"),
    ("Sr", "Senior"),
    ("e.g", "for example,"),
    ("eg", "for example,"),
    ("i.e", "that is,"),
    ("etc", "et cetera"),
    ("vs", "versus"),
    ("approx", "approximately"),
    ("appt", "appointment"),
    ("appts", "appointments"),
    ("dept", "department"),
    ("Dept", "Department"),
    ("Inc", "Incorporated"),
    ("Ltd", "Limited"),
    ("Corp", "Corporation"),
    ("tel", "telephone"),
    ("Tel", "Telephone"),
    ("ext", "extension"),
    ("Ext", "extension"),
    ("hrs", "hours"),
    ("hr", "hour"),
    ("mins", "minutes"),
    ("min", "minutes"),
    ("Ave", "Avenue"),
    ("Blvd", "Boulevard"),
    ("Rd", "Road"),
    ("Hwy", "Highway"),
    ("w/", "with"),
    ("w/o", "without"),
    ("Mt", "Mount"),
];

/// `Dr. Smith`, `Main St.`, `St. Mary`, `No. 5`, `a.m.`, `e.g.`.
pub(super) fn abbreviation(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    let next = core(tokens, at + 1);
    let name_follows = next.starts_with(|c: char| c.is_uppercase()) && matches!(tokens[at].end, "" | ".");
    let after_name =
        at > 0 && tokens[at - 1].end.is_empty() && core(tokens, at - 1).starts_with(|c: char| c.is_uppercase());
    let said = match text {
        "Dr" if name_follows && !after_name => "Doctor",
        "Dr" if after_name => "Drive",
        "Dr" => "Doctor",
        "St" if name_follows && !after_name => "Saint",
        "St" if after_name => "Street",
        "No" | "no" | "Nos" if tokens[at].end == "." && next.starts_with(|c: char| c.is_ascii_digit()) => "number",
        "am" if tokens[at].end == "." && at > 0 && core(tokens, at - 1).starts_with(|c: char| c.is_ascii_digit()) => {
            "AM"
        }
        "a.m" | "A.M" => "AM",
        "p.m" | "P.M" | "pm" | "PM" => "PM",
        text => lookup(&ABBREVIATIONS, text)?,
    };
    Some((said.to_owned(), 1))
}

/// Whether the stop after this token belongs to an abbreviation rather than to a sentence, before `next`.
pub(super) fn swallows_stop(text: &str, next: &str) -> bool {
    const TITLES: [&str; 9] = ["Dr", "Mr", "Mrs", "Ms", "Prof", "St", "No", "no", "Mt"];
    let lower = next.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit());
    let measure = super::quantities::unit(text).is_some();
    let short = text.contains('.')
        || lookup(&ABBREVIATIONS, text).is_some()
        || lookup(&STREETS, text).is_some_and(|said| said != text);
    let dated =
        super::times::day_name(text).is_some() || text.len() <= 4 && text.starts_with(|c: char| c.is_uppercase());
    let label =
        lookup(&NUMBERED, &text.to_ascii_lowercase()).or_else(|| lookup(&CODED, &text.to_ascii_lowercase())).is_some();
    TITLES.contains(&text) || lower && (short || dated || label || measure)
}

/// Letters and signs of a token that no rule knows; digits one by one or as numbers.
pub(super) fn fallback(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let word = match c {
            '&' => " and ",
            '%' => " percent ",
            '@' => " at ",
            '+' => " plus ",
            '=' => " equals ",
            '°' => " degrees ",
            '$' => " dollars ",
            '€' => " euros ",
            '£' => " pounds ",
            '/' if out.ends_with(char::is_alphabetic) && !matches!(text, "and/or" | "And/or") => " or ",
            '/' | '_' | '#' => " ",
            // A hyphen between letters stays; it shapes the stress.
            '-' if !(out.ends_with(char::is_alphabetic) && chars.peek().is_some_and(|c| c.is_alphabetic())) => " ",
            '.' if chars.peek().is_some_and(char::is_ascii_digit) && out.ends_with(' ') => " point ",
            '.' | ',' | ':' | ';' | '!' | '?' if chars.peek().is_some_and(|c| c.is_alphabetic()) && out.len() > 2 => {
                out.push(if c == '.' { ' ' } else { ',' });
                " "
            }
            c => {
                if c.is_ascii_digit() {
                    let mut run = c.to_string();
                    while let Some(next) = chars.next_if(char::is_ascii_digit) {
                        run.push(next);
                    }
                    let said = match run.parse() {
                        Ok(n) if run.len() <= 2 && !run.starts_with('0') => cardinal(n),
                        _ => digits(&run),
                    };
                    out.push_str(&format!(" {said} "));
                } else if c.is_alphabetic() || matches!(c, '\'' | '-' | '.' | '\u{300}'..='\u{36f}') {
                    out.push(c);
                }
                ""
            }
        };
        out.push_str(word);
    }
    let words: Vec<&str> = out.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).collect();
    words.join(" ")
}

/// The last resort: every digit as a word.
pub(super) fn spell_digits(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii_digit() {
            out.push(' ');
            out.push_str(&digits(c.encode_utf8(&mut [0; 4])));
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    out
}

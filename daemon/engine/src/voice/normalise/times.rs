//! Times of day, dates and days of the week.

use super::numbers::{all_digits, cardinal, ordinal, year};
use super::{Spoken, Token, core};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// `Nov`, `Sept`, `november` → the month's place.
fn month(text: &str) -> Option<usize> {
    MONTHS.iter().position(|name| {
        text.eq_ignore_ascii_case(name)
            || (text.len() == 3 || text.eq_ignore_ascii_case("sept"))
                && name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
    })
}

pub(super) fn day_name(text: &str) -> Option<&'static str> {
    if !text.starts_with(|c: char| c.is_uppercase()) {
        return None;
    }
    let known = |name: &&&str| {
        let short = text.len() >= 3
            && text.len() <= 5
            && name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
        text.eq_ignore_ascii_case(name) || short
    };
    DAYS.iter().find(known).copied()
}

/// `am`, `p.m` and the like, as letters to be said.
fn half(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "am" | "a.m" => Some("AM"),
        "pm" | "p.m" => Some("PM"),
        _ => None,
    }
}

struct Clock {
    hour: u64,
    minute: u64,
    colon: bool,
    half: Option<&'static str>,
}

/// `9:30`, `9am`, `17:00`, `9`.
fn parse(text: &str) -> Option<Clock> {
    let lower = text.to_ascii_lowercase();
    let cut = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let (figures, suffix) = lower.split_at_checked(cut)?;
    let half = if suffix.is_empty() { None } else { Some(half(suffix)?) };
    let dotted = || half.and_then(|_| figures.split_once('.'));
    let (hour, minute, colon) = match figures.split_once(':').or_else(dotted) {
        Some((hour, minute)) if minute.len() == 2 && all_digits(minute) => (hour, minute.parse().ok()?, true),
        Some(_) => return None,
        None => (figures, 0, false),
    };
    if !all_digits(hour) || hour.len() > 2 {
        return None;
    }
    let hour: u64 = hour.parse().ok()?;
    (hour < 25 && minute < 60).then_some(Clock { hour, minute, colon, half })
}

fn say(clock: &Clock, half: Option<&'static str>) -> String {
    // On a clock of twelve hours the full hour is bare before AM, and o'clock without.
    let hour = cardinal(clock.hour);
    let words = match (clock.minute, half) {
        (0, Some(_)) => hour,
        (0, None) if clock.hour == 0 || clock.hour > 12 => format!("{hour} hundred"),
        (0, None) => format!("{hour} o'clock"),
        (minute @ 1..10, _) => format!("{hour} oh {}", cardinal(minute)),
        (minute, _) => format!("{hour} {}", cardinal(minute)),
    };
    match half {
        Some(half) => format!("{words} {half}"),
        None => words,
    }
}

/// `9:30`, `9:30 am`, `9am`, `17:00`.
pub(super) fn clock(tokens: &[Token], at: usize) -> Spoken {
    let clock = parse(core(tokens, at))?;
    let next = if clock.half.is_none() && tokens[at].end.is_empty() { half(core(tokens, at + 1)) } else { None };
    let half = clock.half.or(next);
    if !clock.colon && half.is_none() {
        return None;
    }
    Some((say(&clock, half), if next.is_some() { 2 } else { 1 }))
}

/// `9:00-17:00`, `9am-5pm`, `9-5 pm`, `9 - 5pm`.
pub(super) fn clock_range(tokens: &[Token], at: usize) -> Spoken {
    let (from, to) = core(tokens, at).split_once('-')?;
    let (from, to) = (parse(from)?, parse(to)?);
    let next = if to.half.is_none() && tokens[at].end.is_empty() { half(core(tokens, at + 1)) } else { None };
    let end = to.half.or(next);
    if !from.colon && !to.colon && from.half.is_none() && end.is_none() {
        return None;
    }
    let bare = from.minute == 0 && from.half.is_none() && end.is_some();
    let first = if bare { cardinal(from.hour) } else { say(&from, from.half) };
    let words = format!("{first} to {}", say(&to, end));
    Some((words, if next.is_some() { 2 } else { 1 }))
}

/// `2026-11-21`.
pub(super) fn iso_date(tokens: &[Token], at: usize) -> Spoken {
    let mut parts = core(tokens, at).split('-');
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || y.len() != 4 || m.len() != 2 || d.len() != 2 {
        return None;
    }
    Some((date(m, d, Some(y))?, 1))
}

/// `3/4`, `3/4/2026`, `11/21/26`: month first.
pub(super) fn slash_date(tokens: &[Token], at: usize) -> Spoken {
    let mut parts = core(tokens, at).split('/');
    let (m, d, y) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some() || m.len() > 2 || d.len() > 2 {
        return None;
    }
    let century = y.filter(|y| y.len() == 2).map(|y| format!("20{y}"));
    Some((date(m, d, century.as_deref().or(y))?, 1))
}

fn date(m: &str, d: &str, y: Option<&str>) -> Option<String> {
    if !all_digits(m) || !all_digits(d) || !y.is_none_or(|y| y.len() == 4 && all_digits(y)) {
        return None;
    }
    let name = MONTHS.get(m.parse::<usize>().ok()?.checked_sub(1)?)?;
    let day = d.parse().ok().filter(|day| (1..=31).contains(day))?;
    let words = format!("{name} {}", ordinal(day));
    Some(match y {
        Some(y) => format!("{words}, {}", year(y.parse().ok()?)),
        None => words,
    })
}

/// A day of a month without or with `st`, `nd`, `rd`, `th`.
fn day(text: &str) -> Option<u64> {
    let figures = ["st", "nd", "rd", "th"].iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text);
    figures.parse().ok().filter(|day| all_digits(figures) && (1..=31).contains(day))
}

/// `Nov 3rd`, `Nov. 3, 2026`, `November 2026`, `3 November`, `Nov 3-5`.
pub(super) fn month_day(tokens: &[Token], at: usize) -> Spoken {
    let first = core(tokens, at);
    if let (Some(day), Some(month), true) = (day(first), month(core(tokens, at + 1)), tokens[at].end.is_empty())
        && core(tokens, at + 1).starts_with(|c: char| c.is_uppercase())
    {
        let (words, used) = with_year(tokens, at + 1, format!("{} of {}", ordinal(day), MONTHS[month]));
        return Some((words, used + 1));
    }
    let month = month(first).filter(|_| first.starts_with(|c: char| c.is_uppercase()))?;
    let name = MONTHS[month];
    if !matches!(tokens[at].end, "" | ".") {
        return (first.len() < name.len()).then(|| (name.to_owned(), 1));
    }
    let next = core(tokens, at + 1);
    if let Some(day) = day(next) {
        let (words, used) = with_year(tokens, at + 1, format!("{name} {}", ordinal(day)));
        return Some((words, used + 1));
    }
    if let Some((from, to)) = next.split_once('-')
        && let (Some(from), Some(to)) = (day(from), day(to))
    {
        return Some((format!("{name} {} to {}", ordinal(from), ordinal(to)), 2));
    }
    if next.len() == 4 && all_digits(next) {
        return Some((format!("{name} {}", year(next.parse().ok()?)), 2));
    }
    // A bare `Mar` may be a name; `Nov.` is not.
    (first.len() < name.len() && tokens[at].end == ".").then(|| (name.to_owned(), 1))
}

/// Adds the year after the token at `at`; how many tokens that token and the year are.
fn with_year(tokens: &[Token], at: usize, words: String) -> (String, usize) {
    let next = core(tokens, at + 1);
    match next.parse() {
        Ok(y) if next.len() == 4 && all_digits(next) && matches!(tokens[at].end, "" | ",") => {
            (format!("{words}, {}", year(y)), 2)
        }
        _ => (words, 1),
    }
}

/// `Mon-Fri`, `Mon`, `Tues.`.
pub(super) fn day_range(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    if let Some((from, to)) = text.split_once('-') {
        return Some((format!("{} to {}", day_name(from)?, day_name(to)?), 1));
    }
    let name = day_name(text)?;
    // `Sun` and `Sat` are words too, unless a stop or another day says otherwise.
    let sure = !matches!(text, "Sun" | "Sat")
        || tokens[at].end == "."
        || tokens.iter().any(|t| t.core != text && day_name(t.core).is_some());
    (text.len() < name.len() && sure).then(|| (name.to_owned(), 1))
}

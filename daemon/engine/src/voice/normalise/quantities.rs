//! Money, telephone numbers, measures, ranges and plain numbers.

use super::numbers::{all_digits, cardinal, digits, grouped, number, ordinal, year};
use super::{Spoken, Token, core};

const CURRENCIES: [(char, &str, &str, &str); 3] =
    [('$', "dollar", "cent", "cents"), ('€', "euro", "cent", "cents"), ('£', "pound", "penny", "pence")];

/// `$12.50`, `€5`, `$1.2M`, `$5 million`, `$5-$10`.
pub(super) fn money(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    if let Some((from, to)) = text.split_once('-') {
        let sign = from.chars().next()?;
        let to = if to.starts_with(sign) { to.to_owned() } else { format!("{sign}{to}") };
        let from = amount(from)?;
        return Some((format!("{from} to {}", amount(&to)?), 1));
    }
    let next = core(tokens, at + 1);
    if matches!(next, "million" | "billion" | "thousand" | "hundred") && tokens[at].end.is_empty() {
        let (_, name, ..) = CURRENCIES.iter().find(|(sign, ..)| text.starts_with(*sign))?;
        let figure = number(text.trim_start_matches(['$', '€', '£']))?;
        return Some((format!("{figure} {next} {name}s"), 2));
    }
    if let Some((figure, per)) = text.split_once('/')
        && per.len() > 1
        && per.chars().all(char::is_alphabetic)
    {
        return Some((format!("{} per {per}", amount(figure)?), 1));
    }
    amount(text).map(|words| (words, 1))
}

fn amount(text: &str) -> Option<String> {
    let (sign, name, cent, cents) = CURRENCIES.iter().find(|(sign, ..)| text.contains(*sign))?;
    let minus = if text.starts_with('-') { "minus " } else { "" };
    let text = text.trim_start_matches('-');
    let figure = text.strip_prefix(*sign).or_else(|| text.strip_suffix(*sign))?;
    for (suffix, scale) in [('M', "million"), ('m', "million"), ('B', "billion"), ('k', "thousand"), ('K', "thousand")]
    {
        if let Some(figure) = figure.strip_suffix(suffix) {
            return Some(format!("{minus}{} {scale} {name}s", number(figure)?));
        }
    }
    let (whole, part) = figure.split_once('.').unwrap_or((figure, ""));
    let whole: u64 = grouped(whole)?.parse().ok()?;
    let unit = |n: u64| if n == 1 { (*name).to_owned() } else { format!("{name}s") };
    let part: u64 = match part.len() {
        0 => 0,
        2 if all_digits(part) => part.parse().ok()?,
        _ => return Some(format!("{minus}{} {name}s", number(figure)?)),
    };
    let small = format!("{} {}", cardinal(part), if part == 1 { cent } else { cents });
    Some(match (whole, part) {
        (whole, 0) => format!("{minus}{} {}", cardinal(whole), unit(whole)),
        (0, _) => format!("{minus}{small}"),
        _ => format!("{minus}{} {} and {small}", cardinal(whole), unit(whole)),
    })
}

/// `555-1234`, `555-123-4567`, `(555) 123-4567`, `+1 555 123 4567`, `1.800.555.1234`, `5551234567`.
pub(super) fn phone(tokens: &[Token], at: usize) -> Spoken {
    let mut groups: Vec<&str> = Vec::new();
    let mut used = 0;
    for token in &tokens[at..] {
        let text = token.core.trim_start_matches('+');
        let parts: Vec<&str> = text.split(['-', '.', '/']).collect();
        if !parts.iter().all(|part| all_digits(part) && part.len() <= 12) || groups.len() + parts.len() > 6 {
            break;
        }
        groups.extend(parts);
        used += 1;
        if !token.end.is_empty() {
            break;
        }
    }
    let plus = core(tokens, at).starts_with('+');
    while used > 0 {
        let total: usize = groups.iter().map(|group| group.len()).sum();
        let first = groups.first().map_or(0, |group| group.len());
        let body = if plus || first == 1 { groups.get(1..).unwrap_or_default() } else { &groups };
        let shaped = match body {
            [one] => plus || one.len() == 10 || one.len() == 7 && !one.ends_with("000") || one.len() == 11,
            [a, b] => a.len() == 3 && b.len() == 4 || a.len() >= 3 && b.len() >= 5,
            groups => {
                groups.len() > 2
                    && groups.iter().all(|group| (2..=5).contains(&group.len()))
                    && groups.iter().any(|g| g.len() > 2)
            }
        };
        if (7..=15).contains(&total) && shaped && !is_date(&groups) {
            let spoken: Vec<String> = groups.iter().flat_map(|group| pieces(group)).collect();
            return Some((format!("{}{}", if plus { "plus " } else { "" }, spoken.join(", ")), used));
        }
        // Perhaps the last token does not belong to it.
        used -= 1;
        let last = tokens[at + used].core.trim_start_matches('+').split(['-', '.', '/']).count();
        groups.truncate(groups.len().saturating_sub(last));
    }
    None
}

fn is_date(groups: &[&str]) -> bool {
    let lens: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    matches!(lens.as_slice(), [4, 2, 2] | [1..=2, 1..=2, 4])
}

/// Groups of three or four digits, digit by digit; 800 is said as a number.
fn pieces(group: &str) -> Vec<String> {
    if group == "800" {
        return vec!["eight hundred".to_owned()];
    }
    let cuts: &[usize] = match group.len() {
        0..=5 => &[],
        7 => &[3],
        10 => &[3, 6],
        11 => &[1, 4, 7],
        _ => &[3, 6, 9, 12],
    };
    let mut from = 0;
    let mut out = Vec::new();
    for &cut in cuts.iter().filter(|&&cut| cut < group.len()).chain([&group.len()]) {
        out.push(digits(group.get(from..cut).unwrap_or_default()));
        from = cut;
    }
    out
}

/// `1/2 hour`, `3/4 of`, `24/7`; a `3/4` without such a neighbour is a date.
pub(super) fn fraction(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    if text == "24/7" {
        return Some(("twenty four seven".to_owned(), 1));
    }
    let (top, bottom) = text.split_once('/')?;
    if !all_digits(top) || !all_digits(bottom) {
        return None;
    }
    let (top, bottom): (u64, u64) = (top.parse().ok()?, bottom.parse().ok()?);
    const PARTED: [&str; 16] = [
        "of", "a", "an", "hour", "hours", "cup", "cups", "mile", "miles", "inch", "inches", "dozen", "price", "pound",
        "day", "full",
    ];
    if top == bottom && top > 12 {
        return Some((format!("{0} {0}", cardinal(top)), 1));
    }
    let parted = PARTED.contains(&core(tokens, at + 1));
    let is_date = (1..=12).contains(&top) && (1..=31).contains(&bottom);
    if is_date && !parted && text != "1/2" || bottom > 100 {
        return (!is_date && bottom > 0).then(|| (format!("{} over {}", cardinal(top), cardinal(bottom)), 1));
    }
    let part = match bottom {
        0 | 1 => return Some((format!("{} over {}", cardinal(top), cardinal(bottom)), 1)),
        2 => "half".to_owned(),
        4 => "quarter".to_owned(),
        n => ordinal(n),
    };
    let plural = if top == 1 { "" } else { "s" };
    Some((format!("{} {part}{plural}", cardinal(top)), 1))
}

/// Suffixes of figures: written, one, several.
const UNITS: [(&str, &str, &str); 42] = [
    ("%", "percent", "percent"),
    ("°C", "degree Celsius", "degrees Celsius"),
    ("°F", "degree Fahrenheit", "degrees Fahrenheit"),
    ("°", "degree", "degrees"),
    ("km/h", "kilometer per hour", "kilometers per hour"),
    ("kWh", "kilowatt hour", "kilowatt hours"),
    ("MWh", "megawatt hour", "megawatt hours"),
    ("kW", "kilowatt", "kilowatts"),
    ("MW", "megawatt", "megawatts"),
    ("kV", "kilovolt", "kilovolts"),
    ("kg", "kilogram", "kilograms"),
    ("mg", "milligram", "milligrams"),
    ("mcg", "microgram", "micrograms"),
    ("ml", "milliliter", "milliliters"),
    ("mL", "milliliter", "milliliters"),
    ("km", "kilometer", "kilometers"),
    ("cm", "centimeter", "centimeters"),
    ("mm", "millimeter", "millimeters"),
    ("m²", "square meter", "square meters"),
    ("sqft", "square foot", "square feet"),
    ("ft", "foot", "feet"),
    ("lbs", "pound", "pounds"),
    ("lb", "pound", "pounds"),
    ("oz", "ounce", "ounces"),
    ("mph", "mile per hour", "miles per hour"),
    ("mi", "mile", "miles"),
    ("yd", "yard", "yards"),
    ("GB", "gigabyte", "gigabytes"),
    ("MB", "megabyte", "megabytes"),
    ("Mbps", "megabit per second", "megabits per second"),
    ("Gbps", "gigabit per second", "gigabits per second"),
    ("kHz", "kilohertz", "kilohertz"),
    ("Hz", "hertz", "hertz"),
    ("hrs", "hour", "hours"),
    ("hr", "hour", "hours"),
    ("h", "hour", "hours"),
    ("mins", "minute", "minutes"),
    ("min", "minute", "minutes"),
    ("secs", "second", "seconds"),
    ("sec", "second", "seconds"),
    ("yrs", "year", "years"),
    ("ms", "millisecond", "milliseconds"),
];

pub(super) fn unit(text: &str) -> Option<(&'static str, &'static str)> {
    UNITS.iter().find(|(written, ..)| *written == text).map(|&(_, one, many)| (one, many))
}

/// `5kg`, `20°C`, `12.5%`, `5 km`.
pub(super) fn measure(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    let cut = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+')))?;
    let attached = text.split_at_checked(cut).filter(|(figure, _)| !figure.is_empty());
    let (figure, (one, many), used) = match attached {
        Some((figure, suffix)) => (figure, unit(suffix)?, 1),
        None => return None,
    };
    let words = number(figure).or_else(|| between(figure))?;
    Some((format!("{words} {}", if figure == "1" { one } else { many }), used))
}

/// `3-5`, `10-12%`, `100-200`.
pub(super) fn range(tokens: &[Token], at: usize) -> Spoken {
    between(core(tokens, at)).map(|words| (words, 1))
}

fn between(text: &str) -> Option<String> {
    let (from, to) = text.split_once('-')?;
    let short = |figure: &str| {
        grouped(figure).is_some_and(|plain| plain.len() < 7) || figure.contains('.') && number(figure).is_some()
    };
    if !short(from) || !short(to) || from.len() == 4 && all_digits(from) && to.len() == 4 && from.starts_with('0') {
        return None;
    }
    Some(format!("{} to {}", figure(from)?, figure(to)?))
}

/// A number; one that looks like a year is said as one.
fn figure(text: &str) -> Option<String> {
    match text.parse() {
        Ok(y @ 1900..=2099) if all_digits(text) => Some(year(y)),
        _ => number(text),
    }
}

/// `1,234`, `-5`, `3.14`, `21st`, `2026`, `#5`, `5 km`.
pub(super) fn plain(tokens: &[Token], at: usize) -> Spoken {
    let text = core(tokens, at);
    if let Some(rest) = text.strip_prefix('#') {
        return Some((format!("number {}", number(rest)?), 1));
    }
    for end in ["st", "nd", "rd", "th"] {
        if let Some(n) = text.strip_suffix(end).filter(|figure| figure.len() < 16).and_then(grouped) {
            return Some((ordinal(n.parse().ok()?), 1));
        }
    }
    if let Some(decade) = text.strip_suffix('s').filter(|figure| figure.len() == 4 && all_digits(figure)) {
        let words = year(decade.parse().ok()?);
        return Some((words.strip_suffix('y').map_or_else(|| format!("{words}s"), |stem| format!("{stem}ies")), 1));
    }
    let next = core(tokens, at + 1);
    if tokens[at].end.is_empty()
        && let (Some((one, many)), Some(words)) = (unit(next), number(text))
    {
        return Some((format!("{words} {}", if text == "1" { one } else { many }), 2));
    }
    figure(text).map(|words| (words, 1))
}

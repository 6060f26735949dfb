//! Numbers in; English words out.

const SMALL: [&str; 20] = [
    "zero",
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
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(u64, &str); 4] =
    [(1_000_000_000_000, "trillion"), (1_000_000_000, "billion"), (1_000_000, "million"), (1000, "thousand")];

/// 1234 → one thousand two hundred thirty four.
pub(super) fn cardinal(n: u64) -> String {
    if n >= 1_000_000_000_000_000 {
        return digits(&n.to_string());
    }
    for (scale, name) in SCALES {
        if n >= scale {
            return join(format!("{} {name}", cardinal(n / scale)), n % scale);
        }
    }
    match n {
        0..20 => SMALL[n as usize].to_owned(),
        20..100 => join(TENS[n as usize / 10].to_owned(), n % 10),
        _ => join(format!("{} hundred", SMALL[n as usize / 100]), n % 100),
    }
}

fn join(head: String, rest: u64) -> String {
    if rest == 0 { head } else { format!("{head} {}", cardinal(rest)) }
}

/// 23 → twenty third.
pub(super) fn ordinal(n: u64) -> String {
    let words = cardinal(n);
    let (head, last) = words.rsplit_once(' ').map_or(("", words.as_str()), |(head, last)| (head, last));
    let last = match last {
        "one" => "first".to_owned(),
        "two" => "second".to_owned(),
        "three" => "third".to_owned(),
        "five" => "fifth".to_owned(),
        "eight" => "eighth".to_owned(),
        "nine" => "ninth".to_owned(),
        "twelve" => "twelfth".to_owned(),
        last => last.strip_suffix('y').map_or_else(|| format!("{last}th"), |stem| format!("{stem}ieth")),
    };
    if head.is_empty() { last } else { format!("{head} {last}") }
}

/// Digit by digit; other characters are stepped over.
pub(super) fn digits(text: &str) -> String {
    let words: Vec<&str> = text.chars().filter_map(|c| c.to_digit(10)).map(|d| SMALL[d as usize]).collect();
    words.join(" ")
}

/// A year: 1995 → nineteen ninety five, 2026 → twenty twenty six, 2005 → two thousand five.
pub(super) fn year(n: u64) -> String {
    match n {
        2000..2010 => cardinal(n),
        1100..10_000 if !n.is_multiple_of(1000) => pairs(n),
        _ => cardinal(n),
    }
}

/// A house or room number: 1450 → fourteen fifty, 204 → two oh four, 1200 → twelve hundred, 12 → twelve.
pub(super) fn house(n: u64) -> String {
    match n {
        100..1000 if n.is_multiple_of(100) => cardinal(n),
        100..1000 => match n % 100 {
            low @ 1..10 => format!("{} oh {}", cardinal(n / 100), cardinal(low)),
            low => format!("{} {}", cardinal(n / 100), cardinal(low)),
        },
        1000..10_000 if n.is_multiple_of(1000) => cardinal(n),
        1000..10_000 => pairs(n),
        10_000.. => digits(&n.to_string()),
        _ => cardinal(n),
    }
}

fn pairs(n: u64) -> String {
    let high = cardinal(n / 100);
    match n % 100 {
        0 => format!("{high} hundred"),
        low @ 1..10 => format!("{high} oh {}", cardinal(low)),
        low => format!("{high} {}", cardinal(low)),
    }
}

/// Digits with an optional sign, thousands commas and a decimal point; `None` if it is anything else.
pub(super) fn number(text: &str) -> Option<String> {
    let (sign, body) = match text.strip_prefix(['-', '−']) {
        Some(body) => ("minus ", body),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = body.split_once('.').map_or((body, None), |(whole, fraction)| (whole, Some(fraction)));
    if whole.is_empty() && fraction.is_none() || !fraction.is_none_or(all_digits) {
        return None;
    }
    let whole = match whole {
        "" => "zero".to_owned(),
        whole => {
            let plain = grouped(whole)?;
            if plain.len() > 1 && plain.starts_with('0') || plain.len() > 15 {
                digits(&plain)
            } else {
                cardinal(plain.parse().ok()?)
            }
        }
    };
    Some(match fraction {
        Some(fraction) => format!("{sign}{whole} point {}", digits(fraction)),
        None => format!("{sign}{whole}"),
    })
}

/// `1,234,567` and `1234567` → the digits.
pub(super) fn grouped(text: &str) -> Option<String> {
    let mut groups = text.split(',');
    let first = groups.next().filter(|first| all_digits(first))?;
    let mut out = first.to_owned();
    for group in groups {
        if group.len() != 3 || first.len() > 3 || !all_digits(group) {
            return None;
        }
        out.push_str(group);
    }
    Some(out)
}

/// Not empty, and nothing but 0 to 9.
pub(super) fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

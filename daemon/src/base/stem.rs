//! English words without their endings. Enters: a word in lower case; leaves: what it has in common with its other forms, good
//! for comparing, not for reading.

/// Words whose endings are none.
const WHOLE: [&str; 34] = [
    "this",
    "his",
    "its",
    "is",
    "was",
    "has",
    "does",
    "during",
    "morning",
    "evening",
    "spring",
    "nothing",
    "something",
    "anything",
    "thing",
    "always",
    "always",
    "bus",
    "gas",
    "wednesday",
    "less",
    "plus",
    "yes",
    "us",
    "as",
    "address",
    "need",
    "king",
    "red",
    "bed",
    "wedding",
    "ring",
    "single",
    "speed",
];

/// A word in lower case without the endings of numbers, times and persons.
#[must_use]
pub fn stem(word: &str) -> String {
    if word.len() <= 3 || WHOLE.contains(&word) || !word.is_ascii() {
        return word.to_owned();
    }
    let cut = |ending: &str, least: usize| word.strip_suffix(ending).filter(|rest| rest.len() >= least);
    if let Some(rest) = ["ations", "ation", "ating", "ated", "ates", "ate"].iter().find_map(|ending| cut(ending, 5)) {
        return rest.to_owned();
    }
    if let Some(rest) = cut("ies", 3) {
        return format!("{rest}y");
    }
    let rest = ["ing", "ed"]
        .iter()
        .find_map(|ending| cut(ending, 3))
        .filter(|rest| rest.contains(['a', 'e', 'i', 'o', 'u', 'y']));
    let rest = match rest {
        // "Cancelled", "stopped"; not "passed".
        Some(rest) => {
            let doubled = match rest.as_bytes() {
                [.., a, b] if a == b => !b"lsz".contains(b) || (*b == b'l' && rest.len() > 4),
                _ => false,
            };
            let mut letters = rest.chars();
            if doubled {
                letters.next_back();
            }
            letters.as_str()
        }
        None if word.ends_with("ss") => word,
        None if ["ches", "shes", "xes", "sses", "zes"].iter().any(|ending| word.ends_with(ending)) => {
            word.strip_suffix("es").unwrap_or(word)
        }
        None => word.strip_suffix('s').unwrap_or(word),
    };
    // As it is in "close" and not in "closing".
    let rest = rest.strip_suffix('e').filter(|rest| rest.len() >= 3).unwrap_or(rest);
    rest.strip_suffix('i').filter(|rest| rest.len() >= 3).map_or_else(|| rest.to_owned(), |rest| format!("{rest}y"))
}

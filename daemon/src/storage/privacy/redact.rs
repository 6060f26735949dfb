//! What was said, without what names or pays for somebody. Enters: a transcript; leaves: the same with placeholders for
//! numbers of four digits or more (telephone, account, card, PIN; as figures, or spoken in English), e-mail addresses, and
//! account numbers with letters (IBAN). Names and streets are words like others: whoever must not keep them switches
//! transcripts off.

/// Digits from which a number may name somebody: a PIN has four, a room or a price seldom more than three.
const TELLING: usize = 4;

/// What people put between digits.
const BETWEEN: &str = " -.,/()+";

/// Marks that may stand between two digits of one number.
const MOST_BETWEEN: usize = 3;

const NUMBER: &str = "[number]";
const CARD: &str = "[card]";
const EMAIL: &str = "[email]";
const ACCOUNT: &str = "[account]";

/// The text with placeholders.
#[must_use]
pub fn redacted(text: &str) -> String {
    figures(&spoken(&addresses(text)))
}

/// E-mail addresses, and account numbers that begin with letters.
fn addresses(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.find('@') {
        Some(at) if at > 0 && at + 1 < word.len() => EMAIL,
        _ if is_account(word) => ACCOUNT,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// ISO 13616: two letters, two digits, and some more of both.
fn is_account(word: &str) -> bool {
    let bytes = word.trim_end_matches(|c: char| c.is_ascii_punctuation()).as_bytes();
    bytes.len() >= 8
        && bytes.iter().all(u8::is_ascii_alphanumeric)
        && bytes.iter().take(2).all(u8::is_ascii_alphabetic)
        && bytes.iter().skip(2).take(2).all(u8::is_ascii_digit)
}

/// Digits in words: "four, double two, oh, one".
fn spoken(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut run: Vec<&str> = Vec::new();
    let mut digits = 0;
    for word in text.split(' ') {
        let plain = word.trim_matches(|c: char| c.is_ascii_punctuation()).to_lowercase();
        let worth = match plain.as_str() {
            "zero" | "oh" | "o" | "one" | "two" | "three" | "four" | "five" | "six" | "seven" | "eight" | "nine" => 1,
            "double" => 1,
            "triple" => 2,
            // "four two-seven one", as recognisers write it.
            _ if plain.contains('-') && plain.split('-').all(|part| DIGITS.contains(&part)) => plain.split('-').count(),
            _ => 0,
        };
        if worth > 0 {
            digits += worth;
            run.push(word);
            continue;
        }
        close(&mut kept, &mut run, &mut digits);
        kept.push(word);
    }
    close(&mut kept, &mut run, &mut digits);
    kept.join(" ")
}

const DIGITS: [&str; 11] = ["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

fn close<'a>(kept: &mut Vec<&'a str>, run: &mut Vec<&'a str>, digits: &mut usize) {
    if *digits >= TELLING {
        run.clear();
        kept.push(NUMBER);
    } else {
        kept.append(run);
    }
    *digits = 0;
}

/// Runs of digits with what people put between them.
fn figures(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(&c) = chars.get(at) {
        if !c.is_numeric() {
            out.push(c);
            at += 1;
            continue;
        }
        let end = run_of(&chars, at);
        let run: &[char] = chars.get(at..end).unwrap_or_default();
        let digits: Vec<u32> = run.iter().filter(|c| c.is_numeric()).map(|c| c.to_digit(10).unwrap_or(0)).collect();
        if digits.len() < TELLING {
            out.extend(run);
        } else {
            out.push_str(if is_card(&digits) { CARD } else { NUMBER });
        }
        at = end;
    }
    out
}

/// One past the last digit of the number that begins here.
fn run_of(chars: &[char], from: usize) -> usize {
    let mut end = from + 1;
    loop {
        let rest = chars.get(end..).unwrap_or_default();
        let between = rest.iter().take_while(|c| BETWEEN.contains(**c)).count();
        match rest.get(between) {
            Some(c) if c.is_numeric() && between <= MOST_BETWEEN => end += between + 1,
            _ => return end,
        }
    }
}

/// ISO/IEC 7812: 12 to 19 digits with the check of Luhn.
fn is_card(digits: &[u32]) -> bool {
    let doubled = |(place, digit): (usize, &u32)| {
        let value = digit * if place % 2 == 1 { 2 } else { 1 };
        if value > 9 { value - 9 } else { value }
    };
    (12..=19).contains(&digits.len()) && digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_names_or_pays_goes_and_the_rest_stays() {
        for (said, kept) in [
            ("My number is +49 (30) 123-45.", "My number is +[number]."),
            ("Card 4111 1111 1111 1111, please.", "Card [card], please."),
            ("4111 1111 1111 1112", "[number]"),
            ("Write to jane.doe@example.com.", "Write to [email]"),
            ("It is DE89370400440532013000.", "It is [account]"),
            ("Four, double two, oh, one is my PIN.", "[number] is my PIN."),
            ("Call five five five, oh-one-oh-oh now", "Call [number] now"),
            (
                "Breakfast is from 7 to 9:30, room 312 for 140 dollars.",
                "Breakfast is from 7 to 9:30, room 312 for 140 dollars.",
            ),
            ("One or two of them, at nine.", "One or two of them, at nine."),
            ("At 5 @ home", "At 5 @ home"),
            ("", ""),
        ] {
            assert_eq!(redacted(said), kept);
        }
    }

    /// A check digit that makes a card number of any digits.
    fn card(digits: &str) -> String {
        let last = (0..10).find(|last| {
            let all: Vec<u32> = format!("{digits}{last}").chars().filter_map(|c| c.to_digit(10)).collect();
            is_card(&all)
        });
        format!("{digits}{}", last.expect("one of ten fits"))
    }

    proptest! {
        #[test]
        fn no_number_stays_however_it_is_grouped(
            before in "[a-z ]{0,12}",
            digits in proptest::collection::vec(("[0-9]", "[ .,/()-]{0,3}"), TELLING..20),
            after in "[a-z ]{0,12}",
        ) {
            let number: String = digits.iter().map(|(digit, between)| format!("{digit}{between}")).collect();
            let kept = redacted(&format!("{before} {number} {after}"));
            prop_assert!(!kept.contains(|c: char| c.is_ascii_digit()), "{}", kept);
        }

        #[test]
        fn cards_are_known_for_cards(digits in "[1-9][0-9]{14}", groups in any::<bool>()) {
            let card = card(&digits);
            let shown = if groups {
                card.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
            } else {
                card
            };
            prop_assert_eq!(redacted(&format!("it is {shown} indeed")), "it is [card] indeed");
        }

        #[test]
        fn addresses_never_stay(user in "[a-z0-9.]{1,12}", host in "[a-z]{1,8}\\.[a-z]{2,3}", text in "[a-z ]{0,20}") {
            let kept = redacted(&format!("{text} {user}@{host}, yes"));
            prop_assert!(!kept.contains('@') && !kept.contains(&host), "{}", kept);
        }

        #[test]
        fn any_text_is_taken_twice_is_as_good_as_once_and_words_stay(text in ".{0,80}", words in "[a-z]{3,9}( [A-Z]?[a-z']{1,9}){0,8}") {
            let once = redacted(&text);
            prop_assert_eq!(redacted(&once), once.clone());
            let spoken = words.split(' ').filter(|word| DIGITS.contains(word) || ["o", "double", "triple"].contains(word));
            if spoken.count() == 0 {
                prop_assert_eq!(redacted(&words), words);
            }
        }
    }
}

//! Compares what was said with what was understood. Enters: two texts; leaves: a share from 0 to 1.

/// How many of the words of `said` are found in `heard`, in their order (longest common subsequence). Numbers are
/// compared as digits are spelled, case and punctuation do not count.
pub fn share_heard(said: &str, heard: &str) -> f64 {
    let (said, heard) = (words(said), words(heard));
    if said.is_empty() {
        return 0.0;
    }
    let mut row = vec![0_u32; heard.len() + 1];
    for word in &said {
        let mut diagonal = 0;
        for (at, other) in heard.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    let common = row.last().copied().unwrap_or(0);
    f64::from(common) / f64::from(u32::try_from(said.len()).unwrap_or(u32::MAX))
}

fn words(text: &str) -> Vec<String> {
    const DIGITS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(|word| match word.parse::<usize>() {
            Ok(number) if number < DIGITS.len() => DIGITS[number].to_owned(),
            _ => word.replace('\'', ""),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts_and_spelling_of_small_numbers_does_not() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(share_heard("We open at 9, don't we?", "we open at nine dont we"), 1.0));
        assert!(near(share_heard("one two three four", "four three two one"), 0.25));
        assert!(near(share_heard("one two three four", "well one or two and four"), 0.75));
        assert!(near(share_heard("", "anything"), 0.0));
    }
}

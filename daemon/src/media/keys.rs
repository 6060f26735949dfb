//! Keys that we press at the far end: a telephone's dialling pad, in order. Text enters; one key at a time leaves.

use std::fmt;

/// Keys that wait at most.
const MOST: usize = 32;

/// A few keys. They may be part of a PIN, so they are never printed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys {
    digits: [u8; MOST],
    count: usize,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Keys {
    /// `0`-`9`, `*`, `#`, `A`-`D`, at most 32 of them; none for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut keys = Self::default();
        if text.len() > MOST {
            return None;
        }
        for digit in text.bytes().map(|digit| digit.to_ascii_uppercase()) {
            if !matches!(digit, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D') {
                return None;
            }
            keys.digits[keys.count] = digit;
            keys.count += 1;
        }
        Some(keys)
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first of them.
    pub(super) fn next(&mut self) -> Option<char> {
        let first = self.digits[0];
        self.count = self.count.checked_sub(1)?;
        self.digits.copy_within(1.., 0);
        Some(first.into())
    }

    /// Adds as many as there is room for.
    pub(super) fn extend(&mut self, more: Self) {
        let more = &more.digits[..more.count.min(MOST - self.count)];
        self.digits[self.count..][..more.len()].copy_from_slice(more);
        self.count += more.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_order_and_nothing_else_is_a_key() {
        let mut keys = Keys::parse("1*d").expect("keys");
        keys.extend(Keys::parse("#").expect("a key"));
        assert_eq!(std::iter::from_fn(|| keys.next()).collect::<String>(), "1*D#");
        assert!(keys.is_empty());
        assert!(Keys::parse("12 3").is_none() && Keys::parse(&"1".repeat(33)).is_none());
        keys.extend(Keys::parse(&"7".repeat(32)).expect("keys"));
        keys.extend(Keys::parse("8").expect("a key"));
        assert_eq!(std::iter::from_fn(|| keys.next()).last(), Some('7'), "no room for more");
    }
}

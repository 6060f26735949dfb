//! Text for a terminal. Enters: what a caller or a peer has chosen; leaves: the same without a character that moves the
//! cursor, changes the screen, or turns the direction of what stands beside it.

/// What would act on a terminal stands as U+FFFD.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters (C0, DEL, C1), and those that turn the direction of writing (Unicode Annex #9).
pub(crate) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_acts_on_a_terminal_is_left(text in any::<String>()) {
            let shown = printable(&text);
            prop_assert!(!shown.chars().any(acts));
            prop_assert_eq!(shown.chars().count(), text.chars().count());
        }
    }

    #[test]
    fn escape_sequences_of_both_kinds_are_broken() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}5mc\u{202e}d\r\n"), "a\u{fffd}[2Jb\u{fffd}5mc\u{fffd}d\u{fffd}\u{fffd}");
        assert_eq!(printable("Grüße, 東京"), "Grüße, 東京");
    }
}

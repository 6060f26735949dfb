//! Text as a person writes it in; words only out.

/// Placeholder until the rules are in.
pub fn normalise(text: &str) -> String {
    text.to_owned()
}

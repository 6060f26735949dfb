//! Words in columns. Enters: text; leaves: lines of a width. What is shown is as wide as a terminal makes it.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use textwrap::core::display_width;

/// As wide as that: cut with an ellipsis, or filled up.
pub(super) fn fit(text: &str, width: usize) -> String {
    let wide = display_width(text);
    if wide <= width {
        return format!("{text}{}", " ".repeat(width - wide));
    }
    let (mut cut, mut columns) = (String::new(), 0);
    for c in text.chars() {
        columns += display_width(c.encode_utf8(&mut [0; 4]));
        if columns >= width {
            break;
        }
        cut.push(c);
    }
    if width > 0 {
        cut.push('…');
    }
    let wide = display_width(&cut);
    cut + &" ".repeat(width.saturating_sub(wide))
}

/// Words behind a label, over as many lines as they need.
pub(super) fn labelled(label: &'static str, text: &str, style: Style, width: usize) -> Vec<Line<'static>> {
    let indent = " ".repeat(label.len());
    textwrap::wrap(text, width.saturating_sub(label.len()).max(8))
        .into_iter()
        .enumerate()
        .map(|(at, part)| {
            let label = if at == 0 { label.to_owned() } else { indent.clone() };
            Line::from(vec![Span::raw(label), Span::styled(part.into_owned(), style)])
        })
        .collect()
}

/// Groups side by side with two columns between, over as many lines as they need.
pub(super) fn flow(groups: impl Iterator<Item = Vec<Span<'static>>>, width: usize) -> Vec<Line<'static>> {
    let (mut lines, mut line) = (Vec::new(), Line::default());
    for group in groups {
        let wide: usize = group.iter().map(Span::width).sum();
        if line.width() > 0 && line.width() + 2 + wide > width {
            lines.push(std::mem::take(&mut line));
        }
        if line.width() > 0 {
            line.push_span("  ");
        }
        line.extend(group);
    }
    if line.width() > 0 {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_fitted_is_as_wide_as_that(text in "[a-z東é ]{0,20}", width in 0_usize..16) {
            prop_assert_eq!(display_width(&fit(&text, width)), width);
        }

        #[test]
        fn words_stay_within_their_width(text in "[a-z東é ]{0,80}", width in 20_usize..60) {
            for line in labelled("Caller  ", &text, Style::new(), width) {
                prop_assert!(line.width() <= width);
            }
        }
    }
}

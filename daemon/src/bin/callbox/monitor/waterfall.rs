//! Where the time of a turn went. Enters: its stages; leaves: a bar, and the same in words. Each stage has a pattern of its
//! own, so that nobody needs colours to tell them apart.

use std::collections::BTreeMap;

use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};

use super::text::flow;

/// Stages that follow one another and are the whole together; the others span several of them.
const STAGES: [(&str, &str, &str, Color); 9] = [
    ("pause", "pause", "░", Color::Gray),
    ("stt", "speech to text", "█", Color::Blue),
    ("cache", "cache", "▞", Color::Green),
    ("knowledge", "documents", "%", Color::LightBlue),
    ("prefill", "first token", "▒", Color::Magenta),
    ("first_clause", "first clause", "▓", Color::Yellow),
    ("tts_first", "first audio", "▚", Color::Cyan),
    ("hold", "end of turn", "-", Color::Gray),
    ("playout", "playout", "=", Color::Red),
];

/// Columns of the bar, if there is room.
const BAR: usize = 60;

/// Lines of at most `width` columns; none if no time was taken.
pub(super) fn lines(timings: &BTreeMap<&'static str, u64>, width: usize) -> Vec<Line<'static>> {
    let stages = || STAGES.iter().filter_map(|stage| Some((stage, *timings.get(stage.0)?)));
    let sum: u64 = stages().map(|(_, us)| us).fold(0, u64::saturating_add);
    if sum == 0 {
        return Vec::new();
    }
    let (columns, mut from, mut drawn) = (width.min(BAR) as u64, 0_u64, 0);
    let mut bar = Vec::new();
    for ((_, _, pattern, color), us) in stages() {
        from += us;
        // Rounded where a stage ends, so that all together are as long as the whole.
        let end = usize::try_from(u128::from(from) * u128::from(columns) / u128::from(sum)).unwrap_or(drawn);
        bar.push(Span::styled(pattern.repeat(end - drawn), Style::new().fg(*color)));
        drawn = end;
    }
    let (name, whole) =
        timings.get("voice_to_voice").map_or(("until the first sound", sum), |us| ("voice to voice", *us));
    let words = stages().map(|((_, name, pattern, color), us)| {
        vec![Span::styled(*pattern, Style::new().fg(*color)), Span::raw(format!(" {name} {} ms", ms(us)))]
    });
    let whole = vec![Span::raw(format!("{name} {} ms", ms(whole))).bold()];
    let mut lines = vec![Line::from(bar)];
    lines.extend(flow(std::iter::once(whole).chain(words), width));
    lines
}

/// Rounded.
const fn ms(us: u64) -> u64 {
    us.saturating_add(500) / 1000
}

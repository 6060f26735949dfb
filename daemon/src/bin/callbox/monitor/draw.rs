//! The screen. Enters: what the monitor knows, and the time; leaves: cells. Never here: a key, a socket, a clock.

use callbox::storage::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, List, ListState, Paragraph};

use super::calls::{Call, Turn};
use super::look::{Alert, Tile, Tone, span};
use super::state::State;
use super::text::{fit, flow, labelled};
use super::waterfall;

/// The smallest screen.
const SMALLEST: (u16, u16) = (40, 12);

/// From so many columns on the chosen call stands beside the list, else below it.
const WIDE: u16 = 110;

/// Alerts that are shown, one line each.
const ALERTS: usize = 4;

const HELP: [&str; 8] = [
    "up, k       the call above",
    "down, j     the call below",
    "enter       the chosen call alone, esc goes back",
    "page up     back in what was said, page down forward",
    "x           hang up the chosen call; asks first",
    "h, ?        this help",
    "q, ctrl-c   leave; calls go on",
    "any key leaves this help",
];

/// Draws it all; returns how many lines of the transcript are above what is shown at most.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Timestamp) -> usize {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let said = format!("{} columns and {} lines are needed", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(said), area);
        return 0;
    }
    let width = usize::from(area.width);
    let alerts = alerts(&state.alerts(now), width);
    let tiles = state.look.as_ref().map(|look| flow(look.tiles().into_iter().map(tile), width)).unwrap_or_default();
    let rows = |lines: &[Line<'_>]| Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX));
    let [head, middle, warnings, body, foot] = Layout::vertical([
        Constraint::Length(1),
        rows(&tiles),
        rows(&alerts),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(header(state), head);
    frame.render_widget(Paragraph::new(tiles), middle);
    frame.render_widget(Paragraph::new(alerts), warnings);
    let most = calls(frame, body, state, now);
    frame.render_widget(footer(state, width), foot);
    if state.helps {
        help(frame, area);
    }
    most
}

fn color(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn header(state: &State) -> Line<'static> {
    let Some(look) = &state.look else { return Line::from("Callbox").bold() };
    let (version, up) = look.about();
    let (said, tone) = match state.absent() {
        Some(_) => ("No answer.", Tone::Bad),
        None if look.is_ready() => ("Calls are answered.", Tone::Good),
        None if look.takes_calls() => ("Calls are taken, and the self-test fails.", Tone::Bad),
        None => ("Calls are refused.", Tone::Bad),
    };
    let name = Span::raw(format!("Callbox {version}")).bold();
    Line::from(vec![name, Span::raw("  "), Span::styled(said, color(tone)), Span::raw(format!("  Up for {up}."))])
}

fn tile(tile: Tile) -> Vec<Span<'static>> {
    vec![Span::raw(format!("{} ", tile.name)).dim(), Span::styled(tile.value, color(tile.tone))]
}

fn alerts(alerts: &[Alert], width: usize) -> Vec<Line<'static>> {
    let line = |alert: &Alert| {
        let tone = if alert.bad { Tone::Bad } else { Tone::Warning };
        Line::styled(fit(&format!("! {}: {}", alert.what, alert.why), width), color(tone))
    };
    let mut lines: Vec<_> = alerts.iter().take(ALERTS).map(line).collect();
    if alerts.len() > ALERTS {
        lines.push(Line::from(format!("! and {} more: `callbox health`", alerts.len() - ALERTS)));
    }
    lines
}

fn calls(frame: &mut Frame<'_>, area: Rect, state: &State, now: Timestamp) -> usize {
    if state.opened {
        return call(frame, area, state, now);
    }
    if state.chosen().is_none() {
        list(frame, area, state, now);
        return 0;
    }
    let halves = if area.width >= WIDE {
        Layout::horizontal([Constraint::Percentage(45), Constraint::Fill(1)]).areas(area)
    } else {
        // The list takes what it needs, and a third at most.
        let rows = u16::try_from(state.calls.all().len()).unwrap_or(u16::MAX).clamp(1, (area.height / 3).max(3) - 2);
        Layout::vertical([Constraint::Length(rows + 2), Constraint::Fill(1)]).areas(area)
    };
    let [left, right] = halves;
    list(frame, left, state, now);
    call(frame, right, state, now)
}

fn list(frame: &mut Frame<'_>, area: Rect, state: &State, now: Timestamp) {
    let block = Block::bordered().title(format!(" Calls that are up: {} ", state.calls.up()));
    if state.calls.all().is_empty() {
        frame.render_widget(Paragraph::new("Nobody is on the telephone.").dim().block(block), area);
        return;
    }
    let width = usize::from(area.width.saturating_sub(2));
    let row = |call: &Call| {
        let lasted = call.lasted(now).map(span).unwrap_or_default();
        let rest = format!("{} {} {lasted:>7}", fit(&call.agent, 12), fit(call.doing.word(), 9));
        let line = Line::from(format!("{} {rest}", fit(&call.title, width.saturating_sub(rest.len() + 3))));
        if call.ended.is_some() { line.dim() } else { line }
    };
    let rows = List::new(state.calls.all().iter().map(row))
        .block(block)
        .highlight_symbol("> ")
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(rows, area, &mut ListState::default().with_selected(state.place()));
}

fn call(frame: &mut Frame<'_>, area: Rect, state: &State, now: Timestamp) -> usize {
    let Some(call) = state.chosen() else { return 0 };
    let lasted = call.lasted(now).map(span).unwrap_or_default();
    let about = [&call.title, &call.agent, &lasted, &call.codec, &call.id];
    let title: Vec<&str> = about.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let room = usize::from(area.width.saturating_sub(4));
    let block = Block::bordered().title(format!(" {} ", fit(&title.join(", "), room).trim_end()));
    let inside = block.inner(area);
    let lines = transcript(call, usize::from(inside.width));
    let above = lines.len().saturating_sub(usize::from(inside.height));
    let first = above - state.back.min(above);
    let shown: Vec<_> = lines.into_iter().skip(first).take(usize::from(inside.height)).collect();
    let block = if first < above { block.title_bottom(format!(" {} more lines below ", above - first)) } else { block };
    frame.render_widget(Paragraph::new(shown).block(block), area);
    above
}

/// What was said, and where the time went, the newest last.
fn transcript(call: &Call, width: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = call.said.iter().flat_map(|turn| over(turn, width)).collect();
    let open = &call.open;
    if !open.caller.is_empty() {
        let style = if open.is_final { Style::new() } else { Style::new().add_modifier(Modifier::ITALIC) };
        lines.extend(labelled(said_by(&open.caller), &open.caller, style, width));
    }
    let answer = open.answer();
    if !answer.is_empty() {
        lines.extend(labelled("Agent   ", &answer, Style::new(), width));
    }
    lines.extend(labelled("", &call.doing.sentence(), Style::new().add_modifier(Modifier::DIM), width));
    lines
}

/// What stands in brackets the box has noted: keys, a transfer, an operator.
fn said_by(words: &str) -> &'static str {
    if words.starts_with('(') && words.ends_with(')') { "Note    " } else { "Caller  " }
}

fn over(turn: &Turn, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if !turn.caller.is_empty() {
        lines.extend(labelled(said_by(&turn.caller), &turn.caller, Style::new(), width));
    }
    let cut = if turn.interrupted { " … (interrupted)" } else { "" };
    if !turn.agent.is_empty() || turn.interrupted {
        lines.extend(labelled("Agent   ", &format!("{}{cut}", turn.agent), Style::new(), width));
    }
    lines.extend(waterfall::lines(&turn.timings, width));
    lines.push(Line::default());
    lines
}

fn footer(state: &State, width: usize) -> Line<'static> {
    if let Some(call) = state.doomed() {
        let asked = format!("Hang up at once, without a word? y yes, any other key no. {}, {}", call.title, call.id);
        return Line::from(fit(&asked, width)).reversed();
    }
    if let Some(said) = state.said() {
        return Line::from(fit(said, width)).bold();
    }
    let keys = if state.opened { "esc back" } else { "j/k choose  enter open" };
    Line::from(fit(&format!("{keys}  x hang up  h help  q quit"), width)).dim()
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let wide = HELP.iter().map(|line| line.len()).max().unwrap_or(0) + 4;
    let wide = u16::try_from(wide).unwrap_or(u16::MAX).min(area.width);
    let high = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect::new((area.width - wide) / 2, (area.height - high) / 2, wide, high);
    frame.render_widget(Clear, place);
    let lines: Vec<_> = HELP.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), place);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

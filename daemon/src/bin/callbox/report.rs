//! `callbox report`: what the last hours or days looked like. Enters: rows of the daemon's; leaves: a table for people,
//! CSV (RFC 4180) for spreadsheets, JSON for programs. Never here: a sum or a percentile.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::client::Daemon;

/// See [`crate::Command::Report`].
#[derive(Args)]
pub(crate) struct Arguments {
    /// What about.
    #[arg(value_enum, default_value_t = Kind::Summary)]
    kind: Kind,
    #[command(flatten)]
    daemon: Daemon,
    /// How far back calls began: 90m, 24h, 7d, 4w.
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = span)]
    since: Duration,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// All of it in one row.
    Summary,
    /// Calls by the hour, or by the day if that is many.
    Calls,
    /// Turns by agent.
    Turns,
    /// Each part of the time from the caller's last word to the agent's first.
    Latency,
    /// How turns ended: heard, interrupted, failed and why.
    Outcomes,
    /// What befell the box: starts, engines lost and ready, drains, reloads.
    Events,
    /// Where answers came from: the model, or what was known; by agent.
    Cache,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Summary => "summary",
            Self::Calls => "calls",
            Self::Turns => "turns",
            Self::Latency => "latency",
            Self::Outcomes => "outcomes",
            Self::Events => "events",
            Self::Cache => "cache",
        }
    }

    /// Fields in the order in which people want them; a point leads into an object.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Summary => &[
                "calls",
                "outbound",
                "unfinished",
                "at_once_most",
                "talked_s",
                "longest_s",
                "turns",
                "interrupted",
                "voice_to_voice.p50_ms",
                "voice_to_voice.p90_ms",
                "voice_to_voice.p95_ms",
                "voice_to_voice.p99_ms",
                "voice_to_voice.most_ms",
                "lost_percent",
                "late_percent",
            ],
            Self::Calls => &["begins", "calls", "outbound", "at_once_most", "talked_s", "turns", "lost_percent"],
            Self::Turns => &[
                "agent",
                "calls",
                "turns",
                "interrupted",
                "answer_tokens",
                "prompt_cached_percent",
                "voice_to_voice.p50_ms",
                "voice_to_voice.p95_ms",
                "voice_to_voice.p99_ms",
            ],
            Self::Cache => &[
                "agent",
                "source",
                "turns",
                "percent",
                "interrupted",
                "score",
                "voice_to_voice.p50_ms",
                "voice_to_voice.p95_ms",
            ],
            Self::Latency => &["stage", "turns", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "most_ms"],
            Self::Outcomes => &["agent", "kind", "outcome", "failure", "turns", "retries"],
            Self::Events => &["at", "kind", "detail"],
        }
    }
}

/// A span as people write it.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no span: give a number and s, m, h, d or w, as in 24h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|span| *span > 0).map(Duration::from_secs).ok_or_else(wrong)
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { kind, daemon, since, format } = arguments;
    let (_, answer) = daemon.get(&format!("/api/v1/reports/{}?since_s={}", kind.name(), since.as_secs()), None).await?;
    match format {
        Format::Json => println!("{answer}"),
        Format::Table => print!("{}", table(&cells(kind, &answer))),
        Format::Csv => print!("{}", csv(&cells(kind, &answer))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the columns, and a line for each row.
fn cells(kind: Kind, answer: &Value) -> Vec<Vec<String>> {
    let rows: Vec<&Value> = answer["rows"].as_array().into_iter().flatten().collect();
    let mut columns: Vec<String> = kind.columns().iter().map(|name| (*name).to_owned()).collect();
    // Which reasons there are is known only from the answer.
    let ended = rows.iter().filter_map(|row| row["ended"].as_object()).flat_map(|ended| ended.keys());
    columns.extend(ended.map(|reason| format!("ended.{reason}")));
    let row = |row: &&Value| columns.iter().map(|column| cell(row, column)).collect();
    let rows: Vec<_> = rows.iter().map(row).collect();
    std::iter::once(columns).chain(rows).collect()
}

fn cell(row: &Value, column: &str) -> String {
    let value = column.split('.').fold(row, |value, name| &value[name]);
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

/// One row stands upright, several as lines below their names.
fn table(cells: &[Vec<String>]) -> String {
    let upright: Vec<Vec<String>>;
    let cells = match cells {
        [names, row] => {
            upright = names.iter().zip(row).map(|(name, value)| vec![name.clone(), value.clone()]).collect();
            &upright
        }
        cells => cells,
    };
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |line: &Vec<String>| {
        let parts = line.iter().zip(&widths).enumerate().map(|(column, (text, width))| match column {
            0 => format!("{text:<width$}"),
            _ => format!("{text:>width$}"),
        });
        parts.collect::<Vec<_>>().join("  ") + "\n"
    };
    cells.iter().map(line).collect()
}

fn csv(cells: &[Vec<String>]) -> String {
    let field = |text: &String| {
        if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() }
    };
    cells.iter().map(|line| line.iter().map(field).collect::<Vec<_>>().join(",") + "\r\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        assert_eq!(span("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(span("2w"), Ok(Duration::from_secs(1_209_600)));
        for text in ["", "h", "0h", "-1h", "24", "1y", "1 h", "99999999999999999999s", "9223372036854775807w", "1ä"] {
            assert!(span(text).is_err_and(|why| why.contains("as in 24h")), "{text}");
        }
    }

    #[test]
    fn rows_are_lines_and_one_row_stands_upright() {
        let answer = json!({ "rows": [
            { "agent": "desk, day", "calls": 3, "voice_to_voice": { "p50_ms": 812.5 } },
            { "agent": "night", "calls": 1, "voice_to_voice": null },
        ]});
        let cells = cells(Kind::Turns, &answer);
        assert!(csv(&cells).contains("\r\n\"desk, day\",3,,,,,812.5,,\r\nnight,1,"));
        let lines = table(&cells);
        let widths: Vec<_> = lines.lines().map(|line| line.chars().count()).collect();
        assert!(lines.starts_with("agent ") && widths.iter().all(|width| *width == widths[0]), "{lines}");
        let summary = json!({ "rows": [{ "calls": 3, "ended": { "caller_hangup": 2, "x\u{1b}": 1 } }] });
        let lines = table(&super::cells(Kind::Summary, &summary));
        assert!(
            lines.contains("calls") && lines.lines().any(|line| line.starts_with("ended.caller_hangup")),
            "{lines}"
        );
        assert_eq!(table(&super::cells(Kind::Latency, &json!({ "rows": [] }))).lines().count(), 1);
    }
}

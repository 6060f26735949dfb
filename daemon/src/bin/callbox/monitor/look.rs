//! The box as the monitor knows it. Enters: health, metrics and a report of the daemon; leaves: tiles, and what somebody
//! should look at. Never here: a terminal.

use std::time::Duration;

use callbox::storage::Timestamp;
use serde_json::Value;

use crate::printable::printable;

/// Voice to voice above which answers are slow, and above which they are bad, in milliseconds.
const SLOW_MS: [f64; 2] = [1500.0, 3000.0];

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A part of the box, or a figure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) tone: Tone,
}

fn tile(name: impl Into<String>, value: impl Into<String>, tone: Tone) -> Tile {
    Tile { name: name.into(), value: value.into(), tone }
}

/// What somebody should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Alert {
    pub(super) what: String,
    pub(super) why: String,
    pub(super) bad: bool,
}

pub(super) fn alert(what: impl Into<String>, why: impl Into<String>, bad: bool) -> Alert {
    Alert { what: what.into(), why: why.into(), bad }
}

/// How the box was when it was looked at.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Look {
    pub(super) health: Value,
    /// The page of metrics.
    pub(super) answered: f64,
    pub(super) refused: f64,
    pub(super) restarts: f64,
    /// Of 100 answers of the last hour 95 came within so many milliseconds.
    pub(super) p95_ms: Option<f64>,
}

/// A part as a person calls it.
fn part_name(part: &str) -> String {
    match part {
        "engine:ears" => "Ears".into(),
        "engine:mind" => "Mind".into(),
        "engine:voice" => "Voice".into(),
        "storage" => "Database".into(),
        "sip" => "Signalling".into(),
        "media" => "Media".into(),
        "drain" => "Drain".into(),
        "selftest" => "Self-test".into(),
        part => printable(part),
    }
}

/// All samples of a metric on a page of OpenMetrics, added up.
fn metric(page: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let (sample, value) = line.rsplit_once(' ')?;
        (sample.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
    };
    // Not `sum`, which makes -0 of nothing.
    page.lines().filter_map(value).fold(0.0, |sum, value| sum + value)
}

/// Hours, minutes and seconds.
pub(super) fn span(span: Duration) -> String {
    let (hours, minutes, seconds) = (span.as_secs() / 3600, span.as_secs() / 60 % 60, span.as_secs() % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

impl Look {
    pub(super) fn new(health: Value, metrics: &str, p95_ms: Option<f64>) -> Self {
        Self {
            health,
            answered: metric(metrics, "callbox_calls_total"),
            refused: metric(metrics, "callbox_calls_refused_total"),
            restarts: metric(metrics, "callbox_engine_restarts_total"),
            p95_ms,
        }
    }

    /// Whether calls are answered.
    pub(super) fn is_ready(&self) -> bool {
        self.health["status"] == "ready"
    }

    /// Whether they are taken: a self-test that fails turns nobody away.
    pub(super) fn takes_calls(&self) -> bool {
        self.parts().all(|(part, why)| why == "ready" || part == "selftest")
    }

    /// The version, and how long it has been up.
    pub(super) fn about(&self) -> (String, String) {
        let version = self.health["version"].as_str().map(printable).unwrap_or_default();
        (version, span(Duration::from_secs(self.health["uptime_seconds"].as_u64().unwrap_or(0))))
    }

    fn parts(&self) -> impl Iterator<Item = (&str, String)> {
        let parts = self.health["parts"].as_object().into_iter().flatten();
        parts.map(|(part, why)| (part.as_str(), why.as_str().map(printable).unwrap_or_default()))
    }

    fn trunks(&self) -> impl Iterator<Item = (String, &Value)> {
        self.health["trunks"].as_object().into_iter().flatten().map(|(name, trunk)| (printable(name), trunk))
    }

    fn lost_records(&self) -> u64 {
        self.health["storage"]["records_lost"].as_u64().unwrap_or(0)
    }

    fn slowness(&self) -> Option<(f64, Tone)> {
        let p95 = self.p95_ms?;
        let tone = if p95 > SLOW_MS[1] {
            Tone::Bad
        } else if p95 > SLOW_MS[0] {
            Tone::Warning
        } else {
            Tone::Good
        };
        Some((p95, tone))
    }

    /// Parts first, then figures.
    pub(super) fn tiles(&self) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for (part, why) in self.parts().filter(|(part, _)| *part != "drain") {
            let (value, tone) = if why == "ready" { ("ready", Tone::Good) } else { ("not ready", Tone::Bad) };
            tiles.push(tile(part_name(part), value, tone));
        }
        for (name, trunk) in self.trunks() {
            let calls = format!("{} calls", trunk["calls"].as_u64().unwrap_or(0));
            let down = trunk["registered"] == false;
            let (value, tone) = if down { ("not registered".into(), Tone::Bad) } else { (calls, Tone::Good) };
            tiles.push(tile(format!("Trunk {name}"), value, tone));
        }
        let some = |count: f64| if count > 0.0 { Tone::Warning } else { Tone::Plain };
        tiles.push(tile("Answered", self.answered.to_string(), Tone::Plain));
        tiles.push(tile("Refused", self.refused.to_string(), some(self.refused)));
        tiles.push(tile("Engine restarts", self.restarts.to_string(), some(self.restarts)));
        if let Some((p95, tone)) = self.slowness() {
            tiles.push(tile("Voice to voice, p95 of an hour", format!("{p95:.0} ms"), tone));
        }
        tiles
    }

    /// What is wrong; `restarts` is how many there had been when the monitor began.
    pub(super) fn alerts(&self, restarts: f64) -> Vec<Alert> {
        let mut alerts: Vec<_> = self
            .parts()
            .filter(|(_, why)| why != "ready")
            .map(|(part, why)| alert(part_name(part), why, true))
            .collect();
        if self.restarts > restarts {
            let times = self.restarts - restarts;
            alerts.push(alert("Engine", format!("was lost {times} times since this monitor began"), false));
        }
        if let Some((p95, tone)) = self.slowness().filter(|(_, tone)| *tone != Tone::Good) {
            let why = format!("95 of 100 within {p95:.0} ms in the last hour");
            alerts.push(alert("Slow answers", why, tone == Tone::Bad));
        }
        for (name, _) in self.trunks().filter(|(_, trunk)| trunk["registered"] == false) {
            alerts.push(alert(format!("Trunk {name}"), "is not registered: nobody can call through it", true));
        }
        if let Some(fault) = self.health["storage"]["fault"].as_str() {
            alerts.push(alert("Database", printable(fault), true));
        }
        match self.lost_records() {
            0 => {}
            lost => alerts.push(alert("Database", format!("{lost} records were lost"), false)),
        }
        alerts
    }
}

/// How long ago, for a sentence.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    span(Duration::from_micros(u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0)))
}

//! What came of each row. Enters: figures, bars, errors; leaves: JSON, and a line on standard error as each row ends. Never
//! here: a row that did not run and counts as passed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use candle_core::Device;
use serde_json::{Map, Value, json};

/// Whose weights a row was computed with.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    Real,
    Drawn,
    /// None at all.
    None,
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    Most(f64),
    Least(f64),
}

impl Bar {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::Most(bar) => figure <= bar,
            Self::Least(bar) => figure >= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most(bar) => write!(f, "≤ {bar}"),
            Self::Least(bar) => write!(f, "≥ {bar}"),
        }
    }
}

/// One row; a figure that is no number meets no bar.
pub(crate) struct Row {
    /// By what it is found in the result.
    pub(crate) key: String,
    /// What it is, where the key does not say all.
    pub(crate) name: String,
    pub(crate) weights: Weights,
    pub(crate) figure: f64,
    pub(crate) unit: &'static str,
    /// None: there is none, and the figure is only told.
    pub(crate) bar: Option<Bar>,
    /// What else was measured.
    pub(crate) more: Value,
}

pub(crate) struct Report {
    only: Vec<String>,
    /// Whether bars are about this device: a test's are about every one, a bench's about cards.
    judges: bool,
    rows: Map<String, Value>,
    failed: usize,
}

impl Report {
    pub(crate) fn new(device: &Device, only: Vec<String>, bench: bool) -> Self {
        Self { only, judges: !bench || !device.is_cpu(), rows: Map::new(), failed: 0 }
    }

    /// Bars of a bench are about the true shapes alone.
    pub(crate) fn tell_only(&mut self) {
        self.judges = false;
    }

    /// Runs what is called `name`, unless others were asked for.
    pub(crate) fn group(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
            return;
        }
        let started = now();
        // What breaks in one takes none of the others with it.
        let ran = catch_unwind(AssertUnwindSafe(|| run(self)));
        if let Err(error) = ran.unwrap_or_else(|_| Err(anyhow!("a panic: the lines before this say where"))) {
            eprintln!("{name}: {error:#}");
            self.failed += 1;
            self.rows.insert(name.to_owned(), json!({ "error": format!("{error:#}"), "met": false }));
        }
        eprintln!("--- {name}: {:.1} s", started.elapsed().as_secs_f64());
    }

    pub(crate) fn row(&mut self, row: Row) {
        let Row { key, name, weights, figure, unit, bar, more } = row;
        let met = bar.filter(|_| self.judges).map(|bar| bar.holds(figure));
        self.failed += usize::from(met == Some(false));
        let bar = bar.map(|bar| bar.to_string());
        let wanted = bar.as_ref().map_or_else(String::new, |bar| format!(", {bar}"));
        let missed = if met == Some(false) { " MISSED" } else { "" };
        eprintln!("{key}: {figure:.5} {unit}{wanted}{missed}");
        let weights = match weights {
            Weights::Real => json!("real"),
            Weights::Drawn => json!("random"),
            Weights::None => Value::Null,
        };
        let mut value = Map::new();
        for (of, part) in [
            ("name", json!(name)),
            ("weights", weights),
            ("figure", json!(figure)),
            ("unit", json!(unit)),
            ("bar", json!(bar)),
            ("met", json!(met)),
            ("more", more),
        ] {
            if !(matches!(of, "name" | "more") && (part.is_null() || part == "")) {
                value.insert(of.to_owned(), part);
            }
        }
        self.rows.insert(key, Value::Object(value));
    }

    pub(crate) fn rows(&self) -> &Map<String, Value> {
        &self.rows
    }

    /// Rows that did not run, or missed a bar; one if none ran at all.
    pub(crate) fn failed(&self) -> usize {
        self.failed + usize::from(self.rows.is_empty())
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long something took, many times over.
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// After `warm` times that do not count, `count` times of it; all that the device was given to do is done by the end.
    pub(crate) fn of(device: &Device, warm: usize, count: usize, mut run: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut times = Vec::with_capacity(count);
        for index in 0..warm + count {
            device.synchronize()?;
            let started = now();
            run()?;
            device.synchronize()?;
            if index >= warm {
                times.push(millis(started.elapsed()));
            }
        }
        Ok(Self::from(times))
    }

    /// In ms; the share `of` of them took no longer.
    pub(crate) fn at(&self, of: f64) -> f64 {
        let index = (of * self.0.len() as f64).ceil() as usize;
        self.0.get(index.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "count": self.0.len(), "least_ms": self.at(0.0), "p50_ms": self.at(0.5), "p95_ms": self.at(0.95) })
    }
}

impl From<Vec<f64>> for Times {
    fn from(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    1000.0 * time.as_secs_f64()
}

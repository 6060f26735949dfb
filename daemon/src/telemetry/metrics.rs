//! The registry of metrics. Enters: what rooms count; leaves: OpenMetrics text. Names begin with `callbox_`, units are
//! base units. A room that counts something of its own keeps the struct beside that code and adds it with
//! [`Metrics::register`]; here is what several rooms share.

use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use crate::base::Clock;

/// Seconds: from what nobody notices to what nobody waits for, densest where a conversation is decided.
pub const LATENCY_BUCKETS: [f64; 18] =
    [0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.3, 1.6, 2.5, 5.0, 10.0];

/// One label: its name, its value.
pub type Label<V> = [(&'static str, V); 1];

/// What a turn's time is spent on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// From the last voiced sample to the decision that the turn has ended.
    Endpoint,
    /// From that decision to the words.
    Stt,
    /// Looking for a known answer.
    Cache,
    /// Looking what documents say.
    Knowledge,
    /// From there to the first clause.
    Llm,
    /// From the first clause to its first frame of audio.
    Tts,
    /// From that frame to the first packet of it.
    Playout,
}

impl Stage {
    /// All of them, in the order in which a turn passes them.
    pub const ALL: [Self; 7] =
        [Self::Endpoint, Self::Stt, Self::Cache, Self::Knowledge, Self::Llm, Self::Tts, Self::Playout];

    /// The value of the label `stage`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Stt => "stt",
            Self::Cache => "cache",
            Self::Knowledge => "knowledge",
            Self::Llm => "llm",
            Self::Tts => "tts",
            Self::Playout => "playout",
        }
    }
}

/// Why a call was not answered that signalling had let through; what it refuses itself is `callbox_sip_refused`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// No port is free for its audio, or no address of ours reaches the caller.
    Full,
    /// The engine was not ready.
    NotReady,
    /// A drain began while the call was on its way to its agent.
    Draining,
    /// No agent has that number.
    NoAgent,
    /// No codec or no media address in common.
    NoMedia,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Full, Self::NotReady, Self::Draining, Self::NoAgent, Self::NoMedia];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::NoAgent => "no_agent",
            Self::NoMedia => "no_media",
        }
    }
}

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

type Histograms<V> = Family<Label<V>, Histogram, fn() -> Histogram>;

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// Counts one as long as it lives, whatever ends it.
#[derive(Debug)]
#[must_use = "dropping it counts one less"]
pub struct While(Gauge);

impl While {
    /// One more.
    pub fn new(of: &Gauge) -> Self {
        of.inc();
        Self(of.clone())
    }
}

impl Drop for While {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Calls and their turns.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    /// Answered and not ended.
    pub active: Gauge,
    /// How many there may be at once.
    pub limit: Gauge,
    /// Answered since the start.
    pub answered: Counter,
    refused: Family<Label<Refusal>, Counter>,
    stages: Histograms<Stage>,
    voice_to_voice: Histogram,
}

impl CallMetrics {
    /// Counts a call that was not answered.
    pub fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Time that a turn spent in a stage.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&[("stage", stage)]).observe(took.as_secs_f64());
    }

    /// From the last voiced sample of the caller to the first of the agent, as the daemon sees it; what the caller
    /// hears is this and the network.
    pub fn voice_to_voice(&self, took: Duration) {
        self.voice_to_voice.observe(took.as_secs_f64());
    }

    fn register(registry: &mut Registry) -> Self {
        let this = Self {
            active: Gauge::default(),
            limit: Gauge::default(),
            answered: Counter::default(),
            refused: Family::default(),
            stages: Family::new_with_constructor(latency),
            voice_to_voice: latency(),
        };
        // So that every series exists from the first scrape: a rate over one that appears with its first event is lost.
        for reason in Refusal::ALL {
            drop(this.refused.get_or_create(&[("reason", reason)]));
        }
        for stage in Stage::ALL {
            drop(this.stages.get_or_create(&[("stage", stage)]));
        }
        registry.register("calls_active", "Calls answered and not ended", this.active.clone());
        registry.register("calls_limit", "Calls that may be up at once", this.limit.clone());
        registry.register("calls", "Calls answered", this.answered.clone());
        registry.register("calls_refused", "Calls not answered", this.refused.clone());
        registry.register_with_unit("stage", "Time of a turn's stages", Unit::Seconds, this.stages.clone());
        registry.register_with_unit(
            "voice_to_voice",
            "From the caller's last voiced sample to the agent's first, estimated in the daemon",
            Unit::Seconds,
            this.voice_to_voice.clone(),
        );
        this
    }
}

/// A time that is replaced by a later one.
type Seconds = Gauge<f64, AtomicU64>;

/// Inference workers, by name.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    up: Family<Label<String>, Gauge>,
    restarts: Family<Label<String>, Counter>,
    start: Family<Label<String>, Seconds>,
    load: Family<Label<&'static str>, Seconds>,
    warmup: Family<Label<&'static str>, Seconds>,
    models: Family<[(&'static str, String); 2], Gauge>,
}

impl EngineMetrics {
    /// Whether an engine has passed its warm-up and answers. The first call makes the engine known, with no restarts.
    pub fn set_up(&self, engine: &str, up: bool) {
        self.up.get_or_create(&[("engine", engine.to_owned())]).set(up.into());
        drop(self.restarts.get_or_create(&[("engine", engine.to_owned())]));
    }

    /// Counts a restart.
    pub fn restarted(&self, engine: &str) {
        self.restarts.get_or_create(&[("engine", engine.to_owned())]).inc();
    }

    /// An engine became ready after callers had waited so long for it.
    pub fn started(&self, engine: &str, took: Duration) {
        self.start.get_or_create(&[("engine", engine.to_owned())]).set(took.as_secs_f64());
    }

    /// The roles that an engine offers now, each with its model, the time to load that, and the time to warm it up. There
    /// are no others any more.
    pub fn roles(&self, roles: impl IntoIterator<Item = (&'static str, String, Duration, Duration)>) {
        self.load.clear();
        self.warmup.clear();
        self.models.clear();
        for (role, model, load, warmup) in roles {
            self.load.get_or_create(&[("role", role)]).set(load.as_secs_f64());
            self.warmup.get_or_create(&[("role", role)]).set(warmup.as_secs_f64());
            self.models.get_or_create(&[("role", role.to_owned()), ("model", model)]).set(1);
        }
    }

    fn register(registry: &mut Registry) -> Self {
        let this = Self {
            up: Family::default(),
            restarts: Family::default(),
            start: Family::default(),
            load: Family::default(),
            warmup: Family::default(),
            models: Family::default(),
        };
        let help = "How long callers had to wait for the engine the last time";
        registry.register_with_unit("engine_start", help, Unit::Seconds, this.start.clone());
        let help = "Time to load the model of a role";
        registry.register_with_unit("engine_load", help, Unit::Seconds, this.load.clone());
        let help = "Time of the first inference of a role";
        registry.register_with_unit("engine_warmup", help, Unit::Seconds, this.warmup.clone());
        registry.register("engine_model", "1: the model of a role", this.models.clone());
        registry.register("engine_up", "1 if the engine is ready to work", this.up.clone());
        registry.register("engine_restarts", "Restarts of the engine", this.restarts.clone());
        this
    }
}

/// All metrics of the process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Calls and their turns.
    pub calls: CallMetrics,
    /// Inference workers.
    pub engines: EngineMetrics,
}

impl Metrics {
    /// The shared metrics, and those of the process itself; `clock` tells its uptime from here on.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let mut registry = Registry::with_prefix("callbox");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        registry.register_collector(Box::new(Process::new(clock)));
        let calls = CallMetrics::register(&mut registry);
        let engines = EngineMetrics::register(&mut registry);
        Self { registry: Arc::new(Mutex::new(registry)), calls, engines }
    }

    /// Adds metrics of a room; the prefix `callbox_` is added to their names. Once per name.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The page that Prometheus reads, as OpenMetrics 1.0 text.
    ///
    /// # Errors
    /// A metric failed to write itself, which is a bug.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ManualClock;

    #[test]
    fn the_page_has_base_units_and_every_series_from_the_start() {
        let clock = Arc::new(ManualClock::default());
        let metrics = Metrics::new(Arc::clone(&clock) as Arc<dyn Clock>);
        clock.advance(Duration::from_secs(90));
        metrics.calls.stage(Stage::Llm, Duration::from_millis(250));
        metrics.calls.refused(Refusal::Full);
        metrics.engines.set_up("cpu", true);
        let page = metrics.encode().expect("a page");
        for line in [
            "callbox_stage_seconds_bucket{le=\"0.3\",stage=\"llm\"} 1",
            "callbox_stage_seconds_bucket{le=\"0.2\",stage=\"llm\"} 0",
            "callbox_stage_seconds_count{stage=\"endpoint\"} 0",
            "callbox_calls_refused_total{reason=\"full\"} 1",
            "callbox_calls_refused_total{reason=\"draining\"} 0",
            "callbox_engine_up{engine=\"cpu\"} 1",
            "callbox_engine_restarts_total{engine=\"cpu\"} 0",
            "callbox_process_uptime_seconds 90.0",
            concat!("callbox_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            let line = page.lines().find(|line| line.starts_with(&format!("callbox_{name} "))).expect(name);
            let value: f64 = line.rsplit(' ').next().expect("a value").parse().expect("a number");
            assert!(value > 0.0, "{line}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}

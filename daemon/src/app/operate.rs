//! What operators order, carried out on the running parts: drain, take calls again, reload. One task, one order after
//! the other. Enters: orders (from `control`, and SIGHUP). Leaves: what has become of them. Never here: a change that
//! is made half: all that can fail comes before the first change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::adapters::Adapters;
use super::drain::{Drain, Step};
use super::{certificates, inventory, languages, limits, privacy, voices};
use crate::base::Clock;
use crate::base::trunk::Trunks;
use crate::call::agents::Agents;
use crate::call::{CallOut, Exchange, NotReached};
use crate::config::Config;
use crate::control::{AgentCard, CallOrder, Latch, NotCalled, Order, Orders, Readiness, ReloadError, Reloaded};
use crate::engine::NotDone;
use crate::recording::Recordings;
use crate::service::Service;
use crate::sip::Endpoint;
use crate::sip::outbound::{Lines, Undialled};
use crate::storage::StorageHandle;
use crate::telemetry::{self, Label, Metrics};

/// How often a drain looks at the calls.
const TICK: Duration = Duration::from_millis(100);

/// How long the phrases of new agents may take: an engine that is being restarted included.
const RENDERING: Duration = Duration::from_secs(45);

/// The parts that orders are carried out on.
pub(super) struct Operator {
    pub(super) exchange: Arc<Exchange>,
    pub(super) endpoint: Endpoint,
    pub(super) readiness: Readiness,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) orders: Orders,
    pub(super) storage: StorageHandle,
    pub(super) recordings: Recordings,
    /// What counts now.
    pub(super) config: Config,
    pub(super) lines: Lines,
    pub(super) drain: Drain,
    /// Cancelled when the daemon goes down: nobody waits for new agents then.
    pub(super) stopping: CancellationToken,
    /// Is told that a reload has begun, and that it is over.
    pub(super) service: Service,
    /// What is told of the agents.
    pub(super) agents: watch::Sender<Arc<[AgentCard]>>,
    /// The certificate of the HTTP listener.
    pub(super) web: certificates::Web,
    pub(super) metrics: OperatorMetrics,
}

/// What is counted of reloads.
pub(super) struct OperatorMetrics {
    limit: Gauge,
    reloads: Family<Label<&'static str>, Counter>,
    went_well: Gauge,
    at: Gauge,
}

impl OperatorMetrics {
    /// The start of the daemon was the first that went well.
    pub(super) fn register(metrics: &Metrics, clock: &dyn Clock) -> Self {
        let this = Self {
            limit: metrics.calls.limit.clone(),
            reloads: Family::default(),
            went_well: Gauge::default(),
            at: Gauge::default(),
        };
        ["done", "refused"].into_iter().for_each(|result| drop(this.reloads.get_or_create(&[("result", result)])));
        this.went_well(clock);
        metrics.register(|registry| {
            registry.register("config_reloads", "Reloads of the configuration", this.reloads.clone());
            let help = "1 if what the files said at the last reload, or at the start, counts";
            registry.register("config_last_reload_successful", help, this.went_well.clone());
            let help = "When what counts now was read, since 1970";
            registry.register_with_unit("config_read_timestamp", help, Unit::Seconds, this.at.clone());
        });
        this
    }

    fn went_well(&self, clock: &dyn Clock) {
        let at = clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.at.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        self.went_well.set(1);
    }

    fn reloaded(&self, done: bool, max_calls: u32, clock: &dyn Clock) {
        let result = if done { "done" } else { "refused" };
        self.reloads.get_or_create(&[("result", result)]).inc();
        self.limit.set(max_calls.into());
        if done {
            self.went_well(clock);
        } else {
            self.went_well.set(0);
        }
    }
}

/// As whoever gave the order is told.
fn not_called(why: NotReached) -> NotCalled {
    let sentence = why.to_string();
    match why {
        NotReached::NoAgent(_) | NotReached::Undialled(Undialled::BadNumber | Undialled::UnknownTrunk(_)) => {
            NotCalled::Wrong(sentence)
        }
        NotReached::NotReady | NotReached::NoPort | NotReached::Undialled(_) => NotCalled::NotNow(sentence),
        _ => NotCalled::NotReached(sentence),
    }
}

impl Operator {
    /// Carries orders out until nobody can give any.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP does nothing; `callbox reload` does"))
            .ok();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = queue.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                Some(()) = hung_up => drop(self.reload().await),
                _ = tick.tick(), if self.drain.is_on() => self.go_on(),
            }
        }
    }

    async fn carry_out(&mut self, order: Order) {
        // Whoever asked may have gone; it is done all the same.
        match order {
            Order::Drain { limit, done } => {
                self.begin_drain(limit).await;
                let _left = done.send(());
            }
            Order::Resume { done } => {
                self.resume().await;
                let _left = done.send(());
            }
            Order::Call { call, done } => {
                // It may ring for a minute.
                let exchange = Arc::clone(&self.exchange);
                tokio::spawn(async move {
                    let CallOrder { to, agent, trunk } = call;
                    let called = exchange.call_out(CallOut { to, agent, trunk }).await;
                    let _left = done.send(called.map_err(not_called));
                });
            }
            Order::LogLevel { wanted, done } => {
                if let Some(level) = wanted.filter(|level| *level != self.config.log.level) {
                    tracing::info!(level = level.as_str(), "the log's level is another until the next reload");
                    self.config.log.level = level;
                    telemetry::apply(&self.config.log);
                }
                let _left = done.send(self.config.log.level);
            }
            Order::Adapters { done } => {
                let _left = done.send(self.adapters().list().await);
            }
            Order::LoadAdapter { name, done } => {
                let _left = done.send(self.adapters().load(name).await);
            }
            Order::UnloadAdapter { name, done } => {
                let _left = done.send(self.adapters().unload(&name).await);
            }
            Order::Reload { done } => {
                let _left = done.send(self.reload().await);
            }
        }
    }

    fn adapters(&self) -> Adapters {
        Adapters { dir: self.config.models.dir.clone(), exchange: Arc::clone(&self.exchange) }
    }

    async fn begin_drain(&mut self, limit: Option<Duration>) {
        let configured = Duration::from_secs(self.config.sip.limits.drain_s.into());
        self.drain.begin(self.clock.now(), limit.unwrap_or(configured), limit.is_none());
        self.readiness.not_ready(Latch::Drain, "draining: new calls are refused");
        self.endpoint.drain().await;
        self.exchange.refuse_calls();
        tracing::info!(calls = self.exchange.calls(), "draining: new calls are refused");
        self.storage.event("drain", "");
        self.go_on();
    }

    async fn resume(&mut self) {
        if self.drain.is_on() {
            self.drain.cancel();
            self.exchange.take_calls();
            self.endpoint.take_calls().await;
            self.readiness.ready(Latch::Drain);
            tracing::info!("the drain was cancelled: calls are taken again");
            self.storage.event("resume", "");
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        let (now, calls) = (self.clock.now(), self.exchange.calls());
        if self.drain.step(now, calls) == Step::SayGoodbye {
            tracing::info!(calls, "the time of the drain is over: agents take leave");
            self.exchange.say_goodbye();
        }
        self.orders.drain_is(self.drain.status(now, calls));
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        self.service.reloading();
        let done = self.try_reload().await;
        self.metrics.reloaded(done.is_ok(), self.config.sip.limits.max_calls.get(), self.clock.as_ref());
        self.service.ready(if done.is_ok() { "reloaded" } else { "not reloaded" });
        self.storage.event("reload", done.as_ref().err().map(ToString::to_string).unwrap_or_default());
        match &done {
            Ok(reloaded) => {
                tracing::info!(
                    changed = reloaded.changed.join(" "),
                    needs_restart = reloaded.needs_restart.join(" "),
                    agents_added = reloaded.agents_added.join(" "),
                    agents_changed = reloaded.agents_changed.join(" "),
                    agents_removed = reloaded.agents_removed.join(" "),
                    "reloaded"
                );
                // Last: a log that is to say less from now on still says that.
                telemetry::apply(&self.config.log);
            }
            Err(error) => tracing::error!(%error, "not reloaded: everything stays as it was"),
        }
        done
    }

    async fn try_reload(&mut self) -> Result<Reloaded, ReloadError> {
        let wrong = |error: &dyn ToString| ReloadError::Configuration(error.to_string());
        let path = self.config.path.clone().unwrap_or_default();
        let wanted = Config::load(Path::new(&path)).and_then(Config::unlock).map_err(|error| wrong(&error))?;
        let (next, changed, needs_restart) = self.config.reload(&wanted).map_err(|error| wrong(&error))?;
        let agents = Agents::read(&next.agents.paths).map_err(|error| wrong(&error))?;
        agents.fit(&next.trunks).map_err(ReloadError::Configuration)?;
        voices::check(&next, &agents).map_err(ReloadError::Configuration)?;
        let rules = privacy::rules(&next, &agents).map_err(ReloadError::Configuration)?;
        let recordings = privacy::recordings(&next, &agents).map_err(ReloadError::Configuration)?;
        let tls = certificates::read(&next).map_err(|error| wrong(&error))?;
        let web = certificates::web(&next).map_err(|error| wrong(&error))?;
        let not_now = |why: &str| ReloadError::NotNow(why.to_owned());
        let not_done = |error| match error {
            NotDone::NotNow(why) => ReloadError::NotNow(why),
            NotDone::Wrong(why) => ReloadError::Configuration(why),
        };
        languages::check(&next, &agents).await.map_err(not_done)?;
        let late =
            "the engine did not render the new agents' phrases in time; try again when `callbox health` says ready";
        tokio::select! {
            rendered = tokio::time::timeout(RENDERING, self.exchange.render(&agents)) => {
                rendered.map_err(|_| not_now(late))?.map_err(not_done)?;
            }
            () = self.stopping.cancelled() => return Err(not_now("callboxd is going down")),
        }
        self.adapters().load_named(&agents).await.map_err(not_done)?;
        // From here on nothing fails.
        let before = self.exchange.agents();
        let agents_changed =
            agents.names().filter(|name| before.named(name).is_some() && !agents.holds_as_is(&before, name));
        let agents_changed = agents_changed.map(str::to_owned).collect();
        let missing = |from: &Agents, of: &Agents| {
            of.names().filter(|name| from.named(name).is_none()).map(str::to_owned).collect()
        };
        let (agents_added, agents_removed) = (missing(&before, &agents), missing(&agents, &before));
        self.storage.set_rules(rules);
        self.recordings.set(recordings);
        self.endpoint.limit(limits(&next)).await;
        self.endpoint.trunks(Trunks::new(&next.trunks)).await;
        certificates::renew(&self.endpoint, tls);
        self.web.renew(web);
        self.agents.send_replace(inventory::agents(&agents));
        self.exchange.replace(agents, next.sip.limits.retry_after_s.get());
        self.lines.set(&Trunks::new(&next.trunks));
        self.config = next;
        Ok(Reloaded { changed, needs_restart, agents_added, agents_changed, agents_removed })
    }
}

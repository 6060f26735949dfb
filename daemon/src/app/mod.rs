//! The daemon's parts, built in the order in which they need each other, and put away in the reverse order.
//!
//! Enters: a configuration. Leaves: a running daemon. Everything that can be wrong with the configuration or the machine
//! is found before the first call is answered; sockets are bound before anything is started that uses them.

mod adapters;
mod certificates;
mod collect;
mod disk;
mod drain;
mod inventory;
mod languages;
mod operate;
pub mod placing;
mod privacy;
mod recordings;
mod report;
mod voices;

pub use adapters::check as adapters;
pub use certificates::check as certificates;
pub use languages::check as languages;
pub use voices::check as voices;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::placing::Planned;
use crate::base::trunk::Trunks;
use crate::base::{Advertised, Clock, SystemClock};
use crate::cache::Answers;
use crate::call::agents::Agents;
use crate::call::stream::MediaPolicy;
use crate::call::{self, Exchange, Parts, Random, Rendered};
use crate::config::{Config, EngineKind};
use crate::control::{Control, ControlConfig, ControlState, DrainState, Latch, LiveCalls, Order, Orders, Readiness};
use crate::engine::{
    self, AdapterFiles, Engine, EngineProcess, EngineReport, EngineState, NotDone, Place, Placed, RestartPolicy, Role,
    Script, ScriptedEngine,
};
use crate::gpu::{Fence, Gpus, Seen, Watch};
use crate::knowledge::Knowledge;
use crate::media::{Media, MediaConfig, MediaThread};
use crate::models;
use crate::recording::Recorder;
use crate::service::{Inherited, Service};
use crate::sip::outbound::{Dns, Lines};
use crate::sip::{Endpoint, EndpointConfig, Limits};
use crate::storage::{Storage, StorageHandle};
use crate::telemetry::{Metrics, Traces};

/// Conversations that an engine on the processor thinks about at once.
const SEQUENCES: usize = 8;

/// How long NVIDIA's driver may take to tell of its cards before the daemon starts without them.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Loading models, and importing weights at the first start.
const ENGINE_START: Duration = Duration::from_secs(300);

/// How long the disk may take to open the database, or to write what waits. After that nobody waits for it: it hangs.
const DISK: Duration = Duration::from_secs(2);

/// How long calls may take to say goodbye.
const GOODBYES: Duration = Duration::from_secs(30);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or what it points to: exit status 78.
    #[error("{0}")]
    Configuration(String),
    /// The machine: exit status 1.
    #[error("{0}")]
    Machine(String),
}

fn configuration(error: impl ToString) -> StartError {
    StartError::Configuration(error.to_string())
}

fn machine(error: impl ToString) -> StartError {
    StartError::Machine(error.to_string())
}

/// What the daemon has from outside.
pub struct Outside {
    /// The line to the service manager.
    pub service: Service,
    /// What the manager has passed to us.
    pub inherited: Inherited,
}

/// A running daemon.
pub struct App {
    exchange: Arc<Exchange>,
    endpoint: Endpoint,
    lines: Lines,
    engine: Engine,
    readiness: Readiness,
    orders: Orders,
    stopping: CancellationToken,
    serving: JoinHandle<()>,
    watching: Vec<JoinHandle<()>>,
    control: Control,
    recorder: Recorder,
    storage: Storage,
    answers: Answers,
    media: Media,
    service: Service,
    disk: disk::Disk,
    gpu: Watch,
    traces: Traces,
}

impl App {
    /// Builds all parts; comes back when calls can come in. They are refused with 503 until the engine is ready.
    ///
    /// # Errors
    /// One sentence about the first part that cannot be had; nothing is left running then.
    pub async fn start(config: &Config, metrics: Metrics, outside: Outside) -> Result<Self, StartError> {
        let Outside { service, mut inherited } = outside;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let agents = Agents::read(&config.agents.paths).map_err(configuration)?;
        agents.fit(&config.trunks).map_err(configuration)?;
        let rules = privacy::rules(config, &agents).map_err(configuration)?;
        let adapters = adapters::named(&config.models.dir, &agents).map_err(configuration)?;
        voices::check(config, &agents).map_err(configuration)?;
        match languages::check(config, &agents).await {
            // It may be a slow disk: no reason to answer no call.
            Err(NotDone::NotNow(why)) => tracing::warn!("the agents' languages were not checked: {why}"),
            checked => checked.map_err(configuration)?,
        }
        // A reload may allow more calls, up to what the ports hold.
        let max_calls = usize::from(config.media.ports.pairs());

        let (storage, opening) = Storage::begin(&config.storage.path, Arc::clone(&clock)).map_err(machine)?;
        metrics.register(|registry| storage.handle().metrics().register(registry));
        storage.handle().set_rules(rules);
        let recorder = recordings::start(config, &agents, &storage.handle(), &metrics, Arc::clone(&clock))?;
        storage.handle().event("started", env!("CARGO_PKG_VERSION"));
        // Beside the database of calls; it is not needed to answer any.
        let kept = config.storage.path.with_file_name("answers.db");
        let answers = Answers::begin(Some(kept), Arc::clone(&clock)).map_err(machine)?;
        metrics.register(|registry| answers.metrics().register(registry));
        let knowledge = Knowledge::new(config.knowledge());
        metrics.register(|registry| knowledge.metrics().register(registry));
        let readiness = Readiness::default();
        let live = LiveCalls::new(max_calls, Arc::clone(&clock));
        let media = MediaThread::start(MediaConfig {
            bind: config.media.bind,
            ports: config.media.ports.first()..=config.media.ports.last(),
            max_sessions: max_calls,
        })
        .map_err(configuration)?;
        readiness.ready(Latch::Media);

        let mut endpoint_config = EndpointConfig::new(random()?);
        endpoint_config.udp.clone_from(&config.sip.udp);
        endpoint_config.tcp.clone_from(&config.sip.tcp);
        endpoint_config.tls.clone_from(&config.sip.tls);
        endpoint_config.certificates = Some(certificates::read(config).map_err(configuration)?);
        endpoint_config.inherited = inherited.named("sip");
        let advertised = Advertised::new(config.sip.advertised, &config.sip.local_networks);
        endpoint_config.advertised = advertised.clone();
        endpoint_config.session_expires = config.sip.session_expires_s;
        endpoint_config.limits = limits(config);
        endpoint_config.trunks = Trunks::new(&config.trunks);
        let left = call::left(&service, &mut inherited);
        let dialogs = left.iter().flat_map(call::Left::dialogs).collect();
        let (endpoint, incoming, calls) = Endpoint::resume(endpoint_config, dialogs).await.map_err(configuration)?;
        readiness.ready(Latch::Sip);

        let names = Dns::new(config.sip.resolver);
        let lines = Lines::new(endpoint.clone(), Arc::new(names), Arc::clone(&clock), random()?);

        let (orders, queue) = Orders::new();
        let (gpus, engines) = (Gpus::default(), Arc::new(OnceLock::new()));
        let (cards, shown_agents) = watch::channel(inventory::agents(&agents));
        let web = certificates::Web::default();
        web.renew(certificates::web(config).map_err(configuration)?);
        let state = ControlState {
            readiness: readiness.clone(),
            orders: orders.clone(),
            live: live.clone(),
            storage: storage.handle(),
            metrics: metrics.clone(),
            traces: collect::traces(endpoint.clone()),
            clock: Arc::clone(&clock),
            trunks: collect::trunks(endpoint.clone(), lines.clone()),
            agents: shown_agents,
            models: inventory::models(config),
            recorded: recordings::for_control(recorder.handle()),
            answers: answers.clone(),
            knowledge: knowledge.clone(),
            gpus: gpus.clone(),
            engines: collect::engines(Arc::clone(&engines)),
        };
        let control = Control::start(ControlConfig {
            http: config.http.listen,
            socket: config.http.socket.clone(),
            certificates: web.handshakes(),
            show_callers: config.http.show_callers,
            state,
        })
        .map_err(configuration)?;

        let gpu = Watch::start(config.engine.nvml.clone(), gpus.clone(), storage.handle()).map_err(machine)?;
        let Started { engine, speaks: files, fences } =
            start_engine(config, &agents, adapters.clone(), &service, &gpus).await?;
        drop(engines.set(engine.clone()));
        let name = |of: fn(&Speaks) -> &PathBuf| {
            files.as_ref().map_or_else(|| "scripted".to_owned(), |files| engine::identity(of(files)))
        };
        let speaks = (name(|files| &files.voice), name(|files| &files.llm));
        let weights = files.as_ref().map(|files| files.llm_sha256.clone());
        let rendered = files.and_then(|files| rendered(config, &files.voice, clock.as_ref()));
        let traces = Traces::start(config.telemetry.otlp.as_ref(), &metrics);
        let exchange = Exchange::new(Parts {
            agents,
            engine: engine.clone(),
            media: media.clone(),
            media_bind: config.media.bind,
            silence: Duration::from_secs(config.media.silence_s.get().into()),
            policy: MediaPolicy { inband_keys: config.media.dtmf_inband, ..MediaPolicy::default() },
            advertised,
            retry_after: config.sip.limits.retry_after_s.get(),
            storage: storage.handle(),
            live,
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            clock: Arc::clone(&clock),
            random: random()?,
            service: service.clone(),
            rendered,
            lines: lines.clone(),
            recordings: recorder.handle(),
            answers: answers.clone(),
            traces: traces.clone(),
            knowledge,
            speaks,
            weights,
            adapters,
        });
        exchange.restore(left, calls).await;
        // Not before: calls do not wait for a disk.
        match timeout(DISK, opening.wait()).await {
            Ok(opened) => opened.map_err(configuration)?,
            Err(_) => {
                tracing::error!("storage.path: its disk does not answer; records wait, and are lost if it stays so")
            }
        }
        readiness.ready(Latch::Storage);
        lines.set(&Trunks::new(&config.trunks));
        let stopping = CancellationToken::new();
        let operator = operate::Operator {
            exchange: Arc::clone(&exchange),
            endpoint: endpoint.clone(),
            lines: lines.clone(),
            readiness: readiness.clone(),
            clock: Arc::clone(&clock),
            orders: orders.clone(),
            storage: storage.handle(),
            metrics: operate::OperatorMetrics::register(&metrics, clock.as_ref()),
            recordings: recorder.handle(),
            config: config.clone(),
            drain: drain::Drain::default(),
            stopping: stopping.clone(),
            service: service.clone(),
            agents: cards,
            web: web.clone(),
        };
        let rooms = collect::Rooms { media: media.clone(), endpoint: endpoint.clone(), lines: lines.clone() };
        let here = collect::Here {
            readiness: readiness.clone(),
            engine: engine.clone(),
            orders: orders.clone(),
            web: web.clone(),
        };
        let certificates = certificates::watch(endpoint.clone(), web);
        metrics.calls.limit.set(config.sip.limits.max_calls.get().into());
        metrics.register(|registry| {
            engine.register(registry);
            registry.register_collector(Box::new(rooms));
            registry.register_collector(Box::new(here));
            registry.register_collector(Box::new(gpus.clone()));
        });
        let disk = disk::Disk::start(config, &metrics).map_err(machine)?;
        let watching = vec![
            tokio::spawn(watch_engine(
                engine.clone(),
                readiness.clone(),
                metrics.clone(),
                storage.handle(),
                Arc::clone(&clock),
            )),
            tokio::spawn(placing::guard(gpus, fences, Arc::clone(&clock))),
            tokio::spawn(Arc::clone(&exchange).render_phrases()),
            tokio::spawn(Arc::clone(&exchange).keep_answers()),
            tokio::spawn(operator.run(queue)),
            tokio::spawn(certificates),
            tokio::spawn(report::report(
                service.clone(),
                readiness.clone(),
                Arc::clone(&exchange),
                storage.handle(),
                stopping.clone(),
            )),
        ];
        service.watch("media", media.pulse());
        service.watch("control", control.pulse());
        service.watch("calls", report::beat());
        let serving = tokio::spawn(Arc::clone(&exchange).serve(incoming));
        Ok(Self {
            exchange,
            endpoint,
            lines,
            engine,
            readiness,
            orders,
            stopping,
            serving,
            watching,
            control,
            recorder,
            storage,
            answers,
            media,
            service,
            disk,
            gpu,
            traces,
        })
    }

    /// Comes back when calls are answered.
    pub async fn ready(&self) {
        self.readiness.wait_ready().await;
    }

    /// Where it listens: HTTP, then SIP over UDP, TCP and TLS.
    pub fn addresses(&self) -> (SocketAddr, [&[SocketAddr]; 3]) {
        let sip = &self.endpoint;
        (self.control.http(), [sip.local_udp(), sip.local_tcp(), sip.local_tls()])
    }

    /// Calls that are up.
    pub fn calls(&self) -> usize {
        self.exchange.calls()
    }

    /// Writes what waits for the disk. Whoever then ends the process without dropping anything leaves all calls, as they
    /// are, to the next daemon.
    pub async fn step_aside(&self) {
        let (storage, recordings, answers) = (self.storage.handle(), self.recorder.handle(), self.answers.clone());
        let write = move || {
            recordings.finish();
            storage.flush();
            answers.flush();
        };
        if !matches!(timeout(DISK, tokio::task::spawn_blocking(write)).await, Ok(Ok(()))) {
            tracing::error!("records of the last moment were lost");
        }
        self.traces.flush().await;
    }

    /// Drains: refuses new calls, lets those that are up go on for as long as is configured, then has their agents say
    /// goodbye. Puts all parts away.
    pub async fn stop(self) {
        self.service.stopping();
        self.storage.handle().event("stopping", "");
        self.drain().await;
        self.lines.leave().await;
        self.endpoint.shutdown(Duration::from_secs(1)).await;
        for task in self.watching {
            task.abort();
        }
        if timeout(Duration::from_secs(5), self.serving).await.is_err() {
            tracing::warn!("a call did not end in time");
        }
        self.traces.flush().await;
        self.engine.stop().await;
        drop(self.control);
        drop(self.disk);
        drop(self.gpu);
        drop(self.media);
        // What it says of its last parts is still written.
        drop(self.recorder);
        self.storage.close();
        self.answers.close();
    }
}

impl App {
    /// As `callbox drain`, to its end.
    async fn drain(&self) {
        self.stopping.cancel();
        let mut status = self.orders.drain();
        if self.orders.give(|done| Order::Drain { limit: None, done }).await.is_some() {
            let calls_go_on =
                status.wait_for(|status| matches!(status.state, DrainState::Goodbye | DrainState::Drained));
            drop(calls_go_on.await);
        } else {
            tracing::warn!("orders are not carried out any more: every agent takes leave now");
            self.exchange.refuse_calls();
            self.exchange.say_goodbye();
        }
        let goodbyes = timeout(GOODBYES, status.wait_for(|status| status.state == DrainState::Drained));
        if goodbyes.await.is_err() {
            tracing::warn!(calls = self.exchange.calls(), "calls were cut off: their goodbyes took too long");
        }
    }
}

fn limits(config: &Config) -> Limits {
    let limits = &config.sip.limits;
    Limits {
        max_calls: limits.max_calls.get() as usize,
        invites_per_second_per_source: limits.invites_per_second.get().into(),
        burst: limits.burst.get(),
        max_unacked_per_source: limits.unacked.get() as usize,
        retry_after: limits.retry_after_s.get(),
        ..Limits::default()
    }
}

/// A generator that nobody can predict.
fn random() -> Result<Random, StartError> {
    let mut generator = ChaCha20Rng::try_from_rng(&mut SysRng).map_err(machine)?;
    Ok(Box::new(move || generator.next_u64()))
}

/// The files that words and their sound come from.
struct Speaks {
    voice: PathBuf,
    llm: PathBuf,
    llm_sha256: String,
}

/// The engines.
struct Started {
    engine: Engine,
    /// A scripted one has no files.
    speaks: Option<Speaks>,
    /// One around each card that has an engine.
    fences: Vec<(Fence, watch::Sender<Option<String>>)>,
}

/// Starts an engine at each place.
async fn start_engine(
    config: &Config,
    agents: &Agents,
    adapters: Vec<AdapterFiles>,
    service: &Service,
    gpus: &Gpus,
) -> Result<Started, StartError> {
    let prime = Exchange::prime(agents);
    if config.engine.kind == EngineKind::Scripted {
        let path = config.engine.script.as_deref().unwrap_or_else(|| Path::new(""));
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| configuration(format!("engine.script: {shown} cannot be read: {error}")))?;
        let script: Script = toml::from_str(&text)
            .map_err(|error| configuration(format!("engine.script: {shown}: {}", error.message())))?;
        if script.answer.is_empty() {
            return Err(configuration(format!("engine.script: {shown} has no [[answer]]; write at least one")));
        }
        let place = Place { name: "script".into(), roles: Role::ALL.to_vec(), ..Place::default() };
        let engine = Engine::of(vec![(place, Box::new(ScriptedEngine::new(script)))], prime, adapters);
        return Ok(Started { engine, speaks: None, fences: Vec::new() });
    }
    if let Some(missing) = config.missing_programs().first() {
        return Err(configuration(missing.to_string()));
    }
    let pack = models::resolve(&config.models.dir, &config.models.pack, &config.models.own(), &models::Use::ALL)
        .map_err(configuration)?;
    let speaks = Speaks { voice: pack.voice.clone(), llm: pack.llm.clone(), llm_sha256: pack.llm_sha256.clone() };
    if pack.embed.is_none() {
        let pack = &config.models.pack;
        tracing::warn!(
            "there is no embedder: known questions are found in the same words only, until `callbox models pull {pack}`"
        );
    }
    let seen = match config.engine.kind {
        EngineKind::Auto => gpus.looked(FIRST_LOOK).await.unwrap_or_else(|| {
            tracing::error!("NVIDIA's driver does not answer: its cards are not used; restart the machine");
            Seen::default()
        }),
        EngineKind::Cpu | EngineKind::Scripted => Seen::default(),
    };
    let plan = placing::plan(config, &placing::files(&pack), &seen).await.map_err(configuration)?;
    plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (backoff, backoff_limit) = config.engine.restart();
    let (heartbeat, patience) = config.engine.heartbeat();
    let policy = RestartPolicy { start_limit: ENGINE_START, heartbeat, patience, backoff, backoff_limit };
    let mut fences = Vec::new();
    let mut placed: Vec<Placed> = Vec::new();
    for Planned { place, launch, .. } in plan.engines {
        tracing::info!(engine = place.name, card = place.card, roles = ?place.roles, "an engine is started");
        // Without a manager that starts another daemon, an engine that goes on would go on for nobody.
        let launch = if service.is_present() { launch.outliving() } else { launch };
        let mut process = EngineProcess::new(launch, policy.clone());
        if let Some(card) = &place.card {
            let (fence, closed) = watch::channel(None);
            fences.push((Fence::new(card.clone()), fence));
            process = process.behind(closed);
        }
        placed.push((place, Box::new(process)));
    }
    Ok(Started { engine: Engine::of(placed, prime, adapters), speaks: Some(speaks), fences })
}

/// Where the phrases of this voice are kept. Without them they are rendered again.
fn rendered(config: &Config, voice: &Path, clock: &dyn Clock) -> Option<Rendered> {
    let folder = config.models.cache.join("phrases");
    let opened = Rendered::open(folder, engine::identity(voice), clock.wall());
    if let Err(error) = &opened {
        tracing::warn!(%error, "models.cache cannot be used: fixed phrases are not kept for the next start");
    }
    opened.ok()
}

/// Carries the engines' state to the latches, the metrics and the record.
async fn watch_engine(
    engine: Engine,
    readiness: Readiness,
    metrics: Metrics,
    storage: StorageHandle,
    clock: Arc<dyn Clock>,
) {
    let mut state = engine.state();
    let mut known: HashMap<String, Known> = HashMap::new();
    loop {
        let now = state.borrow_and_update().clone();
        for (role, latch) in [(Role::Ears, Latch::Ears), (Role::Mind, Latch::Mind), (Role::Voice, Latch::Voice)] {
            match &now {
                EngineState::Ready(roles) if roles.iter().any(|info| info.role == role) => readiness.ready(latch),
                EngineState::Ready(_) => readiness.not_ready(latch, "the engine does not offer it"),
                EngineState::Starting => readiness.not_ready(latch, "the engine is starting"),
                EngineState::Lost { reason, .. } => readiness.not_ready(latch, reason.clone()),
            }
        }
        if let EngineState::Ready(roles) = now {
            metrics.engines.roles(roles.into_iter().map(|info| {
                let [load, warmup] = [info.load_ms, info.warmup_ms].map(|ms| Duration::from_millis(ms.into()));
                (engine::role_name(info.role), info.model, load, warmup)
            }));
        }
        for EngineReport { place: Place { name, .. }, state, .. } in engine.each() {
            let known = known.entry(name.clone()).or_insert_with(|| Known { since: clock.now(), up: false, times: 0 });
            let up = matches!(state, EngineState::Ready(_));
            metrics.engines.set_up(&name, up);
            if let EngineState::Lost { times, reason } = state
                && times > known.times
            {
                known.since = clock.now();
                storage.event("engine_lost", format!("{name}: {reason}"));
                for _ in known.times..times {
                    metrics.engines.restarted(&name);
                }
                known.times = times;
            }
            if up && !known.up {
                storage.event("engine_ready", &name);
                metrics.engines.started(&name, clock.now().saturating_duration_since(known.since));
            }
            known.up = up;
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// What was said of an engine last.
struct Known {
    /// Since when it has been waited for.
    since: Instant,
    up: bool,
    times: u64,
}

//! `callboxd`: parse, check, build, ready, wait, drain.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use callbox::app::{App, Outside, StartError};
use callbox::base::SystemClock;
use callbox::config::{Config, OWNERS};
use callbox::service::{Inherited, Service};
use callbox::telemetry::{Logging, Metrics};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A day has a peak and a night; the memory of the peak goes back to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bad configuration (`EX_CONFIG` of sysexits.h).
const BAD_CONFIGURATION: u8 = 78;

/// Answers telephone calls with models that run on this machine.
#[derive(Parser)]
#[command(name = "callboxd", version)]
struct Args {
    /// Configuration.
    #[arg(long, value_name = "FILE", default_value = OWNERS)]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Before anything else opens a descriptor, or starts a thread.
    let inherited = Inherited::take();
    let args = Args::parse();
    let inherited = match inherited {
        Ok(inherited) => inherited,
        Err(error) => return fail(BAD_CONFIGURATION, &error.to_string()),
    };
    let config = match Config::load(&args.config).and_then(Config::unlock) {
        Ok(config) => config,
        Err(error) => return fail(BAD_CONFIGURATION, &error.to_string()),
    };
    let metrics = Metrics::new(Arc::new(SystemClock));
    let logging = match Logging::start(&config.log, &metrics) {
        Ok(logging) => logging,
        Err(error) => return fail(BAD_CONFIGURATION, &error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("worker").build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("the runtime cannot be started: {error}")),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), "callboxd");
    let ended = match Service::start(Arc::new(SystemClock)) {
        Ok(service) => runtime.block_on(run(&config, metrics, Outside { service, inherited })),
        Err(error) => Err(StartError::Machine(format!("the service manager's thread cannot be started: {error}"))),
    };
    drop(logging);
    match ended {
        Ok(End::Down) => ExitCode::SUCCESS,
        // Not by returning: the runtime would end the calls, and they would hang up.
        Ok(End::Aside) => std::process::exit(0),
        Err(StartError::Configuration(sentence)) => fail(BAD_CONFIGURATION, &sentence),
        Err(StartError::Machine(sentence)) => fail(1, &sentence),
    }
}

fn fail(status: u8, sentence: &str) -> ExitCode {
    eprintln!("callboxd: {sentence}");
    ExitCode::from(status)
}

/// How the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All calls were ended.
    Down,
    /// The calls are the next daemon's.
    Aside,
}

async fn run(config: &Config, metrics: Metrics, outside: Outside) -> Result<End, StartError> {
    let mut signals = Signals::listen().map_err(|error| StartError::Machine(format!("no signals: {error}")))?;
    let service = outside.service.clone();
    let app = App::start(config, metrics, outside).await?;
    let (http, [udp, tcp, tls]) = app.addresses();
    tracing::info!(%http, ?udp, ?tcp, ?tls, "listening");
    let end = tokio::select! {
        () = app.ready() => {
            tracing::info!("ready: calls are answered");
            service.ready("calls are answered");
            signals.wait().await
        }
        end = signals.wait() => end,
    };
    if end == End::Aside && service.is_present() {
        tracing::info!(calls = app.calls(), "stepping aside: the next daemon goes on with the calls");
        app.step_aside().await;
        service.flush();
        // Its parts would be put away while calls still run, and calls without media hang up.
        std::mem::forget(app);
        return Ok(End::Aside);
    }
    tracing::info!(calls = app.calls(), "going down; a second signal ends everything at once");
    tokio::select! {
        () = app.stop() => tracing::info!("down"),
        _ = signals.wait() => tracing::warn!("ended at once"),
    }
    service.flush();
    Ok(End::Down)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Another daemon is going to take over, `RestartKillSignal=` of the unit.
    aside: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            aside: signal(SignalKind::user_defined2())?,
        })
    }

    async fn wait(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Down,
            _ = self.interrupt.recv() => End::Down,
            _ = self.aside.recv() => End::Aside,
        }
    }
}

//! `callbox-engine`: loads models, warms them up, serves a Unix socket.
//!
//! It offers the roles whose models it is given. Built with the feature `cuda` it is `callbox-engine-cuda`, and computes on a
//! card what can be computed there: Whisper, the mind, the embedder, Kokoro. The socket appears only when
//! every one of them has passed a warm-up inference, so whoever can connect can be served.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail};
use callbox_engine::device::{Gate, Place};
use callbox_engine::ears::{self, Ears};
use callbox_engine::embed::Embedder;
use callbox_engine::mind::{self, Mind};
use callbox_engine::needs;
use callbox_engine::role::{SharedOutlet, Worker};
use callbox_engine::serve::{Roles, Switchboard, outlet, serve};
use callbox_engine::voice::{self, Voice, VoiceConfig};
use callbox_wire::Need;
use clap::Parser;

const NAME: &str = if cfg!(feature = "cuda") { "callbox-engine-cuda" } else { "callbox-engine" };

/// The inference worker of Callbox; `callboxd` starts it.
#[derive(Parser)]
#[command(name = NAME, version)]
struct Args {
    /// Where to listen; appears when every role is ready.
    #[arg(long, required_unless_present = "needs")]
    socket: Option<PathBuf>,
    /// Silero VAD weights (safetensors); with --stt, offers the role `ears`.
    #[arg(long, requires = "stt")]
    vad: Option<PathBuf>,
    /// Whisper weights: .pt, .safetensors, or whisper.cpp's ggml-….bin.
    #[arg(long, requires = "vad")]
    stt: Option<PathBuf>,
    /// Language model (GGUF); offers the role `mind`.
    #[arg(long)]
    llm: Option<PathBuf>,
    /// Piper voice (.onnx beside its .onnx.json), or a speaker of Kokoro's (.bin beside the .onnx); offers the role `voice`.
    #[arg(long)]
    voice: Option<PathBuf>,
    /// MiniLM weights (safetensors beside its tokenizer.json); offers the role `embed`.
    #[arg(long)]
    embed: Option<PathBuf>,
    /// The espeak-ng program.
    #[arg(long, default_value = "espeak-ng")]
    espeak: PathBuf,
    /// Where imported weights are kept; can be deleted at any time.
    #[arg(long)]
    cache: PathBuf,
    /// Where Whisper, the mind, the embedder and Kokoro compute; a Piper voice computes on the processor.
    #[arg(long, value_enum, default_value_t)]
    device: Place,
    /// Threads that compute.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Conversations that are thought about at once.
    #[arg(long, default_value_t = 4)]
    sequences: usize,
    /// Tokens that one conversation may hold.
    #[arg(long, default_value_t = 2048)]
    context: usize,
    /// Compute the language model and Whisper's decoder with tensors, as a GPU does, on the processor, too: to test what
    /// runs there.
    #[arg(long, hide = true)]
    tensors: bool,
    /// With tensors: tokens whose keys and values are kept, of all conversations together.
    #[arg(long, hide = true)]
    kv_tokens: Option<usize>,
    /// Print what the models would take of a card's memory, as JSON, and end.
    #[arg(long)]
    needs: bool,
    /// The least important lines that are logged, on standard error: error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    log: tracing::Level,
    /// End when standard input ends: whoever started this holds the other end.
    #[arg(long)]
    guard_stdin: bool,
    /// Outlive the daemon, and end after so many seconds without one.
    #[arg(long, value_name = "SECONDS", conflicts_with = "guard_stdin")]
    linger: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    prepare(&args);
    tracing_subscriber::fmt().json().with_writer(io::stderr).with_max_level(args.log).init();
    hook();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            // For whoever waits for the socket, to say it in its own words.
            if let Some(socket) = &args.socket {
                drop(fs::write(socket.with_extension("why"), format!("{error:#}")));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.needs {
        println!("{}", serde_json::to_string(&needed(args)?)?);
        return Ok(());
    }
    if args.guard_stdin {
        thread::Builder::new().name("guard".into()).spawn(|| {
            if let Err(error) = io::copy(&mut io::stdin(), &mut io::sink()) {
                tracing::warn!(%error, "standard input failed");
            }
            tracing::info!("whoever started this is gone");
            std::process::exit(0);
        })?;
    }
    if args.device != Place::Cpu {
        let folder = compiled(args);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let switchboard = Arc::new(Switchboard::default());
    let roles = load(args, &outlet(&switchboard))?;
    args.device.watch()?;
    let socket = args.socket.as_deref().context("--socket says where to listen")?;
    let listener = listen(socket)?;
    if let Some(seconds) = args.linger {
        let watched = Arc::clone(&switchboard);
        thread::Builder::new().name("linger".into()).spawn(move || linger(&watched, seconds))?;
    }
    tracing::info!(socket = %socket.display(), "ready");
    serve(&listener, roles, &switchboard).context("the socket can no longer accept")
}

/// Of the models that it was given.
fn needed(args: &Args) -> Result<Vec<Need>> {
    let ears = args.stt.iter().map(|model| needs::ears(model));
    let mind = args.llm.iter().map(|model| needs::mind(model, args.sequences, args.context));
    let voice = args.voice.iter().map(|model| needs::voice(model));
    let embed = args.embed.iter().map(|model| needs::embed(model));
    ears.chain(mind).chain(voice).chain(embed).collect()
}

/// A panic is logged by place, without its message: that may quote what a caller said.
fn hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "a panic: this is a bug of Callbox");
    }));
}

/// Ends the process when no daemon has been connected for so long. Begins when one can connect: importing weights, at
/// the first start, may take minutes.
fn linger(switchboard: &Switchboard, seconds: u64) {
    const LOOK: Duration = Duration::from_secs(1);
    let mut alone = 0;
    while alone <= seconds {
        thread::park_timeout(LOOK);
        alone = if switchboard.is_wanted() { 0 } else { alone + 1 };
    }
    tracing::info!(seconds, "no daemon wants this engine");
    std::process::exit(0);
}

/// Models are read and warmed up beside each other: whoever starts a box is a caller's wait away from its first answer.
fn load(args: &Args, outlet: &SharedOutlet) -> Result<Roles> {
    let gate = Gate::default();
    let outlet = || Arc::clone(outlet);
    let ears = || {
        let (Some(vad), Some(stt)) = (&args.vad, &args.stt) else { return Ok(None) };
        let device = args.device.device()?;
        let (vad, stt) = (vad.clone(), stt.clone());
        let config = ears::Config { vad, stt, threads: args.threads, device, tensors: args.tensors };
        Ears::start(&config, gate.clone(), outlet()).context("the ears cannot start").map(announced)
    };
    let mind = || {
        let Some(model) = &args.llm else { return Ok(None) };
        let config = mind::Config {
            model: model.clone(),
            cache: args.cache.clone(),
            threads: args.threads,
            max_sequences: args.sequences,
            context: args.context,
            device: args.device.device()?,
            tensors: args.tensors,
            kv_tokens: args.kv_tokens,
        };
        Mind::start(&config, gate.clone(), outlet()).context("the mind cannot start").map(announced)
    };
    let voice = || {
        let Some(model) = &args.voice else { return Ok(None) };
        let device = args.device.device()?;
        let config = VoiceConfig {
            model: model.clone(),
            espeak: args.espeak.clone(),
            together: voice::together(&device),
            device,
            threads: args.threads,
        };
        Voice::start(&config, gate.clone(), outlet()).context("the voice cannot start").map(announced)
    };
    let embed = || {
        let Some(model) = &args.embed else { return Ok(None) };
        Embedder::start(model, &args.device.device()?, gate.clone(), outlet())
            .context("the embedder cannot start")
            .map(announced)
    };
    let [ears, mind, voice, embed] = thread::scope(|scope| {
        let begun = [scope.spawn(ears), scope.spawn(mind), scope.spawn(voice), scope.spawn(embed)];
        begun
            .map(|role| role.join().unwrap_or_else(|_| bail!("a bug of callbox-engine: the line before this names it")))
    });
    let roles = Roles { ears: ears?, mind: mind?, voice: voice?, embed: embed? };
    if roles.ears.is_none() && roles.mind.is_none() && roles.voice.is_none() && roles.embed.is_none() {
        bail!("no model was given: name at least one of --vad with --stt, --llm, --voice, --embed");
    }
    Ok(roles)
}

fn announced<W: Worker>(worker: W) -> Option<Box<dyn Worker>> {
    let info = worker.info();
    tracing::info!(
        role = ?info.role, model = info.model, load_ms = info.load_ms, warmup_ms = info.warmup_ms, "a role is ready"
    );
    Some(Box::new(worker))
}

/// Binds under another name and renames, so that the socket is never there before it can be connected to.
fn listen(path: &Path) -> Result<UnixListener> {
    let fresh = path.with_extension(format!("{}", std::process::id()));
    let shown = path.display();
    let bind = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(listener)
    };
    bind().with_context(|| format!("cannot listen on {shown}: its folder must exist and be writable"))
}

/// Where a card's driver keeps what it has compiled for that card; by default in a home, which a service does not have.
fn compiled(args: &Args) -> PathBuf {
    args.cache.join("cuda")
}

/// candle sizes its pools from the environment, once, at first use; the driver reads it when it is first asked.
fn prepare(args: &Args) {
    let (threads, compiled) = (args.threads.to_string(), compiled(args));
    for (name, value) in [
        ("CANDLE_NUM_THREADS", threads.as_ref()),
        ("RAYON_NUM_THREADS", threads.as_ref()),
        ("CUDA_CACHE_PATH", compiled.as_os_str()),
    ] {
        if std::env::var_os(name).is_none() {
            // SAFETY: first statement of main, before any other thread exists that could read the environment.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn breaks(words: &str) {
        panic!("no character begins at 9 of {words}");
    }

    #[test]
    fn a_panic_tells_its_place_and_no_words() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let log = tracing_subscriber::fmt().with_writer(Mutex::new(file.reopen().expect("opened"))).finish();
        hook();
        tracing::subscriber::with_default(log, || {
            std::panic::catch_unwind(|| breaks("swordfish é")).expect_err("a panic");
        });
        let lines = fs::read_to_string(file.path()).expect("text");
        assert!(lines.contains("main.rs") && !lines.contains("swordfish"), "{lines}");
    }
}

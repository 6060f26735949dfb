//! What an engine is given. Enters: model files, roles, the machine, a card and what models need of its memory; leaves: a
//! [`Launch`], and how a card's memory is shared out. Never here: a driver, or which card is meant.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::available_parallelism;
use std::time::Duration;

use callbox_wire::{Need, Role};
use tokio::process::Command;
use tokio::time::timeout;

use super::Launch;

/// Driver, context and NVIDIA's libraries, before there is a model (research: 0.8 GB on Hopper).
const FIXED: u64 = 800_000_000;

/// Of a card's memory, in per cent, that nobody plans with.
const RESERVE: u64 = 8;

/// Conversations that an engine on a card thinks about at once, if their keys and values have room.
const MOST_SEQUENCES: usize = 64;

/// Fewer than these make no engine.
const LEAST_SEQUENCES: usize = 8;

/// Reading the heads of a few files.
const PATIENCE: Duration = Duration::from_secs(20);

/// The model files of every role.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// Silero VAD weights.
    pub vad: PathBuf,
    /// Whisper weights.
    pub stt: PathBuf,
    /// Language model.
    pub llm: PathBuf,
    /// Piper voice, or a speaker of Kokoro's.
    pub voice: PathBuf,
    /// MiniLM weights; an engine without them does not offer the role `embed`.
    pub embed: Option<PathBuf>,
}

impl ModelFiles {
    /// The roles that there are files for.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| *role != Role::Embed || self.embed.is_some()).collect()
    }
}

/// What the engine may use of the machine.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Threads that compute.
    pub threads: usize,
    /// Conversations that are thought about at once.
    pub sequences: usize,
    /// Tokens that one conversation may hold.
    pub context: usize,
    /// Where imported weights are kept.
    pub cache: PathBuf,
    /// The espeak-ng program.
    pub espeak: PathBuf,
    /// The least important lines that it logs: error, warn, info, debug or trace.
    pub log: &'static str,
}

/// How many threads compute when the configuration does not say: all cores of a small machine, and one less than all of
/// a larger one, so that media and signalling never wait.
pub fn default_threads() -> usize {
    match available_parallelism().map_or(1, usize::from) {
        cores @ ..=2 => cores,
        cores => cores - 1,
    }
}

/// An engine on the processor with the given roles.
pub fn on_processor(
    program: &Path,
    socket: PathBuf,
    roles: &[Role],
    models: &ModelFiles,
    resources: &Resources,
) -> Launch {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: &Path| {
        arguments.push(name.into());
        arguments.push(value.into());
    };
    for role in roles {
        match role {
            Role::Ears => {
                option("--vad", &models.vad);
                option("--stt", &models.stt);
            }
            Role::Mind => option("--llm", &models.llm),
            Role::Voice => {
                option("--voice", &models.voice);
                option("--espeak", &resources.espeak);
            }
            Role::Embed => models.embed.iter().for_each(|model| option("--embed", model)),
        }
    }
    option("--cache", &resources.cache);
    for (name, number) in
        [("--threads", resources.threads), ("--sequences", resources.sequences), ("--context", resources.context)]
    {
        arguments.push(name.into());
        arguments.push(number.to_string().into());
    }
    arguments.push("--log".into());
    arguments.push(resources.log.into());
    Launch { program: program.to_owned(), arguments, environment: Vec::new(), socket, outlives: false }
}

/// The same on one card, and on no other.
pub fn on_card(
    program: &Path,
    socket: PathBuf,
    models: &ModelFiles,
    resources: &Resources,
    uuid: &str,
    shares: &Shares,
) -> Launch {
    let resources = Resources { sequences: shares.sequences, ..resources.clone() };
    let roles: Vec<Role> = shares.needs.iter().map(|need| need.role).collect();
    let mut launch = on_processor(program, socket, &roles, models, &resources);
    if shares.tokens > 0 {
        launch.arguments.push("--kv-tokens".into());
        launch.arguments.push(shares.tokens.to_string().into());
    }
    launch.environment.push(("CUDA_VISIBLE_DEVICES", uuid.into()));
    launch
}

/// What the models of an engine need of a card's memory; `launch` is one on the processor with the same models.
///
/// # Errors
/// One sentence.
pub async fn needs(launch: &Launch) -> Result<Vec<Need>, String> {
    let program = launch.program.display();
    let mut command = Command::new(&launch.program);
    command.args(&launch.arguments).arg("--needs").stdin(Stdio::null()).kill_on_drop(true);
    let asked = timeout(PATIENCE, command.output()).await;
    let told = asked.map_err(|_| format!("{program} --needs took longer than {} s", PATIENCE.as_secs()))?;
    let told = told.map_err(|error| format!("{program} cannot be started: {error}"))?;
    if !told.status.success() {
        let why = String::from_utf8_lossy(&told.stderr);
        return Err(format!("{program} --needs failed: {}", why.lines().next().unwrap_or_default()));
    }
    serde_json::from_slice(&told.stdout).map_err(|error| format!("{program} --needs is not understood: {error}"))
}

/// How the memory of a card is shared out, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shares {
    /// All of it.
    pub memory: u64,
    /// Driver and libraries.
    pub fixed: u64,
    /// What nobody plans with.
    pub reserve: u64,
    /// What each role's model needs.
    pub needs: Vec<Need>,
    /// Conversations that are thought about at once.
    pub sequences: usize,
    /// Tokens whose keys and values there is room for.
    pub tokens: usize,
}

/// What does not fit on a card.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the models need {}, and there are {} beside {} for the driver and {} in reserve: give the card fewer roles, or \
     the pack smaller models ({})",
    gib(*.needed), gib(.shares.left()), gib(.shares.fixed), gib(.shares.reserve),
    .shares.told()
)]
pub struct TooLarge {
    /// At least.
    pub needed: u64,
    /// What there is.
    pub shares: Shares,
}

impl Shares {
    /// Shares out a card's memory.
    ///
    /// # Errors
    /// If it is too small.
    pub fn new(memory: u64, needs: Vec<Need>, context: usize) -> Result<Self, Box<TooLarge>> {
        let mut shares =
            Self { memory, fixed: FIXED, reserve: memory * RESERVE / 100, needs, sequences: MOST_SEQUENCES, tokens: 0 };
        let token: u64 = shares.needs.iter().map(|need| need.token).sum();
        loop {
            // One more than there are conversations: what was primed.
            let tokens = if token == 0 { 0 } else { (shares.sequences + 1) * context };
            let kept = tokens as u64 * token;
            let needed = kept + shares.needs.iter().map(|need| need.weights + shares.work(need)).sum::<u64>();
            if needed <= shares.left() {
                shares.tokens = tokens;
                return Ok(shares);
            }
            if shares.sequences <= LEAST_SEQUENCES {
                return Err(Box::new(TooLarge { needed, shares }));
            }
            shares.sequences /= 2;
        }
    }

    /// Keys and values.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.tokens as u64 * self.needs.iter().map(|need| need.token).sum::<u64>()
    }

    /// What a role computes with: told for the most conversations, less for fewer.
    #[must_use]
    pub fn work(&self, need: &Need) -> u64 {
        if need.role == Role::Mind { need.work / (MOST_SEQUENCES / self.sequences) as u64 } else { need.work }
    }

    /// What each role takes, in a line.
    fn told(&self) -> String {
        let told = |need: &Need| format!("{} {}", super::role_name(need.role), gib(need.weights + self.work(need)));
        self.needs.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    /// What models may have.
    fn left(&self) -> u64 {
        self.memory.saturating_sub(self.fixed).saturating_sub(self.reserve)
    }

    /// What is told of the needs has to be for so many conversations.
    #[must_use]
    pub const fn most_sequences() -> usize {
        MOST_SEQUENCES
    }
}

/// Bytes as people say them.
#[must_use]
pub fn gib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + (1 << 29)) >> 30;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn mind(weights: u64) -> Need {
        Need { role: Role::Mind, model: "m.gguf".into(), weights, work: GIB, token: 28_672, languages: 0 }
    }

    #[test]
    fn a_smaller_card_thinks_about_fewer_calls_and_one_that_is_too_small_is_refused_with_the_figures() {
        let share = |gib: u64, weights: u64| Shares::new(gib * GIB, vec![mind(weights * GIB)], 2048);
        let wide = share(80, 3).expect("it fits");
        assert_eq!((wide.sequences, wide.tokens), (64, 65 * 2048));
        assert!(wide.kept() + 3 * GIB + GIB < wide.left());
        let narrow = share(6, 3).expect("it fits");
        assert!(narrow.sequences < 64 && narrow.sequences >= 8, "{}", narrow.sequences);
        let refused = share(4, 4).expect_err("it does not").to_string();
        assert_eq!(
            refused,
            "the models need 4.6 GiB, and there are 2.9 GiB beside 0.7 GiB for the driver and 0.3 GiB in reserve: give the \
             card fewer roles, or the pack smaller models (mind 4.1 GiB)"
        );
    }

    #[test]
    fn an_engine_on_a_card_sees_no_other_and_has_the_roles_of_its_models() {
        let path = |name: &str| PathBuf::from(format!("/m/{name}"));
        let files =
            ModelFiles { vad: path("v"), stt: path("s"), llm: path("l"), voice: path("p"), embed: Some(path("e")) };
        let (cache, espeak) = (path("c"), path("espeak-ng"));
        let resources = Resources { threads: 2, sequences: 8, context: 2048, cache, espeak, log: "info" };
        let shares = Shares::new(80 * GIB, vec![mind(GIB)], 2048).expect("it fits");
        let launch = on_card(Path::new("/engine"), path("socket"), &files, &resources, "GPU-1", &shares);
        assert_eq!(launch.environment, [("CUDA_VISIBLE_DEVICES", "GPU-1".into())]);
        let arguments: Vec<_> = launch.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let arguments = arguments.join(" ");
        assert!(arguments.starts_with("--llm /m/l --cache") && !arguments.contains("--stt"), "{arguments}");
        assert!(arguments.ends_with("--kv-tokens 133120"), "{arguments}");
    }
}

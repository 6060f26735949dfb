//! What an engine is given. Enters: model files, roles, the machine; leaves: a [`Launch`].
//!
//! Today one engine computes on the processor with every role; engines per GPU will be placed here too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use callbox_wire::Role;

use super::Launch;

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
    Launch { program: program.to_owned(), arguments, socket, outlives: false }
}

//! A call without a telephone: the voice asks, the ears hear it, the mind answers what was heard, the voice says the
//! answer, the ears hear that. Enters: the files of a pack, and what must come of them; leaves: what came, or one sentence
//! about the first part that failed. Never here: the network, another pack than the one that is tested.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use callbox::base::{Clock as _, SystemClock};
use callbox::config::Config;
use callbox::models::{self, Installed, Own, PackFiles, SelfTest, Use};
use callbox_wire::{ChatMessage, ChatRole, EARS_RATE, Event, Language, Request, Role, Sampling, TurnId};

use crate::private::{CALL, Private};
use crate::{owner, say, transcribe};

/// Loading, importing weights for the first time, and the call, on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

/// The quietest speech that counts, as the root of the mean square of its samples: −46 dB.
const QUIET: f64 = 160.0;

/// Tests what is configured, or the pack that is named as it is, or the version in `folder`.
pub(super) async fn run(config: &Config, dir: &Path, pack: Option<&str>, folder: Option<&Path>) -> Result<ExitCode> {
    let (pack, own) = match (pack, folder) {
        (None, None) => (config.models.pack.as_str(), config.models.own()),
        _ => (pack.unwrap_or(&config.models.pack), Own::new()),
    };
    let installed = match folder {
        Some(folder) => Some(Installed::read(folder)?),
        None => models::versions::current(dir, pack)?,
    };
    let mut name = match &installed {
        Some(Installed { manifest, .. }) => format!("{} {}", manifest.pack, manifest.version),
        None => pack.to_owned(),
    };
    if !own.is_empty() {
        name += &format!(" with {}", own.values().cloned().collect::<Vec<_>>().join(", "));
    }
    let files = match (&installed, folder) {
        (Some(installed), Some(_)) => installed.files(&Use::ALL)?,
        _ => models::resolve(dir, pack, &own, &Use::ALL)?,
    };
    let test = installed.map(|installed| installed.manifest.test).unwrap_or_default();
    let begun = SystemClock.now();
    let Heard { question, answer } = call(config, files, &test).await?;
    println!("pack {name} works: heard {question:?}, answered {answer:?}, in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

struct Heard {
    question: String,
    answer: String,
}

async fn call(config: &Config, files: PackFiles, test: &SelfTest) -> Result<Heard> {
    let embeds = files.embed.is_some();
    // The test is English, whatever the box speaks.
    let speaker = say::english(&files.voice);
    let roles = [Role::Ears, Role::Mind, Role::Voice].into_iter().chain(embeds.then_some(Role::Embed));
    let mut engine = Private::start_with(config, files, &roles.collect::<Vec<_>>()).await?;
    let question = through_the_air(&mut engine, &test.say, speaker).await?;
    if embeds {
        embed(&mut engine, &question).await?;
    }
    if let Some(word) = test.heard.iter().find(|word| !holds(&question, word)) {
        bail!("the ears did not hear {word:?} in {:?}, but {question:?}", test.say);
    }
    let thought = think(&mut engine, &question).await?;
    let answer = through_the_air(&mut engine, &thought, speaker).await?;
    if !test.answer.is_empty() && !test.answer.iter().any(|word| holds(&answer, word)) {
        let wanted = test.answer.join(" or ");
        bail!("to {question:?} the answer was {thought:?}, heard as {answer:?}; {wanted} should be in it");
    }
    engine.stop().await;
    Ok(Heard { question, answer })
}

/// What is heard of what is said.
async fn through_the_air(engine: &mut Private, text: &str, speaker: Option<&str>) -> Result<String> {
    let (audio, _) = say::say(engine, text, EARS_RATE, speaker).await?;
    let energy: f64 = audio.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    let loudness = (energy / audio.len().max(1) as f64).sqrt();
    ensure!(loudness > QUIET, "the voice said nothing audible for {text:?}");
    Ok(transcribe::transcribe(engine, audio, Language::ENGLISH).await?.text)
}

/// Fails if there is no vector of length 1.
async fn embed(engine: &mut Private, question: &str) -> Result<()> {
    let text = question.to_owned();
    engine.port.send(Request::Embed { call: CALL, turn: TurnId(1), text, urgent: true })?;
    loop {
        if let Event::Embedded { vector, .. } = engine.event().await? {
            let length = vector.iter().map(|number| number * number).sum::<f32>();
            ensure!((length - 1.0).abs() < 0.01, "the embedder made no vector of {question:?}");
            return Ok(());
        }
    }
}

async fn think(engine: &mut Private, question: &str) -> Result<String> {
    let say = |role, content: &str| ChatMessage { role, content: content.to_owned() };
    let messages = vec![say(ChatRole::System, "Answer in one short sentence."), say(ChatRole::User, question)];
    let sampling = Sampling { max_tokens: 24, ..Sampling::default() };
    engine.port.send(Request::Think { call: CALL, turn: TurnId(1), messages, sampling })?;
    let mut answer = String::new();
    loop {
        match engine.event().await? {
            Event::Token { text, .. } => answer += &text,
            Event::Thought { .. } => return Ok(answer),
            _ => {}
        }
    }
}

/// Whether a word is in a text, without regard to case and punctuation.
fn holds(text: &str, word: &str) -> bool {
    let word = word.to_lowercase();
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|found| found == word)
}

/// The same test in a process of its own, as the user that the daemon is: what the engine makes of the weights meanwhile
/// is then there when the daemon starts with them. The error is the sentence that the test ended with.
pub(super) async fn apart(config: &Config, arguments: &[&Path]) -> Result<()> {
    let cache = &config.models.cache;
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = owner::callbox(&program, config, &["models", "test"]);
    command.args(arguments);
    // Without a cache yet, the weights are imported for this test only.
    let instead;
    if owner::become_owner_of(cache, &mut command) {
        command.arg("--weights").arg(cache);
    } else {
        instead = tempfile::tempdir().context("a temporary folder is needed for the weights")?;
        command.arg("--weights").arg(instead.path());
    }
    owner::succeeds(command, LIMIT).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_whole_in_any_case() {
        assert!(holds("The capital of FRANCE, is it?", "France") && holds("Paris.", "paris"));
        assert!(!holds("A comparison.", "Paris") && !holds("", "Paris"));
    }
}

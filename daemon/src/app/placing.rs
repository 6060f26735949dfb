//! Which engine computes where. Enters: the configuration, the cards that were seen, model files; leaves: a plan, which the
//! daemon carries out and `callbox check --placement` prints; later, fences that open and close with the cards' health. Never
//! here: a running engine.
//!
//! Every card gets an engine with every role, or those that are configured their roles. What no card has, the processor
//! computes; unless that is switched off, an engine there has every role, and takes over what the cards lose.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use super::SEQUENCES;
use crate::base::{Clock, Role};
use crate::config::{CardName, Config, EngineKind, Gpu, Threads};
use crate::dialogue::CONTEXT;
use crate::engine::placement::{self, ModelFiles, Resources, Shares, gib};
use crate::engine::{self, Launch, Place};
use crate::gpu::{self, Card, Gpus, Seen};

/// Calls take cards before the processor.
const CARDS: u8 = 0;
const PROCESSOR: u8 = 1;

/// One engine of the plan.
pub struct Planned {
    /// Where, with what, and before whom.
    pub place: Place,
    /// How it is started.
    pub launch: Launch,
    /// Its card, and how the memory of that is shared out.
    pub card: Option<(Card, Shares)>,
}

/// What computes where.
#[derive(Default)]
pub struct Plan {
    /// One each.
    pub engines: Vec<Planned>,
    /// What an operator should know of it, a sentence each.
    pub notes: Vec<String>,
}

/// Makes the plan.
///
/// # Errors
/// One sentence about what is configured and cannot be.
pub async fn plan(config: &Config, files: &ModelFiles, seen: &Seen) -> Result<Plan, String> {
    let resources = Resources {
        threads: match config.engine.threads {
            Threads::Auto => placement::default_threads(),
            Threads::Count(count) => count.get().into(),
        },
        sequences: SEQUENCES,
        context: CONTEXT,
        cache: config.models.cache.clone(),
        espeak: "espeak-ng".into(),
        log: config.log.level.as_str(),
    };
    let mut plan = Plan::default();
    for (card, roles) in wanted(config, seen, &mut plan.notes)? {
        let roles: Vec<Role> = files.roles().into_iter().filter(|role| roles.contains(role)).collect();
        match on_card(config, files, &resources, card, &roles).await {
            Ok(engine) => plan.engines.push(engine),
            Err(why) if config.gpus.is_empty() => plan.notes.push(format!("no engine on {why}")),
            Err(why) => return Err(format!("[[gpu]] {why}")),
        }
    }
    let placed = |role: &Role| plan.engines.iter().any(|engine| engine.place.roles.contains(role));
    let roles: Vec<Role> = files.roles().into_iter().filter(|role| config.engine.standby || !placed(role)).collect();
    if !roles.is_empty() {
        let socket = config.engine.run.join("engine-cpu.sock");
        let launch = placement::on_processor(&config.engine_program(), socket, &roles, files, &resources);
        let place = Place { name: "cpu".into(), card: None, rank: PROCESSOR, roles };
        plan.engines.push(Planned { place, launch, card: None });
    }
    Ok(plan)
}

/// The cards that engines are wanted on, each with its roles.
fn wanted<'a>(config: &Config, seen: &'a Seen, notes: &mut Vec<String>) -> Result<Vec<(&'a Card, Vec<Role>)>, String> {
    if config.engine.kind != EngineKind::Auto {
        return Ok(Vec::new());
    }
    if config.gpus.is_empty() {
        let program = config.cuda_program();
        if seen.cards.is_empty() {
            return Ok(Vec::new());
        }
        if !program.is_file() {
            notes.push(
                "there are cards of NVIDIA's, and no engine for them: install the package callbox-engine-cuda"
                    .to_owned(),
            );
            return Ok(Vec::new());
        }
        return Ok(reachable(seen).map(|card| (card, Role::ALL.to_vec())).collect());
    }
    let mut cards: Vec<(&Card, Vec<Role>)> = Vec::new();
    for Gpu { device, roles } in &config.gpus {
        // A broken card must not keep the others, or the processor, from answering.
        let Some(card) = reachable(seen).find(|card| is(device, card)) else {
            notes.push(format!(
                "[[gpu]] device = {device}: there is no such card that can be reached: see `nvidia-smi -L` and `callbox \
                 health`, and restart callbox once it is there"
            ));
            continue;
        };
        if let Some((known, _)) = cards.iter().find(|(known, _)| known.identity.uuid == card.identity.uuid) {
            return Err(format!(
                "[[gpu]] names the card {} twice: give it all of its roles at once",
                known.identity.uuid
            ));
        }
        cards.push((card, roles.clone()));
    }
    Ok(cards)
}

fn reachable(seen: &Seen) -> impl Iterator<Item = &Card> {
    // One that is cut into slices computes nothing by itself.
    let sliced = |card: &Card| {
        let own = |one: &&Card| one.identity.index == card.identity.index && one.identity.slice.is_some();
        card.identity.slice.is_none() && seen.cards.iter().any(|one| own(&one))
    };
    let there = |card: &&Card| card.reading.is_some() && !card.identity.uuid.is_empty();
    seen.cards.iter().filter(there).filter(move |card| !sliced(card))
}

fn is(name: &CardName, card: &Card) -> bool {
    // The driver writes the domain with eight digits, lspci with four or, of the first one, with none.
    let place = |text: &str| {
        let whole = if text.matches(':').count() < 2 { format!("0:{text}") } else { text.to_owned() };
        let (domain, rest) = whole.split_once(':').unwrap_or_default();
        (u32::from_str_radix(domain, 16).ok(), rest.to_ascii_lowercase())
    };
    match name {
        CardName::Uuid(uuid) => *uuid == card.identity.uuid,
        CardName::Pci(pci) => card.identity.slice.is_none() && place(pci) == place(&card.identity.pci),
        CardName::Index(index) => card.identity.slice.is_none() && *index == card.identity.index,
    }
}

async fn on_card(
    config: &Config,
    files: &ModelFiles,
    resources: &Resources,
    card: &Card,
    roles: &[Role],
) -> Result<Planned, String> {
    let name = format!("gpu{}", card.identity.number());
    let shown = format!("{} ({})", card.identity.uuid, card.identity.name);
    let memory = card.reading.as_ref().and_then(|reading| reading.memory_bytes);
    let memory = memory.ok_or_else(|| format!("{shown}: the driver does not tell how much memory it has"))?;
    let asked = Resources { sequences: Shares::most_sequences(), ..resources.clone() };
    let asked = placement::on_processor(&config.engine_program(), "".into(), roles, files, &asked);
    let needs = placement::needs(&asked).await.map_err(|error| format!("{shown}: {error}"))?;
    let shares = Shares::new(memory, needs, CONTEXT).map_err(|error| format!("{shown}: {error}"))?;
    let socket = config.engine.run.join(format!("engine-{name}.sock"));
    let uuid = &card.identity.uuid;
    let launch = placement::on_card(&config.cuda_program(), socket, files, resources, uuid, &shares);
    let place = Place { name, card: Some(uuid.clone()), rank: CARDS, roles: roles.to_vec() };
    Ok(Planned { place, launch, card: Some((card.clone(), shares)) })
}

/// Opens and closes the fences around the cards of a plan, for as long as the daemon runs.
pub(super) async fn guard(
    gpus: Gpus,
    mut fences: Vec<(gpu::Fence, watch::Sender<Option<String>>)>,
    clock: Arc<dyn Clock>,
) {
    let mut looks = gpus.looks();
    loop {
        let now = clock.now();
        let seen = looks.borrow_and_update().clone();
        let mut deadline = None;
        for (fence, told) in &mut fences {
            if let Some(seen) = &seen {
                let reason = fence.judge(seen, now);
                // One that says for how long is not told anew each time that it is asked.
                told.send_if_modified(|known| {
                    let changed = known.is_some() != reason.is_some();
                    if changed {
                        *known = reason;
                    }
                    changed
                });
            }
            deadline = deadline.into_iter().chain(fence.deadline().filter(|deadline| *deadline > now)).min();
        }
        let wait = async {
            match deadline {
                Some(deadline) => sleep(deadline.saturating_duration_since(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = looks.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Planned { place, card, .. } in &self.engines {
            let roles: Vec<_> = place.roles.iter().map(|role| engine::role_name(*role)).collect();
            match card {
                Some((card, shares)) => {
                    writeln!(
                        f,
                        "{} on {}, {}: {}",
                        place.name,
                        card.identity.uuid,
                        card.identity.name,
                        roles.join(" ")
                    )?;
                    write_shares(f, shares)?;
                }
                None => writeln!(f, "{} on the processor: {}", place.name, roles.join(" "))?,
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

fn write_shares(f: &mut fmt::Formatter<'_>, shares: &Shares) -> fmt::Result {
    let mut line = |what: &str, bytes: u64| writeln!(f, "  {what:<52} {:>10}", gib(bytes));
    line("driver and libraries", shares.fixed)?;
    let mut taken = shares.fixed + shares.reserve + shares.kept();
    for need in &shares.needs {
        let (role, work) = (engine::role_name(need.role), shares.work(need));
        if need.weights + work == 0 {
            line(&format!("{role}: {}, on the processor", need.model), 0)?;
            continue;
        }
        line(&format!("{role}: {}", need.model), need.weights)?;
        line(&format!("{role}: what it computes with"), work)?;
        taken += need.weights + work;
    }
    line(&format!("keys and values of {} calls, {} tokens", shares.sequences, shares.tokens), shares.kept())?;
    line("reserve", shares.reserve)?;
    line("free", shares.memory.saturating_sub(taken))?;
    line("in all", shares.memory)
}

/// The cards as they are now, for `callbox check --placement`.
///
/// # Errors
/// The driver does not answer.
pub async fn look(config: &Config) -> Result<Seen, String> {
    let library = config.engine.nvml.clone();
    let look = tokio::task::spawn_blocking(move || gpu::look(&library));
    let seen = tokio::time::timeout(super::FIRST_LOOK, look).await;
    seen.ok().and_then(Result::ok).ok_or_else(|| "NVIDIA's driver does not answer: restart the machine".to_owned())
}

/// Model files as engines are given them.
#[must_use]
pub fn files(pack: &crate::models::PackFiles) -> ModelFiles {
    let own = |path: &Path| path.to_owned();
    ModelFiles {
        vad: own(&pack.vad),
        stt: own(&pack.stt),
        llm: own(&pack.llm),
        voice: own(&pack.voice),
        embed: pack.embed.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::gpu::{Identity, Reading};

    fn seen(reachable: &[bool]) -> Seen {
        let card = |(index, reachable): (u32, &bool)| {
            let pci = format!("00000000:4{index}:00.0");
            let identity = Identity { index, slice: None, uuid: format!("GPU-{index}"), name: "NVIDIA L4".into(), pci };
            let reading = reachable.then(|| Reading { memory_bytes: Some(24 << 30), ..Reading::default() });
            Card::new(identity, reading, BTreeMap::new())
        };
        Seen { driver: None, cards: (0..).zip(reachable).map(card).collect() }
    }

    fn config(text: &str) -> Config {
        toml::from_str(text).expect("a configuration")
    }

    fn of(text: &str, seen: &Seen) -> Result<(Vec<String>, Vec<String>), String> {
        let mut notes = Vec::new();
        let cards = wanted(&config(text), seen, &mut notes)?;
        Ok((cards.into_iter().map(|(card, _)| card.identity.uuid.clone()).collect(), notes))
    }

    #[test]
    fn a_card_is_found_by_each_of_its_names_and_one_that_is_gone_keeps_nobody_back() {
        let seen = seen(&[true, true, false]);
        for name in ["\"GPU-1\"", "\"pci:0000:41:00.0\"", "\"pci:41:00.0\"", "1"] {
            let (cards, notes) = of(&format!("[[gpu]]\ndevice = {name}"), &seen).expect("a plan");
            assert_eq!((cards, notes), (vec!["GPU-1".to_owned()], Vec::new()), "{name}");
        }
        let (cards, notes) = of("[[gpu]]\ndevice = 2\n[[gpu]]\ndevice = 0\nroles = ['mind']", &seen).expect("a plan");
        assert_eq!(cards, ["GPU-0"]);
        assert!(notes.len() == 1 && notes[0].contains("device = 2: there is no such card"), "{notes:?}");
        let twice = of("[[gpu]]\ndevice = 0\n[[gpu]]\ndevice = 'GPU-0'", &seen).expect_err("one engine for a card");
        assert!(twice.contains("GPU-0 twice"), "{twice}");
        assert_eq!(of("engine.kind = 'cpu'", &seen).expect("a plan"), (Vec::new(), Vec::new()));
        let (cards, notes) = of("engine.cuda_program = '/nonexistent'", &seen).expect("a plan");
        assert!(cards.is_empty() && notes[0].contains("install the package callbox-engine-cuda"), "{notes:?}");
        let (cards, _) = of("engine.cuda_program = '/bin/sh'", &seen).expect("a plan");
        assert_eq!(cards, ["GPU-0", "GPU-1"], "every card that can be reached");

        let mut sliced = seen.clone();
        let mut slice = sliced.cards[0].clone();
        (slice.identity.slice, slice.identity.uuid) = (Some(1), "MIG-1".into());
        sliced.cards.insert(1, slice);
        let (cards, _) = of("engine.cuda_program = '/bin/sh'", &sliced).expect("a plan");
        assert_eq!(cards, ["MIG-1", "GPU-1"], "slices in place of their card");
        let (cards, notes) = of("[[gpu]]\ndevice = 'MIG-1'\n[[gpu]]\ndevice = 0", &sliced).expect("a plan");
        assert!(cards == ["MIG-1"] && notes.len() == 1, "{cards:?} {notes:?}");
    }

    #[test]
    fn a_name_that_is_none_is_one_sentence() {
        for name in ["'card'", "-1", "'pci:41'", "1.5"] {
            let error = toml::from_str::<Config>(&format!("[[gpu]]\ndevice = {name}")).expect_err(name).to_string();
            assert!(error.contains("device must be a name from `nvidia-smi -L`"), "{error}");
        }
    }
}

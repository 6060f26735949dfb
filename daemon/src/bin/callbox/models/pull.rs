//! `callbox models pull`: a pack or a model of the catalogue, or one model of the owner's from a hub, a folder, a file, an archive.
//! Enters: what to bring and where from; leaves: verified files, what is recorded of them, and what to write into the
//! configuration. Never here: a request to a hub unless it was typed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use callbox::config::hub_token;
use callbox::models::own::{Brought, Local, Source, Wish, bring};
use callbox::models::{Catalogue, Machine, Terminal, Use, pull};

use super::hub::{ENDPOINT, Hub, Reference};

/// See [`super::Command::Pull`].
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// A pack (`starter`, `tiny`), a model of the catalogue (`kokoro-82m`), a model of a hub (`hf:OWNER/NAME[@REVISION][:FILE]`), or a folder, a file, a tar archive
    /// of this machine.
    what: String,
    /// What to call the model, in `[models]` of the configuration, too; otherwise its source's name.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// What it is for: llm, stt, voice, embed or vad; otherwise its file says it.
    #[arg(long)]
    role: Option<Use>,
    /// Which file of a folder or an archive.
    #[arg(long)]
    file: Option<String>,
    /// The licence, where the source does not say it.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// Take what is there now instead of what was recorded.
    #[arg(long)]
    update: bool,
    /// Address of the hub.
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = ENDPOINT)]
    endpoint: String,
    /// File with the hub's token, mode 0600; otherwise the credential `hub-token`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Arguments {
    /// A pack, unless it can only be something else.
    fn is_pack(&self) -> bool {
        let known = Catalogue::embedded().wanted(&self.what).is_ok();
        known || !self.what.contains(['/', '.']) && !Path::new(&self.what).exists()
    }

    fn wants_more(&self) -> bool {
        self.name.is_some() || self.role.is_some() || self.file.is_some() || self.licence.is_some() || self.update
    }

    /// Where from, and which file of it.
    fn source(&self) -> Result<(Box<dyn Source>, Option<String>)> {
        if let Some(reference) = self.what.strip_prefix("hf:") {
            let reference = Reference::parse(reference).map_err(|sentence| anyhow!(sentence))?;
            let file = reference.file.clone().or_else(|| self.file.clone());
            let token = hub_token(self.token_file.as_deref()).map_err(|sentence| anyhow!(sentence))?;
            return Ok((Box::new(Hub::new(reference, &self.endpoint, token)?), file));
        }
        let path = self.what.strip_prefix("file:").unwrap_or(&self.what);
        let local = Local::open(Path::new(path))?;
        let file = local.file().map(str::to_owned).or_else(|| self.file.clone());
        Ok((Box::new(local), file))
    }
}

pub(super) async fn run(dir: PathBuf, arguments: Arguments) -> Result<ExitCode> {
    if !arguments.what.starts_with("hf:") && arguments.is_pack() {
        let pack = &arguments.what;
        ensure!(!arguments.wants_more(), "a pack is pulled as it is: `callbox models pull {pack}`");
        let fetched = pull(Catalogue::embedded(), pack, &dir, Machine::default(), &Terminal::new()).await?;
        let catalogue = Catalogue::embedded();
        let (kind, model) = match catalogue.models().iter().find(|model| model.name == *pack) {
            Some(model) if catalogue.packs_of(model).next().is_none() => ("model", Some(model)),
            _ => ("pack", None),
        };
        eprintln!("{kind} {pack} is complete in {} ({fetched} archives fetched)", dir.display());
        if let Some(model) = model {
            println!(
                "to use it, write `{} = \"{}\"` into the section [models] and restart callboxd",
                model.role, model.name
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    // The client waits while it reads.
    let brought = tokio::task::spawn_blocking(move || -> Result<Brought> {
        let (mut source, file) = arguments.source()?;
        let Arguments { name, role, licence, update, .. } = arguments;
        let wish = Wish { name, role, file, licence, update };
        Ok(bring(&dir, &wish, source.as_mut(), &Machine::default(), &Terminal::new())?)
    })
    .await??;
    let (owned, new) = match brought {
        Brought::New(owned) => (owned, true),
        Brought::Already(owned) => (owned, false),
    };
    let (name, role) = (&owned.name, owned.role);
    println!("{name}: {}, licence {}{}", owned.origin(), owned.licence, if new { "" } else { "; it was here already" });
    println!("to use it, write `{role} = \"{name}\"` into the section [models] and restart callboxd");
    Ok(ExitCode::SUCCESS)
}

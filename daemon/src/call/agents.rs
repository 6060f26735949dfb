//! The agents of this box. Enters: folders of TOML files; leaves: who answers a called number.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::trunk::Trunk;
use crate::dialogue::{Agent, AgentError};
use crate::knowledge::{self, Document, DocumentError};

/// Why there are no agents.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// A file is wrong.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A folder cannot be read.
    #[error("agents.paths: the folder {path} cannot be read: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its documents are wrong.
    #[error("knowledge.folder of the agent `{0}`: {1}")]
    Documents(String, DocumentError),
    /// Two files name the same agent.
    #[error("{0}: an agent `{1}` is there already, in another file of the same folder; rename one")]
    Twice(PathBuf, String),
    /// No file at all.
    #[error("agents.paths: no agent file (*.toml) in {0}; put one there")]
    None(String),
}

/// All agents, by name.
#[derive(Clone, Default, Debug)]
pub struct Agents(BTreeMap<String, Answering>);

/// An agent, and what is in its folder of documents.
#[derive(Clone, Debug)]
struct Answering {
    agent: Arc<Agent>,
    documents: Arc<[Document]>,
}

impl Agents {
    /// Reads every `*.toml` of the folders. An agent of an earlier folder hides one of the same name in a later one; a
    /// folder that does not exist holds none.
    ///
    /// # Errors
    /// One sentence, for the first file or folder that is wrong, or if there is no agent at all.
    pub fn read(folders: &[PathBuf]) -> Result<Self, AgentsError> {
        let mut agents = BTreeMap::new();
        for folder in folders {
            for (name, agent) in read_folder(folder)? {
                agents.entry(name).or_insert(agent);
            }
        }
        if agents.is_empty() {
            let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(AgentsError::None(folders.join(" or ")));
        }
        Ok(Self(agents))
    }

    /// The agent that answers a called number: one that names it before one that takes all.
    pub fn answering(&self, called: &str) -> Option<&Arc<Agent>> {
        let mut answering = self.iter().filter(|agent| agent.answers(called));
        let first = answering.next()?;
        Some(std::iter::once(first).chain(answering).find(|agent| !agent.answers("")).unwrap_or(first))
    }

    /// The agent that answers a number that was called through a trunk: the trunk's own rules come first.
    pub fn through(&self, trunk: Option<&Trunk>, called: &str) -> Option<&Arc<Agent>> {
        let rule = trunk.and_then(|trunk| rule(&trunk.agents, called));
        rule.and_then(|name| self.0.get(name)).map(|known| &known.agent).or_else(|| self.answering(called))
    }

    /// Whether every agent that a trunk names is there.
    ///
    /// # Errors
    /// One sentence about the first one that is not.
    pub fn fit(&self, trunks: &[Trunk]) -> Result<(), String> {
        let missing = trunks.iter().find_map(|trunk| {
            let name = trunk.agents.values().find(|name| !self.0.contains_key(*name))?;
            Some((&trunk.name, name))
        });
        missing.map_or(Ok(()), |(trunk, name)| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            Err(format!(
                "trunk.agents: in trunk \"{trunk}\" an agent `{name}` is named, and there is none; known: {known}"
            ))
        })
    }

    /// The agent of a name.
    pub fn named(&self, name: &str) -> Option<&Agent> {
        self.0.get(name).map(|known| known.agent.as_ref())
    }

    /// The agent of a name, to be held.
    pub(super) fn shared(&self, name: &str) -> Option<Arc<Agent>> {
        self.0.get(name).map(|known| Arc::clone(&known.agent))
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.0.values().map(|known| &known.agent)
    }

    /// The documents in each one's folder.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&str, Arc<[Document]>)> {
        self.0.iter().map(|(name, known)| (name.as_str(), Arc::clone(&known.documents)))
    }

    /// Whether an agent of this name is there with the same file and the same documents.
    pub fn holds_as_is(&self, other: &Self, name: &str) -> bool {
        match (self.0.get(name), other.0.get(name)) {
            (Some(ours), Some(theirs)) => ours.agent == theirs.agent && ours.documents == theirs.documents,
            _ => false,
        }
    }
}

/// Whom a rule names for a number: the one for this number, else the one for the longest beginning of it (`+4930*`).
fn rule<'a>(rules: &'a BTreeMap<String, String>, called: &str) -> Option<&'a str> {
    let begins =
        |pattern: &str| pattern.strip_suffix('*').filter(|beginning| called.starts_with(beginning)).map(str::len);
    let exact = rules.get(called);
    let longest =
        || rules.iter().filter_map(|(pattern, name)| Some((begins(pattern)?, name))).max_by_key(|(len, _)| *len);
    exact.or_else(|| longest().map(|(_, name)| name)).map(String::as_str)
}

type Folder = BTreeMap<String, Answering>;

fn read_folder(folder: &Path) -> Result<Folder, AgentsError> {
    let failed = |source| AgentsError::Folder { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut agents: Folder = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let agent = Agent::read(&path)?;
        let name = agent.name.as_str().to_owned();
        if agents.contains_key(&name) {
            return Err(AgentsError::Twice(path, name));
        }
        let documents = documents(&agent, folder)?;
        agents.insert(name, Answering { agent: Arc::new(agent), documents: documents.into() });
    }
    Ok(agents)
}

fn documents(agent: &Agent, beside: &Path) -> Result<Vec<Document>, AgentsError> {
    let Some(folder) = &agent.knowledge.folder else { return Ok(Vec::new()) };
    let (folder, name) = (beside.join(folder), || agent.name.as_str().to_owned());
    if !folder.is_dir() {
        let reason = "there is no such folder: make it, or take the key out".to_owned();
        return Err(AgentsError::Documents(name(), DocumentError::File { path: folder, reason }));
    }
    knowledge::read(&folder).map_err(|error| AgentsError::Documents(name(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_for_the_number_comes_before_the_longest_beginning_of_it() {
        let rules = [("+4930123", "desk"), ("+4930*", "berlin"), ("+49*", "germany"), ("*1", "never")];
        let rules = rules.map(|(number, name)| (number.to_owned(), name.to_owned())).into();
        for (called, name) in [
            ("+4930123", Some("desk")),
            ("+49301234", Some("berlin")),
            ("+4989", Some("germany")),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(rule(&rules, called), name, "{called}");
        }
    }
}

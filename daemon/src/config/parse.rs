//! TOML to [`Config`]. Enters: the text of up to two files; leaves: a validated configuration with absolute paths, or
//! one sentence. What serde says about a mistake is put into the words of someone who has the file before them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, EngineKind};
use crate::base::trunk::Trunk;
use crate::models::Use;
use crate::models::own::is_name;

/// Why there is no configuration; its `Display` is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; name another file with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that it must not.
    #[error("{}:{line}: {sentence}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, what is wrong with it, what to do.
        sentence: String,
    },
    /// What may change at once does not go with what may not.
    #[error("{0}; or restart callboxd")]
    Contradiction(String),
    /// A key cannot be had.
    #[error("{key}: {sentence}")]
    Secret {
        /// The key that names it.
        key: &'static str,
        /// What is wrong, what to do.
        sentence: String,
    },
    /// A trunk's password cannot be had.
    #[error("trunk.{key}: {sentence}")]
    Password {
        /// The key that names it.
        key: &'static str,
        /// Whose, what is wrong, what to do.
        sentence: String,
    },
}

/// One file: its path and its text.
struct Source<'a> {
    path: &'a Path,
    text: String,
}

/// Reads `owners` over `packaged`. The latter may be missing, the former only if it is not `wanted`.
pub(super) fn load(owners: &Path, wanted: bool, packaged: &Path) -> Result<Config, ConfigError> {
    let unreadable = |path: &Path, source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut sources = Vec::new();
    for (path, wanted) in [(packaged, false), (owners, wanted)] {
        match fs::read_to_string(path) {
            Ok(text) => sources.push(Source { path, text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !wanted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }

    let mut merged = Table::new();
    for source in &sources {
        merge(&mut merged, source.table()?);
    }
    let invalid = |line, sentence| ConfigError::Invalid { path: owners.to_owned(), line, sentence };
    let config = Config::deserialize(merged).map_err(|error| invalid(1, error.message().to_owned()))?;
    if let Some((key, sentence)) = contradiction(&config) {
        let found = sources.iter().rev().find_map(|source| Some((source.path, source.line_of(&key)?)));
        let (path, line) = found.unwrap_or((owners, 1));
        let sentence = format!("{}: {sentence}", shown(&key));
        return Err(ConfigError::Invalid { path: path.to_owned(), line, sentence });
    }
    let base = std::path::absolute(owners).map_err(|error| unreadable(owners, error))?;
    let config = absolute(config, base.parent().unwrap_or_else(|| Path::new("/")));
    Ok(Config { path: Some(base), ..config })
}

/// A key as it is said: `trunk.0.peers` is a path to it, and which trunk is meant stands in the sentence.
fn shown(key: &str) -> String {
    key.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".")
}

/// For a configuration that no file holds as a whole.
pub(super) fn consistent(config: &Config) -> Result<(), ConfigError> {
    match contradiction(config) {
        Some((key, sentence)) => Err(ConfigError::Contradiction(format!("{}: {sentence}", shown(&key)))),
        None => Ok(()),
    }
}

impl Source<'_> {
    /// The file as a table, after it has passed as a configuration of its own: only here are line numbers known.
    fn table(&self) -> Result<Table, ConfigError> {
        toml::from_str::<Config>(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let sentence = match DeTable::parse(&self.text) {
                Ok(table) => explain(&error, &key_at(table.get_ref(), at).unwrap_or_default()),
                Err(_) => format!("this is not TOML: {}", error.message().replace('\n', ", ")),
            };
            self.invalid(at, sentence)
        })?;
        toml::from_str(&self.text).map_err(|error| self.invalid(0, error.message().to_owned()))
    }

    fn invalid(&self, at: usize, sentence: String) -> ConfigError {
        ConfigError::Invalid { path: self.path.to_owned(), line: self.line(at), sentence }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }

    /// Where a dotted key stands, if it does; for one that is missing in a `[[…]]`, where that begins.
    fn line_of(&self, key: &str) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut parts = key.split('.').peekable();
        let (mut inner, mut at) = (table.get_ref(), None);
        loop {
            let name = parts.next()?;
            let Some((found, value)) = inner.iter().find(|(found, _)| found.get_ref() == name) else { break };
            if parts.peek().is_none() {
                at = Some(found.span().start);
                break;
            }
            inner = match value.get_ref() {
                DeValue::Table(inner) => inner,
                DeValue::Array(several) => {
                    let one = several.get(parts.next()?.parse::<usize>().ok()?)?;
                    at = Some(one.span().start);
                    one.get_ref().as_table()?
                }
                _ => break,
            };
        }
        Some(self.line(at?))
    }
}

/// The dotted key whose name or value begins at a byte.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let rest = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, at),
            DeValue::Array(several) => several.iter().find_map(|one| key_at(one.get_ref().as_table()?, at)),
            _ => None,
        };
        if let Some(rest) = rest {
            return Some(format!("{name}.{rest}"));
        }
        (key.span().contains(&at) || value.span().contains(&at)).then(|| name.to_string())
    })
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Says what serde found, and what to do.
fn explain(error: &toml::de::Error, key: &str) -> String {
    let message = error.message();
    let words: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, [unknown, known @ ..]) = (message.starts_with("unknown field"), words.as_slice()) {
        let section = key.rsplit_once('.').map(|(section, _)| bracketed(section));
        let place = section.map_or_else(|| "at the top".into(), |section| format!("in {section}"));
        // What a trunk has, too, is meant as what there is without one.
        let without_trunks = Table::try_from(Config::default()).unwrap_or_default();
        let home = home_of(unknown, &without_trunks).or_else(|| home_of(unknown, &defaults()));
        let advice = if let Some(home) = home {
            format!("it belongs in {}", bracketed(&home))
        } else if let Some(near) = nearest(unknown, known) {
            format!("did you mean `{near}`?")
        } else {
            format!("known here: {}", known.join(", "))
        };
        return format!("unknown key `{unknown}` {place}; {advice}");
    }
    let example = key
        .split('.')
        .try_fold(Value::Table(defaults()), |value, part| value.get(0).unwrap_or(&value).get(part).cloned())
        .filter(|value| !value.is_array() || !key.starts_with("trunk"))
        .map_or_else(String::new, |value| format!("; its default shows the form: {value}"));
    format!("{key}: {}{example}", message.replace('\n', ", "))
}

/// The heading that a section stands below.
fn bracketed(section: &str) -> String {
    if section == "trunk" { "[[trunk]]".into() } else { format!("[{section}]") }
}

/// All keys that have a default, and those of a trunk that need none.
fn defaults() -> Table {
    let trunk = "trunk".parse().map(Trunk::new).map(|trunk| Trunk { username: Some("alice".into()), ..trunk });
    let config = Config { trunks: trunk.into_iter().collect(), ..Config::default() };
    Table::try_from(config).unwrap_or_default()
}

/// The section that knows a key, if exactly one does.
fn home_of(key: &str, table: &Table) -> Option<String> {
    let mut homes = Vec::new();
    for (name, value) in table {
        let Some(inner) = value.get(0).unwrap_or(value).as_table() else { continue };
        if inner.contains_key(key) {
            homes.push(name.clone());
        } else if let Some(deeper) = home_of(key, inner) {
            homes.push(format!("{name}.{deeper}"));
        }
    }
    if homes.len() == 1 { homes.pop() } else { None }
}

/// The known word that takes the fewest single-letter changes, if they are few.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| {
        let mut row: Vec<usize> = (0..=other.chars().count()).collect();
        for (i, a) in word.chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, b) in other.chars().enumerate() {
                let changed = diagonal + usize::from(a != b);
                diagonal = row[j + 1];
                row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
            }
        }
        row[row.len() - 1]
    };
    let (steps, near) = known.iter().map(|other| (distance(other), *other)).min()?;
    (steps <= 1 + word.chars().count() / 3).then_some(near)
}

/// Keys that are right alone and wrong together: the one to change, and why.
fn contradiction(config: &Config) -> Option<(String, String)> {
    main_contradiction(config)
        .or_else(|| super::privacy::contradiction(&config.privacy))
        .map(|(key, why)| (key.to_owned(), why))
        .or_else(|| super::trunks::contradiction(&config.trunks))
}

fn main_contradiction(config: &Config) -> Option<(&'static str, String)> {
    let Config { sip, media, engine, http, .. } = config;
    if sip.udp.is_empty() && sip.tcp.is_empty() && sip.tls.is_empty() {
        let sentence = "no transport is left, so no call can come: give an address here, in tcp or in tls";
        return Some(("sip.udp", sentence.into()));
    }
    if !sip.tls.is_empty() && sip.certificate.is_none() {
        return Some(("sip.tls", "needs a certificate: set sip.certificate and sip.key".into()));
    }
    if sip.certificate.is_some() != sip.key.is_some() {
        let (key, other) =
            if sip.key.is_none() { ("sip.certificate", "sip.key") } else { ("sip.key", "sip.certificate") };
        return Some((key, format!("is of no use without {other}: set both")));
    }
    if http.certificate.is_some() != http.key.is_some() {
        let (key, other) =
            if http.key.is_none() { ("http.certificate", "http.key") } else { ("http.key", "http.certificate") };
        return Some((key, format!("is of no use without {other}: set both")));
    }
    if sip.client_ca.is_some() && sip.certificate.is_none() {
        return Some(("sip.client_ca", "is of no use without sip.certificate and sip.key: set them, too".into()));
    }
    if (1..90).contains(&sip.session_expires_s) {
        return Some(("sip.session_expires_s", "must be 0 for never, or at least 90 (RFC 4028 §5)".into()));
    }
    if sip.limits.max_calls.get() > media.ports.pairs().into() {
        let (calls, pairs) = (sip.limits.max_calls, media.ports.pairs());
        return Some((
            "sip.limits.max_calls",
            format!("{calls} calls need two ports each, and media.ports {} hold {pairs}: change one", media.ports),
        ));
    }
    if engine.kind == EngineKind::Scripted && engine.script.is_none() {
        return Some(("engine.kind", "a scripted engine needs `script`, the path of its file".into()));
    }
    if engine.restart_max_ms < engine.restart_ms {
        return Some(("engine.restart_max_ms", "must not be less than restart_ms".into()));
    }
    if engine.heartbeat_timeout_ms <= engine.heartbeat_ms {
        return Some(("engine.heartbeat_timeout_ms", "must be more than heartbeat_ms".into()));
    }
    if config.models.pack.is_empty() {
        return Some(("models.pack", "must name a pack, as \"starter\"".into()));
    }
    if let Some((role, name)) = config.models.own().into_iter().find(|(_, name)| !is_name(name)) {
        let key = match role {
            Use::Vad => "models.vad",
            Use::Stt => "models.stt",
            Use::Llm => "models.llm",
            Use::Voice => "models.voice",
            Use::Embed => "models.embed",
        };
        return Some((key, format!("`{name}` is no name of a model; `callbox models list` shows those that are here")));
    }
    None
}

/// Every path, begun at `base` where it was relative.
fn absolute(mut config: Config, base: &Path) -> Config {
    let Config { sip, http, engine, models, storage, recordings, privacy, agents, trunks, .. } = &mut config;
    let tls =
        [&mut sip.certificate, &mut sip.key, &mut sip.client_ca, &mut sip.ca, &mut http.certificate, &mut http.key];
    let tls = tls.into_iter().flatten();
    let passwords = trunks.iter_mut().filter_map(|trunk| trunk.password_file.as_mut());
    let optional = engine
        .program
        .iter_mut()
        .chain(&mut engine.script)
        .chain(tls)
        .chain(passwords)
        .chain(&mut privacy.key_file)
        .chain(&mut recordings.key_file);
    let fixed = [
        &mut http.socket,
        &mut engine.run,
        &mut models.dir,
        &mut models.cache,
        &mut storage.path,
        &mut storage.backups,
        &mut recordings.path,
    ]
    .into_iter();
    for path in fixed.chain(optional).chain(&mut agents.paths) {
        *path = base.join(&path);
    }
    config
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::config::Models;

    /// Loads `owners` over `packaged`, both in a fresh folder; the folder's name is cut out of the sentence.
    fn read(packaged: Option<&str>, owners: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let (below, above) = (folder.path().join("packaged.toml"), folder.path().join("callbox.toml"));
        if let Some(packaged) = packaged {
            fs::write(&below, packaged).expect("written");
        }
        fs::write(&above, owners).expect("written");
        load(&above, true, &below)
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn without_a_file_of_the_owners_the_packages_counts_and_paths_start_at_the_owners_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let (below, above) = (folder.path().join("packaged.toml"), folder.path().join("etc/callbox.toml"));
        fs::write(&below, "[models]\npack = \"tiny\"").expect("written");
        let config = load(&above, false, &below).expect("valid");
        assert_eq!(config.models.pack, "tiny");
        assert_eq!(config.agents.paths[0], folder.path().join("etc/agents"));
        assert!(
            matches!(load(&above, true, &below), Err(ConfigError::Unreadable { .. })),
            "one that was named must be there"
        );
    }

    #[test]
    fn the_annotated_file_is_the_default() {
        let shipped: Config = toml::from_str(include_str!("../../../config/callbox.toml")).expect("valid");
        assert_eq!(shipped, Config::default());
        assert_eq!(toml::from_str::<Config>("").expect("valid"), Config::default());
    }

    #[test]
    fn the_annotated_file_shows_every_key() {
        let text = include_str!("../../../config/callbox.toml").replace("\n# ", "\n");
        let trunk = text.split("\n[[trunk]]").nth(1).expect("a trunk");
        let example: String =
            trunk.lines().filter(|line| line.contains(" = ")).map(|line| format!("{line}\n")).collect();
        let example: Trunk = toml::from_str(&example).expect("its keys");
        let shown = |key: &str| text.lines().any(|line| line.starts_with(&format!("{key} = ")));
        let mut all = Config::default();
        all.sip.advertised = Some([192, 0, 2, 10].into());
        all.sip.certificate = Some("c".into());
        all.sip.key = Some("k".into());
        all.sip.client_ca = Some("a".into());
        all.sip.ca = Some("s".into());
        all.http.certificate = Some("h".into());
        all.http.key = Some("i".into());
        all.engine.program = Some("p".into());
        all.engine.script = Some("s".into());
        all.privacy.credential = Some("c".parse().expect("a name"));
        all.privacy.key_file = Some("k".into());
        all.recordings.credential = Some("c".parse().expect("a name"));
        all.recordings.key_file = Some("k".into());
        let Models { vad, stt, llm, voice, embed, .. } = &mut all.models;
        [vad, stt, llm, voice, embed].into_iter().for_each(|name| *name = Some("m".into()));
        let only_needed = Trunk::new(example.name.clone());
        let same =
            Trunk { caller_id: example.caller_id.clone(), agents: example.agents.clone(), ..only_needed.clone() };
        let shown_trunk = Trunk {
            peers: example.peers.clone(),
            hosts: example.hosts.clone(),
            username: example.username.clone(),
            auth_username: example.auth_username.clone(),
            credential: example.credential.clone(),
            password_file: example.password_file.clone(),
            ..same
        };
        assert_eq!(example, shown_trunk, "a key that has a default is shown with it");
        let described: Vec<_> =
            Table::try_from(&example).expect("serialisable").into_iter().map(|(key, _)| key).collect();
        assert_eq!(described.len(), 21, "config/callbox.toml does not show every key of a trunk: {described:?}");
        fn keys(table: &Table, found: &mut Vec<String>) {
            for (key, value) in table {
                match value {
                    Value::Table(inner) => keys(inner, found),
                    _ => found.push(key.clone()),
                }
            }
        }
        let mut found = Vec::new();
        keys(&Table::try_from(all).expect("serialisable"), &mut found);
        assert!(found.len() > 25, "{found:?}");
        for key in found {
            assert!(shown(&key), "config/callbox.toml does not show {key}");
        }
    }

    #[test]
    fn mistakes_are_one_sentence_with_file_line_key_and_advice() {
        for (text, sentence) in [
            ("[media]\nprots = 1", "callbox.toml:2: unknown key `prots` in [media]; did you mean `ports`?"),
            ("\n[sip]\nmax_calls = 3", "callbox.toml:3: unknown key `max_calls` in [sip]; it belongs in [sip.limits]"),
            (
                "[log]\nzzzzzzzz = 1",
                "callbox.toml:2: unknown key `zzzzzzzz` in [log]; known here: level, format, allow_pii",
            ),
            ("[medja]\nbind = 1", "callbox.toml:1: unknown key `medja` at the top; did you mean `media`?"),
            (
                "[http]\nlisten = \"nowhere\"",
                "callbox.toml:2: http.listen: invalid socket address syntax; its default shows the form: \"127.0.0.1:8090\"",
            ),
            (
                "[media]\nports = \"9-3\"",
                "callbox.toml:2: media.ports: `9-3` is no range of ports: write the lowest and the highest, as in \
                 \"16384-32767\"; its default shows the form: \"16384-32767\"",
            ),
            (
                "[engine]\nthreads = \"many\"",
                "callbox.toml:2: engine.threads: threads must be \"auto\" or a number from 1 to 1024; its default \
                 shows the form: \"auto\"",
            ),
            (
                "[sip]\nudp = []\ntcp = []",
                "callbox.toml:2: sip.udp: no transport is left, so no call can come: give an address here, in tcp or in tls",
            ),
            (
                "[privacy]\ncallers = \"hashed\"",
                "callbox.toml:2: privacy.callers: needs a key: set privacy.credential or privacy.key_file",
            ),
            (
                "[privacy]\ncallers = \"nobody\"",
                "callbox.toml:2: privacy.callers: unknown variant `nobody`, expected `plain` or `hashed`; its default shows \
                 the form: \"plain\"",
            ),
            (
                "[engine]\nkind = \"scripted\"",
                "callbox.toml:2: engine.kind: a scripted engine needs `script`, the path of its file",
            ),
            (
                "[media]\nports = \"5000-5003\"",
                "callbox.toml:1: sip.limits.max_calls: 100 calls need two ports each, and media.ports 5000-5003 hold 2: change one",
            ),
            (
                "[[trunk]]\nname = \"a\"\n\n[[trunk]]\nname = \"b\"\npears = []",
                "callbox.toml:6: unknown key `pears` in [[trunk]]; did you mean `peers`?",
            ),
            ("[sip]\nusername = \"me\"", "callbox.toml:2: unknown key `username` in [sip]; it belongs in [[trunk]]"),
            (
                "[[trunk]]\nname = \"a\"\npeers = [\"10.0.0.7/8\"]",
                "callbox.toml:3: trunk.peers: `10.0.0.7/8` is an address in a range: write \"10.0.0.7\" or \"10.0.0.0/8\"",
            ),
            ("\n[[trunk]]\npeers = [\"10.0.0.1\"]", "callbox.toml:2: trunk: missing field `name`"),
            (
                "[[trunk]]\nname = \"a\"\npeers = [\"10.0.0.1\"]\nchallenge = true",
                "callbox.toml:4: trunk.challenge: in trunk \"a\" callers cannot be asked for a password that is not there: \
                 set `username`, and `credential` or `password_file`",
            ),
            (
                "[[trunk]]\nname = \"a\"\npeers = [\"10.0.0.1\"]\n[[trunk]]\nname = \"a\"\npeers = [\"10.0.0.2\"]",
                "callbox.toml:5: trunk.name: there are two trunks \"a\"; rename one",
            ),
            (
                "[[trunk]]\nname = \"a\"",
                "callbox.toml:1: trunk.peers: trunk \"a\" is nobody: name addresses in `peers`, or `hosts`",
            ),
            (
                "[[trunk]]\nname = \"a\"\ncodecs = []",
                "callbox.toml:3: trunk.codecs: name at least one codec, each of them once",
            ),
            (
                "[models]\nvoice = \"joe\"\nllm = \"../mind\"",
                "callbox.toml:3: models.llm: `../mind` is no name of a model; `callbox models list` shows those that are here",
            ),
            ("[sip]\nudp = [", "callbox.toml:2: this is not TOML: unclosed array, expected `]`"),
            (
                "[sip.limits]\nmax_calls = 0",
                "callbox.toml:2: sip.limits.max_calls: invalid value: integer `0`, expected a nonzero u32; its default shows the form: 100",
            ),
        ] {
            assert_eq!(read(None, text).expect_err(text), sentence);
        }
        assert!(load(Path::new("/nonexistent/x.toml"), true, Path::new("/nonexistent/y.toml")).is_err());
    }

    #[test]
    fn the_owners_file_lies_over_the_packages_and_paths_start_there() {
        let config = read(
            Some("[sip.limits]\nmax_calls = 7\nburst = 9\n[models]\ndir = \"m\""),
            "[sip.limits]\nburst = 3\n[storage]\npath = \"/x.db\"",
        )
        .expect("valid");
        assert_eq!(config.sip.limits.max_calls, NonZeroU32::new(7).expect("not zero"));
        assert_eq!(config.sip.limits.burst, NonZeroU32::new(3).expect("not zero"));
        assert_eq!(config.storage.path, Path::new("/x.db"));
        assert!(config.models.dir.is_absolute() && config.models.dir.ends_with("m"));
        assert!(config.agents.paths[0].is_absolute() && config.agents.paths[0].ends_with("agents"));
        assert_eq!(
            read(Some("[log]\nlevl = 1"), "").expect_err("bad key"),
            "packaged.toml:2: unknown key `levl` in [log]; did you mean `level`?"
        );
    }

    #[test]
    fn a_range_of_ports_counts_its_pairs() {
        for (text, pairs) in [("16384-32767", 8192), ("11-13", 1), ("10-12", 1), ("10-13", 2), ("65534-65535", 1)] {
            assert_eq!(text.parse::<super::super::PortRange>().expect(text).pairs(), pairs, "{text}");
        }
        for text in ["11-12", "0-9", "7", "9-9", "65535-65535", "1-70000", "a-b", ""] {
            assert!(text.parse::<super::super::PortRange>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_worse_than_a_sentence(at in 0_usize..3000, cut in 0_usize..40, put in ".{0,12}") {
            let text = include_str!("../../../config/callbox.toml").replace("\n# ", "\n");
            let prose = |line: &&str| line.is_empty() || line.starts_with('[') || line.contains(" = ");
            let mut text = text.lines().filter(prose).collect::<Vec<_>>().join("\n").into_bytes();
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.bytes());
            let source = Source { path: Path::new("x.toml"), text: String::from_utf8_lossy(&text).into_owned() };
            if let Err(error) = source.table() {
                let sentence = error.to_string();
                proptest::prop_assert!(sentence.starts_with("x.toml:") && sentence.lines().count() == 1, "{}", sentence);
            }
        }
    }
}

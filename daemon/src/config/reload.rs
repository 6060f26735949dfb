//! What of a changed file counts at once. Enters: the configuration that counts and the one that is wanted; leaves: the
//! one that counts next, and the keys that differ, with and without effect.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Config, ConfigError, parse};

/// Keys that a running daemon can take. All others are bound to something that is open: a port, a file, a process.
const AT_ONCE: [&str; 27] = [
    "agents.paths",
    "http.certificate",
    "http.key",
    "log.allow_pii",
    "log.level",
    "privacy.callers",
    "privacy.credential",
    "privacy.keep_audit_days",
    "privacy.keep_calls_days",
    "privacy.keep_recordings_days",
    "privacy.keep_transcripts_days",
    "privacy.key_file",
    "privacy.transcripts",
    "recordings.credential",
    "recordings.key_file",
    "sip.ca",
    "sip.certificate",
    "sip.client_ca",
    "sip.client_certificates",
    "sip.key",
    "sip.limits.burst",
    "sip.limits.drain_s",
    "sip.limits.invites_per_second",
    "sip.limits.max_calls",
    "sip.limits.retry_after_s",
    "sip.limits.unacked",
    "trunk",
];

/// Next, keys with effect, keys without.
pub type Change = (Config, Vec<String>, Vec<String>);

pub(super) fn reload(current: &Config, wanted: &Config) -> Result<Change, ConfigError> {
    let mut next = current.clone();
    next.sip.limits.clone_from(&wanted.sip.limits);
    next.sip.ca.clone_from(&wanted.sip.ca);
    next.sip.certificate.clone_from(&wanted.sip.certificate);
    next.sip.client_ca.clone_from(&wanted.sip.client_ca);
    next.sip.client_certificates = wanted.sip.client_certificates;
    next.sip.key.clone_from(&wanted.sip.key);
    next.http.certificate.clone_from(&wanted.http.certificate);
    next.http.key.clone_from(&wanted.http.key);
    next.log.level = wanted.log.level;
    next.log.allow_pii = wanted.log.allow_pii;
    next.privacy.clone_from(&wanted.privacy);
    next.recordings.credential.clone_from(&wanted.recordings.credential);
    next.recordings.key_file.clone_from(&wanted.recordings.key_file);
    next.recordings.keys.clone_from(&wanted.recordings.keys);
    next.agents.clone_from(&wanted.agents);
    next.trunks.clone_from(&wanted.trunks);
    // What was wanted fits together; what counts next is a mixture.
    parse::consistent(&next)?;
    let (before, after) = (keys(current), keys(wanted));
    let differ = |key: &&String| before.get(*key) != after.get(*key);
    let all = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    let (changed, needs_restart) =
        all.filter(differ).cloned().partition(|key: &String| AT_ONCE.contains(&key.as_str()));
    Ok((next, changed, needs_restart))
}

/// Every dotted key with its value.
fn keys(config: &Config) -> BTreeMap<String, Value> {
    fn walk(table: Table, within: &str, found: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let key = format!("{within}{key}");
            match value {
                Value::Table(inner) => walk(inner, &format!("{key}."), found),
                value => drop(found.insert(key, value)),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(Table::try_from(config).unwrap_or_default(), "", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Config {
        toml::from_str(text).expect("valid")
    }

    #[test]
    fn limits_level_and_agents_count_at_once_and_all_else_waits() {
        let current = Config::default();
        let file = "[sip]\nudp = [\"127.0.0.1:5070\"]\nadvertised = \"192.0.2.1\"\n[sip.limits]\nmax_calls = 7\n\
                    drain_s = 3\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[agents]\npaths = [\"there\"]\n\
                    [storage]\npath = \"x.db\"";
        let (next, changed, restart) = reload(&current, &wanted(file)).expect("taken");
        assert_eq!(changed, ["agents.paths", "log.level", "sip.limits.drain_s", "sip.limits.max_calls"]);
        assert_eq!(restart, ["log.format", "sip.udp", "storage.path", "sip.advertised"]);
        let (again, changed, restart) = reload(&next, &wanted(file)).expect("taken");
        assert_eq!((again, changed.len(), restart.len()), (next, 0, 4), "named until the restart");
    }

    #[test]
    fn every_key_that_counts_at_once_is_taken_over() {
        let file = "[sip]\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\nca = \"s\"\n\
                    client_certificates = \"optional\"\n[sip.limits]\nmax_calls = 1\ninvites_per_second = 1\n\
                    burst = 1\nunacked = 1\nretry_after_s = 1\ndrain_s = 1\n[log]\nlevel = \"error\"\n\
                    allow_pii = true\n[http]\ncertificate = \"h\"\nkey = \"i\"\n[privacy]\ntranscripts = \"off\"\n\
                    callers = \"hashed\"\ncredential = \"c\"\nkey_file = \"k\"\nkeep_calls_days = 1\n\
                    keep_transcripts_days = 1\nkeep_audit_days = 1\nkeep_recordings_days = 1\n[recordings]\n\
                    credential = \"c\"\nkey_file = \"k\"\n[agents]\npaths = []\n[[trunk]]\nname = \"a\"\n\
                    peers = [\"10.0.0.1\"]";
        let (next, mut changed, restart) = reload(&Config::default(), &wanted(file)).expect("taken");
        changed.sort();
        assert_eq!((changed, restart), (AT_ONCE.map(str::to_owned).to_vec(), Vec::new()));
        assert_eq!(keys(&next), keys(&wanted(file)));
    }

    #[test]
    fn more_calls_than_the_open_ports_hold_are_refused() {
        let file = "[sip.limits]\nmax_calls = 9000\n[media]\nports = \"10000-60000\"";
        let refused = reload(&Config::default(), &wanted(file)).expect_err("too many").to_string();
        assert!(refused.contains("sip.limits.max_calls: 9000 calls need two ports each"), "{refused}");
    }
}

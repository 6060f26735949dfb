//! The daemon's lines in the journal. Enters: what is looked for; leaves: lines with call, turn and agent. Read by the
//! program journalctl, which every systemd has and which knows every format of its files; the library libsystemd would
//! bind this program to one copyleft licence and to the systemd that it was linked with.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;
use callbox::base::CallId;
use callbox::storage::Timestamp;
use clap::Args;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::printable::printable;

/// Lines of the daemon, of its engines, and of systemd about them.
const OURS: [&str; 5] = [
    "SYSLOG_IDENTIFIER=callboxd",
    "SYSLOG_IDENTIFIER=callbox-engine",
    "_COMM=callbox-engine",
    "_SYSTEMD_UNIT=callbox.service",
    "UNIT=callbox.service",
];

/// Fields that journald, systemd and the log itself add to each line, and that say nothing more here.
const FURNITURE: [&str; 12] = [
    "MESSAGE",
    "PRIORITY",
    "TARGET",
    "CALL_ID",
    "TURN_ID",
    "AGENT",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "UNIT",
    "INVOCATION_ID",
    "TID",
];

/// What is looked for.
#[derive(Args, Clone, Default)]
pub(crate) struct Query {
    /// Lines of one call, by the id that `callbox call list` shows.
    #[arg(long, value_name = "ID")]
    pub(crate) call: Option<CallId>,
    /// From then on: "10 min ago", "today", "2026-01-31 09:00", as journalctl(1) takes it.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// The last so many; otherwise 200, or all where --call or --since is given.
    #[arg(long, value_name = "N")]
    pub(crate) lines: Option<u32>,
    /// Goes on with new lines as they come.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Folder of journal files, as of another machine.
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
}

/// A running journalctl; it ends with this.
pub(crate) struct Journal {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Journal {
    /// Starts to read.
    pub(crate) fn open(query: &Query) -> anyhow::Result<Self> {
        let mut command = Command::new("journalctl");
        command.args(["--output=json", "--quiet", "--no-pager", "--all"]);
        let narrow = query.call.is_some() || query.since.is_some();
        match query.lines {
            Some(lines) => drop(command.arg(format!("--lines={lines}"))),
            None if !narrow => drop(command.arg("--lines=200")),
            // Following begins with the last ten otherwise.
            None if query.follow => drop(command.arg("--no-tail")),
            None => {}
        }
        if let Some(since) = &query.since {
            command.arg(format!("--since={since}"));
        }
        if let Some(folder) = &query.journal {
            command.arg("--directory").arg(folder);
        }
        if query.follow {
            command.arg("--follow");
        }
        match query.call {
            Some(call) => drop(command.arg(format!("CALL_ID={call}"))),
            None => drop(command.args(OURS.join(" + ").split(' '))),
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(
                "journalctl cannot be started: without systemd, the log is where callboxd's standard output goes",
            )?;
        let stdout = child.stdout.take().context("journalctl has no output")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// The next line; none at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        while let Some(text) = self.lines.next_line().await.context("journalctl cannot be read")? {
            if let Some(line) = Line::parse(&text) {
                return Ok(Some(line));
            }
        }
        let mut sentence = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            sentence = BufReader::new(stderr).lines().next_line().await?.unwrap_or_default();
        }
        let status = self.child.wait().await?;
        anyhow::ensure!(
            status.success(),
            "journalctl: {}",
            if sentence.is_empty() { status.to_string() } else { sentence }
        );
        Ok(None)
    }
}

/// A line of the log.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Line {
    time: Timestamp,
    level: &'static str,
    target: String,
    call: Option<String>,
    turn: Option<String>,
    agent: Option<String>,
    message: String,
    /// All else that was said, in lower case.
    more: Map<String, Value>,
}

impl Line {
    /// From `journalctl --output=json`; none if it is no object.
    fn parse(text: &str) -> Option<Self> {
        let Value::Object(entry) = serde_json::from_str(text).ok()? else { return None };
        let field = |name: &str| entry.get(name).map(plain);
        let level = match field("PRIORITY").and_then(|priority| priority.parse().ok()).unwrap_or(6) {
            0..=3 => "ERROR",
            4 => "WARN",
            5..=6 => "INFO",
            _ => "DEBUG",
        };
        let time = field("__REALTIME_TIMESTAMP").and_then(|micros| micros.parse().ok()).unwrap_or(0);
        let ours = field("SYSLOG_IDENTIFIER").is_some_and(|name| name == "callboxd");
        let said = |name: &str| {
            let furniture = FURNITURE.contains(&name)
                || ["_", "SYSLOG_", "SPAN_", "JOB_", "MESSAGE_"].iter().any(|prefix| name.starts_with(prefix));
            ours && !furniture
        };
        let more = entry.iter().filter(|(name, _)| said(name));
        Some(Self {
            time: Timestamp(time),
            level,
            target: field("TARGET")
                .or_else(|| field("SYSLOG_IDENTIFIER"))
                .or_else(|| field("_COMM"))
                .unwrap_or_default(),
            call: field("CALL_ID"),
            turn: field("TURN_ID"),
            agent: field("AGENT"),
            message: field("MESSAGE").unwrap_or_default(),
            more: more.map(|(name, value)| (name.to_lowercase(), plain(value).into())).collect(),
        })
    }

    /// One JSON object, with the names of the log on standard output.
    pub(crate) fn json(&self) -> Value {
        let mut all = self.more.clone();
        let ids = [("call", &self.call), ("turn", &self.turn), ("agent", &self.agent)];
        all.extend(ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id.clone()?.into()))));
        all.insert("time".into(), self.time.to_string().into());
        all.insert("level".into(), self.level.into());
        all.insert("target".into(), self.target.clone().into());
        all.insert("message".into(), self.message.clone().into());
        all.into()
    }

    /// One line for a person; no text of a peer moves the cursor of a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} {:5} {}", self.time, self.level, self.target);
        for (name, id) in [("call", &self.call), ("agent", &self.agent), ("turn", &self.turn)] {
            if let Some(id) = id {
                text += &format!(" {name}={id}");
            }
        }
        text += &format!(": {}", self.message);
        for (name, value) in &self.more {
            text += &format!(" {name}={}", plain(value));
        }
        printable(&text)
    }
}

/// A field's value: text, bytes where it is none, or several of them; the innermost span is the last.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = values.iter().filter_map(|value| u8::try_from(value.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Value::Array(values) => values.last().map(plain).unwrap_or_default(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_becomes_a_line_with_its_ids_and_nothing_of_the_furniture() {
        let entry = r#"{"__REALTIME_TIMESTAMP":"1767225600000000","PRIORITY":"4","SYSLOG_IDENTIFIER":"callboxd",
            "TARGET":"callbox::call::conversation","CALL_ID":"00000000000000ab","TURN_ID":["1","3"],"AGENT":"frontdesk",
            "MESSAGE":"late","WAIT_MS":"5","_PID":"7","SPAN_NAME":["call","turn"],"CODE_LINE":"9","EVIL":"a\u001b[2Jb"}"#;
        let line = Line::parse(&entry.replace('\n', "")).expect("a line");
        assert_eq!(
            line.text(),
            "2026-01-01T00:00:00.000Z WARN  callbox::call::conversation call=00000000000000ab agent=frontdesk turn=3: \
             late evil=a\u{fffd}[2Jb wait_ms=5"
        );
        let json = line.json();
        assert_eq!((&json["turn"], &json["wait_ms"], json.get("_pid")), (&"3".into(), &"5".into(), None));
    }

    #[test]
    fn bytes_lines_of_systemd_and_no_json_are_taken_as_they_are() {
        let line = Line::parse(
            r#"{"MESSAGE":[104,105,255],"PRIORITY":"6","SYSLOG_IDENTIFIER":"systemd","UNIT":"callbox.service"}"#,
        );
        let line = line.expect("a line");
        assert_eq!((line.message.as_str(), line.target.as_str(), line.more.len()), ("hi\u{fffd}", "systemd", 0));
        assert_eq!(Line::parse("-- No entries --"), None);
    }
}

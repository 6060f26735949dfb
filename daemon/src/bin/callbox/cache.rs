//! `callbox cache …`: answers that are known. Enters: what the daemon says; leaves: tables, a file of questions, JSON.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use crate::calls::text;
use crate::client::{Daemon, escaped};

/// See [`crate::Command::Cache`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    daemon: Daemon,
    /// Only those of this agent.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only those that come from there.
    #[arg(long, value_enum)]
    origin: Option<Origin>,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Origin {
    /// The agent's file of questions.
    Faq,
    /// `callbox cache add`.
    Added,
    /// Earlier calls.
    Learned,
}

#[derive(Subcommand)]
enum Command {
    /// Adds a question with its answer, or a new answer to it. It counts until the agent's instructions or facts change.
    Add {
        #[command(flatten)]
        daemon: Daemon,
        /// Whose answer it is.
        #[arg(long, value_name = "NAME")]
        agent: String,
        /// What callers ask.
        question: String,
        /// What the agent says.
        answer: String,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Questions whose answer is known.
    List {
        #[command(flatten)]
        which: Which,
        /// How many, at most 1000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Goes on where an earlier list ended: its `next`.
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
    },
    /// One of them.
    Show {
        #[command(flatten)]
        daemon: Daemon,
        /// Its id, as `cache list` shows it.
        id: u64,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Takes out one, or all of an agent or an origin. What a file says comes back with the next start or reload.
    Purge {
        #[command(flatten)]
        which: Which,
        /// Its id, as `cache list` shows it.
        #[arg(conflicts_with_all = ["agent", "origin", "all"])]
        id: Option<u64>,
        /// All of all agents.
        #[arg(long, conflicts_with_all = ["agent", "origin"])]
        all: bool,
    },
    /// Writes them to standard output as a file of questions (TOML) that an agent can name in `cache.faq`.
    Export {
        #[command(flatten)]
        which: Which,
    },
    /// How many there are of each agent, and how often they have answered.
    Stats {
        #[command(flatten)]
        daemon: Daemon,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Has the audio of all answers made ready, and waits until it is.
    Warm {
        #[command(flatten)]
        which: Which,
    },
}

impl Which {
    fn query(&self) -> String {
        let agent = self.agent.iter().map(|agent| format!("agent={}", escaped(agent)));
        let origin = self.origin.iter().map(|origin| {
            let name = match origin {
                Origin::Faq => "faq",
                Origin::Added => "added",
                Origin::Learned => "learned",
            };
            format!("origin={name}")
        });
        agent.chain(origin).map(|part| format!("&{part}")).collect()
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Add { daemon, agent, question, answer, json } => {
            let wanted = json!({ "agent": agent, "question": question, "answer": answer });
            let added = daemon.order_with(Method::POST, "/api/v1/cache", Some(&wanted)).await?;
            if json { println!("{added}") } else { println!("added: entry {}", added["id"]) }
        }
        Command::List { which, limit, after } => {
            let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
            let path = format!("/api/v1/cache?limit={limit}{after}{}", which.query());
            let (_, page) = which.daemon.get(&path, None).await?;
            if which.json { println!("{page}") } else { list(&page) }
        }
        Command::Show { daemon, id, json } => {
            let (_, entry) = daemon.get(&format!("/api/v1/cache/{id}"), None).await?;
            if json { println!("{entry}") } else { show(&entry) }
        }
        Command::Purge { which, id, all } => {
            anyhow::ensure!(
                id.is_some() || all || which.agent.is_some() || which.origin.is_some(),
                "say which: an id, --agent, --origin or --all"
            );
            let path = match id {
                Some(id) => format!("/api/v1/cache/{id}"),
                None => format!("/api/v1/cache?{}", which.query().trim_start_matches('&')),
            };
            let gone = which.daemon.order(Method::DELETE, &path).await?;
            if which.json { println!("{gone}") } else { println!("taken out: {}", gone["removed"]) }
        }
        Command::Export { which } => {
            let entries = all(&which).await?;
            if which.json { println!("{}", Value::from(entries)) } else { print!("{}", faq(&entries)) }
        }
        Command::Stats { daemon, json } => {
            let (_, stats) = daemon.get("/api/v1/cache/stats", None).await?;
            if json { println!("{stats}") } else { table(&stats) }
        }
        Command::Warm { which } => {
            let path = format!("/api/v1/cache/warm?{}", which.query().trim_start_matches('&'));
            let wanted = which.daemon.order(Method::POST, &path).await?;
            let mut left = wanted["rendering"].as_u64().unwrap_or(0);
            if !which.json {
                println!("to be rendered: {left}");
            }
            while left > 0 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (_, stats) = which.daemon.get("/api/v1/cache/stats", None).await?;
                let agents = stats["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
                left = agents.iter().filter_map(|agent| agent["rendering"].as_u64()).sum();
            }
            let (_, stats) = which.daemon.get("/api/v1/cache/stats", None).await?;
            if which.json { println!("{stats}") } else { table(&stats) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every entry, page by page.
async fn all(which: &Which) -> anyhow::Result<Vec<Value>> {
    let mut entries = Vec::new();
    let mut after = 0;
    loop {
        let path = format!("/api/v1/cache?limit=1000&after={after}{}", which.query());
        let (_, page) = which.daemon.get(&path, None).await?;
        entries.extend(page["entries"].as_array().into_iter().flatten().cloned());
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(entries),
        }
    }
}

/// Questions of one answer stand together.
fn faq(entries: &[Value]) -> String {
    let mut answers: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in entries {
        let (Some(question), Some(answer)) = (entry["question"].as_str(), entry["answer"].as_str()) else { continue };
        match answers.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, questions)) => questions.push(question),
            None => answers.push((answer, vec![question])),
        }
    }
    // As the file of questions is read, every string is one of TOML's.
    let answer = |(answer, questions): &(&str, Vec<&str>)| {
        let ask: toml::Value = questions.clone().into();
        format!("[[answer]]\nask = {ask}\nsay = {}\n", toml::Value::from(*answer))
    };
    answers.iter().map(answer).collect::<Vec<_>>().join("\n")
}

fn list(page: &Value) {
    println!("{:>6}  {:<12}  {:<8}  {:>5}  QUESTION", "ID", "AGENT", "ORIGIN", "HITS");
    for entry in page["entries"].as_array().into_iter().flatten() {
        let [id, agent, origin, hits, question] =
            ["id", "agent", "origin", "hits", "question"].map(|name| text(&entry[name]));
        let outdated = if entry["outdated"] == true { "  (outdated)" } else { "" };
        println!("{id:>6}  {agent:<12}  {origin:<8}  {hits:>5}  {question}{outdated}");
    }
    if let Some(next) = page["next"].as_u64() {
        println!("more: --after {next}");
    }
}

fn show(entry: &Value) {
    for name in ["id", "agent", "origin", "question", "answer", "hits", "made", "used", "expires", "outdated", "ready"]
    {
        if !entry[name].is_null() {
            println!("{name:<9} {}", text(&entry[name]));
        }
    }
}

fn table(stats: &Value) {
    const COLUMNS: [&str; 8] = ["faq", "added", "learned", "outdated", "without_vector", "ready", "rendering", "hits"];
    println!("{:<12}  {}", "AGENT", COLUMNS.map(|name| format!("{:>14}", name.to_uppercase())).join("  "));
    for agent in stats["agents"].as_array().into_iter().flatten() {
        let cells = COLUMNS.map(|name| format!("{:>14}", text(&agent[name])));
        println!("{:<12}  {}", text(&agent["agent"]), cells.join("  "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_a_file_of_questions() {
        let entries = [
            json!({ "question": "When is \"breakfast\"?", "answer": "From seven." }),
            json!({ "question": "Is there a pool?", "answer": "Yes.\u{7f}" }),
            json!({ "question": "What are the breakfast hours?", "answer": "From seven." }),
        ];
        let text = faq(&entries);
        let file: toml::Table = text.parse().expect("TOML");
        let answers = file["answer"].as_array().expect("answers");
        assert_eq!((answers.len(), answers[0]["ask"].as_array().map(Vec::len)), (2, Some(2)));
        assert_eq!(answers[0]["ask"][0].as_str(), Some("When is \"breakfast\"?"));
    }
}

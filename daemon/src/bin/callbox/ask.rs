//! `callbox ask TEXT --agent NAME`: the mind alone, with its timing.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use callbox::call::agents::Agents;
use callbox::dialogue::{Agent, prime_messages};
use callbox_wire::{ChatMessage, ChatRole, Event, Request, Role, Thought, TurnId};
use serde::Serialize;

use crate::private::{CALL, EngineArgs, Private};

/// Asks an agent, in writing.
#[derive(clap::Args, Debug)]
pub(crate) struct AskArgs {
    /// The questions, in the order of one conversation.
    #[arg(required = true, value_name = "TEXT")]
    questions: Vec<String>,
    /// Name of the agent, or its file.
    #[arg(long, default_value = "frontdesk", value_name = "NAME")]
    agent: String,
    /// One JSON object per answer.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    question: &'a str,
    answer: &'a str,
    #[serde(flatten)]
    thought: Thought,
}

pub(crate) async fn run(args: AskArgs) -> Result<ExitCode> {
    let config = args.engine.config()?;
    let agent = if args.agent.ends_with(".toml") {
        Agent::read(&PathBuf::from(&args.agent))?
    } else {
        let agents = Agents::read(&config.agents.paths)?;
        let known = agents.names().collect::<Vec<_>>().join(", ");
        agents
            .named(&args.agent)
            .with_context(|| format!("there is no agent `{}`; there is {known}", args.agent))?
            .clone()
    };
    let mut messages = prime_messages(&agent);
    let mut engine = Private::start(&config, &[Role::Mind]).await?;
    if let Some(adapter) = agent.adapter() {
        engine.load_adapter(&config, adapter).await?;
    }
    for (turn, question) in (1..).map(TurnId).zip(&args.questions) {
        messages.push(ChatMessage { role: ChatRole::User, content: question.clone() });
        let (messages_now, sampling) = (messages.clone(), agent.sampling());
        engine.port.send(match agent.adapter() {
            None => Request::Think { call: CALL, turn, messages: messages_now, sampling },
            Some(adapter) => {
                let (adapter, sampling) = (adapter.to_owned(), sampling.into());
                Request::ThinkWith { adapter, call: CALL, turn, messages: messages_now, sampling }
            }
        })?;
        let mut answer = String::new();
        let thought = loop {
            match engine.event().await? {
                Event::Token { text, .. } => {
                    if !args.json {
                        print!("{text}");
                        std::io::stdout().flush()?;
                    }
                    answer += &text;
                }
                Event::Thought { thought, .. } => break thought,
                _ => {}
            }
        };
        if args.json {
            println!("{}", serde_json::to_string(&Line { question, answer: &answer, thought })?);
        } else {
            let millis = |us: u64| us / 1000;
            println!(
                "\n  {} tokens of prompt, {} of them known, in {} ms; {} tokens of answer in {} ms",
                thought.prompt_tokens,
                thought.cached_tokens,
                millis(thought.prefill_us),
                thought.answer_tokens,
                millis(thought.decode_us)
            );
        }
        messages.push(ChatMessage { role: ChatRole::Assistant, content: answer });
    }
    engine.stop().await;
    Ok(ExitCode::SUCCESS)
}

//! A conversation to the one text that the model was trained to continue, by the template inside its file.
//!
//! Enters: messages. Leaves: a text with the model's own control tokens. Never here: a control token from a message.

use anyhow::{Context, Result};
use callbox_wire::{ChatMessage, ChatRole};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};

use super::tokenizer::Tokenizer;
use crate::weights::gguf::Head;

const NAME: &str = "chat";

/// A chat template.
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    /// Compiles the template of a GGUF file.
    ///
    /// # Errors
    /// If there is none, or it is not a template.
    pub fn from_gguf(head: &Head, tokenizer: &Tokenizer) -> Result<Self> {
        let source = head.text("tokenizer.chat_template").context("a model that was not made for conversations")?;
        let mut environment = Environment::new();
        // As transformers does it, which the templates are written for.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_template_owned(NAME, source.to_owned()).context("the chat template cannot be read")?;
        let text = |token: Option<&str>| token.unwrap_or_default().to_owned();
        Ok(Self { environment, bos: text(tokenizer.bos()), eos: text(tokenizer.eos()) })
    }

    /// The text of a conversation; with `answer`, up to where the agent's answer begins.
    ///
    /// # Errors
    /// If the template refuses the messages, such as two of one person in a row.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[ChatMessage], answer: bool) -> Result<String> {
        let messages: Vec<_> = messages
            .iter()
            .map(|message| {
                let role = match message.role {
                    ChatRole::System => "system",
                    ChatRole::User => "user",
                    ChatRole::Assistant => "assistant",
                };
                context! { role, content => tokenizer.defuse(&message.content) }
            })
            .collect();
        let template = self.environment.get_template(NAME)?;
        Ok(template.render(context! {
            messages, add_generation_prompt => answer, bos_token => &self.bos, eos_token => &self.eos,
        })?)
    }
}

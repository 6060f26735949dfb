//! Text to tokens and back, from the vocabulary inside a GGUF file.
//!
//! Enters: text, token numbers. Leaves: the same, the other way round. Never here: a token that a caller's words could
//! forge: control tokens are found only where the template puts them ([`Tokenizer::defuse`]).

use std::collections::HashSet;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::weights::gguf::{Head, Value};

/// The expression that cuts words for qwen2, from its `tokenizer.json`.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Control tokens that end an answer in models whose metadata names only one of theirs.
const ENDS: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>"];

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of each token; none for control tokens.
    pieces: Vec<Box<[u8]>>,
    control: Vec<String>,
    ends: HashSet<u32>,
    bos: Option<String>,
    eos: Option<String>,
}

impl Tokenizer {
    /// Builds it from metadata.
    ///
    /// # Errors
    /// If the vocabulary is of a kind that is not supported, or broken.
    pub fn from_gguf(head: &Head) -> Result<Self> {
        let model = head.text("tokenizer.ggml.model")?;
        ensure!(model == "gpt2", "tokenizers of the kind {model:?} are not supported");
        let texts = |key: &str| -> Result<Vec<&str>> {
            head.list(key)?
                .iter()
                .map(|value| match value {
                    Value::Text(text) => Ok(text.as_str()),
                    _ => bail!("{key} holds something else than texts"),
                })
                .collect()
        };
        let tokens = texts("tokenizer.ggml.tokens")?;
        let kinds = head.list("tokenizer.ggml.token_type")?;
        ensure!(kinds.len() == tokens.len(), "{} tokens, {} kinds", tokens.len(), kinds.len());
        let merges = texts("tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
            .collect::<Option<Vec<_>>>()
            .context("a merge of other than two tokens")?;
        let mut vocabulary = Vocab::default();
        for (id, token) in (0_u32..).zip(&tokens) {
            vocabulary.insert((*token).to_owned(), id);
        }
        let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(|error| anyhow!(error))?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        cut_words(&mut inner, head.text("tokenizer.ggml.pre").unwrap_or("default"))?;

        let mut control = Vec::new();
        let mut pieces = Vec::with_capacity(tokens.len());
        for (token, kind) in tokens.iter().zip(kinds) {
            match kind {
                Value::Int(3) => {
                    control.push((*token).to_owned());
                    pieces.push(Box::default());
                }
                // Added by whoever trained it: plain text, but never cut.
                Value::Int(4) => {
                    let added = AddedToken::from(*token, false).normalized(false);
                    inner.add_tokens([added]).map_err(|error| anyhow!(error))?;
                    pieces.push(token.as_bytes().into());
                }
                _ => pieces.push(token.chars().filter_map(byte_of).collect()),
            }
        }
        let special = control.iter().filter(|token| !token.is_empty());
        let special: Vec<_> = special.map(|token| AddedToken::from(token.as_str(), true).normalized(false)).collect();
        inner.add_special_tokens(special).map_err(|error| anyhow!(error))?;

        let named = |key: &str| -> Option<&str> { tokens.get(head.int(key).ok()?).copied() };
        let (bos, eos) = (named("tokenizer.ggml.bos_token_id"), named("tokenizer.ggml.eos_token_id"));
        let eot = named("tokenizer.ggml.eot_token_id");
        let ends = (0_u32..)
            .zip(&tokens)
            .filter(|(id, token)| {
                let control = kinds.get(*id as usize) == Some(&Value::Int(3));
                Some(**token) == eos || Some(**token) == eot || control && ENDS.contains(token)
            })
            .map(|(id, _)| id)
            .collect();
        Ok(Self { inner, ends, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned), pieces, control })
    }

    /// The tokens of a text; control tokens in it become themselves.
    ///
    /// # Errors
    /// If the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| anyhow!(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// `text` without anything that [`Tokenizer::encode`] would take for a control token.
    #[must_use]
    pub fn defuse(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Taking one out may put another together.
        while let Some(found) = self.control.iter().find(|token| !token.is_empty() && text.contains(token.as_str())) {
            text = text.replace(found.as_str(), "");
        }
        text
    }

    /// The bytes of a token: not always whole characters; none for control tokens.
    #[must_use]
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], |piece| piece)
    }

    /// Whether an answer ends with this token.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The text of the token that begins a sequence, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// The text of the token that ends an answer, if there is one.
    #[must_use]
    pub fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }
}

fn cut_words(inner: &mut tokenizers::Tokenizer, name: &str) -> Result<()> {
    let pieces: Vec<PreTokenizerWrapper> = match name {
        "smollm" => vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()],
        "qwen2" => {
            inner.with_normalizer(Some(NFC)).map_err(|error| anyhow!(error))?;
            let pattern = SplitPattern::Regex(QWEN2.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|error| anyhow!(error))?;
            vec![split.into(), ByteLevel::new(false, true, false).into()]
        }
        "gpt-2" | "gpt2" | "default" => vec![ByteLevel::new(false, true, true).into()],
        other => bail!("the tokenizer cuts words as {other:?} does, which is not supported"),
    };
    inner.with_pre_tokenizer(Some(Sequence::new(pieces)));
    Ok(())
}

/// The byte that a character of a byte-level vocabulary stands for: printable Latin-1 stands for itself, the others
/// were moved to U+0100 and up, in order.
fn byte_of(symbol: char) -> Option<u8> {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(symbol) {
        code @ 0..=255 => u8::try_from(code).ok().filter(|&byte| plain(byte)),
        code => (0..=255).filter(|&byte| !plain(byte)).nth((code - 256) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_of_bytes_is_a_bijection() {
        let codes = (0..=0x143).filter_map(char::from_u32);
        let bytes: Vec<u8> = codes.filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(bytes.iter().collect::<HashSet<_>>().len(), 256);
        assert_eq!((byte_of('Ġ'), byte_of('Ċ')), (Some(b' '), Some(b'\n')));
    }
}

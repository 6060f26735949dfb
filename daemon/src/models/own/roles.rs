//! What each role can read. Enters: the paths of a source, then the files themselves; leaves: which of them make a model,
//! or one sentence. Never here: a model that is loaded; what only its weights would tell is the engine's to say.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Offer, OwnError};
use crate::models::Use;
use crate::models::catalogue::is_plain;

/// What the engine computes: `TransformerSpec::from_gguf` there.
pub(super) const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// More of a GGUF file than this is not read for its architecture, which is the first thing in it.
const GGUF_HEAD: u64 = 1 << 20;

/// No configuration, tokenizer or head of a safetensors file is longer.
const LONGEST_JSON: u64 = 64 << 20;

/// Magic and sizes of whisper.cpp's files.
const WHISPER_HEAD: usize = 48;

/// How many files a sentence names.
const NAMED: usize = 6;

/// What a role wants, in words.
fn wants(role: Use) -> &'static str {
    match role {
        Use::Llm => "one GGUF file (.gguf) of a llama or qwen2",
        Use::Stt => "a Whisper (.pt, .safetensors, or ggml-….bin of whisper.cpp)",
        Use::Voice => "a Piper voice (.onnx) with its .onnx.json beside it",
        Use::Embed => "a MiniLM (.safetensors) with its tokenizer.json beside it",
        Use::Vad => "Silero's weights (.safetensors)",
    }
}

/// Whether a role reads files of that name.
fn fits(role: Use, path: &str) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|ending| path.to_ascii_lowercase().ends_with(ending));
    match role {
        Use::Llm => ends(&[".gguf"]),
        // Of other files that end so there are too many beside one that is meant.
        Use::Stt if ends(&[".bin"]) => path.rsplit('/').next().is_some_and(|name| name.starts_with("ggml-")),
        Use::Stt => ends(&[".pt", ".safetensors"]),
        Use::Voice => ends(&[".onnx"]),
        Use::Embed | Use::Vad => ends(&[".safetensors"]),
    }
}

/// The file that must lie beside the first one.
fn companion(role: Use, path: &str) -> Option<String> {
    match role {
        Use::Voice => Some(format!("{path}.json")),
        Use::Embed => Some(match path.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/tokenizer.json"),
            None => "tokenizer.json".to_owned(),
        }),
        _ => None,
    }
}

/// Whether every step of a path stays below where it begins.
pub(super) fn is_safe(path: &str) -> bool {
    path.len() <= 1024 && !path.contains(char::is_control) && path.split('/').all(is_plain)
}

/// Part of a model that was cut up (`-00001-of-00003.gguf`).
fn is_part(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let stem = [".gguf", ".safetensors"].iter().find_map(|ending| path.strip_suffix(ending));
    let Some((before, last)) = stem.and_then(|stem| stem.rsplit_once("-of-")) else { return false };
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    number(last) && last != "00001" && before.rsplit_once('-').is_some_and(|(_, part)| number(part))
}

/// Which files of `offers` make a model, the first one first. Without a role, the name of the file says it.
pub(super) fn choose(
    source: &str,
    offers: &[Offer],
    file: Option<&str>,
    role: Option<Use>,
) -> Result<(Use, Vec<Offer>), OwnError> {
    let find = |path: &str| offers.iter().find(|offer| offer.path == path).cloned();
    let main = match file {
        Some(file) if !is_safe(file) => return Err(OwnError::Hostile(file.to_owned())),
        Some(file) => {
            find(file).ok_or_else(|| OwnError::NoFile { source_name: source.to_owned(), file: file.to_owned() })?
        }
        None => only(source, offers, role)?,
    };
    let role = match role {
        Some(role) if fits(role, &main.path) => role,
        Some(role) => {
            return Err(OwnError::Unfit { file: main.path, role, reason: format!("it wants {}", wants(role)) });
        }
        None => guess(source, offers, &main.path)?,
    };
    if is_part(&main.path) {
        let reason = match role {
            Use::Llm => "it is one of several parts; join them with `llama-gguf-split --merge`, or take a smaller one",
            _ => "it is one of several parts; take a file that is whole",
        };
        return Err(OwnError::Unfit { file: main.path, role, reason: reason.to_owned() });
    }
    let beside = match companion(role, &main.path) {
        None => None,
        Some(path) => Some(find(&path).ok_or_else(|| OwnError::Unfit {
            file: main.path.clone(),
            role,
            reason: format!("it wants {}, and {path} is missing", wants(role)),
        })?),
    };
    Ok((role, std::iter::once(main).chain(beside).collect()))
}

/// The one file that somebody without further words can only mean.
fn only(source: &str, offers: &[Offer], role: Option<Use>) -> Result<Offer, OwnError> {
    let whole = |offer: &&Offer, role: Use| {
        let beside = companion(role, &offer.path);
        fits(role, &offer.path)
            && !is_part(&offer.path)
            && beside.is_none_or(|path| offers.iter().any(|offer| offer.path == path))
    };
    let roles = match role {
        Some(role) => vec![role],
        None => vec![Use::Llm, Use::Stt, Use::Voice, Use::Embed, Use::Vad],
    };
    let mut would: Vec<&Offer> =
        offers.iter().filter(|offer| is_safe(&offer.path) && roles.iter().any(|role| whole(offer, *role))).collect();
    would.sort_by(|one, other| one.path.cmp(&other.path));
    match would.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let wants = match role {
                Some(role) => format!("the role {role} wants {}", wants(role)),
                None => roles.iter().map(|role| wants(*role)).collect::<Vec<_>>().join(", or "),
            };
            Err(OwnError::Nothing { source_name: source.to_owned(), wants })
        }
        [first, ..] => {
            let mut all: Vec<_> = would.iter().take(NAMED).map(|offer| offer.path.as_str()).collect();
            if would.len() > NAMED {
                all.push("others");
            }
            Err(OwnError::Several {
                source_name: source.to_owned(),
                count: would.len(),
                first: first.path.clone(),
                all: all.join(", "),
            })
        }
    }
}

/// What a file is for, by its name, that of its source, and what lies beside it.
fn guess(source: &str, offers: &[Offer], path: &str) -> Result<Use, OwnError> {
    let named = format!("{source}/{path}").to_ascii_lowercase();
    let beside = |role| companion(role, path).is_some_and(|path| offers.iter().any(|offer| offer.path == path));
    let kind = path.rsplit_once('.').map(|(_, kind)| kind.to_ascii_lowercase()).unwrap_or_default();
    match kind.as_str() {
        "gguf" => Ok(Use::Llm),
        "pt" | "bin" => Ok(Use::Stt),
        "onnx" => Ok(Use::Voice),
        "safetensors" if named.contains("silero") => Ok(Use::Vad),
        // It has a tokenizer beside it, too.
        "safetensors" if named.contains("whisper") => Ok(Use::Stt),
        "safetensors" if beside(Use::Embed) => Ok(Use::Embed),
        "safetensors" => Err(OwnError::NeedsRole(path.to_owned())),
        _ => {
            let all = [Use::Llm, Use::Stt, Use::Voice, Use::Embed, Use::Vad].map(wants).join(", or ");
            Err(OwnError::Nothing { source_name: path.to_owned(), wants: all })
        }
    }
}

/// Refuses an architecture that the engine does not compute.
pub(super) fn architecture(file: &str, found: &str) -> Result<(), OwnError> {
    if ARCHITECTURES.contains(&found) {
        return Ok(());
    }
    let known = ARCHITECTURES.join(" and ");
    Err(unfit(Use::Llm, file, format!("its architecture is {found:?}; {known} are computed")))
}

fn unfit(role: Use, file: &str, reason: impl Into<String>) -> OwnError {
    OwnError::Unfit { file: file.to_owned(), role, reason: reason.into() }
}

/// Looks into the files, as far as that tells without loading them; `files` are their paths here, with their names.
pub(super) fn look(role: Use, files: &[(String, PathBuf)]) -> Result<(), OwnError> {
    let no = |file: &str, reason: &str| unfit(role, file, reason);
    let [(name, path), beside @ ..] = files else { return Err(no("nothing", "it wants a file")) };
    let head = |most: usize| -> Result<Vec<u8>, OwnError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(most as u64).read_to_end(&mut bytes))
            .map_err(|error| no(name, &error.to_string()))?;
        Ok(bytes)
    };
    match role {
        Use::Llm => match gguf(path) {
            Ok(Some(found)) => architecture(name, &found),
            Ok(None) => Ok(()),
            Err(_) => Err(no(name, "it is not a GGUF file of version 2 or 3")),
        },
        Use::Stt => whisper(&head(WHISPER_HEAD)?, path).map_err(|reason| no(name, &reason)),
        Use::Vad => match tensors(path) {
            Some(names) if holds(&names, &["stft_conv.weight"]) => Ok(()),
            _ => Err(no(name, "these are not Silero's weights")),
        },
        Use::Embed => {
            if !tensors(path).is_some_and(|names| holds(&names, &["embeddings.word_embeddings.weight"])) {
                return Err(no(name, "it is no sentence embedder of the BERT family"));
            }
            with_keys(role, beside, &["model"])
        }
        Use::Voice => {
            // An ONNX file begins with the number of its form: field 1, a varint.
            if head(1)? != [0x08] {
                return Err(no(name, "it is not an ONNX file"));
            }
            with_keys(role, beside, &["audio", "espeak", "inference", "phoneme_id_map"])
        }
    }
}

/// What keeps a file from being a Whisper, from what it begins with: of the pickle in a zip that is little, of whisper.cpp's
/// files the sizes, of safetensors the shapes.
fn whisper(head: &[u8], path: &Path) -> Result<(), String> {
    if head.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    let tokens = if head.starts_with(b"lmgg") {
        let number =
            |at: usize| head.get(at..at + 4).map(|bytes| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)));
        number(4).filter(|_| matches!(number(40), Some(80 | 128)))
    } else {
        let tensors = tensors(path).unwrap_or_default();
        let rows = ["decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"].iter().find_map(|name| {
            let shape = tensors.get(*name)?.get("shape")?;
            shape.get(0)?.as_u64()
        });
        rows.filter(|_| holds(&tensors, &["encoder.conv1.weight", "model.encoder.conv1.weight"]))
    };
    match tokens {
        Some(51_864..=51_866) => Ok(()),
        Some(tokens @ 10_000..=1_000_000) => {
            Err(format!("its vocabulary has {tokens} tokens; a Whisper has 51864 (English), 51865 or 51866"))
        }
        _ => Err("it is no Whisper checkpoint".to_owned()),
    }
}

/// Whether the file beside is an object of JSON with these keys.
fn with_keys(role: Use, beside: &[(String, PathBuf)], keys: &[&str]) -> Result<(), OwnError> {
    let [(name, path)] = beside else { return Err(unfit(role, "nothing", format!("it wants {}", wants(role)))) };
    let value = File::open(path).map(|file| serde_json::from_reader::<_, Value>(file.take(LONGEST_JSON)));
    match value {
        Ok(Ok(Value::Object(object))) => match keys.iter().find(|key| !object.contains_key(**key)) {
            None => Ok(()),
            Some(key) => Err(unfit(role, name, format!("it has no key `{key}`"))),
        },
        _ => Err(unfit(role, name, "it is no object of JSON")),
    }
}

fn holds(names: &serde_json::Map<String, Value>, any: &[&str]) -> bool {
    any.iter().any(|name| names.contains_key(*name))
}

/// The tensors of a safetensors file by name; none if it is something else.
fn tensors(path: &Path) -> Option<serde_json::Map<String, Value>> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    match serde_json::from_reader(file.take(length.min(LONGEST_JSON))) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// `general.architecture` of a GGUF file; none if it is not at its beginning. Source: ggml's `docs/gguf.md`.
fn gguf(path: &Path) -> io::Result<Option<String>> {
    let mut reader = Head(File::open(path)?.take(GGUF_HEAD));
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    if &reader.bytes::<4>()? != b"GGUF" || !(2..=3).contains(&reader.u32()?) {
        return Err(bad());
    }
    let (_tensors, pairs) = (reader.u64()?, reader.u64()?);
    for _ in 0..pairs {
        // Its end here is only that of what is looked at.
        match reader.pair() {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads the metadata of a GGUF file without keeping it.
struct Head<R>(R);

impl<R: Read> Head<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map(|()| bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.u64()?;
        let mut bytes = Vec::new();
        let read = self.0.by_ref().take(length).read_to_end(&mut bytes)? as u64;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads one pair; its value if it is the architecture.
    fn pair(&mut self) -> io::Result<Option<String>> {
        let key = self.text()?;
        let kind = self.u32()?;
        if key == "general.architecture" && kind == 8 {
            return self.text().map(Some);
        }
        self.value(kind, 1, 0).map(|()| None)
    }

    /// Skips `count` values of a kind.
    fn value(&mut self, kind: u32, count: u64, depth: u32) -> io::Result<()> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                return Ok(());
            }
            9 if depth < 4 => {
                for _ in 0..count {
                    let (kind, count) = (self.u32()?, self.u64()?);
                    self.value(kind, count, depth + 1)?;
                }
                return Ok(());
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        self.skip(count.saturating_mul(width))
    }
}

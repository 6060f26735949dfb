//! What a device computes against what it must. Enters: a device; leaves: how far it was off, in rows. Never here: a time.

mod blocks;
mod logits;
mod networks;

use std::path::Path;

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{Adapter, Cache, Numbers, Piece, TensorConfig, Transformer, Wanted};
use callbox_engine::weights::gguf::Gguf;
use candle_core::quantized::GgmlDType;
use serde_json::Value;

use crate::Setting;
use crate::draw::{Draw, Drawn, Family, language_model};
use crate::report::{Bar, Report, Row, Weights};

pub(crate) fn all(setting: &Setting, report: &mut Report) {
    report.group("logits", |report| logits::against_f64(setting, report));
    report.group("batch", |report| logits::batch(setting, report));
    report.group("tokens", |report| logits::tokens(setting, report));
    report.group("prefix", |report| blocks::prefix(setting, report));
    report.group("padding", |report| blocks::padding(setting, report));
    report.group("pool", |report| blocks::pool(setting, report));
    report.group("overflow", |report| blocks::overflow(setting, report));
    report.group("adapters", |report| logits::adapters(setting, report));
    report.group("whisper", |report| networks::whisper(setting, report));
    report.group("minilm", |report| networks::minilm(setting, report));
    report.group("kokoro", |report| networks::kokoro(setting, report));
}

/// How far apart two are that differ in the order of sums, and in keys and values that were rounded to half precision.
const ROUNDING: f64 = 2e-3;

fn distance(name: impl Into<String>, weights: Weights, figure: f64, most: f64) -> Row {
    let bar = Some(Bar::Most(most));
    let (key, unit) = (name.into(), "of the size of what is right");
    Row { key, name: String::new(), weights, figure, unit, bar, more: Value::Null }
}

/// What either holds or does not.
fn holds(name: &str, holds: bool) -> Row {
    let (key, figure, bar) = (name.to_owned(), f64::from(u8::from(!holds)), Some(Bar::Most(0.0)));
    Row { key, name: String::new(), weights: Weights::Drawn, figure, unit: "wrong", bar, more: Value::Null }
}

/// A small model in a file.
fn drawn(setting: &Setting, family: Family, number: GgmlDType, bias: f32) -> Result<Drawn> {
    let path = setting.work.path().join(format!("{}-{number:?}-{bias}.gguf", family.name()));
    let mut draw = Draw::new(setting.seed + number as u64);
    language_model(&path, family, number, !setting.quick, bias, &mut draw)
}

/// The same on the device, with so many tokens in its pool.
fn on_device(setting: &Setting, path: &Path, tokens: usize) -> Result<Transformer> {
    let config = TensorConfig { device: setting.device.clone(), tokens, numbers: Numbers::AsStored };
    Transformer::load_tensors(&Gguf::open(path)?, 512, &config)
}

/// The logits of the last of these tokens, which come after what is in the cache.
fn grow(model: &mut Transformer, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut pieces = [Piece { tokens, cache, wanted: Wanted::Last, adapter: None }];
    Ok(model.step(&mut pieces, &mut || true)?.context("it was stopped")?.to_vec())
}

/// All logits of one sequence, computed in pieces of these lengths, and then token by token.
fn every(model: &mut Transformer, adapter: Option<&Adapter>, tokens: &[u32], pieces: &[usize]) -> Result<Vec<f32>> {
    let (mut cache, mut all, mut rest) = (model.cache(tokens.len()), Vec::new(), tokens);
    let mut lengths = pieces.iter().copied();
    while !rest.is_empty() {
        let (tokens, later) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        let mut pieces = [Piece { tokens, cache: &mut cache, wanted: Wanted::All, adapter }];
        all.extend_from_slice(model.step(&mut pieces, &mut || true)?.context("it was stopped")?);
        rest = later;
    }
    Ok(all)
}

//! Keys and values in blocks: what is shared, cut off, given back, padded, too large. In f32, where nothing hides a mistake.

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{BLOCK, Full, Piece, Transformer, Wanted};
use candle_core::quantized::GgmlDType;

use super::{ROUNDING, distance, drawn, every, grow, holds, on_device};
use crate::Setting;
use crate::draw::{Draw, Family};
use crate::reference::between;
use crate::report::{Report, Weights};

fn free(model: &Transformer) -> Result<usize> {
    Ok(model.room().context("there is no pool")?.free)
}

/// A beginning that is known; a fork; what is cut off and goes on otherwise: all as if computed anew.
pub(super) fn prefix(setting: &Setting, report: &mut Report) -> Result<()> {
    let file = drawn(setting, Family::Llama, GgmlDType::F32, 0.5)?;
    let mut model = on_device(setting, &file.path, 1024)?;
    let vocabulary = file.spec.vocabulary;
    let mut draw = Draw::new(setting.seed);
    let [tokens, other] = [100, 3].map(|count| draw.tokens(count, vocabulary));
    let cold = every(&mut model, None, &tokens, &[tokens.len()])?;
    let cold = &cold[cold.len() - vocabulary..];
    let (mut hit, mut forked, mut cut) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut cache = model.cache(256);
    grow(&mut model, &mut cache, &tokens)?;
    // Within a block, at its edge, and one beyond.
    for at in [20, BLOCK, BLOCK + 1, 2 * BLOCK, 99] {
        let mut fork = model.cache(256);
        fork.copy_prefix(&cache, at);
        hit = hit.max(between(&grow(&mut model, &mut fork, &tokens[at..])?, cold));
        // Whoever shares a beginning writes something else into its last block; the first must not see it.
        fork.truncate(at);
        grow(&mut model, &mut fork, &other)?;
        let last = tokens.len() - 1;
        cache.truncate(last);
        forked = forked.max(between(&grow(&mut model, &mut cache, &tokens[last..])?, cold));
        fork.truncate(at);
        cut = cut.max(between(&grow(&mut model, &mut fork, &tokens[at..])?, cold));
    }
    report.row(distance("a beginning that is known, against cold", Weights::Drawn, hit, ROUNDING));
    report.row(distance("a sequence from which others have forked, against cold", Weights::Drawn, forked, ROUNDING));
    report.row(distance("a sequence that was cut off, against cold", Weights::Drawn, cut, ROUNDING));
    Ok(())
}

/// A short sequence beside a long one looks at as many blocks, and at blocks that others have used.
pub(super) fn padding(setting: &Setting, report: &mut Report) -> Result<()> {
    const POOL: usize = 512;
    let file = drawn(setting, Family::Qwen2, GgmlDType::F32, 0.5)?;
    let mut model = on_device(setting, &file.path, POOL)?;
    let mut draw = Draw::new(setting.seed);
    let [short, used, long] = [5, POOL, 400].map(|count| draw.tokens(count, file.spec.vocabulary));
    let alone = {
        let mut cache = model.cache(BLOCK);
        grow(&mut model, &mut cache, &short[..4])?;
        grow(&mut model, &mut cache, &short[4..])?
    };
    {
        let mut cache = model.cache(POOL);
        grow(&mut model, &mut cache, &used)?;
    }
    let (mut beside, mut cache) = (model.cache(POOL), model.cache(BLOCK));
    grow(&mut model, &mut beside, &long)?;
    grow(&mut model, &mut cache, &short[..4])?;
    let mut pieces = [
        Piece { tokens: &[9], cache: &mut beside, wanted: Wanted::Nothing, adapter: None },
        Piece { tokens: &short[4..], cache: &mut cache, wanted: Wanted::Last, adapter: None },
    ];
    let padded = model.step(&mut pieces, &mut || true)?.context("it was stopped")?.to_vec();
    report.row(distance(
        "a row padded to a long one, against alone",
        Weights::Drawn,
        between(&padded, &alone),
        ROUNDING,
    ));
    Ok(())
}

/// What is cancelled gives its blocks back; a pool that is full says so and changes nothing.
pub(super) fn pool(setting: &Setting, report: &mut Report) -> Result<()> {
    let file = drawn(setting, Family::Llama, GgmlDType::F32, 0.5)?;
    let mut model = on_device(setting, &file.path, 4 * BLOCK)?;
    let mut draw = Draw::new(setting.seed);
    let [tokens, long] = [40, 100].map(|count| draw.tokens(count, file.spec.vocabulary));
    let (mut first, mut second) = (model.cache(256), model.cache(256));
    grow(&mut model, &mut first, &tokens)?;

    let mut left = model.spec().layers - 1;
    let mut pieces = [Piece { tokens: &tokens, cache: &mut second, wanted: Wanted::Last, adapter: None }];
    let stopped = model.step(&mut pieces, &mut || {
        let more = left > 0;
        left = left.saturating_sub(1);
        more
    });
    let stopped = stopped?.is_none();
    report.row(holds("a cancelled sequence frees its blocks", stopped && second.len() == 0 && free(&model)? == 2));

    let before = grow(&mut model, &mut second, &tokens)?;
    let mut pieces = [
        Piece { tokens: &tokens[..1], cache: &mut second, wanted: Wanted::Last, adapter: None },
        Piece { tokens: &long, cache: &mut first, wanted: Wanted::Last, adapter: None },
    ];
    let full = model.step(&mut pieces, &mut || true).err();
    let told = full.is_some_and(|full| full.is::<Full>());
    report.row(holds("a full pool is told", told && (first.len(), second.len()) == (40, 40) && free(&model)? == 0));
    drop(first);
    second.truncate(39);
    let after = grow(&mut model, &mut second, &tokens[39..])?;
    report.row(distance("after a full pool, against before", Weights::Drawn, between(&after, &before), ROUNDING));
    drop(second);
    report.row(holds("what ends gives its blocks back", free(&model)? == 4));
    Ok(())
}

/// Keys and values beyond half precision: the sequence has numbers all the same, and nobody after it is harmed.
pub(super) fn overflow(setting: &Setting, report: &mut Report) -> Result<()> {
    let file = drawn(setting, Family::Qwen2, GgmlDType::F32, 1e6)?;
    let mut model = on_device(setting, &file.path, 4 * BLOCK)?;
    let tokens = Draw::new(setting.seed).tokens(70, file.spec.vocabulary);
    let mut cache = model.cache(128);
    let logits = grow(&mut model, &mut cache, &tokens)?;
    let again = grow(&mut model, &mut cache, &tokens[..1])?;
    let finite = logits.iter().chain(&again).all(|x| x.is_finite());
    report.row(holds("keys and values too large for half precision leave numbers", finite));
    Ok(())
}

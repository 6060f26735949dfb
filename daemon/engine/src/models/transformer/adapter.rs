//! A low-rank adapter (LoRA) of one model, beside its weights and not in them.
//!
//! Enters: a [`PeftFile`], the sizes of a model. Leaves: an [`Adapter`], which a step may be told to use for a row. Never
//! here: a change of the base model, or an adapter that fits only part of it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::{Result, bail, ensure};
use half::f16;
use memmap2::{Advice, Mmap, MmapMut};

use super::{RopePairs, TransformerSpec};
use crate::kernels::pool::Parts;
use crate::kernels::{Level, Pool, lowrank};
use crate::weights::gguf::Head;
use crate::weights::peft::{Module, Pair, PeftFile, RANKS};

/// Matrices that read the same activations, at most.
pub(super) const TOGETHER: usize = 3;
/// Values that [`Adapter::reduce`] leaves for one row and one module.
pub(super) const LOW: usize = lowrank::padded(*RANKS.end());
/// Outputs that one thread adds to at once, where there are few rows.
const PORTION: usize = 512;

/// What an adapter has to fit.
#[derive(Clone, Debug)]
pub struct BaseModel {
    spec: TransformerSpec,
    /// What it is called, in lower case, word by word: `qwen2.5`, `coder`, `1.5b`.
    words: Vec<String>,
}

impl BaseModel {
    /// The model of a GGUF file.
    #[must_use]
    pub fn new(head: &Head, spec: &TransformerSpec) -> Self {
        let names = ["general.basename", "general.size_label"].map(|key| head.text(key).unwrap_or_default());
        Self { spec: spec.clone(), words: names.into_iter().flat_map(words).collect() }
    }

    /// Models of one family have the same sizes: there only the name tells an adapter of another.
    ///
    /// # Errors
    /// If the adapter names a published model (`organisation/model`), and that is called otherwise.
    fn is_named(&self, base: &str) -> Result<()> {
        let Some((organisation, model)) = base.split_once('/') else { return Ok(()) };
        if organisation.is_empty() || organisation.starts_with('.') || model.contains('/') {
            // A folder of whoever trained it.
            return Ok(());
        }
        let theirs: Vec<String> = words(model).collect();
        let missing = self.words.iter().find(|word| !theirs.contains(word));
        if let Some(word) = missing {
            bail!(
                "it was made for {base}, whose name lacks {word:?} of this model: if it fits all the same, take \
                 base_model_name_or_path out of adapter_config.json"
            );
        }
        Ok(())
    }
}

fn words(name: &str) -> impl Iterator<Item = String> {
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// One module of one layer.
#[derive(Clone, Copy)]
struct Delta {
    /// Where A lies, and where B does.
    a: usize,
    b: usize,
    inputs: usize,
}

/// A loaded adapter.
pub struct Adapter {
    spec: TransformerSpec,
    sha256: [u8; 32],
    rank: usize,
    /// The rank as it lies in memory.
    padded: usize,
    layers: Vec<[Option<Delta>; 7]>,
    /// All matrices in half precision, in the order of a forward pass. B holds the scale, too.
    values: Mmap,
    /// As long as this is there, so is the adapter: copies of it elsewhere end with it.
    life: Arc<()>,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("rank", &self.rank).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Adapter {
    /// Reads the folder of an adapter.
    ///
    /// # Errors
    /// If it cannot be read, is not supported, or does not fit the model; one sentence.
    pub fn open(folder: &Path, base: &BaseModel) -> Result<Self> {
        Self::new(&PeftFile::open(folder)?, base)
    }

    /// Brings an adapter into the order in which it is computed.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn new(file: &PeftFile, base: &BaseModel) -> Result<Self> {
        let spec = &base.spec;
        let (rank, scale) = (file.rank(), file.scale());
        let padded = lowrank::padded(rank);
        let last = file.pairs().map(|(layer, _)| layer).max().unwrap_or_default();
        let layers = spec.layers;
        ensure!(last < layers, "it was made for another model: it adapts layer {last}, and there are {layers}");
        let mut deltas = vec![[None; 7]; layers];
        let mut bytes = Vec::new();
        let places: Vec<_> = file.pairs().collect();
        for (layer, deltas) in deltas.iter_mut().enumerate().take(last + 1) {
            for together in [&Module::ALL[..3], &Module::ALL[3..4], &Module::ALL[4..6], &Module::ALL[6..]] {
                let there = together.iter().filter(|module| places.binary_search(&(layer, **module)).is_ok());
                let mut second = Vec::new();
                for &module in there {
                    let (inputs, outputs) = sizes(spec, module);
                    let whole = lowrank::is_whole(inputs) && lowrank::is_whole(outputs);
                    ensure!(whole, "adapters of a model with matrices of {inputs} × {outputs} are not supported");
                    let Pair { a, b } = file.pair(layer, module, inputs, outputs)?;
                    let from = bytes.len();
                    lowrank::pack_a(&a, rank, inputs, &mut bytes);
                    second.push((module, Delta { a: from, b: 0, inputs }, outputs, b));
                }
                for (module, mut delta, outputs, values) in second {
                    let order = Order::of(spec, module);
                    delta.b = bytes.len();
                    let value = |output: usize, k: usize| scale * values[order.trained(output) * rank + k];
                    lowrank::pack_b(value, rank, outputs, &mut bytes);
                    deltas[module as usize] = Some(delta);
                }
            }
        }
        let fits = bytes.as_chunks::<2>().0.iter().all(|value| f16::from_le_bytes(*value).is_finite());
        ensure!(fits, "it holds numbers that are too large for half precision");
        if let Some(name) = file.base() {
            base.is_named(name)?;
        }
        // As the model's own weights: with small pages they are read at less than the memory's speed.
        let mut values = MmapMut::map_anon(bytes.len())?;
        drop(values.advise(Advice::HugePage));
        values.copy_from_slice(&bytes);
        let (spec, sha256, values) = (spec.clone(), file.sha256(), values.make_read_only()?);
        Ok(Self { spec, sha256, rank, padded, layers: deltas, values, life: Arc::new(()) })
    }

    /// SHA-256 of its two files.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The rank of each of its products.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many layers it changes.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.iter().filter(|modules| modules.iter().any(Option::is_some)).count()
    }

    /// Memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.len()
    }

    /// Whether it was loaded for a model of these sizes.
    pub(super) fn fits(&self, spec: &TransformerSpec) -> bool {
        self.spec == *spec
    }

    /// Gone once the adapter is.
    pub(super) fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.life)
    }

    /// The rank as [`Adapter::matrices`] gives it: with rows of zeros up to a whole number of loads.
    pub(super) fn padded_rank(&self) -> usize {
        self.padded
    }

    /// A as `[padded rank][inputs]`, and B, with the scale, transposed: `[padded rank][outputs]`.
    pub(super) fn matrices(&self, layer: usize, module: Module) -> Option<(Vec<f32>, Vec<f32>)> {
        let Delta { a, b, inputs } = self.delta(layer, module)?;
        let row = lowrank::VALUE * self.padded;
        let a = lowrank::unpack_a(&self.values[a..a + row * inputs], inputs);
        let outputs = sizes(&self.spec, module).1;
        Some((a, lowrank::unpack_b(&self.values[b..b + row * outputs], outputs)))
    }

    fn delta(&self, layer: usize, module: Module) -> Option<Delta> {
        self.layers[layer][module as usize]
    }

    /// The first half of each of `modules`: A x, [`LOW`] values for each of them in `low`.
    fn reduce(&self, level: Level, layer: usize, modules: &[Module], x: &[f32], low: &mut [f32]) {
        for (module, low) in modules.iter().zip(low.chunks_exact_mut(LOW)) {
            if let Some(Delta { a, inputs, .. }) = self.delta(layer, *module) {
                let a = &self.values[a..a + lowrank::VALUE * self.padded * inputs];
                lowrank::reduce(level, a, &x[..inputs], &mut low[..self.padded]);
            }
        }
    }

    /// The second half of one module, for the outputs from `from` on: y += B low.
    fn expand(&self, level: Level, layer: usize, module: Module, from: usize, low: &[f32], y: &mut [f32]) {
        if let Some(Delta { b, .. }) = self.delta(layer, module) {
            let row = lowrank::VALUE * self.padded;
            let b = &self.values[b + row * from..][..row * y.len()];
            lowrank::expand(level, b, &low[..self.padded], y);
        }
    }
}

/// Inputs and outputs of a module.
pub(super) fn sizes(spec: &TransformerSpec, module: Module) -> (usize, usize) {
    let (hidden, ff) = (spec.hidden, spec.feed_forward);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    match module {
        Module::Query => (hidden, q),
        Module::Key | Module::Value => (hidden, kv),
        Module::Output => (q, hidden),
        Module::Gate | Module::Up => (hidden, ff),
        Module::Down => (ff, hidden),
    }
}

/// Where an output of a module lies in what was trained.
enum Order {
    Same,
    /// GGUF files of `llama` hold what is rotated together side by side, in heads of this width; it was trained as halves.
    Heads(usize),
}

impl Order {
    fn of(spec: &TransformerSpec, module: Module) -> Self {
        match (module, spec.rope_pairs) {
            (Module::Query | Module::Key, RopePairs::Adjacent) => Self::Heads(spec.head_dim),
            _ => Self::Same,
        }
    }

    fn trained(&self, output: usize) -> usize {
        match *self {
            Self::Same => output,
            Self::Heads(width) => {
                let (head, within) = (output / width * width, output % width);
                head + within % 2 * (width / 2) + within / 2
            }
        }
    }
}

/// Which rows of a step are computed with which adapter; empty where none is.
pub(super) struct Adapted<'a> {
    /// Of every row, if any has one.
    of: Vec<Option<&'a Adapter>>,
    /// The rows that have one, those of one adapter side by side: what it is made of is then read once.
    rows: Vec<usize>,
}

impl<'a> Adapted<'a> {
    /// `pieces`: rows and adapter of each piece.
    pub(super) fn new(pieces: impl Iterator<Item = (usize, Option<&'a Adapter>)> + Clone) -> Self {
        if pieces.clone().all(|(_, adapter)| adapter.is_none()) {
            return Self { of: Vec::new(), rows: Vec::new() };
        }
        let of: Vec<_> = pieces.flat_map(|(rows, adapter)| std::iter::repeat_n(adapter, rows)).collect();
        let mut rows: Vec<usize> = (0..of.len()).filter(|row| of[*row].is_some()).collect();
        rows.sort_by_key(|row| of[*row].map(std::ptr::from_ref));
        Self { of, rows }
    }

    /// Values that [`Adapted::reduce`] needs room for.
    pub(super) fn room(&self) -> usize {
        self.of.len() * TOGETHER * LOW
    }

    /// The first half of one row, into its part of `low`.
    ///
    /// # Safety
    /// Nobody else is given the same row meanwhile.
    pub(super) unsafe fn reduce(
        &self,
        level: Level,
        layer: usize,
        modules: &[Module],
        row: usize,
        x: &[f32],
        low: &Parts<f32>,
    ) {
        if let Some(Some(adapter)) = self.of.get(row) {
            // SAFETY: a part for each row, and of each row one caller.
            let low = unsafe { low.get(row * TOGETHER * LOW, TOGETHER * LOW) };
            adapter.reduce(level, layer, modules, x, low);
        }
    }

    /// The second half of all rows: what the modules have computed is added to.
    pub(super) fn expand(
        &self,
        level: Level,
        pool: &Pool,
        layer: usize,
        low: &[f32],
        outputs: &mut [(Module, &mut [f32])],
    ) {
        if self.rows.is_empty() {
            return;
        }
        let mut jobs = Vec::new();
        let outputs: Vec<_> = outputs
            .iter_mut()
            .enumerate()
            .map(|(index, (module, out))| {
                let width = out.len() / self.of.len();
                let portion = if self.rows.len() < 4 * pool.threads() { PORTION } else { width };
                for &row in &self.rows {
                    if self.of[row].is_some_and(|adapter| adapter.delta(layer, *module).is_some()) {
                        jobs.extend(
                            (0..width).step_by(portion).map(|from| (index, row, from, portion.min(width - from))),
                        );
                    }
                }
                (*module, width, Parts::new(out))
            })
            .collect();
        pool.run(jobs.len(), &|job| {
            let (index, row, from, len) = jobs[job];
            let (module, width, out) = &outputs[index];
            if let Some(adapter) = self.of[row] {
                // SAFETY: each portion of each row of each output is one job's.
                let y = unsafe { out.get(row * width + from, len) };
                let low = &low[(row * TOGETHER + index) * LOW..][..LOW];
                adapter.expand(level, layer, *module, from, low, y);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rotated_together_is_found_where_it_was_trained() {
        let order = Order::Heads(8);
        let found: Vec<usize> = (0..16).map(|output| order.trained(output)).collect();
        assert_eq!(found, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }

    #[test]
    fn only_a_published_name_without_a_word_of_the_model_is_another() {
        let spec = TransformerSpec {
            layers: 1,
            hidden: 16,
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            feed_forward: 16,
            vocabulary: 1,
            context: 1,
            norm_epsilon: 0.0,
            rope_pairs: RopePairs::Halves,
            rope_base: 2.0,
            qkv_bias: true,
        };
        let base = BaseModel { spec, words: ["qwen2.5", "coder", "1.5b"].map(str::to_owned).into() };
        for (name, fits) in [
            ("Qwen/Qwen2.5-Coder-1.5B-Instruct", true),
            ("unsloth/qwen2.5-coder-1.5b-bnb-4bit", true),
            ("Qwen/Qwen2.5-1.5B-Instruct", false),
            ("/srv/me/base", true),
            ("./base", true),
            ("base", true),
        ] {
            assert_eq!(base.is_named(name).is_ok(), fits, "{name}");
        }
    }
}

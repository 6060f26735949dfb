//! A decoder-only transformer of the llama family: tokens of several sequences in, logits out.
//!
//! Enters: [`Piece`]s, each some tokens of one sequence and that sequence's [`Cache`]. Leaves: logits of the rows that
//! were asked for; the caches are longer. Each piece may have an [`Adapter`] of its own. Never here: which token comes
//! next, whose turn it is, a text.
//!
//! One model, computed in one of two ways; whoever uses it sees no difference but the speed:
//!
//! ```text
//!  Transformer ── packed    our kernels, packed weights, a cache per sequence        a processor
//!             └── tensors   candle, weights as they are stored, a pool of blocks     a GPU; a processor, to be tested
//! ```

mod adapter;
mod cache;
mod near;
mod packed;
mod rope;
mod spec;
mod tensors;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

pub use self::adapter::{Adapter, BaseModel};
pub use self::cache::Cache;
pub use self::near::{Near, Reach};
pub use self::spec::{RopePairs, TransformerSpec};
pub use self::tensors::{BLOCK, FUSED_ROWS, Full, Given, Numbers, Room, Table, TensorConfig};
use crate::device::Launcher;
use crate::kernels::{Level, Pool};
use crate::weights::gguf::Gguf;
use crate::weights::tensors::Tensors;

/// Some tokens of one sequence, in one step.
pub struct Piece<'a, C = Cache> {
    /// At least one.
    pub tokens: &'a [u32],
    /// The sequence so far; must have room for the tokens.
    pub cache: &'a mut C,
    /// Which rows' logits are wanted.
    pub wanted: Wanted,
    /// What is added to the model for these tokens; none: nothing. All of a cache is to be of one adapter.
    pub adapter: Option<&'a Adapter>,
}

/// Which rows of a [`Piece`] get logits: the vocabulary is the most expensive matrix of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// No row: the prompt goes on.
    Nothing,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// A loaded model.
pub struct Transformer {
    spec: TransformerSpec,
    context: usize,
    way: Way,
}

enum Way {
    Packed(Box<packed::Decoder>),
    Tensors(Box<tensors::Decoder>),
}

impl Transformer {
    /// Loads a GGUF file (at `path`) for this processor, through its packed form in the folder `cache`, for sequences of
    /// up to `context` tokens.
    ///
    /// # Errors
    /// If the architecture or a tensor does not fit; one sentence.
    pub fn load(path: &Path, gguf: &Gguf, cache: &Path, context: usize, level: Level, pool: Pool) -> Result<Self> {
        let spec = TransformerSpec::from_gguf(gguf.head())?;
        let context = context.min(spec.context);
        let decoder = packed::Decoder::load(path, gguf, &spec, cache, context, level, pool)?;
        Ok(Self { spec, context, way: Way::Packed(Box::new(decoder)) })
    }

    /// Loads a GGUF file as tensors, for sequences of up to `context` tokens.
    ///
    /// # Errors
    /// If the architecture or a tensor does not fit, or the device has no room; one sentence.
    pub fn load_tensors(gguf: &Gguf, context: usize, config: &TensorConfig) -> Result<Self> {
        Self::of_tensors(&tensors::Source::Gguf(gguf), TransformerSpec::from_gguf(gguf.head())?, context, config)
    }

    /// Loads a folder with `config.json` and `model.safetensors`, as transformers saves it, as tensors.
    ///
    /// # Errors
    /// As [`Transformer::load_tensors`].
    pub fn load_checkpoint(folder: &Path, context: usize, config: &TensorConfig) -> Result<Self> {
        let shown = folder.display();
        let about = fs::read(folder.join("config.json")).with_context(|| format!("{shown} has no config.json"))?;
        let about = serde_json::from_slice(&about).with_context(|| format!("config.json of {shown} is not JSON"))?;
        let tensors = Tensors::open(&folder.join("model.safetensors"));
        let tensors = tensors.with_context(|| format!("model.safetensors of {shown}"))?;
        Self::of_tensors(&tensors::Source::Checkpoint(&tensors), TransformerSpec::from_config(&about)?, context, config)
    }

    /// A model of these sizes whose weights are made as it is loaded: to measure one without its file.
    ///
    /// # Errors
    /// As [`Transformer::load_tensors`].
    pub fn of_given(spec: TransformerSpec, given: &Given, context: usize, config: &TensorConfig) -> Result<Self> {
        Self::of_tensors(&tensors::Source::Given(given), spec, context, config)
    }

    fn of_tensors(
        source: &tensors::Source,
        spec: TransformerSpec,
        context: usize,
        config: &TensorConfig,
    ) -> Result<Self> {
        let context = context.min(spec.context);
        let decoder = tensors::Decoder::load(source, &spec, context, config)?;
        Ok(Self { spec, context, way: Way::Tensors(Box::new(decoder)) })
    }

    /// Has single tokens computed by the engine's own kernels, which `launcher` knows by name; where it computes on a card, this
    /// was done when it was loaded. False if they do not compute what tensors do, or there are none for this model.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn fuse(&mut self, launcher: Box<dyn Launcher>) -> Result<bool> {
        match &mut self.way {
            Way::Packed(_) => Ok(false),
            Way::Tensors(decoder) => decoder.fuse(launcher),
        }
    }

    /// Whether they do.
    #[must_use]
    pub fn is_fused(&self) -> bool {
        match &self.way {
            Way::Packed(_) => false,
            Way::Tensors(decoder) => decoder.is_fused(),
        }
    }

    /// Sizes and switches.
    #[must_use]
    pub fn spec(&self) -> &TransformerSpec {
        &self.spec
    }

    /// The longest sequence, in tokens.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// An empty cache for one sequence of up to `capacity` tokens.
    #[must_use]
    pub fn cache(&self, capacity: usize) -> Cache {
        match &self.way {
            Way::Packed(decoder) => Cache::Whole(decoder.cache(capacity)),
            Way::Tensors(decoder) => Cache::Paged(decoder.cache(capacity)),
        }
    }

    /// What there is of the pool that all caches share; none where each has its own memory.
    #[must_use]
    pub fn room(&self) -> Option<Room> {
        match &self.way {
            Way::Packed(_) => None,
            Way::Tensors(decoder) => Some(decoder.room()),
        }
    }

    /// Computes one step. Returns one row of logits for each wanted row, in order, one after the other; or nothing if
    /// `go_on`, which is asked before each layer (or, by kernels for cards, before the step), said no: the caches are then as they
    /// were.
    ///
    /// # Errors
    /// If a token is unknown, a cache has no room or an adapter is another model's; [`Full`] if the pool has no room.
    /// Nothing has changed then. After any other error nothing in the caches is sure.
    pub fn step(&mut self, pieces: &mut [Piece], go_on: &mut dyn FnMut() -> bool) -> Result<Option<&[f32]>> {
        self.check(pieces)?;
        match &mut self.way {
            Way::Packed(decoder) => decoder.step(&mut over(pieces, Cache::whole)?, go_on),
            Way::Tensors(decoder) => decoder.step(&mut over(pieces, Cache::paged)?, go_on),
        }
    }

    /// The same, of each wanted row only what is within its reach, of which there is one for each: what is brought from a card is
    /// then a few hundred numbers, and not a vocabulary of them.
    ///
    /// # Errors
    /// As [`Transformer::step`].
    pub fn step_near(
        &mut self,
        pieces: &mut [Piece],
        reaches: &[Reach],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Near>>> {
        self.check(pieces)?;
        let vocabulary = self.spec.vocabulary;
        match &mut self.way {
            Way::Packed(decoder) => {
                let logits = decoder.step(&mut over(pieces, Cache::whole)?, go_on)?;
                Ok(logits.map(|logits| {
                    logits.chunks_exact(vocabulary).zip(reaches).map(|(row, reach)| reach.of(row)).collect()
                }))
            }
            Way::Tensors(decoder) => decoder.step_near(&mut over(pieces, Cache::paged)?, reaches, go_on),
        }
    }

    fn check(&self, pieces: &[Piece]) -> Result<()> {
        for piece in pieces {
            let room = self.context.min(piece.cache.capacity());
            ensure!(piece.cache.len() + piece.tokens.len() <= room, "a sequence is longer than {room} tokens");
            let known = piece.tokens.iter().all(|&token| (token as usize) < self.spec.vocabulary);
            ensure!(known && !piece.tokens.is_empty(), "a token that the model does not know");
            ensure!(piece.adapter.is_none_or(|adapter| adapter.fits(&self.spec)), "an adapter of another model");
        }
        Ok(())
    }
}

/// The same pieces, over caches of the kind that is computed with.
fn over<'b, C>(pieces: &'b mut [Piece], kind: fn(&mut Cache) -> Option<&mut C>) -> Result<Vec<Piece<'b, C>>> {
    pieces
        .iter_mut()
        .map(|Piece { tokens, cache, wanted, adapter }| {
            let cache = kind(cache).context("a cache of another model")?;
            Ok(Piece { tokens, cache, wanted: *wanted, adapter: *adapter })
        })
        .collect()
}

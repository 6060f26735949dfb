//! Adapters on the device: rows of one step, each with its own.
//!
//! Enters: which rows have which adapter. Leaves: what their adapters add. Never here: a changed weight, or a product for
//! each adapter.
//!
//! The adapters of a step lie one after the other in one thin matrix, whose products serve all rows; a mask keeps of each
//! row those of its own. So a step has as many operations with sixteen adapters as with one, and of always the same
//! shapes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::super::adapter::{Adapter, sizes};
use super::TransformerSpec;
use crate::weights::peft::Module;

/// A as `[rank][inputs]`, B as `[rank][outputs]`; f32, or halves for kernels of ours, which are done when they are read.
pub(super) struct Pair {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
}

pub(super) type Layers = Vec<[Option<Pair>; 7]>;

struct Loaded {
    /// Gone when the adapter is: so is this, then.
    life: Weak<()>,
    rank: usize,
    layers: Layers,
}

/// Several adapters, one after the other.
pub(super) struct Together {
    /// Hash and rank of each.
    of: Vec<([u8; 32], usize)>,
    pub(super) layers: Layers,
    /// No two have the same.
    pub(super) number: u64,
}

/// The adapters that were used, as long as they exist.
pub(super) struct Adapters {
    device: Device,
    spec: TransformerSpec,
    number: DType,
    loaded: HashMap<[u8; 32], Loaded>,
    /// Of the last step that had any.
    together: Option<Arc<Together>>,
    /// How many times they were put together.
    count: u64,
}

/// What a step's adapters add.
pub(super) struct Added {
    together: Arc<Together>,
    /// `[rows][ranks]`: 1 where a rank is of the row's adapter.
    mask: Tensor,
}

impl Adapters {
    /// They lie as `number`: f32 or f16.
    pub(super) fn new(device: &Device, spec: &TransformerSpec, number: DType) -> Self {
        Self { device: device.clone(), spec: spec.clone(), number, loaded: HashMap::new(), together: None, count: 0 }
    }

    /// All of a step, of which these are the adapters; none if it has none.
    pub(super) fn all<'a>(&mut self, adapters: impl Iterator<Item = &'a Adapter>) -> Result<Option<Arc<Together>>> {
        let mut wanted: Vec<&Adapter> = adapters.collect();
        wanted.sort_by_key(|adapter| adapter.sha256());
        wanted.dedup_by_key(|adapter| adapter.sha256());
        let gone = self.loaded.len();
        self.loaded.retain(|_, loaded| loaded.life.strong_count() > 0);
        if self.loaded.len() < gone {
            self.together = None;
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        self.together(&wanted).map(Some)
    }

    /// `pieces`: rows and adapter of each piece of a step.
    pub(super) fn of<'a>(
        &mut self,
        pieces: impl Iterator<Item = (usize, Option<&'a Adapter>)> + Clone,
    ) -> Result<Option<Added>> {
        let Some(together) = self.all(pieces.clone().filter_map(|(_, adapter)| adapter))? else { return Ok(None) };
        let ranks: usize = together.of.iter().map(|(_, rank)| rank).sum();
        let mut mask = Vec::new();
        for (rows, adapter) in pieces {
            let own = adapter.map(Adapter::sha256);
            let row = together
                .of
                .iter()
                .flat_map(|(hash, rank)| std::iter::repeat_n(if Some(*hash) == own { 1.0_f32 } else { 0.0 }, *rank));
            let row: Vec<f32> = row.collect();
            mask.extend(std::iter::repeat_n(row, rows).flatten());
        }
        let rows = mask.len() / ranks;
        let mask = Tensor::from_vec(mask, (rows, ranks), &self.device)?;
        Ok(Some(Added { together, mask }))
    }

    fn together(&mut self, wanted: &[&Adapter]) -> Result<Arc<Together>> {
        if let Some(together) = &self.together {
            let has = |adapter: &&Adapter| together.of.iter().any(|(hash, _)| *hash == adapter.sha256());
            // Few too many cost less than putting them together anew.
            if wanted.iter().all(has) && together.of.len() <= 2 * wanted.len() {
                return Ok(Arc::clone(together));
            }
        }
        for adapter in wanted {
            if !self.loaded.contains_key(&adapter.sha256()) {
                let loaded = load(adapter, &self.spec, &self.device, self.number)?;
                self.loaded.insert(adapter.sha256(), loaded);
            }
        }
        let parts: Vec<&Loaded> = wanted.iter().filter_map(|adapter| self.loaded.get(&adapter.sha256())).collect();
        let layers = (0..self.spec.layers).map(|layer| {
            let mut modules = [const { None }; 7];
            for module in Module::ALL {
                modules[module as usize] = self.joined(&parts, layer, module)?;
            }
            Ok(modules)
        });
        let layers = layers.collect::<Result<_>>()?;
        let of = wanted.iter().map(|adapter| (adapter.sha256(), adapter.padded_rank())).collect();
        self.count += 1;
        let together = Arc::new(Together { of, layers, number: self.count });
        self.together = Some(Arc::clone(&together));
        Ok(together)
    }

    /// One module of all `parts`; zeros for those that do not adapt it.
    fn joined(&self, parts: &[&Loaded], layer: usize, module: Module) -> Result<Option<Pair>> {
        if parts.iter().all(|part| part.layers[layer][module as usize].is_none()) {
            return Ok(None);
        }
        let (inputs, outputs) = sizes(&self.spec, module);
        let zeros = |rank: usize, width: usize| Tensor::zeros((rank, width), self.number, &self.device);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for part in parts {
            match &part.layers[layer][module as usize] {
                Some(pair) => {
                    a.push(pair.a.clone());
                    b.push(pair.b.clone());
                }
                None => {
                    a.push(zeros(part.rank, inputs)?);
                    b.push(zeros(part.rank, outputs)?);
                }
            }
        }
        Ok(Some(Pair { a: Tensor::cat(&a, 0)?, b: Tensor::cat(&b, 0)? }))
    }
}

fn load(adapter: &Adapter, spec: &TransformerSpec, device: &Device, number: DType) -> Result<Loaded> {
    let rank = adapter.padded_rank();
    let layers = (0..spec.layers).map(|layer| {
        let mut modules = [const { None }; 7];
        for module in Module::ALL {
            if let Some((a, b)) = adapter.matrices(layer, module) {
                let (inputs, outputs) = sizes(spec, module);
                let tensor =
                    |half: Vec<f32>, width: usize| Tensor::from_vec(half, (rank, width), device)?.to_dtype(number);
                modules[module as usize] = Some(Pair { a: tensor(a, inputs)?, b: tensor(b, outputs)? });
            }
        }
        Ok(modules)
    });
    Ok(Loaded { life: adapter.life(), rank, layers: layers.collect::<Result<_>>()? })
}

impl Together {
    /// Of one adapter: its first rank, and how many it has.
    pub(super) fn ranks(&self, adapter: &Adapter) -> (usize, usize) {
        let mut first = 0;
        for (hash, rank) in &self.of {
            if *hash == adapter.sha256() {
                return (first, *rank);
            }
            first += rank;
        }
        (0, 0)
    }
}

impl Added {
    /// `y`, and what the adapters make of `x`.
    pub(super) fn to(&self, layer: usize, module: Module, x: &Tensor, y: Tensor) -> candle_core::Result<Tensor> {
        match &self.together.layers[layer][module as usize] {
            Some(Pair { a, b }) => {
                let [a, b] = [a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?];
                y + (x.matmul(&a.t()?)? * &self.mask)?.matmul(&b)?
            }
            None => Ok(y),
        }
    }
}

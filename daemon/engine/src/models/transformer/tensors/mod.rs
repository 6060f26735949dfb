//! The model on tensors of candle, on any device: rows of all pieces together, keys and values in blocks of one pool.
//!
//! Enters: [`Piece`]s. Leaves: logits; the caches are longer. Never here: the tensors of another device, or work for a
//! sequence that is not in the step.
//!
//! ```text
//!  blocks    who holds which blocks           no tensor
//!  pages     what is in them, and attention   no sequence
//!  lora      what adapters add to rows
//!  weights   files → matrices
//!  fused     a step of single tokens, in kernels of ours
//! ```

mod blocks;
mod fused;
mod lora;
mod pages;
mod weights;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::{rope, rope_i};

pub use self::blocks::{BLOCK, Full, Table};
use self::blocks::{Blocks, Copied};
/// Rows that kernels of ours take at once.
pub use self::fused::MOST as FUSED_ROWS;
use self::fused::{Ends, Fused, Row, Weight};
use self::lora::{Adapters, Added};
use self::pages::{Group, Pages};
pub use self::weights::Given;
pub(super) use self::weights::Source;
use self::weights::{Linear, Part, Reader};
use super::rope::angles;
use super::{Near, Piece, Reach, RopePairs, TransformerSpec, Wanted, adapter};
use crate::device::{Launcher, keeping_shapes, launcher};
use crate::models::layers::Matrix;
use crate::weights::peft::Module;

/// How matrices lie on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbers {
    /// As in the file: quantised, or dense.
    AsStored,
    /// All of them dense.
    F32,
    /// All of them dense, in half the memory.
    Bf16,
}

/// Where a model computes with tensors, and how much it remembers.
#[derive(Clone, Debug)]
pub struct TensorConfig {
    /// Where everything lies.
    pub device: Device,
    /// Tokens of which keys and values are kept, of all sequences together; what several share counts once.
    pub tokens: usize,
    /// How the matrices lie there.
    pub numbers: Numbers,
}

/// How many blocks of [`BLOCK`] tokens there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// In all.
    pub blocks: usize,
    /// That no cache holds.
    pub free: usize,
}

struct Layer {
    attention_norm: Tensor,
    /// In the order of [`Module::ALL`].
    linears: Vec<Linear>,
    feed_forward_norm: Tensor,
    /// Queries, keys and values as one matrix, and their biases; gate and up as one.
    heads: Option<Tensor>,
    bias: Option<Tensor>,
    gates: Option<Tensor>,
}

/// A loaded model and its pool.
pub(super) struct Decoder {
    spec: TransformerSpec,
    device: Device,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Matrix,
    /// Of every position, `[positions][head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    blocks: Blocks,
    pages: Pages,
    adapters: Adapters,
    /// For steps of single tokens, where kernels of ours run.
    fused: Option<Fused>,
    context: usize,
    numbers: Numbers,
    /// Of the last step.
    left: Left,
    logits: Vec<f32>,
}

/// What a step leaves of the rows that were wanted.
enum Left {
    /// `[rows][vocabulary]`, on the device; none: no row was wanted.
    Logits(Option<Tensor>),
    /// What was within reach.
    Near(Vec<Near>),
}

/// What all layers of one step need to know of its rows.
struct Rows {
    count: usize,
    tokens: Tensor,
    /// `[rows][1][head_dim / 2]`
    cos: Tensor,
    sin: Tensor,
    /// Where keys and values are written.
    places: Tensor,
    groups: Vec<Group>,
    added: Option<Added>,
    /// Rows that get logits, if any does.
    wanted: Option<Tensor>,
}

impl Decoder {
    /// Brings the weights of `source` to the device, and makes the pool there.
    ///
    /// # Errors
    /// If a tensor does not fit, or the device has no room; one sentence.
    pub(super) fn load(source: &Source, spec: &TransformerSpec, context: usize, config: &TensorConfig) -> Result<Self> {
        let device = &config.device;
        let reader = Reader { source, spec, device, numbers: config.numbers };
        let layers = (0..spec.layers).map(|layer| {
            let heads = reader.together(layer, &[Module::Query, Module::Key, Module::Value])?;
            let output = reader.linear(layer, Module::Output)?;
            let gates = reader.together(layer, &[Module::Gate, Module::Up])?;
            let down = reader.linear(layer, Module::Down)?;
            let linears = heads.linears.into_iter().chain([output]).chain(gates.linears).chain([down]);
            Ok(Layer {
                attention_norm: reader.vector(Part::AttentionNorm(layer), spec.hidden)?,
                linears: linears.collect(),
                feed_forward_norm: reader.vector(Part::FeedForwardNorm(layer), spec.hidden)?,
                heads: heads.whole,
                bias: heads.bias,
                gates: gates.whole,
            })
        });
        let embedding = reader.tokens(Part::Embedding)?;
        let head = match reader.has(Part::Head) {
            true => reader.tokens(Part::Head)?,
            false => embedding.clone(),
        };
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles(spec, context).into_iter().unzip();
        let shape = (context, spec.head_dim / 2);
        let count = config.tokens.div_ceil(BLOCK);
        let pages = Pages::new(spec, count, device).with_context(|| {
            let mib = (count * BLOCK * position_bytes(spec)) >> 20;
            format!("the device has no room for {mib} MiB of keys and values")
        })?;
        let mut decoder = Self {
            embedding,
            layers: layers.collect::<Result<_>>()?,
            norm: reader.vector(Part::Norm, spec.hidden)?,
            head,
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            blocks: Blocks::new(u32::try_from(count)?),
            pages,
            adapters: Adapters::new(device, spec, DType::F32),
            fused: None,
            context,
            numbers: config.numbers,
            left: Left::Logits(None),
            logits: Vec::new(),
            spec: spec.clone(),
            device: device.clone(),
        };
        // Without them a card computes, too.
        let fused = launcher(device, fused::IMAGE).and_then(|launcher| launcher.map(|it| decoder.fuse(it)).transpose());
        if let Err(error) = fused {
            tracing::error!(error = format!("{error:#}"), "the engine's kernels do not run here: they are not used");
        }
        Ok(decoder)
    }

    /// Has single tokens computed by kernels of ours from now on, if these say what tensors say: they are tried first. False if
    /// they do not, or the model is none for them.
    pub(super) fn fuse(&mut self, launcher: Box<dyn Launcher>) -> Result<bool> {
        // candle multiplies no brain floats on a processor, so there they are only as if they were: these kernels do.
        let number = (self.device.is_cpu() && self.numbers == Numbers::Bf16).then_some(DType::BF16);
        let layers = self.layers.iter().enumerate().map(|(index, layer)| {
            let parts = |modules: &[Module], whole: Option<&Tensor>| {
                let linears = modules.iter().map(|module| &layer.linears[*module as usize]);
                let parts: Vec<_> = linears.map(|linear| (&linear.weight, linear.outputs)).collect();
                Weight::of(&parts, whole, adapter::sizes(&self.spec, modules[0]).0, number)
            };
            Ok(fused::Layer {
                attention_norm: layer.attention_norm.clone(),
                heads: parts(&[Module::Query, Module::Key, Module::Value], layer.heads.as_ref())?,
                bias: layer.bias.clone(),
                output: parts(&[Module::Output], None)?,
                feed_forward_norm: layer.feed_forward_norm.clone(),
                gates: parts(&[Module::Gate, Module::Up], layer.gates.as_ref())?,
                down: parts(&[Module::Down], None)?,
                pool: self.pages.of(index).clone(),
            })
        });
        let ends = Ends {
            embedding: match (&self.embedding, number) {
                (Matrix::Dense(table), Some(number)) => Matrix::Dense(table.to_dtype(number)?),
                (embedding, _) => embedding.clone(),
            },
            norm: self.norm.clone(),
            head: Weight::of(&[(&self.head, self.spec.vocabulary)], None, self.spec.hidden, number)?,
            cos: self.cos.clone(),
            sin: self.sin.clone(),
        };
        let layers = layers.collect::<Result<_>>()?;
        let Some(fused) = Fused::new(launcher, &self.spec, self.context, ends, layers)? else { return Ok(false) };
        // Only what agrees is kept, whatever fails on the way.
        let Some(mut fused) = self.agree(fused)? else {
            tracing::error!("the engine's kernels do not compute here what candle's do: they are not used");
            return Ok(false);
        };
        fused.rehearse()?;
        self.fused = Some(fused);
        self.adapters = Adapters::new(&self.device, &self.spec, DType::F16);
        Ok(true)
    }

    pub(super) fn is_fused(&self) -> bool {
        self.fused.is_some()
    }

    /// These kernels, if the next token of some sequences has the same logits in both ways: of few rows and more, with rows that only
    /// fill, behind a page and within the first; and again when the step is repeated, of which a card records the second. As far as
    /// there is room in the pool.
    fn agree(&mut self, fused: Fused) -> Result<Option<Fused>> {
        const REACH: Reach = Reach { span: 1.0, share: 0.1 };
        let mut fused = fused;
        let times = if fused.records() { 3 } else { 1 };
        let tokens: Vec<u32> = (0..64).map(|index| (index * 7919 + 31) % self.spec.vocabulary as u32).collect();
        for count in [1, 2, 6, 17] {
            let lengths: Vec<usize> = (0..count).map(|index| (BLOCK + 9).saturating_sub(7 * index).max(3)).collect();
            let blocks: usize = lengths.iter().map(|length| (length + 1).div_ceil(BLOCK)).sum();
            if blocks > self.blocks.room().1 || lengths[0] >= self.context {
                continue;
            }
            let mut caches: Vec<Table> = lengths.iter().map(|length| self.cache(length + 1)).collect();
            for (cache, length) in caches.iter_mut().zip(&lengths) {
                let tokens = &tokens[..*length];
                self.step(&mut [Piece { tokens, cache, wanted: Wanted::Nothing, adapter: None }], &mut || true)?;
            }
            let pieces = caches.iter_mut().zip(&tokens[40..]);
            let mut pieces: Vec<_> = pieces
                .map(|(cache, token)| Piece {
                    tokens: std::slice::from_ref(token),
                    cache,
                    wanted: Wanted::Last,
                    adapter: None,
                })
                .collect();
            let theirs = self.step(&mut pieces, &mut || true)?.unwrap_or_default().to_vec();
            // The same place, which the step has reserved: nothing is written behind it.
            let rows = pieces.iter().map(|piece| Row {
                token: piece.tokens[0],
                past: piece.cache.len() - 1,
                pages: piece.cache.blocks(),
                wanted: true,
                ranks: (0, 0),
            });
            let rows: Vec<Row> = rows.collect();
            for _ in 0..times {
                let near = fused.step_near(&rows, None, &vec![Some(REACH); count])?;
                let ours = fused.logits(count)?;
                let found = near.iter().zip(&ours).all(|(near, row)| *near == REACH.of(row));
                if !found || !Fused::agrees(&ours.concat(), &theirs) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(fused))
    }

    /// An empty cache for one sequence of up to `capacity` tokens.
    pub(super) fn cache(&self, capacity: usize) -> Table {
        self.blocks.table(capacity, position_bytes(&self.spec))
    }

    pub(super) fn room(&self) -> Room {
        let (blocks, free) = self.blocks.room();
        Room { blocks, free }
    }

    /// Computes one step; see [`super::Transformer::step`], which has checked the pieces.
    pub(super) fn step(
        &mut self,
        pieces: &mut [Piece<Table>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<&[f32]>> {
        if !self.advance(pieces, None, go_on)? {
            return Ok(None);
        }
        self.logits.clear();
        if let Left::Logits(Some(logits)) = &self.left {
            self.logits = logits.flatten_all()?.to_vec1()?;
        }
        Ok(Some(&self.logits))
    }

    /// The same, of each wanted row what is within its reach.
    pub(super) fn step_near(
        &mut self,
        pieces: &mut [Piece<Table>],
        reaches: &[Reach],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Near>>> {
        if !self.advance(pieces, Some(reaches), go_on)? {
            return Ok(None);
        }
        Ok(Some(match std::mem::replace(&mut self.left, Left::Logits(None)) {
            Left::Near(near) => near,
            Left::Logits(None) => Vec::new(),
            Left::Logits(Some(logits)) => {
                logits.to_vec2::<f32>()?.iter().zip(reaches).map(|(row, reach)| reach.of(row)).collect()
            }
        }))
    }

    /// False if it was stopped.
    fn advance(
        &mut self,
        pieces: &mut [Piece<Table>],
        reaches: Option<&[Reach]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let reserved = self.reserve(pieces);
        let computed = match (reserved, &mut self.fused) {
            (Ok(()), Some(fused)) if pieces.iter().all(|piece| piece.tokens.len() == 1) => match go_on() {
                true => single(fused, &mut self.adapters, pieces, reaches).map(|left| {
                    self.left = left;
                    true
                }),
                false => Ok(false),
            },
            (Ok(()), _) => self.compute(pieces, go_on),
            (Err(error), _) => Err(error),
        };
        let done = matches!(computed, Ok(true));
        for piece in pieces.iter_mut() {
            if done {
                piece.cache.advance(piece.tokens.len());
            }
            // What was reserved and not used goes back.
            piece.cache.truncate(piece.cache.len());
        }
        computed
    }

    fn reserve(&self, pieces: &mut [Piece<Table>]) -> Result<()> {
        let reserved: Vec<_> = pieces.iter_mut().map(|piece| piece.cache.reserve(piece.tokens.len())).collect();
        // Also where one found no room: who was given a copy needs what is in it.
        let copied: Vec<Copied> = reserved.iter().flatten().flatten().copied().collect();
        self.pages.copy(&copied, &self.device)?;
        reserved.into_iter().try_for_each(|reserved| reserved.map(drop)).map_err(Into::into)
    }

    /// What the step's rows are; pieces of one row first, whatever their order.
    fn rows(&mut self, pieces: &[Piece<Table>]) -> Result<Rows> {
        let device = &self.device;
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|index| pieces[*index].tokens.len() > 1);
        let ordered = order.iter().map(|index| &pieces[*index]);
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut firsts = vec![0; pieces.len()];
        for (index, piece) in order.iter().zip(ordered.clone()) {
            firsts[*index] = tokens.len();
            let (from, count) = (piece.cache.len(), piece.tokens.len());
            tokens.extend_from_slice(piece.tokens);
            for position in from..from + count {
                positions.push(u32::try_from(position)?);
                slots.push(piece.cache.slot(position));
            }
        }
        let single: Vec<&Table> = ordered.clone().filter(|p| p.tokens.len() == 1).map(|p| &*p.cache).collect();
        let mut groups = Vec::new();
        if !single.is_empty() {
            groups.push(Group::new(&single, 0, 1, device)?);
        }
        for &index in order.iter().skip(single.len()) {
            let Piece { tokens, cache, .. } = &pieces[index];
            groups.push(Group::new(&[cache], firsts[index], tokens.len(), device)?);
        }
        let mut wanted = Vec::new();
        for (piece, first) in pieces.iter().zip(firsts) {
            let last = u32::try_from(first + piece.tokens.len())?;
            match piece.wanted {
                Wanted::Nothing => {}
                Wanted::Last => wanted.push(last - 1),
                Wanted::All => wanted.extend(u32::try_from(first)?..last),
            }
        }
        let count = tokens.len();
        let list = |list: Vec<u32>| Tensor::new(list, device);
        let positions = list(positions)?;
        Ok(Rows {
            count,
            tokens: list(tokens)?,
            cos: self.cos.index_select(&positions, 0)?.unsqueeze(1)?,
            sin: self.sin.index_select(&positions, 0)?.unsqueeze(1)?,
            places: self.pages.places(slots, device)?,
            groups,
            added: self.adapters.of(ordered.map(|piece| (piece.tokens.len(), piece.adapter)))?,
            wanted: (!wanted.is_empty()).then(|| list(wanted)).transpose()?,
        })
    }

    /// By candle. False if it was stopped.
    fn compute(&mut self, pieces: &[Piece<Table>], go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
        let rows = self.rows(pieces)?;
        let epsilon = self.spec.norm_epsilon;
        let mut stream = self.embedding.rows(&rows.tokens)?;
        {
            // What a step's layers compute has shapes of its counts alone, of which there are some thousands.
            let _shapes = keeping_shapes(&self.device);
            for index in 0..self.layers.len() {
                if !go_on() {
                    return Ok(false);
                }
                stream = self.layer(index, &rows, stream)?;
            }
        }
        let logits = rows.wanted.as_ref().map(|wanted| -> Result<Tensor> {
            let last = rms_norm(&stream.index_select(wanted, 0)?, &self.norm, epsilon)?;
            let logits = self.head.forward(&last)?;
            ensure!(logits.dims() == [wanted.elem_count(), self.spec.vocabulary], "logits of other rows");
            Ok(logits)
        });
        self.left = Left::Logits(logits.transpose()?);
        Ok(true)
    }

    fn layer(&self, index: usize, rows: &Rows, stream: Tensor) -> Result<Tensor> {
        let Layer { attention_norm, linears, feed_forward_norm, .. } = &self.layers[index];
        let epsilon = self.spec.norm_epsilon;
        let linear = |module: Module, x: &Tensor| -> candle_core::Result<Tensor> {
            let y = linears[module as usize].forward(x)?;
            match &rows.added {
                Some(added) => added.to(index, module, x, y),
                None => Ok(y),
            }
        };
        let x = rms_norm(&stream, attention_norm, epsilon)?;
        let query = self.turned(rows, &linear(Module::Query, &x)?)?;
        let key = self.turned(rows, &linear(Module::Key, &x)?)?;
        self.pages.write(index, &rows.places, &key, &linear(Module::Value, &x)?)?;
        let scaled = (query * (1.0 / (self.spec.head_dim as f64).sqrt()))?;
        let attended = self.pages.attend(index, &rows.groups, &scaled)?;
        let stream = (stream + linear(Module::Output, &attended)?)?;
        let x = rms_norm(&stream, feed_forward_norm, epsilon)?;
        let inner = (silu(&linear(Module::Gate, &x)?)? * linear(Module::Up, &x)?)?;
        Ok((stream + linear(Module::Down, &inner)?)?)
    }

    /// Heads, turned by their row's position.
    fn turned(&self, rows: &Rows, heads: &Tensor) -> candle_core::Result<Tensor> {
        let dim = self.spec.head_dim;
        let width = heads.elem_count() / rows.count;
        let turn = match self.spec.rope_pairs {
            RopePairs::Adjacent => rope_i,
            RopePairs::Halves => rope,
        };
        // Each row as a batch of its own, of one position.
        let heads = heads.reshape((rows.count, width / dim, 1, dim))?;
        turn(&heads, &rows.cos, &rows.sin)?.reshape((rows.count, width))
    }
}

/// Computes single tokens, as many at once as the kernels take.
fn single(
    fused: &mut Fused,
    adapters: &mut Adapters,
    pieces: &[Piece<Table>],
    reaches: Option<&[Reach]>,
) -> Result<Left> {
    let beside = adapters.all(pieces.iter().filter_map(|piece| piece.adapter))?;
    let mut reaches = reaches.map(|reaches| reaches.iter().copied());
    let (mut near, mut logits) = (Vec::new(), Vec::new());
    for pieces in pieces.chunks(fused::MOST) {
        let rows = pieces.iter().map(|piece| Row {
            token: piece.tokens[0],
            past: piece.cache.len(),
            pages: piece.cache.blocks(),
            wanted: piece.wanted != Wanted::Nothing,
            ranks: beside.as_ref().zip(piece.adapter).map_or((0, 0), |(beside, adapter)| beside.ranks(adapter)),
        });
        let rows: Vec<_> = rows.collect();
        if let Some(reaches) = &mut reaches {
            let own = rows.iter().map(|row| if row.wanted { reaches.next() } else { None });
            near.extend(fused.step_near(&rows, beside.as_deref(), &own.collect::<Vec<_>>())?);
        } else {
            logits.extend(fused.step(&rows, beside.as_deref())?);
        }
    }
    Ok(match reaches {
        Some(_) => Left::Near(near),
        None if logits.is_empty() => Left::Logits(None),
        None => Left::Logits(Some(Tensor::cat(&logits, 0)?)),
    })
}

fn position_bytes(spec: &TransformerSpec) -> usize {
    2 * spec.layers * spec.kv_heads * spec.head_dim * pages::NUMBER.size_in_bytes()
}

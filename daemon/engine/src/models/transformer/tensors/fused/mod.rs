//! A step in which every sequence goes on by one token, in as few kernels as it can be: what is computed for a token is little,
//! and asking for it dearer.
//!
//! Enters: of each row its token, how much is behind it, its pages, whose adapter. Leaves: keys and values in the pages; logits, or
//! the few of them that are near the best, because all of them take longer to bring here than to compute. Never here: a prompt, or a
//! buffer that is made anew for a step: the same addresses each time, so that a card can repeat the whole of it at once.
//!
//! ```text
//!            up to FEW rows                                       more
//!  layer     lines (norm, queries, keys, values)                  norm · product
//!            attend · combine                                     attend · combine
//!            lines (output, onto the stream)                      product, onto the stream
//!            lines (norm, gate, up, silu)                         norm · product · gate
//!            lines (down, onto the stream)                        product, onto the stream
//! ```
//!
//! Rows fill up to the next of [`BUCKETS`]; what is only there to fill is nobody's, and leaves nothing behind. Up to FEW rows blocks of
//! Q8_0, Q4_K and Q6_K are read as they are; above, and other kinds, candle multiplies them, and such a step is not recorded.

mod buffers;
mod weight;

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};

use self::buffers::{Buffers, Held};
pub(super) use self::weight::Weight;
use self::weight::{Lines, Part};
use super::lora::Together;
use super::{BLOCK, Near, Reach, RopePairs, TransformerSpec, adapter};
use crate::device::{Argument, Grid, Launcher, Product};
use crate::models::layers::Matrix;
use crate::weights::peft::{Module, RANKS};
use Argument::{Address, Count, Number};

/// The kernels, for all cards that the engine is built for.
#[cfg(feature = "cuda")]
pub(super) const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
#[cfg(not(feature = "cuda"))]
pub(super) const IMAGE: &[u8] = &[];

/// The sizes of steps: a card keeps a recording of each.
const BUCKETS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Rows of one step at most.
pub const MOST: usize = BUCKETS[BUCKETS.len() - 1];
/// Up to so many rows a matrix is read once by kernels of ours; above, products are NVIDIA's.
const FEW: u32 = 4;
/// The past of a row that is only there to fill (kernels.cu).
const NOBODY: u32 = u32::MAX;
/// Queries that one block of `attend` looks at, and its threads (kernels.cu).
const QUERIES: usize = 8;
const THREADS: u32 = 128;
/// What threads may share without asking for more, less what a kernel says itself.
const SHARED: u32 = (48 << 10) - 256;
/// Blocks that keep every card busy: twice the multiprocessors of the largest.
const BLOCKS: usize = 264;
/// Parts of a past at most.
const SPLITS: usize = 32;
/// Ranks of an adapter.
const MAX_RANK: usize = *RANKS.end();
/// Tokens of a row that there is room for, when only those near the best are wanted.
const NEAR: usize = 512;
/// The most that is off in what two ways of rounding make of the same logits, against their size; what is wrong is off by 1.
const APART: f32 = 0.1;

/// One row of a step.
pub(super) struct Row<'a> {
    pub(super) token: u32,
    /// Positions behind it.
    pub(super) past: usize,
    /// The blocks that hold them, and it.
    pub(super) pages: &'a [u32],
    /// Whether its logits are wanted.
    pub(super) wanted: bool,
    /// Of its adapter the first rank among all of the step's, and how many it has.
    pub(super) ranks: (usize, usize),
}

/// What of a step's logits is wanted: a recording of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Every,
    Near,
}

/// What one layer is made of.
pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) heads: Weight,
    pub(super) bias: Option<Tensor>,
    pub(super) output: Weight,
    pub(super) feed_forward_norm: Tensor,
    pub(super) gates: Weight,
    pub(super) down: Weight,
    /// Keys and values.
    pub(super) pool: [Tensor; 2],
}

/// What is not any layer's.
pub(super) struct Ends {
    pub(super) embedding: Matrix,
    pub(super) norm: Tensor,
    pub(super) head: Weight,
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

/// A model whose tokens are computed so.
pub(super) struct Fused {
    launcher: Box<dyn Launcher>,
    body: Body,
    /// The number of the adapters whose addresses the device was told.
    told: Option<u64>,
}

struct Body {
    spec: TransformerSpec,
    layers: Vec<HeldLayer>,
    embedding: Matrix,
    /// Where the embedding lies, if it is dense.
    table: Option<Held>,
    norm: Held,
    head: Weight,
    cos: Held,
    sin: Held,
    /// Whether all matrices are dense; whether kernels of ours read all of them, if rows are few.
    dense: bool,
    lines: bool,
    buffers: Buffers,
}

struct HeldLayer {
    attention_norm: Held,
    heads: Weight,
    bias: Option<Held>,
    output: Weight,
    feed_forward_norm: Held,
    gates: Weight,
    down: Weight,
    keys: Held,
    values: Held,
}

/// Where a product's rows come from.
#[derive(Clone, Copy)]
enum From<'a> {
    /// The stream, normalised with this gain.
    Stream(&'a Held),
    /// Rows that were left for it, where [`Asking::left`] said.
    Left,
    /// Rows of f32 there.
    At(&'a Held),
}

/// What becomes of a product (kernels.cu).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Set = 0,
    Add = 1,
    Gate = 2,
}

impl Fused {
    /// None if this model's sizes are none that the kernels take.
    pub(super) fn new(
        launcher: Box<dyn Launcher>,
        spec: &TransformerSpec,
        context: usize,
        ends: Ends,
        layers: Vec<Layer>,
    ) -> Result<Option<Self>> {
        let widths = [spec.hidden, spec.heads * spec.head_dim, spec.feed_forward];
        if widths.iter().any(|width| !width.is_multiple_of(8)) {
            return Ok(None);
        }
        let Ends { embedding, norm, head, cos, sin } = ends;
        let layers = layers.into_iter().map(HeldLayer::of).collect::<Result<Vec<_>>>()?;
        let all = |is: fn(&Weight) -> bool| layers.iter().flat_map(HeldLayer::weights).chain([&head]).all(is);
        let (dense, lines) = (all(Weight::is_dense), all(Weight::has_lines));
        let table = match &embedding {
            Matrix::Dense(table) => Some(Held::of(table)?),
            Matrix::Quantised(_) => None,
        };
        let parts = BUCKETS.iter().map(|rows| rows * splits(spec, *rows)).max().unwrap_or(0);
        let buffers = Buffers::new(spec, context, parts, norm.device())?;
        let (norm, cos, sin) = (Held::of(&norm)?, Held::of(&cos)?, Held::of(&sin)?);
        let body = Body { spec: spec.clone(), layers, embedding, table, norm, head, cos, sin, dense, lines, buffers };
        Ok(Some(Self { launcher, body, told: None }))
    }

    /// Computes up to [`MOST`] rows. Leaves the logits of those that are wanted, if any is.
    pub(super) fn step(&mut self, rows: &[Row], beside: Option<&Together>) -> Result<Option<Tensor>> {
        let wanted: Vec<u32> = (0..).zip(rows).filter(|(_, row)| row.wanted).map(|(index, _)| index).collect();
        let want = if wanted.is_empty() { Want::Nothing } else { Want::Every };
        self.compute(rows, beside, &[], want)?;
        let logits = &self.body.buffers.logits.tensor;
        Ok(match wanted.len() {
            0 => None,
            count if count == rows.len() => Some(logits.narrow(0, 0, count)?.force_contiguous()?),
            count => Some(logits.index_select(&Tensor::from_vec(wanted, count, logits.device())?, 0)?),
        })
    }

    /// The same, of each row with a reach what is within it.
    pub(super) fn step_near(
        &mut self,
        rows: &[Row],
        beside: Option<&Together>,
        reaches: &[Option<Reach>],
    ) -> Result<Vec<Near>> {
        let want = if reaches.iter().any(Option::is_some) { Want::Near } else { Want::Nothing };
        self.compute(rows, beside, reaches, want)?;
        if want == Want::Nothing {
            return Ok(Vec::new());
        }
        let Buffers { found, logits, .. } = &self.body.buffers;
        // By itself: of a view candle would bring all that it is a view of.
        let found: Vec<Vec<u32>> = found.tensor.narrow(0, 0, rows.len())?.force_contiguous()?.to_vec2()?;
        let fits = |found: &[u32], reach: &Reach| reach.span.is_finite() && found[0] as usize <= NEAR;
        let asked: Vec<_> = (0_u32..).zip(found.iter().zip(reaches)).collect();
        let more = asked.iter().filter(|(_, (found, reach))| reach.is_some_and(|reach| !fits(found, &reach)));
        let more: Vec<u32> = more.map(|(row, _)| *row).collect();
        let mut whole = Vec::new();
        if !more.is_empty() {
            let more = Tensor::from_vec(more.clone(), more.len(), logits.tensor.device())?;
            whole = logits.tensor.index_select(&more, 0)?.to_vec2::<f32>()?;
        }
        let mut whole = whole.iter();
        let near = asked.iter().filter_map(|(_, (found, reach))| {
            let reach = (**reach)?;
            if !fits(found, &reach) {
                return whole.next().map(|row| reach.of(row));
            }
            let pairs = &found[1..].as_chunks::<2>().0[..found[0] as usize];
            let mut near: Near = pairs.iter().map(|&[token, bits]| (token, f32::from_bits(bits))).collect();
            near.sort_by_key(|(token, _)| *token);
            Some(near)
        });
        Ok(near.collect())
    }

    /// Whether a step that is asked for again is repeated from a recording.
    pub(super) fn records(&self) -> bool {
        self.launcher.records()
    }

    /// All logits of the last step, of its first rows.
    pub(super) fn logits(&self, rows: usize) -> Result<Vec<Vec<f32>>> {
        Ok(self.body.buffers.logits.tensor.narrow(0, 0, rows)?.to_vec2()?)
    }

    /// Has each size of a step that the mind asks for recorded, before a caller waits for it: rows of nobody change nothing.
    pub(super) fn rehearse(&mut self) -> Result<()> {
        if !self.records() {
            return Ok(());
        }
        for (index, bucket) in BUCKETS.into_iter().enumerate() {
            for adapted in [false, true] {
                for _ in 0..2 {
                    self.body.buffers.tell(&[], &[], bucket)?;
                    self.run(index, Want::Near, adapted)?;
                }
            }
        }
        Ok(())
    }

    fn compute(
        &mut self,
        rows: &[Row],
        beside: Option<&Together>,
        reaches: &[Option<Reach>],
        want: Want,
    ) -> Result<()> {
        let Some((index, &bucket)) = BUCKETS.iter().enumerate().find(|(_, bucket)| **bucket >= rows.len()) else {
            bail!("{} rows in a step of at most {MOST}", rows.len());
        };
        if let Some(beside) = beside
            && self.told != Some(beside.number)
        {
            self.body.buffers.tell_adapters(&beside.layers)?;
            self.told = Some(beside.number);
        }
        self.body.buffers.tell(rows, reaches, bucket)?;
        self.run(index, want, beside.is_some())
    }

    /// Computes what the device was told, in the bucket of this index.
    fn run(&mut self, index: usize, want: Want, adapted: bool) -> Result<()> {
        let Self { launcher, body, .. } = self;
        let rows = BUCKETS[index] as u32;
        let few = body.lines && rows <= FEW;
        if body.table.is_none() {
            body.embed(BUCKETS[index])?;
        }
        let mut step = |launcher: &mut dyn Launcher| Asking { launcher, body, rows, few, adapted }.step(want);
        if !few && !body.dense {
            // candle multiplies blocks in memory of its own, which it moves when it needs more: a recording would not know.
            return step(launcher.as_mut());
        }
        let key = BUCKETS.len() * (2 * want as usize + usize::from(adapted)) + index;
        // SAFETY: without candle all that is asked for lies in the body: buffers, matrices, pages, and the table of the adapters'
        // addresses, which is read anew each time. The body lives as long as the launcher, in whose stream it is freed.
        unsafe { launcher.run(key as u32, &mut step) }
    }

    /// Whether logits are those of the same rows that were computed in another way, but for rounding.
    pub(super) fn agrees(ours: &[f32], theirs: &[f32]) -> bool {
        let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
        let apart = squares(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
        let size = squares(&mut theirs.iter().copied());
        tracing::debug!(apart = (apart / size).sqrt(), "kernels of ours against tensors");
        ours.len() == theirs.len() && (apart / size).sqrt() < APART
    }
}

/// In how many parts each row's past is looked at.
fn splits(spec: &TransformerSpec, rows: usize) -> usize {
    (BLOCKS / (rows * spec.kv_heads * chunks(spec))).clamp(1, SPLITS)
}

/// How many blocks look at the queries that share keys and values.
fn chunks(spec: &TransformerSpec) -> usize {
    (spec.heads / spec.kv_heads).div_ceil(QUERIES)
}

impl Body {
    /// Tokens to the stream by candle, which knows how to read its blocks.
    fn embed(&self, rows: usize) -> Result<()> {
        let tokens = self.buffers.steps.tensor.narrow(0, 0, rows)?;
        Ok(self.buffers.stream.tensor.slice_set(&self.embedding.rows(&tokens)?.flatten_all()?, 0, 0)?)
    }
}

impl HeldLayer {
    fn of(layer: Layer) -> Result<Self> {
        let Layer { attention_norm, heads, bias, output, feed_forward_norm, gates, down, pool: [keys, values] } = layer;
        Ok(Self {
            attention_norm: Held::of(&attention_norm)?,
            heads,
            bias: bias.as_ref().map(Held::of).transpose()?,
            output,
            feed_forward_norm: Held::of(&feed_forward_norm)?,
            gates,
            down,
            keys: Held::of(&keys)?,
            values: Held::of(&values)?,
        })
    }

    fn weights(&self) -> [&Weight; 4] {
        [&self.heads, &self.output, &self.gates, &self.down]
    }
}

/// A step while it is asked for.
struct Asking<'a> {
    launcher: &'a mut dyn Launcher,
    body: &'a Body,
    rows: u32,
    few: bool,
    adapted: bool,
}

impl<'a> Asking<'a> {
    fn step(&mut self, want: Want) -> Result<()> {
        let body = self.body;
        let Buffers { stream, logits, found, .. } = &body.buffers;
        self.embed()?;
        for (index, layer) in body.layers.iter().enumerate() {
            self.attend(index, layer)?;
            self.product(From::Left, &layer.output, stream, Becomes::Add)?;
            self.adapt(index, &[Module::Output], &layer.output, stream)?;
            self.feed_forward(index, layer)?;
        }
        if want != Want::Nothing {
            self.product(From::Stream(&body.norm), &body.head, logits, Becomes::Set)?;
        }
        if want == Want::Near {
            let (vocabulary, room) = (Count(body.spec.vocabulary as u32), Count(NEAR as u32));
            let reaches = Address(body.buffers.reaches());
            let arguments = [logits.argument(), reaches, found.argument(), vocabulary, room];
            self.launch("near", Grid { blocks: [self.rows, 1, 1], threads: 1024, shared: 0 }, &arguments)?;
        }
        Ok(())
    }

    fn embed(&mut self) -> Result<()> {
        let body = self.body;
        let (stream, hidden) = (&body.buffers.stream, body.spec.hidden as u32);
        match &body.table {
            Some(table) => {
                let kernel = if table.tensor.dtype() == DType::F32 { "embed_float" } else { "embed_bf16" };
                let grid = Grid { blocks: [self.rows, 1, 1], threads: 256, shared: 0 };
                let tokens = body.buffers.steps.address;
                let arguments = [table.argument(), Address(tokens), stream.argument(), Count(hidden)];
                self.launch(kernel, grid, &arguments)
            }
            // It was done before.
            None => Ok(()),
        }
    }

    /// Leaves what heads attend to.
    fn attend(&mut self, index: usize, layer: &HeldLayer) -> Result<()> {
        let Body { spec, cos, sin, buffers, .. } = self.body;
        let Buffers { heads, partial, extremes, .. } = buffers;
        self.product(From::Stream(&layer.attention_norm), &layer.heads, heads, Becomes::Set)?;
        self.adapt(index, &[Module::Query, Module::Key, Module::Value], &layer.heads, heads)?;
        let kernel = match spec.head_dim {
            dim if dim.is_multiple_of(64) => "attend_8",
            dim if dim.is_multiple_of(32) => "attend_4",
            _ => "attend_2",
        };
        let (dim, splits) = (spec.head_dim as u32, splits(spec, self.rows as usize) as u32);
        let blocks = [(spec.kv_heads * chunks(spec)) as u32, self.rows, splits];
        let shared = (QUERIES as u32 + 2) * dim * size_of::<f32>() as u32;
        let arguments = [
            heads.argument(),
            layer.bias.as_ref().map_or(Address(0), Held::argument),
            cos.argument(),
            sin.argument(),
            layer.keys.argument(),
            layer.values.argument(),
            Address(buffers.pasts()),
            Count(buffers.stride as u32),
            partial.argument(),
            extremes.argument(),
            Count(spec.heads as u32),
            Count(spec.kv_heads as u32),
            Count(dim),
            Count(u32::from(spec.rope_pairs == RopePairs::Adjacent)),
        ];
        self.launch(kernel, Grid { blocks, threads: THREADS, shared }, &arguments)?;
        let (kernel, rows) = self.left(&layer.output, ["combine_float", "combine_bf16"]);
        let grid = Grid { blocks: [spec.heads as u32, self.rows, 1], threads: THREADS, shared: 0 };
        let arguments = [partial.argument(), extremes.argument(), rows.argument(), Count(splits), Count(dim)];
        self.launch(kernel, grid, &arguments)
    }

    fn feed_forward(&mut self, index: usize, layer: &HeldLayer) -> Result<()> {
        let Buffers { inner, stream, .. } = &self.body.buffers;
        let source = From::Stream(&layer.feed_forward_norm);
        if self.few && !self.adapted && layer.gates.is_dense() {
            self.product(source, &layer.gates, inner, Becomes::Gate)?;
            return self.product(From::At(inner), &layer.down, stream, Becomes::Add);
        }
        self.product(source, &layer.gates, inner, Becomes::Set)?;
        self.adapt(index, &[Module::Gate, Module::Up], &layer.gates, inner)?;
        let (kernel, rows) = self.left(&layer.down, ["gate_float", "gate_bf16"]);
        let width = self.body.spec.feed_forward as u32;
        let arguments = [inner.argument(), rows.argument(), Count(width)];
        self.launch(kernel, along(width, self.rows), &arguments)?;
        self.product(From::Left, &layer.down, stream, Becomes::Add)?;
        self.adapt(index, &[Module::Down], &layer.down, stream)
    }

    /// Adds what adapters make of the rows that were left for the product with `weight`, which is of these matrices.
    fn adapt(&mut self, layer: usize, modules: &[Module], weight: &Weight, out: &Held) -> Result<()> {
        if !self.adapted {
            return Ok(());
        }
        let Body { spec, buffers, .. } = self.body;
        let Buffers { pairs, low, stride, .. } = buffers;
        let (inputs, outputs) = weight.sizes();
        let first = Count((layer * Module::ALL.len() + modules[0] as usize) as u32);
        let [steps, stride] = [Address(buffers.pasts()), Count(*stride as u32)];
        let (kernel, rows) = self.left(weight, ["shrink_float", "shrink_bf16"]);
        let warps = THREADS / 32;
        let blocks = [(MAX_RANK as u32).div_ceil(warps), self.rows, modules.len() as u32];
        let arguments = [rows.argument(), pairs.argument(), first, steps, stride, low.argument(), Count(inputs as u32)];
        self.launch(kernel, Grid { blocks, threads: THREADS, shared: 0 }, &arguments)?;
        // Where the columns of the first end, and of the second.
        let mut end = 0;
        let ends = modules.iter().map(|module| {
            end += adapter::sizes(spec, *module).1;
            Count(end as u32)
        });
        let ends: Vec<Argument> = ends.chain([Count(u32::MAX); 2]).collect();
        let outputs = outputs as u32;
        let arguments =
            [low.argument(), pairs.argument(), first, steps, stride, out.argument(), Count(outputs), ends[0], ends[1]];
        self.launch("expand", along(outputs, self.rows), &arguments)
    }

    /// Where rows are left for a product with `weight`, and which of two kernels leaves them as it takes them: f32, or bf16.
    fn left(&self, weight: &Weight, kernels: [&'static str; 2]) -> (&'static str, &'a Held) {
        let buffers = &self.body.buffers;
        match weight {
            Weight::Dense { matrix, .. } if !self.few && matrix.tensor.dtype() == DType::BF16 => {
                (kernels[1], &buffers.bf16)
            }
            _ => (kernels[0], &buffers.f32),
        }
    }

    fn product(&mut self, from: From, weight: &Weight, out: &Held, becomes: Becomes) -> Result<()> {
        let (inputs, outputs) = weight.sizes();
        let (inputs, outputs) = (inputs as u32, outputs as u32);
        let mut gain = Address(0);
        let rows = match from {
            // A kernel for few rows normalises them itself, if there is room for them and nobody else needs them.
            From::Stream(norm)
                if self.few && !self.adapted && self.rows * inputs * size_of::<f32>() as u32 <= SHARED =>
            {
                gain = norm.argument();
                &self.body.buffers.stream
            }
            From::Stream(norm) => {
                let (kernel, rows) = self.left(weight, ["norm_float", "norm_bf16"]);
                let grid = Grid { blocks: [self.rows, 1, 1], threads: 256, shared: 0 };
                let stream = self.body.buffers.stream.argument();
                let epsilon = Number(self.body.spec.norm_epsilon);
                let arguments = [stream, norm.argument(), rows.argument(), Count(inputs), epsilon];
                self.launch(kernel, grid, &arguments)?;
                rows
            }
            From::Left => self.left(weight, [""; 2]).1,
            From::At(rows) => rows,
        };
        match weight {
            Weight::Dense { matrix, .. } if self.few => {
                let kernels = weight::dense_lines(matrix.tensor.dtype());
                let stride = if becomes == Becomes::Gate { outputs / 2 } else { outputs };
                self.lines(kernels, matrix.argument(), (rows, gain), out, [inputs, outputs, stride, 0], becomes)
            }
            Weight::Parts { matrices, .. } if self.few => {
                let mut column = 0;
                for Part { outputs: width, lines, .. } in matrices {
                    let Some((address, kernels)) = lines else { bail!("a kind of blocks that no kernel reads") };
                    let sizes = [inputs, *width as u32, outputs, column];
                    self.lines(*kernels, Address(*address), (rows, gain), out, sizes, becomes)?;
                    column += *width as u32;
                }
                Ok(())
            }
            Weight::Dense { matrix, .. } => {
                let product = Product {
                    weight: matrix.address,
                    rows: rows.address,
                    out: out.address,
                    count: self.rows,
                    inputs,
                    outputs,
                    number: matrix.tensor.dtype(),
                    add: becomes == Becomes::Add,
                };
                // SAFETY: as in `launch`; the sizes are the matrix's own, and the buffers were made for them.
                unsafe { self.launcher.multiply(&product) }
            }
            Weight::Parts { matrices, .. } => {
                let rows = rows.rows(self.rows as usize, inputs as usize)?;
                let mut column = 0;
                for Part { matrix, outputs: width, .. } in matrices {
                    let part = Held::of(&matrix.forward(&rows)?)?;
                    self.place(&part, out, [*width as u32, outputs, column], becomes)?;
                    column += *width as u32;
                }
                Ok(())
            }
        }
    }

    /// A matrix times few rows, which are normalised first if there is a gain. `sizes`: inputs, outputs, numbers of a row of `out`,
    /// and in which of its columns to begin.
    fn lines(
        &mut self,
        kernels: Lines,
        weight: Argument,
        (rows, gain): (&Held, Argument),
        out: &Held,
        sizes: [u32; 4],
        becomes: Becomes,
    ) -> Result<()> {
        let [inputs, outputs, ..] = sizes;
        let kernel = kernels[self.rows.ilog2() as usize];
        let staged = matches!(gain, Address(at) if at != 0);
        let shared = if staged { self.rows * inputs * size_of::<f32>() as u32 } else { 0 };
        // A warp takes two lines.
        let lines = THREADS / 32 * 2;
        let grid = Grid { blocks: [outputs.div_ceil(lines), 1, 1], threads: THREADS, shared };
        let epsilon = Number(self.body.spec.norm_epsilon);
        let told = [weight, rows.argument(), gain, epsilon, out.argument()];
        let told = told.into_iter().chain(sizes.map(Count)).chain([Count(becomes as u32)]);
        self.launch(kernel, grid, &told.collect::<Vec<_>>())
    }

    /// Rows of `width` to columns of rows of `stride`.
    fn place(&mut self, from: &Held, to: &Held, sizes: [u32; 3], becomes: Becomes) -> Result<()> {
        let [width, stride, column] = sizes;
        ensure!(becomes != Becomes::Gate, "what is placed is not multiplied");
        let arguments =
            [from.argument(), to.argument(), Count(width), Count(stride), Count(column), Count(becomes as u32)];
        self.launch("place_float", along(width, self.rows), &arguments)
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[Argument]) -> Result<()> {
        // SAFETY: each caller gives the arguments in the order of kernels.cu. What they point to are tensors of the body, or, in a
        // step that is not recorded, of this step, which candle frees in the order of the same stream; adapters, by a table, lie
        // there until the step was asked for, at least. Sizes are those of the same spec that is told to the kernel, for rows of
        // the largest bucket.
        unsafe { self.launcher.launch(kernel, grid, arguments) }
    }
}

/// A thread for each column of each row.
fn along(width: u32, rows: u32) -> Grid {
    Grid { blocks: [width.div_ceil(256), rows, 1], threads: 256, shared: 0 }
}

/// Words that are told of one row, when no sequence is longer than `context`: its past, its ranks, its pages.
fn stride(context: usize) -> usize {
    3 + context.div_ceil(BLOCK)
}

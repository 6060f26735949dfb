//! The kernels of single tokens, which are written for cards, run thread by thread on the processor: what they compute is what
//! tensors compute.
//!
//! The same lines that a card's compiler gets are compiled for the processor (fused_support/), with its complaints about
//! arithmetic that means nothing and addresses that are not aligned. What a card does besides, it has to show itself:
//! `make test-gpu`.

#[path = "../gpu/draw.rs"]
#[allow(dead_code, reason = "only its language models are wanted here")]
mod draw;
#[path = "../gpu/lora.rs"]
mod lora;

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use callbox_engine::device::{Argument, Grid, Launcher, Part, Product};
use callbox_engine::models::transformer::{
    Adapter, BLOCK, BaseModel, Cache, Near, Numbers, Piece, Reach, RopePairs, TensorConfig, Transformer,
    TransformerSpec, Wanted,
};
use callbox_engine::weights::gguf::{Gguf, Head};
use callbox_engine::weights::peft::PeftFile;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use draw::{Draw, Family, language_model};

type Launch = unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *mut *mut c_void, usize) -> bool;
type Multiply = unsafe extern "C" fn(u64, u64, u64, u32, u32, u32, bool, bool);

/// The kernels, compiled for this machine.
struct Kernels {
    launch: Launch,
    multiply: Multiply,
}

fn kernels() -> &'static Kernels {
    static KERNELS: OnceLock<Kernels> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("emulated.so");
        let source = here.join("src/models/transformer/tensors/fused/kernels.cu");
        let compiled = Command::new("c++")
            .args(["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
            .args(["-fsanitize=undefined", "-fno-sanitize-recover=all", "-fno-strict-aliasing", "-static-libubsan"])
            .arg("-I")
            .arg(here.join("tests/fused_support"))
            .arg(format!("-DKERNELS=\"{}\"", source.display()))
            .arg("-o")
            .arg(&library)
            .arg(here.join("tests/fused_support/emulate.cc"))
            .status();
        assert!(compiled.expect("a compiler").success(), "the kernels do not compile");
        // SAFETY: a library of ours, whose functions have these types; it is never unloaded.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(&library).expect("a library")));
            Kernels {
                launch: *library.get(b"launch\0").expect("a function"),
                multiply: *library.get(b"multiply\0").expect("a function"),
            }
        }
    })
}

/// Launches kernels on the processor; `spoilt` computes something else.
#[derive(Default)]
struct Emulated {
    spoilt: bool,
}

/// One thing at a time: the emulated card has one set of registers.
static BUSY: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Launcher for Emulated {
    unsafe fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[Argument]) -> anyhow::Result<()> {
        let _busy = BUSY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut words: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::Address(address) => address,
                Argument::Count(count) => u64::from(count),
                Argument::Number(number) if self.spoilt => u64::from((number + 0.5).to_bits()),
                Argument::Number(number) => u64::from(number.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let name = CString::new(kernel)?;
        // SAFETY: the caller answers for what the arguments mean; each has eight bytes, of which the kernel reads the first.
        let known = unsafe {
            let count = pointers.len();
            (kernels().launch)(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                grid.threads,
                grid.shared,
                pointers.as_mut_ptr(),
                count,
            )
        };
        anyhow::ensure!(known, "no card would launch {kernel} so");
        Ok(())
    }

    unsafe fn multiply(&mut self, product: &Product) -> anyhow::Result<()> {
        let Product { weight, rows, out, count, inputs, outputs, number, add } = *product;
        // SAFETY: the caller answers for the addresses and sizes.
        unsafe { (kernels().multiply)(weight, rows, out, count, inputs, outputs, number == DType::BF16, add) };
        Ok(())
    }

    unsafe fn run(&mut self, _key: u32, part: &mut Part) -> anyhow::Result<()> {
        part(self)
    }

    fn records(&self) -> bool {
        false
    }
}

const POOL: usize = 1024;
/// Of f32, but that keys and values are kept as halves, which now and then are rounded the other way.
const MOST: f32 = 2e-4;

/// Two layers; every kernel has a shape that is not the one it was written for.
fn spec(heads: usize, kv_heads: usize, head_dim: usize, qwen: bool) -> TransformerSpec {
    TransformerSpec {
        layers: 2,
        hidden: 72,
        heads,
        kv_heads,
        head_dim,
        feed_forward: 136,
        vocabulary: 211,
        context: 512,
        norm_epsilon: 1e-5,
        rope_pairs: if qwen { RopePairs::Halves } else { RopePairs::Adjacent },
        rope_base: 10_000.0,
        qkv_bias: qwen,
    }
}

/// Numbers that depend on the name alone, of a size that keeps rows as large as they are.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let most = if shape.len() == 1 { 0.5 } else { (3.0 / shape[1] as f32).sqrt() };
    let around = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        around + most * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("a tensor")
}

fn tensors(spec: &TransformerSpec) -> Transformer {
    let config = TensorConfig { device: Device::Cpu, tokens: POOL, numbers: Numbers::F32 };
    let given = |name: &str, shape: &[usize]| Ok(drawn(name, shape));
    Transformer::of_given(spec.clone(), &given, 512, &config).expect("a model")
}

fn fused(spec: &TransformerSpec) -> Transformer {
    let mut model = tensors(spec);
    assert!(model.fuse(Box::new(Emulated::default())).expect("kernels"), "they compute something else");
    model
}

fn tokens(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * 131 + seed * 17 + 3) % 211) as u32).collect()
}

fn step(model: &mut Transformer, pieces: &mut [Piece]) -> Vec<f32> {
    model.step(pieces, &mut || true).expect("room").expect("not stopped").to_vec()
}

/// The largest difference, against the largest number.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let most = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0_f32, f32::max);
    most(&mut a.iter().zip(b).map(|(a, b)| (a - b).abs())) / most(&mut b.iter().map(|b| b.abs()))
}

/// Sequences of many lengths go on by some tokens each, in steps of `counts` of them; both models the same.
fn go_on(ours: &mut Transformer, theirs: &mut Transformer, lengths: &[usize], counts: &[usize]) -> f32 {
    let mut worst = 0.0_f32;
    let texts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(seed, length)| tokens(length + 40, seed)).collect();
    let begin = |model: &mut Transformer| -> Vec<Cache> {
        let begun = lengths.iter().zip(&texts).map(|(length, tokens)| {
            let mut cache = model.cache(length + 40);
            let tokens = &tokens[..*length];
            let piece = Piece { tokens, cache: &mut cache, wanted: Wanted::Nothing, adapter: None };
            step(model, &mut [piece]);
            cache
        });
        begun.collect()
    };
    let (mut our_caches, mut their_caches) = (begin(ours), begin(theirs));
    for count in counts {
        let next = |model: &mut Transformer, caches: &mut [Cache]| {
            let pieces = caches.iter_mut().zip(&texts).take(*count).enumerate();
            let mut pieces: Vec<_> = pieces
                .map(|(index, (cache, text))| {
                    let tokens = &text[cache.len()..=cache.len()];
                    // Of every fifth nobody wants to know.
                    let wanted = if index % 5 == 4 { Wanted::Nothing } else { Wanted::Last };
                    Piece { tokens, cache, wanted, adapter: None }
                })
                .collect();
            step(model, &mut pieces)
        };
        let (ours, theirs) = (next(ours, &mut our_caches), next(theirs, &mut their_caches));
        worst = worst.max(apart(&ours, &theirs));
    }
    worst
}

#[test]
fn every_shape_of_heads_is_computed_as_tensors_compute_it() {
    // Heads, those of keys and values, their width, and which numbers are turned together.
    for (heads, kv_heads, dim, qwen) in [
        (6, 2, 64, true),
        (3, 3, 32, false),
        (18, 2, 16, true),
        (2, 1, 128, true),
        (2, 2, 48, false),
        (2, 1, 256, true),
        (1, 1, 512, false),
        (2, 2, 96, true),
    ] {
        let spec = spec(heads, kv_heads, dim, qwen);
        let apart = go_on(&mut fused(&spec), &mut tensors(&spec), &[70, 3, 31], &[1, 2, 3]);
        eprintln!("{heads} heads, {kv_heads} of keys, width {dim}: {apart:e}");
        assert!(apart < MOST, "{heads} heads, {kv_heads} of keys, width {dim}: {apart}");
    }
}

#[test]
fn every_size_of_a_step_is_computed_as_tensors_compute_it() {
    let spec = spec(4, 2, 32, true);
    // From one page to several, at their edges; more sequences than one step takes.
    let lengths: Vec<usize> = (0..70).map(|index| [1, 30, 31, 32, 33, 63, 64, 2, 5, 17][index % 10] % 40 + 1).collect();
    let config = TensorConfig { device: Device::Cpu, tokens: 8 * POOL, numbers: Numbers::F32 };
    let given = |name: &str, shape: &[usize]| Ok(drawn(name, shape));
    let large = || Transformer::of_given(spec.clone(), &given, 512, &config).expect("a model");
    let mut ours = large();
    assert!(ours.fuse(Box::new(Emulated::default())).expect("kernels"));
    let apart = go_on(&mut ours, &mut large(), &lengths, &[1, 5, 9, 33, 70]);
    eprintln!("{apart:e}");
    assert!(apart < MOST, "{apart}");
}

/// A long past is looked at in parts, whose number depends on how many rows there are.
#[test]
fn a_long_past_is_computed_as_tensors_compute_it() {
    let spec = spec(6, 2, 64, true);
    let apart = go_on(&mut fused(&spec), &mut tensors(&spec), &[440, 129], &[1, 1, 2]);
    eprintln!("{apart:e}");
    assert!(apart < MOST, "{apart}");
}

/// What is shared is not written to, and what was cut off is not seen.
#[test]
fn forks_and_cuts_are_as_fresh() {
    let spec = spec(4, 2, 64, false);
    let (mut model, mut theirs) = (fused(&spec), tensors(&spec));
    let text = tokens(80, 1);
    let mut cache = model.cache(128);
    let grow = |model: &mut Transformer, cache: &mut Cache, tokens: &[u32]| {
        tokens
            .iter()
            .map(|token| {
                let tokens = std::slice::from_ref(token);
                step(model, &mut [Piece { tokens, cache, wanted: Wanted::Last, adapter: None }])
            })
            .last()
            .expect("a token")
    };
    let wanted = |theirs: &mut Transformer, count: usize| {
        let mut cache = theirs.cache(128);
        step(theirs, &mut [Piece { tokens: &text[..count], cache: &mut cache, wanted: Wanted::Last, adapter: None }])
    };
    grow(&mut model, &mut cache, &text[..BLOCK + 9]);
    let mut fork = model.cache(128);
    fork.copy_prefix(&cache, BLOCK + 4);
    grow(&mut model, &mut fork, &[9, 8, 7, 6, 5, 4]);
    assert!(
        apart(&grow(&mut model, &mut cache, &text[BLOCK + 9..BLOCK + 12]), &wanted(&mut theirs, BLOCK + 12)) < MOST
    );
    fork.truncate(BLOCK + 4);
    assert!(apart(&grow(&mut model, &mut fork, &text[BLOCK + 4..BLOCK + 6]), &wanted(&mut theirs, BLOCK + 6)) < MOST);
}

/// Three kinds of blocks have kernels for few rows, which read them as what they stand for; others and more rows are candle's, which
/// rounds activations to bytes. Brain floats are multiplied with brain floats above a few rows.
#[test]
fn every_kind_of_numbers_is_computed_as_tensors_compute_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (stored, exact, bf16) = (Numbers::AsStored, Numbers::F32, Numbers::Bf16);
    for (family, kind, [numbers, against], counts, most) in [
        (Family::Llama, GgmlDType::Q4K, [stored, exact], &[1, 2, 3][..], MOST),
        (Family::Qwen2, GgmlDType::Q8_0, [stored, exact], &[1, 2, 3], MOST),
        (Family::Llama, GgmlDType::Q6K, [stored, exact], &[1, 2, 3], MOST),
        (Family::Qwen2, GgmlDType::Q4K, [stored, stored], &[6], 3e-2),
        (Family::Qwen2, GgmlDType::Q5_0, [stored, stored], &[1, 6], 3e-2),
        (Family::Qwen2, GgmlDType::BF16, [bf16, bf16], &[1, 2, 3], MOST),
        (Family::Llama, GgmlDType::BF16, [bf16, bf16], &[6], 2e-2),
    ] {
        let path = folder.path().join("model.gguf");
        language_model(&path, family, kind, false, 0.5, &mut Draw::new(1)).expect("a model");
        let load = |numbers| {
            let config = TensorConfig { device: Device::Cpu, tokens: POOL, numbers };
            Transformer::load_tensors(&Gguf::open(&path).expect("a file"), 256, &config).expect("a model")
        };
        // What is behind the tokens is computed by candle: with the same numbers in both, so that only the tokens differ.
        let (mut ours, mut theirs) = (load(numbers), load(against));
        assert!(ours.fuse(Box::new(Emulated::default())).expect("kernels"));
        let lengths = if numbers == against { &[40, 3, 32, 20, 9, 1][..] } else { &[1, 1, 1] };
        let apart = go_on(&mut ours, &mut theirs, lengths, counts);
        eprintln!("{} {kind:?}: {apart:e}", family.name());
        assert!(apart < most, "{} {kind:?}: {apart}", family.name());
    }
}

/// Rows of one step with adapters of their own and without.
#[test]
fn rows_with_adapters_are_computed_as_tensors_compute_them() {
    let spec = draw::small(Family::Qwen2, false);
    let base = BaseModel::new(&Head::default(), &spec);
    let adapters: Vec<Adapter> = [(16, 1), (4, 2), (64, 3)]
        .map(|(rank, seed)| {
            let (config, numbers) = lora::drawn(&spec, rank, seed).expect("an adapter");
            Adapter::new(&PeftFile::parse(&config, numbers).expect("a file"), &base).expect("an adapter that fits")
        })
        .into();
    let (mut ours, mut theirs) = (fused(&spec), tensors(&spec));
    // The last of three tokens of each, after ten.
    let last = |model: &mut Transformer, with: &[Option<usize>]| {
        let mut caches: Vec<Cache> = with.iter().map(|_| model.cache(64)).collect();
        let mut logits = Vec::new();
        for count in [10, 1, 1] {
            let text = tokens(count, count);
            let pieces = caches.iter_mut().zip(with).map(|(cache, with)| {
                let adapter = with.map(|at| &adapters[at]);
                Piece { tokens: &text, cache, wanted: Wanted::Last, adapter }
            });
            logits = step(model, &mut pieces.collect::<Vec<_>>());
        }
        logits
    };
    let none = last(&mut theirs, &[None]);
    // Alone, few with and without, more than the kernels for few take, and another set.
    for with in
        [&[Some(0)][..], &[Some(2), None, Some(1)], &[None, Some(0), Some(2), Some(0), Some(1), None], &[Some(1)]]
    {
        let (ours, theirs) = (last(&mut ours, with), last(&mut theirs, with));
        let apart_by = apart(&ours, &theirs);
        eprintln!("{with:?}: {apart_by:e}");
        assert!(apart_by < MOST, "{with:?}: {apart_by}");
        for (with, row) in with.iter().zip(theirs.chunks_exact(spec.vocabulary)) {
            assert_eq!(with.is_some(), apart(row, &none) > 20.0 * MOST, "an adapter changes something");
        }
    }
}

/// Few of a row's logits are brought from a card: the same as if all were; also where there are more than there is room for.
#[test]
fn what_is_near_the_best_is_found() {
    let spec = TransformerSpec { vocabulary: 1100, ..spec(4, 2, 32, true) };
    for mut model in [fused(&spec), tensors(&spec)] {
        let mut caches: Vec<Cache> = (0..6).map(|_| model.cache(64)).collect();
        let texts: Vec<Vec<u32>> = (0..6).map(|seed| tokens(20 + seed, seed)).collect();
        for (cache, text) in caches.iter_mut().zip(&texts) {
            step(&mut model, &mut [Piece { tokens: text, cache, wanted: Wanted::Nothing, adapter: None }]);
        }
        // The fourth is not asked for.
        let reaches = [(0.0, 0.0), (0.5, 0.1), (3.0, 0.0), (1e6, 0.0), (f32::INFINITY, 0.0)];
        let reaches = reaches.map(|(span, share)| Reach { span, share });
        let mut next = |model: &mut Transformer, near: bool| {
            let pieces = caches.iter_mut().enumerate().map(|(index, cache)| {
                let wanted = if index == 3 { Wanted::Nothing } else { Wanted::Last };
                Piece { tokens: &[7], cache, wanted, adapter: None }
            });
            let mut pieces: Vec<Piece> = pieces.collect();
            let found: Vec<Near> = if near {
                model.step_near(&mut pieces, &reaches, &mut || true).expect("room").expect("not stopped")
            } else {
                let rows = step(model, &mut pieces);
                rows.chunks_exact(1100).zip(&reaches).map(|(row, reach)| reach.of(row)).collect()
            };
            caches.iter_mut().for_each(|cache| cache.truncate(cache.len() - 1));
            found
        };
        let (near, wanted) = (next(&mut model, true), next(&mut model, false));
        assert_eq!(near, wanted);
        let counts: Vec<usize> = near.iter().map(Vec::len).collect();
        assert_eq!([counts[0], counts[3], counts[4]], [1, 1100, 1100]);
        assert!(1 < counts[1] && counts[1] < counts[2] && counts[2] < 1100, "{counts:?}");
    }
}

/// Kernels that compute something else are found out before anybody hears of it.
#[test]
fn what_computes_something_else_is_not_used() {
    let spec = spec(4, 2, 32, true);
    assert!(!tensors(&spec).fuse(Box::new(Emulated { spoilt: true })).expect("kernels"));
    // Rows that cannot be read sixteen bytes at a time.
    let odd = TransformerSpec { feed_forward: 132, ..spec };
    assert!(!tensors(&odd).fuse(Box::new(Emulated::default())).expect("kernels"));
}

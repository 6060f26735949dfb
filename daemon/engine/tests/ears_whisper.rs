//! Whisper from every kind of file, of every size, and with the decoder of a card: against tiny.en as OpenAI has published it.

mod whisper_support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use callbox_engine::models::whisper::{Dims, Hearing, Pace, RATE, TranscribeError, Unhurried, Whisper, bucket};
use callbox_engine::weights::tensors::{Tensors, parse};
use callbox_wire::Language;
use candle_core::Device;
use proptest::prelude::*;
use safetensors::Dtype;
use whisper_support::*;

static WHISPER: LazyLock<Whisper> = LazyLock::new(|| Whisper::open(&tiny_en(), &Device::Cpu, 1).expect("a whisper"));
static TENSORS: LazyLock<Whisper> =
    LazyLock::new(|| Whisper::open_tensors(&tiny_en(), &Device::Cpu).expect("a whisper"));
static MODEL: LazyLock<Model> = LazyLock::new(|| read(&tiny_en()));

fn open(name: &str, bytes: &[u8]) -> Result<Whisper, String> {
    Whisper::open(Kept::new(name, bytes).path(), &Device::Cpu, 1).map_err(|error| error.to_string())
}

#[test]
fn other_files_with_the_same_numbers_are_the_same_model() {
    for bytes in [safetensors(&MODEL, Dtype::F32), safetensors(&MODEL, Dtype::F16), ggml(&MODEL, Ggml::F16)] {
        let other = open("model", &bytes).expect("a whisper");
        assert_eq!(other.dims(), WHISPER.dims());
        for fact in facts() {
            let samples = wav(&fact.name);
            assert_eq!(hear(&other, &samples), hear(&WHISPER, &samples));
        }
    }
}

#[test]
fn rounded_files_hear_the_same_words() {
    let bf16 = ("bf16", safetensors(&MODEL, Dtype::BF16));
    let shrunk = [Ggml::Q8_0, Ggml::Q5_1, Ggml::Q5_0].map(|kind| ("ggml", ggml(&MODEL, kind)));
    for (name, bytes) in shrunk.into_iter().chain([bf16]) {
        let other = open(name, &bytes).expect("a whisper");
        for fact in facts() {
            let hearing = hear(&other, &wav(&fact.name));
            assert_eq!((words(&hearing.text), hearing.declined), (words(&fact.text), None), "{name} {}", bytes.len());
        }
    }
}

#[test]
fn blocks_are_near_to_what_they_were_made_of() {
    let name = "encoder.blocks.1.mlp.0.weight";
    let (shape, numbers) = &MODEL[name];
    for (kind, steps) in [(Ggml::Q8_0, 254.0), (Ggml::Q5_1, 31.0), (Ggml::Q5_0, 31.0)] {
        let read = Tensors::from_bytes(ggml(&MODEL, kind)).expect("a file").read(name, shape).expect("there");
        for (read, wanted) in read.as_chunks::<32>().0.iter().zip(numbers.as_chunks::<32>().0) {
            let peak = wanted.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
            let near = |(read, wanted): (&f32, &f32)| (read - wanted).abs() < 1.1 * 2.0 * peak / steps;
            assert!(read.iter().zip(wanted).all(near), "{kind:?}: {read:?} {wanted:?}");
        }
    }
}

#[test]
fn what_is_no_whisper_is_told_in_one_sentence() {
    let whole = ggml(&MODEL, Ggml::Q5_1);
    let other = |at: usize, value: u32| [&whole[..at], &value.to_le_bytes(), &whole[at + 4..]].concat();
    // Behind magic, sizes, filters and a vocabulary of seven letters lies the first tensor: dimensions, name, type.
    let tensor = 4 + 44 + 8 + 4 * 80 * 201 + 4 + 3 * 4 + 7;
    let mut strange: Model = MODEL.clone();
    strange.get_mut("decoder.token_embedding.weight").expect("there").0 = vec![51_863, 384];
    strange.get_mut("decoder.token_embedding.weight").expect("there").1.truncate(51_863 * 384);
    for (bytes, want) in [
        (b"GGUF\x03\0\0\0 and so on".to_vec(), "it is neither PyTorch's zip nor safetensors nor whisper.cpp's ggml"),
        (Vec::new(), "it is neither PyTorch's zip"),
        (whole[..whole.len() - 1].to_vec(), "the ggml file is cut short"),
        (whole[..9000].to_vec(), "the ggml file is cut short"),
        (other(4, 7), "it is a ggml file, and not a Whisper's"),
        (other(tensor, 0), "has no shape"),
        (other(tensor + 8, 99), "it is quantised in a way that is not known"),
        (safetensors(&strange, Dtype::F16), "no Whisper has 51863 tokens"),
        (
            safetensors(&BTreeMap::from([("x".into(), (vec![1], vec![0.0]))]), Dtype::F32),
            "no tensor is called model.encoder",
        ),
    ] {
        let Err(error) = open("model", &bytes) else { panic!("a whisper: {want}") };
        assert!(error.contains(want) && !error.contains('\n'), "{want}: {error}");
    }
}

/// A ggml file of a few hundred bytes.
fn small() -> Vec<u8> {
    let mut out = b"lmgg".to_vec();
    [51_864_u32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend([0; 8]);
    out.extend(1_u32.to_le_bytes());
    out.extend([2, 0, 0, 0, b'a', b'b']);
    for (kind, row, bytes) in [(0_u32, 2_u32, 16), (8, 32, 68)] {
        [2, 1, kind, row, 2].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.push(b'0' + kind as u8);
        out.extend(vec![1; bytes]);
    }
    out
}

#[test]
fn a_ggml_file_that_is_cut_is_an_error() {
    let bytes = small();
    assert_eq!(parse(&bytes).expect("whole").len(), 2);
    // Cut between two tensors it is a file with fewer of them, as whisper.cpp reads it, too.
    let between = (0..bytes.len()).filter(|&len| parse(&bytes[..len]).is_ok()).count();
    assert_eq!(between, 2);
}

proptest! {
    #[test]
    fn changed_ggml_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small();
        for (at, byte) in changes {
            let at = at.index(bytes.len() - 8) + 8;
            bytes[at] = byte;
        }
        if let Ok(tensors) = Tensors::from_bytes(bytes) {
            for name in tensors.names() {
                let shape = tensors.shape(name).expect("listed").to_vec();
                let count: usize = shape.iter().product();
                prop_assert_eq!(tensors.read(name, &shape).expect("inside the file").len(), count);
            }
        }
    }

    #[test]
    fn no_ggml_bytes_panic(head in prop::collection::vec(any::<u8>(), 0..60), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse(&[b"lmgg".as_slice(), &head].concat()).is_err());
        let plain = small()[..80].to_vec();
        if let Ok(entries) = parse(&[plain, bytes].concat()) {
            prop_assert!(entries.len() <= 1);
        }
    }
}

fn english<'a>(sounds: &[&'a [f32]]) -> Vec<(&'a [f32], Language)> {
    sounds.iter().map(|sound| (*sound, Language::ENGLISH)).collect()
}

/// How far apart two hearings are in what they believe of themselves.
fn apart(one: &Hearing, other: &Hearing) -> f32 {
    assert_eq!((words(&one.text), one.declined), (words(&other.text), other.declined));
    (one.mean_logprob - other.mean_logprob).abs().max((one.no_speech - other.no_speech).abs())
}

/// The processor's has its weights as bytes, and may hear another full stop.
#[test]
fn the_decoder_of_a_card_hears_what_the_processors_hears() {
    for fact in facts() {
        let samples = wav(&fact.name);
        let (ours, processors) = (hear(&TENSORS, &samples), hear(&WHISPER, &samples));
        assert!(apart(&ours, &processors) < 0.05, "{ours:?} {processors:?}");
    }
    for sound in [vec![0.0; 2 * RATE], noise(3 * RATE, 0.003), noise(2 * RATE, 0.3), Vec::new()] {
        let hearing = hear(&TENSORS, &sound);
        assert!(hearing.declined.is_some() && hearing.text.is_empty(), "{hearing:?}");
    }
    let long = vec![0.0; WHISPER.window() + 1];
    assert!(matches!(TENSORS.transcribe(&long, &mut Unhurried), Err(TranscribeError::TooLong(..))));
}

/// Of any lengths, some of them twice, some of them nothing: in f32, so but for the order of sums.
#[test]
fn each_of_a_batch_is_heard_as_if_it_were_alone() {
    let prompts: Vec<Vec<f32>> = facts().iter().map(|fact| wav(&fact.name)).collect();
    let whole = prompts.concat();
    let sounds = [
        prompts.clone(),
        vec![vec![0.0; RATE], whole[..7 * RATE].to_vec(), prompts[2].clone(), noise(RATE, 0.1), Vec::new()],
    ]
    .concat();
    let sounds: Vec<&[f32]> = sounds.iter().map(Vec::as_slice).collect();
    let together =
        TENSORS.transcribe_all(&english(&sounds), &mut Unhurried).expect("they fit").expect("nobody cancels");
    assert_eq!(together.len(), sounds.len());
    for (sound, together) in sounds.iter().zip(&together) {
        let alone = hear(&TENSORS, sound);
        assert_eq!((&together.text, together.tokens), (&alone.text, alone.tokens));
        assert!(apart(together, &alone) < 1e-4, "{together:?} {alone:?}");
    }
    assert_eq!(TENSORS.transcribe_all(&[], &mut Unhurried).expect("nothing"), Some(Vec::new()));
}

#[test]
fn a_batch_that_nobody_wants_ends_between_steps() {
    struct After(usize);
    impl Pace for After {
        fn between(&mut self) -> ControlFlow<()> {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let samples = wav("pbx-invalidpark");
    for steps in [1, 3, 5, 6, 10] {
        let heard = TENSORS.transcribe_all(&english(&[&samples, &samples[..RATE]]), &mut After(steps));
        assert!(heard.expect("they fit").is_none(), "after {steps} steps");
    }
}

#[test]
fn the_longer_utterances_are_the_fewer_are_taken_together() {
    let lengths = [0, RATE, 2 * RATE, 2 * RATE + 1, 5 * RATE, 10 * RATE, 30 * RATE];
    assert_eq!(lengths.map(bucket), [0, 0, 0, 1, 1, 2, 3]);
    assert_eq!(lengths.map(|samples| TENSORS.batch(samples)), [16, 16, 16, 16, 16, 8, 4]);
    assert_eq!(lengths.map(|samples| WHISPER.batch(samples)), [1; 7]);
}

/// A Whisper of these sizes that has learned nothing.
fn unlearned(dims: Dims) -> Model {
    let width = dims.width;
    let mut model = Model::new();
    let mut seed = 0;
    let mut put = |name: String, shape: &[usize]| {
        seed += 1;
        let count = shape.iter().product();
        let numbers = match name.as_str() {
            norm if norm.ends_with("ln.weight") || norm.ends_with("ln_post.weight") => vec![1.0; count],
            // Beginning elsewhere, so that no two are alike.
            _ => noise(count + seed, 0.08).split_off(seed),
        };
        model.insert(name, (shape.to_vec(), numbers));
    };
    put("encoder.conv1.weight".into(), &[width, dims.mels, 3]);
    put("encoder.conv2.weight".into(), &[width, width, 3]);
    put("encoder.positional_embedding".into(), &[dims.audio_ctx, width]);
    put("decoder.positional_embedding".into(), &[dims.text_ctx, width]);
    put("decoder.token_embedding.weight".into(), &[dims.vocab, width]);
    for name in ["encoder.conv1.bias", "encoder.conv2.bias"] {
        put(name.into(), &[width]);
    }
    for part in ["weight", "bias"] {
        put(format!("encoder.ln_post.{part}"), &[width]);
        put(format!("decoder.ln.{part}"), &[width]);
    }
    for (half, layers) in [("encoder", dims.audio_layers), ("decoder", dims.text_layers)] {
        for layer in 0..layers {
            let parts: &[&str] = if half == "encoder" { &["attn"] } else { &["attn", "cross_attn"] };
            let name = |part: &str| format!("{half}.blocks.{layer}.{part}");
            for part in parts {
                for matrix in ["query", "key", "value", "out"] {
                    put(name(&format!("{part}.{matrix}.weight")), &[width, width]);
                    if matrix != "key" {
                        put(name(&format!("{part}.{matrix}.bias")), &[width]);
                    }
                }
            }
            put(name("mlp.0.weight"), &[4 * width, width]);
            put(name("mlp.0.bias"), &[4 * width]);
            put(name("mlp.2.weight"), &[width, 4 * width]);
            put(name("mlp.2.bias"), &[width]);
            for norm in parts.iter().map(|part| format!("{part}_ln")).chain(["mlp_ln".into()]) {
                put(name(&format!("{norm}.weight")), &[width]);
                put(name(&format!("{norm}.bias")), &[width]);
            }
        }
    }
    model
}

/// No weights of theirs are at hand, so these have learned nothing: that sizes are read and every shape fits.
#[test]
fn other_sizes_and_the_vocabulary_of_many_languages_are_computed() {
    let base =
        Dims { mels: 80, audio_ctx: 1500, width: 512, audio_layers: 2, text_ctx: 448, text_layers: 6, vocab: 51_865 };
    let turbo = Dims { mels: 128, width: 1280, audio_layers: 1, text_layers: 1, vocab: 51_866, ..base };
    for (dims, quantised) in [(base, true), (turbo, false)] {
        let model = unlearned(dims);
        let bytes = if quantised { ggml(&model, Ggml::Q8_0) } else { safetensors(&model, Dtype::F16) };
        drop(model);
        let kept = Kept::new("model", &bytes);
        drop(bytes);
        let kernels = Whisper::open(kept.path(), &Device::Cpu, 1).expect("a whisper");
        assert_eq!(kernels.dims(), dims);
        let samples = &wav("vm-toenternumber")[..RATE];
        let heard = hear(&kernels, samples);
        drop(kernels);
        let tensors = Whisper::open_tensors(kept.path(), &Device::Cpu).expect("a whisper");
        let other = hear(&tensors, samples);
        let layers = tensors.layers(samples).expect("it fits");
        assert_eq!((layers.len(), layers[0].dims()), (dims.audio_layers + 2, &[50, dims.width][..]));
        eprintln!("{heard:?}\n{other:?}");
        // All tokens are about as probable, so which is chosen is rounding.
        assert!((heard.no_speech / other.no_speech).ln().abs() < 0.05, "{heard:?} {other:?}");
    }
}

/// What the decoder is fed first is in `tokens.rs`; here, that each of a batch is fed its own.
#[test]
fn each_of_a_batch_is_told_its_own_language() {
    let dims =
        Dims { mels: 80, audio_ctx: 200, width: 64, audio_layers: 2, text_ctx: 64, text_layers: 2, vocab: 51_865 };
    let kept = Kept::new("model", &safetensors(&unlearned(dims), Dtype::F32));
    let samples = &wav("vm-toenternumber")[..RATE];
    let [spanish, hindi, last] = ["es", "hi", "yue"].map(|code| code.parse::<Language>().expect("a language"));
    let open = |tensors| match tensors {
        true => Whisper::open_tensors(kept.path(), &Device::Cpu).expect("a whisper"),
        false => Whisper::open(kept.path(), &Device::Cpu, 1).expect("a whisper"),
    };
    for whisper in [open(true), open(false)] {
        let hear = |of: &[(&[f32], Language)]| {
            whisper.transcribe_all(of, &mut Unhurried).expect("they fit").expect("nobody cancels")
        };
        let of = [Language::ENGLISH, spanish, hindi, Language::ENGLISH].map(|language| (samples, language));
        let together = hear(&of);
        for (one, together) in of.iter().zip(&together) {
            let alone = &hear(&[*one])[0];
            assert!((alone.mean_logprob - together.mean_logprob).abs() < 1e-4, "{alone:?} {together:?}");
            assert!((alone.no_speech - together.no_speech).abs() < 1e-6, "what is before the language");
        }
        let likely: Vec<f32> = together.iter().map(|hearing| hearing.mean_logprob).collect();
        assert_ne!((likely[0], likely[1]), (likely[1], likely[2]));
        assert!((likely[0] - likely[3]).abs() < 1e-6, "{likely:?}");
        let unknown = whisper.transcribe_all(&[of[0], (samples, last)], &mut Unhurried);
        assert!(matches!(unknown, Err(TranscribeError::Unknown(language)) if language == last));
    }
    assert!(!WHISPER.knows(spanish) && WHISPER.knows(Language::ENGLISH));
}

/// On tensors, blocks are computed with as they are; what that changes is how candle rounds what they are multiplied with.
#[test]
fn a_card_computes_with_blocks_as_they_are() {
    for kind in [Ggml::Q8_0, Ggml::Q5_1, Ggml::Q5_0] {
        let kept = Kept::new("ggml.bin", &ggml(&MODEL, kind));
        let blocks = Whisper::open_tensors(kept.path(), &Device::Cpu).expect("a whisper");
        let widened = Kept::new("model.safetensors", &safetensors(&read(kept.path()), Dtype::F32));
        let widened = Whisper::open_tensors(widened.path(), &Device::Cpu).expect("a whisper");
        let mut same = true;
        for fact in facts() {
            let samples = wav(&fact.name);
            let [ours, theirs] = [&blocks, &widened].map(|whisper| {
                let layers = whisper.layers(&samples).expect("it fits");
                layers.last().expect("layers").flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("numbers")
            });
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(&ours, &theirs) / (dot(&ours, &ours) * dot(&theirs, &theirs)).sqrt();
            same &= ours == theirs;
            let [ours, theirs] = [&blocks, &widened].map(|whisper| hear(whisper, &samples));
            println!("{kind:?} {}: cosine {cosine:.6}, {} {}", fact.name, ours.mean_logprob, theirs.mean_logprob);
            assert!(cosine > 0.999, "{kind:?} {}: {cosine}", fact.name);
            assert!(apart(&ours, &theirs) < 0.05, "{kind:?}: {ours:?} {theirs:?}");
        }
        assert!(!same, "{kind:?} was brought back to floats");
    }
}

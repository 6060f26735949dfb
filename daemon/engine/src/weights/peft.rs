//! Reads an adapter as PEFT saves it: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! Enters: a folder. Leaves: rank, scale, and thin matrices by layer and module, as they were trained. Never here: a model
//! that they might fit, or a part of an adapter without the rest: what is not understood refuses the whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tensors::Tensors;

/// The file that says how an adapter was made.
pub const CONFIG: &str = "adapter_config.json";
/// The file that holds its numbers.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Ranks that are taken.
pub const RANKS: std::ops::RangeInclusive<usize> = 4..=64;

/// Bytes of a configuration at most.
const MOST_CONFIG: u64 = 1 << 20;
/// Bytes of weights at most: rank 64 on every matrix of a model of 14 thousand million parameters, in half precision.
const MOST_WEIGHTS: u64 = 1 << 30;
/// What PEFT writes before the module's own name.
const PREFIX: &str = "base_model.model.model.layers.";

/// The modules of a layer that can be adapted, as transformers calls them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Module {
    /// `self_attn.q_proj`
    Query,
    /// `self_attn.k_proj`
    Key,
    /// `self_attn.v_proj`
    Value,
    /// `self_attn.o_proj`
    Output,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Module {
    /// All of them, in the order of a forward pass.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

/// What is read of `adapter_config.json`; keys that only say how the adapter was trained are passed over.
#[derive(Deserialize, Debug)]
struct Config {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Keys that change what is computed, and what they stand for. Empty, absent or false: not used.
const REFUSED: [(&str, &str); 15] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("modules_to_save", "modules_to_save"),
    ("rank_pattern", "a rank of its own for some layers (rank_pattern)"),
    ("alpha_pattern", "an alpha of its own for some layers (alpha_pattern)"),
    ("fan_in_fan_out", "transposed weights (fan_in_fan_out)"),
    ("lora_bias", "a bias (lora_bias)"),
    ("trainable_token_indices", "trained tokens (trainable_token_indices)"),
    ("layer_replication", "repeated layers (layer_replication)"),
    ("target_parameters", "adapted parameters (target_parameters)"),
    ("alora_invocation_tokens", "activated LoRA (alora_invocation_tokens)"),
    ("arrow_config", "routing between adapters (arrow_config)"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
];

/// Ways to begin a training that change the base model, so that the file alone fits no model that anybody else has.
const CHANGES_BASE: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

fn is_used(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

impl Config {
    /// # Errors
    /// If a part of it is not supported; one sentence.
    fn check(&self) -> Result<()> {
        ensure!(self.peft_type == "LORA", "adapters of the type {:?} are not supported: LORA is", self.peft_type);
        let (least, most) = (RANKS.start(), RANKS.end());
        ensure!(RANKS.contains(&self.r), "a rank of {} is not supported: {least} to {most} are", self.r);
        for (key, what) in REFUSED {
            ensure!(!self.rest.get(key).is_some_and(is_used), "{what} is not supported: train without it");
        }
        let bias = self.bias.as_deref().unwrap_or("none");
        ensure!(bias == "none", "trained biases (bias = {bias:?}) are not supported: train without them");
        if let Some(Value::String(way)) = &self.init_lora_weights {
            let changes = CHANGES_BASE.iter().any(|known| way.to_lowercase().starts_with(known));
            ensure!(
                !changes,
                "an adapter begun with {way:?} changes the base model too: convert it to plain LoRA first"
            );
        }
        let scale = self.scale();
        ensure!(scale.is_finite() && scale.abs() < 1e4, "lora_alpha = {} is impossible", self.lora_alpha);
        Ok(())
    }

    fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora == Some(true) { rank.sqrt() } else { rank }
    }
}

/// The two matrices of one module: B (A x) is added to what the module computes.
#[derive(PartialEq, Debug)]
pub struct Pair {
    /// `[rank][inputs]`
    pub a: Vec<f32>,
    /// `[outputs][rank]`
    pub b: Vec<f32>,
}

/// An adapter's two files.
#[derive(Debug)]
pub struct PeftFile {
    config: Config,
    sha256: [u8; 32],
    tensors: Tensors,
    /// Layer and module of every pair.
    pairs: BTreeSet<(usize, Module)>,
}

impl PeftFile {
    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing, too large or damaged, or the adapter uses what is not supported; one sentence.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = read(&folder.join(CONFIG), MOST_CONFIG)?;
        let weights = read(&folder.join(WEIGHTS), MOST_WEIGHTS)?;
        Self::parse(&config, weights)
    }

    /// Reads the contents of both files.
    ///
    /// # Errors
    /// As [`PeftFile::open`].
    pub fn parse(config: &[u8], weights: Vec<u8>) -> Result<Self> {
        let mut digest = Sha256::new();
        digest.update(config);
        digest.update(&weights);
        let sha256 = digest.finalize().into();
        let config: Config = serde_json::from_slice(config).with_context(|| format!("{CONFIG} cannot be read"))?;
        config.check()?;
        let tensors = Tensors::from_bytes(weights).with_context(|| format!("{WEIGHTS} cannot be read"))?;
        let mut halves = BTreeSet::new();
        for name in tensors.names() {
            let place = place(name).with_context(|| format!("the tensor {name:?} is not supported"))?;
            ensure!(halves.insert(place), "the tensor {name:?} is there twice");
        }
        let pairs: BTreeSet<_> = halves.iter().map(|(layer, module, _)| (*layer, *module)).collect();
        ensure!(!pairs.is_empty(), "it adapts nothing");
        let lonely = pairs
            .iter()
            .find(|(layer, module)| !['A', 'B'].iter().all(|half| halves.contains(&(*layer, *module, *half))));
        if let Some((layer, module)) = lonely {
            bail!("of {} in layer {layer} only one half is there", module.name());
        }
        Ok(Self { config, sha256, tensors, pairs })
    }

    /// The rank of every pair.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.config.r
    }

    /// What B (A x) is multiplied with: alpha over the rank, or over its root (rsLoRA, arXiv 2312.03732).
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.config.scale() as f32
    }

    /// The model that it was trained on, as it says itself.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.config.base_model_name_or_path.as_deref().filter(|name| !name.is_empty())
    }

    /// SHA-256 of both files, the configuration first, one after the other.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Which modules of which layers it adapts, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, Module)> {
        self.pairs.iter().copied()
    }

    /// The matrices of a module that maps `inputs` to `outputs` values.
    ///
    /// # Errors
    /// If they are not there, are of other sizes, or hold what is no number.
    pub fn pair(&self, layer: usize, module: Module, inputs: usize, outputs: usize) -> Result<Pair> {
        let rank = self.config.r;
        let read = |half: char, shape: [usize; 2]| -> Result<Vec<f32>> {
            let name = format!("{PREFIX}{layer}.{}.lora_{half}.weight", module.name());
            let found = self.tensors.shape(&name)?;
            ensure!(
                found == shape,
                "it was made for another model: lora_{half} of {} in layer {layer} is {}, and {} × {} fits here",
                module.name(),
                found.iter().map(usize::to_string).collect::<Vec<_>>().join(" × "),
                shape[0],
                shape[1],
            );
            let values = self.tensors.read(&name, &shape)?;
            ensure!(values.iter().all(|value| value.is_finite()), "the tensor {name:?} holds what is no number");
            Ok(values)
        };
        Ok(Pair { a: read('A', [rank, inputs])?, b: read('B', [outputs, rank])? })
    }
}

/// Layer, module and half of a tensor.
fn place(name: &str) -> Option<(usize, Module, char)> {
    let (layer, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
    let (module, half) = rest.strip_suffix(".weight")?.rsplit_once(".lora_")?;
    let module = Module::ALL.into_iter().find(|known| known.name() == module)?;
    let half = match half {
        "A" => 'A',
        "B" => 'B',
        _ => return None,
    };
    // Only as it is written by a program: 07 would be a second name of 7.
    let number: usize = layer.parse().ok()?;
    (number.to_string() == layer).then_some((number, module, half))
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("{shown} cannot be read"))?;
    ensure!(bytes.len() as u64 <= most, "{shown} is larger than {most} bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn config(change: &[(&str, Value)]) -> Vec<u8> {
        let mut config = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": false, "modules_to_save": null,
            "rank_pattern": {}, "init_lora_weights": true, "target_modules": ["q_proj"], "lora_dropout": 0.05,
            "base_model_name_or_path": "org/model",
        });
        for (key, value) in change {
            config[*key] = value.clone();
        }
        config.to_string().into_bytes()
    }

    /// Tensors of f32 that hold 0, 1, 2 and so on.
    fn weights(tensors: &[(&str, [usize; 2])]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut head = serde_json::Map::new();
        for (name, [rows, cols]) in tensors {
            let from = data.len();
            data.extend((0..rows * cols).flat_map(|value| (value as f32).to_le_bytes()));
            head.insert(
                (*name).to_owned(),
                json!({"dtype": "F32", "shape": [rows, cols], "data_offsets": [from, data.len()]}),
            );
        }
        let head = Value::Object(head).to_string().into_bytes();
        [&(head.len() as u64).to_le_bytes()[..], &head, &data].concat()
    }

    const A: &str = "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight";
    const B: &str = "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight";

    fn good() -> Vec<u8> {
        weights(&[(A, [4, 16]), (B, [32, 4])])
    }

    fn refusal(config: &[u8], weights: Vec<u8>) -> String {
        format!("{:#}", PeftFile::parse(config, weights).expect_err("refused"))
    }

    #[test]
    fn an_adapter_says_its_places_its_scale_and_its_hash() {
        let file = PeftFile::parse(&config(&[]), good()).expect("an adapter");
        assert_eq!(file.pairs().collect::<Vec<_>>(), [(3, Module::Query)]);
        assert_eq!((file.rank(), file.scale(), file.base()), (4, 2.0, Some("org/model")));
        let both = [config(&[]), good()].concat();
        assert_eq!(file.sha256()[..], Sha256::digest(both)[..]);
        let pair = file.pair(3, Module::Query, 16, 32).expect("both halves");
        assert_eq!((pair.a.len(), pair.b[127]), (64, 127.0));
        let rooted = PeftFile::parse(&config(&[("use_rslora", json!(true))]), good()).expect("an adapter");
        assert_eq!(rooted.scale(), 4.0);
        let error = file.pair(3, Module::Query, 16, 48).expect_err("other sizes").to_string();
        assert!(error.contains("lora_B") && error.contains("32 × 4") && error.contains("48 × 4"), "{error}");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, word) in [
            ("peft_type", json!("IA3"), "IA3"),
            ("r", json!(3), "rank of 3"),
            ("r", json!(65), "rank of 65"),
            ("use_dora", json!(true), "DoRA"),
            ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
            ("bias", json!("lora_only"), "lora_only"),
            ("lora_bias", json!(true), "lora_bias"),
            ("rank_pattern", json!({"q_proj": 8}), "rank_pattern"),
            ("alpha_pattern", json!({"q_proj": 8}), "alpha_pattern"),
            ("fan_in_fan_out", json!(true), "fan_in_fan_out"),
            ("trainable_token_indices", json!([1]), "trainable_token_indices"),
            ("init_lora_weights", json!("pissa_niter_4"), "pissa_niter_4"),
            ("lora_alpha", json!(1e300), "lora_alpha"),
        ] {
            let why = refusal(&config(&[(key, value)]), good());
            assert!(why.contains(word) && !why.contains('\n'), "{key}: {why}");
        }
    }

    #[test]
    fn tensors_that_are_elsewhere_or_alone_are_refused() {
        for (tensors, word) in [
            (vec![(A, [4, 16])], "only one half"),
            (vec![], "nothing"),
            (vec![(A, [4, 16]), (B, [32, 4]), ("base_model.model.lm_head.lora_A.weight", [4, 16])], "lm_head"),
            (vec![("base_model.model.model.layers.03.self_attn.q_proj.lora_A.weight", [4, 16])], "layers.03"),
            (
                vec![("base_model.model.model.layers.3.self_attn.q_proj.lora_magnitude_vector.weight", [4, 1])],
                "magnitude",
            ),
        ] {
            let why = refusal(&config(&[]), weights(&tensors));
            assert!(why.contains(word), "{why}");
        }
        assert!(refusal(b"{", good()).contains(CONFIG));
        assert!(refusal(&config(&[]), good()[..40].to_vec()).contains(WEIGHTS));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                          cut in any::<prop::sample::Index>()) {
            let mut bytes = good();
            for (index, value) in flips {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(file) = PeftFile::parse(&config(&[]), bytes) {
                for (layer, module) in file.pairs() {
                    drop(file.pair(layer, module, 16, 32));
                }
            }
        }
    }
}

//! An adapter on every matrix of a model, its numbers drawn. Enters: sizes, a rank, a seed; leaves: the two files that PEFT
//! writes.

use anyhow::Result;
use callbox_engine::models::transformer::TransformerSpec;
use callbox_engine::weights::peft::Module;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

pub(crate) fn drawn(spec: &TransformerSpec, rank: usize, seed: u32) -> Result<(Vec<u8>, Vec<u8>)> {
    let config = serde_json::json!({ "peft_type": "LORA", "r": rank, "lora_alpha": rank });
    let (hidden, ff) = (spec.hidden, spec.feed_forward);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let sizes = |module: Module| match module {
        Module::Query => (hidden, q),
        Module::Key | Module::Value => (hidden, kv),
        Module::Output => (q, hidden),
        Module::Gate | Module::Up => (hidden, ff),
        Module::Down => (ff, hidden),
    };
    let mut state = seed;
    let mut numbers = |count: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // In half precision: either sign, 0.008 to 0.016.
            (0x2000 | (state >> 16) as u16 & 0x83ff).to_le_bytes()
        };
        (0..count).flat_map(|_| next()).collect()
    };
    let mut tensors = Vec::new();
    for layer in 0..spec.layers {
        for module in Module::ALL {
            let (inputs, outputs) = sizes(module);
            for (half, shape) in [('A', vec![rank, inputs]), ('B', vec![outputs, rank])] {
                let name = format!("base_model.model.model.layers.{layer}.{}.lora_{half}.weight", module.name());
                tensors.push((name, numbers(shape.iter().product()), shape));
            }
        }
    }
    let views = tensors.iter().map(|(name, data, shape)| Ok((name, TensorView::new(Dtype::F16, shape.clone(), data)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    Ok((serde_json::to_vec(&config)?, serialize(views, None)?))
}

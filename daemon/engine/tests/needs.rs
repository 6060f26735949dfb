//! What models are said to need of a card, against what their files say.

mod mind_support;

use std::fs;
use std::path::Path;

use callbox_engine::needs;

/// By `tiny`'s published sizes: 30 layers, 3 key-value heads of 64.
#[test]
fn what_the_mind_needs_follows_from_the_head_of_its_file() {
    let model = mind_support::model(mind_support::SMOLLM);
    let need = needs::mind(&model, 8, 2048).expect("a model");
    assert_eq!(need.token, 2 * 30 * 3 * 64 * 2);
    let file = fs::metadata(&model).expect("a file").len();
    // With buffers for 64 rows.
    assert!((file / 10 * 9..file + (16 << 20)).contains(&need.weights), "{} of {file}", need.weights);
    assert_eq!(needs::mind(&model, 16, 2048).expect("a model").work, 2 * need.work);
    assert!(needs::mind(Path::new("/nonexistent"), 8, 2048).is_err());
}

#[test]
fn the_ears_and_the_embedder_become_floats() {
    let ears = needs::ears(&mind_support::model("whisper-tiny.en/tiny.en.pt")).expect("weights");
    assert!((4 * 37_000_000..4 * 40_000_000).contains(&ears.weights), "39 million parameters: {}", ears.weights);
    assert_eq!(ears.languages, 1);
    let embed = needs::embed(&mind_support::model("minilm-l6-v2/model.safetensors")).expect("weights");
    assert!((4 * 22_000_000..4 * 23_000_000).contains(&embed.weights), "23 million parameters: {}", embed.weights);
    assert!(needs::embed(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_piper_voice_needs_nothing_of_a_card_and_kokoro_does() {
    let piper = needs::voice(&mind_support::model("piper-joe/en_US-joe-medium.onnx")).expect("a voice");
    assert_eq!((piper.weights, piper.work), (0, 0));
    let kokoro = needs::voice(&mind_support::model("kokoro-82m/af_heart.bin")).expect("a voice");
    assert!((320 << 20..400 << 20).contains(&kokoro.weights), "82 million floats: {}", kokoro.weights);
}

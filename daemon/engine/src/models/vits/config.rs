//! The JSON beside a Piper voice: bytes in; rate, scales and the phoneme table out.

use std::collections::HashMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) audio: Audio,
    pub(super) espeak: Espeak,
    pub(super) inference: Scales,
    #[serde(default = "one")]
    pub(super) num_speakers: u32,
    pub(super) phoneme_id_map: HashMap<String, Vec<usize>>,
}

#[derive(Deserialize)]
pub(super) struct Audio {
    pub(super) sample_rate: u32,
}

#[derive(Deserialize)]
pub(super) struct Espeak {
    pub(super) voice: String,
}

/// How much noise goes into an utterance, and how slowly it is spoken.
#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Scales {
    /// Deviation of the latent frames from their means.
    pub noise_scale: f32,
    /// Above 1 is slower.
    pub length_scale: f32,
    /// Deviation of the durations.
    pub noise_w: f32,
}

fn one() -> u32 {
    1
}

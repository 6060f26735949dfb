//! Which heads of the decoder look at the sound that they write about.
//!
//! Enters: the sizes of a model. Leaves: for each layer of the decoder a set of heads. Source: openai-whisper's
//! `_ALIGNMENT_HEADS` (`whisper/__init__.py`), found by how well they follow the times of words; a model that has none there
//! gets what `whisper/model.py` gives it, all heads of the upper half of the layers.

use super::checkpoint::Dims;

/// Heads of one layer, a bit for each.
pub(super) type Heads = u64;

/// Layers of the decoder, width, tokens; then each head as a hundred times its layer and its number. Not here: tiny.en, with
/// which the upper half was measured (`guard`); large-v1 and large-v2, which only their heads would tell apart.
const PUBLISHED: [(usize, usize, usize, &[usize]); 9] = [
    (4, 384, 51_865, &[202, 300, 302, 303, 304, 305]),
    (6, 512, 51_864, &[303, 407, 501, 505, 507]),
    (6, 512, 51_865, &[301, 402, 403, 407, 501, 502, 504, 506]),
    (
        12,
        768,
        51_864,
        &[606, 700, 703, 708, 802, 805, 807, 900, 904, 908, 910, 1000, 1001, 1002, 1003, 1006, 1011, 1102, 1104],
    ),
    (12, 768, 51_865, &[503, 509, 800, 804, 807, 808, 900, 907, 909, 1005]),
    (
        24,
        1024,
        51_864,
        &[1104, 1401, 1412, 1414, 1504, 1600, 1604, 1609, 1712, 1714, 1807, 1810, 1815, 2000, 2003, 2009, 2014, 2112],
    ),
    (24, 1024, 51_865, &[1315, 1504, 1515, 1601, 2000, 2304]),
    (32, 1280, 51_866, &[700, 1017, 1218, 1312, 1601, 1714, 1911, 2104, 2401, 2506]),
    (4, 1280, 51_866, &[204, 211, 303, 306, 311, 314]),
];

/// The heads of each layer.
pub(super) fn heads(dims: &Dims) -> Vec<Heads> {
    let all = Heads::MAX >> (Heads::BITS as usize - dims.heads().min(Heads::BITS as usize));
    let sizes = (dims.text_layers, dims.width, dims.vocab);
    let published = PUBLISHED.iter().find(|(layers, width, vocab, _)| (*layers, *width, *vocab) == sizes);
    let of_layer = |layer: usize| match published {
        Some((.., named)) => named.iter().filter(|n| **n / 100 == layer).fold(0, |heads, n| heads | 1 << (n % 100)),
        None if 2 * layer < dims.text_layers => 0,
        None => all,
    };
    (0..dims.text_layers).map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(text_layers: usize, width: usize, vocab: usize) -> Dims {
        Dims { mels: 80, audio_ctx: 1500, width, audio_layers: text_layers, text_ctx: 448, text_layers, vocab }
    }

    #[test]
    fn every_head_that_is_named_exists() {
        for (layers, width, vocab, named) in PUBLISHED {
            let dims = dims(layers, width, vocab);
            assert!(named.iter().all(|n| n / 100 < layers && n % 100 < dims.heads()), "{dims:?}");
            let found = heads(&dims).iter().map(|heads| heads.count_ones()).sum::<u32>();
            assert_eq!(found as usize, named.len(), "{dims:?}");
        }
    }

    #[test]
    fn a_model_without_a_table_has_the_upper_half() {
        assert_eq!(heads(&dims(4, 384, 51_864)), [0, 0, 0x3f, 0x3f]);
        assert_eq!(heads(&dims(2, 1280, 51_866)), [0, 0xf_ffff]);
    }
}

//! What is said when: token ids and a style in; durations, pitch, energy and the text's rows for each frame out.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::albert::Albert;
use super::block::{Block, doubled};
use super::load::{Loaded, Loader, Styled};
use super::lstm::Lstm;
use super::ops::{Affine, Conv, Linear, Valid, masked, normalising_rows, numbers, rows};
use super::{Phrase, STYLE};
use crate::models::layers::Norm;

pub(super) const WIDTH: usize = 512;
const WIDER: usize = WIDTH + STYLE;
/// The most frames that a token lasts at normal speed.
const LONGEST: usize = 50;
const EPSILON: f32 = 1e-5;
const SLOPE: f64 = 0.2;

pub(super) struct Prosody {
    albert: Albert,
    layers: [(Lstm, Styled); 3],
    last: Lstm,
    durations: Linear,
    shared: Lstm,
    pitch: Curve,
    energy: Curve,
    text: Text,
}

struct Curve {
    blocks: [Block; 3],
    out: Conv,
}

/// The text encoder: convolutions, then a memory.
struct Text {
    table: Tensor,
    layers: [(Conv, Norm); 3],
    lstm: Lstm,
}

/// A batch of sentences by tokens.
pub(super) struct Read {
    /// What the curves are made of, `[batch][tokens][channels]`, and what the decoder is given.
    melody: Tensor,
    text: Tensor,
    /// Frames that each token lasts, before rounding.
    pub(super) durations: Vec<Vec<f32>>,
}

/// A batch of sentences by frames.
pub(super) struct Spread {
    pub(super) text: Tensor,
    /// Two values for each frame: Hz, and an energy.
    pub(super) pitch: Vec<Vec<f32>>,
    pub(super) energy: Vec<Vec<f32>>,
}

impl Prosody {
    pub(super) fn load(loader: &Loader) -> Loaded<Self> {
        let layer = |at: usize| -> Loaded<(Lstm, Styled)> {
            let path = |at: usize| format!("/encoder/predictor/text_encoder/lstms.{at}");
            let name = format!("encoder.predictor.text_encoder.lstms.{}", 2 * at + 1);
            Ok((Lstm::load(loader, &path(2 * at), WIDER)?, loader.styled(&path(2 * at + 1), &name, WIDTH)?))
        };
        Ok(Self {
            albert: Albert::load(loader, WIDTH)?,
            layers: [layer(0)?, layer(1)?, layer(2)?],
            last: Lstm::load(loader, "/encoder/predictor/lstm", WIDER)?,
            durations: loader.linear(
                "/encoder/predictor/duration_proj/linear_layer/MatMul",
                "encoder.predictor.duration_proj.linear_layer.bias",
                WIDTH,
                LONGEST,
            )?,
            shared: Lstm::load(loader, "/encoder/shared", WIDER)?,
            pitch: Curve::load(loader, "F0")?,
            energy: Curve::load(loader, "N")?,
            text: Text::load(loader)?,
        })
    }

    pub(super) fn symbols(&self) -> Result<usize> {
        self.albert.symbols()
    }

    /// `tokens` with the pads at both ends, `style`: the half that is about melody.
    pub(super) fn read(&self, tokens: &[Vec<u32>], phrases: &[Phrase], style: &Tensor) -> Result<Read> {
        let valid: Vec<Range<usize>> = tokens.iter().map(|tokens| 0..tokens.len()).collect();
        let len = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let meant = tokens.iter().map(|tokens| self.albert.run(tokens)?.pad_with_zeros(0, 0, len - tokens.len()));
        let mut x = Tensor::stack(&meant.collect::<Result<Vec<_>>>()?, 0)?;
        let manner = style.unsqueeze(1)?.expand((tokens.len(), len, STYLE))?.contiguous()?;
        for (lstm, styled) in &self.layers {
            let y = lstm.run(&masked(&Tensor::cat(&[&x, &manner], 2)?, &valid)?, &valid)?;
            let Affine { scale, shift, .. } = styled.run(style)?;
            x = normalising_rows(&y, EPSILON)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        }
        let melody = masked(&Tensor::cat(&[&x, &manner], 2)?, &valid)?;
        let chances = candle_nn::ops::sigmoid(&self.durations.run(&self.last.run(&melody, &valid)?)?)?;
        let sums = numbers(&chances.sum(2)?)?;
        let durations = phrases.iter().zip(&valid).enumerate().map(|(at, (phrase, valid))| {
            sums[at * len..][..valid.len()].iter().map(|frames| frames / phrase.speed).collect()
        });
        Ok(Read { melody, durations: durations.collect(), text: self.text.run(tokens, len, &valid)? })
    }

    /// Each token as many times as it lasts.
    pub(super) fn spread(&self, read: &Read, durations: &[&[usize]], style: &Tensor) -> Result<Spread> {
        let len = read.text.dim(1)?;
        let totals: Vec<usize> = durations.iter().map(|frames| frames.iter().sum()).collect();
        let most = totals.iter().copied().max().unwrap_or(0);
        let valid: Vec<Range<usize>> = totals.iter().map(|&total| 0..total).collect();
        let indices: Vec<u32> = durations
            .iter()
            .enumerate()
            .flat_map(|(at, frames)| {
                let told = frames.iter().enumerate().flat_map(|(token, &frames)| std::iter::repeat_n(token, frames));
                told.chain(std::iter::repeat(0)).take(most).map(move |token| (at * len + token) as u32)
            })
            .collect();
        let spread = |x: &Tensor| -> Result<Tensor> {
            let channels = x.dim(2)?;
            let frames = rows(&x.reshape(((), channels))?, indices.clone())?;
            masked(&frames.reshape((durations.len(), most, channels))?, &valid)
        };
        let x = self.shared.run(&spread(&read.melody)?, &valid)?;
        Ok(Spread {
            text: spread(&read.text)?,
            pitch: self.pitch.run(&x, style, &valid)?,
            energy: self.energy.run(&x, style, &valid)?,
        })
    }
}

impl Curve {
    fn load(loader: &Loader, which: &str) -> Loaded<Self> {
        let block = |at: usize, shape, double| {
            let (path, name) = (format!("/encoder/{which}.{at}"), format!("encoder.predictor.{which}.{at}"));
            Block::load(loader, (&path, &name), shape, double)
        };
        let half = WIDTH / 2;
        let bias = format!("encoder.predictor.{which}_proj.bias");
        Ok(Self {
            blocks: [block(0, (WIDTH, WIDTH), false)?, block(1, (WIDTH, half), true)?, block(2, (half, half), false)?],
            out: loader.conv(&format!("/encoder/{which}_proj"), Some(&bias), (1, half, 1), 1)?,
        })
    }

    fn run(&self, x: &Tensor, style: &Tensor, valid: &Valid) -> Result<Vec<Vec<f32>>> {
        let [first, second, third] = &self.blocks;
        let x = second.run(&first.run(x, style, valid)?, style, valid)?;
        let valid = doubled(valid);
        let curves = numbers(&self.out.same(&third.run(&x, style, &valid)?)?)?;
        let len = curves.len() / valid.len().max(1);
        Ok(valid.iter().enumerate().map(|(at, rows)| curves[at * len..][..rows.len()].to_vec()).collect())
    }
}

impl Text {
    fn load(loader: &Loader) -> Loaded<Self> {
        let layer = |at: usize| -> Loaded<(Conv, Norm)> {
            let (path, name) =
                (format!("/encoder/text_encoder/cnn.{at}/cnn.{at}.0"), format!("encoder.text_encoder.cnn.{at}"));
            let conv = loader.conv(&path, Some(&format!("{name}.0.bias")), (WIDTH, WIDTH, 5), 1)?;
            let part = |part: &str| loader.vector(&format!("{name}.1.{part}"), WIDTH);
            Ok((conv, Norm::new((part("gamma")?, part("beta")?), EPSILON, loader.device())?))
        };
        let zero = "encoder.bert.embeddings.word_embeddings.weight_zero_point";
        Ok(Self {
            table: loader.table("encoder.text_encoder.embedding.weight", zero, WIDTH)?,
            layers: [layer(0)?, layer(1)?, layer(2)?],
            lstm: Lstm::load(loader, "/encoder/text_encoder/lstm", WIDTH)?,
        })
    }

    fn run(&self, tokens: &[Vec<u32>], len: usize, valid: &Valid) -> Result<Tensor> {
        let padded = tokens.iter().flat_map(|ids| ids.iter().copied().chain(std::iter::repeat(0)).take(len)).collect();
        let mut x = masked(&rows(&self.table, padded)?.reshape((tokens.len(), len, WIDTH))?, valid)?;
        for (conv, norm) in &self.layers {
            x = masked(&candle_nn::ops::leaky_relu(&norm.run(&conv.same(&x)?)?, SLOPE)?, valid)?;
        }
        self.lstm.run(&x, valid)
    }
}

/// Frames from what was predicted: at least one for each token.
pub(super) fn rounded(durations: &[f32], most: usize) -> Vec<usize> {
    let mut room = most;
    let frames = durations.iter().map(|frames| {
        let frames = (frames.round_ties_even().max(1.0) as usize).min(room);
        room -= frames;
        frames
    });
    frames.collect()
}

//! Several utterances, transcribed together on tensors.
//!
//! Enters: their mel rows. Leaves: what was made of each, as if it had been alone. Never here: which are taken together; that
//! is the scribe's to say.

use std::ops::ControlFlow;

use callbox_wire::Language;
use candle_core::Result;

use super::guard::End;
use super::utterance::{self, Utterance};
use super::{Hearing, Pace, Whisper, sound_end, tensors};

impl Whisper {
    /// `said`: how many samples each has, and its language. Nothing comes back if `pace` breaks.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn together(
        &self,
        decoder: &tensors::Decoder,
        said: &[(usize, Language)],
        mels: &[Vec<f32>],
        pace: &mut dyn Pace,
    ) -> Result<Option<Vec<Hearing>>> {
        let Some(encoded) = self.encoder.run(mels, pace, &mut |_| {})? else { return Ok(None) };
        if pace.between() == ControlFlow::Break(()) {
            return Ok(None);
        }
        let positions: Vec<usize> = mels.iter().map(|mel| mel.len() / self.dims.mels / 2).collect();
        let prompts: Vec<Vec<usize>> = said.iter().map(|(_, language)| self.vocabulary.prompt(*language)).collect();
        let most = said.iter().map(|&(samples, language)| utterance::most_tokens(samples, language)).max();
        let room = prompts.first().map_or(0, Vec::len) + most.unwrap_or(0);
        let mut batch = decoder.begin(&encoded, &positions, room)?;
        let (no_speech, mut next) = decoder.prompt(&mut batch, &prompts)?;
        let begin = |((&(samples, language), mel), no_speech): ((&(usize, Language), &Vec<f32>), f32)| {
            Utterance::new(samples, language, sound_end(mel, self.dims.mels), no_speech)
        };
        let mut utterances: Vec<Utterance> = said.iter().zip(mels).zip(no_speech).map(begin).collect();
        let mut ends = vec![None; utterances.len()];
        // Which utterance each row of the batch is of.
        let mut rows: Vec<usize> = (0..utterances.len()).collect();
        loop {
            // A row whose utterance has ended goes on with anything until it is left out.
            let mut tokens = vec![self.vocabulary.end() as u32; rows.len()];
            for ((&of, next), token) in rows.iter().zip(&next).zip(&mut tokens) {
                if ends[of].is_none() {
                    match utterances[of].take(*next, &self.vocabulary) {
                        ControlFlow::Continue(further) => *token = further as u32,
                        ControlFlow::Break(end) => ends[of] = Some(end),
                    }
                }
            }
            let live: Vec<u32> = (0..rows.len() as u32).filter(|row| ends[rows[*row as usize]].is_none()).collect();
            if live.is_empty() {
                break;
            }
            if pace.between() == ControlFlow::Break(()) {
                return Ok(None);
            }
            // Leaving rows out costs a copy of the others, so half of them go at once.
            if 2 * live.len() <= batch.rows() {
                batch.keep(&live, &self.device)?;
                tokens = live.iter().map(|row| tokens[*row as usize]).collect();
                rows = live.iter().map(|row| rows[*row as usize]).collect();
            }
            match decoder.step(&mut batch, &tokens)? {
                Some(further) => next = further,
                None => break,
            }
        }
        let hearings = utterances.into_iter().zip(ends);
        let hearings = hearings.map(|(said, end)| said.hearing(end.unwrap_or(End::TooLong), &self.vocabulary));
        Ok(Some(hearings.collect()))
    }
}

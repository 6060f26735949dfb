//! Voice-to-voice latency, read off the caller's own two streams.
//!
//! Enters: what the caller sent and what the caller received, on one time line of 16 kHz samples. Leaves: where voice
//! begins and ends, and the silence between the caller's last voiced sample and the agent's first. Never here: what the
//! agent says of itself.

use std::ops::Range;

/// Samples per second.
pub(crate) const RATE: usize = 16_000;

/// Voice is judged in windows of 10 ms.
const WINDOW: usize = RATE / 100;

/// A window is voiced above this mean square (full scale is 1): −45 dB, well above the noise of G.711, well below speech.
const VOICED: f32 = 3.2e-5;

/// Voiced windows nearer than this belong to one stretch: the pauses within a sentence.
const BRIDGE: usize = RATE * 4 / 10;

/// A stretch shorter than this is a click.
const SHORTEST: usize = RATE * 3 / 100;

/// The stretches of voice in a stream, in samples.
pub(crate) fn voiced(stream: &[i16]) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for (index, window) in stream.chunks_exact(WINDOW).enumerate() {
        let energy: f32 = window.iter().map(|&sample| (f32::from(sample) / 32768.0).powi(2)).sum();
        if energy / (WINDOW as f32) < VOICED {
            continue;
        }
        let (start, end) = (index * WINDOW, (index + 1) * WINDOW);
        match stretches.last_mut() {
            Some(last) if start - last.end < BRIDGE => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches.retain(|stretch| stretch.len() >= SHORTEST);
    stretches
}

/// Milliseconds from the end of `question` in the sent stream to the next voice in the received stream, and that voice.
/// `None` if the agent never answered.
pub(crate) fn answer_to(question: &Range<usize>, received: &[i16]) -> Option<(usize, Range<usize>)> {
    let from = question.end.min(received.len());
    let first = voiced(&received[from..]).into_iter().next()?;
    let answer = from + first.start..from + first.end;
    Some((first.start * 1000 / RATE, answer))
}

/// The value below which `percent` of the (unsorted) values lie, by the nearest-rank rule.
pub(crate) fn percentile(values: &[usize], percent: usize) -> Option<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(ms: usize) -> impl Iterator<Item = i16> {
        (0..ms * 16).map(|n| if n % 32 < 16 { 4000 } else { -4000 })
    }

    fn silence(ms: usize) -> impl Iterator<Item = i16> {
        (0..ms * 16).map(|n| if n % 2 == 0 { 30 } else { -30 })
    }

    #[test]
    fn the_latency_is_the_silence_between_question_and_answer() {
        let sent: Vec<i16> = silence(500).chain(tone(1000)).chain(silence(3000)).collect();
        let received: Vec<i16> = silence(2250).chain(tone(300)).chain(silence(200)).chain(tone(500)).collect();
        let question = voiced(&sent).remove(0);
        assert_eq!(question, 8000..24_000);
        let (latency, answer) = answer_to(&question, &received).expect("an answer");
        assert_eq!(latency, 750);
        assert_eq!(answer, 36_000..52_000, "a short pause does not end the answer");
        assert!(answer_to(&question, &sent).is_none(), "silence is no answer");
    }

    #[test]
    fn percentiles_follow_the_nearest_rank() {
        let values: Vec<usize> = (1..=20).rev().collect();
        assert_eq!(percentile(&values, 50), Some(10));
        assert_eq!(percentile(&values, 95), Some(19));
        assert_eq!(percentile(&[], 50), None);
    }
}

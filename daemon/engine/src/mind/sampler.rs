//! Logits to the next token.
//!
//! Enters: of one row of logits those near its best. Leaves: a token. Same seed, same logits: same token.

use callbox_wire::Sampling;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::models::transformer::{Near, Reach};

/// So much less probable than the best, a token is never drawn.
const NEVER: f32 = 1e-7;

/// Chooses the tokens of one answer.
pub(super) struct Sampler {
    temperature: f32,
    top_p: f32,
    repeat_penalty: f32,
    rng: ChaCha8Rng,
    said: Vec<u32>,
}

impl Sampler {
    /// Begins an answer. Settings outside their ranges are taken as the nearest inside.
    #[must_use]
    pub(super) fn new(sampling: &Sampling) -> Self {
        let finite = |x: f32, otherwise: f32| if x.is_finite() { x } else { otherwise };
        Self {
            temperature: finite(sampling.temperature, 0.0).max(0.0),
            top_p: finite(sampling.top_p, 1.0).clamp(0.0, 1.0),
            repeat_penalty: finite(sampling.repeat_penalty, 1.0).max(0.01),
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            said: Vec::new(),
        }
    }

    /// Which tokens [`Self::next`] has to be shown, to be the same as if it were shown all.
    pub(super) fn reach(&self) -> Reach {
        if self.repeat_penalty < 1.0 {
            // What was said may come up from anywhere.
            return Reach::ALL;
        }
        // A penalty takes at most this share of the best, whoever is the best then.
        Reach { span: self.temperature * -NEVER.ln() + 1e-3, share: self.repeat_penalty - 1.0 }
    }

    /// The next token, of those that are within reach and their logits. `near` is scratch afterwards.
    pub(super) fn next(&mut self, near: &mut Near) -> u32 {
        for (token, logit) in near.iter_mut() {
            if self.said.contains(token) {
                *logit = if *logit > 0.0 { *logit / self.repeat_penalty } else { *logit * self.repeat_penalty };
            }
        }
        // Of equals the first.
        let best =
            near.iter().fold((0, f32::MIN), |best, &(token, logit)| if logit > best.1 { (token, logit) } else { best });
        let token = if self.temperature < 1e-3 || self.top_p <= 0.0 { best.0 } else { self.draw(near, best.1) };
        if self.repeat_penalty != 1.0 && !self.said.contains(&token) {
            self.said.push(token);
        }
        token
    }

    fn draw(&mut self, near: &Near, most: f32) -> u32 {
        // Sorting those that are never drawn would cost time.
        let weight = |logit: f32| ((logit - most) / self.temperature).exp();
        let mut candidates: Vec<(u32, f32)> =
            near.iter().map(|&(token, logit)| (token, weight(logit))).filter(|(_, weight)| *weight > NEVER).collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut kept = 0.0;
        let count = candidates.iter().position(|(_, weight)| {
            kept += weight;
            kept >= self.top_p * total
        });
        candidates.truncate(count.map_or(candidates.len(), |last| last + 1));
        let mut left = self.rng.random::<f32>() * candidates.iter().map(|(_, weight)| weight).sum::<f32>();
        for (token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        candidates.first().map_or(0, |first| first.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn sampler(temperature: f32, top_p: f32, repeat_penalty: f32, seed: u64) -> Sampler {
        Sampler::new(&Sampling { temperature, top_p, repeat_penalty, seed, ..Sampling::default() })
    }

    #[test]
    fn greedy_takes_the_best_until_it_is_penalised() {
        let mut greedy = sampler(0.0, 1.0, 2.0, 0);
        let drawn: Vec<u32> = (0..3).map(|_| greedy.next(&mut Reach::ALL.of(&[1.0, 3.0, 2.0, -1.0]))).collect();
        assert_eq!(drawn, [1, 2, 1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.0, 1.0, 2.0, f32::NEG_INFINITY];
        let draw = |top_p: f32, seed: u64| -> Vec<u32> {
            let mut sampler = sampler(1.0, top_p, 1.0, seed);
            (0..3000).map(|_| sampler.next(&mut sampler.reach().of(&logits))).collect()
        };
        assert_eq!(draw(1.0, 5), draw(1.0, 5));
        assert_ne!(draw(1.0, 5), draw(1.0, 6));
        let share = |tokens: &[u32], token: u32| tokens.iter().filter(|&&t| t == token).count() as f32 / 3000.0;
        let all = draw(1.0, 1);
        for (token, want) in [(0, 0.090), (1, 0.245), (2, 0.665), (3, 0.0)] {
            assert!((share(&all, token) - want).abs() < 0.03);
        }
        // The best two reach 0.91.
        assert_eq!(share(&draw(0.9, 1), 0), 0.0);
        assert_eq!(share(&draw(0.6, 1), 2), 1.0);
    }
    proptest! {
        /// What is out of reach would not have been drawn, whatever was said before.
        #[test]
        fn what_is_within_reach_is_enough(
            rows in vec(vec(-40_f32..40.0, 60), 1..20),
            temperature in prop_oneof![Just(0.0_f32), 0.01_f32..2.0],
            top_p in 0.1_f32..1.0,
            repeat_penalty in prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
            seed: u64,
        ) {
            let [mut all, mut few] = [0; 2].map(|_| sampler(temperature, top_p, repeat_penalty, seed));
            for row in rows {
                let reach = few.reach();
                prop_assert_eq!(all.next(&mut Reach::ALL.of(&row)), few.next(&mut reach.of(&row)));
            }
        }
    }
}

//! The tokens of a row that may come next: a vocabulary is long, and almost none of it is ever drawn.
//!
//! Enters: a row of logits, how far below its best is still of interest. Leaves: those tokens. Never here: which one is taken.

/// How far below the best of its row a token may lie: `span`, and `share` of the best's own size.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reach {
    /// In logits; infinite: all tokens.
    pub span: f32,
    /// Of the size of the best.
    pub share: f32,
}

/// Tokens and their logits, by token.
pub type Near = Vec<(u32, f32)>;

impl Reach {
    /// All tokens.
    pub const ALL: Self = Self { span: f32::INFINITY, share: 0.0 };

    /// The tokens of a row that are near its best. What is no number is not.
    #[must_use]
    pub fn of(self, row: &[f32]) -> Near {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = best - self.span - self.share * best.abs();
        (0..).zip(row.iter().copied()).filter(|(_, logit)| *logit >= least).collect()
    }
}

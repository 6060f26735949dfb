//! A growing, forgetting stretch of rows between two layers: what the earlier layer has made and the later still needs.
//!
//! The convolutions pad with zeros at both ends of an utterance. Here the zeros are rows like others, so that a layer
//! reads one slice and asks for nothing at the edges. Row numbers count from the start of the utterance; a *padded* row
//! number is greater by `lead`.

/// Rows `[time][channel]` with `lead` zero rows before the first and, once finished, after the last.
pub(super) struct Rows {
    channels: usize,
    lead: usize,
    /// Padded number of the first row held.
    first: usize,
    data: Vec<f32>,
    finished: bool,
}

impl Rows {
    pub(super) fn new(channels: usize, lead: usize) -> Self {
        Self { channels, lead, first: 0, data: vec![0.0; lead * channels], finished: false }
    }

    /// Real rows so far.
    pub(super) fn len(&self) -> usize {
        self.first + self.data.len() / self.channels - if self.finished { 2 * self.lead } else { self.lead }
    }

    /// Appends `count` rows of zeros to be written.
    pub(super) fn extend(&mut self, count: usize) -> &mut [f32] {
        debug_assert!(!self.finished || count == 0, "nothing follows the end");
        let from = self.data.len();
        self.data.resize(from + count * self.channels, 0.0);
        &mut self.data[from..]
    }

    /// No more rows follow.
    pub(super) fn finish(&mut self) {
        if !self.finished {
            self.extend(self.lead);
            self.finished = true;
        }
    }

    /// How many rows a centred layer that reads `pad` rows to either side can make by now.
    pub(super) fn ready(&self, pad: usize) -> usize {
        if self.finished { self.len() } else { self.len().saturating_sub(pad) }
    }

    /// Everything from `pad` rows before row `row` on.
    pub(super) fn around(&self, row: usize, pad: usize) -> &[f32] {
        &self.data[(row + self.lead - pad - self.first) * self.channels..]
    }

    /// Rows `row .. row + count`.
    pub(super) fn at(&self, row: usize, count: usize) -> &[f32] {
        &self.around(row, 0)[..count * self.channels]
    }

    /// Forgets all that lies more than `pad` rows before row `row`.
    pub(super) fn forget(&mut self, row: usize, pad: usize) {
        let rows = (row + self.lead).saturating_sub(pad + self.first);
        self.data.drain(..rows * self.channels);
        self.first += rows;
    }
}

//! How good lines are. Enters: what the media thread has counted of a call that is over; leaves: histograms of all calls.
//! Never here: the figures of one call, which are in its record.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::media::SessionStats;
use crate::media::jitter::JitterStats;

const RATIOS: [f64; 11] = [0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5];
const SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0];
const OPINIONS: [f64; 12] = [1.0, 1.5, 2.0, 2.5, 3.0, 3.3, 3.6, 3.8, 4.0, 4.2, 4.3, 4.5];

/// Of all calls that are over.
#[derive(Debug)]
pub(super) struct Quality {
    loss: Histogram,
    far_loss: Histogram,
    jitter: Histogram,
    round_trip: Histogram,
    opinion: Histogram,
    late: Counter,
    concealed: Counter,
    echoes: Counter,
    keys: Counter,
}

impl Quality {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            loss: Histogram::new(RATIOS),
            far_loss: Histogram::new(RATIOS),
            jitter: Histogram::new(SECONDS),
            round_trip: Histogram::new(SECONDS),
            opinion: Histogram::new(OPINIONS),
            late: Counter::default(),
            concealed: Counter::default(),
            echoes: Counter::default(),
            keys: Counter::default(),
        };
        let help = "Share of a call's packets that never came, or too late";
        registry.register_with_unit("rtp_loss", help, ratio(), this.loss.clone());
        let help = "Share of our packets that the far end said at last that it misses";
        registry.register_with_unit("rtp_far_loss", help, ratio(), this.far_loss.clone());
        let help = "Interarrival jitter at the end of a call";
        registry.register_with_unit("rtp_jitter", help, Unit::Seconds, this.jitter.clone());
        let help = "To the far end and back, by its RTCP";
        registry.register_with_unit("rtp_round_trip", help, Unit::Seconds, this.round_trip.clone());
        registry.register("rtp_mos", "Estimated opinion score of what callers say", this.opinion.clone());
        registry.register("rtp_packets_late", "Packets that came too late to be played", this.late.clone());
        registry.register("rtp_frames_concealed", "Frames of 20 ms that were invented", this.concealed.clone());
        registry.register("rtp_frames_echo", "Frames of 20 ms that were our own voice", this.echoes.clone());
        registry.register("rtp_keys", "Keys that callers have pressed", this.keys.clone());
        this
    }

    /// Counts a call that is over.
    pub(super) fn observe(&self, stats: &SessionStats) {
        self.late.inc_by(stats.buffer.late);
        self.concealed.inc_by(stats.buffer.concealed);
        self.echoes.inc_by(stats.echoes);
        self.keys.inc_by(stats.keys);
        if stats.received == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let missing = stats.buffer.lost as f64 / (stats.received + never(&stats.buffer)) as f64;
        self.loss.observe(missing);
        self.jitter.observe(f64::from(stats.jitter_ms) / 1000.0);
        if let Some(loss) = stats.far_loss {
            self.far_loss.observe(loss.into());
        }
        let round_trip = stats.round_trip.map(|time| time.as_secs_f64());
        if let Some(time) = round_trip {
            self.round_trip.observe(time);
        }
        let delay_ms = round_trip.unwrap_or(0.0) * 500.0 + f64::from(stats.buffer.delay_ms);
        self.opinion.observe(opinion(missing.min(1.0), delay_ms));
    }
}

/// Packets that never came: of those that are missing, some came too late.
fn never(buffer: &JitterStats) -> u64 {
    buffer.lost.saturating_sub(buffer.late)
}

fn ratio() -> Unit {
    Unit::Other("ratio".to_owned())
}

/// Mean opinion score, 1 to 4.4, of G.711 with concealment, whatever the codec was: what the network has made of the line.
/// The E-model (G.107) with its defaults, random loss (`Ie` 0, `Bpl` 25.1: G.113 appendix I), its delay term as Cole and
/// Rosenbluth simplified it (2001).
fn opinion(loss: f64, delay_ms: f64) -> f64 {
    let percent = 100.0 * loss;
    let impairment = 95.0 * percent / (percent + 25.1);
    let delay = 0.024 * delay_ms + 0.11 * (delay_ms - 177.3).max(0.0);
    let rating = (93.2 - delay - impairment).clamp(0.0, 100.0);
    (1.0 + 0.035 * rating + 7e-6 * rating * (rating - 60.0) * (100.0 - rating)).clamp(1.0, 4.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_good_line_is_good_and_what_g107_tabulates_comes_out() {
        // G.107 annex B: R of 93.2, 80, 70, 60 are opinions of 4.41, 4.03, 3.60, 3.10.
        for (loss, delay_ms, wanted) in
            [(0.0, 0.0, 4.41), (0.0405, 0.0, 4.03), (0.0810, 0.0, 3.60), (0.1355, 0.0, 3.10)]
        {
            assert!((opinion(loss, delay_ms) - wanted).abs() < 0.02, "{loss}: {}", opinion(loss, delay_ms));
        }
        assert!(opinion(0.0, 150.0) > 4.2 && opinion(0.0, 400.0) < 3.5);
    }

    proptest! {
        #[test]
        fn what_is_lost_or_later_is_no_better(loss in 0.0..1.0_f64, more in 0.0..0.5_f64, delay in 0.0..2000.0_f64) {
            let now = opinion(loss, delay);
            prop_assert!((1.0..=4.5).contains(&now));
            prop_assert!(opinion((loss + more).min(1.0), delay) <= now + 0.03);
            prop_assert!(opinion(loss, delay + 1000.0 * more) <= now + 0.03);
        }
    }
}

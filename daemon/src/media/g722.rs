//! G.722 at 64 kbit/s (ITU-T G.722): 16 kHz samples enter, octets leave, and back; two samples for each octet. Nothing
//! is allocated. Its RTP clock runs at 8 kHz by an old mistake (RFC 3551 §4.5.2), which is why one octet is one tick.
//!
//! Two sub-bands of ADPCM behind a quadrature mirror filter; names of blocks and of tables are those of the
//! Recommendation. The two least significant bits of the lower band are never used for data here (mode 1).

/// Scale factors of the lower band by the four-bit code (`WL` through `RL42`).
const WL: [i32; 8] = [-60, -30, 58, 172, 334, 538, 1198, 3042];
const RL42: [u8; 16] = [0, 7, 6, 5, 4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1, 0];
/// … and of the higher band.
const WH: [i32; 3] = [0, -214, 798];
const RH2: [u8; 4] = [2, 1, 2, 1];
/// Inverse logarithm.
const ILB: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896, 2960, 3025,
    3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];
/// Inverse quantizers.
const QM2: [i32; 4] = [-7408, -1616, 7408, 1616];
const QM4: [i32; 16] =
    [0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0];
const QM6: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576,
    -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776, -2400, -2032, -1688, -1360, -1040,
    -728, 24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
    4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];
/// Decision levels of the lower band, and the code of each interval for either sign.
const Q6: [i32; 29] = [
    35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1023, 1121, 1219, 1339,
    1458, 1612, 1765, 1980, 2195, 2557, 2919,
];
const NEGATIVE: [u8; 30] =
    [63, 62, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4];
const POSITIVE: [u8; 30] = [
    61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33,
    32,
];
/// One half of the symmetric mirror filter.
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];

const fn saturate(value: i32) -> i32 {
    if value > 32767 {
        32767
    } else if value < -32768 {
        -32768
    } else {
        value
    }
}

/// The predictor and the scale of one sub-band.
#[derive(Clone, Copy, Debug)]
struct Band {
    /// What the next sample is expected to be, and the zeroes' share of it.
    expected: i32,
    zeroes: i32,
    /// The last reconstructed signals.
    r: [i32; 2],
    /// The last partially reconstructed ones.
    p: [i32; 2],
    /// Poles.
    a: [i32; 2],
    /// The last differences and the zeroes.
    d: [i32; 6],
    b: [i32; 6],
    /// Logarithm of the scale, and the scale.
    nb: i32,
    det: i32,
}

impl Band {
    const fn new(det: i32) -> Self {
        Self { expected: 0, zeroes: 0, r: [0; 2], p: [0; 2], a: [0; 2], d: [0; 6], b: [0; 6], nb: 0, det }
    }

    /// LOGSCL and SCALEL, or their like of the higher band.
    fn scale(&mut self, step: i32, most: i32, shift: i32) {
        self.nb = (((self.nb * 127) >> 7) + step).clamp(0, most);
        let (mantissa, exponent) = (ILB[(self.nb >> 6 & 31) as usize], shift - (self.nb >> 11));
        self.det = if exponent < 0 { mantissa << -exponent } else { mantissa >> exponent } << 2;
    }

    /// Block 4: the predictor follows a difference.
    fn follow(&mut self, d: i32) {
        let r = saturate(self.expected + d);
        let p = saturate(self.zeroes + d);
        let same = |other: i32| (p < 0) == (other < 0);
        // UPPOL2
        let fed = saturate(self.a[0] << 2);
        let fed = (if same(self.p[0]) { -fed } else { fed }).min(32767);
        let second = (fed >> 7) + if same(self.p[1]) { 128 } else { -128 } + ((self.a[1] * 32512) >> 15);
        let second = second.clamp(-12288, 12288);
        // UPPOL1
        let first = saturate(((self.a[0] * 32640) >> 15) + if same(self.p[0]) { 192 } else { -192 });
        let most = saturate(15360 - second);
        let first = first.clamp(-most, most);
        // UPZERO
        let step = if d == 0 { 0 } else { 128 };
        for (b, past) in self.b.iter_mut().zip(self.d) {
            let sign = if (past < 0) == (d < 0) { step } else { -step };
            *b = saturate(sign + ((*b * 32640) >> 15));
        }
        // DELAYA
        self.d.copy_within(..5, 1);
        self.d[0] = d;
        (self.r, self.p, self.a) = ([r, self.r[0]], [p, self.p[0]], [first, second]);
        // FILTEP, FILTEZ, PREDIC
        let pole = |a: i32, r: i32| (a * saturate(2 * r)) >> 15;
        let poles = saturate(pole(self.a[0], self.r[0]) + pole(self.a[1], self.r[1]));
        self.zeroes = saturate(self.b.iter().zip(self.d).map(|(b, d)| (*b * saturate(2 * d)) >> 15).sum());
        self.expected = saturate(poles + self.zeroes);
    }

    /// The lower band goes on with a six-bit code; returns the difference as coarsely as both sides know it.
    fn lower(&mut self, code: u8) {
        let coarse = usize::from(code >> 2);
        let d = (self.det * QM4[coarse]) >> 15;
        self.scale(WL[usize::from(RL42[coarse])], 18432, 8);
        self.follow(d);
    }

    /// The higher band goes on with a two-bit code.
    fn higher(&mut self, code: u8) {
        let d = (self.det * QM2[usize::from(code)]) >> 15;
        self.scale(WH[usize::from(RH2[usize::from(code)])], 22528, 10);
        self.follow(d);
    }
}

/// Both bands and the mirror filter's memory.
#[derive(Clone, Debug)]
struct State {
    low: Band,
    high: Band,
    x: [i32; 24],
}

impl Default for State {
    fn default() -> Self {
        Self { low: Band::new(32), high: Band::new(8), x: [0; 24] }
    }
}

impl State {
    /// Takes two into the mirror filter; gives the sums over odd and even taps.
    fn mirror(&mut self, older: i32, newer: i32) -> (i32, i32) {
        self.x.copy_within(2.., 0);
        [self.x[22], self.x[23]] = [older, newer];
        let (mut odd, mut even) = (0, 0);
        for (index, [first, second]) in self.x.as_chunks::<2>().0.iter().enumerate() {
            odd += first * QMF[index];
            even += second * QMF[11 - index];
        }
        (odd, even)
    }
}

/// Sends.
#[derive(Clone, Debug, Default)]
pub struct Encoder(State);

impl Encoder {
    /// Writes one octet for each two samples, as many as the shorter of both holds.
    pub fn encode(&mut self, samples: &[i16], octets: &mut [u8]) {
        let state = &mut self.0;
        for ([older, newer], octet) in samples.as_chunks::<2>().0.iter().zip(octets) {
            let (odd, even) = state.mirror((*older).into(), (*newer).into());
            let (low, high) = ((even + odd) >> 14, (even - odd) >> 14);
            let error = saturate(low - state.low.expected);
            let height = if error < 0 { !error } else { error };
            let interval = Q6.iter().take_while(|level| height >= (**level * state.low.det) >> 12).count();
            let lower = if error < 0 { NEGATIVE[interval] } else { POSITIVE[interval] };
            let error = saturate(high - state.high.expected);
            let height = if error < 0 { !error } else { error };
            let far = height >= (564 * state.high.det) >> 12;
            let higher = match (error < 0, far) {
                (true, false) => 1,
                (true, true) => 0,
                (false, false) => 3,
                (false, true) => 2,
            };
            state.low.lower(lower);
            state.high.higher(higher);
            *octet = higher << 6 | lower;
        }
    }
}

/// Receives.
#[derive(Clone, Debug, Default)]
pub struct Decoder(State);

impl Decoder {
    /// Samples were invented in the place of octets: the predictors go on as if they had been sent. Otherwise they would
    /// be those of another sound when the next octets come.
    pub fn follow(&mut self, samples: &[i16]) {
        let mut encoder = Encoder(self.0.clone());
        encoder.0.x = [0; 24];
        let (mut octet, mut unheard) = ([0], [0; 2]);
        for pair in samples.as_chunks::<2>().0 {
            encoder.encode(pair, &mut octet);
            self.decode(&octet, &mut unheard);
        }
    }

    /// Takes over poles and zeroes of the lower band from one that has lost nothing. No call can: it measures what not
    /// knowing them costs.
    pub fn take_predictor_of(&mut self, other: &Self) {
        (self.0.low.a, self.0.low.b) = (other.0.low.a, other.0.low.b);
    }

    /// Writes two samples for each octet, as many as the shorter of both holds.
    pub fn decode(&mut self, octets: &[u8], samples: &mut [i16]) {
        let state = &mut self.0;
        for (octet, pair) in octets.iter().zip(samples.as_chunks_mut::<2>().0) {
            let (lower, higher) = (octet & 0x3f, octet >> 6);
            let low = state.low.expected + ((state.low.det * QM6[usize::from(lower)]) >> 15);
            let low = low.clamp(-16384, 16383);
            let high = state.high.expected + ((state.high.det * QM2[usize::from(higher)]) >> 15);
            let high = high.clamp(-16384, 16383);
            state.low.lower(lower);
            state.high.higher(higher);
            let (odd, even) = state.mirror(low + high, low - high);
            *pair = [saturate(even >> 11) as i16, saturate(odd >> 11) as i16];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    /// Both filters together.
    const DELAY: usize = 22;

    fn through(signal: &[i16]) -> Vec<i16> {
        let mut octets = vec![0; signal.len() / 2];
        Encoder::default().encode(signal, &mut octets);
        let mut back = vec![0; signal.len()];
        Decoder::default().decode(&octets, &mut back);
        back
    }

    #[test]
    fn a_voice_like_sound_comes_back() {
        let tone = |n: usize, hertz: f64, height: f64| height * (TAU * hertz * n as f64 / 16_000.0).sin();
        let signal: Vec<i16> = (0..16_000)
            .map(|n| {
                (tone(n, 180.0, 6000.0) + tone(n, 720.0, 4000.0) + tone(n, 2400.0, 1500.0) + tone(n, 5200.0, 300.0))
                    as i16
            })
            .collect();
        let back = through(&signal);
        let (mut power, mut noise) = (0.0, 0.0);
        for n in 1000..15_000 {
            let (sent, heard) = (f64::from(signal[n]), f64::from(back[n + DELAY]));
            power += sent * sent;
            noise += (sent - heard).powi(2);
        }
        let ratio = 10.0 * f64::log10(power / noise);
        assert!(ratio > 30.0, "{ratio:.1} dB");
    }

    #[test]
    fn silence_stays_silence() {
        assert!(through(&[0; 3200])[200..].iter().all(|sample| sample.abs() < 8));
    }

    proptest! {
        /// Overflow is a panic here, as it is in the product.
        #[test]
        fn any_octets_and_any_samples_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..400), samples in proptest::collection::vec(any::<i16>(), 0..800)) {
            let mut decoded = vec![0; octets.len() * 2];
            Decoder::default().decode(&octets, &mut decoded);
            let mut encoded = vec![0; samples.len() / 2];
            Encoder::default().encode(&samples, &mut encoded);
        }
    }
}

//! G.711 µ-law and A-law, bit-exact with the ITU-T G.191 software tool library. Samples enter, octets leave, and back.

/// One of the two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// A-law, RTP payload type 8.
    A,
    /// µ-law, RTP payload type 0.
    Mu,
}

static ALAW: [i16; 256] = expand(Law::A);
static ULAW: [i16; 256] = expand(Law::Mu);

const fn expand(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = match law {
            Law::A => expand_alaw(code as u8),
            Law::Mu => expand_ulaw(code as u8),
        };
        code += 1;
    }
    table
}

const fn expand_ulaw(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((((code & 0x0f) as i16) << 3) + 0x84) << ((code & 0x70) >> 4);
    if code & 0x80 != 0 { 0x84 - magnitude } else { magnitude - 0x84 }
}

const fn expand_alaw(code: u8) -> i16 {
    let code = code ^ 0x55;
    let step = ((code & 0x0f) as i16) << 4;
    let magnitude = match (code & 0x70) >> 4 {
        0 => step + 8,
        segment => (step + 0x108) << (segment - 1),
    };
    if code & 0x80 != 0 { magnitude } else { -magnitude }
}

/// Negative samples are taken in ones' complement, as G.191 does.
fn compress_ulaw(sample: i16) -> u8 {
    let (magnitude, sign) = if sample < 0 { (!sample, 0) } else { (sample, 0x80) };
    let magnitude = ((magnitude >> 2) + 33).min(0x1fff);
    let segment = 10_u8.saturating_sub(magnitude.leading_zeros() as u8);
    let step = (magnitude >> (segment + 1)) as u8 & 0x0f;
    sign | (7 - segment) << 4 | (15 - step)
}

fn compress_alaw(sample: i16) -> u8 {
    let (magnitude, sign) = if sample < 0 { (!sample, 0) } else { (sample, 0x80) };
    let magnitude = magnitude >> 4;
    let segment = 12_u8.saturating_sub(magnitude.leading_zeros() as u8);
    let step = if segment == 0 { magnitude } else { magnitude >> (segment - 1) } as u8 & 0x0f;
    (sign | segment << 4 | step) ^ 0x55
}

impl Law {
    /// Expands octets into samples; as many as the shorter of both holds.
    pub fn decode(self, octets: &[u8], samples: &mut [i16]) {
        let table = match self {
            Self::A => &ALAW,
            Self::Mu => &ULAW,
        };
        for (sample, octet) in samples.iter_mut().zip(octets) {
            *sample = table[usize::from(*octet)];
        }
    }

    /// Compresses samples into octets; as many as the shorter of both holds.
    pub fn encode(self, samples: &[i16], octets: &mut [u8]) {
        let compress = match self {
            Self::A => compress_alaw,
            Self::Mu => compress_ulaw,
        };
        for (octet, sample) in octets.iter_mut().zip(samples) {
            *octet = compress(*sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decision values of G.711 tables 1a and 2a: the step doubles with each segment of sixteen intervals.
    fn decisions(first: &[(u16, usize)]) -> Vec<u16> {
        first
            .iter()
            .flat_map(|(step, count)| std::iter::repeat_n(*step, *count))
            .scan(0, |sum, step| {
                *sum += step;
                Some(*sum)
            })
            .collect()
    }

    #[test]
    fn ulaw_encodes_by_the_decision_values_of_the_recommendation() {
        let steps = [(1, 1), (2, 15), (4, 16), (8, 16), (16, 16), (32, 16), (64, 16), (128, 16), (256, 15)];
        let decisions = decisions(&steps);
        for sample in i16::MIN..=i16::MAX {
            let magnitude = (if sample < 0 { !sample } else { sample } >> 2) as u16;
            let interval = decisions.iter().filter(|value| **value <= magnitude).count() as u8;
            let expected = !interval & if sample < 0 { 0x7f } else { 0xff };
            assert_eq!(compress_ulaw(sample), expected, "{sample}");
        }
    }

    #[test]
    fn alaw_encodes_by_the_decision_values_of_the_recommendation() {
        let steps = [(1, 32), (2, 16), (4, 16), (8, 16), (16, 16), (32, 16), (64, 15)];
        let decisions = decisions(&steps);
        for sample in i16::MIN..=i16::MAX {
            let magnitude = (if sample < 0 { !sample } else { sample } >> 4) as u16;
            let interval = decisions.iter().filter(|value| **value <= magnitude).count() as u8;
            let expected = (interval | if sample < 0 { 0 } else { 0x80 }) ^ 0x55;
            assert_eq!(compress_alaw(sample), expected, "{sample}");
        }
    }

    #[test]
    fn decodes_to_the_quantised_values_and_back() {
        assert_eq!([ULAW[0], ULAW[1], ULAW[0x7f], ULAW[0x80], ULAW[0xff]], [-32124, -31100, 0, 32124, 0]);
        assert_eq!([ALAW[0], ALAW[1], ALAW[0x2a], ALAW[0x55], ALAW[0xd5]], [-5504, -5248, -32256, -8, 8]);
        for code in 0..=255_u8 {
            assert_eq!(compress_alaw(ALAW[usize::from(code)]), code);
            let again = compress_ulaw(ULAW[usize::from(code)]);
            assert!(again == code || (code == 0x7f && again == 0xff), "negative zero folds into zero");
        }
    }
}

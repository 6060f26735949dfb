//! WAV files of the command line: read as ears and line want them, written as they were heard.

use std::path::Path;

use anyhow::{Context, Result, bail};
use callbox::media::resample::Upsampler;
use callbox_wire::EARS_RATE;

fn read(path: &Path) -> Result<(u32, Vec<i16>)> {
    let shown = path.display();
    let mut reader = hound::WavReader::open(path).with_context(|| format!("{shown} cannot be read as WAV"))?;
    let spec = reader.spec();
    if spec.channels != 1 || spec.bits_per_sample != 16 || spec.sample_format != hound::SampleFormat::Int {
        bail!(
            "{shown} has {} channels of {} bits; one channel of 16 bits is needed",
            spec.channels,
            spec.bits_per_sample
        );
    }
    let samples = reader.samples().collect::<Result<_, _>>().with_context(|| format!("{shown} is cut off"))?;
    Ok((spec.sample_rate, samples))
}

/// At the rate of ears and line, 16 kHz.
pub(crate) fn load(path: &Path) -> Result<Vec<i16>> {
    match read(path)? {
        (EARS_RATE, samples) => Ok(samples),
        (8000, samples) => Ok(up(&samples)),
        (rate, _) => bail!("{} is at {rate} Hz; 8000 or 16000 is needed", path.display()),
    }
}

/// Writes one or two channels of equal rate; the shorter is padded with silence.
pub(crate) fn write(path: &Path, rate: u32, channels: &[&[i16]]) -> Result<()> {
    let shown = path.display();
    let spec = hound::WavSpec {
        channels: u16::try_from(channels.len())?,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let failed = || format!("{shown} cannot be written");
    let mut writer = hound::WavWriter::create(path, spec).with_context(failed)?;
    let longest = channels.iter().map(|channel| channel.len()).max().unwrap_or(0);
    for index in 0..longest {
        for channel in channels {
            writer.write_sample(channel.get(index).copied().unwrap_or(0)).with_context(failed)?;
        }
    }
    writer.finalize().with_context(failed)
}

/// From 8 kHz to 16 kHz.
fn up(samples: &[i16]) -> Vec<i16> {
    let mut out = vec![0; samples.len() * 2];
    Upsampler::default().process(samples, &mut out);
    out
}

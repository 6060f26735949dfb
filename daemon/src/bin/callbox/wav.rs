//! WAV files of the command line: read as the line or the ears want them, written as they were heard.

use std::path::Path;

use anyhow::{Context, Result, bail};
use callbox::media::resample::{Downsampler, Upsampler};
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

/// At the ears' rate.
pub(crate) fn for_ears(path: &Path) -> Result<Vec<i16>> {
    match read(path)? {
        (EARS_RATE, samples) => Ok(samples),
        (8000, samples) => Ok(up(&samples)),
        (rate, _) => bail!("{} is at {rate} Hz; 8000 or 16000 is needed", path.display()),
    }
}

/// At the line's rate, 8 kHz.
pub(crate) fn for_line(path: &Path) -> Result<Vec<i16>> {
    match read(path)? {
        (8000, samples) => Ok(samples),
        (EARS_RATE, samples) => Ok(down(&samples)),
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

/// From the line's rate to the ears'.
pub(crate) fn up(samples: &[i16]) -> Vec<i16> {
    let mut out = vec![0; samples.len() * 2];
    Upsampler::default().process(samples, &mut out);
    out
}

fn down(samples: &[i16]) -> Vec<i16> {
    let mut out = vec![0; samples.len() / 2 + 1];
    let written = Downsampler::default().process(samples, &mut out);
    out.truncate(written);
    out
}

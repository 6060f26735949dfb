//! A recording as audio that others play. Enters: a call; leaves: one Ogg Opus stream of all its parts (RFC 7845), or a WAV of
//! them. What is missing between two parts is silence of that length. Never here: a file of it.

use std::io::Cursor;
use std::path::Path;

use ogg::writing::{PacketWriteEndInfo, PacketWriter};

use super::keys::KeyRing;
use super::opus::{Decoder, Encoder, head, tags};
use super::sealed::{Header, OpenError, Reader};
use super::{FRAME, RATE, folder};
use crate::base::CallId;

/// What audio is made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AudioFormat {
    /// Ogg Opus, left the far end, right the agent.
    Ogg,
    /// 16 bits, 16 kHz, the same channels.
    Wav,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The call was not recorded, or it was deleted.
    #[error("there is no recording of call {0}")]
    None(CallId),
    /// A part of it cannot be opened.
    #[error("part {part} of the recording of call {call}: {why}")]
    Part {
        /// The call.
        call: CallId,
        /// Which part.
        part: usize,
        /// One sentence.
        why: String,
    },
    /// More than is made at once.
    #[error("the recording of call {0} is too long for this: ask for Ogg instead of WAV")]
    TooLong(CallId),
    /// The codec fails.
    #[error("the recording cannot be converted: {0}")]
    Codec(String),
}

impl From<::opus::Error> for ExportError {
    fn from(error: ::opus::Error) -> Self {
        Self::Codec(error.to_string())
    }
}

/// Bytes that are made at once.
const MOST: usize = 192 << 20;

/// Packets on an Ogg page: a second.
const PAGE: u64 = 50;

/// Samples at 48 kHz in a packet, which is how Ogg counts Opus.
const GRANULE: u64 = 960;

const FRAME_US: i64 = 20_000;

/// Silence between two parts at most: a minute of a machine that was down is enough to tell.
const MOST_SILENCE: i64 = 60 * 50;

pub(super) fn export(folder: &Path, keys: &KeyRing, call: CallId, format: AudioFormat) -> Result<Vec<u8>, ExportError> {
    match format {
        AudioFormat::Ogg => ogg(folder, keys, call),
        AudioFormat::Wav => wav(folder, keys, call),
    }
}

/// Gives every packet of all parts, with silence where there is none; how many there were.
fn packets(
    folder: &Path,
    keys: &KeyRing,
    call: CallId,
    mut take: impl FnMut(&[u8]) -> Result<(), ExportError>,
) -> Result<u64, ExportError> {
    let paths = folder::parts(folder, call);
    if paths.is_empty() {
        return Err(ExportError::None(call));
    }
    let mut encoder = Encoder::new()?;
    let (mut given, mut begun_us) = (0_u64, None);
    for (number, path) in paths.iter().enumerate() {
        let failed = |error: OpenError| ExportError::Part { call, part: number + 1, why: error.to_string() };
        let mut reader = Reader::open(path, keys).map_err(failed)?;
        let Header { call: its, begun_us: at, .. } = reader.header;
        if its != call {
            return Err(failed(OpenError::Changed));
        }
        let begun = *begun_us.get_or_insert(at);
        let due = (at - begun) / FRAME_US - i64::try_from(given).unwrap_or(i64::MAX);
        for _ in 0..due.clamp(0, MOST_SILENCE) {
            take(encoder.silence()?)?;
            given += 1;
        }
        while let Some(chunk) = reader.next().map_err(failed)? {
            for packet in chunk {
                take(&packet)?;
                given += 1;
            }
        }
    }
    Ok(given)
}

fn ogg(folder: &Path, keys: &KeyRing, call: CallId) -> Result<Vec<u8>, ExportError> {
    let pre_skip = Encoder::new()?.pre_skip();
    #[expect(clippy::cast_possible_truncation, reason = "any number names the one stream of a file")]
    let serial = call.0 as u32;
    let mut writer = PacketWriter::new(Vec::new());
    let failed = |error: std::io::Error| ExportError::Codec(error.to_string());
    writer.write_packet(head(pre_skip), serial, PacketWriteEndInfo::EndPage, 0).map_err(failed)?;
    writer.write_packet(tags(), serial, PacketWriteEndInfo::EndPage, 0).map_err(failed)?;
    // The last packet says that it is the last, so each waits for the next.
    let (mut waiting, mut written) = (None::<Vec<u8>>, 0);
    packets(folder, keys, call, |packet| {
        if let Some(before) = waiting.replace(packet.to_vec()) {
            written += 1;
            let end = if written % PAGE == 0 { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket };
            writer.write_packet(before, serial, end, written * GRANULE).map_err(failed)?;
        }
        if writer.inner().len() > MOST { Err(ExportError::TooLong(call)) } else { Ok(()) }
    })?;
    // One that was cut off before its first second has no packet: it is a file without a sound.
    let last = match waiting {
        Some(last) => last,
        None => Encoder::new()?.silence()?.to_vec(),
    };
    writer.write_packet(last, serial, PacketWriteEndInfo::EndStream, (written + 1) * GRANULE).map_err(failed)?;
    Ok(writer.into_inner())
}

fn wav(folder: &Path, keys: &KeyRing, call: CallId) -> Result<Vec<u8>, ExportError> {
    let failed = |error: hound::Error| ExportError::Codec(error.to_string());
    let spec =
        hound::WavSpec { channels: 2, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let (mut bytes, mut decoder) = (Cursor::new(Vec::new()), Decoder::new()?);
    let mut writer = hound::WavWriter::new(&mut bytes, spec).map_err(failed)?;
    packets(folder, keys, call, |packet| {
        let pair = decoder.decode(packet)?;
        for (left, right) in pair.far_end.iter().zip(&pair.agent) {
            writer.write_sample(*left).and_then(|()| writer.write_sample(*right)).map_err(failed)?;
        }
        if writer.len() as usize * 2 > MOST { Err(ExportError::TooLong(call)) } else { Ok(()) }
    })?;
    writer.finalize().map_err(failed)?;
    Ok(bytes.into_inner())
}

/// Frames of a second, for whoever counts.
const _: () = assert!(FRAME * 50 == RATE as usize);

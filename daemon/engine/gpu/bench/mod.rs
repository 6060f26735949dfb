//! How fast a card is, against the bars. Enters: a device; leaves: times, in rows. Never here: a check of what was computed.

mod launches;
mod mind;
pub(crate) mod networks;
mod talking;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use crate::report::{Report, Row, Times, Weights};
use crate::{Setting, card};

pub(crate) fn all(setting: &Setting, report: &mut Report) {
    if setting.quick {
        report.tell_only();
    }
    report.group("copy", |report| copy(setting, report));
    report.group("decode", |report| mind::decode(setting, report));
    report.group("adapters", |report| mind::adapters(setting, report));
    report.group("talking", |report| talking::talking(setting, report));
    report.group("whisper-tiny", |report| networks::whisper_tiny(setting, report));
    report.group("whisper-turbo", |report| networks::whisper_turbo(setting, report));
    report.group("kokoro", |report| networks::kokoro(setting, report));
}

/// What the memory moves, beside what its sheet says.
fn copy(setting: &Setting, report: &mut Report) -> Result<()> {
    let bytes: usize = if setting.quick { 32 << 20 } else { 4 << 30 };
    let rate = copied(&setting.device, bytes)?;
    let sheet = card::bandwidth(&setting.device);
    let more = json!({
        "bytes": bytes,
        "sheet_gb_per_s": sheet.map(|sheet| sheet / 1e9),
        "of_sheet": sheet.map(|sheet| rate / sheet),
    });
    report.row(Row {
        key: "copy".into(),
        name: "copy on the device, bytes read and bytes written".into(),
        weights: Weights::None,
        figure: rate / 1e9,
        unit: "GB/s",
        bar: None,
        more,
    });
    Ok(())
}

/// Bytes per second, read and written.
fn copied(device: &Device, bytes: usize) -> Result<f64> {
    let from = Tensor::rand(0.0_f32, 1.0, bytes / DType::F32.size_in_bytes(), device)?;
    let times = Times::of(device, 3, 20, || {
        drop(from.copy()?);
        Ok(())
    })?;
    Ok(2.0 * bytes as f64 / (times.at(0.5) / 1000.0))
}

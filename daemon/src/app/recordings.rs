//! The recorder among the other parts: what became of parts goes to the database, erased calls are not recorded, and operators
//! get audio. Enters: configuration and agents; leaves: the running recorder, and what `control` asks it.

use std::sync::Arc;

use super::{StartError, configuration, machine, privacy, random};
use crate::base::Clock;
use crate::call::agents::Agents;
use crate::config::Config;
use crate::control::{Audio, AudioError, Recorded};
use crate::recording::{AudioFormat, ExportError, Part, Recorder, Recordings};
use crate::storage::{Record, RecordingRecord, StorageHandle, Timestamp};
use crate::telemetry::Metrics;

/// Starts the recorder.
pub(super) fn start(
    config: &Config,
    agents: &Agents,
    storage: &StorageHandle,
    metrics: &Metrics,
    clock: Arc<dyn Clock>,
) -> Result<Recorder, StartError> {
    let settings = privacy::recordings(config, agents).map_err(configuration)?;
    let (asked, told) = (storage.clone(), storage.clone());
    // A database that is not open yet cannot say who was erased.
    let permitted = Box::new(move |call| asked.is_erased(call).ok().map(|erased| !erased));
    let told = Box::new(move |part| told.record(Record::Recording(Box::new(recorded(part)))));
    let folder = config.recordings.path.clone();
    let recorder = Recorder::start(folder, settings, clock, random()?, (permitted, told)).map_err(machine)?;
    metrics.register(|registry| recorder.handle().metrics().register(registry));
    Ok(recorder)
}

fn recorded(part: Part) -> RecordingRecord {
    let Part { call, part, begun_us, ended, frames, lost, bytes, key } = part;
    RecordingRecord { call, part, begun: Timestamp(begun_us), ended, frames, lost, bytes, key }
}

/// As operators ask for it.
pub(super) fn for_control(recordings: Recordings) -> Recorded {
    let forgets = recordings.clone();
    let audio = move |call, audio| {
        let format = match audio {
            Audio::Ogg => AudioFormat::Ogg,
            Audio::Wav => AudioFormat::Wav,
        };
        recordings.export(call, format).map_err(|error| match error {
            ExportError::None(_) => AudioError::None(error.to_string()),
            _ => AudioError::Failed(error.to_string()),
        })
    };
    Recorded::new(audio, move |calls| forgets.forget(calls).map_err(|error| error.to_string()))
}

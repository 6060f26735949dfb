//! `/api/v1/recordings`: which there are; `/api/v1/calls/{id}/recording`: one as audio, for those who may hear callers. What
//! is on the disk, and that it is sealed, is the room `recording`'s business.

use std::fmt;
use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::calls::read;
use super::extract::{Asked, CallPath, Named};
use super::looks::look;
use super::reports::Span;
use super::who::Who;
use super::{Problem, Shared};
use crate::base::CallId;
use crate::storage::{RecordingRecord, Timestamp};

/// Rows of the list.
const LISTED: u32 = 1000;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Audio {
    /// Ogg Opus.
    #[default]
    Ogg,
    /// WAV.
    Wav,
}

/// Why there is none, in one sentence each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AudioError {
    /// The call was not recorded, or it was deleted.
    None(String),
    /// It cannot be made.
    Failed(String),
}

type Export = dyn Fn(CallId, Audio) -> Result<Vec<u8>, AudioError> + Send + Sync;
type Forget = dyn Fn(Vec<CallId>) -> Result<u64, String> + Send + Sync;

/// Finds recordings, and removes them; both wait for the disk.
#[derive(Clone)]
pub struct Recorded {
    export: Arc<Export>,
    forget: Arc<Forget>,
}

impl Recorded {
    /// Asks these.
    pub fn new(
        export: impl Fn(CallId, Audio) -> Result<Vec<u8>, AudioError> + Send + Sync + 'static,
        forget: impl Fn(Vec<CallId>) -> Result<u64, String> + Send + Sync + 'static,
    ) -> Self {
        Self { export: Arc::new(export), forget: Arc::new(forget) }
    }

    /// Removes all files of these calls; how many there were.
    pub(super) fn forget(&self, calls: Vec<CallId>) -> Result<u64, String> {
        (self.forget)(calls)
    }
}

/// No recorder.
impl Default for Recorded {
    fn default() -> Self {
        Self::new(|call, _| Err(AudioError::None(format!("there is no recording of call {call}"))), |_| Ok(0))
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorded")
    }
}

/// A part of a recording: a call has more than one if a daemon or a disk died in it.
#[derive(Serialize, ToSchema)]
pub(super) struct Part {
    #[schema(pattern = "^[0-9a-f]{16}$")]
    call: String,
    /// From 1.
    part: u32,
    /// Its first frame.
    begun: Timestamp,
    /// Whether it has; one whose daemon died has not.
    ended: bool,
    seconds: u64,
    /// Frames of 20 ms that are silence because they were lost.
    lost_frames: u64,
    /// Of the file.
    bytes: u64,
    /// What its key is called.
    key: String,
}

impl From<RecordingRecord> for Part {
    fn from(record: RecordingRecord) -> Self {
        let RecordingRecord { call, part, begun, ended, frames, lost, bytes, key } = record;
        Self { call: call.to_string(), part, begun, ended, seconds: frames / 50, lost_frames: lost, bytes, key }
    }
}

/// Parts that began in some time.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordingList {
    since: Timestamp,
    until: Timestamp,
    /// Newest first, 1000 at most.
    rows: Vec<Part>,
}

/// Parts of recordings, newest first; no caller is named.
#[utoipa::path(get, path = "/api/v1/recordings", tag = "recordings", params(Span),
    responses((status = 200, description = "The parts", body = RecordingList)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Asked(span): Asked<Span>,
) -> Result<Json<RecordingList>, Problem> {
    let (since, until) = span.of(&shared)?;
    let parts = read(&shared.state.storage, move |storage| storage.recordings(since, LISTED)).await?;
    Ok(Json(RecordingList { since, until, rows: parts.into_iter().map(Part::from).collect() }))
}

/// As what.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Format {
    /// Ogg Opus, unless it is WAV.
    #[param(inline)]
    format: Option<Audio>,
}

/// The audio of a call, left the caller, right the agent, or the range of it that was asked for.
#[utoipa::path(get, path = "/api/v1/calls/{id}/recording", tag = "recordings",
    params(CallPath, Format, ("range" = Option<String>, Header, description = "Bytes (RFC 9110)")),
    responses((status = 200, description = "The audio", content((Vec<u8> = "audio/ogg"), (Vec<u8> = "audio/wav"))),
        (status = 206, description = "A range of it", content((Vec<u8> = "audio/ogg"), (Vec<u8> = "audio/wav"))),
        (status = 404, description = "It was not recorded, or that was deleted"),
        (status = 416, description = "It has no such range"),
        (status = 500, description = "The recording cannot be read")))]
pub(super) async fn audio(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Named(call): Named,
    Asked(Format { format }): Asked<Format>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !who.callers {
        let why = "a recording is the caller's voice: it takes a token with scope operator, or http.show_callers";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let format = format.unwrap_or_default();
    look(&shared, &who, "recording.play", call.to_string())?;
    let recorded = shared.state.recorded.clone();
    let made = tokio::task::spawn_blocking(move || (recorded.export)(call, format)).await;
    let failed = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    let audio = made.map_err(|error| failed(error.to_string()))?.map_err(|error| match error {
        AudioError::None(why) => Problem::new(StatusCode::NOT_FOUND, why),
        AudioError::Failed(why) => failed(why),
    })?;
    let kind = match format {
        Audio::Ogg => "audio/ogg",
        Audio::Wav => "audio/wav",
    };
    let whole = audio.len();
    let headed = |status, range: Option<String>, bytes: Vec<u8>| {
        let fixed =
            [(header::CONTENT_TYPE, kind), (header::ACCEPT_RANGES, "bytes"), (header::CACHE_CONTROL, "no-store")];
        let mut response = (status, fixed, bytes).into_response();
        if let Some(Ok(range)) = range.map(|range| range.parse()) {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        response
    };
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    Ok(match asked.map(|range| part_of(range, whole)) {
        None | Some(Range::Ignored) => headed(StatusCode::OK, None, audio),
        Some(Range::Nothing) => Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "the recording has no such range")
            .with(header::CONTENT_RANGE, format!("bytes */{whole}"))
            .into_response(),
        Some(Range::Bytes(from, to)) => {
            let bytes = audio.get(from..to).unwrap_or_default().to_vec();
            headed(StatusCode::PARTIAL_CONTENT, Some(format!("bytes {from}-{}/{whole}", to - 1)), bytes)
        }
    })
}

/// What a `Range` asks for (RFC 9110 §14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Range {
    /// Several, or not in bytes: whoever asks gets all of it.
    Ignored,
    /// Nothing that there is.
    Nothing,
    /// From the first, up to before the second.
    Bytes(usize, usize),
}

fn part_of(range: &str, whole: usize) -> Range {
    let Some((from, to)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Ignored;
    };
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let (from, to) = match (number(from), number(to), to.trim().is_empty()) {
        (Some(from), Some(to), _) if from <= to => (from, to.saturating_add(1).min(whole)),
        (Some(from), None, true) => (from, whole),
        (None, Some(last), _) if from.trim().is_empty() => (whole.saturating_sub(last), whole),
        _ => return Range::Ignored,
    };
    if from >= to { Range::Nothing } else { Range::Bytes(from, to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_rfc_9110_says() {
        for (text, range) in [
            ("bytes=0-9", Range::Bytes(0, 10)),
            ("bytes=90-", Range::Bytes(90, 100)),
            ("bytes=-5", Range::Bytes(95, 100)),
            ("bytes=-500", Range::Bytes(0, 100)),
            ("bytes=50-1000", Range::Bytes(50, 100)),
            ("bytes=100-", Range::Nothing),
            ("bytes=-0", Range::Nothing),
            ("bytes=0-1,5-6", Range::Ignored),
            ("bytes=9-3", Range::Ignored),
            ("lines=1-2", Range::Ignored),
        ] {
            assert_eq!(part_of(text, 100), range, "{text}");
        }
    }
}

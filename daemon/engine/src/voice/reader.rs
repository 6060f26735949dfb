//! The thread that reads: texts in; their sentences out, in the order in which the texts came. So phonemes of one call
//! are found while windows of another are computed. Never here: a network, the gate.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use callbox_wire::{CallId, TurnId};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::speech::{Sentence, Speech, SpeechError};

/// Texts that wait; what finds it full is refused.
const ROOM: usize = 1024;

/// A clause that is to be read.
pub(super) struct Text {
    pub(super) clause: ClauseKey,
    pub(super) text: String,
    /// Who says it, if somebody is named.
    pub(super) voice: Option<String>,
    /// Gone when the clause is: cancelled, forgotten or failed.
    pub(super) wanted: Weak<()>,
}

/// Which clause: no two have the same, whatever a daemon calls them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClauseKey {
    pub(super) call: CallId,
    pub(super) turn: TurnId,
    pub(super) number: u64,
}

/// What a clause says.
pub(super) struct Reading {
    pub(super) clause: ClauseKey,
    pub(super) sentences: Result<Vec<Sentence>, SpeechError>,
}

/// Both ends of the thread, which ends when either is dropped.
#[expect(clippy::disallowed_methods, reason = "the edge: when a text is read")]
pub(super) fn start(speech: Arc<Speech>) -> io::Result<(Sender<Text>, Receiver<Reading>, JoinHandle<()>)> {
    let (texts, inbox) = bounded::<Text>(ROOM);
    let (outbox, readings) = bounded(ROOM);
    let thread = std::thread::Builder::new().name("voice-reader".into()).spawn(move || {
        for Text { clause, text, voice, wanted } in inbox {
            if wanted.strong_count() == 0 {
                continue;
            }
            let sentences = speech.sentences(&text, voice.as_deref(), Instant::now());
            if outbox.send(Reading { clause, sentences }).is_err() {
                return;
            }
        }
    })?;
    Ok((texts, readings, thread))
}

//! A call's end of its media: frames and events leave towards the call's task, frames to play and changes enter. It only
//! touches rings and flags; sockets and state live on the media thread, which frees them when this is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::Notify;

use super::capture::{Capture, Tee};
use super::playout::PlayFrame;
use super::session::{Change, Ends, SessionParameters, SessionStats};
use super::{Event, Frame, Keys, TapFrame};

/// Changes that wait for the media thread, which takes them every 20 ms.
const CONTROLS: usize = 8;

/// A bounded queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct Full;

/// What the media thread is told.
pub(super) enum Control {
    Capture(Tee),
    Press(Keys),
    Tap(Producer<TapFrame>),
    Update(Box<Change>),
}

/// What both ends see.
#[derive(Default)]
pub(super) struct Shared {
    /// The call's task is done with it.
    pub(super) closed: AtomicBool,
    /// The media thread is done with it.
    pub(super) ended: AtomicBool,
    pub(super) ready: Notify,
    pub(super) stats: Mutex<SessionStats>,
}

/// One call's media. Dropping it says goodbye to the far end and frees its ports.
pub struct MediaSession {
    ends: Ends,
    controls: Producer<Control>,
    shared: Arc<Shared>,
}

impl MediaSession {
    pub(super) fn new(ends: Ends) -> (Self, Consumer<Control>, Arc<Shared>) {
        let (controls, control) = RingBuffer::new(CONTROLS);
        let shared = Arc::new(Shared::default());
        (Self { ends, controls, shared: Arc::clone(&shared) }, control, shared)
    }

    /// The next 20 ms of what the caller says, if it is there. There is one for each 20 ms of the call; more than 12
    /// that nobody takes are dropped and counted.
    pub fn recv(&mut self) -> Option<Frame> {
        self.ends.play.tidy();
        self.ends.frames.pop()
    }

    /// Waits until a frame or an event may be there. Take all of both before waiting again.
    pub fn readable(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.ready.notified().await }
    }

    /// Queues 20 ms to be played.
    ///
    /// # Errors
    /// [`Full`] with 640 ms queued: wait for [`Self::readable`] and try again.
    pub fn push(&mut self, frame: PlayFrame) -> Result<(), Full> {
        if self.ends.play.push(frame) { Ok(()) } else { Err(Full) }
    }

    /// Frames that wait to be played.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.ends.play.queued()
    }

    /// Whether [`Self::push`] would fail: what was flushed is in the way for up to 20 ms more, then [`Event::Flushed`]
    /// makes this [`Self::readable`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ends.play.is_full()
    }

    /// Discards all that is queued and fades what is playing, within 20 ms and 8 ms. [`Event::Flushed`] follows, after
    /// [`Event::Played`] with what was heard. What is pushed from now on is played.
    pub fn flush(&mut self) {
        self.ends.play.flush();
    }

    /// What has happened since it was last asked for.
    pub fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.ends.events.pop().ok())
    }

    /// A re-INVITE has changed address, codec or direction; takes effect within 20 ms. Our stream goes on: its
    /// identifiers, sequence and timestamp are not taken from `parameters`.
    ///
    /// # Errors
    /// [`Full`] after eight changes in 20 ms.
    pub fn update(&mut self, parameters: SessionParameters) -> Result<(), Full> {
        self.controls.push(Control::Update(Box::new(Change::new(parameters)))).map_err(|_| Full)
    }

    /// Presses keys at the far end, one after the other, 200 ms each; audio waits meanwhile. [`Event::Pressed`] follows.
    /// As telephone events if the far end knows those, else as tones.
    ///
    /// # Errors
    /// [`Full`] after eight changes in 20 ms.
    pub fn press(&mut self, keys: Keys) -> Result<(), Full> {
        self.controls.push(Control::Press(keys)).map_err(|_| Full)
    }

    /// Copies both directions from now on, into a ring of so many frames (100 a second). Replaces an earlier tap.
    ///
    /// # Errors
    /// [`Full`] after eight changes in 20 ms.
    pub fn tap(&mut self, frames: usize) -> Result<Tap, Full> {
        let (producer, ring) = RingBuffer::new(frames);
        self.controls.push(Control::Tap(producer)).map_err(|_| Full)?;
        Ok(Tap { ring })
    }

    /// Copies the datagrams of both directions from now on, into a ring of so many. Replaces an earlier capture.
    ///
    /// # Errors
    /// [`Full`] after eight changes in 20 ms.
    pub fn capture(&mut self, datagrams: usize) -> Result<Capture, Full> {
        let (tee, capture) = Tee::new(datagrams);
        self.controls.push(Control::Capture(tee)).map_err(|_| Full)?;
        Ok(capture)
    }

    /// How the call is doing, as of at most a few ticks ago.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False after a failure on the media thread: no more frames will come, hang up.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.shared.ended.load(Ordering::Acquire)
    }
}

impl Drop for MediaSession {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

/// A copy of what was received and sent, on one time line. What is not taken in time is lost.
pub struct Tap {
    ring: Consumer<TapFrame>,
}

impl Tap {
    /// The next frame, if there is one. Both directions of the same index follow each other.
    pub fn recv(&mut self) -> Option<TapFrame> {
        self.ring.pop().ok()
    }

    /// The call is over, or another tap has taken its place.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ring.is_abandoned() && self.ring.is_empty()
    }
}

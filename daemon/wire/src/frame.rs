//! Frames on a byte stream: a little-endian `u32` length, then that many bytes of postcard.
//!
//! Enters: messages, or bytes in pieces of any size. Leaves: the same, the other way round. No bytes make it panic, and
//! none make it hold more than [`MAX_LEN`].

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame. A turn's whole conversation is the largest message, and far smaller.
pub const MAX_LEN: usize = 4 << 20;

const HEADER: usize = 4;

/// A stream that cannot be followed any further; close it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_LEN`].
    #[error("a frame of {0} bytes is longer than {MAX_LEN}")]
    TooLong(usize),
    /// Not a message of this version.
    #[error("not a message of protocol version {version}: {0}", version = crate::VERSION)]
    Malformed(#[from] postcard::Error),
}

/// Appends `message` as one frame to `out`.
///
/// # Errors
/// If the message is longer than [`MAX_LEN`]; `out` is then as it was.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let extended = postcard::to_extend(message, std::mem::take(out));
    match extended {
        Ok(bytes) => *out = bytes,
        Err(error) => return Err(error.into()),
    }
    let len = out.len() - start - HEADER;
    match u32::try_from(len) {
        Ok(header) if len <= MAX_LEN => {
            out[start..start + HEADER].copy_from_slice(&header.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(FrameError::TooLong(len))
        }
    }
}

/// Cuts a byte stream into messages.
#[derive(Default, Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    read: usize,
}

impl Decoder {
    /// Takes the bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// If the stream is not made of frames; nothing after that can be trusted.
    pub fn pop<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = &self.buffer[self.read..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER>() else { return Ok(None) };
        let len = u32::from_le_bytes(*header) as usize;
        if len > MAX_LEN {
            return Err(FrameError::TooLong(len));
        }
        let Some(body) = body.get(..len) else { return Ok(None) };
        let message = postcard::from_bytes(body)?;
        self.read += HEADER + len;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{CallId, Event, Pcm, Request, TurnId};

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(
            texts in prop::collection::vec(".{0,40}", 1..8),
            samples in prop::collection::vec(any::<i16>(), 0..400),
            step in 1_usize..97,
        ) {
            let mut sent: Vec<Event> = texts
                .into_iter()
                .map(|text| Event::Token { call: CallId(7), turn: TurnId(3), text })
                .collect();
            sent.push(Event::Audio {
                call: CallId(7), turn: TurnId(3), clause: crate::ClauseId(0), pcm: Pcm(samples),
            });
            let mut bytes = Vec::new();
            for message in &sent {
                encode(message, &mut bytes).expect("short");
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(message) = decoder.pop::<Event>().expect("well formed") {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.pop::<Request>() {}
        }
    }

    #[test]
    fn a_message_too_long_leaves_the_buffer_as_it_was() {
        let mut out = vec![1, 2, 3];
        let huge = Request::Hear { call: CallId(1), pcm: Pcm(vec![0; MAX_LEN]) };
        assert!(matches!(encode(&huge, &mut out), Err(FrameError::TooLong(_))));
        assert_eq!(out, [1, 2, 3]);
    }
}

//! One network per file: tensors in, tensors out. Never here: a queue, a call, a thread.

pub mod kokoro;
mod layers;
pub mod minilm;
pub mod silero;
pub mod transformer;
pub mod vits;
pub mod whisper;

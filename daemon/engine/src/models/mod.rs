//! One network per file: tensors in, tensors out. Never here: a queue, a call, a thread.

pub mod vits;

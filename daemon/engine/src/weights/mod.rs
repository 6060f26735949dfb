//! Files in; tensors out. No bytes of a file make it panic.

pub mod pickle;
pub mod safetensors;
pub mod tensors;
pub mod gguf;
pub mod import;

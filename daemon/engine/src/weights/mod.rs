//! Files in; tensors out. No bytes of a file make it panic.

pub mod ggml;
pub mod gguf;
pub mod import;
pub mod onnx;
pub mod peft;
pub mod pickle;
mod reader;
pub mod safetensors;
pub mod tensors;

//! Files in; tensors out. No bytes of a file make it panic.

pub mod gguf;
pub mod import;
pub mod onnx;
pub mod peft;
pub mod pickle;
pub mod safetensors;
pub mod tensors;

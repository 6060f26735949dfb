//! Files in; tensors out. No bytes of a file make it panic.

pub mod onnx;

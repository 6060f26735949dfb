//! safetensors: a JSON header and the tensors behind it.
//!
//! Enters: bytes. Leaves: names, shapes and places. Tensors of integers are passed over: no model here reads any.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};

use super::tensors::{Entry, Number, TensorError};

const HEADER: usize = 8;

/// Lists the tensors.
///
/// # Errors
/// If the bytes are not a safetensors file.
pub fn parse(bytes: &[u8]) -> Result<HashMap<String, Entry>, TensorError> {
    let (header_len, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|_| TensorError::Malformed("the safetensors header is wrong"))?;
    let data = HEADER + header_len;
    let mut entries = HashMap::new();
    for (name, info) in metadata.tensors() {
        let number = match info.dtype {
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::Bf16,
            _ => continue,
        };
        let entry = data
            .checked_add(info.data_offsets.0)
            .and_then(|start| Entry::checked(number, info.shape.clone(), start, bytes.len()))
            .ok_or(TensorError::Malformed("a tensor lies outside of the file"))?;
        entries.insert(name, entry);
    }
    Ok(entries)
}

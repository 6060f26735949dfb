//! Audio on the wire. Enters and leaves: signed 16-bit mono samples; travels as little-endian bytes, not as varints.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Signed 16-bit mono samples. The rate is a property of the stream: [`crate::EARS_RATE`] towards the ears, the rate
/// that [`crate::Request::Speak`] asked for on the way back.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pcm(pub Vec<i16>);

impl Serialize for Pcm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if cfg!(target_endian = "little") {
            serializer.serialize_bytes(bytemuck::cast_slice(&self.0))
        } else {
            let bytes: Vec<u8> = self.0.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            serializer.serialize_bytes(&bytes)
        }
    }
}

impl<'de> Deserialize<'de> for Pcm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Pcm;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an even number of bytes of 16-bit samples")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Pcm, E> {
                let (pairs, rest) = bytes.as_chunks::<2>();
                if rest.is_empty() {
                    Ok(Pcm(pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect()))
                } else {
                    Err(E::invalid_length(bytes.len(), &self))
                }
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

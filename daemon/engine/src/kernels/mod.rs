//! Fast paths that candle does not have, each behind a safe function.

pub mod gemv;
pub mod pointwise;

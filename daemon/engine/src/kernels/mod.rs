//! Fast paths that candle does not have, each behind a safe function.

pub mod conv;
pub mod math;

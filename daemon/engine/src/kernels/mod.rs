//! Fast paths that candle does not have, each behind a safe function.
//!
//! Enters: slices and packed weights. Leaves: slices. Never here: a model's structure, a file, a call.
//!
//! One text of each quantised kernel, written over the trait `isa::Isa`, is compiled for AVX-512 VNNI, for AVX2 and
//! for any processor; which one runs is found out at run time ([`Level::detect`]).

pub mod attention;
pub mod conv;
pub mod gemv;
mod isa;
pub mod lowrank;
pub mod math;
pub mod matmul;
pub mod packed;
pub mod pointwise;
pub mod pool;
pub mod row;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use isa::Level;
pub use pool::Pool;

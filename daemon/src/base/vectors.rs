//! The widest vectors that the processor has. A piece of work enters, its result leaves; it is compiled for AVX2 and for
//! the least x86-64, and which one runs is seen when it runs. Never here: work of its own.

/// A piece of work. Its `call` and what that calls must be `#[inline(always)]`: only what is inlined gets wide vectors,
/// and a closure is not.
pub use pulp::NullaryFnOnce as Work;

/// Does a piece of work with vectors as wide as the processor's.
pub fn with_widest_vectors<W: Work>(work: W) -> W::Output {
    pulp::Arch::new().dispatch(work)
}

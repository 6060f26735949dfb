//! What a kernel needs from a processor: sixteen lanes of f32 and i32, and a dot product of bytes.
//!
//! Enters: pointers into checked slices. Leaves: lanes. Every function here is inlined into an entry point that the
//! processor is known to be able to run.

/// Which instructions the kernels use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// AVX-512 with VNNI.
    Avx512Vnni,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Any processor.
    Portable,
}

impl Level {
    /// The best that this processor runs.
    #[must_use]
    pub fn detect() -> Self {
        *Self::available().first().unwrap_or(&Self::Portable)
    }

    /// Everything that this processor runs, the best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 {
                levels.insert(0, Self::Avx2);
            }
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") && has!("avx512vnni")
            {
                levels.insert(0, Self::Avx512Vnni);
            }
        }
        levels
    }
}

/// Sixteen lanes. Every function is unsafe for the same two reasons: the processor must have the instructions, and a
/// pointer must be good for what the function's name says it reads or writes.
pub(super) trait Isa: Copy {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;
    /// What [`Isa::dot4_wide`] takes a stored byte to be more than its value.
    const WIDE_OFFSET: f32;

    // SAFETY, for all of these: of the caller, as the trait's documentation says.
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a·b + c
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c − a·b
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// 16 little-endian half-precision numbers, 32 bytes.
    unsafe fn load_f16(from: *const u8) -> Self::F;
    /// 16 unsigned bytes.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// 16 signed bytes.
    unsafe fn load_i8(from: *const u8) -> Self::F;
    unsafe fn int_zero() -> Self::I;
    unsafe fn to_float(x: Self::I) -> Self::F;
    /// 64 bytes.
    unsafe fn bytes(from: *const u8) -> Self::B;
    unsafe fn low_nibbles(x: Self::B) -> Self::B;
    unsafe fn high_nibbles(x: Self::B) -> Self::B;
    /// Adds bits `2·I` and `2·I + 1` of each byte of `high` to `low` as bits 4 and 5.
    unsafe fn add_bits<const I: usize>(low: Self::B, high: Self::B) -> Self::B;
    /// Adds to each lane the dot product of its four bytes (unsigned, below 64) with the four signed bytes at `a`.
    unsafe fn dot4(acc: Self::I, w: Self::B, a: *const i8) -> Self::I;
    /// The same for bytes that hold a signed value plus 128; see [`Isa::WIDE_OFFSET`].
    unsafe fn dot4_wide(acc: Self::I, w: Self::B, a: *const i8) -> Self::I;
}

/// Plain Rust; the compiler may still find vectors in it.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait states what a caller promises")]
impl Isa for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    const WIDE_OFFSET: f32 = 0.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 16] {
        unsafe { from.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: [f32; 16]) {
        unsafe { to.cast::<[f32; 16]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fnma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> [f32; 16] {
        let bits = unsafe { from.cast::<[[u8; 2]; 16]>().read_unaligned() };
        bits.map(|bits| half::f16::from_le_bytes(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> [f32; 16] {
        unsafe { from.cast::<[u8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> [f32; 16] {
        unsafe { from.cast::<[i8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn int_zero() -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn to_float(x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> [u8; 64] {
        unsafe { from.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn low_nibbles(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x >> 4)
    }
    #[inline(always)]
    unsafe fn add_bits<const I: usize>(low: [u8; 64], high: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| low[i] | ((high[i] >> (2 * I)) & 3) << 4)
    }
    #[inline(always)]
    unsafe fn dot4(acc: [i32; 16], w: [u8; 64], a: *const i8) -> [i32; 16] {
        let a = unsafe { a.cast::<[i8; 4]>().read_unaligned() }.map(i32::from);
        std::array::from_fn(|lane| {
            let dot = |k: usize| i32::from(w[4 * lane + k]).wrapping_mul(a[k]);
            acc[lane].wrapping_add(dot(0)).wrapping_add(dot(1)).wrapping_add(dot(2)).wrapping_add(dot(3))
        })
    }
    #[inline(always)]
    unsafe fn dot4_wide(acc: [i32; 16], w: [u8; 64], a: *const i8) -> [i32; 16] {
        let a = unsafe { a.cast::<[i8; 4]>().read_unaligned() }.map(i32::from);
        std::array::from_fn(|lane| {
            let dot = |k: usize| i32::from((w[4 * lane + k] ^ 128).cast_signed()).wrapping_mul(a[k]);
            acc[lane].wrapping_add(dot(0)).wrapping_add(dot(1)).wrapping_add(dot(2)).wrapping_add(dot(3))
        })
    }
}

/// Makes a safe function that runs one generic kernel at the wanted [`Level`].
///
/// The level must come from [`Level::available`]; a level that this processor lacks is replaced by the portable one
/// only at compile time (another architecture), so it is an enum that nobody outside this module invents.
macro_rules! at_level {
    ($(#[$doc:meta])* unsafe fn $name:ident $(<const $m:ident: $mt:ty>)? ($($arg:ident: $ty:ty),* $(,)?) = $generic:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "pointers and sizes of one kernel")]
        unsafe fn $name $(<const $m: $mt>)? (level: $crate::kernels::Level, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                unsafe fn wide $(<const $m: $mt>)? ($($arg: $ty),*) {
                    // SAFETY: the features are on here; the rest is the caller's promise.
                    unsafe { $generic::<$crate::kernels::x86::Avx512 $(, $m)?>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                unsafe fn middle $(<const $m: $mt>)? ($($arg: $ty),*) {
                    // SAFETY: as above.
                    unsafe { $generic::<$crate::kernels::x86::Avx2 $(, $m)?>($($arg),*) }
                }
                match level {
                    // SAFETY: `Level::available` gave this level, so the processor has the features.
                    $crate::kernels::Level::Avx512Vnni => return unsafe { wide $(::<$m>)? ($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::Level::Avx2 => return unsafe { middle $(::<$m>)? ($($arg),*) },
                    $crate::kernels::Level::Portable => {}
                }
            }
            let _ = level;
            // SAFETY: the caller's promise about the pointers.
            unsafe { $generic::<$crate::kernels::isa::Portable $(, $m)?>($($arg),*) }
        }
    };
}
pub(super) use at_level;

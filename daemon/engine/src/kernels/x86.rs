//! [`Isa`] on x86-64. Enters and leaves: registers.
#![expect(clippy::undocumented_unsafe_blocks, reason = "the trait states what a caller promises")]

// SAFETY: true of every block of this file: whoever calls a method of [`Isa`] promises that this processor has the
// instructions and that pointers span a whole register; each method is one or a few instructions and adds no other need.

use std::arch::x86_64::*;

use super::isa::Isa;

/// One 512-bit register per sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

impl Isa for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const WIDE_OFFSET: f32 = 128.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn int_zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn to_float(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn low_nibbles(x: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(x, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(x: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn add_bits<const I: usize>(low: __m512i, high: __m512i) -> __m512i {
        unsafe {
            let moved = match I {
                0 => _mm512_slli_epi16::<4>(high),
                1 => _mm512_slli_epi16::<2>(high),
                2 => high,
                _ => _mm512_srli_epi16::<2>(high),
            };
            _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)))
        }
    }
    #[inline(always)]
    unsafe fn dot4(acc: __m512i, w: __m512i, a: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn dot4_wide(acc: __m512i, w: __m512i, a: *const i8) -> __m512i {
        unsafe { Self::dot4(acc, w, a) }
    }
}

/// Two 256-bit registers per sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

#[derive(Clone, Copy)]
pub(super) struct Pair<T>(T, T);

impl<T: Copy> Pair<T> {
    #[inline(always)]
    fn map<U>(self, f: impl Fn(T) -> U) -> Pair<U> {
        Pair(f(self.0), f(self.1))
    }
}

impl Isa for Avx2 {
    type F = Pair<__m256>;
    type I = Pair<__m256i>;
    type B = Pair<__m256i>;
    const WIDE_OFFSET: f32 = 0.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        let x = unsafe { _mm256_set1_ps(x) };
        Pair(x, x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        unsafe {
            _mm256_storeu_ps(to, x.0);
            _mm256_storeu_ps(to.add(8), x.1);
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { Pair(_mm256_fnmadd_ps(a.0, b.0, c.0), _mm256_fnmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self::F {
        unsafe {
            let half = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast()));
            Pair(half(0), half(16))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        unsafe {
            let half = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Pair(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self::F {
        unsafe {
            let half = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Pair(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn int_zero() -> Self::I {
        let zero = unsafe { _mm256_setzero_si256() };
        Pair(zero, zero)
    }
    #[inline(always)]
    unsafe fn to_float(x: Self::I) -> Self::F {
        x.map(|x| unsafe { _mm256_cvtepi32_ps(x) })
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::B {
        unsafe { Pair(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn low_nibbles(x: Self::B) -> Self::B {
        x.map(|x| unsafe { _mm256_and_si256(x, _mm256_set1_epi8(15)) })
    }
    #[inline(always)]
    unsafe fn high_nibbles(x: Self::B) -> Self::B {
        x.map(|x| unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15)) })
    }
    #[inline(always)]
    unsafe fn add_bits<const I: usize>(low: Self::B, high: Self::B) -> Self::B {
        unsafe {
            let moved = high.map(|high| match I {
                0 => _mm256_slli_epi16::<4>(high),
                1 => _mm256_slli_epi16::<2>(high),
                2 => high,
                _ => _mm256_srli_epi16::<2>(high),
            });
            let bits = moved.map(|moved| _mm256_and_si256(moved, _mm256_set1_epi8(0x30)));
            Pair(_mm256_or_si256(low.0, bits.0), _mm256_or_si256(low.1, bits.1))
        }
    }
    #[inline(always)]
    unsafe fn dot4(acc: Self::I, w: Self::B, a: *const i8) -> Self::I {
        unsafe {
            // Bytes below 64 times 127, twice, stay inside 16 bits.
            let a = _mm256_set1_epi32(a.cast::<i32>().read_unaligned());
            let dot = w.map(|w| _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
            Pair(_mm256_add_epi32(acc.0, dot.0), _mm256_add_epi32(acc.1, dot.1))
        }
    }
    #[inline(always)]
    unsafe fn dot4_wide(acc: Self::I, w: Self::B, a: *const i8) -> Self::I {
        unsafe {
            // 255 · 127 · 2 does not fit 16 bits: multiply magnitudes, with the sign on the other side.
            let a = _mm256_set1_epi32(a.cast::<i32>().read_unaligned());
            let dot = w.map(|w| {
                let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                let product = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
                _mm256_madd_epi16(product, _mm256_set1_epi16(1))
            });
            Pair(_mm256_add_epi32(acc.0, dot.0), _mm256_add_epi32(acc.1, dot.1))
        }
    }
}

//! Sixteen lanes of integer dot products, the same on every path: all sums are exact.

use super::by_hand::SixRows;

/// Operations on 16 outputs. A value of an implementing type proves that its instructions may be executed.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of i32.
    type I: Copy;
    /// Sums of products that are still to be widened to [`Lanes::I`].
    type P: Copy;
    /// Four unsigned bytes of each lane.
    type U: Copy;
    /// Four signed bytes of each lane.
    type S: Copy;
    /// Whether [`Lanes::P`] holds any sum; otherwise the magnitudes of its halves stay below 2^15.
    const WIDE: bool;
    /// Whether there is [`Lanes::six_rows`].
    const BY_HAND: bool = false;

    fn zero(self) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn load(self, from: &[f32; 16]) -> Self::F;
    fn store(self, to: &mut [f32; 16], v: Self::F);
    /// # Safety
    /// 32 bytes can be read.
    unsafe fn halves(self, from: *const u8) -> Self::F;
    /// # Safety
    /// 16 bytes can be read.
    unsafe fn unsigned_bytes(self, from: *const u8) -> Self::F;
    /// # Safety
    /// 16 bytes can be read.
    unsafe fn signed_bytes(self, from: *const u8) -> Self::F;

    /// Asks for a line that will be read soon; any address will do.
    fn prefetch(self, line: *const u8);
    /// The low and the high four bits of a line.
    ///
    /// # Safety
    /// 64 bytes can be read.
    unsafe fn nibbles(self, line: *const u8) -> [Self::U; 2];
    /// # Safety
    /// 64 bytes can be read.
    unsafe fn unsigned(self, line: *const u8) -> Self::U;
    /// # Safety
    /// 64 bytes can be read.
    unsafe fn signed(self, line: *const u8) -> Self::S;

    /// No products yet.
    fn none(self) -> Self::P;
    fn no_sum(self) -> Self::I;
    /// `p + w · a`, each lane's four weights with the same four signed bytes, none of which is -128.
    fn dot(self, p: Self::P, w: Self::U, a: i32) -> Self::P;
    /// Like [`Lanes::dot`], of signed weights.
    fn dot_signed(self, p: Self::P, w: Self::S, a: i32) -> Self::P;
    fn widen(self, p: Self::P) -> Self::I;
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_float(self, i: Self::I) -> Self::F;

    /// The kernel's loop over expanded blocks.
    ///
    /// # Safety
    /// The lines (aligned to 32 bytes), the rows and the outputs are where the fields say.
    unsafe fn six_rows(self, _: SixRows) {
        unreachable!("only where it is said to be there")
    }
}

/// Plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// # Safety
/// `N` bytes can be read.
#[inline(always)]
unsafe fn bytes<const N: usize>(from: *const u8) -> [u8; N] {
    // SAFETY: the caller's contract; bytes need no alignment.
    unsafe { from.cast::<[u8; N]>().read() }
}

impl Lanes for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    type P = [i32; 16];
    type U = [u8; 64];
    type S = [u8; 64];
    const WIDE: bool = true;

    #[inline(always)]
    fn zero(self) -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> [f32; 16] {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], v: [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    unsafe fn halves(self, from: *const u8) -> [f32; 16] {
        // SAFETY: the caller's contract.
        let bytes: [u8; 32] = unsafe { bytes(from) };
        std::array::from_fn(|i| half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    unsafe fn unsigned_bytes(self, from: *const u8) -> [f32; 16] {
        // SAFETY: the caller's contract.
        unsafe { bytes(from) }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn signed_bytes(self, from: *const u8) -> [f32; 16] {
        // SAFETY: the caller's contract.
        unsafe { bytes(from) }.map(|byte| f32::from(byte as i8))
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    unsafe fn nibbles(self, line: *const u8) -> [[u8; 64]; 2] {
        // SAFETY: the caller's contract.
        let line = unsafe { bytes(line) };
        [line.map(|byte| byte & 15), line.map(|byte| byte >> 4)]
    }
    #[inline(always)]
    unsafe fn unsigned(self, line: *const u8) -> [u8; 64] {
        // SAFETY: the caller's contract.
        unsafe { bytes(line) }
    }
    #[inline(always)]
    unsafe fn signed(self, line: *const u8) -> [u8; 64] {
        // SAFETY: the caller's contract.
        unsafe { bytes(line) }
    }
    #[inline(always)]
    fn none(self) -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    fn no_sum(self) -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    fn dot(self, mut p: [i32; 16], w: [u8; 64], a: i32) -> [i32; 16] {
        let a = a.to_ne_bytes();
        for (i, w) in w.into_iter().enumerate() {
            p[i / 4] += i32::from(w) * i32::from(a[i % 4] as i8);
        }
        p
    }
    #[inline(always)]
    fn dot_signed(self, mut p: [i32; 16], w: [u8; 64], a: i32) -> [i32; 16] {
        let a = a.to_ne_bytes();
        for (i, w) in w.into_iter().enumerate() {
            p[i / 4] += i32::from(w as i8) * i32::from(a[i % 4] as i8);
        }
        p
    }
    #[inline(always)]
    fn widen(self, p: [i32; 16]) -> [i32; 16] {
        p
    }
    #[inline(always)]
    fn add(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn to_float(self, i: [i32; 16]) -> [f32; 16] {
        i.map(|i| i as f32)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, SixRows};
    use std::arch::x86_64::*;

    /// Two registers of 8 lanes. Products of bytes are summed in 16 bits, two for each lane.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2, FMA and F16C.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Avx2 {
            Avx2(())
        }
    }

    // SAFETY of every block in this implementation: `self` exists, so the processor has AVX2, FMA and F16C (the
    // contract of `Avx2::new`); loads are unaligned ones of bytes that the caller promises, stores are to an array.
    impl Lanes for Avx2 {
        type F = [__m256; 2];
        type I = [__m256i; 2];
        type P = [__m256i; 2];
        type U = [__m256i; 2];
        /// Magnitudes, then the weights themselves.
        type S = [[__m256i; 2]; 2];
        const WIDE: bool = false;
        const BY_HAND: bool = true;

        #[inline(always)]
        fn zero(self) -> Self::F {
            [unsafe { _mm256_setzero_ps() }; 2]
        }
        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            [unsafe { _mm256_set1_ps(x) }; 2]
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        fn load(self, from: &[f32; 16]) -> Self::F {
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; 16], v: Self::F) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn halves(self, from: *const u8) -> Self::F {
            unsafe {
                let second = _mm_loadu_si128(from.add(16).cast());
                [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(second)]
            }
        }
        #[inline(always)]
        unsafe fn unsigned_bytes(self, from: *const u8) -> Self::F {
            unsafe {
                let (first, second) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast()));
                self.to_float([_mm256_cvtepu8_epi32(first), _mm256_cvtepu8_epi32(second)])
            }
        }
        #[inline(always)]
        unsafe fn signed_bytes(self, from: *const u8) -> Self::F {
            unsafe {
                let (first, second) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast()));
                self.to_float([_mm256_cvtepi8_epi32(first), _mm256_cvtepi8_epi32(second)])
            }
        }
        #[inline(always)]
        fn prefetch(self, line: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
        }
        #[inline(always)]
        unsafe fn nibbles(self, line: *const u8) -> [Self::U; 2] {
            unsafe {
                let [first, second] = self.unsigned(line);
                let low = _mm256_set1_epi8(15);
                let high = [_mm256_srli_epi16::<4>(first), _mm256_srli_epi16::<4>(second)];
                [
                    [_mm256_and_si256(first, low), _mm256_and_si256(second, low)],
                    [_mm256_and_si256(high[0], low), _mm256_and_si256(high[1], low)],
                ]
            }
        }
        #[inline(always)]
        unsafe fn unsigned(self, line: *const u8) -> Self::U {
            unsafe { [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())] }
        }
        #[inline(always)]
        unsafe fn signed(self, line: *const u8) -> Self::S {
            unsafe {
                let w = self.unsigned(line);
                [[_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])], w]
            }
        }
        #[inline(always)]
        fn none(self) -> Self::P {
            [unsafe { _mm256_setzero_si256() }; 2]
        }
        #[inline(always)]
        fn no_sum(self) -> Self::I {
            [unsafe { _mm256_setzero_si256() }; 2]
        }
        #[inline(always)]
        fn dot(self, p: Self::P, w: Self::U, a: i32) -> Self::P {
            unsafe {
                let a = _mm256_set1_epi32(a);
                [
                    _mm256_add_epi16(p[0], _mm256_maddubs_epi16(w[0], a)),
                    _mm256_add_epi16(p[1], _mm256_maddubs_epi16(w[1], a)),
                ]
            }
        }
        #[inline(always)]
        fn dot_signed(self, p: Self::P, [magnitudes, w]: Self::S, a: i32) -> Self::P {
            unsafe {
                let a = _mm256_set1_epi32(a);
                let signed = [_mm256_sign_epi8(a, w[0]), _mm256_sign_epi8(a, w[1])];
                [
                    _mm256_add_epi16(p[0], _mm256_maddubs_epi16(magnitudes[0], signed[0])),
                    _mm256_add_epi16(p[1], _mm256_maddubs_epi16(magnitudes[1], signed[1])),
                ]
            }
        }
        #[inline(always)]
        fn widen(self, p: Self::P) -> Self::I {
            unsafe {
                let ones = _mm256_set1_epi16(1);
                [_mm256_madd_epi16(p[0], ones), _mm256_madd_epi16(p[1], ones)]
            }
        }
        #[inline(always)]
        fn add(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn six_rows(self, rows: SixRows) {
            // SAFETY: `self` exists, the rest is the caller's contract.
            unsafe { rows.add() }
        }
        #[inline(always)]
        fn to_float(self, i: Self::I) -> Self::F {
            unsafe { [_mm256_cvtepi32_ps(i[0]), _mm256_cvtepi32_ps(i[1])] }
        }
    }
}

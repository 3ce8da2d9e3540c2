//! Sixteen f32 lanes, the same on every path, so that every path gives the same bits.
//!
//! A kernel is written once against [`Simd`]; [`dispatch!`](super::dispatch) compiles it for each path. The
//! width is fixed at 16 (two AVX2 registers, one AVX-512 register, an array), so that the order of sums does not
//! depend on the path.

/// Operations on 16 f32 lanes. A value of an implementing type proves that its instructions may be executed.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 16 lanes.
    type V: Copy;
    /// Whether there are registers for 24 and more accumulators of 16 lanes.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; 16]) -> Self::V;
    fn store(self, to: &mut [f32; 16], v: Self::V);
    /// Sixteen pairs of bf16 as u32, low half first: the lanes of the low and of the high halves.
    fn widen_pairs(self, pairs: &[u32; 16]) -> [Self::V; 2];
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { yes } else { no }`: `no` where one is NaN.
    fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The f32 with the bits `(bits(v) << 23) + (126 << 23)`.
    fn exponent(self, v: Self::V) -> Self::V;

    /// The lanes' sum, by halves: 16, 8, 4, 2, 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes, v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }

    /// The greatest lane; what it is of lanes with a NaN is not said.
    #[inline(always)]
    fn greatest(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes, v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
            }
        }
        lanes[0]
    }

    /// The exponential function: relative error below 1.2e-7 on [-86.6, 88.72]; 0 below, infinite above, NaN of NaN.
    ///
    /// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln 2 / 2, and a polynomial of degree 7 for exp(r).
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
        let shifted = self.fma(x, self.splat(std::f32::consts::LOG2_E), self.splat(12_582_912.0));
        let n = self.sub(shifted, self.splat(12_582_912.0));
        // ln 2 in two parts; the first has 15 bits, so that its product with n is exact.
        let r = self.fma(n, self.splat(-0.693_145_75), x);
        let r = self.fma(n, self.splat(-1.428_606_8e-6), r);
        let mut p = self.splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.fma(p, r, self.splat(coefficient));
        }
        // 2 p 2^(n-1), because 2^128 is no f32.
        let y = self.mul(self.add(p, p), self.exponent(shifted));
        let y = self.select_less(x, self.splat(-86.6), self.splat(0.0), y);
        self.select_less(self.splat(88.722_83), x, self.splat(f32::INFINITY), y)
    }
}

/// Plain arrays; `mul_add` rounds once on every machine.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; 16], b: [f32; 16], op: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; 16];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], v: [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn widen_pairs(self, pairs: &[u32; 16]) -> [[f32; 16]; 2] {
        [pairs.map(|pair| f32::from_bits(pair << 16)), pairs.map(|pair| f32::from_bits(pair & 0xffff_0000))]
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: [f32; 16], b: [f32; 16], yes: [f32; 16], no: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn exponent(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(126 << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// Two registers of 8 lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Avx2 {
            Avx2(())
        }
    }

    /// One register of 16 lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    impl Avx512 {
        /// # Safety
        /// The processor has AVX-512F.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Avx512 {
            Avx512(())
        }
    }

    // SAFETY of every block in this implementation: `self` exists, so the processor has AVX2 and FMA
    // (the contract of `Avx2::new`); loads and stores are unaligned ones inside the array behind the reference.
    impl Simd for Avx2 {
        type V = [__m256; 2];
        const WIDE: bool = false;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            [unsafe { _mm256_set1_ps(x) }; 2]
        }
        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> Self::V {
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; 16], v: Self::V) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
            }
        }
        #[inline(always)]
        fn widen_pairs(self, pairs: &[u32; 16]) -> [Self::V; 2] {
            unsafe {
                let first = _mm256_loadu_si256(pairs.as_ptr().cast());
                let second = _mm256_loadu_si256(pairs.as_ptr().add(8).cast());
                let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                let low = [_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second)];
                let high = [_mm256_and_si256(first, high), _mm256_and_si256(second, high)];
                [
                    [_mm256_castsi256_ps(low[0]), _mm256_castsi256_ps(low[1])],
                    [_mm256_castsi256_ps(high[0]), _mm256_castsi256_ps(high[1])],
                ]
            }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
            unsafe {
                [
                    _mm256_blendv_ps(no[0], yes[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
                    _mm256_blendv_ps(no[1], yes[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
                ]
            }
        }
        #[inline(always)]
        fn exponent(self, v: Self::V) -> Self::V {
            unsafe {
                let bias = _mm256_set1_epi32(126 << 23);
                let first = _mm256_slli_epi32::<23>(_mm256_castps_si256(v[0]));
                let second = _mm256_slli_epi32::<23>(_mm256_castps_si256(v[1]));
                [
                    _mm256_castsi256_ps(_mm256_add_epi32(first, bias)),
                    _mm256_castsi256_ps(_mm256_add_epi32(second, bias)),
                ]
            }
        }
    }

    // SAFETY of every block in this implementation: `self` exists, so the processor has AVX-512F
    // (the contract of `Avx512::new`); loads and stores are unaligned ones inside the array behind the reference.
    impl Simd for Avx512 {
        type V = __m512;
        const WIDE: bool = true;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> __m512 {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; 16], v: __m512) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn widen_pairs(self, pairs: &[u32; 16]) -> [__m512; 2] {
            unsafe {
                let pairs = _mm512_loadu_si512(pairs.as_ptr().cast());
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                [
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                    _mm512_castsi512_ps(_mm512_and_si512(pairs, high)),
                ]
            }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
        }
        #[inline(always)]
        fn exponent(self, v: __m512) -> __m512 {
            unsafe {
                let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(v));
                _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(126 << 23)))
            }
        }
    }
}

/// A computation written once for all paths.
pub(crate) trait Kernel {
    type Output;
    /// To be `#[inline(always)]`, so that it is compiled with the caller's instructions.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs a kernel on a path.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: super::Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: this function can only be called where AVX2 and FMA are known to be there.
            kernel.run(unsafe { Avx2::new() })
        }
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: this function can only be called where AVX-512F is known to be there.
            kernel.run(unsafe { Avx512::new() })
        }
        match isa.path() {
            super::Path::Portable => kernel.run(Portable),
            // SAFETY: an `Isa` with this path is only made after detecting AVX2 and FMA.
            super::Path::Avx2 => unsafe { avx2(kernel) },
            // SAFETY: an `Isa` with one of these paths is only made after detecting AVX-512F, AVX2 and FMA.
            super::Path::Avx512 | super::Path::Amx => unsafe { avx512(kernel) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        kernel.run(Portable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpu::Isa;

    struct Exp<'a>(&'a mut [[f32; 16]]);
    impl Kernel for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0 {
                let y = s.exp(s.load(x));
                s.store(x, y);
            }
        }
    }

    fn exp(isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut padded = x.to_vec();
        padded.resize(x.len().next_multiple_of(16), 0.0);
        dispatch(isa, Exp(padded.as_chunks_mut().0));
        padded.truncate(x.len());
        padded
    }

    #[test]
    fn exp_is_within_its_documented_error() {
        let x: Vec<f32> = (0..50_000).map(|i| -86.6 + i as f32 * (86.6 + 88.72) / 50_000.0).collect();
        for isa in Isa::available() {
            for (x, y) in x.iter().zip(exp(isa, &x)) {
                let expected = f64::from(*x).exp();
                let error = (f64::from(y) - expected).abs() / expected;
                assert!(error < 1.2e-7, "{isa:?} {x} {y} {error:e}");
            }
        }
    }

    #[test]
    fn exp_at_the_edges() {
        let x = [0.0, -0.0, f32::NEG_INFINITY, -1e30, -104.0, f32::INFINITY, 1e30, 89.0, f32::NAN];
        for isa in Isa::available() {
            let y = exp(isa, &x);
            assert_eq!(y[..8], [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]);
            assert!(y[8].is_nan());
        }
    }

    #[test]
    fn paths_agree_bit_for_bit() {
        let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.7391).sin() * 120.0).collect();
        let portable = exp(Isa::require(crate::model::cpu::Path::Portable).unwrap(), &x);
        for isa in Isa::available() {
            assert_eq!(exp(isa, &x), portable);
        }
    }
}

//! What the kernels' tests share: seeded numbers, paths, pools.

use super::Isa;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A seeded source.
pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Values in [-1, 1).
pub(crate) fn uniform(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Runs `f` with that many threads.
pub(crate) fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// The bits, so that NaN equals NaN and -0 differs from 0.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Asserts closeness within `tolerance`.
pub(crate) fn assert_close(name: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() <= tolerance, "{name}[{i}]: {g}, expected {e}");
    }
}

/// Runs a computation on each path of this machine and asserts that all give the bits of the best one.
pub(crate) fn same_on_all_paths(f: impl Fn(Isa) -> Vec<f32>) -> Vec<f32> {
    let expected = f(Isa::best());
    for isa in Isa::available() {
        assert_eq!(bits(&f(isa)), bits(&expected), "{isa:?}");
    }
    expected
}

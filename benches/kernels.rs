//! Throughput of the CPU kernels, beside candle's product and the processor's peak.
//!
//! Elements are floating point operations, so `Gelem/s` reads as GFLOP/s. Compare numbers of one run only.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use idiolect::model::cpu::{Format, Isa, PackedLinear};
use std::hint::black_box;
use std::time::Duration;

/// (inputs, outputs) of a 135M-parameter decoder's layers and its output matrix.
const SHAPES: [(usize, usize); 4] = [(576, 576), (576, 1536), (1536, 576), (576, 49152)];
const ROWS: [usize; 5] = [1, 8, 64, 256, 1024];

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect()
}

fn short<'a>(c: &'a mut Criterion, name: &str) -> criterion::BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    group
}

/// Fused multiply-adds on registers alone, one thread: what 100% means.
#[cfg(target_arch = "x86_64")]
fn peak(c: &mut Criterion) {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx2,fma")]
    fn avx2(rounds: usize) -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        sums.iter().map(|sum| _mm256_cvtss_f32(*sum)).sum()
    }
    #[target_feature(enable = "avx512f")]
    fn avx512(rounds: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut sums = [_mm512_set1_ps(1.0); 24];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        sums.iter().map(|sum| _mm512_cvtss_f32(*sum)).sum()
    }
    let rounds = 100_000;
    let mut group = short(c, "peak");
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        group.throughput(Throughput::Elements((rounds * 12 * 16) as u64));
        // SAFETY: just detected.
        group.bench_function("avx2 fma, 1 thread", |b| b.iter(|| unsafe { avx2(black_box(rounds)) }));
    }
    if is_x86_feature_detected!("avx512f") {
        group.throughput(Throughput::Elements((rounds * 24 * 32) as u64));
        // SAFETY: just detected.
        group.bench_function("avx512 fma, 1 thread", |b| b.iter(|| unsafe { avx512(black_box(rounds)) }));
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peak(_: &mut Criterion) {}

fn linear(c: &mut Criterion) {
    let isa = Isa::from_env().expect("a path of this machine");
    for (inner, out) in SHAPES {
        let weights = values(inner * out);
        let layers = [("f32", Format::F32), ("bf16 weights", Format::Bf16Weights), ("bf16", Format::Bf16)]
            .map(|(name, format)| (name, PackedLinear::pack_f32(&weights, out, inner, format)));
        let tensor = Tensor::from_vec(weights, (out, inner), &Device::Cpu).and_then(|w| w.t());
        let tensor = tensor.expect("a matrix");
        let mut group = short(c, &format!("linear {inner} to {out}"));
        for m in ROWS {
            group.throughput(Throughput::Elements((2 * m * inner * out) as u64));
            let x = values(m * inner);
            let mut y = vec![0.0; m * out];
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                for (name, layer) in &layers {
                    let id = BenchmarkId::new(format!("{name}, {threads} threads"), m);
                    group.bench_function(id, |b| pool.install(|| b.iter(|| layer.forward(isa, &x, m, &mut y))));
                }
            }
            let x = Tensor::from_vec(x, (m, inner), &Device::Cpu).expect("a matrix");
            group.bench_function(BenchmarkId::new("candle f32, default threads", m), |b| {
                b.iter(|| x.matmul(&tensor).expect("shapes agree"))
            });
        }
    }
}

criterion_group!(benches, peak, linear);
criterion_main!(benches);

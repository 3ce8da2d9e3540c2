//! Throughput of the CPU kernels, beside candle's product and the processor's peak.
//!
//! Elements are floating point operations, so `Gelem/s` reads as GFLOP/s. Compare numbers of one run only.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use idiolect::model::cpu::{
    Attention, CacheFormat, Format, Isa, KvCache, PackedLinear, QuantMatrix, QuantType, QuantizedLinear, Queries, Rows,
    label_nll,
};
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

/// The same products with quantised weights. One row is limited by memory, and measured in bytes of weights: many copies
/// take turns, so that none is in a cache.
fn quantized(c: &mut Criterion) {
    const BYTES: usize = 128 << 20;
    let isa = Isa::from_env().expect("a path of this machine");
    let kinds = [QuantType::Q4_1, QuantType::Q5_1, QuantType::Q8_0];
    for (inner, out) in SHAPES {
        let mut group = short(c, &format!("quantized {inner} to {out}"));
        for kind in kinds {
            let blocks = vec![1; out * inner / kind.block_inputs() * kind.block_bytes()];
            let copies = BYTES.div_ceil(blocks.len());
            let layer = || QuantizedLinear::pack(&[QuantMatrix { kind, out, blocks: &blocks }], inner);
            let layers: Vec<QuantizedLinear> = (0..copies).map(|_| layer()).collect();
            for m in [1, 32, 256] {
                match m {
                    1 => group.throughput(Throughput::Bytes(layers[0].bytes() as u64)),
                    _ => group.throughput(Throughput::Elements((2 * m * inner * out) as u64)),
                };
                let (x, mut y) = (values(m * inner), vec![0.0; m * out]);
                let mut layers = layers.iter().cycle();
                group.bench_function(BenchmarkId::new(format!("{kind:?}"), m), |b| {
                    b.iter(|| layers.next().map(|layer| layer.forward(isa, &x, m, &mut y)))
                });
            }
        }
    }
}

const ATTENTION: Attention = Attention { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };

fn cache(len: usize, format: CacheFormat) -> KvCache {
    let kv = values(len * 192);
    let mut cache = KvCache::new(3, 64, format);
    cache.append(Rows::packed(&kv, 192), Rows::packed(&kv, 192), len);
    cache
}

/// Causal attention of whole sequences, and of one new token after each of them.
fn attention(c: &mut Criterion) {
    let isa = Isa::from_env().expect("a path of this machine");
    let mut group = short(c, "attention");
    for format in [CacheFormat::F32, CacheFormat::Bf16] {
        for len in [256, 2048] {
            let (q, cache) = (values(len * 576), cache(len, format));
            let mut out = vec![0.0; len * 576];
            for (name, first) in [("whole", 0), ("one token", len - 1)] {
                let queries = [Queries { cache: &cache, rows: 0..len - first, first }];
                let seen: usize = (first + 1..=len).sum();
                group.throughput(Throughput::Elements((4 * 576 * seen) as u64));
                group.bench_function(BenchmarkId::new(format!("{name} {format:?}"), len), |b| {
                    b.iter(|| ATTENTION.forward(isa, Rows::packed(&q, 576), &queries, &mut out))
                });
            }
        }
    }
}

/// One new token of each of 32 texts, in one layer after another: more keys and values than caches hold.
fn writing(c: &mut Criterion) {
    const TEXTS: usize = 32;
    let isa = Isa::from_env().expect("a path of this machine");
    let mut group = short(c, "attention of 32 texts");
    for format in [CacheFormat::F32, CacheFormat::Bf16] {
        for len in [256, 512] {
            let layers: Vec<Vec<KvCache>> = (0..30).map(|_| (0..TEXTS).map(|_| cache(len, format)).collect()).collect();
            let (q, mut out) = (values(TEXTS * 576), vec![0.0; TEXTS * 576]);
            let mut layers = layers.iter().cycle();
            group.throughput(Throughput::Elements((4 * 576 * TEXTS * len) as u64));
            group.bench_function(BenchmarkId::new(format!("one token {format:?}"), len), |b| {
                b.iter(|| {
                    let caches = layers.next().into_iter().flatten().enumerate();
                    let queries: Vec<_> =
                        caches.map(|(row, cache)| Queries { cache, rows: row..row + 1, first: len - 1 }).collect();
                    ATTENTION.forward(isa, Rows::packed(&q, 576), &queries, &mut out)
                })
            });
        }
    }
}

/// Likelihoods of labels among 49152 entries.
fn labels(c: &mut Criterion) {
    let isa = Isa::from_env().expect("a path of this machine");
    let output = PackedLinear::pack_f32(&values(576 * 49152), 49152, 576, Format::F32);
    let mut group = short(c, "label nll");
    for m in [1, 64, 512] {
        let (hidden, labels) = (values(m * 576), vec![7; m]);
        let mut nll = vec![0.0; m];
        group.throughput(Throughput::Elements((2 * m * 576 * 49152) as u64));
        group.bench_function(BenchmarkId::new("f32", m), |b| {
            b.iter(|| label_nll(isa, &hidden, &output, &labels, &mut nll))
        });
    }
}

criterion_group!(benches, peak, linear, quantized, attention, writing, labels);
criterion_main!(benches);

//! Attention in tiles against attention sequence by sequence.

use super::super::super::{Angles, Kernels, LayerCache, Packing, Turned};
use super::super::Portable;
use super::super::fixed::noise;
use super::*;
use crate::model::files::Precision;
use proptest::prelude::*;

const DIM: usize = 8;

fn shape(key_value_heads: usize, group: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads: key_value_heads * group, key_value_heads, head_dim: DIM, window }
}

/// Runs attention of a pass, and gives its result and what was kept.
fn run(
    kernels: &Portable,
    shape: &AttentionShape,
    packing: &Packing,
    mut kept: Vec<Option<LayerCache>>,
    seed: usize,
) -> (Tensor, Vec<Option<LayerCache>>) {
    let tokens = packing.tokens();
    let width = shape.qkv_width();
    let all = noise((tokens + seed) * width, &Device::Cpu).unwrap();
    let qkv = all.narrow(0, seed * width, tokens * width).unwrap().reshape((tokens, width)).unwrap();
    let frequencies: Vec<f32> = (0..DIM / 2).map(|i| 0.3f32.powi(i as i32)).collect();
    let angles = kernels.angles(&frequencies, &packing.positions()).unwrap();
    assert!(matches!(angles, Angles::Tensors { .. }));
    let turned = Turned { norms: None, eps: 0.0, angles: &angles };
    let mut caches: Vec<Option<&mut LayerCache>> = kept.iter_mut().map(Option::as_mut).collect();
    let out = kernels.attention((qkv * 4.0).unwrap(), turned, shape, packing, &mut caches).unwrap();
    (out, kept)
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let worst = off.into_iter().fold(0.0, f32::max);
    assert!(worst < 2e-5, "{worst}");
}

/// What was kept, `[positions, key_value_heads, head_dim]`.
fn tensors(kernels: &Portable, cache: &Option<LayerCache>) -> Option<(Tensor, Tensor)> {
    match (cache, &kernels.gpu) {
        (Some(LayerCache::Tensors(pair)), None) => {
            pair.as_ref().map(|(k, v)| (k.transpose(0, 1).unwrap(), v.transpose(0, 1).unwrap()))
        }
        (Some(LayerCache::Rows(rows)), Some(gpu)) => gpu.read(rows),
        _ => panic!("a cache of other kernels"),
    }
}

fn both() -> [Portable; 2] {
    [Portable::new(&Device::Cpu, Precision::F32), Portable::as_on_a_gpu(&Device::Cpu, Precision::F32)]
}

/// A pass whose results and caches both ways must agree, and then a second one that goes on from the kept sequences.
fn check(shape: &AttentionShape, lengths: &[usize], branches: &[(usize, usize)], next: usize) {
    let mut packing = Packing::new(lengths.iter().copied());
    for (parent, length) in branches {
        packing.branch(*length, parent % packing.runs().len());
    }
    let kernels = both();
    let empty = |kernels: &Portable| vec![Some(kernels.cache(0, shape)); packing.runs().len()];
    let [(a, kept_a), (b, kept_b)] = kernels.each_ref().map(|k| run(k, shape, &packing, empty(k), 0));
    assert_close(&a, &b);
    for (a, b) in kept_a.iter().zip(&kept_b) {
        match (tensors(&kernels[0], a), tensors(&kernels[1], b)) {
            (Some(a), Some(b)) => {
                assert_close(&a.0, &b.0);
                assert_close(&a.1, &b.1);
            }
            (None, None) => {}
            _ => panic!("one keeps what the other does not"),
        }
    }
    let mut more = Packing::default();
    for run in packing.runs() {
        more.go_on(next, run.end());
    }
    let (a, _) = run(&kernels[0], shape, &more, kept_a, 5);
    let (b, _) = run(&kernels[1], shape, &more, kept_b, 5);
    assert_close(&a, &b);
}

#[test]
fn long_sequences_cross_tiles_and_blocks() {
    for window in [None, Some(1), Some(7), Some(32), Some(40)] {
        check(&shape(2, 3, window), &[1, 7, 8, 9, 33, 100, 130], &[(4, 17), (5, 1)], 3);
    }
}

#[test]
fn a_pass_of_many_sequences_takes_several_chunks() {
    check(&shape(1, 1, None), &[3; 20], &[(0, 2), (19, 90)], 1);
}

#[test]
fn a_sequence_whose_beginning_is_missing_is_refused() {
    let mut packing = Packing::default();
    packing.go_on(2, 5);
    assert!(spans(&packing, 0, &[vec![3..5, 8..10]]).unwrap_err().to_string().contains("position 5"));
    assert_eq!(spans(&packing, 9, &[vec![2..6, 8..9]]).unwrap()[0].keys, [2..6, 8..9, 9..11]);
}

/// A row that is no number spoils its own sequence alone.
#[test]
fn numbers_that_are_none_stay_in_their_sequence() {
    let shape = shape(1, 1, None);
    let rows = noise(7 * DIM, &Device::Cpu).unwrap().reshape((7, 1, DIM)).unwrap();
    let bad = Tensor::full(f32::NAN, (3, 1, DIM), &Device::Cpu).unwrap();
    let all = Tensor::cat(&[bad, rows], 0).unwrap();
    let plan = Plan::new(&spans(&Packing::new([3, 7]), 0, &[]).unwrap(), &shape, &Device::Cpu).unwrap();
    let out = plan.attend(&all, &all, &all, &shape).unwrap().to_vec2::<f32>().unwrap();
    assert!(out[..3].iter().flatten().all(|x| x.is_nan()));
    assert!(out[3..].iter().flatten().all(|x| x.is_finite()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_forest(
        lengths in prop::collection::vec(1usize..90, 1..6),
        branches in prop::collection::vec((0usize..9, 1usize..80), 0..4),
        heads in 1usize..3,
        group in 1usize..3,
        window in prop::option::of(1usize..120),
        next in 1usize..4,
    ) {
        check(&shape(heads, group, window), &lengths, &branches, next);
    }
}

//! Gradients of the elementwise kernels of `rows.rs`.
//!
//! Each is given what the forward pass read and the gradient of what it wrote; nothing else is kept of the forward
//! pass, because the rest is cheaper to compute again than to store and to read.

use super::rows::{for_each_row, norm_scale, padded};
use super::simd::{Kernel, Simd, dispatch};
use super::{Heads, Isa, Rows};

/// `dx += d(rms_norm(x) weight)/dx · dy` per row; x, dy and dx are `[m, weight.len()]`. The weight is frozen.
///
/// With `s = 1 / sqrt(mean(x²) + epsilon)` and `g = dy * weight`: `dx = s g - s³ x mean(g x)`.
///
/// # Panics
/// If lengths differ or x is no whole rows.
pub fn rms_norm_backward(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == dy.len() && x.len() == dx.len(), "inputs and gradients are of one size");
    assert!(x.len().is_multiple_of(width.max(1)), "rows of {width} in {} values", x.len());
    for_each_row(dx, width, |(row, dx)| {
        let part = row * width..(row + 1) * width;
        dispatch(isa, NormBackward { x: &x[part.clone()], weight, epsilon, dy: Some(&dy[part]), dx });
    });
}

/// The gradient of [`rms_norm_heads`](super::rms_norm_heads), in place: `dy` holds the gradient of the norms on entry
/// and that of `x` on return. Rows of `x` and `dy` have the layout that `heads` says; values beside the heads are
/// left alone.
///
/// # Panics
/// If x and dy differ in length or the weights are not a head's.
pub fn rms_norm_heads_backward(isa: Isa, x: &[f32], heads: Heads, weight: &[f32], epsilon: f32, dy: &mut [f32]) {
    assert!(x.len() == dy.len() && weight.len() == heads.dim, "inputs and gradients of heads of {}", heads.dim);
    let Heads { stride, offset, count, dim } = heads;
    assert!(offset + count * dim <= stride, "{count} heads of {dim} at {offset} in rows of {stride}");
    for_each_row(dy, stride, |(row, dy)| {
        for head in 0..count {
            let at = offset + head * dim;
            let (x, dx) = (&x[row * stride + at..][..dim], &mut dy[at..at + dim]);
            dispatch(isa, NormBackward { x, weight, epsilon, dy: None, dx });
        }
    });
}

struct NormBackward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    /// What is added to `dx`; `None` where `dx` holds it and is replaced.
    dy: Option<&'a [f32]>,
    dx: &'a mut [f32],
}

impl Kernel for NormBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = norm_scale(s, self.x, self.epsilon);
        let dy = self.dy.unwrap_or(&*self.dx);
        let mut sum = s.splat(0.0);
        let (xs, x_rest) = self.x.as_chunks::<16>();
        let (dys, dy_rest) = dy.as_chunks::<16>();
        let (weights, weight_rest) = self.weight.as_chunks::<16>();
        for ((x, dy), weight) in xs.iter().zip(dys).zip(weights) {
            sum = s.fma(s.mul(s.load(dy), s.load(weight)), s.load(x), sum);
        }
        let last = s.mul(s.load(&padded(dy_rest)), s.load(&padded(weight_rest)));
        let sum = s.sum(s.fma(last, s.load(&padded(x_rest)), sum));
        let shift = scale * scale * scale * (sum / self.x.len() as f32);
        // Plain code: the compiler does not fuse these products, so all paths round alike.
        let slope = |x: f32, weight: f32, dy: f32| dy * weight * scale - x * shift;
        let inputs = self.x.iter().zip(self.weight);
        match self.dy {
            Some(dy) => {
                self.dx.iter_mut().zip(dy).zip(inputs).for_each(|((dx, dy), (x, w))| *dx += slope(*x, *w, *dy));
            }
            None => self.dx.iter_mut().zip(inputs).for_each(|(dx, (x, w))| *dx = slope(*x, *w, *dx)),
        }
    }
}

/// The gradient of [`swiglu`](super::swiglu) for a fused product: rows of `gate_up` and of `d_gate_up` are `width` gates,
/// then `width` ups; `d_out` is `[m, width]`.
///
/// # Panics
/// If the lengths disagree.
pub fn swiglu_backward(isa: Isa, gate_up: &[f32], width: usize, d_out: &[f32], d_gate_up: &mut [f32]) {
    assert!(gate_up.len() == 2 * d_out.len() && gate_up.len() == d_gate_up.len(), "inputs and gradients");
    assert!(d_out.len().is_multiple_of(width.max(1)), "rows of {width} in {} values", d_out.len());
    let inputs = Rows::packed(gate_up, 2 * width);
    for_each_row(d_gate_up, 2 * width, |(row, d)| {
        let (gate, up) = inputs.row(row, 2 * width).split_at(width);
        let (d_gate, d_up) = d.split_at_mut(width);
        dispatch(isa, SwiGluBackward { gate, up, d_out: &d_out[row * width..][..width], d_gate, d_up });
    });
}

struct SwiGluBackward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    d_out: &'a [f32],
    d_gate: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl Kernel for SwiGluBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks::<16>();
        let (ups, up_rest) = self.up.as_chunks::<16>();
        let (outs, out_rest) = self.d_out.as_chunks::<16>();
        let (d_gates, d_gate_rest) = self.d_gate.as_chunks_mut::<16>();
        let (d_ups, d_up_rest) = self.d_up.as_chunks_mut::<16>();
        for i in 0..gates.len() {
            swiglu_lanes(s, &gates[i], &ups[i], &outs[i], &mut d_gates[i], &mut d_ups[i]);
        }
        let (mut d_gate, mut d_up) = ([0.0; 16], [0.0; 16]);
        let [gate, up, out] = [gate_rest, up_rest, out_rest].map(padded);
        swiglu_lanes(s, &gate, &up, &out, &mut d_gate, &mut d_up);
        d_gate_rest.copy_from_slice(&d_gate[..d_gate_rest.len()]);
        d_up_rest.copy_from_slice(&d_up[..d_up_rest.len()]);
    }
}

/// With `p = 1 / (1 + exp(-g))`: `d_up = d g p`, `d_gate = d up p (1 + g (1 - p))`.
#[inline(always)]
fn swiglu_lanes<S: Simd>(
    s: S,
    gate: &[f32; 16],
    up: &[f32; 16],
    d_out: &[f32; 16],
    d_gate: &mut [f32; 16],
    d_up: &mut [f32; 16],
) {
    let (g, d, one) = (s.load(gate), s.load(d_out), s.splat(1.0));
    let p = s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), g))));
    let slope = s.mul(p, s.fma(g, s.sub(one, p), one));
    s.store(d_up, s.mul(d, s.mul(g, p)));
    s.store(d_gate, s.mul(s.mul(d, s.load(up)), slope));
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Rotary, RotaryLayout};
    use super::*;

    /// `d(sum(f(x) * dy))/dx` by central differences in f64.
    fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let step = 1e-5;
        (0..x.len())
            .map(|i| {
                let at = x[i];
                x[i] = at + step;
                let above = f(&x);
                x[i] = at - step;
                let below = f(&x);
                x[i] = at;
                (above - below) / (2.0 * step)
            })
            .collect()
    }

    fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    fn weighted(y: impl IntoIterator<Item = f64>, dy: &[f32]) -> f64 {
        y.into_iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum()
    }

    #[test]
    fn norms_agree_with_differences() {
        let mut rng = rng(41);
        for width in [1, 15, 16, 17, 64, 100] {
            let (x, dy) = (uniform(&mut rng, 3 * width), uniform(&mut rng, 3 * width));
            let (weight, before) = (uniform(&mut rng, width), uniform(&mut rng, 3 * width));
            let total = |x: &[f64]| weighted(x.chunks(width).flat_map(|x| norm(x, &weight)), &dy);
            let expected = differences(&x, total);
            let got = same_on_all_paths(|isa| {
                let mut dx = before.clone();
                rms_norm_backward(isa, &x, &weight, 1e-5, &dy, &mut dx);
                dx
            });
            let sum: Vec<f64> = expected.iter().zip(&before).map(|(e, b)| e + f64::from(*b)).collect();
            // A width of one is nearly constant in x: its terms cancel.
            assert_close("norm", &got, &sum, if width == 1 { 2e-4 } else { 2e-5 });
            // The same numbers as heads of wider rows.
            let heads = Heads { stride: 3 * width + 5, offset: 2, count: 3, dim: width };
            let wide = |x: &[f32]| {
                let mut row = vec![7.0; heads.stride];
                row[2..2 + x.len()].copy_from_slice(x);
                row
            };
            let got = same_on_all_paths(|isa| {
                let mut dx = wide(&dy);
                rms_norm_heads_backward(isa, &wide(&x), heads, &weight, 1e-5, &mut dx);
                dx
            });
            assert_close("heads", &got[2..2 + 3 * width], &expected, if width == 1 { 2e-4 } else { 2e-5 });
            assert!(got[..2].iter().chain(&got[2 + 3 * width..]).all(|x| *x == 7.0));
        }
    }

    #[test]
    fn gates_agree_with_differences() {
        let mut rng = rng(42);
        for width in [1, 16, 37] {
            let x: Vec<f32> = uniform(&mut rng, 2 * 2 * width).iter().map(|x| x * 6.0).collect();
            let dy = uniform(&mut rng, 2 * width);
            let value = |x: &[f64]| {
                let row = |x: &[f64]| {
                    let (gate, up) = x.split_at(width);
                    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<_>>()
                };
                weighted(x.chunks(2 * width).flat_map(row), &dy)
            };
            let got = same_on_all_paths(|isa| {
                let mut dx = vec![f32::NAN; x.len()];
                swiglu_backward(isa, &x, width, &dy, &mut dx);
                dx
            });
            assert_close("swiglu", &got, &differences(&x, value), 1e-5);
        }
    }

    #[test]
    fn gates_of_extremes_have_finite_slopes() {
        let mut dx = [0.0; 8];
        let x = [200.0, -200.0, 0.0, 88.0, 1.0, 1.0, 1.0, 1.0];
        swiglu_backward(Isa::best(), &x, 4, &[1.0; 4], &mut dx);
        assert_eq!(dx, [1.0, 0.0, 0.5, 1.0, 200.0, 0.0, 0.0, 88.0]);
    }

    #[test]
    fn the_inverse_rotation_is_the_gradient() {
        let mut rng = rng(43);
        let positions = [0, 3, 900];
        let rotary = Rotary::new(RotaryLayout::Halves, &Rotary::frequencies(10_000.0, 8), &positions, 1.0);
        let heads = Heads { stride: 21, offset: 2, count: 2, dim: 8 };
        let (x, dy) = (uniform(&mut rng, 63), uniform(&mut rng, 63));
        let turn = |rotary: &Rotary, x: &[f32]| {
            let mut y = x.to_vec();
            rotary.apply(Isa::best(), &mut y, heads);
            y
        };
        // The map is linear: <R x, dy> = <x, R' dy>.
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (forward, backward) = (turn(&rotary, &x), turn(&rotary.inverse(), &dy));
        assert!((dot(&forward, &dy) - dot(&x, &backward)).abs() < 1e-5);
        let back: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        assert_close("turned and back", &turn(&rotary.inverse(), &forward), &back, 1e-6);
    }
}

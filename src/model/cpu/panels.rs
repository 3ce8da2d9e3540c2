//! Frozen weights, packed once into panels of 16 output columns.

use super::linear::Target;
use half::bf16;
use rayon::prelude::*;
use std::convert::Infallible;

/// How the weights of a [`PackedLinear`](super::PackedLinear) are kept, and what the product is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// f32 weights, f32 arithmetic.
    F32,
    /// bf16 weights, f32 inputs and arithmetic: half the memory, and where the weights are bf16 numbers to begin with,
    /// the bits of [`Format::F32`].
    Bf16Weights,
    /// bf16 weights, inputs rounded to bf16, f32 sums: for matrix units.
    Bf16,
}

/// Sixteen lanes of one k (f32) or of one pair of k (bf16), on a cache line of their own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub [T; 16]);

/// Panel-major lines.
#[derive(Debug)]
pub(crate) enum Panels {
    /// Line `panel * inner + k`.
    F32(Vec<Line<f32>>),
    /// Line `panel * pairs + k / 2`, low half even k.
    Bf16 { lines: Vec<Line<u32>>, pairs: usize },
}

/// Pairs of k per panel: whole AMX tiles of 16 pairs, the rest zero.
pub(crate) fn pairs(inner: usize) -> usize {
    inner.div_ceil(32) * 16
}

/// The lines' values in one slice.
pub(crate) fn flat(lines: &[Line<f32>]) -> &[f32] {
    // SAFETY: `Line` is `repr(C)` around an array of 64 bytes and 64 bytes aligned: no padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// As [`flat`], to be written.
pub(crate) fn flat_mut(lines: &mut [Line<f32>]) -> &mut [f32] {
    // SAFETY: as in `flat`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// The lines as arrays.
pub(crate) fn arrays(lines: &[Line<u32>]) -> &[[u32; 16]] {
    // SAFETY: as in `flat`.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
}

/// Lines made in parallel, chunk by chunk of `per` lines, by `fill(chunk, lines)`.
/// The memory is touched first by the thread that fills it, and never zeroed before.
fn build<T: Copy + Send, E: Send>(
    chunks: usize,
    per: usize,
    fill: impl Fn(usize, &mut dyn FnMut(usize, [T; 16])) -> Result<(), E> + Sync,
) -> Result<Vec<Line<T>>, E> {
    let mut lines = Vec::with_capacity(chunks * per);
    lines.spare_capacity_mut()[..chunks * per].par_chunks_mut(per.max(1)).enumerate().try_for_each(
        |(chunk, target)| {
            let mut written = 0;
            fill(chunk, &mut |at, line| {
                assert_eq!(at, written, "lines are written in order");
                target[at].write(Line(line));
                written += 1;
            })?;
            assert_eq!(written, per, "every line is written");
            Ok(())
        },
    )?;
    // SAFETY: all chunks were filled without error, and each was seen to write all of its lines.
    unsafe { lines.set_len(chunks * per) };
    Ok(lines)
}

/// Two weights of one column as bf16, the first in the low half.
fn pair_of(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

impl Panels {
    /// Packs `out` rows of `inner` weights. `row(j, buffer)` writes row j; it is called once for every j, from
    /// several threads. At no time is there a second copy of all weights.
    pub(crate) fn from_rows<E: Send>(
        out: usize,
        inner: usize,
        format: Format,
        row: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Panels, E> {
        // Sixteen rows, side by side in memory; rows beyond `out` are zero.
        let rows_of = |panel: usize| {
            let mut rows = vec![0.0; 16 * inner];
            for j in panel * 16..out.min(panel * 16 + 16) {
                row(j, &mut rows[(j % 16) * inner..][..inner])?;
            }
            Ok(rows)
        };
        let at = |rows: &[f32], lane: usize, k: usize| if k < inner { rows[lane * inner + k] } else { 0.0 };
        let panels = out.div_ceil(16);
        Ok(match format {
            Format::F32 => Panels::F32(build(panels, inner, |panel, write| {
                let rows = rows_of(panel)?;
                for k in 0..inner {
                    write(k, std::array::from_fn(|lane| rows[lane * inner + k]));
                }
                Ok(())
            })?),
            Format::Bf16Weights | Format::Bf16 => {
                let pairs = pairs(inner);
                let lines = build(panels, pairs, |panel, write| {
                    let rows = rows_of(panel)?;
                    for i in 0..pairs {
                        let line = |lane| pair_of(at(&rows, lane, 2 * i), at(&rows, lane, 2 * i + 1));
                        write(i, std::array::from_fn(line));
                    }
                    Ok(())
                })?;
                Panels::Bf16 { lines, pairs }
            }
        })
    }

    /// Packs `out` outputs of `inner` inputs from the transpose's rows: `column(k, buffer)` writes the `out` weights of
    /// input k; it is called once for every k, from several threads.
    pub(crate) fn from_columns(
        out: usize,
        inner: usize,
        format: Format,
        column: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Panels {
        let panels = out.div_ceil(16);
        // Input k has a line in every panel (for bf16: with its neighbour), so the writers are disjoint by k.
        match format {
            Format::F32 => {
                let mut lines = vec![Line([0.0; 16]); panels * inner];
                let target = Target(lines.as_mut_ptr());
                (0..inner).into_par_iter().for_each_init(
                    || vec![0.0; panels * 16],
                    |buffer, k| {
                        column(k, &mut buffer[..out]);
                        for (panel, values) in buffer.as_chunks().0.iter().enumerate() {
                            // SAFETY: in bounds, and no other k has this line.
                            unsafe { target.slice(panel * inner + k, 1)[0] = Line(*values) };
                        }
                    },
                );
                Panels::F32(lines)
            }
            Format::Bf16Weights | Format::Bf16 => {
                let pairs = pairs(inner);
                let mut lines = vec![Line([0; 16]); panels * pairs];
                let target = Target(lines.as_mut_ptr());
                (0..inner.div_ceil(2)).into_par_iter().for_each_init(
                    || [vec![0.0; panels * 16], vec![0.0; panels * 16]],
                    |[low, high], i| {
                        column(2 * i, &mut low[..out]);
                        match 2 * i + 1 {
                            k if k < inner => column(k, &mut high[..out]),
                            _ => high.fill(0.0),
                        }
                        for panel in 0..panels {
                            let line = |lane| pair_of(low[panel * 16 + lane], high[panel * 16 + lane]);
                            // SAFETY: in bounds, and no other pair has this line.
                            unsafe { target.slice(panel * pairs + i, 1)[0] = Line(std::array::from_fn(line)) };
                        }
                    },
                );
                Panels::Bf16 { lines, pairs }
            }
        }
    }

    /// The transpose of panels with `out` outputs of `inner` inputs: those of the layer `dx = dy W`.
    pub(crate) fn transposed(&self, out: usize, inner: usize) -> Panels {
        let panels = inner.div_ceil(16);
        let done = match self {
            Panels::F32(lines) => build(panels, out, |panel, write| {
                for j in 0..out {
                    let weight = |lane: usize| match panel * 16 + lane {
                        k if k < inner => lines[j / 16 * inner + k].0[j % 16],
                        _ => 0.0,
                    };
                    write(j, std::array::from_fn(weight));
                }
                Ok::<(), Infallible>(())
            })
            .map(Panels::F32),
            Panels::Bf16 { lines, pairs: own } => {
                let pairs = pairs(out);
                let weight = |j: usize, k: usize| match j < out && k < inner {
                    true => lines[j / 16 * own + k / 2].0[j % 16] >> (k % 2 * 16) & 0xffff,
                    false => 0,
                };
                build(panels, pairs, |panel, write| {
                    for i in 0..pairs {
                        let line = |lane| {
                            let k = panel * 16 + lane;
                            weight(2 * i, k) | weight(2 * i + 1, k) << 16
                        };
                        write(i, std::array::from_fn(line));
                    }
                    Ok::<(), Infallible>(())
                })
                .map(|lines| Panels::Bf16 { lines, pairs })
            }
        };
        match done {
            Ok(panels) => panels,
            Err(never) => match never {},
        }
    }

    /// Writes the weights of an output.
    pub(crate) fn row(&self, output: usize, row: &mut [f32]) {
        let (panel, lane) = (output / 16, output % 16);
        match self {
            Panels::F32(lines) => {
                let lines = &lines[panel * row.len()..];
                row.iter_mut().zip(lines).for_each(|(weight, line)| *weight = line.0[lane]);
            }
            Panels::Bf16 { lines, pairs } => {
                let lines = &lines[panel * pairs..];
                for (weights, line) in row.chunks_mut(2).zip(lines) {
                    let pair = [line.0[lane] << 16, line.0[lane] & 0xffff_0000];
                    weights.iter_mut().zip(pair).for_each(|(weight, bits)| *weight = f32::from_bits(bits));
                }
            }
        }
    }

    /// Bytes of the packed weights.
    pub(crate) fn bytes(&self) -> usize {
        64 * match self {
            Panels::F32(lines) => lines.len(),
            Panels::Bf16 { lines, .. } => lines.len(),
        }
    }
}

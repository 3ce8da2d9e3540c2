//! Sequences of similar lengths as one: a GPU is given the attention of a batch in few launches.
//!
//! Shorter ones are filled up at their end. What stands there is zero, comes after every token, and so is seen by none; its
//! own gradients are not read.

use super::super::{Packing, Run};
use super::QUERY_BLOCK;
use candle_core::{Result, Tensor};

/// The most scores of a block of queries.
const SCORES: usize = 1 << 26;
/// The row that stands for none: selecting it gives zeros.
const NO_ROW: u32 = u32::MAX;

/// Whole sequences, and the length that they are filled up to.
#[derive(Debug)]
pub(super) struct Group {
    runs: Vec<Run>,
    length: usize,
}

impl Group {
    /// The sequences of a packing, each in one group; none is filled up to more than twice its length.
    pub fn of(packing: &Packing, heads: usize) -> Result<Vec<Self>> {
        let mut runs: Vec<&Run> = packing.runs().iter().filter(|run| !run.rows.is_empty()).collect();
        if runs.iter().any(|run| run.start > 0) {
            candle_core::bail!("gradients are computed of whole sequences");
        }
        runs.sort_by_key(|run| std::cmp::Reverse(run.rows.len()));
        let mut groups: Vec<Self> = Vec::new();
        for run in runs {
            match groups.last_mut() {
                Some(group) if group.takes(run, heads) => group.runs.push(run.clone()),
                _ => groups.push(Self { runs: vec![run.clone()], length: run.rows.len() }),
            }
        }
        Ok(groups)
    }

    fn takes(&self, run: &Run, heads: usize) -> bool {
        let scores = (self.runs.len() + 1) * heads * self.length * self.length.min(QUERY_BLOCK);
        2 * run.rows.len() >= self.length && scores <= SCORES
    }

    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// `[tokens, heads, width]` as `[sequences * heads, length, width]`.
    pub fn gather(&self, t: &Tensor) -> Result<Tensor> {
        let (_, heads, width) = t.dims3()?;
        let mut index = Vec::with_capacity(self.len() * heads * self.length);
        for run in &self.runs {
            for head in 0..heads {
                index.extend(run.rows.clone().map(|row| (row * heads + head) as u32));
                index.resize(index.len() + self.length - run.rows.len(), NO_ROW);
            }
        }
        let index = Tensor::new(index, t.device())?;
        t.contiguous()?.flatten_to(1)?.index_select(&index, 0)?.reshape((self.len() * heads, self.length, width))
    }
}

/// What [`Group::gather`] took apart, group by group and flat, `[rows, width]`, as `[tokens, heads, width]` again.
pub(super) fn back(groups: &[Group], t: Tensor, tokens: usize) -> Result<Tensor> {
    let filled: usize = groups.iter().map(|group| group.len() * group.length).sum();
    let (rows, width) = t.dims2()?;
    let heads = rows / filled.max(1);
    let mut index = vec![NO_ROW; tokens * heads];
    let mut from = 0;
    for group in groups {
        for (run, head) in group.runs.iter().flat_map(|run| (0..heads).map(move |head| (run, head))) {
            for (place, row) in run.rows.clone().enumerate() {
                index[row * heads + head] = (from + place) as u32;
            }
            from += group.length;
        }
    }
    t.index_select(&Tensor::new(index, t.device())?, 0)?.reshape((tokens, heads, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_is_gathered_goes_back() {
        let packing = Packing::new([5, 0, 3, 12, 11, 1, 2]);
        let groups = Group::of(&packing, 2).unwrap();
        let lengths: Vec<(usize, usize)> = groups.iter().map(|group| (group.length, group.len())).collect();
        assert_eq!(lengths, [(12, 2), (5, 2), (2, 2)]);
        let tokens = packing.tokens();
        let t = Tensor::arange(1f32, 1.0 + (tokens * 6) as f32, &Device::Cpu).unwrap().reshape((tokens, 2, 3)).unwrap();
        let gathered: Vec<Tensor> = groups.iter().map(|group| group.gather(&t).unwrap()).collect();
        // The second sequence of the first group is filled up by one row of zeros.
        assert_eq!(gathered[0].get(2).unwrap().get(11).unwrap().to_vec1::<f32>().unwrap(), [0.0; 3]);
        let flat: Vec<Tensor> = gathered.iter().map(|t| t.flatten_to(1).unwrap()).collect();
        let all = back(&groups, Tensor::cat(&flat, 0).unwrap(), tokens).unwrap();
        assert_eq!(all.to_vec3::<f32>().unwrap(), t.to_vec3::<f32>().unwrap());
        let mut later = Packing::default();
        later.go_on(3, 2);
        assert!(Group::of(&later, 2).unwrap_err().to_string().contains("whole sequences"));
    }

    #[test]
    fn long_sequences_are_not_taken_together() {
        let groups = Group::of(&Packing::new([20_000; 3]), 16).unwrap();
        assert_eq!(groups.len(), 3);
    }
}

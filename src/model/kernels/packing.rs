//! What a pass computes: runs of tokens, laid end to end without padding.

use std::ops::Range;

/// Successive tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which rows of the pass the tokens are.
    pub rows: Range<usize>,
    /// The first token's position in its sequence.
    pub start: usize,
    /// The run of this pass that holds the tokens before it. Without one, a run that does not begin a sequence goes on
    /// from what was kept of earlier passes.
    pub parent: Option<usize>,
}

impl Run {
    /// The position after the last token.
    pub fn end(&self) -> usize {
        self.start + self.rows.len()
    }
}

/// The runs of a pass. They form a forest: sequences that begin alike share the runs of what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    runs: Vec<Run>,
}

impl Packing {
    /// Whole sequences of these lengths, nothing shared.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut packing = Self::default();
        for length in lengths {
            packing.begin(length);
        }
        packing
    }

    /// Adds the beginning of a sequence. Gives the run's number.
    pub fn begin(&mut self, length: usize) -> usize {
        self.go_on(length, 0)
    }

    /// Adds tokens to a sequence of which `start` positions were kept by earlier passes.
    pub fn go_on(&mut self, length: usize, start: usize) -> usize {
        self.push(length, start, None)
    }

    /// Adds tokens after the last one of another run.
    ///
    /// # Panics
    /// If there is no such run.
    pub fn branch(&mut self, length: usize, parent: usize) -> usize {
        self.push(length, self.runs[parent].end(), Some(parent))
    }

    fn push(&mut self, length: usize, start: usize, parent: Option<usize>) -> usize {
        let from = self.tokens();
        self.runs.push(Run { rows: from..from + length, start, parent });
        self.runs.len() - 1
    }

    /// The runs, each after its parent.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Number of tokens of all runs.
    pub fn tokens(&self) -> usize {
        self.runs.last().map_or(0, |run| run.rows.end)
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> Vec<u32> {
        self.runs.iter().flat_map(|run| run.start as u32..run.end() as u32).collect()
    }
}

/// Sequences that share their common beginnings.
#[derive(Debug, Default)]
pub struct Forest {
    pub tokens: Vec<u32>,
    pub packing: Packing,
    /// Per sequence, the runs from its beginning to its end.
    paths: Vec<Vec<usize>>,
}

/// A common beginning shorter than this is computed again rather than shared.
const SHARED: usize = 4;

impl Forest {
    /// Shares what the sequences have in common.
    pub fn new(sequences: &[&[u32]]) -> Self {
        let mut forest = Self::default();
        forest.plant(sequences, 0);
        forest
    }

    /// Adds sequences that share what they have in common with each other. Their first `kept` tokens, alike in all, were
    /// kept of earlier passes and are not computed. Gives the number of the first sequence; the others follow.
    pub fn plant(&mut self, sequences: &[&[u32]], kept: usize) -> usize {
        let first = self.paths.len();
        self.paths.resize(first + sequences.len(), Vec::new());
        let mut sorted: Vec<(usize, &[u32])> = (first..).zip(sequences.iter().copied()).collect();
        sorted.sort_by_key(|(_, tokens)| *tokens);
        self.grow(&sorted, kept, kept, &[]);
        first
    }

    /// Adds the next tokens of a sequence of which `start` positions were kept. Gives the sequence's number.
    pub fn go_on(&mut self, tokens: &[u32], start: usize) -> usize {
        let run = self.packing.go_on(tokens.len(), start);
        self.tokens.extend_from_slice(tokens);
        self.paths.push(vec![run]);
        self.paths.len() - 1
    }

    /// Adds sequences (number and tokens), sorted, that have `known` tokens in common, of which the first `done` are kept
    /// or the runs of `path`.
    fn grow(&mut self, sorted: &[(usize, &[u32])], done: usize, known: usize, path: &[usize]) {
        let (Some((_, first)), Some((_, last))) = (sorted.first(), sorted.last()) else { return };
        let common = known + common(&first[known..], &last[known..]);
        let mut path = path.to_vec();
        let mut done = done;
        if common - done >= SHARED || (sorted.len() == 1 && common > done) {
            let length = common - done;
            let run = match path.last() {
                Some(parent) => self.packing.branch(length, *parent),
                None => self.packing.go_on(length, done),
            };
            self.tokens.extend_from_slice(&first[done..common]);
            path.push(run);
            done = common;
        }
        // In sorted order, those that end here stand first, the others by their next token.
        for group in sorted.chunk_by(|(_, a), (_, b)| a.get(common) == b.get(common)) {
            match group[0].1.len() == common {
                false => self.grow(group, done, common, &path),
                true if done == common => group.iter().for_each(|(i, _)| self.paths[*i] = path.clone()),
                true => group.iter().for_each(|one| self.grow(&[*one], done, common, &path)),
            }
        }
    }

    /// The runs of a sequence, from what is computed first to its end; none where nothing is computed.
    pub fn path(&self, sequence: usize) -> &[usize] {
        &self.paths[sequence]
    }

    /// The row of the pass that holds a position of a sequence.
    ///
    /// # Panics
    /// If the sequence is shorter.
    pub fn row(&self, sequence: usize, position: usize) -> usize {
        let runs = self.packing.runs();
        let path = &self.paths[sequence];
        let holder = path.partition_point(|run| runs[*run].end() <= position);
        let run = &runs[path[holder]];
        run.rows.start + position - run.start
    }
}

/// How many tokens two sequences begin with in common.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The tokens of a sequence, read back through its rows.
    fn read(forest: &Forest, sequence: usize, length: usize) -> Vec<u32> {
        (0..length).map(|position| forest.tokens[forest.row(sequence, position)]).collect()
    }

    #[test]
    fn a_question_is_computed_once() {
        let question: Vec<u32> = (0..50).collect();
        let with = |answer: &[u32]| [&question, answer].concat();
        let rows = [with(&[100, 101, 102]), with(&[200]), with(&[100, 101, 103, 104])];
        let forest = Forest::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        // The two answers have too little in common to share more than the question.
        assert_eq!(forest.tokens.len(), 50 + 3 + 1 + 4);
        assert_eq!(forest.packing.runs().iter().filter(|r| r.parent.is_none()).count(), 1);
    }

    #[test]
    fn the_same_twice_and_a_beginning_of_another() {
        let rows: [&[u32]; 4] = [&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], &[1, 2, 3], &[]];
        let forest = Forest::new(&rows);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(read(&forest, i, row.len()), *row);
        }
    }

    proptest! {
        #[test]
        fn every_sequence_can_be_read_back(rows in prop::collection::vec(prop::collection::vec(0u32..3, 0..24), 0..20)) {
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let shared = Forest::new(&rows);
            let runs = shared.packing.runs();
            prop_assert_eq!(shared.tokens.len(), shared.packing.tokens());
            prop_assert!(shared.tokens.len() <= rows.iter().map(|r| r.len()).sum());
            for (i, row) in rows.iter().enumerate() {
                prop_assert_eq!(&read(&shared, i, row.len())[..], *row);
            }
            for (i, run) in runs.iter().enumerate() {
                prop_assert!(!run.rows.is_empty());
                prop_assert!(run.parent.is_none_or(|p| p < i));
                prop_assert_eq!(run.start, run.parent.map_or(0, |p| runs[p].end()));
            }
        }

        /// What is kept is not computed; what follows can be read back.
        #[test]
        fn sequences_go_on_from_what_is_kept(
            kept in prop::collection::vec(0u32..3, 0..9),
            ends in prop::collection::vec(prop::collection::vec(0u32..3, 1..9), 1..9),
        ) {
            let rows: Vec<Vec<u32>> = ends.iter().map(|end| [&kept[..], end].concat()).collect();
            let mut forest = Forest::new(&[&[7, 8, 9]]);
            let one = forest.go_on(&[5, 6], 30);
            let first = forest.plant(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), kept.len());
            prop_assert_eq!((one, first), (1, 2));
            prop_assert_eq!(forest.tokens[forest.row(one, 31)], 6);
            for (i, row) in rows.iter().enumerate() {
                for (position, token) in row.iter().enumerate().skip(kept.len()) {
                    prop_assert_eq!(forest.tokens[forest.row(first + i, position)], *token);
                }
                let root = &forest.packing.runs()[forest.path(first + i)[0]];
                prop_assert_eq!((root.parent, root.start), (None, kept.len()));
            }
        }
    }
}

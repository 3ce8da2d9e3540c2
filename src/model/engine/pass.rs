//! What one pass computes, and what comes of it.

use super::prefixes::Prefixes;
use super::scoring::{Row, ScoreAddress};
use super::writing::{Step, Writing};
use super::{Counts, Sequence};
use crate::model::error::{Doing, Result};
use crate::model::kernels::{Forest, common};
use crate::model::language_model::{Encoded, LanguageModel};
use crate::model::{ScoreFailure, Scored};
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of logits that are held at once: on a GPU as many as its products have, whatever they are filled up with.
const LOGIT_ROWS: usize = 64;
const LOGIT_ROWS_ON_A_GPU: usize = 256;
/// A prompt's part is not smaller than this, unless it is the last.
const SMALLEST_PART: usize = 32;

/// A prefix that a sequence goes on from: its number, and how many tokens.
type Root = Option<(u64, usize)>;

/// Sequences to be computed together.
pub(super) struct Pass {
    budget: usize,
    tokens: usize,
    /// Texts that go on from sequences of their own, with the number of tokens that are computed.
    going_on: Vec<(Writing, usize)>,
    planted: Vec<Planted>,
    /// Where the scores of its rows go, in their order.
    addresses: Vec<ScoreAddress>,
}

/// A sequence that may share its beginning with others.
struct Planted {
    /// Up to where it is computed.
    tokens: Vec<u32>,
    root: Root,
    what: What,
}

enum What {
    Writing(Box<Writing>),
    Row(Encoded),
}

/// What a pass gave.
#[derive(Default)]
pub(super) struct Ran {
    pub counts: Counts,
    /// In the order of the rows.
    pub scored: Vec<std::result::Result<Scored, ScoreFailure>>,
    /// In the order in which they were begun.
    pub written: Vec<(Writing, Step)>,
}

impl Pass {
    pub fn new(budget: usize) -> Self {
        Self { budget, tokens: 0, going_on: Vec::new(), planted: Vec::new(), addresses: Vec::new() }
    }

    /// How many tokens it can still take.
    pub fn left(&self) -> usize {
        self.budget.saturating_sub(self.tokens)
    }

    pub fn is_empty(&self) -> bool {
        self.going_on.is_empty() && self.planted.is_empty()
    }

    /// How many texts it goes on with.
    pub fn texts(&self) -> usize {
        let begun = self.planted.iter().filter(|p| matches!(p.what, What::Writing(_)));
        self.going_on.len() + begun.count()
    }

    /// Whether a row that adds so many tokens can ride along. The first one always can, however long it is.
    pub fn takes(&self, tokens: usize) -> bool {
        tokens <= self.left() || (self.planted.is_empty() && self.left() > 0)
    }

    /// How many of a sequence's first tokens are computed already or in this pass.
    pub fn shared(&self, tokens: &[u32], root: Root) -> usize {
        let beside = self.planted.iter().filter(|p| p.root == root).map(|p| common(&p.tokens, tokens));
        beside.max().unwrap_or(0).max(root.map_or(0, |(_, len)| len))
    }

    /// The next tokens of a text that has a sequence.
    pub fn go_on(&mut self, writing: Writing, tokens: usize) {
        self.tokens += tokens;
        self.going_on.push((writing, tokens));
    }

    /// A text from its beginning, of which `shared` tokens need not be computed; as much of it as fits.
    pub fn begin(&mut self, writing: Writing, mut tokens: Vec<u32>, root: Root, shared: usize) {
        let part = (tokens.len() - shared).min(self.left().max(SMALLEST_PART));
        tokens.truncate(shared + part);
        self.tokens += part;
        self.planted.push(Planted { tokens, root, what: What::Writing(Box::new(writing)) });
    }

    /// A row to be scored.
    pub fn score(&mut self, row: Row, root: Root, shared: usize) {
        let Row { encoded, address } = row;
        let tokens = encoded.tokens.clone();
        self.tokens += tokens.len() - shared;
        self.planted.push(Planted { tokens, root, what: What::Row(encoded) });
        self.addresses.push(address);
    }

    /// Where the scores go: they must be answered if the pass fails as well.
    pub fn take_addresses(&mut self) -> Vec<ScoreAddress> {
        std::mem::take(&mut self.addresses)
    }

    /// Computes everything. `prefixes` lend what they have and keep what others may go on from.
    pub fn run(self, model: &LanguageModel, prefixes: &mut Prefixes) -> Result<Ran> {
        let planned = (self.going_on.len() + self.planted.len(), self.tokens);
        self.lay_out(model, prefixes).and_then(|layout| layout.compute(model, prefixes)).doing(|| {
            let (sequences, tokens) = planned;
            format!("computing {tokens} tokens of {sequences} sequences with {}", model.text.path().display())
        })
    }

    /// Gives every token its row and every run the sequence that it goes on from.
    fn lay_out(mut self, model: &LanguageModel, prefixes: &mut Prefixes) -> candle_core::Result<Layout> {
        let mut layout = Layout::default();
        for (mut writing, count) in self.going_on {
            let from = writing.computed();
            let number = layout.forest.go_on(&writing.part(from, from + count), from);
            layout.kept.push(writing.sequence.take());
            layout.writings.push((number, from + count, writing));
        }
        // In order within a root: texts stay in the order in which they were begun.
        let mut order: Vec<usize> = (0..self.planted.len()).collect();
        order.sort_by_key(|i| self.planted[*i].root);
        let mut numbers = vec![0; self.planted.len()];
        for group in order.chunk_by(|a, b| self.planted[*a].root == self.planted[*b].root) {
            let sequences: Vec<&[u32]> = group.iter().map(|i| &self.planted[*i].tokens[..]).collect();
            let root = self.planted[group[0]].root;
            let first = layout.forest.plant(&sequences, root.map_or(0, |(_, len)| len));
            group.iter().zip(first..).for_each(|(i, number)| numbers[*i] = number);
            for run in &layout.forest.packing.runs()[layout.kept.len()..] {
                layout.kept.push(match root.filter(|_| run.parent.is_none()) {
                    Some((number, len)) => prefixes.take(number, len)?,
                    None => None,
                });
            }
        }
        let mut last_row = None;
        for (number, planted) in numbers.into_iter().zip(self.planted.drain(..)) {
            match planted.what {
                What::Writing(writing) => {
                    layout.keep(number, model);
                    layout.writings.push((number, planted.tokens.len(), *writing));
                }
                What::Row(row) => {
                    last_row = Some(number);
                    layout.rows.push((number, row));
                }
            }
        }
        // Rows to come may have the last one's prompt or begin like it.
        if let Some(number) = last_row.filter(|_| model.decoder().batch_invariant()) {
            layout.keep(number, model);
        }
        Ok(layout)
    }
}

/// A pass, laid out.
#[derive(Default)]
struct Layout {
    forest: Forest,
    /// Per run, the sequence that it goes on from or is kept in.
    kept: Vec<Option<Sequence>>,
    /// Texts with their numbers in the forest and up to where they are computed.
    writings: Vec<(usize, usize, Writing)>,
    rows: Vec<(usize, Encoded)>,
}

impl Layout {
    /// Has a sequence kept to its end.
    fn keep(&mut self, number: usize, model: &LanguageModel) {
        if let Some(run) = self.forest.path(number).last() {
            self.kept[*run].get_or_insert_with(|| model.decoder().sequence());
        }
    }

    /// A sequence that was kept.
    fn kept(&self, number: usize) -> Option<Sequence> {
        self.kept[*self.forest.path(number).last()?].clone()
    }

    fn compute(mut self, model: &LanguageModel, prefixes: &mut Prefixes) -> candle_core::Result<Ran> {
        let mut kept: Vec<Option<&mut Sequence>> = self.kept.iter_mut().map(Option::as_mut).collect();
        let hidden = model.decoder().pass(&self.forest.tokens, &self.forest.packing, &mut kept)?;
        let mut ran = Ran::default();
        (ran.counts.passes, ran.counts.computed) = (1, self.forest.tokens.len() as u64);
        ran.counts.asked = self.rows.iter().map(|(_, row)| row.tokens.len() as u64).sum();
        self.keep_prefixes(model, prefixes)?;
        ran.scored = self.score(&hidden, model)?;
        ran.written = self.write(&hidden, model)?;
        ran.counts.written = ran.written.iter().filter(|(w, _)| w.open() == 1).count() as u64;
        Ok(ran)
    }

    /// Hands sequences to their texts, and beginnings to those who come later.
    fn keep_prefixes(&mut self, model: &LanguageModel, prefixes: &mut Prefixes) -> candle_core::Result<()> {
        let sequences: Vec<Option<Sequence>> = self.writings.iter().map(|(number, ..)| self.kept(*number)).collect();
        for ((.., writing), sequence) in self.writings.iter_mut().zip(sequences) {
            writing.sequence = sequence;
        }
        if model.decoder().batch_invariant() {
            let row = self.rows.last().and_then(|(number, row)| Some((row, self.kept(*number)?)));
            if let Some((Encoded { tokens, prompt, .. }, sequence)) = row {
                prefixes.keep(&tokens[..*prompt], sequence)?;
            }
            let mut before = None;
            for (_, upto, writing) in &self.writings {
                let whole = writing.is_new() && *upto == writing.len();
                let again = before.is_some_and(|before| Arc::ptr_eq(before, &writing.prompt));
                if let Some(sequence) = writing.sequence.clone().filter(|_| whole && !again) {
                    prefixes.keep(&writing.prompt.tokens, sequence)?;
                    before = Some(&writing.prompt);
                }
            }
        }
        // A sequence that has one holder is appended to without a copy.
        self.kept.clear();
        Ok(())
    }

    /// The labels' likelihoods of each row.
    fn score(
        &self,
        hidden: &Tensor,
        model: &LanguageModel,
    ) -> candle_core::Result<Vec<std::result::Result<Scored, ScoreFailure>>> {
        let (mut places, mut labels) = (Vec::new(), Vec::new());
        for (number, encoded) in &self.rows {
            let positions = encoded.prompt - 1..encoded.tokens.len();
            places.extend(positions.map(|position| self.forest.row(*number, position) as u32));
            labels.extend(encoded.tokens[encoded.prompt..].iter().copied().chain([encoded.end]));
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut nll = model.decoder().label_nll(hidden, &places, &labels)?.into_iter();
        Ok(self.rows.iter().map(|(_, row)| scored(row, &mut nll)).collect())
    }

    /// Chooses the next token of every text that is computed to its end.
    fn write(&mut self, hidden: &Tensor, model: &LanguageModel) -> candle_core::Result<Vec<(Writing, Step)>> {
        // Samples of one prompt have one row of logits.
        let (mut rows, mut places) = (Vec::new(), HashMap::new());
        let place = |(number, upto, writing): &(usize, usize, Writing)| {
            let row = (*upto == writing.len()).then(|| self.forest.row(*number, upto - 1) as u32)?;
            Some(*places.entry(row).or_insert_with(|| {
                rows.push(row);
                rows.len() - 1
            }))
        };
        let places: Vec<Option<usize>> = self.writings.iter().map(place).collect();
        let mut written: Vec<(Writing, Step)> = self.writings.drain(..).map(|(.., w)| (w, Step::Waits)).collect();
        let most = if model.on_cpu() { LOGIT_ROWS } else { LOGIT_ROWS_ON_A_GPU };
        for (chunk, rows) in rows.chunks(most).enumerate() {
            let logits = model.decoder().logits(hidden, rows)?;
            let vocabulary = logits.dim(1)?;
            with_values(&logits, |logits| {
                let own = |place: &Option<usize>| place.and_then(|p| p.checked_sub(chunk * most));
                written.par_iter_mut().zip(&places).for_each(|((writing, step), place)| {
                    if let Some(place) = own(place).filter(|p| *p < rows.len()) {
                        *step = writing.step(&logits[place * vocabulary..][..vocabulary], &model.text);
                    }
                });
            })?;
        }
        Ok(written)
    }
}

/// Lends logits as float32, row by row.
fn with_values(logits: &Tensor, f: impl FnOnce(&[f32])) -> candle_core::Result<()> {
    let logits = logits.to_dtype(candle_core::DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = logits.storage_and_layout();
    let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        candle_core::bail!("logits in the processor's memory are needed");
    };
    f(&storage.as_slice::<f32>()?[from..to]);
    Ok(())
}

/// Takes a row's values from those of its pass.
fn scored(row: &Encoded, nll: &mut impl Iterator<Item = f32>) -> std::result::Result<Scored, ScoreFailure> {
    let mut token_nll: Vec<f32> = nll.take(row.tokens.len() - row.prompt + 1).collect();
    let end_nll = token_nll.pop().expect("at least the end token is a label");
    if !(end_nll.is_finite() && token_nll.iter().all(|v| v.is_finite())) {
        return Err(ScoreFailure::NotFinite);
    }
    Ok(Scored { prompt_tokens: row.prompt as u32, token_nll, end_nll })
}

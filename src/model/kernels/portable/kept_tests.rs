//! What sequences hold against lists of numbers.

use super::*;
use candle_core::Device;
use proptest::prelude::*;

const LAYERS: usize = 2;
const SHAPE: AttentionShape = AttentionShape { heads: 2, key_value_heads: 2, head_dim: 3, window: None };

/// A sequence, and a number for each of its tokens.
#[derive(Clone)]
struct Known {
    layers: Vec<Rows>,
    tokens: Vec<u32>,
}

impl Known {
    fn new() -> Self {
        Self { layers: (0..LAYERS).map(|layer| Rows::new(layer, &SHAPE, DType::F32)).collect(), tokens: Vec::new() }
    }

    fn truncate(&mut self, len: usize) {
        Rows::truncate(self.layers.iter_mut().collect(), len);
        self.tokens.truncate(len);
    }

    fn check(&self, store: &Store) {
        for (layer, rows) in self.layers.iter().enumerate() {
            let read = store.read(rows).map(|(k, v)| (flat(&k), flat(&v)));
            let expected = (!self.tokens.is_empty())
                .then(|| (flat(&keys(layer, &self.tokens)), flat(&values(layer, &self.tokens))));
            assert_eq!(read, expected);
        }
    }
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers `[tokens, key_value_heads, head_dim]` that tell layers, tokens and places apart.
fn keys(layer: usize, tokens: &[u32]) -> Tensor {
    let number = |token: &u32, place: usize| (*token as usize * 100 + layer * 10 + place) as f32;
    let all: Vec<f32> = tokens.iter().flat_map(|token| (0..6).map(move |place| number(token, place))).collect();
    Tensor::from_vec(all, (tokens.len(), 2, 3), &Device::Cpu).unwrap()
}

fn values(layer: usize, tokens: &[u32]) -> Tensor {
    keys(layer, tokens).neg().unwrap()
}

/// A pass: some new tokens for each of some sequences, perhaps between rows that are not kept.
fn pass(store: &mut Store, going_on: &mut [(&mut Known, Vec<u32>)], forgotten: usize) {
    let mut packing = Packing::default();
    let mut tokens = vec![7; forgotten];
    packing.begin(forgotten);
    for (known, new) in going_on.iter() {
        packing.go_on(new.len(), known.tokens.len());
        tokens.extend(new);
    }
    packing.begin(forgotten);
    tokens.extend(vec![8; forgotten]);
    for layer in 0..LAYERS {
        let mut kept = vec![None];
        kept.extend(going_on.iter_mut().map(|(known, _)| Some(&mut known.layers[layer])));
        kept.push(None);
        let held = store.append(&keys(layer, &tokens), &values(layer, &tokens), &packing, kept).unwrap();
        assert_eq!(held.turn, store.turns, "one turn for all layers");
    }
    going_on.iter_mut().for_each(|(known, new)| known.tokens.append(new));
}

#[test]
fn clones_share_rows_and_go_on_apart() {
    let mut store = Store::default();
    let mut one = Known::new();
    pass(&mut store, &mut [(&mut one, vec![1, 2, 3])], 0);
    let (mut two, before) = (one.clone(), one.clone());
    // The same packing from the same table, twice: two passes and not one.
    pass(&mut store, &mut [(&mut one, vec![4])], 0);
    pass(&mut store, &mut [(&mut two, vec![5])], 0);
    assert_eq!(store.end, 5, "what is shared is there once");
    let mut three = one.clone();
    three.truncate(2);
    pass(&mut store, &mut [(&mut three, vec![6, 7])], 0);
    for known in [&one, &two, &three, &before] {
        known.check(&store);
    }
    let tokens = [one, two, three].map(|known| known.tokens);
    assert_eq!(tokens, [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7]]);
}

#[test]
fn rows_that_nobody_names_are_used_again() {
    let mut store = Store::default();
    let mut kept = Known::new();
    pass(&mut store, &mut [(&mut kept, vec![1, 2, 3])], 0);
    for token in 0..200 {
        pass(&mut store, &mut [(&mut Known::new(), vec![token; 5])], 0);
    }
    assert_eq!(store.capacity, GRAIN, "three rows and five for a pass");
    // Rows of a pass that nobody keeps lie behind the others and are written over.
    pass(&mut store, &mut [(&mut kept, vec![4])], 2);
    let end = store.end;
    pass(&mut store, &mut [(&mut kept, vec![5])], 2);
    assert!(store.end <= end + 3, "{} {end}", store.end);
    kept.check(&store);
}

#[test]
fn what_was_lost_is_not_read() {
    let mut store = Store::default();
    let mut known = Known::new();
    pass(&mut store, &mut [(&mut known, vec![1, 2, 3])], 0);
    store.lost = true;
    let mut packing = Packing::default();
    packing.go_on(1, 3);
    let (k, v) = (keys(0, &[4]), values(0, &[4]));
    let error = store.append(&k, &v, &packing, vec![Some(&mut known.layers[0].clone())]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("lost"), "{error}");
    let mut new = Known::new();
    pass(&mut store, &mut [(&mut new, vec![5])], 0);
    new.check(&store);
    let error = store.append(&k, &v, &packing, vec![Some(&mut known.layers[0])]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("other kernels"), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    Clone(usize),
    Truncate(usize, usize),
    Drop(usize),
    /// Which sequences take how many tokens each.
    Pass(Vec<usize>, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Begin),
        (0usize..9).prop_map(Step::Clone),
        (0usize..9, 0usize..40).prop_map(|(which, len)| Step::Truncate(which, len)),
        (0usize..9).prop_map(Step::Drop),
        (prop::collection::vec(0usize..7, 1..6), 0usize..4).prop_map(|(new, more)| Step::Pass(new, more)),
        (prop::collection::vec(0usize..7, 1..6), 0usize..4).prop_map(|(new, more)| Step::Pass(new, more)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn sequences_hold_what_was_written(steps in steps()) {
        let mut store = Store::default();
        let (mut all, mut next, mut most) = (vec![Known::new()], 0, 0);
        for step in steps {
            let count = all.len().max(1);
            match step {
                Step::Begin => all.push(Known::new()),
                Step::Clone(which) => all.extend(all.get(which % count).cloned()),
                Step::Truncate(which, len) => {
                    if let Some(known) = all.get_mut(which % count) {
                        let len = len.min(known.tokens.len());
                        known.truncate(len);
                    }
                }
                Step::Drop(which) if !all.is_empty() => drop(all.swap_remove(which % count)),
                Step::Drop(_) => {}
                Step::Pass(new, forgotten) => {
                    let mut tokens = |count: usize| (0..count).map(|_| { next += 1; next }).collect::<Vec<u32>>();
                    let mut going_on: Vec<_> = all.iter_mut().zip(new).map(|(known, n)| (known, tokens(n))).collect();
                    if going_on.is_empty() {
                        continue;
                    }
                    let taken = going_on.iter().map(|(_, new)| new.len()).sum::<usize>() + 2 * forgotten;
                    pass(&mut store, &mut going_on, forgotten);
                    let mut named = Vec::new();
                    all.iter().for_each(|known| known.layers[0].mark(&mut named));
                    most = most.max(named.iter().filter(|named| **named).count() + taken);
                }
            }
            all.iter().for_each(|known| known.check(&store));
        }
        prop_assert!(store.capacity <= most + most / 4 + GRAIN, "{} rows for {most}", store.capacity);
    }
}

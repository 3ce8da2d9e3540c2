use super::*;
use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::files::Precision;
use crate::model::generate::{Finish, Sampling};
use crate::model::kernels::{Kernels, Portable, common};
use crate::model::weights::Weights;
use crate::model::{TextModel, golden, synthetic};
use candle_core::Device;
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;

const VOCABULARY: usize = 97;

/// A golden model over a text side whose tokens are bytes.
fn load(case: &Value, precision: Precision, kernels: Arc<dyn Kernels>) -> LanguageModel {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let text = TextModel::load(&crate::model::gguf_tests::folder_files(folder.path())).unwrap();
    let files = synthetic::write_weights(folder.path(), &case["config"], 1).unwrap();
    let config = Config::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
    assert_eq!(config.vocab_size, VOCABULARY);
    let weights = Weights::safetensors(&files, precision, &Device::Cpu).unwrap();
    let decoder = Decoder::load(&weights, &config, kernels, &Device::Cpu).unwrap();
    LanguageModel::new(Arc::new(text), decoder)
}

fn native(precision: Precision) -> Arc<dyn Kernels> {
    kernels::select(&Device::Cpu, precision).unwrap()
}

/// Rows over few questions, some beginning alike.
fn rows() -> Vec<Encoded> {
    let row = |i: u32| {
        let question = synthetic::tokens(100 + i % 4, 20 + 9 * (i as usize % 4), VOCABULARY);
        let tokens = [question.clone(), synthetic::tokens(200 + i / 2, 3 + 7 * i as usize, VOCABULARY)].concat();
        Encoded { tokens, prompt: question.len(), end: i % 5 }
    };
    (0..9).map(row).collect()
}

/// Greedy and drawn texts, of prompts that begin alike, are the same, or are rows' prompts.
fn requests() -> Vec<Prompted> {
    let request = |i: u32| {
        let tail = synthetic::tokens(300 + i, 4 + 11 * (i as usize % 5), VOCABULARY);
        let tokens = [synthetic::tokens(100 + i % 2, 20, VOCABULARY), tail].concat();
        let drawn = Sampling { top_k: 40, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::at(1.0) };
        Prompted {
            tokens,
            samples: 1 + i % 3,
            most: 5 + 17 * (i as usize % 3),
            sampling: if i.is_multiple_of(2) { Sampling::default() } else { drawn },
            seed: 7,
            row: i.to_le_bytes().to_vec(),
            stop: if i == 3 { vec!["\u{1}".into()] } else { Vec::new() },
            ends: vec![3, 50],
        }
    };
    let mut all: Vec<Prompted> = (0..7).map(request).collect();
    all.push(Prompted { row: b"again".to_vec(), ..all[1].clone() });
    all
}

type Scores = Vec<std::result::Result<Scored, ScoreFailure>>;
type Texts = Vec<std::result::Result<Vec<Generated>, GenerateFailure>>;

/// Everything by itself.
fn alone(model: &LanguageModel, rows: &[Encoded], requests: &[Prompted]) -> (Scores, Texts) {
    let scores = rows.iter().flat_map(|row| model.score(&[row], &|| false).unwrap());
    let one = |request: &Prompted, sample: u32| {
        // Whatever comes before a sample is drawn as well, but each in an engine of its own.
        let request = Prompted { samples: sample + 1, ..request.clone() };
        let texts = model.generate(vec![request], &|| false).unwrap().remove(0);
        texts.map(|mut texts| texts.pop().unwrap())
    };
    let texts = requests.iter().map(|r| (0..r.samples).map(|sample| one(r, sample)).collect());
    (scores.collect(), texts.collect())
}

/// Everything through one engine: some now, some while others are worked on.
fn together(
    model: &LanguageModel,
    limits: Limits,
    rows: &[Encoded],
    requests: &[Prompted],
    order: &[usize],
) -> (Scores, Texts, Counts) {
    let mut engine = Engine::new(limits);
    let (mut scores, mut texts): (Vec<_>, Vec<_>) =
        (rows.iter().map(|_| None).collect(), requests.iter().map(|_| None).collect());
    for (i, what) in order.iter().enumerate() {
        match what.checked_sub(rows.len()) {
            None => scores[*what] = Some(engine.score(vec![rows[*what].clone()])),
            Some(request) => texts[request] = Some(engine.generate(vec![requests[request].clone()])),
        }
        if i % 3 == 2 {
            engine.pass(model).unwrap();
        }
    }
    model.work_off(&mut engine, &|| false).unwrap();
    let counts = engine.counts();
    (
        scores.into_iter().map(|t| t.unwrap().wait().unwrap().remove(0)).collect(),
        texts.into_iter().map(|t| t.unwrap().wait().unwrap().remove(0)).collect(),
        counts,
    )
}

/// Bounds that bring out every way of working: one pass, prompts in parts, few texts at a time, texts set back.
fn bounds(model: &LanguageModel) -> Vec<Limits> {
    let text = model.decoder().sequence_bytes(64 + 39);
    let limits = |pass_tokens, texts, memory| Limits { pass_tokens, texts, memory };
    vec![
        limits(1024, 256, u64::MAX),
        limits(16, 256, u64::MAX),
        limits(100, 3, u64::MAX),
        limits(64, 8, text),
        limits(200, 8, 2 * text),
        limits(33, 1, text),
    ]
}

fn orders(count: usize) -> [Vec<usize>; 3] {
    let step = (0..count).map(|i| i * 5 % count).collect();
    [(0..count).collect(), (0..count).rev().collect(), step]
}

#[test]
fn rows_and_texts_are_the_same_alone_and_in_any_company() {
    for (case, precision) in golden::cases().iter().flat_map(|c| [(c, Precision::F32), (c, Precision::Bf16)]) {
        let model = load(case, precision, native(precision));
        let (rows, requests) = (rows(), requests());
        let (scores, texts) = alone(&model, &rows, &requests);
        assert!(texts.iter().flatten().flatten().any(|t| t.finish == Finish::Length));
        let mut bounds = bounds(&model).into_iter().enumerate().collect::<Vec<_>>();
        if precision == Precision::Bf16 {
            bounds.truncate(2);
        }
        for (i, limits) in bounds {
            let order = &orders(rows.len() + requests.len())[i % 3];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + i % 3).build().unwrap();
            let found = pool.install(|| together(&model, limits, &rows, &requests, order));
            assert_eq!((&found.0, &found.1), (&scores, &texts), "{} {precision:?} {limits:?}", case["name"]);
        }
    }
}

/// As on a GPU whose products passed the trials: packed, with keys and values in a store that all sequences share.
#[test]
fn the_store_of_a_gpu_changes_no_bit() {
    let kernels = Portable::tried_as_on_a_gpu(&Device::Cpu, Precision::F32);
    let model = load(&golden::cases()[0], Precision::F32, Arc::new(kernels));
    assert!(model.decoder().batch_invariant());
    let (rows, requests) = (rows(), requests());
    let (scores, texts) = alone(&model, &rows, &requests);
    for (i, limits) in bounds(&model).into_iter().enumerate() {
        let order = &orders(rows.len() + requests.len())[i % 3];
        let found = together(&model, limits, &rows, &requests, order);
        assert_eq!((&found.0, &found.1), (&scores, &texts), "{limits:?}");
    }
}

#[test]
fn a_text_that_is_set_back_for_lack_of_memory_is_the_same() {
    let model = load(&golden::cases()[0], Precision::F32, native(Precision::F32));
    let request = |i: u32| Prompted {
        tokens: synthetic::tokens(400 + i, 20, VOCABULARY),
        samples: 1,
        most: 100,
        sampling: Sampling::at(1.0),
        ends: Vec::new(),
        ..requests().remove(0)
    };
    let requests: Vec<Prompted> = (0..4).map(request).collect();
    let (_, expected) = alone(&model, &[], &requests);
    // Two begin and have no room to end together.
    let limits = Limits { memory: model.decoder().sequence_bytes(150), ..Limits::default() };
    let (_, texts, counts) = together(&model, limits, &[], &requests, &[0, 1, 2, 3]);
    assert_eq!(texts, expected);
    assert!(counts.set_back > 0 && counts.computed > counts.asked - 4, "{counts:?}");
}

#[test]
fn texts_are_those_of_whole_sequences() {
    for case in golden::cases() {
        for kernels in
            [native(Precision::F32), Arc::new(Portable::new(&Device::Cpu, Precision::F32)) as Arc<dyn Kernels>]
        {
            let model = load(&case, Precision::F32, kernels);
            let prompt = synthetic::tokens(9, 30, VOCABULARY);
            let request = Prompted {
                tokens: prompt.clone(),
                samples: 1,
                most: 12,
                sampling: Sampling::default(),
                seed: 0,
                row: Vec::new(),
                stop: Vec::new(),
                ends: Vec::new(),
            };
            let text = model.generate(vec![request], &|| false).unwrap().remove(0).unwrap().remove(0);
            assert_eq!((text.tokens.len(), text.finish), (12, Finish::Length));
            let all = [prompt, text.tokens.clone()].concat();
            let scored = model.score(&[&Encoded { tokens: all.clone(), prompt: 30, end: 0 }], &|| false).unwrap();
            for (logprob, nll) in text.logprobs.iter().zip(&scored[0].as_ref().unwrap().token_nll) {
                assert!((logprob + nll).abs() < 1e-4, "{logprob} {nll}");
            }
            // No other token is more probable.
            for (at, token) in text.tokens.iter().enumerate().step_by(5) {
                let others = (0..VOCABULARY as u32).filter(|t| t != token).map(|other| {
                    let tokens = [&all[..30 + at], &[other]].concat();
                    Encoded { tokens, prompt: 30 + at, end: 0 }
                });
                let others: Vec<Encoded> = others.collect();
                let scores = model.score(&others.iter().collect::<Vec<_>>(), &|| false).unwrap();
                let best = scores.iter().map(|s| -s.as_ref().unwrap().token_nll[0]).fold(f32::NEG_INFINITY, f32::max);
                assert!(text.logprobs[at] > best - 1e-4);
            }
        }
    }
}

#[test]
fn kernels_that_are_not_invariant_have_the_same_texts_in_any_company() {
    let case = &golden::cases()[0];
    let model = load(case, Precision::F32, Arc::new(Portable::new(&Device::Cpu, Precision::F32)));
    let (rows, requests) = (rows(), requests());
    let (scores, texts) = alone(&model, &rows, &requests);
    for order in orders(rows.len() + requests.len()) {
        let found = together(&model, Limits::default(), &rows, &requests, &order);
        assert_eq!((&found.0, &found.1), (&scores, &texts));
    }
}

/// Several callers score different answers to the same questions, each a few at a time.
#[test]
fn questions_that_several_callers_ask_are_computed_once() {
    let model = load(&golden::cases()[0], Precision::F32, native(Precision::F32));
    let row = |question: u32, variant: u32| {
        let prompt = synthetic::tokens(question, 60, VOCABULARY);
        let answer = synthetic::tokens(1000 + question * 7 + variant, 10 + variant as usize * 3, VOCABULARY);
        Encoded { tokens: [prompt, answer].concat(), prompt: 60, end: 0 }
    };
    let (callers, groups, size) = (6, 5, 4);
    let mut engine = Engine::new(Limits { pass_tokens: 256, ..Limits::default() });
    let group = |engine: &mut Engine, caller: u32, group: u32| {
        engine.score((group * size..(group + 1) * size).map(|question| row(question, caller)).collect())
    };
    // Two groups of each in flight; the next is handed in when the first is done, by some callers later than by others.
    let mut handed_in = vec![2; callers as usize];
    let mut tickets: Vec<VecDeque<_>> =
        (0..callers).map(|c| (0..2).map(|g| group(&mut engine, c, g)).collect()).collect();
    let mut passes = 0;
    while !engine.is_idle() {
        engine.pass(&model).unwrap();
        passes += 1;
        for caller in (0..callers).filter(|c| (c + passes).is_multiple_of(2)) {
            let next = &mut handed_in[caller as usize];
            let own = &mut tickets[caller as usize];
            let left = own.iter_mut().filter_map(|ticket| (ticket.open() > 0).then_some(())).count();
            if left < 2 && *next < groups {
                own.push_back(group(&mut engine, caller, *next));
                *next += 1;
            }
        }
    }
    assert!(handed_in.iter().all(|n| *n == groups));
    let counts = engine.counts();
    let questions = u64::from(groups * size) * 60;
    let answers: u64 = (0..groups * size).flat_map(|_| 0..callers).map(|v| 10 + 3 * u64::from(v)).sum();
    assert_eq!(counts.asked, questions * u64::from(callers) + answers);
    // A question is computed once, but for its last token, or a few of its tokens where passes divide its rows.
    assert!(counts.computed < (questions + answers) * 105 / 100, "{counts:?}, of {questions} and {answers}");
}

#[test]
fn samples_and_shots_share_their_beginnings() {
    let model = load(&golden::cases()[0], Precision::F32, native(Precision::F32));
    let shots = synthetic::tokens(1, 100, VOCABULARY);
    let request = |i: u32, samples| Prompted {
        tokens: [&shots[..], &synthetic::tokens(50 + i, 12, VOCABULARY)].concat(),
        samples,
        most: 4,
        sampling: Sampling::at(1.0),
        seed: 1,
        row: i.to_le_bytes().to_vec(),
        stop: Vec::new(),
        ends: Vec::new(),
    };
    assert!(common(&request(0, 1).tokens, &request(1, 1).tokens) < 104);
    let mut engine = Engine::new(Limits { pass_tokens: 64, ..Limits::default() });
    let ticket = engine.generate((0..20).map(|i| request(i, 8)).collect());
    model.work_off(&mut engine, &|| false).unwrap();
    let texts: Vec<Vec<Generated>> = ticket.wait().unwrap().into_iter().map(|texts| texts.unwrap()).collect();
    assert!(texts.iter().any(|samples| samples[0] != samples[1]));
    let counts = engine.counts();
    assert_eq!((counts.written, counts.asked), (640, 20 * 8 * (112 + 4)));
    // The shots once, the questions once, and three tokens of each text; a last token of a prompt may be computed again.
    assert!(counts.computed < 100 + 20 * 12 + 160 * 4 + 50, "{counts:?}");
}

#[test]
fn what_nobody_waits_for_is_not_computed() {
    let model = load(&golden::cases()[0], Precision::F32, native(Precision::F32));
    let mut engine = Engine::default();
    drop(engine.generate(requests()));
    drop(engine.score(rows()));
    model.work_off(&mut engine, &|| false).unwrap();
    assert_eq!(engine.counts(), Counts::default());
    let none = Prompted { samples: 0, ..requests().remove(0) };
    assert_eq!(model.generate(vec![none], &|| false).unwrap(), [Ok(Vec::new())]);
    assert!(matches!(model.score(&[&rows()[0]], &|| true), Err(RunError::Interrupted)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_schedule_gives_the_same(
        pass_tokens in 1usize..150,
        texts in 1usize..9,
        memory in 0u64..4,
        order in Just((0..17).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        type Known = (LanguageModel, Scores, Texts);
        static KNOWN: std::sync::OnceLock<Known> = std::sync::OnceLock::new();
        let (model, scores, expected) = KNOWN.get_or_init(|| {
            let model = load(&golden::cases()[0], Precision::F32, native(Precision::F32));
            let (scores, texts) = alone(&model, &rows(), &requests());
            (model, scores, texts)
        });
        let text = model.decoder().sequence_bytes(64 + 39);
        let limits = Limits { pass_tokens, texts, memory: text + memory * text / 3 };
        let found = together(model, limits, &rows(), &requests(), &order);
        prop_assert_eq!((&found.0, &found.1), (scores, expected));
    }
}

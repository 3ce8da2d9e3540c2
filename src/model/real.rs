//! Agreement on the weights of SmolLM2-135M-Instruct, which are fetched as a run fetches them.

use super::{Finish, GenerateRequest, LanguageModel, ModelFiles, Precision, ScoreRequest, Scored, TextModel};
use crate::config::{ModelDecl, ModelSource};
use crate::diag::{Diagnostics, SourceId, Sources, Span, Spanned};
use crate::fetch;
use candle_core::Device;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const ROWS: &str = include_str!("../../tests/golden/smollm2_135m_rows.json");

/// The model's files. Where they are not here and cannot be fetched, a test says so and is skipped, but for in CI.
pub(super) fn files(dtype: &str) -> Option<ModelFiles> {
    let span = Span::new(SourceId(0), 0, 0);
    let decl = ModelDecl {
        name: "student".into(),
        source: ModelSource::Manifest(Spanned::new("smollm2-135m-instruct".into(), span)),
        dtype: Spanned::new(dtype.into(), span),
        context: None,
        chat_template: None,
        span,
    };
    let fetcher = fetch::open(&mut Sources::new(), &mut Diagnostics::new());
    match fetcher.ensure_model(&decl, &fetch::Quiet) {
        Ok(fetched) => Some(ModelFiles::fetched(fetched, &decl).unwrap()),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: the model is not here and cannot be fetched: {error}");
            None
        }
        Err(error) => panic!("the model cannot be fetched: {error}"),
    }
}

struct Row {
    request: ScoreRequest,
    expected: Value,
}

fn golden_rows() -> Vec<Row> {
    let golden: Value = serde_json::from_str(ROWS).unwrap();
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str();
        let request = ScoreRequest::new(text("system"), text("question").unwrap(), text("response").unwrap());
        Row { request, expected: row.clone() }
    };
    golden["rows"].as_array().unwrap().iter().map(row).collect()
}

fn score(model: &LanguageModel, rows: &[ScoreRequest]) -> Vec<Scored> {
    let encoded: Vec<_> = rows.iter().map(|r| model.text.encode(r, 8192).unwrap().unwrap()).collect();
    let scored = model.score(&encoded.iter().collect::<Vec<_>>(), &|| false).unwrap();
    scored.into_iter().map(Result::unwrap).collect()
}

pub(super) fn load(files: &ModelFiles) -> LanguageModel {
    LanguageModel::load(files, Arc::new(TextModel::load(files).unwrap()), &Device::Cpu).unwrap()
}

fn perplexity(scored: &Scored, with_end: bool) -> f64 {
    let tokens: f64 = scored.token_nll.iter().map(|v| f64::from(*v)).sum();
    let count = scored.token_nll.len() as f64;
    match with_end {
        true => ((tokens + f64::from(scored.end_nll)) / (count + 1.0)).exp(),
        false => (tokens / count).exp(),
    }
}

fn off(found: f64, expected: &Value) -> f64 {
    (found / expected.as_f64().unwrap() - 1.0).abs()
}

#[test]
fn our_own_rows_have_the_tokens_and_likelihoods_of_an_independent_implementation() {
    let Some(files) = files("f32") else { return };
    let (model, rows) = (load(&files), golden_rows());
    let requests: Vec<ScoreRequest> = rows.iter().map(|r| r.request.clone()).collect();
    let scored = score(&model, &requests);
    for (Row { request, expected }, scored) in rows.iter().zip(&scored) {
        let encoded = model.text.encode(request, 8192).unwrap().unwrap();
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
        assert_eq!(encoded.tokens[..encoded.prompt], ids("prompt_ids"), "{request:?}");
        assert_eq!(encoded.tokens[encoded.prompt..], ids("response_ids"), "{request:?}");
        let nll: Vec<f32> = serde_json::from_value(expected["token_nll"].clone()).unwrap();
        for (found, expected) in scored.token_nll.iter().zip(&nll) {
            assert!((found - expected).abs() < 1e-3, "{request:?}: {found}, expected {expected}");
        }
        assert!(off(f64::from(scored.end_nll).exp(), &Value::from(expected["end_nll"].as_f64().unwrap().exp())) < 1e-3);
    }
    // One by one, and in the opposite order, the bits are the same.
    let alone: Vec<Scored> = requests.iter().flat_map(|r| score(&model, std::slice::from_ref(r))).collect();
    let mut backwards = score(&model, &requests.iter().rev().cloned().collect::<Vec<_>>());
    backwards.reverse();
    assert!(scored == alone && scored == backwards);
}

/// Released rows with what an independent implementation finds for them. They are not part of the project: they are
/// looked for beside it, and never in CI.
fn released_rows() -> Option<(Vec<Value>, Vec<ScoreRequest>)> {
    if std::env::var_os("CI").is_some() {
        eprintln!("skipped: not in CI");
        return None;
    }
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let Ok(reference) = std::fs::read_to_string(shared.join("reference/ppl_smollm2_135m_f32.json")) else {
        eprintln!("skipped: {} has no reference", shared.display());
        return None;
    };
    let reference: Value = serde_json::from_str(&reference).unwrap();
    let rows = reference["rows"].as_array().unwrap();
    let mut data: std::collections::HashMap<&str, Value> = std::collections::HashMap::new();
    let mut requests = Vec::new();
    for row in rows {
        let file = row["file"].as_str().unwrap();
        let all = data
            .entry(file)
            .or_insert_with(|| serde_json::from_str(&std::fs::read_to_string(shared.join(file)).unwrap()).unwrap());
        let source = &all[row["row"].as_u64().unwrap() as usize];
        let text = |key: &str| source[key].as_str().unwrap().to_string();
        requests.push(ScoreRequest::new(None, &text("question"), &text("answer")));
    }
    Some((rows.clone(), requests))
}

#[test]
fn released_rows_have_the_reference_perplexities() {
    let Some((rows, requests)) = released_rows() else { return };
    let Some(files) = files("f32") else { return };
    let model = load(&files);
    let start = std::time::Instant::now();
    let scored = score(&model, &requests);
    let seconds = start.elapsed().as_secs_f64();
    let (mut worst, mut tokens) = (0.0f64, 0);
    for (row, scored) in rows.iter().zip(&scored) {
        assert_eq!(u64::from(scored.prompt_tokens), row["prompt_tokens"].as_u64().unwrap(), "{row}");
        assert_eq!(scored.token_nll.len() as u64, row["response_tokens"].as_u64().unwrap(), "{row}");
        worst = worst.max(off(perplexity(scored, false), &row["ppl"]));
        worst = worst.max(off(perplexity(scored, true), &row["ppl_with_eos"]));
        tokens += scored.prompt_tokens as usize + scored.token_nll.len();
    }
    eprintln!(
        "{} rows, {tokens} tokens, {:.0} tokens/s, greatest error {worst:.1e}",
        rows.len(),
        tokens as f64 / seconds
    );
    assert!(worst < 1e-4, "{worst}");
}

/// Texts of the released problems, token for token.
#[test]
fn greedy_texts_are_those_of_the_reference() {
    if std::env::var_os("CI").is_some() {
        eprintln!("skipped: not in CI");
        return;
    }
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let Ok(reference) = std::fs::read_to_string(shared.join("reference/greedy_gsm8k_test_f32.json")) else {
        eprintln!("skipped: {} has no reference", shared.display());
        return;
    };
    let Some(files) = files("f32") else { return };
    let reference: Value = serde_json::from_str(&reference).unwrap();
    let file = shared.join("data/speak-my-language").join(reference["file"].as_str().unwrap());
    let problems: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let model = load(&files);
    let rows = reference["rows"].as_array().unwrap();
    let request = |row: &Value| {
        let question = problems[row["row"].as_u64().unwrap() as usize]["question"].as_str().unwrap();
        let request = GenerateRequest::greedy(vec![("user".into(), question.into())], 96);
        model.text.prompted(&request).unwrap().unwrap()
    };
    let requests: Vec<_> = rows.iter().map(request).collect();
    let start = std::time::Instant::now();
    let texts = model.generate(requests.clone(), &|| false).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let mut written = 0;
    for ((row, request), texts) in rows.iter().zip(&requests).zip(&texts) {
        let text = &texts.as_ref().unwrap()[0];
        let mut expected: Vec<u32> = serde_json::from_value(row["tokens"].clone()).unwrap();
        let ended = expected.last().is_some_and(|token| request.ends.contains(token));
        expected.truncate(expected.len() - usize::from(ended));
        assert_eq!(request.tokens.len() as u64, row["prompt_tokens"].as_u64().unwrap());
        assert_eq!(text.tokens, expected, "row {}, gap {}", row["row"], row["min_top2_logit_gap"]);
        assert_eq!(text.finish, if ended { Finish::Stop } else { Finish::Length });
        assert_eq!(text.text, row["text"].as_str().unwrap().trim_end_matches("<|im_end|>"));
        written += text.tokens.len();
    }
    eprintln!("{} texts, {written} tokens, {:.0} tokens/s", rows.len(), written as f64 / seconds);
    // One by one the bits are the same.
    for (request, texts) in requests.into_iter().zip(&texts).take(2) {
        assert_eq!(&model.generate(vec![request], &|| false).unwrap()[0], texts);
    }
}

#[test]
fn released_rows_have_nearly_the_reference_perplexities_with_quantised_weights() {
    let Some((rows, requests)) = released_rows() else { return };
    let Some(files) = files("quantized") else { return };
    let start = std::time::Instant::now();
    let scored = score(&load(&files), &requests);
    let seconds = start.elapsed().as_secs_f64();
    let mean = |perplexities: Vec<f64>| perplexities.iter().sum::<f64>() / perplexities.len() as f64;
    let found = mean(scored.iter().map(|s| perplexity(s, true)).collect());
    let expected = mean(rows.iter().map(|row| row["ppl_with_eos"].as_f64().unwrap()).collect());
    let tokens: usize = scored.iter().map(|s| s.prompt_tokens as usize + s.token_nll.len()).sum();
    eprintln!("mean perplexity {found:.4}, in float32 {expected:.4}, {:.0} tokens/s", tokens as f64 / seconds);
    assert!((found / expected - 1.0).abs() < 0.01, "{found}, expected {expected}");
}

#[test]
fn bfloat16_and_quantised_weights_stay_near() {
    let Some(exact) = files("f32") else { return };
    let requests: Vec<ScoreRequest> = golden_rows().into_iter().take(4).map(|r| r.request).collect();
    let mean = |files: &ModelFiles| {
        let scored = score(&load(files), &requests);
        scored.iter().map(|s| perplexity(s, true).ln()).sum::<f64>() / scored.len() as f64
    };
    let expected = mean(&exact);
    for precision in [Precision::Bf16, Precision::Quantized] {
        let found = mean(&ModelFiles { precision, ..exact.clone() });
        assert!((found / expected - 1.0).abs() < 0.01, "{precision:?}: {found}, expected {expected}");
    }
}

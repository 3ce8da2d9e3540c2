use crate::config::{ModelDecl, ModelSource, RunOptions, decode_fields};
use crate::diag::{Diagnostics, SourceId, Span, Spanned};
use crate::exec::{Rejected, RunError};
use crate::model::{AdapterFile, Address, Call, GenerateRequest, ModelLane, TextModel, Written};
use crate::model::{ScoreFailure, ScoreRequest, Scored, Ticket};
use crate::ops::testing::{MemoryHost, MemoryJournal};
use crate::ops::testing_node::{lines, rows, rows_json};
use crate::ops::{Operator, ResolveCx, Resolved};
use crate::plan::{Estimate, InputInfo, ModelInfo, NodeName};
use arrow::array::RecordBatch;
use std::sync::{Arc, Mutex};

/// Scores by counting characters: token `i` of a response costs its letter's place in the alphabet over ten, the
/// end of the turn a half. Remembers what it was asked.
#[derive(Default)]
struct Counting {
    asked: Mutex<Vec<Vec<ScoreRequest>>>,
    fail_after: Option<usize>,
}

impl ModelLane for Counting {
    fn submit_score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Ticket<Result<Scored, ScoreFailure>>, RunError> {
        let mut asked = self.asked.lock().unwrap();
        if self.fail_after.is_some_and(|n| asked.iter().map(Vec::len).sum::<usize>() >= n) {
            return Err(RunError::Interrupted);
        }
        asked.push(rows.to_vec());
        let limit = max_tokens.map_or(usize::MAX, |n| n as usize);
        Ok(Ticket::ready(rows.iter().map(|row| one(row, limit)).collect()))
    }
    fn post_generate(&self, _: Vec<(GenerateRequest, Address<Written>)>) -> Result<(), RunError> {
        Err(RunError::failed("no-generation", "scoring writes nothing"))
    }
    fn text(&self) -> Result<Arc<TextModel>, RunError> {
        Err(RunError::failed("no-model", "only counts"))
    }
    fn adapted(&self, _: AdapterFile) -> Result<Arc<dyn ModelLane>, RunError> {
        Err(RunError::failed("no-model", "only counts"))
    }
    fn post_call(&self, _: Call) -> Result<(), RunError> {
        Err(RunError::failed("no-model", "only counts"))
    }
    fn tokens(&self, text: &str) -> Result<Vec<u32>, RunError> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn context(&self) -> Result<u32, RunError> {
        Ok(100)
    }
    fn digest(&self) -> &str {
        "model:counting"
    }
}

fn one(row: &ScoreRequest, limit: usize) -> Result<Scored, ScoreFailure> {
    let prompt: usize = row.messages.iter().map(|(_, text)| text.len()).sum();
    let tokens = prompt + row.response.len();
    if row.response.is_empty() {
        return Err(ScoreFailure::Empty);
    }
    if tokens > limit {
        return Err(ScoreFailure::TooLong { tokens, limit });
    }
    if row.response.contains('!') {
        return Err(ScoreFailure::NotFinite);
    }
    let cost = |b: u8| f32::from(b.saturating_sub(b'a') + 1) / 10.0;
    Ok(Scored { prompt_tokens: prompt as u32, token_nll: row.response.bytes().map(cost).collect(), end_nll: 0.5 })
}

fn span() -> Span {
    Span::new(SourceId(0), 0, 0)
}

fn info(context: Option<u32>, has_chat_template: Option<bool>) -> ModelInfo {
    let decl = ModelDecl {
        name: "student".into(),
        source: ModelSource::Manifest(Spanned::new("counting".into(), span())),
        dtype: Spanned::new("f32".into(), span()),
        context: None,
        chat_template: None,
        span: span(),
    };
    let parameters = Some(1_000_000);
    ModelInfo { decl, digest: "model:counting".into(), context, parameters, has_chat_template, memory: Some(4_000_000) }
}

fn resolve(settings: &str, input: &RecordBatch, model: &ModelInfo) -> Result<(Box<dyn Operator>, Resolved), String> {
    let node = format!("score-ppl \"scored\" from=\"rows\" model=\"student\" {settings}");
    let fields = decode_fields(&super::SPEC, &node)?;
    let mut diagnostics = Diagnostics::new();
    let operator = (super::SPEC.build)(&fields, &mut diagnostics).expect("nothing is left to refuse");
    let inputs = [InputInfo {
        port: "from",
        schema: input.schema(),
        producer: NodeName::plain("rows"),
        output: "out",
        producer_span: span(),
        span: span(),
        estimate: Estimate { rows: Some(input.num_rows() as u64), ..Estimate::default() },
        skipped: None,
    }];
    let name = NodeName::plain("scored");
    let resolved = operator.resolve(&mut ResolveCx {
        node: &name,
        op: &super::SPEC,
        span: span(),
        inputs: &inputs,
        diagnostics: &mut diagnostics,
        datasets: None,
        teachers: &|_| None,
        models: &|wanted| (wanted == "student").then_some(model),
        look_at_files: true,
        files_must_exist: true,
    });
    let told: Vec<String> = diagnostics.iter().map(|d| format!("{}: {}", d.code, d.message)).collect();
    resolved.map(|resolved| (operator, resolved)).ok_or(told.join("\n"))
}

struct Ran {
    rows: RecordBatch,
    rejected: Vec<Rejected>,
}

fn run(
    settings: &str,
    input: &RecordBatch,
    lane: &Arc<Counting>,
    journal: &Arc<MemoryJournal>,
) -> Result<Ran, RunError> {
    run_in(settings, input, lane, journal, 1024)
}

fn run_in(
    settings: &str,
    input: &RecordBatch,
    lane: &Arc<Counting>,
    journal: &Arc<MemoryJournal>,
    batch_rows: usize,
) -> Result<Ran, RunError> {
    let (operator, resolved) = resolve(settings, input, &info(None, None)).unwrap();
    let starts = (0..input.num_rows()).step_by(batch_rows);
    let batches = starts.map(|at| input.slice(at, batch_rows.min(input.num_rows() - at))).collect();
    let mut host = MemoryHost::new(vec![("from", batches)], resolved.outputs);
    host.models.insert("student".into(), lane.clone());
    host.journal = journal.clone();
    host.options = RunOptions { batch_rows, ..RunOptions::default() };
    let (mut rows, host) = host.run(operator.as_ref())?;
    let rejected = host.rejected.lock().unwrap().clone();
    Ok(Ran { rows: rows.remove(0), rejected })
}

/// A run by itself.
fn scored(settings: &str, input: &str) -> Ran {
    run(settings, &rows(input), &Arc::default(), &Arc::default()).unwrap()
}

const THREE: &str = r#"[
    {"id":"a","question":"q1","response":"ab"},
    {"id":"b","question":"question","response":"c"},
    {"id":"c","question":"q1","response":"ab"}
]"#;

#[test]
fn perplexity_is_the_exponential_of_the_mean_over_the_labels() {
    let row = |settings| rows_json(&scored(settings, THREE).rows).remove(0);
    let with_end = row("");
    assert!((with_end["nll"].as_f64().unwrap() - 0.8).abs() < 1e-6);
    assert!((with_end["ppl"].as_f64().unwrap() - (0.8f64 / 3.0).exp()).abs() < 1e-6);
    assert_eq!(with_end["label_tokens"], 3);
    let without = row("count-end=#false");
    assert!((without["ppl"].as_f64().unwrap() - (0.3f64 / 2.0).exp()).abs() < 1e-6);
    assert_eq!((&without["label_tokens"], &without["response_tokens"]), (&2.into(), &2.into()));
    assert_eq!(without["prompt_tokens"], 2);
    assert_eq!(row("token-nll=#true")["token_nll"].as_array().unwrap().len(), 3);
    assert_eq!(row("token-nll=#true count-end=#false")["token_nll"].as_array().unwrap().len(), 2);
    // A system turn is part of the prompt.
    assert_eq!(row("system=\"five!\"")["prompt_tokens"], 7);
}

#[test]
fn rows_keep_their_order_and_equal_rows_are_scored_once() {
    let lane = Arc::<Counting>::default();
    let ran = run("", &rows(THREE), &lane, &Arc::default()).unwrap();
    let ids: Vec<_> = rows_json(&ran.rows).iter().map(|r| r["id"].clone()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let asked = lane.asked.lock().unwrap();
    assert_eq!(asked.iter().map(Vec::len).sum::<usize>(), 2);
}

#[test]
fn finished_rows_are_not_scored_again_with_other_settings() {
    let (lane, journal) = (Arc::<Counting>::default(), Arc::default());
    let input = rows(THREE);
    run("", &input, &lane, &journal).unwrap();
    let first = lane.asked.lock().unwrap().len();
    run("count-end=#false token-nll=#true", &input, &lane, &journal).unwrap();
    assert_eq!(lane.asked.lock().unwrap().len(), first);
    // Another prompt is another score.
    run("system=\"s\"", &input, &lane, &journal).unwrap();
    assert!(lane.asked.lock().unwrap().len() > first);
}

#[test]
fn a_limit_holds_for_journalled_rows_as_for_new_ones() {
    let (lane, journal) = (Arc::<Counting>::default(), Arc::default());
    let input = rows(THREE);
    run("", &input, &lane, &journal).unwrap();
    let seen = |ran: Ran| (lines(&ran.rows), ran.rejected.iter().map(|r| r.message.clone()).collect::<Vec<_>>());
    let journalled = seen(run("max-tokens=8", &input, &lane, &journal).unwrap());
    let new = seen(run("max-tokens=8", &input, &lane, &Arc::default()).unwrap());
    assert_eq!(journalled, new);
    assert_eq!(new.1, ["prompt and response have 9 tokens, and 8 is the most"]);
}

#[test]
fn a_stop_loses_no_finished_row() {
    let numbered = |i: usize| format!(r#"{{"id":"{i}","question":"q{i}","response":"{}"}}"#, "ab".repeat(i % 9 + 1));
    let input = rows(&format!("[{}]", (0..600).map(numbered).collect::<Vec<_>>().join(",")));
    let whole = run("", &input, &Arc::default(), &Arc::default()).unwrap();
    let journal = Arc::default();
    let cut = Arc::new(Counting { fail_after: Some(1), ..Counting::default() });
    assert!(matches!(run("", &input, &cut, &journal), Err(RunError::Interrupted)));
    let lane = Arc::<Counting>::default();
    let resumed = run("", &input, &lane, &journal).unwrap();
    assert_eq!(lines(&whole.rows), lines(&resumed.rows));
    let asked = |lane: &Counting| lane.asked.lock().unwrap().iter().flatten().cloned().collect::<Vec<_>>();
    let (before, after) = (asked(&cut), asked(&lane));
    assert!(!before.is_empty() && before.iter().all(|row| !after.contains(row)));
}

/// Nodes that score different responses to the same questions must keep step.
#[test]
fn groups_have_the_same_questions_whatever_the_responses_are() {
    let questions_of_groups = |response: &dyn Fn(usize) -> String| {
        let row = |i: usize| {
            let response = response(i);
            format!(r#"{{"id":"{i}","question":"q{i}","response":"{response}"}}"#)
        };
        let input = rows(&format!("[{}]", (0..90).map(row).collect::<Vec<_>>().join(",")));
        let lane = Arc::<Counting>::default();
        run("", &input, &lane, &Arc::default()).unwrap();
        let asked = lane.asked.lock().unwrap();
        let questions = |group: &Vec<ScoreRequest>| group.iter().map(|r| r.messages[0].1.clone()).collect::<Vec<_>>();
        asked.iter().map(questions).collect::<Vec<_>>()
    };
    let short = questions_of_groups(&|i| format!("a{}", i % 7));
    assert_eq!(short, questions_of_groups(&|i| "b".repeat(1 + i * 13 % 200)));
    assert_eq!(short.len(), 4);
}

#[test]
fn batches_of_rows_change_nothing() {
    let expected = lines(&run_in("", &rows(THREE), &Arc::default(), &Arc::default(), 1024).unwrap().rows);
    for batch_rows in 1..=3 {
        let ran = run_in("", &rows(THREE), &Arc::default(), &Arc::default(), batch_rows).unwrap();
        assert_eq!(lines(&ran.rows), expected);
    }
}

#[test]
fn rows_that_cannot_be_scored_are_set_aside_with_the_reason() {
    let ran = scored(
        "max-tokens=20",
        r#"[
        {"id":"good","question":"q","response":"a"},
        {"id":"null","question":"q","response":null},
        {"id":"no question","question":null,"response":"a"},
        {"id":"empty","question":"q","response":""},
        {"id":"odd","question":"q","response":"a!"},
        {"id":"long","question":"a question of many words","response":"a"}
    ]"#,
    );
    assert_eq!(rows_json(&ran.rows)[0]["id"], "good");
    let told: Vec<String> = ran.rejected.iter().map(|r| format!("{} [{}] {}", r.id, r.reason, r.message)).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    null [null-value] `response` is null
    no question [null-value] `question` is null
    empty [empty-response] the response has no tokens
    odd [not-finite] the model gave a likelihood that is no number
    long [too-long] prompt and response have 25 tokens, and 20 is the most
    ");
}

#[test]
fn a_row_too_long_can_end_the_run() {
    let input = rows(r#"[{"id":"x","question":"a question of many words","response":"a"}]"#);
    let error = run("max-tokens=20 on-too-long=\"fail\"", &input, &Arc::default(), &Arc::default()).map(|_| ());
    assert_eq!(error.unwrap_err().to_string(), "row `x`: prompt and response have 25 tokens, and 20 is the most");
}

#[test]
fn no_rows_give_no_rows() {
    let none = rows(THREE).slice(0, 0);
    let (operator, resolved) = resolve("", &none, &info(None, None)).unwrap();
    let mut host = MemoryHost::new(vec![("from", vec![none])], resolved.outputs);
    host.models.insert("student".into(), Arc::<Counting>::default());
    let (rows, _) = host.run(operator.as_ref()).unwrap();
    assert_eq!(rows[0].num_rows(), 0);
}

#[test]
fn what_is_wrong_is_said_at_plan_time() {
    let refused = |settings: &str, model: &ModelInfo, input: &str| {
        resolve(settings, &rows(input), model).map(|_| ()).unwrap_err()
    };
    let plain = info(Some(64), Some(true));
    insta::assert_snapshot!(refused("question=\"prompt\"", &plain, THREE), @"column-missing: `scored` needs a column `prompt` that its input does not have");
    insta::assert_snapshot!(refused("", &plain, r#"[{"id":"a","question":"q","response":1}]"#), @"column-type: column `response` is integer, and `score-ppl` needs string");
    insta::assert_snapshot!(refused("", &plain, r#"[{"id":"a","question":"q","response":"r","ppl":1.0}]"#), @"duplicate-column: the input already has a column `ppl`");
    insta::assert_snapshot!(refused("max-tokens=100", &plain, THREE), @"context-too-small: model `student` holds 64 tokens, not 100");
    insta::assert_snapshot!(refused("max-tokens=100", &info(Some(64), Some(false)), THREE), @r"
    chat-template-absent: model `student` has no chat template
    context-too-small: model `student` holds 64 tokens, not 100
    ");
}

#[test]
fn a_plan_knows_the_columns_and_a_rough_cost() {
    let (_, resolved) = resolve("token-nll=#true", &rows(THREE), &info(None, Some(true))).unwrap();
    let names: Vec<_> = resolved.outputs[0].fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names[3..], ["ppl", "nll", "label_tokens", "prompt_tokens", "response_tokens", "token_nll"]);
    assert_eq!((resolved.estimate.rows, resolved.estimate.tokens), (Some(3), Some(768)));
    assert_eq!(resolved.models, ["student"]);
    assert!(resolved.journalled && resolved.estimate.seconds.unwrap() > 0.0);
}

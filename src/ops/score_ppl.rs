//! `score-ppl`: how familiar a model is with a response, as perplexity.

use super::rows::{Slabs, arrow_failed, batches, reject_row, text_column as texts};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, adapters};
use crate::diag::{Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::model::{ModelLane, ScoreFailure, ScoreRequest, Scored, Ticket};
use crate::ops::Default;
use crate::plan::Estimate;
use crate::store::Journal;
use arrow::array::{Array, ArrayRef, BooleanArray, Float32Builder, Float64Array, Int64Array, ListBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field};
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub static SPEC: OpSpec = OpSpec {
    name: "score-ppl",
    summary: "Measures how familiar a model is with responses, as perplexity",
    doc: "\
Puts each row's question and response into the model's own chat template and takes the negative log-likelihood of
every token of the response, given all that stands before it:

    ppl = exp( (sum of -ln p(token)) / label_tokens )

Labels are the response's tokens and, unless `count-end=#false`, the token that ends the turn; the question, the
template's own words and its default system turn are context and are never counted. The perplexity of a data set is
the mean of its rows' `ppl` (`summarize` also gives the median and the perplexity of the corpus: outliers dominate a
mean). A row's score depends on the row and the model alone: not on the other rows, nor on batch sizes or threads.

Adds the columns

- `ppl`: the row's perplexity;
- `nll`: the sum of the labels' negative log-likelihoods, in nats;
- `label_tokens`: how many labels there are, the end of the turn included where it counts;
- `prompt_tokens`: tokens before the response, those of the template included;
- `response_tokens`: tokens of the response, without the end of the turn;
- `token_nll` with `token-nll=#true`: the negative log-likelihood of each label, in order.

Finished rows are journalled by what is in them: a row that was scored once is not scored again, also after a crash,
in another node, or with other settings of `count-end`, `token-nll` and `max-tokens`.

Rows go to quarantine as `too-long` (prompt and response together exceed `max-tokens` or the model's context),
`empty-response`, `null-value`, `template` (the chat template refused the conversation) or `not-finite` (the model gave
a likelihood that is no number). With `on-too-long=\"fail\"` the first row that is too long ends the run.",
    version: 1,
    inputs: &[FROM[0], adapters::PORT],
    outputs: OUT,
    fields: &[
        FieldSpec::new("model", FieldKind::Model, "the model whose familiarity is measured").required(),
        FieldSpec::new("question", FieldKind::Column, "the column of user turns").default(Default::Str("question")),
        FieldSpec::new("response", FieldKind::Column, "the column of responses").default(Default::Str("response")),
        FieldSpec::new(
            "system",
            FieldKind::Str,
            "the text of a system turn before every question; the template's own default if not given",
        ),
        FieldSpec::new("count-end", FieldKind::Bool, "whether the token that ends the turn is a label")
            .default(Default::Bool(true)),
        FieldSpec::new(
            "max-tokens",
            FieldKind::Int { min: 2, max: u32::MAX as i64 },
            "the most tokens that prompt and response may have together; the model's context if not given",
        ),
        FieldSpec::new(
            "on-too-long",
            FieldKind::Choice(&["quarantine", "fail"]),
            "what becomes of a row that is too long: set aside, or the end of the run",
        )
        .default(Default::Str("quarantine")),
        FieldSpec::new("token-nll", FieldKind::Bool, "adds the column `token_nll`").default(Default::Bool(false)),
    ],
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; response "string" } }
score-ppl "scored" from="problems" model="student"
write "scores" from="scored" path="scores.parquet"
"#,
    build,
};

/// Rows taken on at once, in the order of the input.
const WINDOW_ROWS: usize = 512;
const WINDOW_BYTES: u64 = 32 << 20;
/// Questions whose rows go to the model together, and the most characters of these rows. Nodes that score different
/// responses to the same questions make groups of the same questions: so they keep step, and each question is computed
/// once for all of them.
const GROUP_QUESTIONS: usize = 24;
const GROUP_CHARS: usize = 48_000;
/// Groups that the model has at once: it must not run out of work while one is written down, and nodes that share
/// questions may be apart by one group.
const GROUPS_IN_FLIGHT: usize = 2;
/// Finished rows are journalled this often, and when their group is done. So it bounds what a crash can lose, and how
/// long progress stands still.
const JOURNAL_TIME: Duration = Duration::from_secs(3);
/// For estimates before rows are read: a school problem with its worked answer.
const TYPICAL_TOKENS: u64 = 256;
/// For estimates: floating-point operations per second of a small machine.
const TYPICAL_SPEED: f64 = 2e11;

#[derive(Debug)]
struct ScorePpl {
    model: Spanned<String>,
    question: Spanned<String>,
    response: Spanned<String>,
    system: Option<String>,
    count_end: bool,
    max_tokens: Option<Spanned<u32>>,
    fail_on_too_long: bool,
    token_nll: bool,
    span: Span,
}

fn build(fields: &Fields, _: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    Some(Box::new(ScorePpl {
        model: fields.str("model"),
        question: fields.str("question"),
        response: fields.str("response"),
        system: fields.opt_str("system").map(|s| s.value),
        count_end: fields.bool("count-end"),
        max_tokens: fields.opt_int("max-tokens").map(|n| n.map(|n| n.clamp(0, u32::MAX.into()) as u32)),
        fail_on_too_long: fields.str("on-too-long").value == "fail",
        token_nll: fields.bool("token-nll"),
        span: fields.span,
    }))
}

impl Operator for ScorePpl {
    fn canonical(&self) -> serde_json::Value {
        json!({
            "question": self.question.value,
            "response": self.response.value,
            "system": self.system,
            "count_end": self.count_end,
            "max_tokens": self.max_tokens.as_ref().map(|n| n.value),
            "fail_on_too_long": self.fail_on_too_long,
            "token_nll": self.token_nll,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let text = |t: &DataType| super::is_string(t);
        let question = cx.need_column(input, &self.question.value, "string", text, self.question.span);
        let response = cx.need_column(input, &self.response.value, "string", text, self.response.span);
        let outputs = cx.widened(input, self.added(), self.span);
        let model = (cx.models)(&self.model.value);
        let fits = model.is_none_or(|model| {
            let template = cx.need_chat_template(model, self.model.span);
            let context = self.max_tokens.as_ref().map_or(Some(()), |n| cx.need_context(model, n.value.into(), n.span));
            template.and(context).is_some()
        });
        let adapter = adapters::check(cx, Some(&self.model));
        let (outputs, _, _, ()) = (outputs?, question?, response?, adapter?);
        if !fits {
            return None;
        }
        let rows = input.estimate.rows;
        let tokens = rows.map(|rows| rows.saturating_mul(TYPICAL_TOKENS));
        let operations = tokens.zip(model.and_then(|m| m.parameters)).map(|(t, p)| 2.0 * t as f64 * p as f64);
        let estimate = Estimate {
            rows,
            tokens,
            seconds: operations.map(|o| o / TYPICAL_SPEED),
            memory: model.and_then(|m| m.memory),
        };
        let mut resolved = Resolved::new(vec![outputs], estimate);
        resolved.models = vec![self.model.value.clone()];
        resolved.journalled = true;
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let lane = adapters::lane(cx, &self.model.value)?;
        let scope = json!({ "op": SPEC.name, "version": SPEC.version, "model": lane.digest() });
        let journal = cx.journal(&scope)?;
        let context = lane.context()?;
        let limit = self.max_tokens.as_ref().map_or(context, |n| n.value.min(context));
        let mut run = Scoring { op: self, cx, lane, journal, limit, done: 0 };
        let mut windows = Slabs::new(cx.inputs()[0].schema.clone(), WINDOW_ROWS, WINDOW_BYTES);
        for batch in batches(cx, 0)? {
            for window in windows.push(&batch?).map_err(arrow_failed)? {
                run.window(&window)?;
            }
        }
        match windows.finish().map_err(arrow_failed)? {
            Some(window) => run.window(&window),
            None => Ok(()),
        }
    }
}

impl ScorePpl {
    fn added(&self) -> Vec<Field> {
        let mut fields = vec![
            Field::new("ppl", DataType::Float64, false),
            Field::new("nll", DataType::Float64, false),
            Field::new("label_tokens", DataType::Int64, false),
            Field::new("prompt_tokens", DataType::Int64, false),
            Field::new("response_tokens", DataType::Int64, false),
        ];
        if self.token_nll {
            let item = Arc::new(Field::new_list_field(DataType::Float32, true));
            fields.push(Field::new("token_nll", DataType::List(item), false));
        }
        fields
    }

    /// The conversation of a row.
    fn request(&self, question: &str, response: &str) -> ScoreRequest {
        ScoreRequest::new(self.system.as_deref(), question, response)
    }

    /// What a row's score depends on besides the model. An absent system turn is not an empty one.
    fn key(&self, question: &str, response: &str) -> [u8; 16] {
        let mut cells = vec![question.as_bytes(), response.as_bytes()];
        cells.extend(self.system.as_ref().map(String::as_bytes));
        Journal::key(&cells)
    }

    /// The columns that scored rows get, in the order of [`Self::added`].
    fn columns(&self, rows: &[&Scored]) -> Vec<ArrayRef> {
        let labels = |s: &Scored| s.token_nll.len() + usize::from(self.count_end);
        let nll = |s: &Scored| {
            let tokens: f64 = s.token_nll.iter().copied().map(f64::from).sum();
            if self.count_end { tokens + f64::from(s.end_nll) } else { tokens }
        };
        let float = |f: &dyn Fn(&Scored) -> f64| -> ArrayRef {
            Arc::new(rows.iter().map(|s| Some(f(s))).collect::<Float64Array>())
        };
        let int = |f: &dyn Fn(&Scored) -> usize| -> ArrayRef {
            Arc::new(rows.iter().map(|s| Some(f(s) as i64)).collect::<Int64Array>())
        };
        let mut columns = vec![
            float(&|s| (nll(s) / labels(s) as f64).exp()),
            float(&nll),
            int(&labels),
            int(&|s| s.prompt_tokens as usize),
            int(&|s| s.token_nll.len()),
        ];
        if self.token_nll {
            let mut lists = ListBuilder::new(Float32Builder::new());
            for row in rows {
                lists.values().append_slice(&row.token_nll);
                if self.count_end {
                    lists.values().append_value(row.end_nll);
                }
                lists.append(true);
            }
            columns.push(Arc::new(lists.finish()));
        }
        columns
    }
}

/// What became of a row.
type Outcome = Result<Arc<Scored>, Failure>;

/// Why a row goes to quarantine: reason and message.
#[derive(Debug, Clone)]
struct Failure(&'static str, String);

impl Failure {
    fn too_long(tokens: usize, limit: usize) -> Self {
        Self("too-long", format!("prompt and response have {tokens} tokens, and {limit} is the most"))
    }

    fn of(failure: ScoreFailure) -> Self {
        match failure {
            ScoreFailure::TooLong { tokens, limit } => Self::too_long(tokens, limit),
            ScoreFailure::Empty => Self("empty-response", "the response has no tokens".into()),
            ScoreFailure::Template(why) => Self("template", format!("the chat template cannot take this row: {why}")),
            ScoreFailure::NotFinite => Self("not-finite", "the model gave a likelihood that is no number".into()),
        }
    }
}

type ScoreTicket = Ticket<Result<Scored, ScoreFailure>>;

/// Rows of a window with the same content, which are scored once.
struct Pending {
    key: [u8; 16],
    rows: Vec<usize>,
    request: ScoreRequest,
}

impl Pending {
    /// The conversation and the response.
    fn content(&self) -> (&[(String, String)], &str) {
        (&self.request.messages, &self.request.response)
    }

    fn chars(&self) -> usize {
        self.request.messages.iter().map(|(_, text)| text.len()).sum::<usize>() + self.request.response.len()
    }
}

/// One run of the operator.
struct Scoring<'a> {
    op: &'a ScorePpl,
    cx: &'a NodeCx,
    lane: Arc<dyn ModelLane>,
    journal: Journal,
    /// Tokens of prompt and response together.
    limit: u32,
    /// Rows finished, of all windows.
    done: u64,
}

impl Scoring<'_> {
    fn window(&mut self, window: &RecordBatch) -> Result<(), RunError> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; window.num_rows()];
        let mut pending = self.pending(window, &mut outcomes)?;
        self.done += outcomes.iter().flatten().count() as u64;
        self.cx.progress(self.done, None);
        // By question, in the same order in every node; what the model shares is nearest then.
        pending.sort_by(|a, b| a.content().cmp(&b.content()));
        let mut rest = pending.as_slice();
        let mut in_flight = VecDeque::new();
        loop {
            while !rest.is_empty() && in_flight.len() < GROUPS_IN_FLIGHT {
                let (group, after) = rest.split_at(group_size(rest));
                in_flight.push_back((group, self.submit(group)));
                rest = after;
            }
            let Some((group, ticket)) = in_flight.pop_front() else { break };
            self.settle(group, ticket?, &mut outcomes)?;
        }
        let outcomes = outcomes.into_iter().map(|o| o.expect("every row is known, journalled or scored just now"));
        self.emit(window, outcomes.collect())
    }

    /// Settles rows that are journalled or can never be scored; returns the others.
    fn pending(&self, window: &RecordBatch, outcomes: &mut [Option<Outcome>]) -> Result<Vec<Pending>, RunError> {
        let (questions, responses) = (texts(window, &self.op.question)?, texts(window, &self.op.response)?);
        let mut pending: Vec<Pending> = Vec::new();
        let mut places: HashMap<[u8; 16], usize> = HashMap::new();
        for (row, outcome) in outcomes.iter_mut().enumerate() {
            let null = [(&questions, &self.op.question), (&responses, &self.op.response)];
            if let Some((_, name)) = null.into_iter().find(|(c, _)| c.is_null(row)) {
                *outcome = Some(Err(Failure("null-value", format!("`{}` is null", name.value))));
                continue;
            }
            let (question, response) = (questions.value(row), responses.value(row));
            let key = self.op.key(question, response);
            if let Some(place) = places.get(&key) {
                pending[*place].rows.push(row);
                continue;
            }
            if let Some(scored) = self.journal.get(&key).and_then(|bytes| decode(&bytes)) {
                *outcome = Some(self.within_limit(scored));
                continue;
            }
            places.insert(key, pending.len());
            let request = self.op.request(question, response);
            pending.push(Pending { key, rows: vec![row], request });
        }
        Ok(pending)
    }

    /// A journalled score may be of a row that another limit let through.
    fn within_limit(&self, scored: Scored) -> Outcome {
        let tokens = scored.prompt_tokens as usize + scored.token_nll.len();
        match tokens > self.limit as usize {
            true => Err(Failure::too_long(tokens, self.limit as usize)),
            false => Ok(Arc::new(scored)),
        }
    }

    fn submit(&self, group: &[Pending]) -> Result<ScoreTicket, RunError> {
        if self.cx.stopping() {
            return Err(RunError::Interrupted);
        }
        let requests: Vec<ScoreRequest> = group.iter().map(|p| p.request.clone()).collect();
        self.lane.submit_score(&requests, Some(self.limit))
    }

    /// Waits for a group's rows and writes them down.
    fn settle(
        &mut self,
        group: &[Pending],
        ticket: ScoreTicket,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), RunError> {
        let (mut finished, mut failure, mut written) = (Vec::new(), None, Instant::now());
        for one in ticket {
            match one {
                Ok((row, scored)) => finished.push((&group[row], scored)),
                Err(error) => failure = failure.or(Some(error)),
            }
            if written.elapsed() >= JOURNAL_TIME {
                self.write_down(&mut finished, outcomes)?;
                written = Instant::now();
            }
        }
        self.write_down(&mut finished, outcomes)?;
        failure.map_or(Ok(()), Err)
    }

    fn write_down(
        &mut self,
        finished: &mut Vec<(&Pending, Result<Scored, ScoreFailure>)>,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), RunError> {
        if finished.is_empty() {
            return Ok(());
        }
        let good = finished.iter().filter_map(|(p, s)| Some((p.key, encode(s.as_ref().ok()?))));
        self.journal.put(&good.collect::<Vec<_>>())?;
        for (pending, scored) in finished.drain(..) {
            if let Ok(scored) = &scored {
                self.cx.count_tokens(u64::from(scored.prompt_tokens) + scored.token_nll.len() as u64);
            }
            let outcome = scored.map(Arc::new).map_err(Failure::of);
            self.done += pending.rows.len() as u64;
            pending.rows.iter().for_each(|row| outcomes[*row] = Some(outcome.clone()));
        }
        self.cx.progress(self.done, None);
        Ok(())
    }

    /// Hands the window's rows on, in their order.
    fn emit(&self, window: &RecordBatch, outcomes: Vec<Outcome>) -> Result<(), RunError> {
        for (row, outcome) in outcomes.iter().enumerate() {
            let Err(Failure(reason, message)) = outcome else { continue };
            if *reason == "too-long" && self.op.fail_on_too_long {
                let id = super::rows::row_id(window, row);
                return Err(RunError::failed("too-long", format!("row `{id}`: {message}"))
                    .help("raise `max-tokens`, filter long rows out, or say `on-too-long=\"quarantine\"`"));
            }
            reject_row(self.cx, window, row, reason, message)?;
        }
        let kept: BooleanArray = outcomes.iter().map(|o| Some(o.is_ok())).collect();
        let rows = filter_record_batch(window, &kept).map_err(arrow_failed)?;
        let scored: Vec<&Scored> = outcomes.iter().filter_map(|o| Some(&**o.as_ref().ok()?)).collect();
        if scored.is_empty() {
            return Ok(());
        }
        let mut columns = rows.columns().to_vec();
        columns.extend(self.op.columns(&scored));
        let batch = RecordBatch::try_new(self.cx.output_schema(0), columns).map_err(arrow_failed)?;
        super::rows::emit_in_batches(self.cx, 0, &batch)
    }
}

/// How many of the first rows go to the model together.
fn group_size(pending: &[Pending]) -> usize {
    let (mut chars, mut questions) = (0, 0);
    for (i, row) in pending.iter().enumerate() {
        let asked_before = i > 0 && pending[i - 1].request.messages == row.request.messages;
        (chars, questions) = (chars + row.chars(), questions + usize::from(!asked_before));
        if chars > GROUP_CHARS || questions > GROUP_QUESTIONS {
            return i.max(1);
        }
    }
    pending.len()
}

/// A score as the journal holds it: prompt tokens, the end's likelihood, the tokens' likelihoods.
fn encode(scored: &Scored) -> Vec<u8> {
    let head = [scored.prompt_tokens.to_le_bytes(), scored.end_nll.to_le_bytes()];
    head.into_iter().chain(scored.token_nll.iter().map(|v| v.to_le_bytes())).flatten().collect()
}

/// `None` for bytes that are no score: the row is scored anew.
fn decode(bytes: &[u8]) -> Option<Scored> {
    let (words, rest) = bytes.as_chunks::<4>();
    let [prompt, end, tokens @ ..] = words else { return None };
    let token_nll: Vec<f32> = tokens.iter().map(|w| f32::from_le_bytes(*w)).collect();
    (rest.is_empty() && !token_nll.is_empty()).then_some(Scored {
        prompt_tokens: u32::from_le_bytes(*prompt),
        token_nll,
        end_nll: f32::from_le_bytes(*end),
    })
}

#[cfg(test)]
mod tests;

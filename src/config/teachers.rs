//! `teacher` declarations: hosted writers, models of the pipeline, and recorded answers.

use super::declarations::{Declaration, decode};
use super::fields::{Decoder, head_span};
use super::language;
use super::reader::{NodeReader, Written};
use super::scope::Scope;
use crate::diag::{Diagnostic, Diagnostics, Sources, Span, Spanned};
use crate::ops::{Fields, list};
use crate::syntax::Entry;
use std::path::PathBuf;

/// A declared writer.
#[derive(Debug, Clone)]
pub struct TeacherDecl {
    pub name: String,
    pub source: TeacherSource,
    /// The file that all of its answers are written to, for a `replay` teacher to read.
    pub record: Option<Spanned<PathBuf>>,
    pub span: Span,
}

/// Where a teacher's answers come from.
#[derive(Debug, Clone)]
pub enum TeacherSource {
    Hosted(Box<Hosted>),
    /// A `model` of the pipeline.
    Local {
        model: Spanned<String>,
    },
    Replay(Replay),
}

/// The protocol of a hosted teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Chat completions, and batches of them.
    OpenAi,
    /// Messages, and message batches.
    Anthropic,
}

/// A writer behind an API.
#[derive(Debug, Clone)]
pub struct Hosted {
    pub api: Api,
    /// The model's name at the provider.
    pub model: Spanned<String>,
    /// Without a slash at its end; the provider's own address if `None`.
    pub base_url: Option<Spanned<String>>,
    /// The name of the environment variable that holds the key; never the key.
    pub api_key_env: Option<Spanned<String>>,
    pub organization: Option<String>,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// Members of every request's body besides our own.
    pub body: serde_json::Map<String, serde_json::Value>,
    /// Asks through the provider's batch API.
    pub batch: bool,
    pub limits: Limits,
    pub budget: Budget,
    pub price: Option<Price>,
}

/// What bounds the calls to a teacher; never changes an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls that are open at once.
    pub concurrency: usize,
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u64>,
    /// Seconds that a call may take.
    pub timeout: f64,
    /// How often a call that failed is made again, when that may help.
    pub retries: u32,
}

/// What a run may spend on a teacher.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    /// In US dollars.
    pub money: Option<f64>,
    /// Input and output together.
    pub tokens: Option<u64>,
}

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    pub input: f64,
    pub output: f64,
    /// Input that the provider had in its cache; like other input if `None`.
    pub cached_input: Option<f64>,
}

/// Recorded answers: a file, or a split of a data set.
#[derive(Debug, Clone)]
pub struct Replay {
    pub from: ReplayFrom,
    /// Columns that tell which answer belongs to a row, in the recording and, by the same names, in what a prompt is
    /// made of. Empty for a file that `record` wrote, whose answers are found by what was asked.
    pub on: Vec<Spanned<String>>,
    /// What ids of rows begin with where no field of the recording names them.
    pub id_prefix: Option<Spanned<String>>,
    /// The recording's column of answers.
    pub answer: Spanned<String>,
}

#[derive(Debug, Clone)]
pub enum ReplayFrom {
    Path(Spanned<PathBuf>),
    Dataset { dataset: Spanned<String>, split: Option<Spanned<String>> },
}

/// Fields that only some kinds have.
const HOSTED: &[&str] = &[
    "model",
    "base-url",
    "api-key",
    "organization",
    "headers",
    "body",
    "batch",
    "concurrency",
    "requests-per-minute",
    "tokens-per-minute",
    "timeout",
    "retries",
    "budget",
    "price",
    "record",
];
const LOCAL: &[&str] = &["model", "record"];
const REPLAY: &[&str] = &["path", "dataset", "split", "id-prefix", "on", "answer"];

/// A `teacher` node. A key that is written in the file is masked in `sources`, so that no message shows it.
pub(super) fn teacher(
    declaration: Declaration<'_>,
    scope: &Scope<'_>,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<TeacherDecl> {
    let secrets = literal_secrets(&declaration.reader);
    if !secrets.is_empty() {
        for secret in secrets {
            sources.mask(secret);
            diagnostics.push(literal_secret(secret));
        }
        return None;
    }
    let head = head_span(declaration.reader.node());
    let fields = decode(&language::TEACHER, declaration.reader, scope, diagnostics)?;
    let kind = fields.str("kind");
    let belongs = only_for(&kind, &fields, diagnostics);
    let source = match kind.value.as_str() {
        "local" => local(&fields, head, scope, diagnostics),
        "replay" => replay(&fields, head, diagnostics).map(TeacherSource::Replay),
        kind => {
            let api = if kind == "anthropic" { Api::Anthropic } else { Api::OpenAi };
            hosted(api, &fields, head, sources, diagnostics).map(|h| TeacherSource::Hosted(Box::new(h)))
        }
    };
    let record = fields.opt_str("record").map(|p| p.map(PathBuf::from));
    let decl = TeacherDecl { name: declaration.name.value, source: source?, record, span: declaration.name.span };
    belongs.then_some(decl)
}

/// Whether every field that is given means something for the kind of teacher.
fn only_for(kind: &Spanned<String>, fields: &Fields, diagnostics: &mut Diagnostics) -> bool {
    let known = match kind.value.as_str() {
        "local" => LOCAL,
        "replay" => REPLAY,
        _ => HOSTED,
    };
    let mut sound = true;
    let foreign =
        language::TEACHER.fields.iter().map(|f| f.name).filter(|name| *name != "kind" && !known.contains(name));
    for name in foreign.filter(|name| fields.get(name).is_some()) {
        sound = false;
        diagnostics.push(
            Diagnostic::error("meaningless-field", format!("a teacher of kind `{}` has no `{name}`", kind.value))
                .at(fields.span_of(name), "means nothing here")
                .and(kind.span, "the kind of teacher")
                .help(format!("it takes {}", list(known))),
        );
    }
    sound
}

fn missing(kind: &str, field: &str, help: &str, head: Span, diagnostics: &mut Diagnostics) {
    diagnostics.push(
        Diagnostic::error("missing-field", format!("a teacher of kind `{kind}` needs `{field}`"))
            .at(head, format!("has no `{field}`"))
            .help(help),
    );
}

fn local(fields: &Fields, head: Span, scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Option<TeacherSource> {
    let Some(model) = fields.opt_str("model") else {
        missing("local", "model", "name a `model` of the pipeline: `model=\"student\"`", head, diagnostics);
        return None;
    };
    let mut decoder = Decoder { scope, diagnostics, owner: "a `local` teacher".into() };
    decoder.declared("model", &model.value, model.span).ok()?;
    Some(TeacherSource::Local { model })
}

fn replay(fields: &Fields, head: Span, diagnostics: &mut Diagnostics) -> Option<Replay> {
    let from = match (fields.opt_str("path"), fields.opt_str("dataset")) {
        (Some(path), None) => {
            if let Some(split) = fields.opt_str("split") {
                let error = Diagnostic::error("meaningless-field", "`split` belongs to a data set");
                diagnostics.push(error.at(split.span, "means nothing here").and(path.span, "a file has no splits"));
                return None;
            }
            ReplayFrom::Path(path.map(PathBuf::from))
        }
        (None, Some(dataset)) => ReplayFrom::Dataset { dataset, split: fields.opt_str("split") },
        (Some(path), Some(dataset)) => {
            let error = Diagnostic::error("duplicate-source", "recorded answers come from one place");
            diagnostics.push(error.at(dataset.span, "`dataset` is one").and(path.span, "`path` is another"));
            return None;
        }
        (None, None) => {
            let help = "name a file, `path=\"answers.jsonl\"`, or a data set, `dataset=\"sml-gsm8k\"`";
            missing("replay", "path", help, head, diagnostics);
            return None;
        }
    };
    Some(Replay {
        from,
        on: fields.strs("on"),
        id_prefix: fields.opt_str("id-prefix"),
        answer: fields.opt_str("answer").unwrap_or_else(|| Spanned::new("response".into(), head)),
    })
}

fn hosted(
    api: Api,
    fields: &Fields,
    head: Span,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Hosted> {
    let key = api_key(fields, sources, diagnostics);
    let url = fields.opt_str("base-url").map_or(Some(None), |url| base_url(url, diagnostics).map(Some));
    let body = body(fields, diagnostics);
    let Some(model) = fields.opt_str("model") else {
        let kind = fields.str("kind").value;
        missing(&kind, "model", "name the model as its provider does: `model=\"...\"`", head, diagnostics);
        return None;
    };
    let natural = |name: &str| fields.opt_int(name).map(|n| n.value.max(0) as u64);
    let [budget, price] = ["budget", "price"].map(|name| one(fields, name, diagnostics));
    let (budget, price) = (budget.ok()?, price.ok()?);
    Some(Hosted {
        api,
        model,
        base_url: url?,
        api_key_env: key?,
        organization: fields.opt_str("organization").map(|o| o.value),
        headers: fields.str_map("headers").into_iter().map(|(name, (_, value))| (name, value.value)).collect(),
        body: body?,
        batch: fields.opt_bool("batch").unwrap_or(false),
        limits: Limits {
            concurrency: natural("concurrency").unwrap_or(16) as usize,
            requests_per_minute: natural("requests-per-minute").map(|n| n.min(u32::MAX.into()) as u32),
            tokens_per_minute: natural("tokens-per-minute"),
            timeout: fields.opt_float("timeout").map_or(120.0, |t| t.value),
            retries: natural("retries").unwrap_or(5) as u32,
        },
        budget: budget.map_or_else(Budget::default, |b| Budget {
            money: b.opt_float("money").map(|m| m.value),
            tokens: b.opt_int("tokens").map(|t| t.value.max(0) as u64),
        }),
        price: price.map(|p| Price {
            input: p.float("input"),
            output: p.float("output"),
            cached_input: p.opt_float("cached-input").map(|c| c.value),
        }),
    })
}

/// The only record of a field, if there is one.
fn one(fields: &Fields, name: &str, diagnostics: &mut Diagnostics) -> Result<Option<Fields>, ()> {
    let mut records = fields.records(name);
    if let [first, second, ..] = records.as_slice() {
        let error = Diagnostic::error("duplicate-field", format!("`{name}` is given twice"));
        diagnostics.push(error.at(second.span, "second here").and(first.span, "first here").help("keep one"));
        return Err(());
    }
    Ok(records.pop())
}

/// `None` after an error.
fn api_key(fields: &Fields, sources: &mut Sources, diagnostics: &mut Diagnostics) -> Option<Option<Spanned<String>>> {
    let variable = one(fields, "api-key", diagnostics).ok()?.map(|key| key.str("env"));
    if let Some(name) = variable.as_ref().filter(|n| !is_variable(n)) {
        sources.mask(name.span);
        diagnostics.push(literal_secret(name.span));
        return None;
    }
    Some(variable)
}

fn base_url(url: Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Spanned<String>> {
    let parsed = reqwest::Url::parse(&url.value).ok();
    let sound = |u: &reqwest::Url| {
        matches!(u.scheme(), "http" | "https") && u.host().is_some() && u.query().is_none() && u.password().is_none()
    };
    if !parsed.as_ref().is_some_and(sound) {
        diagnostics.push(
            Diagnostic::error("bad-url", "`base-url` must be an address that begins with `http://` or `https://`")
                .at(url.span, "not such an address")
                .help("for example `base-url=\"http://localhost:8000/v1\"`, without a query or a password"),
        );
        return None;
    }
    Some(url.map(|u| u.trim_end_matches('/').to_string()))
}

fn body(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<serde_json::Map<String, serde_json::Value>> {
    let Some(text) = fields.opt_str("body") else { return Some(serde_json::Map::new()) };
    match serde_json::from_str(&text.value) {
        Ok(serde_json::Value::Object(map)) => Some(map),
        other => {
            let found = other.err().map_or("another JSON value".to_string(), |e| e.to_string());
            diagnostics.push(
                Diagnostic::error("bad-json", "`body` must be a JSON object")
                    .at(text.span, found)
                    .help("for example `body #\"{\"reasoning_effort\": \"low\"}\"#`"),
            );
            None
        }
    }
}

/// Headers that carry keys.
const KEY_HEADERS: &[&str] =
    &["authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"];

/// Places of `api-key="..."` and `api-key "..."`, and of headers that carry a key.
fn literal_secrets(reader: &NodeReader<'_>) -> Vec<Span> {
    let value = |e: &Entry| e.value.span;
    let places = |w: &Written<'_>| match w {
        Written::Property(entry) => vec![value(entry)],
        Written::Child(node) => node.arguments().map(value).collect(),
    };
    let is_key = |name: &str| KEY_HEADERS.contains(&name.to_lowercase().as_str());
    let header = |w: &Written<'_>| match w {
        Written::Property(_) => Vec::new(),
        Written::Child(node) => {
            let properties = node.properties().filter(|(name, _)| is_key(&name.value)).map(|(_, e)| value(e));
            let children = node.children.iter().flat_map(|block| &block.nodes).filter(|n| is_key(&n.name.value));
            properties.chain(children.flat_map(|n| n.arguments().map(value))).collect()
        }
    };
    let (keys, headers) = (reader.written("api-key"), reader.written("headers"));
    keys.iter().flat_map(places).chain(headers.iter().flat_map(header)).collect()
}

fn literal_secret(span: Span) -> Diagnostic {
    Diagnostic::error("literal-secret", "a key must not stand in a pipeline file")
        .at(span, "a literal key (masked here)")
        .help("write `api-key env=\"OPENAI_API_KEY\"` and set that variable where the pipeline runs")
        .help("if the file was shared, replace the key at its provider")
}

fn is_variable(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

//! `task` declarations: what is asked, how an answer is read, when it is right.

use super::declarations::{Declaration, decode};
use super::fields::head_span;
use super::language;
use super::scope::{Declared, Scope};
use crate::diag::{Diagnostic, Diagnostics, Sources, Span, Spanned, render};
use crate::eval::answer::{Extractor, OPTIONS};
use crate::eval::task::{Asked, Choices, Generate, GoldAs, Kind, Match, Normal, Pattern, Reading, Task};
use crate::ops::{Fields, list};
use crate::prompt::Template;
use crate::syntax;
use indexmap::IndexMap;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../tasks/", $name, ".kdl")))),+]
    };
}

/// Name and declaration of the tasks that come with the program, in the order of the reference.
pub const BUILT_IN: &[(&str, &str)] = files![
    "gsm8k",
    "math-algebra",
    "ecqa",
    "mbpp",
    "humaneval",
    "triviaqa",
    "truthfulqa-generation",
    "bbh",
    "bbh-direct",
    "mmlu",
    "arc-challenge",
    "hellaswag",
    "winogrande",
    "truthfulqa-mc2",
    "agieval",
];

/// The tasks that come with the program.
pub static TASKS: LazyLock<IndexMap<&'static str, Arc<Task>>> =
    LazyLock::new(|| BUILT_IN.iter().map(|(name, text)| (*name, Arc::new(built_in(name, text)))).collect());

fn built_in(name: &str, text: &str) -> Task {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let source = sources.add(format!("tasks/{name}.kdl"), None, text);
    let document = syntax::parse(text, source, &mut diagnostics);
    let (params, used) = (Declared::new(), RefCell::default());
    let scope = Scope::of_params(&params, &used, false);
    let node = document.as_ref().and_then(|d| d.nodes.first());
    let declaration = node.and_then(|node| super::declarations::named(node, "task", &mut diagnostics));
    let decoded = declaration.and_then(|d| task(d, &scope, &mut diagnostics));
    decoded.unwrap_or_else(|| {
        let shown = render(&diagnostics, &sources, false);
        panic!("a task that comes with the program is sound, as its tests show:\n{shown}")
    })
}

/// How an answer is read.
pub const READINGS: &[&str] = &["number", "boxed", "option", "code", "regex", "marked", "text"];
/// When it is right.
pub const MATCHES: &[&str] = &["numeric", "option", "exact", "contains"];

/// A `task` node. `None` after an error.
pub(super) fn task(declaration: Declaration<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Option<Task> {
    let head = head_span(declaration.reader.node());
    let fields = decode(&language::TASK, declaration.reader, scope, diagnostics)?;
    let decoder = Decoder { fields: &fields, head, errors: Vec::new() };
    let task = decoder.task(declaration.name);
    match task {
        Ok(task) => Some(task),
        Err(errors) => {
            errors.into_iter().for_each(|e| diagnostics.push(e));
            None
        }
    }
}

struct Decoder<'f> {
    fields: &'f Fields,
    head: Span,
    errors: Vec<Diagnostic>,
}

impl Decoder<'_> {
    fn task(mut self, name: Spanned<String>) -> Result<Task, Vec<Diagnostic>> {
        let asked = self.asked(&name.value);
        let kind = match self.fields.str("kind").value.as_str() {
            "multiple-choice" => self.choices(&name.value).map(Kind::Choice),
            _ => self.generate().map(Kind::Generate),
        };
        match (asked, kind) {
            (Some(asked), Some(kind)) if self.errors.is_empty() => Ok(Task {
                name: name.value,
                asked,
                gold: self.fields.str("gold"),
                kind,
                raw: self.fields.str("format").value == "text",
                span: name.span,
            }),
            _ => Err(self.errors),
        }
    }

    fn asked(&mut self, name: &str) -> Option<Asked> {
        let fields = self.fields;
        let marker = fields.str("marker");
        if marker.value.trim().is_empty() {
            self.errors.push(
                Diagnostic::error("empty-value", "the marker is empty")
                    .at(marker.span, "needs a text that stands before every answer")
                    .help("leave it out for `Final Answer:`"),
            );
        }
        let request = fields.opt_str("request").map(|r| r.value);
        let optional = strings(fields, "optional");
        let prompt = fields.str("prompt");
        match Asked::new(name, prompt.value, request, marker.value, optional) {
            Ok(asked) => Some(asked),
            Err(error) => {
                let refused =
                    Diagnostic::error("bad-prompt", format!("the prompt of task `{name}`: {}", error.message))
                        .at(prompt.span, "this template");
                self.errors.push(error.help.iter().fold(refused, |refused, help| refused.help(help)));
                None
            }
        }
    }

    fn choices(&mut self, name: &str) -> Option<Choices> {
        const GENERATED: &[&str] = &[
            "extract",
            "pattern",
            "group",
            "take",
            "match",
            "ignore",
            "options",
            "metric",
            "wrong",
            "max-tokens",
            "stop",
            "gold-pattern",
        ];
        for field in GENERATED {
            self.meaningless(field, "is for answers that a model writes, with `kind=\"generate\"`");
        }
        let fields = self.fields;
        let columns = strings(fields, "choices");
        if columns.is_empty() {
            self.errors.push(
                Diagnostic::error("missing-field", "a multiple choice needs `choices`")
                    .at(self.head, "between which texts?")
                    .help("name the column that holds a list of them, or a column for each: `choices \"option_1\" \"option_2\"`"),
            );
        }
        let written = fields.opt_str("continuation");
        let text = written.as_ref().map_or("{{ choice }}", |w| &w.value);
        let continuation = match Template::inferred(name, text, &[]) {
            Ok(template) => Some(Arc::new(template)),
            Err(error) => {
                let refused =
                    Diagnostic::error("bad-prompt", format!("the continuation of task `{name}`: {}", error.message));
                self.errors.push(refused.at(written.map_or(self.head, |w| w.span), "this template"));
                None
            }
        };
        let gold_as = GoldAs::of(&fields.opt_str("gold-as").map(|g| g.value).unwrap_or_default());
        Some(Choices { columns, continuation: continuation?, gold_as })
    }

    fn generate(&mut self) -> Option<Generate> {
        let fields = self.fields;
        for field in ["choices", "continuation", "gold-as"] {
            self.meaningless(field, "belongs to `kind=\"multiple-choice\"`");
        }
        let rouge = fields.opt_str("wrong").is_some() || !fields.strs("metric").is_empty();
        let extract = fields.str("extract");
        let pattern = self.pattern("pattern");
        let gold_pattern = self.pattern("gold-pattern");
        let reading = match extract.value.as_str() {
            "number" => Reading::Number(Extractor::Marker),
            "boxed" => Reading::Number(Extractor::Boxed),
            "option" => Reading::Option,
            "code" => Reading::Code,
            "marked" => Reading::Marked,
            "regex" => match pattern {
                Some(pattern) => Reading::Regex(pattern),
                None => {
                    self.missing_pattern(&extract);
                    return None;
                }
            },
            _ => Reading::Text,
        };
        if !matches!(reading, Reading::Regex(_)) {
            for name in ["pattern", "group", "take"] {
                self.meaningless(name, "belongs to `extract \"regex\"`");
            }
        }
        let matching = match (fields.opt_str("match").map(|m| m.value).as_deref(), &reading) {
            (Some("numeric"), _) => Match::Numeric,
            (Some("option"), _) => Match::Option,
            (Some("exact"), _) => Match::Exact,
            (Some("contains"), _) => Match::Contains,
            (_, Reading::Number(_)) => Match::Numeric,
            (_, Reading::Option) => Match::Option,
            (_, Reading::Code) => Match::Tests,
            _ => Match::Exact,
        };
        if (matching == Match::Option) != matches!(reading, Reading::Option) {
            self.errors.push(
                Diagnostic::error("meaningless-field", "options are read by `extract \"option\"` and compared as such")
                    .at(fields.span_of("match"), "does not fit")
                    .and(fields.span_of("extract"), "with this")
                    .help("drop `match`, or take another one of the two"),
            );
        }
        if matches!(reading, Reading::Code) {
            for name in ["match", "gold", "gold-pattern", "metric", "wrong"] {
                self.meaningless(name, "is not for code, which is judged by its tests");
            }
        }
        if matches!(matching, Match::Numeric | Match::Option | Match::Tests) {
            self.meaningless("ignore", "is for texts, and this task compares none");
        }
        let options = strings(fields, "options");
        if !matches!(reading, Reading::Option) {
            self.meaningless("options", "belongs to `extract \"option\"`");
        } else if !options.is_empty() && options.len() != OPTIONS.len() {
            self.errors.push(
                Diagnostic::error("bad-options", format!("`options` names {} columns, not five", options.len()))
                    .at(fields.span_of("options"), "one for each option, in their order"),
            );
        }
        let normal = strings(fields, "ignore");
        Some(Generate {
            reading,
            matching,
            normal: Normal::of(normal.iter().map(String::as_str)),
            gold_pattern,
            rouge,
            wrong: fields.opt_str("wrong").map(|w| w.value),
            options: if options.is_empty() { OPTIONS.map(str::to_string).into() } else { options },
            max_tokens: fields.opt_int("max-tokens").and_then(|m| u32::try_from(m.value).ok()),
            stop: strings(fields, "stop"),
        })
    }

    /// A regular expression, where one is written.
    fn pattern(&mut self, name: &'static str) -> Option<Pattern> {
        let fields = self.fields;
        let written = fields.opt_str(name)?;
        let own = name == "pattern";
        let group = if own { fields.opt_int("group").map(|g| g.value) } else { None };
        let last = if own { fields.opt_str("take").is_none_or(|t| t.value == "last") } else { true };
        let regex = match regex::Regex::new(&written.value) {
            Ok(regex) => regex,
            Err(error) => {
                let message = format!("`{name}` is no regular expression: {error}");
                self.errors
                    .push(Diagnostic::error("bad-regex", message).at(written.span, "cannot be read").help(SYNTAX));
                return None;
            }
        };
        // Of an expression with a group the group is meant, as everywhere.
        let group = group.map_or(usize::from(regex.captures_len() > 1), |g| usize::try_from(g).unwrap_or(usize::MAX));
        if group >= regex.captures_len() {
            let message = format!("`{name}` has {} groups, not {group}", regex.captures_len() - 1);
            self.errors.push(Diagnostic::error("bad-regex", message).at(written.span, "group 0 is the whole match"));
            return None;
        }
        Some(Pattern { regex, group, last })
    }

    fn missing_pattern(&mut self, extract: &Spanned<String>) {
        if self.fields.get("pattern").is_none() {
            self.errors.push(
                Diagnostic::error("missing-field", "`extract \"regex\"` needs a `pattern`")
                    .at(extract.span, "by which expression?")
                    .help("such as `pattern \"#### (-?[0-9.,]+)\"`"),
            );
        }
    }

    /// Reports a field that is written and not read.
    fn meaningless(&mut self, name: &str, why: &str) {
        let Some(field) = self.fields.get(name).filter(|f| f.span != self.head) else { return };
        let error = Diagnostic::error("meaningless-field", format!("`{name}` {why}"));
        self.errors.push(error.at(field.span, "not read").help("delete it"));
    }
}

const SYNTAX: &str = "the syntax is that of the regex crate: no look-around and no back-references";

fn strings(fields: &Fields, name: &str) -> Vec<String> {
    fields.strs(name).into_iter().map(|s| s.value).collect()
}

/// Looks a task up: the pipeline's own first. `Err` is the message and its help.
pub(super) fn find(own: Option<&Declared<Arc<Task>>>, name: &str) -> Result<Option<Arc<Task>>, String> {
    if let Some(found) = own.and_then(|own| own.get(name)) {
        return Ok(found.clone());
    }
    if let Some(found) = TASKS.get(name) {
        return Ok(Some(found.clone()));
    }
    let names: Vec<&str> =
        own.into_iter().flat_map(|own| own.keys().map(String::as_str)).chain(TASKS.keys().copied()).collect();
    Err(match crate::ops::did_you_mean(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}; declare others: `task \"{name}\" ...`", list(&names)),
    })
}

/// The declaration of a task that comes with the program.
pub fn text_of(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

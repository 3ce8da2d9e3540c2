//! The checker of a task over rows: where right answers, options and tests stand, and what answers are worth.

use super::{InRow, Writing};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::eval::answer::{Answer, Checker, Extractor, Fault, OPTIONS, Task};
use crate::eval::code::{CodeChecker, CodeProblem, TestColumns};
use crate::eval::sandbox::Trouble;
use crate::exec::{NodeCx, RunError};
use crate::ops::code::CodeTask;
use crate::ops::{Default, FieldKind, FieldSpec, Fields, InputInfo, ResolveCx, is_number, is_string};
use crate::teacher::Failure;
use arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How answers are read, for operators with a field `task`.
pub const JUDGE: &[FieldSpec] = &[
    FieldSpec::new("gold", FieldKind::Column, "the column of right answers, text or numbers")
        .default(Default::Str("gold")),
    FieldSpec::new(
        "extractor",
        FieldKind::Choice(&["marker", "boxed"]),
        "for `math`: the first number after the last marker, or the last `\\boxed{}` and otherwise the last number",
    )
    .default(Default::Str("marker")),
];

/// How answers are judged, as the fields say.
#[derive(Debug)]
pub struct Judge {
    kind: Kind,
    /// The column of right answers; not of code.
    pub gold: Spanned<String>,
    marker: String,
}

#[derive(Debug)]
enum Kind {
    Answers(Checker),
    Code(CodeTask),
}

/// A judge at work.
pub struct Bench<'a> {
    judge: &'a Judge,
    code: Option<(CodeChecker, TestColumns)>,
    cx: &'a NodeCx,
}

/// What a row's answers are held against.
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    Answer(Answer),
    Problem(CodeProblem),
}

impl Judge {
    /// The checker of the task that the field `by` names. `None` for tasks whose answers no checker reads, and after an
    /// error. Code is judged by operators that have the fields for it.
    pub fn read(fields: &Fields, by: &str, writing: &Writing, diagnostics: &mut Diagnostics) -> Option<Self> {
        let boxed = fields.str("extractor").value == "boxed";
        let task = fields.str(by).value;
        if task != "math" && boxed {
            let error = Diagnostic::error("meaningless-field", format!("`extractor` is for `{by}=\"math\"`"))
                .at(fields.span_of("extractor"), "not read")
                .and(fields.span_of(by), "because of this");
            diagnostics.push(match task.as_str() {
                "ecqa" => error.help("options are read behind the marker: remove `extractor`"),
                _ => error,
            });
            return None;
        }
        let judges_code = fields.values.contains_key("sandbox");
        let kind = match task.as_str() {
            "code" if judges_code => Kind::Code(CodeTask::read(fields, by, diagnostics)?),
            _ => {
                let before = diagnostics.0.len();
                if judges_code {
                    CodeTask::refuse(fields, by, diagnostics);
                }
                let extractor = if boxed { Extractor::Boxed } else { Extractor::Marker };
                Kind::Answers(checker(&task, writing, extractor).filter(|_| diagnostics.0.len() == before)?)
            }
        };
        Some(Self { kind, gold: fields.str("gold"), marker: writing.marker.clone() })
    }

    pub fn canonical(&self) -> Value {
        match &self.kind {
            Kind::Code(code) => code.canonical(),
            Kind::Answers(checker) => json!({
                "task": format!("{:?}", checker.task),
                "gold": self.gold.value,
                "extractor": format!("{:?}", checker.extractor),
            }),
        }
    }

    pub fn is_code(&self) -> bool {
        matches!(self.kind, Kind::Code(_))
    }

    /// Whether the input has what answers are held against.
    pub fn is_known(&self, input: &Schema) -> bool {
        match &self.kind {
            Kind::Answers(_) => input.field_with_name(&self.gold.value).is_ok(),
            Kind::Code(code) => code.columns(input).is_some(),
        }
    }

    /// The input has what answers are held against. Gives the files that verdicts depend on.
    pub fn resolve(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<Vec<PathBuf>> {
        let value = |t: &DataType| is_string(t) || is_number(t);
        match &self.kind {
            Kind::Code(code) => code.resolve(input, cx),
            Kind::Answers(_) => {
                cx.need_column(input, &self.gold.value, "string or number", value, self.gold.span).map(|_| Vec::new())
            }
        }
    }

    /// Makes ready for the rows of the first input.
    pub fn open<'a>(&'a self, cx: &'a NodeCx) -> Result<Bench<'a>, RunError> {
        let code = match &self.kind {
            Kind::Answers(_) => None,
            Kind::Code(code) => {
                let columns = code.columns(&cx.inputs()[0].schema);
                columns.map(|columns| Ok::<_, RunError>((code.open(&self.marker)?, columns))).transpose()?
            }
        };
        Ok(Bench { judge: self, code, cx })
    }
}

impl Bench<'_> {
    /// What a row's answers are held against.
    pub fn gold(&self, row: &InRow) -> Result<Gold, Failure> {
        let gold = match (&self.judge.kind, &self.code) {
            (Kind::Answers(checker), _) => {
                let name = &self.judge.gold.value;
                checker.gold_of(name, row.value(name), &options(row)).map(Gold::Answer)
            }
            (_, Some((_, columns))) => columns.problem(|name| row.value(name)).map(Gold::Problem),
            _ => Err(("no-tests", "the rows have no tests".to_string())),
        };
        gold.map_err(|(reason, message)| Failure::new(reason, message))
    }

    /// Why a text is not right for a row; `None` where it is.
    pub fn fault(&self, text: &str, gold: &Gold, row: &InRow) -> Result<Option<Fault>, Failure> {
        Ok(self.faults(&[text], gold, row)?.into_iter().next().flatten())
    }

    /// The same of several texts. Programs run side by side.
    pub fn faults(&self, texts: &[&str], gold: &Gold, row: &InRow) -> Result<Vec<Option<Fault>>, Failure> {
        match (&self.judge.kind, gold, &self.code) {
            (Kind::Answers(checker), Gold::Answer(gold), _) => {
                Ok(texts.iter().map(|text| checker.check(Some(text), *gold, &options(row)).why).collect())
            }
            (_, Gold::Problem(problem), Some((checker, _))) => {
                let answers: Vec<_> = texts.iter().map(|text| (Some(*text), problem)).collect();
                let verdicts =
                    checker.check_all(&answers, &|| self.cx.stopping()).map_err(|trouble| match trouble {
                        Trouble::Unavailable(unavailable) => Failure::new(unavailable.code, unavailable.message),
                        // The driver sees the stop itself, and hands nothing more on.
                        Trouble::Stopped => Failure::new("sandbox-failed", "the run is to stop"),
                    })?;
                Ok(verdicts.into_iter().map(|v| v.why).collect())
            }
            _ => Err(Failure::new("no-tests", "the rows have no tests")),
        }
    }
}

/// The checker of a task; `None` for tasks whose answers are not compared with a right one.
pub fn checker(task: &str, writing: &Writing, extractor: Extractor) -> Option<Checker> {
    let task = match task {
        "math" => Task::Math,
        "ecqa" => Task::Ecqa,
        _ => return None,
    };
    Some(Checker { task, extractor, marker: writing.marker.clone() })
}

/// Whether two texts give the same answer, be it right or not.
pub fn same_answer(checker: &Checker, a: &str, b: &str, row: &InRow) -> bool {
    let read = |text| checker.read(text, &options(row));
    matches!((read(a), read(b)), (Ok(a), Ok(b)) if a.agrees(b))
}

fn options(row: &InRow) -> [&str; 5] {
    OPTIONS.map(|name| row.text(name).unwrap_or_default())
}

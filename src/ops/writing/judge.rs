//! The checker of a task over rows: where right answers and options stand, and what answers are worth.

use super::{InRow, Writing};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::eval::answer::{Answer, Checker, Extractor, OPTIONS, Task, Verdict};
use crate::ops::{Default, FieldKind, FieldSpec, Fields, InputInfo, ResolveCx, is_number, is_string};
use crate::teacher::Failure;
use arrow::datatypes::DataType;
use serde_json::{Value, json};

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

/// A checker, and the column of right answers.
#[derive(Debug)]
pub struct Judge {
    checker: Checker,
    pub gold: Spanned<String>,
}

impl Judge {
    /// The checker of the task that the field `by` names. `None` for tasks whose answers no checker reads, and after an
    /// error.
    pub fn read(fields: &Fields, by: &str, writing: &Writing, diagnostics: &mut Diagnostics) -> Option<Self> {
        let boxed = fields.str("extractor").value == "boxed";
        let task = fields.str(by).value;
        if task == "ecqa" && boxed {
            diagnostics.push(
                Diagnostic::error("meaningless-field", format!("`extractor` is for `{by}=\"math\"`"))
                    .at(fields.span_of("extractor"), "not read")
                    .and(fields.span_of(by), "because of this")
                    .help("options are read behind the marker: remove `extractor`"),
            );
            return None;
        }
        let extractor = if boxed { Extractor::Boxed } else { Extractor::Marker };
        Some(Self { checker: checker(&task, writing, extractor)?, gold: fields.str("gold") })
    }

    pub fn canonical(&self) -> Value {
        json!({
            "task": format!("{:?}", self.checker.task),
            "gold": self.gold.value,
            "extractor": format!("{:?}", self.checker.extractor),
        })
    }

    /// The input has the column of right answers.
    pub fn resolve(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<()> {
        let value = |t: &DataType| is_string(t) || is_number(t);
        cx.need_column(input, &self.gold.value, "string or number", value, self.gold.span).map(|_| ())
    }

    /// The right answer of a row.
    pub fn gold(&self, row: &InRow) -> Result<Answer, Failure> {
        let name = &self.gold.value;
        let gold = self.checker.gold_of(name, row.value(name), &options(row));
        gold.map_err(|(reason, message)| Failure::new(reason, message))
    }

    /// What a text is worth for a row.
    pub fn check(&self, text: &str, gold: Answer, row: &InRow) -> Verdict {
        self.checker.check(Some(text), gold, &options(row))
    }
}

/// The checker of a task; `None` for tasks whose answers none reads.
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

//! Operators that judge code: the fields that say where tests stand and how programs are run, and what they mean.

use super::{Default, FieldKind, FieldSpec, Fields, ResolveCx, Value, is_string, list};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::code::{CodeChecker, TestColumns};
use crate::eval::sandbox::{Confinement, Limits, Sandbox, Settings, Trouble, Unavailable};
use crate::exec::RunError;
use crate::plan::InputInfo;
use crate::size;
use arrow::datatypes::{DataType, Schema};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// The fields, for operators with a task `code`.
pub const CODE: &[FieldSpec] = &[
    FieldSpec::new(
        "tests",
        FieldKind::List(&FieldKind::Column),
        "for `code`: the columns of tests, code or lists of code, each of which passes by raising nothing; if not given, \
         those of MBPP (`test_list`, `challenge_test_list`) or HumanEval (`test`), whichever the input has",
    ),
    FieldSpec::new(
        "test-setup",
        FieldKind::Column,
        "for `code`: the column of code to run before the tests; without `tests`, `test_setup_code` where there is one",
    ),
    FieldSpec::new(
        "entry-point",
        FieldKind::Column,
        "for `code`: the column that names the function to test, where the tests define `check(candidate)`; without \
         `tests`, `entry_point` where there is one",
    ),
    FieldSpec::new(
        "beginning",
        FieldKind::Column,
        "for `code`: the column of the program's beginning, which responses go on from; without `tests`, for HumanEval, \
         `prompt` or else `question`",
    ),
    FieldSpec::new("timeout", FieldKind::Float { min: 1.0, max: 3600.0 }, "for `code`: seconds of processor time of a program")
        .default(Default::Float(5.0)),
    FieldSpec::new("program-memory", FieldKind::Str, "for `code`: the most memory of a program, as in `1GiB`")
        .default(Default::Str("1GiB")),
    FieldSpec::new(
        "sandbox",
        FieldKind::Choice(&["full", "rlimits"]),
        "for `code`: what keeps programs from doing harm; `rlimits` runs them where the kernel cannot confine them, with \
         limits alone",
    )
    .default(Default::Str("full")),
    FieldSpec::new("python", FieldKind::Str, "for `code`: the Python 3 that runs programs, a name in `PATH` or a path")
        .default(Default::Str("python3")),
];

/// How an operator judges code.
#[derive(Debug)]
pub struct CodeTask {
    tests: Vec<Spanned<String>>,
    setup: Option<Spanned<String>>,
    entry_point: Option<Spanned<String>>,
    beginning: Option<Spanned<String>>,
    settings: Settings,
    /// What says that code is judged.
    span: Span,
}

impl CodeTask {
    /// Reads the fields; `by` is the one that says that the task is code. `None` after an error.
    pub fn read(fields: &Fields, by: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let memory = fields.str("program-memory");
        let Some(bytes) = size::parse(&memory.value).filter(|bytes| *bytes >= 16 << 20) else {
            diagnostics.push(
                Diagnostic::error("bad-size", format!("`program-memory` is \"{}\"", memory.value))
                    .at(memory.span, "needs a size, 16MiB at least")
                    .help("as in `program-memory=\"512MiB\"`"),
            );
            return None;
        };
        let confinement = if fields.str("sandbox").value == "full" { Confinement::Full } else { Confinement::Limits };
        let limits = Limits { seconds: fields.float("timeout"), memory: bytes, ..Limits::default() };
        Some(Self {
            tests: fields.strs("tests"),
            setup: fields.opt_str("test-setup"),
            entry_point: fields.opt_str("entry-point"),
            beginning: fields.opt_str("beginning"),
            settings: Settings { python: fields.str("python").value, confinement, limits },
            span: fields.span_of(by),
        })
    }

    /// An error for each of the fields that is written where the task is another one.
    pub fn refuse(fields: &Fields, by: &str, diagnostics: &mut Diagnostics) {
        for spec in CODE {
            // A field that is not written has the place of its node, or no value at all.
            let written = fields.get(spec.name).filter(|v| v.span != fields.span && v.value != Value::List(Vec::new()));
            if let Some(value) = written {
                diagnostics.push(
                    Diagnostic::error("meaningless-field", format!("`{}` is for `{by}=\"code\"`", spec.name))
                        .at(value.span, "not read")
                        .and(fields.span_of(by), "because of this"),
                );
            }
        }
    }

    /// Everything that can change a verdict, but for the interpreter.
    pub fn canonical(&self) -> serde_json::Value {
        let name = |column: &Option<Spanned<String>>| column.as_ref().map(|c| c.value.clone());
        json!({
            "tests": self.tests.iter().map(|t| &t.value).collect::<Vec<_>>(),
            "setup": name(&self.setup),
            "entry_point": name(&self.entry_point),
            "beginning": name(&self.beginning),
            "seconds": self.settings.limits.seconds,
            "memory": self.settings.limits.memory,
            "confinement": format!("{:?}", self.settings.confinement),
            // How code is read from an answer.
            "reading": 2,
        })
    }

    /// The columns of tests in an input: those that the fields name, or those of the contracts.
    pub fn columns(&self, schema: &Schema) -> Option<TestColumns> {
        let name = |column: &Option<Spanned<String>>| column.as_ref().map(|c| c.value.clone());
        let known = match self.tests.is_empty() {
            true => TestColumns::of(schema.fields().iter().map(|f| f.name().as_str()))?,
            false => {
                TestColumns { tests: self.tests.iter().map(|t| t.value.clone()).collect(), ..TestColumns::default() }
            }
        };
        Some(TestColumns {
            setup: name(&self.setup).or(known.setup),
            entry_point: name(&self.entry_point).or(known.entry_point),
            prompt: name(&self.beginning).or(known.prompt),
            tests: known.tests,
        })
    }

    /// The input has tests, and, where the environment counts, there is an interpreter and a kernel that can run them.
    /// Gives the files that verdicts depend on.
    pub fn resolve(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<Vec<PathBuf>> {
        let columns = self.need_columns(input, cx);
        if !cx.files_must_exist {
            return columns.map(|()| Vec::new());
        }
        match Sandbox::look(&self.settings) {
            Ok(python) => columns.map(|()| vec![python.executable]),
            Err(Unavailable { code, message, help }) => {
                let error = Diagnostic::error(code, message).at(self.span, "code is judged by running it");
                cx.error(match help {
                    Some(help) => error.help(help),
                    None => error,
                });
                None
            }
        }
    }

    fn need_columns(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<()> {
        let Some(columns) = self.columns(&input.schema) else {
            let names: Vec<&str> = input.schema.fields().iter().map(|f| f.name().as_str()).collect();
            cx.error(
                Diagnostic::error("column-missing", "nothing in the input says what code is tested with")
                    .at(self.span, "code is judged by its tests")
                    .and(input.producer_span, format!("`{}` gives {}", input.producer, list(&names)))
                    .help(
                        "name the columns of tests with `tests`; those of MBPP and HumanEval are known by their names",
                    ),
            );
            return None;
        };
        let code = |t: &DataType| {
            is_string(t) || matches!(t, DataType::List(item) | DataType::LargeList(item) if is_string(item.data_type()))
        };
        let mut sound = true;
        for test in &columns.tests {
            let span = self.tests.iter().find(|t| t.value == *test).map_or(self.span, |t| t.span);
            sound &= cx.need_column(input, test, "code or a list of code", code, span).is_some();
        }
        for (written, column) in [
            (&self.setup, &columns.setup),
            (&self.entry_point, &columns.entry_point),
            (&self.beginning, &columns.prompt),
        ] {
            let Some(column) = column else { continue };
            let span = written.as_ref().map_or(self.span, |w| w.span);
            sound &= cx.need_column(input, column, "string", is_string, span).is_some();
        }
        sound.then_some(())
    }

    /// The checker of a run.
    pub fn open(&self, marker: &str) -> Result<CodeChecker, RunError> {
        let sandbox = Arc::new(Sandbox::open(&self.settings).map_err(Trouble::from)?);
        Ok(CodeChecker { sandbox, marker: marker.to_string() })
    }
}

impl From<Trouble> for RunError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Stopped => Self::Interrupted,
            Trouble::Unavailable(Unavailable { code, message, help }) => {
                let error = Self::failed(code, message);
                match help {
                    Some(help) => error.help(help),
                    None => error,
                }
            }
        }
    }
}

//! One node of KDL, from its text to its rows, for unit tests of operators.

use super::testing::MemoryHost;
use super::{Arity, Fields, Operator, ResolveCx, Resolved};
use crate::config::RunOptions;
use crate::config::{TeacherDecl, TeacherSource};
use crate::diag::{Diagnostics, SourceId, Span, Spanned};
use crate::exec::{Rejected, RunError};
use crate::fetch::Fetcher;
use crate::plan::{Estimate, InputInfo, NodeName, TeacherInfo};
use crate::teacher::Teacher;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::Value;
use std::sync::Arc;

/// Rows from a JSON array of objects: the columns as `load` infers them, `id` not null.
pub fn rows(json: &str) -> RecordBatch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    std::fs::write(&path, json).unwrap();
    let node = Node::new(&format!("load \"rows\" path={path:?}"), &[]).unwrap_or_else(|e| panic!("{e}"));
    let ran = node.run(1024).unwrap();
    assert_eq!(ran.rejected.len(), 0, "{:?}", ran.rejected);
    ran.rows[0].clone()
}

/// Every row as a JSON object.
pub fn rows_json(batch: &RecordBatch) -> Vec<Value> {
    (0..batch.num_rows()).map(|row| super::rows::row_json(batch, row)).collect()
}

/// The rows as one line of JSON each.
pub fn lines(batch: &RecordBatch) -> String {
    rows_json(batch).iter().map(|row| format!("{row}\n")).collect()
}

/// An input of a node under test.
#[derive(Clone)]
pub struct Given {
    pub port: &'static str,
    pub producer: NodeName,
    pub output: &'static str,
    pub rows: RecordBatch,
    pub skipped: Option<String>,
}

/// An input from a producer named `base[axis=value, …]`.
pub fn given(port: &'static str, name: &str, rows: RecordBatch) -> Given {
    let (base, bindings) = name.strip_suffix(']').and_then(|n| n.split_once('[')).unwrap_or((name, ""));
    let mut producer = NodeName::plain(base);
    let pairs = bindings.split(", ").filter_map(|pair| pair.split_once('='));
    producer.bindings.0 = pairs.map(|(axis, value)| (axis.into(), value.into())).collect();
    Given { port, producer, output: "out", rows, skipped: None }
}

/// A node that was decoded, built and resolved.
pub struct Node {
    pub operator: Box<dyn Operator>,
    pub resolved: Resolved,
    inputs: Vec<Given>,
    teacher: Option<Arc<dyn Teacher>>,
}

/// What a node gave.
pub struct Ran {
    /// One batch for each output.
    pub rows: Vec<RecordBatch>,
    pub rejected: Vec<Rejected>,
    pub host: Arc<MemoryHost>,
}

impl Node {
    /// Decodes, builds and resolves; the error is all diagnostics as text.
    pub fn new(kdl: &str, inputs: &[Given]) -> Result<Self, String> {
        Self::with(kdl, inputs, true)
    }

    pub fn with(kdl: &str, inputs: &[Given], look_at_files: bool) -> Result<Self, String> {
        Self::knowing(kdl, inputs, look_at_files, None)
    }

    /// With data sets that `load` can name.
    pub fn knowing(
        kdl: &str,
        inputs: &[Given],
        look_at_files: bool,
        datasets: Option<&Arc<Fetcher>>,
    ) -> Result<Self, String> {
        Self::resolved(kdl, inputs, look_at_files, datasets, None)
    }

    /// With a teacher that every name stands for.
    pub fn asking(kdl: &str, inputs: &[Given], teacher: Arc<dyn Teacher>) -> Result<Self, String> {
        let span = Span::new(SourceId(0), 0, 0);
        let source = TeacherSource::Local { model: Spanned::new("student".into(), span) };
        let decl = TeacherDecl { name: "teacher".into(), source, record: None, span };
        let info = TeacherInfo { decl, digest: "teacher".into(), model: None, recording: None, to_fetch: None };
        let node = Self::resolved(kdl, inputs, true, None, Some(&info))?;
        Ok(Self { teacher: Some(teacher), ..node })
    }

    fn resolved(
        kdl: &str,
        inputs: &[Given],
        look_at_files: bool,
        datasets: Option<&Arc<Fetcher>>,
        teacher: Option<&TeacherInfo>,
    ) -> Result<Self, String> {
        let name = kdl.split_whitespace().next().expect("an operator");
        let op = super::find(name).expect("a registered operator");
        let fields: Fields = crate::config::decode_fields(op, kdl)?;
        let mut diagnostics = Diagnostics::new();
        let operator = (op.build)(&fields, &mut diagnostics).ok_or_else(|| shown(&diagnostics))?;
        let span = Span::new(SourceId(0), 0, 0);
        let info = |g: &Given| InputInfo {
            port: g.port,
            schema: g.rows.schema(),
            producer: g.producer.clone(),
            output: g.output,
            producer_span: span,
            span,
            estimate: Estimate { rows: Some(g.rows.num_rows() as u64), ..Estimate::default() },
            skipped: g.skipped.clone(),
        };
        let infos: Vec<InputInfo> = inputs.iter().map(info).collect();
        for port in op.inputs {
            let count = infos.iter().filter(|i| i.port == port.name).count();
            assert!(count == 1 || port.arity != Arity::One, "port `{}` has {count} inputs", port.name);
        }
        let node = NodeName::plain("test");
        let resolved = operator.resolve(&mut ResolveCx {
            node: &node,
            op,
            span,
            inputs: &infos,
            diagnostics: &mut diagnostics,
            models: &|_| None,
            teachers: &|_| teacher,
            datasets,
            look_at_files,
            files_must_exist: look_at_files,
        });
        match resolved {
            Some(resolved) if !diagnostics.has_errors() => {
                Ok(Self { operator, resolved, inputs: inputs.to_vec(), teacher: None })
            }
            _ => Err(shown(&diagnostics)),
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.resolved.outputs[0]
    }

    /// Runs on inputs in batches of this many rows.
    pub fn run(&self, batch_rows: usize) -> Result<Ran, RunError> {
        self.run_with(RunOptions { batch_rows, ..RunOptions::default() })
    }

    pub fn run_with(&self, options: RunOptions) -> Result<Ran, RunError> {
        let pieces = |g: &Given| split(&g.rows, options.batch_rows);
        let inputs = self.inputs.iter().map(|g| (g.port, pieces(g))).collect();
        let mut host = MemoryHost::new(inputs, self.resolved.outputs.clone());
        for (input, given) in host.inputs.iter_mut().zip(&self.inputs) {
            input.producer = given.producer.clone();
            input.output = given.output;
            input.skipped = given.skipped.clone();
        }
        host.options = options;
        host.teachers = self.teacher.iter().map(|t| ("teacher".to_string(), t.clone())).collect();
        let (rows, host) = host.run(self.operator.as_ref())?;
        let rejected = host.rejected.lock().unwrap().clone();
        Ok(Ran { rows, rejected, host })
    }
}

/// The rows in batches of a size; an empty batch if there are none.
fn split(rows: &RecordBatch, size: usize) -> Vec<RecordBatch> {
    let starts = (0..rows.num_rows().max(1)).step_by(size);
    starts.map(|start| rows.slice(start, size.min(rows.num_rows() - start))).collect()
}

/// What the node is refused for.
pub fn refusal(kdl: &str, inputs: &[Given]) -> String {
    match Node::new(kdl, inputs) {
        Ok(node) => panic!("accepted: {:?}", node.operator),
        Err(problems) => problems,
    }
}

/// Runs a node on inputs in batches of a size.
pub fn run(kdl: &str, inputs: &[Given], batch_rows: usize) -> Ran {
    let node = Node::new(kdl, inputs).unwrap_or_else(|problems| panic!("{problems}"));
    node.run(batch_rows).unwrap_or_else(|error| panic!("{error}"))
}

fn shown(diagnostics: &Diagnostics) -> String {
    let mut text = String::new();
    for d in diagnostics.iter() {
        text += &format!("{} [{}]: {}\n", d.severity, d.code, d.message);
        d.labels.iter().for_each(|l| text += &format!("  at: {}\n", l.text));
        d.help.iter().for_each(|h| text += &format!("  help: {h}\n"));
    }
    text
}

//! `task-prompt`: what a model would be asked for a task, as a column.

use super::evaluate::asked::{self, OVERRIDES};
use super::rows::{batches, cell_shown, reject_row, widened};
use super::writing::settings::{column, count, joined};
use super::{FROM, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, is_number, is_string, unknown_input};
use crate::diag::{Diagnostics, Span, Spanned};
use crate::eval::task::Task;
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use indexmap::IndexMap;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "task-prompt",
    summary: "Puts what a task asks of a model into a column, to train and to score with the same words",
    doc: "\
Adds the column `prompt`, or the one that `column` names: the user's turn that `evaluate` asks with for the same `task`. \
Train (`lora-train`) and score (`score-ppl`) with `question=\"prompt\"` of its rows, and the model is tested with the words \
that it was trained with.

The prompt reads columns of the names that the task gives (`docs/evaluation.md` lists them: `question` for `gsm8k` and \
`math-algebra`, `question` and the five options for `ecqa`); `inputs { question \"original_question\" }` reads another. A \
question with the marker in it already is left as it is. White space at its ends is taken off, as `evaluate` does.

Rows go to quarantine as `null-value`, or as `template` where the task's prompt cannot take the row.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; response "string" } }
task-prompt "asked" from="problems" task="gsm8k"
score-ppl "scored" from="asked" model="student" question="prompt"
write "scores" from="scored" path="scores.jsonl"
"#,
    build,
};

const PARTS: &[&[FieldSpec]] = &[OVERRIDES, &[column("prompt")]];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

#[derive(Debug)]
struct TaskPrompt {
    task: Task,
    /// Variables, and the columns that they are read from.
    inputs: IndexMap<String, (Span, Spanned<String>)>,
    column: Spanned<String>,
    task_span: Span,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let task = asked::task(fields, diagnostics)?;
    let inputs = fields.get("inputs").map(|_| fields.str_map("inputs")).unwrap_or_default();
    let task_span = fields.span_of("task");
    let op = TaskPrompt { task, inputs, column: fields.str("column"), task_span };
    op.check_inputs(diagnostics).then(|| Box::new(op) as Box<dyn Operator>)
}

impl TaskPrompt {
    /// Every entry of `inputs` names a variable.
    fn check_inputs(&self, diagnostics: &mut Diagnostics) -> bool {
        let names: Vec<&str> = self.task.asked.template.inputs.iter().map(|i| i.name.as_str()).collect();
        let unknown = self.inputs.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        let errors: Vec<_> = unknown.map(|(name, (span, _))| unknown_input(name, *span, &names)).collect();
        let sound = errors.is_empty();
        errors.into_iter().for_each(|e| diagnostics.push(e));
        sound
    }

    /// Variables and their columns, of those that the input has.
    fn columns<'a>(&'a self, schema: &Schema) -> Vec<(&'a str, &'a str)> {
        let inputs = self.task.asked.template.inputs.iter();
        let column = |name: &'a String| self.inputs.get(name).map_or(name, |(_, column)| &column.value).as_str();
        let columns = inputs.map(|input| (input.name.as_str(), column(&input.name)));
        columns.filter(|(_, column)| schema.field_with_name(column).is_ok()).collect()
    }

    /// The user's turn for a row, or why there is none.
    fn asked(&self, values: &BTreeMap<String, Value>) -> Result<String, (&'static str, String)> {
        let template = &self.task.asked.template;
        for input in template.inputs.iter().filter(|i| i.required) {
            if values.get(&input.name).is_none_or(Value::is_null) {
                return Err(("null-value", format!("`{}` is null", input.name)));
            }
        }
        let turns = template.render(values).map_err(|e| ("template", e.to_string()))?;
        match turns.as_slice() {
            [(role, text)] if role == "user" => Ok(text.clone()),
            _ => {
                Err(("template", format!("the prompt has {} turns, and a column holds one of the user's", turns.len())))
            }
        }
    }
}

impl Operator for TaskPrompt {
    fn canonical(&self) -> Value {
        let inputs: Vec<_> = self.inputs.iter().map(|(name, (_, column))| (name, &column.value)).collect();
        let asked = &self.task.asked;
        json!({
            "prompt": asked.template.text(),
            "marker": asked.marker,
            "optional": asked.optional,
            "inputs": inputs,
            "column": self.column.value,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let mut sound = true;
        for variable in self.task.asked.template.inputs.iter().filter(|i| i.required) {
            let (column, span) = match self.inputs.get(&variable.name) {
                Some((_, column)) => (column.value.as_str(), column.span),
                None => (variable.name.as_str(), self.task_span),
            };
            let fits = |t: &DataType| is_string(t) || is_number(t) || *t == DataType::Boolean || asked::is_list(t);
            sound &= cx.need_column(input, column, "text, a number, a boolean or a list", fits, span).is_some();
        }
        let added = vec![Field::new(&self.column.value, DataType::Utf8, false)];
        let schema = cx.widened(input, added, self.column.span)?;
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        sound.then(|| Resolved::new(vec![schema], estimate))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        for batch in batches(cx, 0)? {
            let asked = self.widen(cx, &batch?)?;
            if asked.num_rows() > 0 {
                cx.emit(0, asked)?;
            }
        }
        Ok(())
    }
}

impl TaskPrompt {
    fn widen(&self, cx: &NodeCx, batch: &RecordBatch) -> Result<RecordBatch, RunError> {
        let columns = self.columns(batch.schema_ref());
        let fixed = BTreeMap::from([("marker".to_string(), Value::from(self.task.asked.marker.as_str()))]);
        let (mut keep, mut prompts) = (Vec::with_capacity(batch.num_rows()), Vec::new());
        for row in 0..batch.num_rows() {
            let mut values = fixed.clone();
            for (name, column) in &columns {
                let value = batch.column_by_name(column).map_or(Value::Null, |c| cell_shown(c, row));
                values.insert(name.to_string(), value);
            }
            let asked = self.asked(&values);
            keep.push(asked.is_ok());
            match asked {
                Ok(prompt) => prompts.push(Some(prompt)),
                Err((reason, message)) => reject_row(cx, batch, row, reason, message)?,
            }
        }
        widened(batch, keep, vec![Arc::new(prompts.into_iter().collect::<StringArray>())], cx.output_schema(0))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing_node::{given, refusal, rows, rows_json, run};
    use crate::ops::writing::testing::{asking, rejected, said};

    #[test]
    fn training_sees_what_evaluation_asks() {
        let given = [given(
            "from",
            "test",
            rows(
                r#"[{"id": "a", "question": "2 + 2?", "response": "4"}, {"id": "b", "question": "After 'Final Answer:', 1?", "response": "1"}]"#,
            ),
        )];
        for own in ["", "request=\"End with '{{ marker }}'\" marker=\"So:\""] {
            let kdl = format!("evaluate \"e\" from=\"test\" teacher=\"teacher\" task=\"gsm8k\" {own}");
            let (_, asks) = asking(&kdl, &given, |_| Ok(said("1")));
            let prompts = run(&format!("task-prompt \"p\" from=\"test\" task=\"gsm8k\" {own}"), &given, 2);
            let prompts: Vec<_> =
                rows_json(&prompts.rows[0]).iter().map(|r| r["prompt"].as_str().unwrap().to_string()).collect();
            let asked: Vec<_> = asks.iter().map(|a| a.messages[0].1.clone()).collect();
            assert_eq!(prompts, asked);
        }
        // The writers' prompt for a target asks in the same words.
        let (_, drafts) =
            asking("initial-prediction \"d\" from=\"test\" teacher=\"teacher\" task=\"math\"", &given, |_| {
                Ok(said("1"))
            });
        let prompts = run("task-prompt \"p\" from=\"test\" task=\"math-algebra\"", &given, 2);
        assert_eq!(rows_json(&prompts.rows[0])[0]["prompt"], drafts[0].messages[0].1.as_str());
    }

    #[test]
    fn prompts_read_the_columns_that_they_are_told_to() {
        let given = [given("from", "test", rows(r#"[{"id": "a", "asked": "2 + 2?"}, {"id": "b", "asked": null}]"#))];
        let ran = run(
            "task-prompt \"p\" from=\"test\" task=\"gsm8k\" column=\"q\" { inputs { question \"asked\" } }",
            &given,
            2,
        );
        assert!(rows_json(&ran.rows[0])[0]["q"].as_str().unwrap().starts_with("2 + 2?\n\nReason first."));
        assert_eq!(rejected(&ran), [("b", "null-value")]);
        let text = refusal("task-prompt \"p\" from=\"test\" task=\"gsm8k\"", &given);
        assert!(text.contains("column-missing") && text.contains("question"), "{text}");
        let text = refusal("task-prompt \"p\" from=\"test\" task=\"gsm8k\" { inputs { qestion \"asked\" } }", &given);
        assert!(text.contains("unknown-input") && text.contains("did you mean `question`?"), "{text}");
    }
}

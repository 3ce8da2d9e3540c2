//! The fields that say which task, and what of it a node has otherwise.

use crate::diag::{Diagnostic, Diagnostics};
use crate::eval::task::{Asked, Task};
use crate::ops::{FieldKind, FieldSpec, Fields};
use arrow::datatypes::DataType;

/// Which task, and what is asked in place of its own words.
pub const OVERRIDES: &[FieldSpec] = &[
    FieldSpec::new(
        "task",
        FieldKind::Task,
        "what is asked, and when an answer is right: a declared task or a built-in one",
    )
    .required(),
    FieldSpec::new(
        "request",
        FieldKind::Str,
        "what stands below the prompt, in place of the task's; Jinja, may be empty",
    ),
    FieldSpec::new("marker", FieldKind::Str, "what stands before a final answer, in place of the task's"),
    FieldSpec::new(
        "inputs",
        FieldKind::Map(&FieldKind::Column),
        "which columns the prompt's variables are read from; one that is not named is the column of its own name",
    ),
];

/// The task with what the node says in its place. `None` after an error.
pub fn task(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Task> {
    let named = fields.task("task");
    let mut task = (*named.value).clone();
    // What a declaration elsewhere says is asked for here.
    task.gold.span = named.span;
    let (request, marker) = (fields.opt_str("request"), fields.opt_str("marker"));
    if let Some(empty) = marker.as_ref().filter(|m| m.value.trim().is_empty()) {
        let error = Diagnostic::error("empty-value", "the marker is empty");
        diagnostics.push(error.at(empty.span, "needs a text that stands before every answer"));
        return None;
    }
    if request.is_none() && marker.is_none() {
        return Some(task);
    }
    let span = request.as_ref().or(marker.as_ref()).map_or(named.span, |w| w.span);
    let own = task.asked;
    let request = match request {
        Some(text) => Some(text.value).filter(|text| !text.trim().is_empty()),
        None => own.request,
    };
    let marker = marker.map_or(own.marker, |m| m.value);
    match Asked::new(&task.name, own.prompt, request, marker, own.optional) {
        Ok(asked) => Some(Task { asked, ..task }),
        Err(error) => {
            let message = format!("the request cannot be used: {}", error.message);
            diagnostics.push(Diagnostic::error("bad-prompt", message).at(span, "this template"));
            None
        }
    }
}

/// A column of lists.
pub fn is_list(t: &DataType) -> bool {
    matches!(t, DataType::List(_) | DataType::LargeList(_))
}

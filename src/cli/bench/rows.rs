//! Rows for a measurement.

use crate::exec::RunError;
use crate::model::ScoreRequest;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where rows come from.
#[derive(Debug, clap::Args)]
pub struct RowArgs {
    /// Files of rows: a JSON array of objects, or JSON lines
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    rows: Vec<PathBuf>,
    /// The first rows of every file
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit: usize,
    /// The field of user turns
    #[arg(long, default_value = "question")]
    question: String,
    /// The field of responses
    #[arg(long, default_value = "answer")]
    response: String,
}

impl RowArgs {
    /// The rows of all files, one file after the other.
    pub fn read(&self) -> Result<Vec<ScoreRequest>, RunError> {
        let mut all = Vec::new();
        for file in &self.rows {
            for (i, row) in objects(file)?.iter().take(self.limit).enumerate() {
                let text = |field: &str| {
                    row.get(field).and_then(Value::as_str).map(str::to_string).ok_or_else(|| {
                        bad(file, format!("row {i} has no text `{field}`"))
                            .help("`--question` and `--response` name the fields")
                    })
                };
                all.push(ScoreRequest::new(None, &text(&self.question)?, &text(&self.response)?));
            }
        }
        match all.is_empty() {
            true => Err(RunError::failed("no-rows", "there is no row to measure with")),
            false => Ok(all),
        }
    }
}

fn objects(file: &Path) -> Result<Vec<Value>, RunError> {
    let text = std::fs::read_to_string(file).map_err(|e| bad(file, format!("cannot read: {e}")))?;
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| bad(file, format!("not valid JSON: {e}")));
    if text.trim_start().starts_with('[') {
        return match json(&text)? {
            Value::Array(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        };
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(json).collect()
}

fn bad(file: &Path, what: String) -> RunError {
    RunError::failed("file-unreadable", format!("{}: {what}", file.display()))
}

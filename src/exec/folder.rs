//! The run folder: the plan, the events, the user's files, and the rows in quarantine.

use super::event::Event;
use super::info::{RUN_FILE, RunInfo};
use super::{RunError, RunReport};
use crate::plan::Plan;
use crate::store::{Artifact, io_error, manifest, new_file, write_atomically};
use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// An open run folder. One run at a time writes into it.
pub struct RunFolder {
    path: PathBuf,
    events: Mutex<BufWriter<File>>,
    _lock: File,
}

impl RunFolder {
    /// Opens the folder, creating it when it is not there, and begins a new `events.jsonl`.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(path).map_err(|e| io_error("create the run folder", path, &e))?;
        let lock_path = path.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|e| io_error("create", &lock_path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::failed(
                    "run-folder-in-use",
                    format!("another run is writing into `{}`", path.display()),
                )
                .help("wait for it, or give another folder with `--out DIR`; both can use the same store"));
            }
            Err(TryLockError::Error(e)) => return Err(io_error("lock", &lock_path, &e)),
        }
        let events = path.join("events.jsonl");
        let file = File::create(&events).map_err(|e| io_error("create", &events, &e))?;
        Ok(Self { path: path.to_path_buf(), events: Mutex::new(BufWriter::new(file)), _lock: lock })
    }

    /// Writes `plan.json`.
    pub fn write_plan(&self, plan: &Plan) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(&plan_json(plan)).expect("a plan has string keys only");
        write_atomically(&self.path.join("plan.json"), (text + "\n").as_bytes())
    }

    /// Writes `run.json`.
    pub fn write_info(&self, info: &RunInfo) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(info).expect("it has string keys only");
        write_atomically(&self.path.join(RUN_FILE), (text + "\n").as_bytes())
    }

    /// Appends to `events.jsonl`. The log of a run must not end it: a line that cannot be written is left out.
    pub fn log(&self, event: &Event<'_>) {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        let line = Line { time: manifest::rfc3339(SystemTime::now()), event };
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        if let Ok(text) = serde_json::to_string(&line) {
            let _ = writeln!(events, "{text}").and_then(|()| events.flush());
        }
    }

    /// Copies an artifact's files here, each by one rename. Copies and not links: a file that its user edits must
    /// not change the store.
    pub fn place(&self, artifact: &Artifact) -> Result<Vec<String>, RunError> {
        let mut names = Vec::new();
        for (name, from) in artifact.files() {
            copy(&from, &self.path.join(name))?;
            names.push(name.to_string());
        }
        Ok(names)
    }

    /// Writes `quarantine.jsonl` with the rows of all nodes, each with its node; removes the file when there are none.
    pub fn write_quarantine<'a>(
        &self,
        artifacts: impl Iterator<Item = (String, &'a Artifact)>,
    ) -> Result<(), RunError> {
        let to = self.path.join("quarantine.jsonl");
        let fail = |e: std::io::Error| io_error("write", &to, &e);
        let new = new_file(&self.path, ".new-", "").map_err(fail)?;
        let mut out = BufWriter::new(new);
        let mut any = false;
        for (node, artifact) in artifacts {
            let Some(entry) = &artifact.manifest.quarantine else { continue };
            let from = artifact.path(entry);
            let file = File::open(&from).map_err(|e| io_error("read", &from, &e))?;
            for line in std::io::BufRead::lines(std::io::BufReader::new(file)) {
                let line = line.map_err(|e| io_error("read", &from, &e))?;
                let rest = line.strip_prefix('{').unwrap_or(&line);
                writeln!(out, "{{\"node\":{},{rest}", serde_json::Value::from(node.as_str())).map_err(fail)?;
                any = true;
            }
        }
        let new = out.into_inner().map_err(|e| fail(e.into_error()))?;
        if any {
            new.persist(&to).map_err(|e| fail(e.error))?;
        } else if to.exists() {
            fs::remove_file(&to).map_err(|e| io_error("remove", &to, &e))?;
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of all files of a report.
    pub fn paths(&self, report: &RunReport) -> Vec<PathBuf> {
        report.nodes.iter().flat_map(|n| n.files.iter().map(|f| self.path.join(f))).collect()
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), RunError> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| io_error("create", folder, &e))?;
    let fail = |e: std::io::Error| io_error("write", to, &e);
    let mut new = new_file(folder, ".new-", "").map_err(fail)?;
    let mut source = File::open(from).map_err(|e| io_error("read", from, &e))?;
    std::io::copy(&mut source, new.as_file_mut()).map_err(fail)?;
    new.persist(to).map_err(|e| fail(e.error))?;
    Ok(())
}

/// The plan as a reader or another scheduler needs it. Says nothing of time or place, so that the same pipeline gives
/// the same bytes.
fn plan_json(plan: &Plan) -> serde_json::Value {
    let node = |n: &crate::plan::PlanNode| {
        let input = |i: &crate::plan::PlanInput| {
            let from = &plan.nodes[i.node];
            serde_json::json!({"port": i.port, "node": from.name.to_string(),
                "output": from.op.outputs[i.output].name, "fingerprint": from.fingerprint})
        };
        let outputs = n.op.outputs.iter().zip(&n.outputs);
        let output = |(spec, schema): (&crate::ops::OutputSpec, &arrow::datatypes::SchemaRef)| serde_json::json!({"name": spec.name, "columns": manifest::columns(schema)});
        serde_json::json!({
            "node": n.name.to_string(),
            "op": n.op.name,
            "fingerprint": n.fingerprint,
            "skipped": n.skipped,
            "shared_with": n.shared_with.map(|s| plan.nodes[s].name.to_string()),
            "inputs": n.inputs.iter().map(input).collect::<Vec<_>>(),
            "outputs": outputs.map(output).collect::<Vec<_>>(),
            "files": n.files_out,
            "barrier": n.barrier,
            "journalled": n.journalled,
            "tolerance": n.tolerance,
            "ingredients": n.ingredients,
        })
    };
    let nodes: Vec<_> = plan.nodes.iter().map(node).collect();
    serde_json::json!({"pipeline": plan.name, "seed": plan.seed, "nodes": nodes})
}

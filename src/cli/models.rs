//! Models and data sets for a run: fetched before it begins; models are loaded when they are first used.

use super::fetch_progress::FetchProgress;
use crate::exec::survey::{Look, Task, tasks};
use crate::exec::{Lanes, RunError, Stop};
use crate::fetch::{Availability, FetchError, Fetcher};
use crate::model::{DeviceChoice, FileSource, LaneOptions, ModelFiles, ModelLanes};
use crate::ops::SplitName;
use crate::plan::Plan;
use crate::store::Store;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Fetches the data sets and models of nodes that will run. `true` when the plan must be made again, because what
/// they hold was not known before they were here.
pub fn fetch_needed(plan: &Plan, store: &Store, fetcher: &Fetcher, quiet: bool) -> Result<bool, RunError> {
    let finished = |at: usize| store.artifact(&plan.nodes[at].fingerprint).is_some();
    let tasks = tasks(plan, |at, _| if finished(at) { Look::Whole } else { Look::Missing });
    let running = || plan.nodes.iter().zip(&tasks).filter(|(_, task)| **task == Task::Run).map(|(node, _)| node);
    let splits: BTreeSet<&SplitName> = running().filter_map(|node| node.to_fetch.as_ref()).collect();
    let names: BTreeSet<&String> = running().flat_map(|node| &node.models).collect();
    let progress = FetchProgress::new(quiet);
    let mut again = !splits.is_empty();
    for SplitName { dataset, split } in splits {
        let manifest = fetcher.catalog.dataset(dataset)?;
        fetcher.ensure_split(manifest, manifest.split(split)?, &progress)?;
    }
    for decl in names.into_iter().filter_map(|name| plan.models.get(name)).map(|info| &info.decl) {
        // What is wrong with a declaration is said when its plan is made.
        let Ok(state) = fetcher.model_state(decl) else { continue };
        match state.availability {
            Availability::Here => {}
            Availability::ToFetch { pinned, .. } => {
                fetcher.ensure_model(decl, &progress).map_err(|e| failed(&decl.name, e))?;
                again |= !pinned;
            }
            Availability::Missing(why) => {
                let error = RunError::failed("model-missing", format!("model `{}`: {}", decl.name, why.message));
                return Err(why.help.into_iter().fold(error, RunError::help));
            }
        }
    }
    Ok(again)
}

/// What could not be fetched, and why, as an error of a run.
pub(super) fn fetch_failed(code: &'static str, what: String, error: FetchError) -> RunError {
    let failed = RunError::failed(code, format!("{what}: {error}"));
    error.help.into_iter().fold(failed, RunError::help)
}

fn failed(model: &str, error: FetchError) -> RunError {
    fetch_failed("fetch-failed", format!("model `{model}`"), error)
}

/// The lanes of a run's models. `opened` is told which device they are on.
pub fn lanes(
    fetcher: Arc<Fetcher>,
    device: DeviceChoice,
    opened: impl Fn(&str) + Send + Sync + 'static,
    stop: &Stop,
) -> Arc<dyn Lanes> {
    let files: FileSource = Arc::new(move |decl| {
        let fetched = fetcher.ensure_model(decl, &FetchProgress::new(true)).map_err(|e| failed(&decl.name, e))?;
        ModelFiles::fetched(fetched, decl)
    });
    let stop = stop.clone();
    let announce = Arc::new(opened);
    let stopping = Arc::new(move || stop.is_set());
    Arc::new(ModelLanes::new(files, LaneOptions { device, announce, stopping, ..LaneOptions::default() }))
}

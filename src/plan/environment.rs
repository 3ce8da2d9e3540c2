//! `check --env`: what only a run needs.

use super::{ModelInfo, PlanEnv, TeacherInfo};
use crate::config::TeacherSource;
use crate::diag::{Diagnostic, Diagnostics};
use indexmap::IndexMap;

/// Reports secrets that are not set and models whose files are not here. Missing data files are reported where their
/// digests are taken.
pub(super) fn check(
    teachers: &IndexMap<String, TeacherInfo>,
    models: &IndexMap<String, ModelInfo>,
    env: &PlanEnv,
    diagnostics: &mut Diagnostics,
) {
    for teacher in teachers.values().map(|t| &t.decl) {
        let TeacherSource::Hosted(hosted) = &teacher.source else { continue };
        let Some(variable) = &hosted.api_key_env else { continue };
        if std::env::var_os(&variable.value).is_none_or(|v| v.is_empty()) {
            diagnostics.push(
                Diagnostic::error(
                    "secret-missing",
                    format!("the environment variable `{}` is not set", variable.value),
                )
                .at(variable.span, format!("teacher `{}` takes its key from it", teacher.name))
                .help(format!("export {}=... before the run", variable.value)),
            );
        }
    }
    for (name, model) in models {
        if let Some(why) = env.catalog.missing(&model.decl) {
            diagnostics.push(
                Diagnostic::error("model-not-fetched", format!("model `{name}` is not on this machine: {why}"))
                    .at(model.decl.span, "declared here")
                    .help("`idiolect fetch` gets it beforehand, and so does `idiolect run`"),
            );
        }
    }
}

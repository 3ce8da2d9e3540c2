//! What the planner asks of a fetcher: models by their declarations, without network.

use super::Fetcher;
use super::model::Availability;
use crate::config::ModelDecl;
use crate::diag::{Diagnostic, Diagnostics};
use crate::plan::{ModelCatalog, ModelInfo, PlanEnv};

impl ModelCatalog for Fetcher {
    fn describe(&self, decl: &ModelDecl, _: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<ModelInfo> {
        self.model_state(decl).map_err(|d| diagnostics.push(d)).ok().map(|state| state.info)
    }

    fn missing(&self, decl: &ModelDecl) -> Option<Diagnostic> {
        let name = &decl.name;
        match self.model_state(decl).ok()?.availability {
            Availability::Here => None,
            Availability::Missing(diagnostic) => Some(*diagnostic),
            Availability::ToFetch { bytes, .. } => {
                let size = bytes.map(|b| format!(" ({} MB to fetch)", b.div_ceil(1_000_000))).unwrap_or_default();
                Some(
                    Diagnostic::error("model-not-fetched", format!("model `{name}` is not on this machine{size}"))
                        .at(decl.span, "declared here")
                        .help("`idiolect fetch` gets it beforehand, and so does `idiolect run`"),
                )
            }
        }
    }
}

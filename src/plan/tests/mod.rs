//! Graphs and plans of small files: one snapshot for each kind of diagnostic, and what fingerprints depend on.

mod fingerprints;
mod messages;
mod states;
mod toys;

use super::{ModelCatalog, ModelInfo, Plan, PlanEnv, build};
use crate::config::{self, ModelDecl};
use crate::diag::{Diagnostics, Sources, render};
use crate::graph;
use toys::TOYS;

/// A model's name says what it is: `bare` has no chat template, `short` holds 16 tokens, `absent` is not here.
struct Catalog;

impl ModelCatalog for Catalog {
    fn describe(&self, decl: &ModelDecl, _: &PlanEnv, _: &mut Diagnostics) -> Option<ModelInfo> {
        let source = match &decl.source {
            config::ModelSource::Path(path) => path.value.display().to_string(),
            other => format!("{other:?}"),
        };
        Some(ModelInfo {
            decl: decl.clone(),
            digest: format!("{source} {}", decl.dtype.value),
            context: Some(decl.context.as_ref().map_or(if decl.name == "short" { 16 } else { 2048 }, |c| c.value)),
            parameters: None,
            has_chat_template: Some(decl.name != "bare"),
            memory: None,
        })
    }

    fn missing(&self, decl: &ModelDecl) -> Option<String> {
        (decl.name == "absent").then(|| "it is to be fetched".into())
    }
}

/// Plans a text with toy operators; the plan, and the messages as a user sees them.
fn plan_with(text: &str, params: &[(&str, &str)], environment: bool) -> (Option<Plan>, String) {
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let env = PlanEnv { check_environment: environment, ..PlanEnv::new(Catalog) };
    let params: Vec<(String, String)> = params.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let input = config::Input::Text { name: "p.kdl", text };
    let plan = config::load_with(TOYS, input, &params, &mut sources, &mut found)
        .and_then(|pipeline| graph::build(pipeline, &mut found))
        .and_then(|graph| build(graph, &env, &mut found));
    (plan, render(&found, &sources, false))
}

fn messages(text: &str) -> String {
    let (plan, messages) = plan_with(text, &[], false);
    assert_eq!(plan.is_none(), messages.contains("error["), "{messages}");
    messages
}

/// The plan of a text without mistakes.
#[track_caller]
fn plan(text: &str) -> Plan {
    let (plan, messages) = plan_with(text, &[], false);
    plan.unwrap_or_else(|| panic!("{messages}"))
}

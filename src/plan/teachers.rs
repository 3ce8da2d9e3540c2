//! Declared teachers, as far as they are known before they are asked.

use super::{ModelInfo, PlanEnv, TeacherInfo, models};
use crate::config::{Api, Hosted, NodeDecl, Replay, TeacherDecl, TeacherSource};
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::Graph;
use crate::ops::{FieldKind, Recording};
use crate::teacher;
use crate::teacher::hosted::{as_of, price};
use indexmap::IndexMap;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

/// Describes every teacher that a planned node names; models of local teachers are added to the known ones.
pub(super) fn describe(
    graph: &Graph,
    known: &mut IndexMap<String, ModelInfo>,
    env: &PlanEnv,
    diagnostics: &mut Diagnostics,
) -> IndexMap<String, TeacherInfo> {
    let mut used: HashSet<String> = HashSet::new();
    for &node in &graph.order {
        let decl = graph.decl(node);
        used.extend(models::named(&decl.fields, decl.op.fields, is_teacher).into_iter().map(|name| name.value));
    }
    let declared = graph.pipeline.teachers.iter().filter(|(name, _)| used.contains(*name));
    let one = |(name, decl): (&String, &TeacherDecl)| {
        let info = match &decl.source {
            TeacherSource::Hosted(hosted) => {
                priced(decl, hosted, diagnostics).then(|| plain(decl, hosted_digest(hosted)))
            }
            TeacherSource::Local { model } => local(graph, decl, &model.value, known, env, diagnostics),
            TeacherSource::Replay(replay) => recorded(decl, replay, env, diagnostics),
        };
        Some((name.clone(), info?))
    };
    declared.filter_map(one).collect()
}

/// Whether every teacher that a node names could be described.
pub(super) fn all_known(decl: &NodeDecl, known: &IndexMap<String, TeacherInfo>) -> bool {
    models::named(&decl.fields, decl.op.fields, is_teacher).iter().all(|name| known.contains_key(&name.value))
}

fn is_teacher(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Teacher)
}

fn plain(decl: &TeacherDecl, digest: String) -> TeacherInfo {
    TeacherInfo { decl: decl.clone(), digest, model: None, recording: None, to_fetch: None }
}

fn hash(value: &serde_json::Value) -> String {
    blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
}

/// A budget in money means nothing without a price.
fn priced(decl: &TeacherDecl, hosted: &Hosted, diagnostics: &mut Diagnostics) -> bool {
    let sound = hosted.budget.money.is_none() || price(hosted).is_some();
    if !sound {
        diagnostics.push(
            Diagnostic::error(
                "no-price",
                format!("teacher `{}` has a budget in money, and the price of its model is not known", decl.name),
            )
            .at(hosted.model.span, format!("not in the table of prices of {}", as_of()))
            .help("say what a million tokens cost in US dollars: `price input=0.5 output=1.5`"),
        );
    }
    sound
}

/// Keys, limits and budgets are no part of it, nor whether calls go in batches.
fn hosted_digest(hosted: &Hosted) -> String {
    let api = match hosted.api {
        Api::OpenAi => "openai",
        Api::Anthropic => "anthropic",
    };
    let url = hosted.base_url.as_ref().map(|u| &u.value);
    let (mut headers, mut body): (Vec<_>, Vec<_>) = (hosted.headers.iter().collect(), hosted.body.iter().collect());
    headers.sort();
    body.sort_by_key(|(name, _)| *name);
    hash(&json!({ "api": api, "model": hosted.model.value, "url": url, "headers": headers, "body": body }))
}

fn local(
    graph: &Graph,
    decl: &TeacherDecl,
    model: &str,
    known: &mut IndexMap<String, ModelInfo>,
    env: &PlanEnv,
    diagnostics: &mut Diagnostics,
) -> Option<TeacherInfo> {
    if !known.contains_key(model) {
        // A model that could not be decoded is already reported.
        let declared = graph.pipeline.models.get(model)?;
        known.insert(model.to_string(), env.catalog.describe(declared, env, diagnostics)?);
    }
    let info = known[model].clone();
    let digest = teacher::local_digest(&info.digest);
    Some(TeacherInfo { model: Some(info), ..plain(decl, digest) })
}

fn recorded(decl: &TeacherDecl, replay: &Replay, env: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<TeacherInfo> {
    let recording = Recording::new(replay);
    let resolved = recording.resolve(env.datasets.as_ref(), env.look_at_files, diagnostics)?;
    let mut digests = Vec::new();
    for path in &resolved.files {
        match env.digests.digest(path) {
            Ok(digest) => digests.push(digest),
            Err(error) => {
                let message = format!("the answers of `{}` cannot be read: {error}", decl.name);
                diagnostics.push(Diagnostic::error("file-missing", message).at(decl.span, "declared here"));
                return None;
            }
        }
    }
    let digest = hash(&json!({ "replay": recording.canonical(), "content": digests }));
    Some(TeacherInfo { to_fetch: resolved.to_fetch, recording: Some(Arc::new(recording)), ..plain(decl, digest) })
}

//! Declared teachers, as far as they are known before they are asked.

use super::{ModelInfo, PlanEnv, TeacherInfo, models};
use crate::config::{Api, Hosted, NodeDecl, Replay, ReplayFrom, TeacherDecl, TeacherSource};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::fetch::{FetchError, Located};
use crate::graph::Graph;
use crate::ops::{FieldKind, SplitName, list};
use indexmap::IndexMap;
use serde_json::json;
use std::collections::HashSet;

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
            TeacherSource::Hosted(hosted) => Some(plain(decl, hosted_digest(hosted))),
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
    TeacherInfo { decl: decl.clone(), digest, model: None, to_fetch: None }
}

fn hash(value: &serde_json::Value) -> String {
    blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
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
    let digest = hash(&json!({ "local": info.digest }));
    Some(TeacherInfo { model: Some(info), ..plain(decl, digest) })
}

fn recorded(decl: &TeacherDecl, replay: &Replay, env: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<TeacherInfo> {
    let (content, to_fetch) = match &replay.from {
        ReplayFrom::Path(path) => match env.digests.digest(&path.value) {
            Ok(digest) => (digest, None),
            Err(error) => {
                diagnostics.push(
                    Diagnostic::error(
                        "file-missing",
                        format!("the answers of `{}` cannot be read: {error}", decl.name),
                    )
                    .at(path.span, format!("{} is not readable", path.value.display()))
                    .help(crate::config::RELATIVE),
                );
                return None;
            }
        },
        ReplayFrom::Dataset { dataset, split } => {
            let (name, digest, fetch) = split_of(dataset, split.as_ref(), env, diagnostics)?;
            (digest, fetch.then_some(name))
        }
    };
    let on: Vec<&String> = replay.on.iter().map(|c| &c.value).collect();
    let digest = hash(&json!({ "replay": content, "on": on, "answer": replay.answer.value }));
    Some(TeacherInfo { to_fetch, ..plain(decl, digest) })
}

/// The split that a recording is in, the digest of its files, and whether it has to be fetched.
fn split_of(
    dataset: &Spanned<String>,
    split: Option<&Spanned<String>>,
    env: &PlanEnv,
    diagnostics: &mut Diagnostics,
) -> Option<(SplitName, String, bool)> {
    let mut refused = |error: FetchError, span| {
        let found = Diagnostic::error("unknown-dataset", error.message).at(span, "no such data set or split");
        diagnostics.push(error.help.into_iter().fold(found, Diagnostic::help));
    };
    let fetcher = env.datasets.as_ref()?;
    let manifest = fetcher.catalog.dataset(&dataset.value).map_err(|e| refused(e, dataset.span)).ok()?;
    let chosen = match (split, manifest.splits.values().collect::<Vec<_>>().as_slice()) {
        (Some(split), _) => manifest.split(&split.value).map_err(|e| refused(e, split.span)).ok()?,
        (None, [only]) => only,
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|s| s.name.value.as_str()).collect();
            diagnostics.push(
                Diagnostic::error("missing-field", format!("`{}` has {} splits", dataset.value, names.len()))
                    .at(dataset.span, "does not say which")
                    .help(format!("name one with `split`: {}", list(&names))),
            );
            return None;
        }
    };
    let checksums: Vec<_> = chosen.files.iter().map(|f| (&f.name.value, &f.content.sha256)).collect();
    let absent = |l: Located| matches!(l, Located::Absent { .. });
    let fetch = env.look_at_files && fetcher.locate_split(manifest, chosen).into_iter().any(absent);
    let name = SplitName { dataset: dataset.value.clone(), split: chosen.name.value.clone() };
    Some((name, hash(&json!({ "split": checksums })), fetch))
}

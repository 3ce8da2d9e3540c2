//! Declared models, as far as they are known before their weights are loaded.

use super::{ModelInfo, PlanEnv};
use crate::config::{ModelDecl, ModelSource, NodeDecl};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::graph::Graph;
use crate::ops::{FieldKind, FieldSpec, Fields, Value};
use indexmap::IndexMap;
use std::collections::HashSet;

/// Knows models by their declarations: manifests, the hub, local files.
pub trait ModelCatalog: Send + Sync {
    /// What can be said without loading weights or using the network. `None` after pushing an error.
    fn describe(&self, decl: &ModelDecl, env: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<ModelInfo>;

    /// Why a run could not start with this model as things are; `None` when its files are here.
    fn missing(&self, decl: &ModelDecl) -> Option<String>;
}

/// Knows of a model only what its declaration says, and the content of local files.
pub struct DeclaredOnly;

impl ModelCatalog for DeclaredOnly {
    fn describe(&self, decl: &ModelDecl, env: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<ModelInfo> {
        let source = match &decl.source {
            ModelSource::Manifest(name) => format!("manifest {}", name.value),
            ModelSource::Hub { repo, revision, file } => {
                let part = |p: &Option<Spanned<String>>| p.as_ref().map(|s| s.value.clone()).unwrap_or_default();
                format!("hub {} {} {}", repo.value, part(revision), part(file))
            }
            ModelSource::Path(path) => match env.digests.digest(&path.value) {
                Ok(digest) => format!("file {digest}"),
                Err(error) => {
                    diagnostics.push(
                        Diagnostic::error("model-missing", format!("model `{}` cannot be read: {error}", decl.name))
                            .at(path.span, format!("{} is not readable", path.value.display()))
                            .help(crate::config::RELATIVE),
                    );
                    return None;
                }
            },
        };
        let digest = blake3::hash(format!("{source}\n{}", decl.dtype.value).as_bytes()).to_hex().to_string();
        Some(ModelInfo {
            decl: decl.clone(),
            digest,
            context: decl.context.as_ref().map(|c| c.value),
            parameters: None,
            has_chat_template: decl.chat_template.is_some().then_some(true),
            memory: None,
        })
    }

    fn missing(&self, _: &ModelDecl) -> Option<String> {
        None
    }
}

/// Describes every model that a planned node names.
pub(super) fn describe(graph: &Graph, env: &PlanEnv, diagnostics: &mut Diagnostics) -> IndexMap<String, ModelInfo> {
    let mut used: HashSet<String> = HashSet::new();
    for &node in &graph.order {
        let decl = graph.decl(node);
        used.extend(named(&decl.fields, decl.op.fields, is_model).into_iter().map(|name| name.value));
    }
    let declared = graph.pipeline.models.iter().filter(|(name, _)| used.contains(*name));
    declared.filter_map(|(name, decl)| Some((name.clone(), env.catalog.describe(decl, env, diagnostics)?))).collect()
}

/// Whether every model that a node names could be described.
pub(super) fn all_known(decl: &NodeDecl, known: &IndexMap<String, ModelInfo>) -> bool {
    named(&decl.fields, decl.op.fields, is_model).iter().all(|name| known.contains_key(&name.value))
}

pub(super) fn is_model(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Model)
}

/// The names in fields of some kind, also inside lists, maps and records.
pub(super) fn named(fields: &Fields, specs: &[FieldSpec], wanted: fn(&FieldKind) -> bool) -> Vec<Spanned<String>> {
    let mut names = Vec::new();
    for spec in specs {
        if let Some(value) = fields.get(spec.name) {
            collect(value, &spec.kind, wanted, &mut names);
        }
    }
    names
}

fn collect(value: &Spanned<Value>, kind: &FieldKind, wanted: fn(&FieldKind) -> bool, names: &mut Vec<Spanned<String>>) {
    match (kind, &value.value) {
        (kind, Value::Str(name)) if wanted(kind) => names.push(Spanned::new(name.clone(), value.span)),
        (FieldKind::List(of), Value::List(items)) => items.iter().for_each(|i| collect(i, of, wanted, names)),
        (FieldKind::Map(of), Value::Map(map)) => map.values().for_each(|(_, v)| collect(v, of, wanted, names)),
        (FieldKind::Records(specs), Value::Records(records)) => {
            records.iter().for_each(|r| names.extend(named(r, specs, wanted)));
        }
        _ => {}
    }
}

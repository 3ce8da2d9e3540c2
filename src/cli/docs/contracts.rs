//! Column contracts as KDL: what operators read and add, what data sets hold.

use crate::cli::plan::type_word;
use crate::diag::{Diagnostics, Sources};
use crate::fetch::{Catalog, DatasetManifest, FetchEnv, Fetcher};
use crate::ops::{Arity, Default, FieldKind, FieldSpec, OpSpec, REGISTRY};
use crate::plan::{Plan, PlanEnv};
use crate::{config, graph, plan};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

const HEAD: &str = "// Made from the code by `idiolect docs --write`; `idiolect schema` prints it.\n\n";

/// `schemas/operators.kdl` and `schemas/datasets.kdl`.
pub fn files() -> Vec<(PathBuf, String)> {
    let operators: Vec<String> = REGISTRY.iter().map(|op| operator_contract(op)).collect();
    let catalog = built_in();
    let datasets: Vec<String> = catalog.datasets().map(dataset_contract).collect();
    vec![
        ("schemas/operators.kdl".into(), format!("{HEAD}{}", operators.join("\n"))),
        ("schemas/datasets.kdl".into(), format!("{HEAD}{}", datasets.join("\n"))),
    ]
}

fn built_in() -> Catalog {
    Catalog::built_in(&mut Sources::new(), &mut Diagnostics::new())
}

/// The columns that an operator reads by its fields, and those that it adds in its example.
pub fn operator_contract(op: &OpSpec) -> String {
    let mut out = format!("operator \"{}\" version={} {{\n", op.name, op.version);
    for input in op.inputs {
        let arity = match input.arity {
            Arity::One => "one",
            Arity::Optional => "optional",
            Arity::Many => "many",
        };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "    input \"{}\" arity=\"{arity}\"", input.name);
    }
    reads(&mut out, "", op.fields);
    match example(op) {
        Some(plan) => outputs(&mut out, op, &plan),
        None => op.outputs.iter().for_each(|o| {
            let _ = writeln!(out, "    output \"{}\"", o.name);
        }),
    }
    out + "}\n"
}

/// Fields that name columns, also inside records.
fn reads(out: &mut String, prefix: &str, fields: &[FieldSpec]) {
    for field in fields {
        let name = format!("{prefix}{}", field.name);
        let word = match field.kind {
            FieldKind::Column => "column",
            FieldKind::List(FieldKind::Column) => "columns",
            FieldKind::Expr => "expression",
            FieldKind::Records(inner) => {
                reads(out, &format!("{name}."), inner);
                continue;
            }
            _ => continue,
        };
        let default = match field.default {
            Default::Str(s) => format!(" default={}", quoted(s)),
            _ if field.required => " required=#true".into(),
            _ => String::new(),
        };
        let _ = writeln!(out, "    reads \"{name}\" as=\"{word}\"{default}");
    }
}

/// The operator's example, planned without a look at any file.
fn example(op: &OpSpec) -> Option<Plan> {
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let fetcher = Arc::new(Fetcher::new(built_in(), FetchEnv::from_lookup(|_| None)));
    let env = PlanEnv { catalog: Box::new(fetcher.clone()), datasets: Some(fetcher), ..PlanEnv::pure() };
    let pipeline = config::load_text(op.name, op.example, &[], &mut sources, &mut found)?;
    plan::build(graph::build(pipeline, &mut found)?, &env, &mut found)
}

fn outputs(out: &mut String, op: &OpSpec, plan: &Plan) {
    let Some(node) = plan.nodes.iter().find(|n| n.op.name == op.name) else { return };
    let read: HashSet<&str> = node
        .inputs
        .iter()
        .flat_map(|i| plan.nodes[i.node].outputs[i.output].fields())
        .map(|f| f.name().as_str())
        .collect();
    for (output, schema) in op.outputs.iter().zip(&node.outputs) {
        let added: Vec<_> = schema.fields().iter().filter(|f| !read.contains(f.name().as_str())).collect();
        if added.is_empty() {
            let _ = writeln!(out, "    output \"{}\"", output.name);
            continue;
        }
        let _ = writeln!(out, "    output \"{}\" {{", output.name);
        for field in added {
            let null = if field.is_nullable() { " nullable=#true" } else { "" };
            let (name, kind) = (quoted(field.name()), type_word(field.data_type()));
            let _ = writeln!(out, "        adds {name} \"{kind}\"{null}");
        }
        *out += "    }\n";
    }
}

/// The columns of a data set and of its splits.
pub fn dataset_contract(manifest: &DatasetManifest) -> String {
    let mut out = format!("dataset {} {{\n", quoted(&manifest.name.value));
    for (name, column) in &manifest.columns {
        let kind = type_word(&column.kind.data_type());
        let doc = if column.doc.is_empty() { String::new() } else { format!(" doc={}", quoted(&column.doc)) };
        let _ = writeln!(out, "    column {} \"{kind}\"{doc}", quoted(name));
    }
    for split in manifest.splits.values() {
        let rows = split.rows.map(|n| format!(" rows={n}")).unwrap_or_default();
        let _ = writeln!(out, "    split {}{rows} {{", quoted(&split.name.value));
        for field in split.schema(manifest).fields() {
            let null = if field.is_nullable() { " nullable=#true" } else { "" };
            let _ = writeln!(out, "        column {} \"{}\"{null}", quoted(field.name()), type_word(field.data_type()));
        }
        out += "    }\n";
    }
    out + "}\n"
}

/// A KDL string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

//! Holds every operator of the registry to the rules of the house.

use super::{Arity, Default, FieldKind, FieldSpec, OpSpec, REGISTRY};
use crate::config::language::{COMMON, DOC, LANGUAGE};
use crate::diag::{Diagnostics, Sources, render};
use crate::fetch::{Catalog, FetchEnv, Fetcher};
use crate::plan::PlanEnv;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

fn is_kebab(name: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('-').all(word)
}

#[test]
fn names_are_unique_and_in_kebab_case() {
    let mut seen: HashSet<&str> = LANGUAGE.iter().map(|n| n.name).collect();
    for op in REGISTRY {
        assert!(is_kebab(op.name), "{}", op.name);
        assert!(seen.insert(op.name), "`{}` is there twice", op.name);
        let outputs: HashSet<&str> = op.outputs.iter().map(|o| o.name).collect();
        assert_eq!(outputs.len(), op.outputs.len(), "outputs of `{}`", op.name);
        // Ports and fields are written alike, so they share one space of names with what every node has.
        let common = COMMON.iter().chain(DOC).map(|f| f.name);
        let own = op.inputs.iter().map(|i| i.name).chain(op.fields.iter().map(|f| f.name));
        let mut names = HashSet::new();
        for name in common.chain(own) {
            assert!(is_kebab(name) && names.insert(name), "`{name}` of `{}`", op.name);
        }
    }
}

#[test]
fn everything_is_documented() {
    for op in REGISTRY {
        assert!(op.version >= 1, "{}", op.name);
        assert!(!op.summary.is_empty() && !op.summary.ends_with('.') && !op.summary.contains('\n'), "{}", op.name);
        assert!(op.summary.starts_with(|c: char| c.is_uppercase()), "{}", op.name);
        // "Keeps the rows ...": says what it does, and commands nobody.
        assert!(
            op.summary.split(' ').next().is_some_and(|verb| verb.trim_end_matches(',').ends_with('s')),
            "{}",
            op.name
        );
        assert!(op.doc.trim().ends_with(['.', ':', '`', '|', ')']) && op.doc.len() > 80, "doc of `{}`", op.name);
        for input in op.inputs {
            assert!(!input.doc.is_empty(), "input `{}` of `{}`", input.name, op.name);
        }
        for output in op.outputs {
            assert!(!output.doc.is_empty(), "output `{}` of `{}`", output.name, op.name);
        }
        op.fields.iter().for_each(|field| field_holds(op, field));
    }
}

fn field_holds(op: &OpSpec, field: &FieldSpec) {
    let place = format!("field `{}` of `{}`", field.name, op.name);
    assert!(!field.doc.trim().is_empty(), "{place} is not documented");
    assert!(!field.required || field.default == Default::None, "{place} is required and has a default");
    match (field.default, field.kind) {
        (Default::None, _) | (_, FieldKind::Scalar) => {}
        (Default::Str(s), FieldKind::Choice(choices)) => assert!(choices.contains(&s), "{place}: {s}"),
        (Default::Str(_), kind) => {
            let textual = matches!(kind, FieldKind::Str | FieldKind::Path | FieldKind::Expr | FieldKind::Column);
            assert!(textual, "{place} has a string as default");
        }
        (Default::Int(i), FieldKind::Int { min, max }) => assert!((min..=max).contains(&i), "{place}: {i}"),
        (Default::Int(i), FieldKind::Float { min, max }) => assert!((min..=max).contains(&(i as f64)), "{place}: {i}"),
        (Default::Float(f), FieldKind::Float { min, max }) => assert!((min..=max).contains(&f), "{place}: {f}"),
        (Default::Bool(_), FieldKind::Bool) => {}
        (default, kind) => panic!("{place}: {default:?} is no {kind:?}"),
    }
    if let FieldKind::Records(inner) = field.kind {
        inner.iter().for_each(|field| field_holds(op, field));
    }
}

#[test]
fn who_gives_nothing_to_read_is_a_sink() {
    for op in REGISTRY {
        assert!(op.sink || !op.outputs.is_empty(), "`{}` would always be unused", op.name);
        let many = op.inputs.iter().filter(|i| i.arity == Arity::Many).count();
        assert!(many <= 1, "`{}` has two inputs that gather", op.name);
    }
}

#[test]
fn every_example_checks_and_shows_its_operator() {
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let catalog = Catalog::built_in(&mut sources, &mut found);
    let fetcher = Arc::new(Fetcher::new(catalog, FetchEnv::from_lookup(|_| None)));
    for op in REGISTRY {
        let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
        let env = PlanEnv { catalog: Box::new(fetcher.clone()), datasets: Some(fetcher.clone()), ..PlanEnv::pure() };
        let plan = crate::config::load_text(op.name, op.example, &[], &mut sources, &mut found)
            .and_then(|pipeline| crate::graph::build(pipeline, &mut found))
            .and_then(|graph| crate::plan::build(graph, &env, &mut found));
        assert!(found.is_empty(), "example of `{}`:\n{}", op.name, render(&found, &sources, false));
        let plan = plan.expect("no messages, so there is a plan");
        assert!(plan.nodes.iter().any(|n| n.op.name == op.name), "the example of `{}` does not use it", op.name);
    }
}

#[test]
fn every_operator_has_tests() {
    for op in REGISTRY {
        let stem = op.name.replace('-', "_");
        let own = ["src/ops/{}.rs", "src/ops/{}/mod.rs", "src/ops/writing/{}.rs"].map(|path| path.replace("{}", &stem));
        let text = own.iter().find_map(|path| std::fs::read_to_string(Path::new(path)).ok());
        let text = text.unwrap_or_else(|| panic!("`{}` is not in a file of its name", op.name));
        // Those that write are tested together.
        let node = format!("{} \"", op.name);
        let tested = text.contains("#[cfg(test)]") || include_str!("writing/operator_tests.rs").contains(&node);
        assert!(tested, "`{}` has no tests", op.name);
    }
}

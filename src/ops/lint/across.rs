//! Checks of inputs against each other, row by row in their order.

use super::Finding;
use super::columns::{Column, PerResponse, Profile};
use crate::diag::Severity;

/// Responses that agree in this share of rows make a warning.
const NEARLY_ALL: f64 = 0.9;
/// Responses must differ in this share of rows before equal columns say anything.
const DIFFERENT: f64 = 0.5;

pub fn findings(profiles: &[Profile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, a) in profiles.iter().enumerate() {
        for b in &profiles[at + 1..] {
            findings.extend(duplicate(a, b));
            findings.extend(a.columns.iter().filter_map(|column| stale(column, a, b)));
        }
    }
    findings
}

/// How many rows agree, of how many that both inputs have.
fn agreement(a: &[u64], b: &[u64]) -> (u64, usize) {
    (a.iter().zip(b).filter(|(a, b)| a == b).count() as u64, a.len().min(b.len()))
}

fn finding(check: &'static str, severity: Severity, a: &Profile, b: &Profile, count: u64, message: String) -> Finding {
    let share = Some(count as f64 / a.rows.max(b.rows).max(1) as f64);
    Finding {
        check,
        severity,
        input: format!("{} + {}", a.label, b.label),
        count,
        share,
        examples: Vec::new(),
        message,
    }
}

fn duplicate(a: &Profile, b: &Profile) -> Option<Finding> {
    let (questions, rows) = agreement(&a.questions, &b.questions);
    if rows == 0 || questions != rows as u64 {
        return None;
    }
    let (same, _) = agreement(&a.responses, &b.responses);
    let all = a.rows == b.rows && same == a.rows;
    let severity = match same as f64 / a.rows.max(b.rows) as f64 {
        _ if all => Severity::Error,
        share if share >= NEARLY_ALL => Severity::Warning,
        _ => return None,
    };
    let what = if all { "the same responses under two names" } else { "nearly the same responses under two names" };
    Some(finding("duplicate-inputs", severity, a, b, same, what.into()))
}

/// A column that must differ where responses do, and does not.
fn stale(column: &Column, a: &Profile, b: &Profile) -> Option<Finding> {
    let kind = column.per_response?;
    let other = b.columns.iter().find(|c| c.name == column.name)?;
    let (same_responses, rows) = agreement(&a.responses, &b.responses);
    let different = 1.0 - same_responses as f64 / rows.max(1) as f64;
    let (same, _) = agreement(&column.values, &other.values);
    if rows < 2 || column.is_constant() || different < DIFFERENT || (same as f64) < NEARLY_ALL * rows as f64 {
        return None;
    }
    let differ = rows as u64 - same_responses;
    let message = format!("`{}` is the same in {same} rows, though {differ} of the responses differ", column.name);
    let (check, severity) = match kind {
        PerResponse::Score => ("stale-perplexity", Severity::Error),
        PerResponse::Output => ("stale-column", Severity::Warning),
    };
    Some(finding(check, severity, a, b, same, message))
}

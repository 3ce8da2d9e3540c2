//! `compare`: paired tests between methods on the same questions.

mod paired;
mod result;

use super::gather::{self, NOTE};
use super::rows::emit_in_batches;
use super::summarize::groupable;
use super::{Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved};
use super::{did_you_mean, is_number, list};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::eval::statistics::multiple::Correction;
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::datatypes::{DataType, Field, Schema};
use indexmap::IndexSet;
use paired::Groups;
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "compare",
    summary: "Tests whether methods differ on the same questions",
    doc: DOC,
    version: 2,
    inputs: &[InputSpec {
        name: "from",
        doc: "rows of questions under several methods; several inputs come with a column for each matrix axis",
        arity: Arity::Many,
        accepts_skipped: true,
    }],
    outputs: OUT,
    fields: &[
        FieldSpec::new("method", FieldKind::Column, "The column (or matrix axis) that names the method").required(),
        FieldSpec::new(
            "value",
            FieldKind::Column,
            "What is compared: a boolean, such as a verdict, or a number, such as a perplexity",
        )
        .default(Default::Str("correct")),
        FieldSpec::new(
            "on",
            FieldKind::List(&FieldKind::Column),
            "Columns that make two rows the same question (default `id`); unless `sample` is among them, the samples `q#0`, \
             `q#1` of a question count as `q`",
        ),
        FieldSpec::new(
            "by",
            FieldKind::List(&FieldKind::Column),
            "Columns (or matrix axes) whose values make a group; methods are compared within groups",
        ),
        FieldSpec::new("baseline", FieldKind::Str, "The method that every other one is compared with"),
        FieldSpec::new(
            "pairs",
            FieldKind::Choice(&["all", "best"]),
            "Without `baseline`: compare every two methods (the default), or the best one of a group with each other one",
        ),
        FieldSpec::new("better", FieldKind::Choice(&["higher", "lower"]), "Which values are better")
            .default(Default::Str("higher")),
        FieldSpec::new("level", FieldKind::Float { min: 0.5, max: 0.9999 }, "Confidence level of the interval")
            .default(Default::Float(0.95)),
        FieldSpec::new(
            "resamples",
            FieldKind::Int { min: 100, max: 1_000_000 },
            "Draws of the bootstrap and of the sign-flip test",
        )
        .default(Default::Int(10_000)),
        FieldSpec::new(
            "correction",
            FieldKind::Choice(&["holm", "bh", "none"]),
            "How p values are adjusted over all comparisons of the result: `holm` bounds the chance of any false finding, \
             `bh` (Benjamini and Hochberg) the expected share of false findings",
        )
        .default(Default::Str("holm")),
        FieldSpec::new(
            "alpha",
            FieldKind::Float { min: 0.0, max: 1.0 },
            "The adjusted p value up to which a difference is called one",
        )
        .default(Default::Float(0.05)),
    ],
    sink: false,
    example: EXAMPLE,
    build,
};

const DOC: &str = "\
Pairs the rows of every two methods by question, within each group, and gives one row for each comparison: the columns of \
`by`, the method, `other`, and

- `pairs`, the questions that both methods have; `unpaired`, those that one of them lacks, which are left out;
- of a boolean `both`, `only_this`, `only_other` and `neither`: how many questions each of them has right;
- `mean`, `other_mean` and their `difference` over the pairs, with `ci_low` and `ci_high`, the paired bootstrap interval \
of the difference (questions are drawn; percentiles);
- `p` and the `test` that gave it: `mcnemar`, exact and two-sided, where every question has one verdict; otherwise \
`sign-flip`, the paired permutation test of the mean difference, exact up to 16 pairs that differ;
- `p_adjusted`, corrected for the number of comparisons in the whole result, and a `verdict`: `better` or `worse` where \
it is at most `alpha`, otherwise `not significant`;
- `note`: what to know about the row.

A question that a method has several rows for (samples, seeds) counts once, with their mean; `note` says so. An answer \
with the id `<id>#<k>` and the number k in a column `sample` is one of several to the question `<id>`. To treat seeds or \
samples as questions of their own, name the axis or `sample` in `on` too. Rows without a value are left out and counted \
in `note`. A method whose input was skipped has its reason there.

Which interval or test answers which question, and when not to trust it, is in [statistics](statistics.md).";

const EXAMPLE: &str = r#"
matrix "cells" {
    set "GSM8K" "ECQA"
    variant "groundtruth" "gpt-4"
}
load "verdicts" matrix="cells" path="${set}-${variant}.jsonl" { columns { correct "bool" } }
compare "compared" from="verdicts" method="variant" by="set" baseline="groundtruth" correction="holm"
table "differences" from="compared" {
    column "set"; column "variant"; column "pairs"
    column "difference" style="percent" digits=1
    column "p_adjusted" label="p"; column "verdict"
}
"#;

/// Which methods are compared.
#[derive(Debug, Clone)]
enum Against {
    Baseline(Spanned<String>),
    All,
    Best,
}

#[derive(Debug)]
struct Compare {
    method: Spanned<String>,
    value: Spanned<String>,
    on: Vec<Spanned<String>>,
    by: Vec<Spanned<String>>,
    against: Against,
    higher: bool,
    level: f64,
    resamples: usize,
    correction: Correction,
    alpha: f64,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let against = match (fields.opt_str("baseline"), fields.opt_str("pairs")) {
        (Some(baseline), Some(pairs)) => {
            diagnostics.push(
                Diagnostic::error("meaningless-field", "`pairs` means nothing beside `baseline`")
                    .at(pairs.span, "not read")
                    .and(baseline.span, "every other method is compared with this one")
                    .help("remove one of them"),
            );
            return None;
        }
        (Some(baseline), None) => Against::Baseline(baseline),
        (None, Some(pairs)) if pairs.value == "best" => Against::Best,
        (None, _) => Against::All,
    };
    let on = match fields.strs("on") {
        on if on.is_empty() => vec![Spanned::new(super::rows::ID.to_string(), fields.span)],
        on => on,
    };
    let compare = Compare {
        method: fields.str("method"),
        value: fields.str("value"),
        on,
        by: fields.strs("by"),
        against,
        higher: fields.str("better").value == "higher",
        level: fields.float("level"),
        resamples: fields.int("resamples") as usize,
        correction: match fields.str("correction").value.as_str() {
            "holm" => Correction::Holm,
            "bh" => Correction::BenjaminiHochberg,
            _ => Correction::None,
        },
        alpha: fields.float("alpha"),
    };
    compare.distinct_names(diagnostics).then(|| Box::new(compare) as Box<dyn Operator>)
}

impl Compare {
    /// Whether the columns of the result have names of their own, and the method is no part of group or question.
    fn distinct_names(&self, diagnostics: &mut Diagnostics) -> bool {
        let mut sound = true;
        let mut clash = |name: &Spanned<String>, message: String, label: &str, other: Option<&Spanned<String>>| {
            let mut d = Diagnostic::error("duplicate-column", message).at(name.span, label.to_string());
            if let Some(other) = other {
                d = d.and(other.span, "named here too");
            }
            diagnostics.push(d);
            sound = false;
        };
        for (i, name) in self.by.iter().enumerate() {
            if let Some(first) = self.by[..i].iter().chain([&self.method]).find(|n| n.value == name.value) {
                clash(name, format!("column `{}` is named twice", name.value), "again here", Some(first));
            }
        }
        for name in self.by.iter().chain([&self.method]).filter(|n| result::FIXED.contains(&n.value.as_str())) {
            let message = format!("the column `{}` is made by `compare`", name.value);
            clash(name, message, "rename this one before, with `select`", None);
        }
        for name in self.on.iter().chain([&self.value]).filter(|n| n.value == self.method.value) {
            let message = format!("column `{}` cannot be the method as well", name.value);
            clash(name, message, "read as something else here", Some(&self.method));
        }
        sound
    }

    /// The types of the columns that the rows must have; `None` after an error.
    fn check_columns(&self, schema: &Schema, cx: &mut ResolveCx<'_>) -> Option<()> {
        let mut sound = true;
        for name in self.by.iter().chain([&self.method]).chain(&self.on) {
            sound &= gather::need_column(cx, schema, name, "text, a number or a boolean", groupable);
        }
        let comparable = |t: &DataType| is_number(t) || *t == DataType::Boolean;
        sound &= gather::need_column(cx, schema, &self.value, "a boolean or a number", comparable);
        sound.then_some(())
    }

    /// Where the method is an axis of the sweep, the baseline must be a value of it.
    fn check_baseline(&self, cx: &mut ResolveCx<'_>) -> Option<()> {
        let Against::Baseline(baseline) = &self.against else { return Some(()) };
        let axis = &self.method.value;
        let inputs = cx.port("from");
        let values: Vec<&str> = inputs.iter().filter_map(|i| i.producer.bindings.get(axis)).collect();
        if inputs.iter().any(|i| i.schema.field_with_name(axis).is_ok())
            || values.is_empty()
            || values.contains(&baseline.value.as_str())
        {
            return Some(());
        }
        let known: Vec<&str> = values.into_iter().collect::<IndexSet<_>>().into_iter().collect();
        let mut d = Diagnostic::error("baseline-absent", self.no_baseline(baseline))
            .at(baseline.span, "the method to compare with")
            .help(format!("there are {}", list(&known)));
        if let Some(near) = did_you_mean(baseline, known) {
            d = d.help(format!("did you mean `{near}`?"));
        }
        cx.error(d);
        None
    }

    fn no_baseline(&self, baseline: &str) -> String {
        format!("no `{}` is `{baseline}`", self.method.value)
    }
}

impl Operator for Compare {
    fn canonical(&self) -> serde_json::Value {
        let names = |columns: &[Spanned<String>]| columns.iter().map(|c| c.value.clone()).collect::<Vec<_>>();
        let against = match &self.against {
            Against::Baseline(name) => json!({ "baseline": name.value }),
            Against::All => json!("all"),
            Against::Best => json!("best"),
        };
        json!({
            "method": self.method.value,
            "value": self.value.value,
            "on": names(&self.on),
            "by": names(&self.by),
            "against": against,
            "higher": self.higher,
            "level": self.level,
            "resamples": self.resamples,
            "correction": format!("{:?}", self.correction),
            "alpha": self.alpha,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let gathered = gather::schema(cx, "from")?;
        // Of inputs that are all skipped nothing is known, so nothing can be said against a column.
        let unknown = cx.port("from").iter().all(|i| i.skipped.is_some());
        if !unknown {
            self.check_columns(&gathered, cx)?;
        }
        self.check_baseline(cx)?;
        let rows: Option<u64> =
            cx.port("from").iter().map(|i| if i.skipped.is_some() { Some(0) } else { i.estimate.rows }).sum();
        let estimate =
            Estimate { tokens: Some(0), memory: rows.map(|r| r * paired::ENTRY_BYTES as u64), ..Estimate::default() };
        let kind = |name: &str| gathered.field_with_name(name).map_or(DataType::Utf8, |f| f.data_type().clone());
        let mut fields: Vec<Field> = self.by.iter().map(|b| Field::new(&b.value, kind(&b.value), true)).collect();
        fields.extend(result::fields(&self.method.value, kind(&self.value.value) == DataType::Boolean));
        let mut resolved = Resolved::new(vec![Arc::new(Schema::new(fields))], estimate);
        resolved.barrier = true;
        resolved.seeded = true;
        resolved.reads_bindings = true;
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let (schema, rows) = gather::rows(cx, "from")?;
        let mut groups = Groups::new(self, &schema, cx)?;
        for batch in rows {
            groups.add(&batch?)?;
        }
        if let Against::Baseline(baseline) = &self.against {
            let known = groups.methods();
            if !known.is_empty() && !known.contains(&baseline.value) {
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(RunError::failed("baseline-absent", self.no_baseline(baseline))
                    .help(format!("there are {}", list(&names))));
            }
        }
        let compared = result::of(self, &groups, cx)?;
        emit_in_batches(cx, 0, &compared)
    }
}

#[cfg(test)]
mod tests;

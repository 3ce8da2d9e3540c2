//! The statistics of `summarize`.

use super::super::{Fields, Value};
use super::Group;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::statistics;
use crate::exec::RunError;
use crate::ops::rows::arrow_failed;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use serde_json::json;
use std::sync::Arc;

/// What `fn` may be.
pub const FUNCTIONS: &[&str] = &["count", "mean", "median", "quantile", "min", "max", "sum", "std", "corpus-ppl"];

/// One or two columns of the result.
#[derive(Debug)]
pub struct Measure {
    pub names: Vec<Spanned<String>>,
    pub statistic: Statistic,
}

#[derive(Debug)]
pub enum Statistic {
    Rows,
    Count(Spanned<String>),
    Mean(Spanned<String>),
    Quantile(Spanned<String>, f64),
    Sum(Spanned<String>),
    Deviation(Spanned<String>),
    CorpusPerplexity { nll: Spanned<String>, tokens: Spanned<String> },
    Interval { column: Spanned<String>, level: f64, resamples: usize },
    Wilson { column: Spanned<String>, level: f64 },
}

/// Samples that a bootstrap draws unless it is told how many.
const RESAMPLES: usize = 1000;

/// The measures of `preset="perplexity"`; messages about them point at the preset.
pub fn perplexity(span: Span) -> Vec<Measure> {
    let at = |name: &str| Spanned::new(name.to_string(), span);
    let one = |name: &str, statistic| Measure { names: vec![at(name)], statistic };
    vec![
        one("rows", Statistic::Rows),
        one("mean_ppl", Statistic::Mean(at("ppl"))),
        one("median_ppl", Statistic::Quantile(at("ppl"), 0.5)),
        one("corpus_ppl", Statistic::CorpusPerplexity { nll: at("nll"), tokens: at("label_tokens") }),
        Measure {
            names: vec![at("ci_low"), at("ci_high")],
            statistic: Statistic::Interval { column: at("ppl"), level: 0.95, resamples: RESAMPLES },
        },
        one("response_tokens", Statistic::Mean(at("response_tokens"))),
    ]
}

/// The measures of `preset="accuracy"`; messages about them point at the preset.
pub fn accuracy(span: Span) -> Vec<Measure> {
    let at = |name: &str| Spanned::new(name.to_string(), span);
    let correct = || at("correct");
    vec![
        Measure { names: vec![at("rows")], statistic: Statistic::Count(correct()) },
        Measure { names: vec![at("accuracy")], statistic: Statistic::Mean(correct()) },
        Measure {
            names: vec![at("ci_low"), at("ci_high")],
            statistic: Statistic::Wilson { column: correct(), level: 0.95 },
        },
    ]
}

impl Measure {
    /// A `value` record.
    pub fn value(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let function = fields.str("fn");
        let corpus = function.value == "corpus-ppl";
        let mut sound = true;
        for (field, wanted) in
            [("column", !corpus), ("q", function.value == "quantile"), ("nll", corpus), ("tokens", corpus)]
        {
            let optional = corpus || (field == "column" && function.value == "count");
            sound &= fits(fields, field, wanted, optional, &function, diagnostics);
        }
        if !sound {
            return None;
        }
        let column = |name: &str, default: &str| {
            fields.opt_str(name).unwrap_or_else(|| Spanned::new(default.to_string(), function.span))
        };
        let statistic = match (function.value.as_str(), fields.opt_str("column")) {
            ("count", None) => Statistic::Rows,
            ("count", Some(column)) => Statistic::Count(column),
            ("mean", Some(column)) => Statistic::Mean(column),
            ("median", Some(column)) => Statistic::Quantile(column, 0.5),
            ("quantile", Some(column)) => Statistic::Quantile(column, fields.float("q")),
            ("min", Some(column)) => Statistic::Quantile(column, 0.0),
            ("max", Some(column)) => Statistic::Quantile(column, 1.0),
            ("sum", Some(column)) => Statistic::Sum(column),
            ("std", Some(column)) => Statistic::Deviation(column),
            _ => Statistic::CorpusPerplexity { nll: column("nll", "nll"), tokens: column("tokens", "label_tokens") },
        };
        Some(Self { names: vec![fields.str("name")], statistic })
    }

    /// An `interval` record.
    pub fn interval(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (column, level, method) = (fields.str("column"), fields.float("level"), fields.str("method"));
        let resamples = fields.opt_int("resamples");
        let statistic = match (method.value.as_str(), resamples) {
            ("wilson", Some(resamples)) => {
                diagnostics.push(
                    Diagnostic::error("meaningless-field", "`resamples` means nothing to `method=\"wilson\"`")
                        .at(resamples.span, "not read")
                        .and(method.span, "computed by a formula")
                        .help("remove `resamples`"),
                );
                return None;
            }
            ("wilson", None) => Statistic::Wilson { column, level },
            (_, resamples) => {
                let resamples = resamples.map_or(RESAMPLES, |r| r.value as usize);
                Statistic::Interval { column, level, resamples }
            }
        };
        Some(Self { names: vec![fields.str("low"), fields.str("high")], statistic })
    }

    /// The columns read, and where they are named.
    pub fn columns(&self) -> Vec<(&str, Span)> {
        let read = match &self.statistic {
            Statistic::Rows => Vec::new(),
            Statistic::CorpusPerplexity { nll, tokens } => vec![nll, tokens],
            Statistic::Count(c)
            | Statistic::Mean(c)
            | Statistic::Quantile(c, _)
            | Statistic::Sum(c)
            | Statistic::Deviation(c)
            | Statistic::Interval { column: c, .. }
            | Statistic::Wilson { column: c, .. } => vec![c],
        };
        read.into_iter().map(|c| (c.value.as_str(), c.span)).collect()
    }

    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        let counts = matches!(self.statistic, Statistic::Rows | Statistic::Count(_));
        let kind = if counts { DataType::Int64 } else { DataType::Float64 };
        self.names.iter().map(move |name| Field::new(&name.value, kind.clone(), true))
    }

    pub fn canonical(&self) -> serde_json::Value {
        let names: Vec<&String> = self.names.iter().map(|n| &n.value).collect();
        let columns: Vec<&str> = self.columns().into_iter().map(|(c, _)| c).collect();
        let (function, parameters) = match &self.statistic {
            Statistic::Rows => ("rows", json!(null)),
            Statistic::Count(_) => ("count", json!(null)),
            Statistic::Mean(_) => ("mean", json!(null)),
            Statistic::Quantile(_, q) => ("quantile", json!(q)),
            Statistic::Sum(_) => ("sum", json!(null)),
            Statistic::Deviation(_) => ("std", json!(null)),
            Statistic::CorpusPerplexity { .. } => ("corpus-ppl", json!(null)),
            Statistic::Interval { level, resamples, .. } => ("interval", json!([level, resamples])),
            Statistic::Wilson { level, .. } => ("wilson", json!(level)),
        };
        json!({ "names": names, "fn": function, "columns": columns, "parameters": parameters })
    }

    /// The columns of the result, one value for each group.
    pub fn of_groups(&self, groups: &[&Group], columns: &[String], seed: u64) -> Vec<ArrayRef> {
        let place = |name: &Spanned<String>| columns.iter().position(|c| *c == name.value).unwrap_or_default();
        let present = |g: &Group, name: &Spanned<String>| -> Vec<f64> {
            g.values[place(name)].iter().flatten().copied().collect()
        };
        let floats = |of: &dyn Fn(&Group) -> Option<f64>| -> Vec<ArrayRef> {
            vec![Arc::new(groups.iter().map(|g| of(g)).collect::<Float64Array>())]
        };
        let counts = |of: &dyn Fn(&Group) -> i64| -> Vec<ArrayRef> {
            vec![Arc::new(groups.iter().map(|g| of(g)).collect::<Int64Array>())]
        };
        match &self.statistic {
            Statistic::Rows => counts(&|g| g.rows as i64),
            Statistic::Count(c) => counts(&|g| present(g, c).len() as i64),
            Statistic::Mean(c) => floats(&|g| statistics::mean(&present(g, c))),
            Statistic::Quantile(c, q) => floats(&|g| statistics::quantile(&statistics::sorted(&present(g, c)), *q)),
            Statistic::Sum(c) => floats(&|g| Some(statistics::sum(present(g, c)))),
            Statistic::Deviation(c) => floats(&|g| statistics::standard_deviation(&present(g, c))),
            Statistic::CorpusPerplexity { nll, tokens } => {
                floats(&|g| corpus_perplexity(&g.values[place(nll)], &g.values[place(tokens)]))
            }
            Statistic::Interval { column, level, resamples } => {
                ends(groups, |g| statistics::bootstrap_mean(&present(g, column), *level, *resamples, seed))
            }
            Statistic::Wilson { column, level } => ends(groups, |g| {
                let verdicts = present(g, column);
                let right = verdicts.iter().filter(|v| **v == 1.0).count();
                statistics::proportion::wilson(right as u64, verdicts.len() as u64, *level)
            }),
        }
    }
}

/// The two columns of an interval.
fn ends(groups: &[&Group], of: impl Fn(&Group) -> Option<(f64, f64)>) -> Vec<ArrayRef> {
    let ends: Vec<Option<(f64, f64)>> = groups.iter().map(|g| of(g)).collect();
    let low: Float64Array = ends.iter().map(|e| e.map(|(low, _)| low)).collect();
    let high: Float64Array = ends.iter().map(|e| e.map(|(_, high)| high)).collect();
    vec![Arc::new(low), Arc::new(high)]
}

/// Over the rows that have both numbers.
fn corpus_perplexity(nll: &[Option<f64>], tokens: &[Option<f64>]) -> Option<f64> {
    let (nll, tokens): (Vec<f64>, Vec<f64>) = nll.iter().zip(tokens).filter_map(|(n, t)| Some(((*n)?, (*t)?))).unzip();
    let tokens = statistics::sum(tokens);
    (tokens != 0.0).then(|| (statistics::sum(nll) / tokens).exp())
}

/// Whether a field is written exactly where the function has a use for it.
fn fits(
    fields: &Fields,
    name: &str,
    wanted: bool,
    optional: bool,
    function: &Spanned<String>,
    diagnostics: &mut Diagnostics,
) -> bool {
    let written = fields.get(name).filter(|v| v.value != Value::Null);
    match written {
        None if wanted && !optional => {
            diagnostics.push(
                Diagnostic::error("missing-field", format!("`fn=\"{}\"` needs `{name}`", function.value))
                    .at(fields.span, format!("`{name}` is missing here"))
                    .and(function.span, "asked for here"),
            );
            false
        }
        Some(value) if !wanted => {
            diagnostics.push(
                Diagnostic::error(
                    "meaningless-field",
                    format!("`{name}` means nothing to `fn=\"{}\"`", function.value),
                )
                .at(value.span, "not read")
                .and(function.span, "because of this")
                .help(format!("remove `{name}`")),
            );
            false
        }
        _ => true,
    }
}

/// A column of numbers or booleans as floats.
pub fn as_floats(column: &ArrayRef) -> Result<ArrayRef, RunError> {
    match column.data_type() {
        DataType::Float64 => Ok(column.clone()),
        DataType::Boolean => {
            let of = |b: Option<bool>| b.map(f64::from);
            Ok(Arc::new(column.as_boolean().iter().map(of).collect::<Float64Array>()))
        }
        _ => cast(column, &DataType::Float64).map_err(arrow_failed),
    }
}

//! The rows that a comparison gives.

use super::super::rows::arrow_failed;
use super::paired::{Group, Groups, Method, Question};
use super::{Against, Compare, NOTE};
use crate::eval::statistics::{self, multiple, paired};
use crate::exec::{NodeCx, RunError};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use arrow::row::OwnedRow;
use std::sync::Arc;

/// The columns of every result, but for those of `by` and the method's.
pub const FIXED: &[&str] = &[
    "other",
    "pairs",
    "both",
    "only_this",
    "only_other",
    "neither",
    "mean",
    "other_mean",
    "difference",
    "ci_low",
    "ci_high",
    "test",
    "p",
    "p_adjusted",
    "verdict",
    "unpaired",
    NOTE,
];

/// The columns of the result after those of `by`; four of them count verdicts.
pub fn fields(method: &str, verdicts: bool) -> Vec<Field> {
    let kind = |name: &str| match name {
        "other" | "test" | "verdict" | NOTE => DataType::Utf8,
        "pairs" | "unpaired" | "both" | "only_this" | "only_other" | "neither" => DataType::Int64,
        _ => DataType::Float64,
    };
    let counts = |name: &&&str| matches!(**name, "both" | "only_this" | "only_other" | "neither");
    let fixed = FIXED.iter().filter(|n| verdicts || !counts(n)).map(|name| Field::new(*name, kind(name), true));
    std::iter::once(Field::new(method, DataType::Utf8, true)).chain(fixed).collect()
}

/// One comparison.
#[derive(Default)]
struct Row {
    method: Option<String>,
    other: Option<String>,
    pairs: usize,
    unpaired: usize,
    table: Option<Table>,
    means: Option<[f64; 2]>,
    difference: Option<f64>,
    interval: Option<(f64, f64)>,
    test: Option<&'static str>,
    p: Option<f64>,
    notes: Vec<String>,
}

/// How many questions each of two methods has right.
#[derive(Default, Clone, Copy)]
struct Table {
    both: i64,
    only_this: i64,
    only_other: i64,
    neither: i64,
}

/// All comparisons of all groups, with p values adjusted over all of them.
pub fn of(spec: &Compare, groups: &Groups<'_>, cx: &NodeCx) -> Result<RecordBatch, RunError> {
    let schema = cx.output_schema(0);
    let verdicts = schema.field_with_name("both").is_ok();
    let mut keys: Vec<&Option<OwnedRow>> = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    for (key, group) in &groups.groups {
        for pair in pairs(spec, group) {
            if cx.stopping() {
                return Err(RunError::Interrupted);
            }
            rows.push(compared(spec, group, pair, verdicts, cx.seed()));
            keys.push(key);
        }
    }
    let p: Vec<Option<f64>> = rows.iter().map(|r| r.p).collect();
    let adjusted = multiple::adjust(&p, spec.correction);
    let verdict: Vec<Option<&str>> =
        rows.iter().zip(&adjusted).map(|(r, p)| Some(spec.verdict(r.difference?, (*p)?))).collect();
    let mut columns = groups.columns(&keys)?;
    for field in &schema.fields()[columns.len()..] {
        columns.push(column(field.name(), &rows, &adjusted, &verdict));
    }
    RecordBatch::try_new(schema, columns).map_err(arrow_failed)
}

impl Compare {
    fn verdict(&self, difference: f64, p: f64) -> &'static str {
        match (p <= self.alpha && difference != 0.0, (difference > 0.0) == self.higher) {
            (false, _) => "not significant",
            (true, true) => "better",
            (true, false) => "worse",
        }
    }
}

/// The pairs of methods that are compared; a lone method has no other.
fn pairs<'g>(spec: &Compare, group: &'g Group) -> Vec<(Option<&'g str>, Option<&'g str>)> {
    let names: Vec<&str> = group.methods.keys().map(String::as_str).collect();
    let with = |first: &'g str, others: &mut dyn Iterator<Item = &'g str>| -> Vec<_> {
        others.map(|other| (Some(first), Some(other))).collect()
    };
    match (&spec.against, names.as_slice()) {
        (_, []) => vec![(None, None)],
        (Against::Baseline(baseline), [one]) if *one == baseline.value => vec![(Some(*one), None)],
        (Against::Baseline(baseline), _) => {
            let other = group.methods.get_key_value(&baseline.value).map(|(name, _)| name.as_str());
            names.iter().filter(|n| **n != baseline.value).map(|n| (Some(*n), other)).collect()
        }
        (_, [one]) => vec![(Some(*one), None)],
        (Against::All, _) => {
            let after = |at: usize| names[at + 1..].iter().copied();
            (0..names.len()).flat_map(|at| with(names[at], &mut after(at))).collect()
        }
        (Against::Best, _) => {
            let best = best(spec, group).unwrap_or(names[0]);
            with(best, &mut names.iter().copied().filter(|n| *n != best))
        }
    }
}

/// The method with the best mean; the first one of several.
fn best<'g>(spec: &Compare, group: &'g Group) -> Option<&'g str> {
    let mut best: Option<(&str, f64)> = None;
    for (name, method) in &group.methods {
        let Some(mean) = method.mean().filter(|m| m.is_finite()) else { continue };
        if best.is_none_or(|(_, known)| if spec.higher { mean > known } else { mean < known }) {
            best = Some((name, mean));
        }
    }
    best.map(|(name, _)| name)
}

fn compared(spec: &Compare, group: &Group, names: (Option<&str>, Option<&str>), verdicts: bool, seed: u64) -> Row {
    let mut row = Row { method: names.0.map(str::to_string), other: names.1.map(str::to_string), ..Row::default() };
    row.notes.extend(group.notes.iter().cloned());
    if group.nameless > 0 {
        row.notes.push(format!("rows without {}: {}", spec.method.value, group.nameless));
    }
    let method = |name: Option<&str>| name.and_then(|n| group.methods.get_key_value(n));
    for (name, method) in [method(names.0), method(names.1)].into_iter().flatten() {
        if !method.notes.is_empty() {
            let notes: Vec<&str> = method.notes.iter().map(String::as_str).collect();
            row.notes.push(format!("{name}: {}", notes.join(", ")));
        }
        if method.empty > 0 {
            row.notes.push(format!("{name}: rows without {}: {}", spec.value.value, method.empty));
        }
    }
    match (method(names.0), method(names.1), &spec.against) {
        (Some((_, this)), Some((_, other)), _) => row.compare(spec, this, other, verdicts, seed),
        (Some(_), None, Against::Baseline(baseline)) if names.0 != Some(&baseline.value) => {
            row.notes.push(format!("there are no rows of {} to compare with", baseline.value));
        }
        (Some(_), ..) => row.notes.push("there is no other method to compare with".into()),
        (None, ..) => {}
    }
    row
}

impl Row {
    fn compare(&mut self, spec: &Compare, this: &Method, other: &Method, verdicts: bool, seed: u64) {
        let paired: Vec<[Question; 2]> =
            this.questions.iter().filter_map(|(key, q)| Some([*q, *other.questions.get(key)?])).collect();
        self.pairs = paired.len();
        let alone = [this.questions.len() - self.pairs, other.questions.len() - self.pairs];
        self.unpaired = alone[0] + alone[1];
        self.tell_unpaired([this, other], alone);
        if paired.is_empty() {
            return;
        }
        let values = |at: usize| paired.iter().map(|pair| pair[at].value()).collect::<Vec<f64>>();
        let differences: Vec<f64> = paired.iter().map(|[a, b]| a.value() - b.value()).collect();
        self.means = statistics::mean(&values(0)).zip(statistics::mean(&values(1))).map(|(a, b)| [a, b]);
        self.difference = statistics::mean(&differences);
        self.interval = statistics::bootstrap_mean(&differences, spec.level, spec.resamples, seed);
        let most = paired.iter().flatten().map(|q| q.rows).max().unwrap_or(1);
        if most > 1 {
            self.notes.push(format!("each question is the mean of its rows (up to {most} of a method)"));
        }
        if verdicts && most == 1 {
            let table = table(&paired);
            self.table = Some(table);
            self.test = Some("mcnemar");
            self.p = Some(paired::mcnemar(table.only_this as u64, table.only_other as u64));
            return;
        }
        self.flip_signs(spec, &differences, seed);
    }

    /// A method that has no question at all is the whole reason; otherwise those left out are counted.
    fn tell_unpaired(&mut self, methods: [&Method; 2], alone: [usize; 2]) {
        let names = [&self.method, &self.other].map(|n| n.clone().unwrap_or_default());
        let empty = |at: usize| methods[at].questions.is_empty();
        for at in (0..2).filter(|at| empty(*at) && methods[*at].notes.is_empty()) {
            self.notes.push(format!("{} has no rows with a value", names[at]));
        }
        if self.unpaired > 0 && !empty(0) && !empty(1) {
            let nothing = if self.pairs == 0 { "no question in common" } else { "left out, for one method lacks them" };
            self.notes.push(format!("{nothing}: {} questions of {}, {} of {}", alone[0], names[0], alone[1], names[1]));
        }
    }

    fn flip_signs(&mut self, spec: &Compare, differences: &[f64], seed: u64) {
        self.p = paired::sign_flip(differences, spec.resamples, seed);
        match self.p {
            Some(_) => self.test = Some("sign-flip"),
            None => {
                let odd = differences.iter().filter(|d| !d.is_finite()).count();
                self.notes.push(match odd {
                    0 => "not tested: the differences are too large to add up".into(),
                    _ => format!("not tested: {odd} of {} differences are not finite", differences.len()),
                });
            }
        }
    }
}

fn table(paired: &[[Question; 2]]) -> Table {
    let mut table = Table::default();
    for [this, other] in paired {
        *match (this.value() > 0.5, other.value() > 0.5) {
            (true, true) => &mut table.both,
            (true, false) => &mut table.only_this,
            (false, true) => &mut table.only_other,
            (false, false) => &mut table.neither,
        } += 1;
    }
    table
}

fn column(name: &str, rows: &[Row], adjusted: &[Option<f64>], verdict: &[Option<&str>]) -> ArrayRef {
    let floats =
        |of: &dyn Fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
    let counts =
        |of: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
    let texts =
        |of: &dyn Fn(&Row) -> Option<String>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<StringArray>()) };
    match name {
        "other" => texts(&|r| r.other.clone()),
        "pairs" => counts(&|r| Some(r.pairs as i64)),
        "unpaired" => counts(&|r| Some(r.unpaired as i64)),
        "both" => counts(&|r| r.table.map(|t| t.both)),
        "only_this" => counts(&|r| r.table.map(|t| t.only_this)),
        "only_other" => counts(&|r| r.table.map(|t| t.only_other)),
        "neither" => counts(&|r| r.table.map(|t| t.neither)),
        "mean" => floats(&|r| r.means.map(|m| m[0])),
        "other_mean" => floats(&|r| r.means.map(|m| m[1])),
        "difference" => floats(&|r| r.difference),
        "ci_low" => floats(&|r| r.interval.map(|i| i.0)),
        "ci_high" => floats(&|r| r.interval.map(|i| i.1)),
        "test" => texts(&|r| r.test.map(str::to_string)),
        "p" => floats(&|r| r.p),
        "p_adjusted" => Arc::new(adjusted.iter().copied().collect::<Float64Array>()),
        "verdict" => Arc::new(verdict.iter().copied().collect::<StringArray>()),
        NOTE => texts(&|r| (!r.notes.is_empty()).then(|| r.notes.join("; "))),
        _ => texts(&|r| r.method.clone()),
    }
}

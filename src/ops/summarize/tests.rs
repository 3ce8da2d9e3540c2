use crate::config::RunOptions;
use crate::ops::testing_node::{Node, given, lines, refusal, rows, rows_json, run};
use arrow::array::{AsArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type};
use serde_json::json;
use std::sync::Arc;

/// Scored rows of two variants; every fourth of `b` is cheap.
fn scored(count: usize) -> RecordBatch {
    let row = |i: usize| {
        let variant = if i.is_multiple_of(3) { "a" } else { "b" };
        let ppl = 2.0 + (i * 7919 % 101) as f64 / 10.0;
        let tokens = 10 + i % 5;
        json!({
            "id": format!("x:{i}"), "variant": variant, "ppl": ppl, "nll": ppl.ln() * tokens as f64,
            "label_tokens": tokens, "response_tokens": tokens - 1, "right": i.is_multiple_of(4),
        })
    };
    rows(&serde_json::to_string(&(0..count).map(row).collect::<Vec<_>>()).unwrap())
}

fn column(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Float64Type>().iter().collect()
}

#[test]
fn statistics_are_those_of_numpy() {
    let node = r#"summarize "s" from="x" {
        value "n" fn="count"; value "mean" fn="mean" column="ppl"; value "median" fn="median" column="ppl"
        value "p90" fn="quantile" q=0.9 column="ppl"; value "min" fn="min" column="ppl"; value "max" fn="max" column="ppl"
        value "sum" fn="sum" column="ppl"; value "std" fn="std" column="ppl"; value "corpus" fn="corpus-ppl"
        value "right" fn="mean" column="right"; value "tokens" fn="sum" column="label_tokens"
    }"#;
    let out = &run(node, &[given("from", "x", scored(100))], 7).rows[0];
    assert_eq!(out.num_rows(), 1);
    let expected: [(&str, f64); 10] = [
        ("mean", 6.989999999999998),
        ("median", 6.95),
        ("p90", 11.010000000000002),
        ("min", 2.0),
        ("max", 12.0),
        ("sum", 699.0),
        ("std", 2.9430452173752193),
        ("corpus", 6.337374057057934),
        ("right", 0.25),
        ("tokens", 1200.0),
    ];
    for (name, expected) in expected {
        let found = column(out, name)[0].unwrap();
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{name}: {found} is not {expected}");
    }
    assert_eq!(rows_json(out)[0]["n"], 100);
}

#[test]
fn samples_of_one_question_make_an_interval_too_narrow_and_it_says_so() {
    let rows = |last: u32| {
        rows(&format!(
            r#"[{{"id": "q#0", "sample": 0, "right": true}}, {{"id": "r#0", "sample": {last}, "right": false}}]"#
        ))
    };
    let note = |statistics: &str, last: u32| {
        let node = format!("summarize \"s\" from=\"x\" {{ {statistics} }}");
        rows_json(&run(&node, &[given("from", "x", rows(last))], 7).rows[0])[0]["note"].clone()
    };
    let interval = r#"interval "low" "high" column="right" method="wilson""#;
    assert!(note(interval, 1).as_str().unwrap().contains("too narrow"));
    assert!(note(interval, 0).is_null());
    assert!(note(r#"value "mean" fn="mean" column="right""#, 1).is_null());
}

#[test]
fn the_preset_names_what_score_ppl_gives() {
    let out =
        &run(r#"summarize "s" from="x" preset="perplexity" { by "variant" }"#, &[given("from", "x", scored(60))], 9)
            .rows[0];
    let schema = out.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let expected =
        ["variant", "rows", "mean_ppl", "median_ppl", "corpus_ppl", "ci_low", "ci_high", "response_tokens", "note"];
    assert_eq!(names, expected);
    let (low, mean, high) = (column(out, "ci_low"), column(out, "mean_ppl"), column(out, "ci_high"));
    assert!((0..2).all(|g| low[g] < mean[g] && mean[g] < high[g]));
    assert_eq!(rows_json(out)[0]["rows"], 20);
}

#[test]
fn accuracies_have_wilson_intervals() {
    let verdict = |i: usize| json!({ "id": i.to_string(), "set": "A", "correct": (i < 61).then_some(true).or((i < 164).then_some(false)) });
    let input = [given("from", "x", rows(&json!((0..166).map(verdict).collect::<Vec<_>>()).to_string()))];
    let preset = r#"summarize "s" from="x" preset="accuracy" by="set""#;
    // scipy.stats.binomtest(61, 164).proportion_ci(method="wilson")
    insta::assert_snapshot!(lines(&run(preset, &input, 9).rows[0]), @r#"{"set":"A","rows":164,"accuracy":0.3719512195121951,"ci_low":0.30170288648286164,"ci_high":0.4480609662916258,"note":"2 of 166 rows have no correct"}"#);
    let written = r#"summarize "s" from="x" { interval "l" "h" column="correct" method="wilson" level=0.99 }"#;
    insta::assert_snapshot!(lines(&run(written, &input, 9).rows[0]), @r#"{"l":0.28149367893572863,"h":0.4723667515118341,"note":"2 of 166 rows have no correct"}"#);
}

#[test]
fn bytes_do_not_depend_on_batches() {
    let node =
        r#"summarize "s" from="x" preset="perplexity" { by "variant"; interval "l" "h" column="nll" level=0.8 }"#;
    let whole = lines(&run(node, &[given("from", "x", scored(500))], 10_000).rows[0]);
    for size in [1, 3, 64] {
        assert_eq!(lines(&run(node, &[given("from", "x", scored(500))], size).rows[0]), whole);
    }
}

#[test]
fn what_is_missing_or_not_finite_is_told() {
    let columns: [(&str, arrow::array::ArrayRef); 3] = [
        ("id", Arc::new(StringArray::from(vec!["1", "2", "3", "4"]))),
        ("g", Arc::new(StringArray::from(vec![Some("a"), Some("a"), None, None]))),
        ("v", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(f64::NAN), Some(f64::INFINITY)]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, n != "id"))).unwrap();
    let node = r#"summarize "s" from="x" { by "g"; value "n" fn="count" column="v"; value "m" fn="mean" column="v"; interval "l" "h" column="v" }"#;
    let out = &run(node, &[given("from", "x", batch)], 2).rows[0];
    insta::assert_snapshot!(lines(out), @r#"
    {"g":"a","n":1,"m":1.0,"l":1.0,"h":1.0,"note":"1 of 2 rows have no v"}
    {"g":null,"n":2,"m":null,"l":null,"h":null,"note":"2 of 2 values of v are not finite"}
    "#);
    assert!(column(out, "m")[1].unwrap().is_nan() && column(out, "h")[1].unwrap().is_nan());
}

/// What groups are called takes memory as well.
#[test]
fn long_keys_are_held_within_memory() {
    let key = |i: usize| format!("{i} {}", "long ".repeat(1000));
    let all: Vec<_> = (0..100).map(|i| json!({"id": i.to_string(), "g": key(i), "v": 1.0})).collect();
    let given = [given("from", "x", rows(&serde_json::Value::from(all).to_string()))];
    let node = Node::new(r#"summarize "s" from="x" { by "g"; value "m" fn="mean" column="v" }"#, &given).unwrap();
    let with = |memory| node.run_with(RunOptions { memory, ..RunOptions::default() });
    assert_eq!(with(1 << 20).unwrap().rows[0].num_rows(), 100);
    let error = with(1 << 18).err().unwrap().to_string();
    assert!(error.contains("the values to summarize"), "{error}");
}

#[test]
fn a_skipped_cell_stays_as_a_group_of_no_rows() {
    let batch = rows(
        r#"[{"id": "1", "set": "A", "ppl": 2.5, "note": null},
            {"id": "2", "set": "B", "ppl": null, "note": "skipped: no file"},
            {"id": "3", "set": "A", "ppl": 3.5, "note": "a remark of a real row"}]"#,
    );
    let node = r#"summarize "s" from="x" { by "set"; value "n" fn="count"; value "m" fn="mean" column="ppl" }"#;
    insta::assert_snapshot!(lines(&run(node, &[given("from", "x", batch)], 2).rows[0]), @r#"
    {"set":"A","n":2,"m":3.0,"note":null}
    {"set":"B","n":0,"m":null,"note":"skipped: no file"}
    "#);
}

#[test]
fn nothing_has_no_statistics() {
    let none = scored(3).slice(0, 0);
    let whole = r#"summarize "s" from="x" { value "n" fn="count"; value "m" fn="mean" column="ppl"; value "c" fn="corpus-ppl" }"#;
    assert_eq!(
        lines(&run(whole, &[given("from", "x", none.clone())], 5).rows[0]),
        "{\"n\":0,\"m\":null,\"c\":null,\"note\":null}\n"
    );
    let grouped = r#"summarize "s" from="x" { by "variant"; value "n" fn="count" }"#;
    let out = &run(grouped, &[given("from", "x", none)], 5).rows[0];
    assert_eq!((out.num_rows(), out.schema().field(0).data_type().clone()), (0, DataType::Utf8));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let input = [given("from", "x", scored(5))];
    let refused = [
        r#"summarize "s" from="x""#,
        r#"summarize "s" from="x" { value "m" fn="mean" }"#,
        r#"summarize "s" from="x" { value "m" fn="mean" column="ppl" q=0.5 }"#,
        r#"summarize "s" from="x" { value "m" fn="quantile" column="ppl" }"#,
        r#"summarize "s" from="x" { value "m" fn="mean" column="pppl" }"#,
        r#"summarize "s" from="x" { value "m" fn="mean" column="variant" }"#,
        r#"summarize "s" from="x" { by "variant"; value "variant" fn="count" }"#,
        r#"summarize "s" from="x" { value "note" fn="count" }"#,
        r#"summarize "s" from="x" { value "c" fn="corpus-ppl" column="ppl" }"#,
        r#"summarize "s" from="x" { interval "l" "h" column="ppl" method="wilson" }"#,
        r#"summarize "s" from="x" { interval "l" "h" column="right" method="wilson" resamples=200 }"#,
        r#"summarize "s" from="x" preset="accuracy""#,
    ];
    let all: Vec<String> = refused.iter().map(|node| refusal(node, &input)).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    error [nothing-to-do]: `summarize` has no statistic
      at: needs a `value`, an `interval` or a `preset`
      help: for example `value "rows" fn="count"`, or `preset="perplexity"` for rows of `score-ppl`

    error [missing-field]: `fn="mean"` needs `column`
      at: `column` is missing here
      at: asked for here

    error [meaningless-field]: `q` means nothing to `fn="mean"`
      at: not read
      at: because of this
      help: remove `q`

    error [missing-field]: `fn="quantile"` needs `q`
      at: `q` is missing here
      at: asked for here

    error [column-missing]: `test` needs a column `pppl` that its input does not have
      at: column `pppl` is read here
      at: `x` gives `id`, `variant`, `ppl`, `nll`, `label_tokens`, `response_tokens` and `right`
      help: did you mean `ppl`?

    error [column-type]: column `variant` is text, and `summarize` needs a number or a boolean
      at: needs a number or a boolean
      at: `x` gives it as text

    error [duplicate-column]: two columns of the result are named `variant`
      at: named again here
      at: first here

    error [duplicate-column]: the column `note` is made by `summarize`
      at: another name is needed here

    error [meaningless-field]: `column` means nothing to `fn="corpus-ppl"`
      at: not read
      at: because of this
      help: remove `column`

    error [column-type]: column `ppl` is number, and `summarize` needs a boolean for Wilson's interval
      at: needs a boolean for Wilson's interval
      at: `x` gives it as number

    error [meaningless-field]: `resamples` means nothing to `method="wilson"`
      at: not read
      at: computed by a formula
      help: remove `resamples`

    error [column-missing]: `test` needs a column `correct` that its input does not have
      at: column `correct` is read here
      at: `x` gives `id`, `variant`, `ppl`, `nll`, `label_tokens`, `response_tokens` and `right`
    "#);
}

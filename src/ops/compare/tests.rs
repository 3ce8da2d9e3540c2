use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, rows_json, run};
use serde_json::{Value, json};

/// Verdicts of a method: which of 40 questions are right.
fn verdicts(set: &str, variant: &str, right: impl Fn(usize) -> bool) -> Given {
    let row = |i: usize| json!({ "id": format!("{set}:{i}"), "correct": right(i) });
    let all: Vec<Value> = (0..40).map(row).collect();
    given("from", &format!("verdicts[set={set}, variant={variant}]"), rows(&json!(all).to_string()))
}

fn skipped(name: &str) -> Given {
    let mut given = given("from", name, rows(r#"[{"id": "x"}]"#));
    given.rows = arrow::array::RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty()));
    given.skipped = Some("`a.json` does not exist".into());
    given
}

fn sweep() -> Vec<Given> {
    vec![
        verdicts("A", "human", |i| i.is_multiple_of(2)),
        verdicts("A", "gpt-4", |i| i.is_multiple_of(2) || i > 15),
        verdicts("A", "claude", |i| i % 4 == 1),
        verdicts("B", "human", |i| i < 20),
        verdicts("B", "gpt-4", |i| i < 20),
        skipped("verdicts[set=B, variant=claude]"),
    ]
}

/// The named columns of the result.
fn picked(node: &str, inputs: &[Given], columns: &[&str]) -> String {
    let ran = run(node, inputs, 7);
    let line = |row: Value| columns.iter().map(|c| row[c].to_string()).collect::<Vec<_>>().join(" ") + "\n";
    rows_json(&ran.rows[0]).into_iter().map(line).collect()
}

#[test]
fn methods_are_compared_with_the_baseline_in_each_group() {
    let node = r#"compare "c" from="x" method="variant" by="set" baseline="human""#;
    let ran = run(node, &sweep(), 7);
    // p: scipy.stats.binomtest(0, 12), (10, 30), (0, 0); adjusted: statsmodels' multipletests, holm.
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"set":"A","variant":"gpt-4","other":"human","pairs":40,"both":20,"only_this":12,"only_other":0,"neither":8,"mean":0.8,"other_mean":0.5,"difference":0.3,"ci_low":0.175,"ci_high":0.45,"test":"mcnemar","p":0.0004882812500000003,"p_adjusted":0.0014648437500000009,"verdict":"better","unpaired":0,"note":null}
    {"set":"A","variant":"claude","other":"human","pairs":40,"both":0,"only_this":10,"only_other":20,"neither":10,"mean":0.25,"other_mean":0.5,"difference":-0.25,"ci_low":-0.5,"ci_high":0.0,"test":"mcnemar","p":0.09873714670538931,"p_adjusted":0.19747429341077863,"verdict":"not significant","unpaired":0,"note":null}
    {"set":"B","variant":"gpt-4","other":"human","pairs":40,"both":20,"only_this":0,"only_other":0,"neither":20,"mean":0.5,"other_mean":0.5,"difference":0.0,"ci_low":0.0,"ci_high":0.0,"test":"mcnemar","p":1.0,"p_adjusted":1.0,"verdict":"not significant","unpaired":0,"note":null}
    {"set":"B","variant":"claude","other":"human","pairs":0,"both":null,"only_this":null,"only_other":null,"neither":null,"mean":null,"other_mean":null,"difference":null,"ci_low":null,"ci_high":null,"test":null,"p":null,"p_adjusted":null,"verdict":null,"unpaired":40,"note":"claude: skipped: `a.json` does not exist"}
    "#);
    for batch in [1, 1000] {
        assert_eq!(lines(&run(node, &sweep(), batch).rows[0]), lines(&ran.rows[0]));
    }
}

#[test]
fn every_two_methods_or_the_best_and_each_other() {
    let columns = ["set", "variant", "other", "difference", "verdict"];
    insta::assert_snapshot!(picked(r#"compare "c" from="x" method="variant" by="set""#, &sweep(), &columns), @r#"
    "A" "human" "gpt-4" -0.3 "worse"
    "A" "human" "claude" 0.25 "not significant"
    "A" "gpt-4" "claude" 0.55 "better"
    "B" "human" "gpt-4" 0.0 "not significant"
    "B" "human" "claude" null null
    "B" "gpt-4" "claude" null null
    "#);
    let best = r#"compare "c" from="x" method="variant" by="set" pairs="best" correction="bh""#;
    insta::assert_snapshot!(picked(best, &sweep(), &columns), @r#"
    "A" "gpt-4" "human" 0.3 "better"
    "A" "gpt-4" "claude" 0.55 "better"
    "B" "human" "gpt-4" 0.0 "not significant"
    "B" "human" "claude" null null
    "#);
    let worst = r#"compare "c" from="x" method="variant" by="set" pairs="best" better="lower" correction="none""#;
    insta::assert_snapshot!(picked(worst, &sweep(), &columns), @r#"
    "A" "claude" "human" -0.25 "not significant"
    "A" "claude" "gpt-4" -0.55 "better"
    "B" "human" "gpt-4" 0.0 "not significant"
    "B" "human" "claude" null null
    "#);
}

#[test]
fn questions_with_several_rows_count_once() {
    let seeds = |right: fn(usize) -> bool| -> String {
        let row = |i: usize| json!({ "id": (i / 2).to_string(), "seed": i % 2, "correct": right(i) });
        json!((0..40).map(row).collect::<Vec<_>>()).to_string()
    };
    let inputs = [
        given("from", "v[variant=a]", rows(&seeds(|i| i % 3 > 0))),
        given("from", "v[variant=b]", rows(&seeds(|i| i.is_multiple_of(4)))),
    ];
    let columns = ["pairs", "both", "difference", "test", "p", "note"];
    insta::assert_snapshot!(picked(r#"compare "c" from="x" method="variant""#, &inputs, &columns), @r#"20 null 0.4 "sign-flip" 0.000244140625 "each question is the mean of its rows (up to 2 of a method)""#);
    let apart = r#"compare "c" from="x" method="variant" { on "id" "seed" }"#;
    insta::assert_snapshot!(picked(apart, &inputs, &columns), @r#"40 6 0.4 "mcnemar" 0.0015438795089721697 null"#);
}

/// As `evaluate` gives them: an id and a number for each answer, where several are asked for.
#[test]
fn samples_are_answers_to_one_question() {
    let answer = |i: usize, samples: usize, right: bool| {
        let id = if samples > 1 { format!("q:{}#{}", i / samples, i % samples) } else { format!("q:{i}") };
        json!({ "id": id, "sample": i % samples, "correct": right })
    };
    let several: Vec<Value> = (0..40).map(|i| answer(i, 4, i % 4 > 0)).collect();
    let one: Vec<Value> = (0..10).map(|i| answer(i, 1, i < 2)).collect();
    let inputs = [
        given("from", "v[method=several]", rows(&json!(several).to_string())),
        given("from", "v[method=one]", rows(&json!(one).to_string())),
    ];
    let columns = ["pairs", "mean", "other_mean", "test", "unpaired", "note"];
    let node = r#"compare "c" from="x" method="method""#;
    let note = "each question is the mean of its rows (up to 4 of a method)";
    assert_eq!(picked(node, &inputs, &columns), format!("10 0.75 0.2 \"sign-flip\" 0 \"{note}\"\n"));
    let apart = r#"compare "c" from="x" method="method" { on "id" "sample" }"#;
    let unpaired = picked(apart, &inputs, &["pairs", "unpaired"]);
    assert_eq!(unpaired, "0 50\n", "an answer of its own has no partner");
    // An id that only looks like that of a sample is left alone.
    let named = [("a", 1), ("b", 0)].map(|(m, right)| {
        let row = |i: usize| json!({ "id": format!("q#{}", i + 5), "sample": i, "correct": right == 1 });
        given("from", &format!("v[method={m}]"), rows(&json!((0..3).map(row).collect::<Vec<_>>()).to_string()))
    });
    assert_eq!(picked(node, &named, &["pairs", "test"]), "3 \"mcnemar\"\n");
}

#[test]
fn numbers_are_compared_by_sign_flips() {
    let first = [4.54, 2.35, 4.77, 2.27, 2.67, 2.59, 3.27, 2.30, 5.13, 6.35, 9.269, 11.96];
    let second = [4.1, 2.35, 4.9, 2.0, 2.3, 2.7, 2.95, 2.1, 4.4, 6.0, 8.1, 12.5];
    let row = |(i, (m, ppl)): (usize, (&str, f64))| json!({ "id": (i % 12).to_string(), "m": m, "ppl": ppl });
    let all = first.map(|p| ("a", p)).into_iter().chain(second.map(|p| ("b", p)));
    let input = given("from", "x", rows(&json!(all.enumerate().map(row).collect::<Vec<_>>()).to_string()));
    let node = r#"compare "c" from="x" method="m" value="ppl" better="lower""#;
    // scipy.stats.permutation_test: 0.064453125; scipy.stats.bootstrap: 0.0233 to 0.4989.
    let row = &rows_json(&run(node, &[input], 5).rows[0])[0];
    assert_eq!(
        (&row["p"], &row["test"], &row["verdict"]),
        (&json!(0.064453125), &json!("sign-flip"), &json!("not significant"))
    );
    assert!((row["difference"].as_f64().unwrap() - 0.25575).abs() < 1e-12, "{row}");
    assert!(
        (row["ci_low"].as_f64().unwrap() - 0.0233).abs() < 0.01
            && (row["ci_high"].as_f64().unwrap() - 0.4989).abs() < 0.01
    );
    assert!(row.get("both").is_none(), "{row}");
}

#[test]
fn what_cannot_be_paired_or_tested_is_told() {
    let one = |m: &str, cells: &str| given("from", &format!("v[m={m}]"), rows(cells));
    let a = one("a", r#"[{"id":"1","v":1.5},{"id":"2","v":2.5},{"id":"3","v":null},{"id":"4","v":1.0}]"#);
    let b = one("b", r#"[{"id":"2","v":2.5},{"id":"3","v":1.0},{"id":"9","v":1.0}]"#);
    let c = one("c", r#"[{"id":"x","v":2.5}]"#);
    let columns = ["m", "other", "pairs", "unpaired", "p", "p_adjusted", "verdict", "note"];
    let node = r#"compare "c" from="x" method="m" value="v""#;
    insta::assert_snapshot!(picked(node, &[a.clone(), b, c], &columns), @r#"
    "a" "b" 1 4 1.0 1.0 "not significant" "a: rows without v: 1; left out, for one method lacks them: 2 questions of a, 2 of b"
    "a" "c" 0 4 null null null "a: rows without v: 1; no question in common: 3 questions of a, 1 of c"
    "b" "c" 0 4 null null null "no question in common: 3 questions of b, 1 of c"
    "#);
    insta::assert_snapshot!(picked(node, &[a], &columns), @r#""a" null 0 0 null null null "a: rows without v: 1; there is no other method to compare with""#);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = [
        r#"compare "c" from="x" method="variant" by="set" baseline="humans""#,
        r#"compare "c" from="x" method="writer""#,
        r#"compare "c" from="x" method="variant" value="set""#,
        r#"compare "c" from="x" method="variant" baseline="human" pairs="best""#,
        r#"compare "c" from="x" method="variant" { by "set" "variant" }"#,
        r#"compare "c" from="x" method="variant" on="variant""#,
    ];
    let all: Vec<String> = refused.iter().map(|node| refusal(node, &sweep())).collect();
    insta::assert_snapshot!(all.join("\n"), @"
    error [baseline-absent]: no `variant` is `humans`
      at: the method to compare with
      help: there are `human`, `gpt-4` and `claude`
      help: did you mean `human`?

    error [column-missing]: `test` has no column `writer`
      at: named here
      at: `verdicts[set=A, variant=human]` gives the rows
      help: there are `set`, `variant`, `id`, `correct` and `note`

    error [column-type]: column `set` is text, and `compare` needs a boolean or a number
      at: needs a boolean or a number

    error [meaningless-field]: `pairs` means nothing beside `baseline`
      at: not read
      at: every other method is compared with this one
      help: remove one of them

    error [duplicate-column]: column `variant` is named twice
      at: again here
      at: named here too

    error [duplicate-column]: column `variant` cannot be the method as well
      at: read as something else here
      at: named here too
    ");
    let own = given("from", "x", rows(r#"[{"id": "1", "other": "a", "correct": true}]"#));
    insta::assert_snapshot!(refusal(r#"compare "c" from="x" method="other""#, std::slice::from_ref(&own)), @"
    error [duplicate-column]: the column `other` is made by `compare`
      at: rename this one before, with `select`
    ");
    let Err(error) = Node::new(r#"compare "c" from="x" method="id" on="correct" baseline="2""#, &[own]).unwrap().run(9)
    else {
        panic!("accepted")
    };
    assert_eq!(error.to_string(), "no `id` is `2`");
}

use super::{columns, compared, words};
use crate::ops::testing_node::{Given, given, lines, refusal, rows, run};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

fn input() -> Vec<Given> {
    let json = r#"[
        {"id": "same", "response": "It is 5.", "draft": "It is 5."},
        {"id": "spaced", "response": "It  is 5 .", "draft": "It is 5."},
        {"id": "one", "response": "It is 1,234.5 dollars, isn't it?", "draft": "It is 1,234 dollars, isn't it?"},
        {"id": "none", "response": "Yes", "draft": "no!"},
        {"id": "empty", "response": "", "draft": ""},
        {"id": "written", "response": "a b", "draft": " "},
        {"id": "null", "response": "a b", "draft": null}
    ]"#;
    vec![given("from", "x", rows(json))]
}

#[test]
fn kept_inserted_and_deleted_tokens_are_counted() {
    for batch in [1, 3, 100] {
        let ran = run(r#"edit-distance "d" from="x" reference="draft" prefix="e_""#, &input(), batch);
        let shown: String =
            lines(&ran.rows[0]).lines().map(|l| l.split_once("\"draft\":").unwrap().1.to_string() + "\n").collect();
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown, @r#"
            "It is 5.","e_kept":4,"e_inserted":0,"e_deleted":0,"e_edit_ratio":0.0}
            "It is 5.","e_kept":4,"e_inserted":0,"e_deleted":0,"e_edit_ratio":0.0}
            "It is 1,234 dollars, isn't it?","e_kept":7,"e_inserted":1,"e_deleted":1,"e_edit_ratio":0.125}
            "no!","e_kept":0,"e_inserted":1,"e_deleted":2,"e_edit_ratio":1.0}
            "","e_kept":0,"e_inserted":0,"e_deleted":0,"e_edit_ratio":0.0}
            " ","e_kept":0,"e_inserted":2,"e_deleted":0,"e_edit_ratio":1.0}
            "#);
        }
        assert_eq!(ran.rejected.len(), 1);
        assert_eq!((ran.rejected[0].id.as_str(), ran.rejected[0].reason), ("null", "null-value"));
    }
}

#[test]
fn words_are_those_of_unicode() {
    assert_eq!(
        words("Don't\tpay $1,234.50 — «naïve» 你好!\n"),
        ["Don't", "pay", "$", "1,234.50", "—", "«", "naïve", "»", "你", "好", "!"]
    );
    assert_eq!(words(" \n\u{a0}"), Vec::<&str>::new());
}

#[test]
fn with_a_model_its_tokens_are_counted() {
    let pairs =
        |text: &str| Ok(text.as_bytes().chunks(2).map(|p| p.iter().fold(0, |t, b| t * 256 + u32::from(*b))).collect());
    let found = compared("abcdef", "abxxefgh", Some(&pairs)).unwrap();
    let count = |at: usize| columns(&[found])[at].as_primitive::<Int64Type>().value(0);
    assert_eq!((count(0), count(1), count(2)), (2, 1, 2));
    assert_eq!(found.ratio(), 3.0 / 7.0);
}

#[test]
fn what_is_wrong_is_said_at_plan_time() {
    let refused = |node: &str| refusal(&format!("edit-distance \"d\" from=\"x\" {node}"), &input());
    insta::assert_snapshot!(refused(""), @r#"
    error[missing-field]: `edit-distance` needs `reference`: the column that texts
                          are compared with
     --> node.kdl:1:1
      |
    1 | edit-distance "d" from="x"
      | ^^^^^^^^^^^^^^^^^ `reference` is missing
      |
      = help: write `reference=...`: the name of a column in quotes
    "#);
    insta::assert_snapshot!(refused(r#"reference="drafts" column="id2""#), @r#"
    error [column-missing]: `test` needs a column `id2` that its input does not have
      at: column `id2` is read here
      at: `x` gives `id`, `response` and `draft`
      help: did you mean `id`?
    error [column-missing]: `test` needs a column `drafts` that its input does not have
      at: column `drafts` is read here
      at: `x` gives `id`, `response` and `draft`
      help: did you mean `draft`?
    "#);
    let taken = rows(r#"[{"id": "a", "response": "r", "draft": 3, "kept": 1}]"#);
    insta::assert_snapshot!(refusal(r#"edit-distance "d" from="x" reference="draft""#, &[given("from", "x", taken)]), @r#"
    error [column-type]: column `draft` is integer, and `edit-distance` needs string
      at: needs string
      at: `x` gives it as integer
    error [duplicate-column]: the input already has a column `kept`
      at: `edit-distance` adds it
      at: `x` gives it
      help: drop or rename the column before, with `select`
    "#);
}

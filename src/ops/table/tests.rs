use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, run};
use std::path::Path;

fn cells() -> Vec<Given> {
    let cell = |n: i64, ppl: f64| rows(&format!(r#"[{{"id": "r", "rows": {n}, "mean_ppl": {ppl}}}]"#));
    let mut all = vec![
        given("from", "cell[set=GSM8K, variant=human]", cell(48, 4.541234)),
        given("from", "cell[set=GSM8K, variant=gpt-4]", cell(48, 2.35)),
        given("from", "cell[set=ECQA, variant=human]", cell(40, 51.3)),
    ];
    let mut skipped = given("from", "cell[set=ECQA, variant=gpt-4]", cell(0, 0.0).slice(0, 0));
    skipped.rows = arrow::array::RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty()));
    skipped.skipped = Some("`gpt-4.json` does not exist".into());
    all.push(skipped);
    all
}

fn published(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("published.csv");
    std::fs::write(&path, text).unwrap();
    let name = path.display().to_string();
    (folder, name)
}

const PUBLISHED: &str = "\
table,data,method,metric,value
6,GSM8K,human,perplexity,4.54
6,GSM8K,human,accuracy,0.434
6,ECQA,human,perplexity,51.3
7,ECQA,human,perplexity,51.3
";

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn cells_of_a_sweep_become_one_table() {
    let (_kept, path) = published(PUBLISHED);
    let node = format!(
        r#"table "figure" from="cell" title="Mean perplexity" {{
            formats "csv" "json" "md" "tex"
            sort "set" "-mean_ppl"
            column "set"; column "variant"; column "rows"
            column "mean_ppl" as="ppl" label="mean ppl" digits=2
            column "published_ppl"
            published {path:?} as="published_ppl" {{ on {{ set "data"; variant "method" }}; where {{ metric "perplexity" }} }}
        }}"#
    );
    let node = Node::new(&node, &cells()).unwrap();
    assert_eq!(node.resolved.files_out, ["test.csv", "test.json", "test.md", "test.tex"]);
    let ran = node.run(10).unwrap();
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"set":"ECQA","variant":"human","rows":40,"ppl":51.3,"published_ppl":51.3,"note":null}
    {"set":"ECQA","variant":"gpt-4","rows":null,"ppl":null,"published_ppl":null,"note":"skipped: `gpt-4.json` does not exist"}
    {"set":"GSM8K","variant":"human","rows":48,"ppl":4.541234,"published_ppl":4.54,"note":null}
    {"set":"GSM8K","variant":"gpt-4","rows":48,"ppl":2.35,"published_ppl":null,"note":null}
    "#);
    insta::assert_snapshot!(ran.host.presented.lock().unwrap().concat(), @"
    Mean perplexity

    set    variant  rows  mean ppl  published_ppl
    ─────  ───────  ────  ────────  ─────────────  ───
    ECQA   human      40     51.30          51.30
    ECQA   gpt-4       –         –              –  [1]
    GSM8K  human      48      4.54           4.54
    GSM8K  gpt-4      48      2.35              –

    [1] skipped: `gpt-4.json` does not exist
    ");
    let folder = ran.host.folder.path();
    insta::assert_snapshot!(read(folder, "test.csv"), @"
    set,variant,rows,ppl,published_ppl,note
    ECQA,human,40,51.3,51.3,
    ECQA,gpt-4,,,,skipped: `gpt-4.json` does not exist
    GSM8K,human,48,4.541234,4.54,
    GSM8K,gpt-4,48,2.35,,
    ");
    insta::assert_snapshot!(read(folder, "test.json"), @r#"
    [
    {"set":"ECQA","variant":"human","rows":40,"ppl":51.3,"published_ppl":51.3,"note":null},
    {"set":"ECQA","variant":"gpt-4","rows":null,"ppl":null,"published_ppl":null,"note":"skipped: `gpt-4.json` does not exist"},
    {"set":"GSM8K","variant":"human","rows":48,"ppl":4.541234,"published_ppl":4.54,"note":null},
    {"set":"GSM8K","variant":"gpt-4","rows":48,"ppl":2.35,"published_ppl":null,"note":null}
    ]
    "#);
    insta::assert_snapshot!(read(folder, "test.md"), @r"
    **Mean perplexity**

    | set   | variant | rows | mean ppl | published_ppl | note                                   |
    | ----- | ------- | ---: | -------: | ------------: | -------------------------------------- |
    | ECQA  | human   |   40 |    51.30 |         51.30 |                                        |
    | ECQA  | gpt-4   |    – |        – |             – | skipped: \`gpt-4.json\` does not exist |
    | GSM8K | human   |   48 |     4.54 |          4.54 |                                        |
    | GSM8K | gpt-4   |   48 |     2.35 |             – |                                        |
    ");
    insta::assert_snapshot!(read(folder, "test.tex"), @r"
    % \usepackage{booktabs}
    \begin{table}
    \centering
    \caption{Mean perplexity}
    \begin{tabular}{llrrrl}
      \toprule
      set & variant & rows & mean ppl & published\_ppl & note \\
      \midrule
      ECQA & human & 40 & 51.30 & 51.30 &  \\
      ECQA & gpt-4 & -- & -- & -- & skipped: \textasciigrave{}gpt-4.json\textasciigrave{} does not exist \\
      GSM8K & human & 48 & 4.54 & 4.54 &  \\
      GSM8K & gpt-4 & 48 & 2.35 & -- &  \\
      \bottomrule
    \end{tabular}
    \end{table}
    ");
}

#[test]
fn without_columns_everything_is_shown() {
    let ran = run(r#"table "t" from="cell" name="all" { formats "json" }"#, &cells(), 10);
    insta::assert_snapshot!(read(ran.host.folder.path(), "all.json"), @r#"
    [
    {"set":"GSM8K","variant":"human","id":"r","rows":48,"mean_ppl":4.541234,"note":null},
    {"set":"GSM8K","variant":"gpt-4","id":"r","rows":48,"mean_ppl":2.35,"note":null},
    {"set":"ECQA","variant":"human","id":"r","rows":40,"mean_ppl":51.3,"note":null},
    {"set":"ECQA","variant":"gpt-4","id":null,"rows":null,"mean_ppl":null,"note":"skipped: `gpt-4.json` does not exist"}
    ]
    "#);
}

#[test]
fn a_table_of_skipped_inputs_only_says_so() {
    let node = r#"table "t" from="cell" { column "set"; column "mean_ppl"; sort "mean_ppl" }"#;
    let ran = run(node, &cells()[3..], 10);
    insta::assert_snapshot!(ran.host.presented.lock().unwrap().concat(), @"
    set   mean_ppl
    ────  ────────  ───
    ECQA         –  [1]

    [1] skipped: `gpt-4.json` does not exist
    ");
}

#[test]
fn numbers_of_different_types_meet_as_floats() {
    let whole = given("from", "a", rows(r#"[{"id": "1", "n": 1}]"#));
    let broken = given("from", "b", rows(r#"[{"id": "2", "n": 1.5}]"#));
    let text = given("from", "c", rows(r#"[{"id": "3", "n": "x"}]"#));
    let ran = run(r#"table "t" from="a""#, &[whole.clone(), broken.clone()], 10);
    assert_eq!(lines(&ran.rows[0]), "{\"id\":\"1\",\"n\":1.0}\n{\"id\":\"2\",\"n\":1.5}\n");
    insta::assert_snapshot!(refusal(r#"table "t" from="a""#, &[whole, broken, text]), @"
    error [column-type]: column `n` has different types in the inputs of `test`
      at: Utf8 in `c`
      at: Float64 in `a`
      help: give the columns one type with `derive`, or leave the column out with `select`
    ");
}

#[test]
fn two_published_values_for_one_row_are_an_error() {
    let (_kept, path) = published(PUBLISHED);
    let node = format!(r#"table "t" from="cell" {{ published {path:?} {{ on {{ set "data" }} }} }}"#);
    let Err(error) = Node::new(&node, &cells()).unwrap().run(10) else { panic!("accepted") };
    assert!(error.to_string().ends_with("two values for GSM8K: 4.54 and 0.434"), "{error}");
    let (_kept, path) = published("data,value\nGSM8K,4;5\n");
    let node = format!(r#"table "t" from="cell" {{ published {path:?} {{ on {{ set "data" }} }} }}"#);
    let Err(error) = Node::new(&node, &cells()).unwrap().run(10) else { panic!("accepted") };
    assert!(error.to_string().ends_with("row 1: `4;5` is not a number"), "{error}");
}

#[test]
fn names_that_match_nothing_are_remarked() {
    let (_kept, path) = published(PUBLISHED);
    let node = format!(
        r#"table "t" from="cell" {{ published {path:?} {{ on {{ variant "data" }}; where {{ metric "perplexity" }} }} }}"#
    );
    let text = run(&node, &cells(), 10).host.presented.lock().unwrap().concat();
    assert!(text.ends_with("published: published.csv has no value for any variant\n"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_kept, path) = published(PUBLISHED);
    let refused = [
        r#"table "t" from="cell" { column "mean_pl" }"#.to_string(),
        r#"table "t" from="cell" { sort "-size" }"#.to_string(),
        r#"table "t" from="cell" { column "set"; column "variant" as="set" }"#.to_string(),
        format!(r#"table "t" from="cell" {{ published {path:?} value="values" {{ on {{ sets "datum" }} }} }}"#),
        format!(r#"table "t" from="cell" {{ published {path:?} as="set" {{ on {{ set "data" }} }} }}"#),
        r#"table "t" from="cell" { published "nowhere.csv" { on { set "data" } } }"#.to_string(),
    ];
    let all: Vec<String> = refused.iter().map(|node| refusal(node, &cells())).collect();
    insta::assert_snapshot!(all.join("\n").replace(&path, "published.csv"), @"
    error [column-missing]: `test` has no column `mean_pl` to show
      at: named here
      at: `cell[set=GSM8K, variant=human]` gives the rows
      help: there are `set`, `variant`, `id`, `rows`, `mean_ppl` and `note`
      help: did you mean `mean_ppl`?

    error [column-missing]: `test` has no column `size` to show
      at: named here
      at: `cell[set=GSM8K, variant=human]` gives the rows
      help: there are `set`, `variant`, `id`, `rows`, `mean_ppl` and `note`

    error [duplicate-column]: two columns of the table are named `set`
      at: the second one
      help: give one of them another name with `as`

    error [column-missing]: the table has no column `sets`
      at: named here
      help: there are `set`, `variant`, `id`, `rows`, `mean_ppl` and `note`
      help: did you mean `set`?
    error [column-missing]: published.csv has no column `datum`
      at: named here
      help: there are `table`, `data`, `method`, `metric` and `value`
    error [column-missing]: published.csv has no column `values`
      at: named here
      help: there are `table`, `data`, `method`, `metric` and `value`
      help: did you mean `value`?

    error [duplicate-column]: the table has a column `set` already
      at: would be made again
      help: give the published values another name with `as`

    error [file-unreadable]: cannot read the published values: nowhere.csv: No such file or directory (os error 2)
      at: named here
      help: a relative path is relative to the file that writes it; one of `-P`, to the working directory
    ");
}

#[test]
fn equal_rows_keep_their_order() {
    let many: Vec<String> = (0..50).map(|i| format!(r#"{{"id": "{i}", "k": {}}}"#, i % 2)).collect();
    let ran =
        run(r#"table "t" from="x" { sort "k" }"#, &[given("from", "x", rows(&format!("[{}]", many.join(","))))], 7);
    let ids: Vec<String> = (0..50).step_by(2).chain((1..50).step_by(2)).map(|i| i.to_string()).collect();
    let found: Vec<String> = lines(&ran.rows[0]).lines().map(|l| l.split('"').nth(3).unwrap().to_string()).collect();
    assert_eq!(found, ids);
}

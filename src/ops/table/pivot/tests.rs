use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, run};
use serde_json::{Value, json};

/// A cell of results: accuracy over seeds, its deviation and the p value of its difference from the first method.
fn cell(target: &str, set: &str, test: &str, method: &str, numbers: [f64; 3], published: Option<f64>) -> Value {
    let [accuracy, sd, p] = numbers;
    json!({
        "id": format!("{target}{set}{test}{method}"), "target": target, "train": set, "test": test, "method": method,
        "accuracy": accuracy, "sd": sd, "p": (p < 1.0).then_some(p), "paper": published, "note": null,
    })
}

fn cells() -> Vec<Value> {
    vec![
        cell("mistral", "GSM8K", "GSM8K", "groundtruth", [0.434, 0.012, 1.0], Some(0.434)),
        cell("mistral", "GSM8K", "ECQA", "groundtruth", [0.594, 0.004, 1.0], Some(0.594)),
        cell("mistral", "GSM8K", "GSM8K", "gpt-4", [0.6123, 0.0131, 0.0004], Some(0.597)),
        cell("mistral", "GSM8K", "ECQA", "gpt-4", [0.597, 0.01, 0.3], Some(0.597)),
        cell("mistral", "ECQA", "GSM8K", "groundtruth", [0.3, 0.02, 1.0], None),
        cell("mistral", "ECQA", "ECQA", "groundtruth", [0.095, 0.02, 1.0], None),
        cell("mistral", "ECQA", "GSM8K", "gpt-4", [0.341, 0.02, 0.02], None),
    ]
}

fn input(mut cells: Vec<Value>) -> Vec<Given> {
    let skipped = json!({
        "id": "s", "target": "mistral", "train": "ECQA", "test": "ECQA", "method": "gpt-4", "accuracy": null, "sd": null,
        "p": null, "paper": null, "note": "skipped: `ecqa.json` does not exist",
    });
    cells.push(skipped);
    vec![given("from", "x", rows(&json!(cells).to_string()))]
}

const TABLE: &str = r#"table "t" from="x" title="Accuracy" {
    formats "csv" "json" "md" "tex"
    column "method" label="trained on"; column "train"; column "test"; column "accuracy"; column "sd"; column "p"
    mark "accuracy" { within "train" "test" }
    stars "accuracy" p="p"
    pivot "accuracy" style="percent" digits=1 spread="sd" beside="paper" { rows "method"; columns "train" "test" }
}"#;

fn shown(node: &str, inputs: &[Given]) -> String {
    run(node, inputs, 3).host.presented.lock().unwrap().concat()
}

#[test]
fn cells_are_shown_as_in_a_paper() {
    let ran = run(TABLE, &input(cells()), 3);
    insta::assert_snapshot!(ran.host.presented.lock().unwrap().concat(), @"
    Accuracy

                                  GSM8K
                 ───────────────────────────────────────
    trained on               GSM8K                  ECQA
    ───────────  ────────────────────  ─────────────────
    groundtruth  43.4 ± 1.2 (43.4)†    59.4 ± 0.4 (59.4)
    gpt-4        61.2 ± 1.3 (59.7)***  59.7 ± 1.0 (59.7)

                                   ECQA
                 ────────────────────────────────────────
    trained on               GSM8K               ECQA
    ───────────  ──────────────────  ────────────────────
    groundtruth  30.0 ± 2.0    (–)   9.5 ± 2.0    (–)
    gpt-4        34.1 ± 2.0    (–)*                 – [1]

    cells: accuracy in % ± sd (paper)
    † more than 15% below the best accuracy of the same train and test
    * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001 (p)
    [1] skipped: `ecqa.json` does not exist
    ");
    let read = |name: &str| std::fs::read_to_string(ran.host.folder.path().join(name)).unwrap();
    insta::assert_snapshot!(read("test.md"), @r"
    **Accuracy**

    | trained on  |             GSM8K: GSM8K |       GSM8K: ECQA |         ECQA: GSM8K |       ECQA: ECQA |
    | ----------- | -----------------------: | ----------------: | ------------------: | ---------------: |
    | groundtruth | <u>43.4 ± 1.2 (43.4)</u> | 59.4 ± 0.4 (59.4) |   30.0 ± 2.0    (–) | 9.5 ± 2.0    (–) |
    | gpt-4       |  61.2 ± 1.3 (59.7)\*\*\* | 59.7 ± 1.0 (59.7) | 34.1 ± 2.0    (–)\* |          – \[1\] |

    cells: accuracy in % ± sd (paper)

    <u>underlined</u>: more than 15% below the best accuracy of the same train and test

    \* p ≤ 0.05, \*\* p ≤ 0.01, \*\*\* p ≤ 0.001 (p)

    \[1\] skipped: \`ecqa.json\` does not exist
    ");
    insta::assert_snapshot!(read("test.tex"), @r"
    % \usepackage{booktabs}
    \begin{table}
    \centering
    \caption{Accuracy}
    \begin{tabular}{lrrrr}
      \toprule
       & \multicolumn{2}{c}{GSM8K} & \multicolumn{2}{c}{ECQA} \\
      \cmidrule(lr){2-3} \cmidrule(lr){4-5}
      trained on & GSM8K & ECQA & GSM8K & ECQA \\
      \midrule
      groundtruth & \underline{43.4 $\pm$ 1.2 (43.4)} & 59.4 $\pm$ 0.4 (59.4) & 30.0 $\pm$ 2.0 (--) & 9.5 $\pm$ 2.0 (--) \\
      gpt-4 & 61.2 $\pm$ 1.3 (59.7)$^{***}$ & 59.7 $\pm$ 1.0 (59.7) & 34.1 $\pm$ 2.0 (--)$^{*}$ & --$^{[1]}$ \\
      \bottomrule
    \end{tabular}
    \par{\footnotesize cells: accuracy in \% $\pm$ sd (paper)}
    \par{\footnotesize \underline{underlined}: more than 15\% below the best accuracy of the same train and test}
    \par{\footnotesize * p $\leq$ 0.05, ** p $\leq$ 0.01, *** p $\leq$ 0.001 (p)}
    \par{\footnotesize {[}1{]} skipped: \textasciigrave{}ecqa.json\textasciigrave{} does not exist}
    \end{table}
    ");
    insta::assert_snapshot!(read("test.csv"), @"
    method,train,test,accuracy,sd,p,accuracy_behind,note
    groundtruth,GSM8K,GSM8K,0.434,0.012,,true,
    groundtruth,GSM8K,ECQA,0.594,0.004,,false,
    gpt-4,GSM8K,GSM8K,0.6123,0.0131,0.0004,false,
    gpt-4,GSM8K,ECQA,0.597,0.01,0.3,false,
    groundtruth,ECQA,GSM8K,0.3,0.02,,false,
    groundtruth,ECQA,ECQA,0.095,0.02,,false,
    gpt-4,ECQA,GSM8K,0.341,0.02,0.02,false,
    gpt-4,ECQA,ECQA,,,,,skipped: `ecqa.json` does not exist
    ");
    insta::assert_snapshot!(read("test.json"), @r#"
    [
    {"method":"groundtruth","train":"GSM8K","test":"GSM8K","accuracy":0.434,"sd":0.012,"p":null,"accuracy_behind":true,"note":null},
    {"method":"groundtruth","train":"GSM8K","test":"ECQA","accuracy":0.594,"sd":0.004,"p":null,"accuracy_behind":false,"note":null},
    {"method":"gpt-4","train":"GSM8K","test":"GSM8K","accuracy":0.6123,"sd":0.0131,"p":0.0004,"accuracy_behind":false,"note":null},
    {"method":"gpt-4","train":"GSM8K","test":"ECQA","accuracy":0.597,"sd":0.01,"p":0.3,"accuracy_behind":false,"note":null},
    {"method":"groundtruth","train":"ECQA","test":"GSM8K","accuracy":0.3,"sd":0.02,"p":null,"accuracy_behind":false,"note":null},
    {"method":"groundtruth","train":"ECQA","test":"ECQA","accuracy":0.095,"sd":0.02,"p":null,"accuracy_behind":false,"note":null},
    {"method":"gpt-4","train":"ECQA","test":"GSM8K","accuracy":0.341,"sd":0.02,"p":0.02,"accuracy_behind":false,"note":null},
    {"method":"gpt-4","train":"ECQA","test":"ECQA","accuracy":null,"sd":null,"p":null,"accuracy_behind":null,"note":"skipped: `ecqa.json` does not exist"}
    ]
    "#);
    assert_eq!(lines(&ran.rows[0]).lines().count(), 8);
    for batch in [1, 100] {
        let again = run(TABLE, &input(cells()), batch);
        assert_eq!(again.host.presented.lock().unwrap().concat(), ran.host.presented.lock().unwrap().concat());
    }
}

#[test]
fn a_plain_pivot_is_plain() {
    let node = r#"table "t" from="x" { sort "-accuracy"; pivot "accuracy" { rows "train" "method"; columns "test" } }"#;
    insta::assert_snapshot!(shown(node, &input(cells())), @"
    train  method        GSM8K    ECQA
    ─────  ───────────  ──────  ──────────
    GSM8K  gpt-4        0.6123  0.5970
    GSM8K  groundtruth  0.4340  0.5940
    ECQA   gpt-4        0.3410       – [1]
    ECQA   groundtruth  0.3000  0.0950

    [1] skipped: `ecqa.json` does not exist
    ");
    let interval =
        r#"table "t" from="x" { pivot "accuracy" { rows "train" "method"; columns "test"; interval "sd" "p" } }"#;
    insta::assert_snapshot!(shown(interval, &input(cells())), @"
    train  method                         GSM8K                     ECQA
    ─────  ───────────  ───────────────────────  ───────────────────────────
    GSM8K  groundtruth  0.4340      [0.0120, –]  0.5940      [0.0040, –]
    GSM8K  gpt-4        0.6123 [0.0131, 0.0004]  0.5970 [0.0100, 0.3000]
    ECQA   groundtruth  0.3000      [0.0200, –]  0.0950      [0.0200, –]
    ECQA   gpt-4        0.3410 [0.0200, 0.0200]                        – [1]

    cells: accuracy [sd, p]
    [1] skipped: `ecqa.json` does not exist
    ");
}

#[test]
fn marks_and_stars_stand_in_plain_tables_too() {
    let node = r#"table "t" from="x" {
        column "train"; column "test"; column "method"; column "accuracy" label="acc" digits=3; column "sd" as="deviation"
        mark "accuracy" share=0.3 as="low" { within "train" "test" }
        mark "sd" better="lower"
        stars "accuracy" p="p"
    }"#;
    insta::assert_snapshot!(shown(node, &input(cells())), @"
    train  test   method         acc     deviation
    ─────  ─────  ───────────  ────────  ─────────  ───
    GSM8K  GSM8K  groundtruth  0.434      0.01200†
    GSM8K  ECQA   groundtruth  0.594      0.00400
    GSM8K  GSM8K  gpt-4        0.612***   0.01310†
    GSM8K  ECQA   gpt-4        0.597      0.01000†
    ECQA   GSM8K  groundtruth  0.300      0.02000†
    ECQA   ECQA   groundtruth  0.095      0.02000†
    ECQA   GSM8K  gpt-4        0.341*     0.02000†
    ECQA   ECQA   gpt-4            –            –   [1]

    [1] skipped: `ecqa.json` does not exist
    † more than 30% below the best acc of the same train and test
    † more than 15% above the best deviation
    * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001 (p)
    ");
    insta::assert_snapshot!(lines(&run(node, &input(cells()), 3).rows[0]), @r#"
    {"train":"GSM8K","test":"GSM8K","method":"groundtruth","accuracy":0.434,"deviation":0.012,"low":false,"sd_behind":true,"note":null}
    {"train":"GSM8K","test":"ECQA","method":"groundtruth","accuracy":0.594,"deviation":0.004,"low":false,"sd_behind":false,"note":null}
    {"train":"GSM8K","test":"GSM8K","method":"gpt-4","accuracy":0.6123,"deviation":0.0131,"low":false,"sd_behind":true,"note":null}
    {"train":"GSM8K","test":"ECQA","method":"gpt-4","accuracy":0.597,"deviation":0.01,"low":false,"sd_behind":true,"note":null}
    {"train":"ECQA","test":"GSM8K","method":"groundtruth","accuracy":0.3,"deviation":0.02,"low":false,"sd_behind":true,"note":null}
    {"train":"ECQA","test":"ECQA","method":"groundtruth","accuracy":0.095,"deviation":0.02,"low":false,"sd_behind":true,"note":null}
    {"train":"ECQA","test":"GSM8K","method":"gpt-4","accuracy":0.341,"deviation":0.02,"low":false,"sd_behind":true,"note":null}
    {"train":"ECQA","test":"ECQA","method":"gpt-4","accuracy":null,"deviation":null,"low":null,"sd_behind":null,"note":"skipped: `ecqa.json` does not exist"}
    "#);
}

#[test]
fn a_value_on_the_line_is_not_beyond_it() {
    let of = |values: &[f64], rest: &str| {
        let row = |v: &f64| json!({ "id": v.to_string(), "v": v });
        let input = given("from", "x", rows(&json!(values.iter().map(row).collect::<Vec<_>>()).to_string()));
        let ran = run(&format!(r#"table "t" from="x" {{ mark "v" {rest} }}"#), &[input], 3);
        let found = lines(&ran.rows[0]);
        found.lines().map(|l| l.contains("true")).collect::<Vec<_>>()
    };
    assert_eq!(of(&[0.6, 0.51, 0.5099, 0.7], "share=0.15"), [false, true, true, false]);
    assert_eq!(of(&[0.6, 0.51, 0.5099], "share=0.15"), [false, false, true]);
    assert_eq!(of(&[-2.0, -2.2, -2.4], ""), [false, false, true]);
    assert_eq!(of(&[2.0, 2.3, 2.31], "better=\"lower\""), [false, false, true]);
    assert_eq!(of(&[0.0, 0.0], ""), [false, false]);
}

#[test]
fn a_cell_has_one_row() {
    let node = r#"table "t" from="x" { pivot "accuracy" { rows "method"; columns "test" } }"#;
    let Err(error) = Node::new(node, &input(cells())).unwrap().run(9) else { panic!("accepted") };
    insta::assert_snapshot!(error, @"two rows for the cell method = groundtruth, test = GSM8K; they differ in train (GSM8K and ECQA)");
}

#[test]
fn what_was_skipped_before_it_had_a_cell_is_told() {
    let mut homeless = cells();
    homeless.push(json!({ "id": "h", "train": "MATH", "test": null, "method": "gpt-4", "note": "skipped: no file" }));
    let node = r#"table "t" from="x" { pivot "accuracy" { rows "train" "method"; columns "test" } }"#;
    insta::assert_snapshot!(shown(node, &input(homeless)), @"
    train  method        GSM8K    ECQA
    ─────  ───────────  ──────  ──────────
    GSM8K  groundtruth  0.4340  0.5940
    GSM8K  gpt-4        0.6123  0.5970
    ECQA   groundtruth  0.3000  0.0950
    ECQA   gpt-4        0.3410       – [1]

    [1] skipped: `ecqa.json` does not exist
    not shown: train = MATH, method = gpt-4: skipped: no file
    ");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = [
        r#"table "t" from="x" { pivot "method" { rows "train"; columns "test" } }"#,
        r#"table "t" from="x" { pivot "accuracy" spread="std" { rows "trained"; columns "test" } }"#,
        r#"table "t" from="x" { pivot "accuracy" { rows "train"; columns "test" "train" } }"#,
        r#"table "t" from="x" { pivot "accuracy" { rows "train"; columns "test"; interval "sd" } }"#,
        r#"table "t" from="x" { pivot "sd" { rows "a"; columns "b" }; pivot "p" { rows "a"; columns "b" } }"#,
        r#"table "t" from="x" { mark "accuracy" as="sd" { within "tests" } }"#,
        r#"table "t" from="x" { stars "accuracy" }"#,
    ];
    let all: Vec<String> = refused.iter().map(|node| refusal(node, &input(cells()))).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    error [column-type]: column `method` is text, and `table` needs a number
      at: needs a number

    error [column-missing]: `test` has no column `std`
      at: named here
      at: `x` gives the rows
      help: there are `id`, `target`, `train`, `test`, `method`, `accuracy`, `sd`, `p`, `paper` and `note`
      help: did you mean `sd`?
    error [column-missing]: `test` has no column `trained`
      at: named here
      at: `x` gives the rows
      help: there are `id`, `target`, `train`, `test`, `method`, `accuracy`, `sd`, `p`, `paper` and `note`
      help: did you mean `train`?

    error [duplicate-column]: column `train` is named twice
      at: again here
      at: first here

    error [wrong-count]: `interval` names two columns, not 1
      at: low and high
      help: for example `interval "ci_low" "ci_high"`

    error [duplicate-node]: a table has one `pivot`
      at: the second one
      at: the first one
      help: write a `table` for each

    error [column-missing]: `test` has no column `tests`
      at: named here
      at: `x` gives the rows
      help: there are `id`, `target`, `train`, `test`, `method`, `accuracy`, `sd`, `p`, `paper` and `note`
      help: did you mean `test`?
    error [duplicate-column]: the table has a column `sd` already
      at: would be made again
      help: give the marks another name with `as`

    error [column-missing]: `test` has no column `p_adjusted`
      at: named here
      at: `x` gives the rows
      help: there are `id`, `target`, `train`, `test`, `method`, `accuracy`, `sd`, `p`, `paper` and `note`
    "#);
}

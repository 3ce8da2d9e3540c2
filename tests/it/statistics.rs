//! From verdicts to the table of a paper: accuracies over seeds, tests on the same questions, marks, published values.

use super::common::Sandbox;
use std::fmt::Write;

const PIPELINE: &str = r#"
pipeline "trial" seed=3
matrix "cells" {
    set "GSM8K" "ECQA"
    variant "groundtruth" "gpt-4" "minimum-change"
    seed "1" "2"
}
load "verdicts" matrix="cells" path="${set}-${variant}-${seed}.jsonl" on-missing="skip" {
    columns { correct "bool"; ppl "float" }
}
concat "all" { from "verdicts"; bind #true }
summarize "runs" from="all" preset="accuracy" { by "set" "variant" "seed" }
summarize "methods" from="runs" {
    by "set" "variant"
    value "accuracy" fn="mean" column="accuracy"
    value "sd" fn="std" column="accuracy"
}
compare "compared" from="verdicts" method="variant" by="set" baseline="groundtruth"
select "p-values" from="compared" { columns "set" "variant" "p_adjusted" }
join "cells" left="methods" right="p-values" how="left" { on "set" "variant" }
table "accuracy" from="cells" title="Accuracy, mean and deviation of two seeds" {
    formats "csv" "json" "md" "tex"
    published "published.csv" value="value" as="paper" { on { set "set"; variant "method" } }
    mark "accuracy" { within "set" }
    stars "accuracy"
    pivot "accuracy" style="percent" digits=1 spread="sd" beside="paper" { rows "variant"; columns "set" }
}
table "each-run" from="runs" {
    pivot "accuracy" style="percent" digits=1 { rows "variant" "seed"; columns "set"; interval "ci_low" "ci_high" }
}
table "differences" from="compared" {
    column "set"; column "variant"; column "pairs"; column "difference" digits=3; column "p_adjusted" digits=4
    column "verdict"
}
compare "familiarity" from="verdicts" method="variant" by="set" value="ppl" better="lower" pairs="best" correction="bh"
table "familiarity-table" from="familiarity"
"#;

/// Verdicts that look drawn and are not: a hash of the question, the method and the seed against the method's skill.
fn verdicts(set: &str, method: usize, seed: usize) -> String {
    let mut lines = String::new();
    for i in 0..200_usize {
        let draw = |salt: usize| {
            let mixed = (i * 7919 + salt * 104_729 + set.len() * 31).wrapping_mul(2_654_435_761) % 10_007;
            mixed as f64 / 10_007.0
        };
        let skill = [0.45, 0.58, 0.6][method];
        let correct = 0.8 * draw(1) + 0.2 * draw(10 + method + 3 * seed) < skill;
        let ppl = 3.0 + draw(2) - [0.0, 0.5, 0.52][method] + 0.1 * draw(20 + method + 3 * seed);
        writeln!(lines, r#"{{"id":"{set}:{i}","correct":{correct},"ppl":{ppl:.4}}}"#).expect("memory");
    }
    lines
}

fn sandbox() -> Sandbox {
    let s = Sandbox::new();
    s.write("trial.kdl", PIPELINE);
    s.write("published.csv", "set,method,value\nGSM8K,groundtruth,0.434\nGSM8K,gpt-4,0.597\nECQA,groundtruth,0.594\n");
    for set in ["GSM8K", "ECQA"] {
        for (method, variant) in ["groundtruth", "gpt-4", "minimum-change"].into_iter().enumerate() {
            for seed in 1..=2 {
                // One cell of the sweep is not there.
                if (set, variant) != ("ECQA", "minimum-change") {
                    s.write(&format!("{set}-{variant}-{seed}.jsonl"), verdicts(set, method, seed));
                }
            }
        }
    }
    s
}

#[test]
fn verdicts_become_the_table_of_a_paper() {
    let s = sandbox();
    let ran = s.run(&["run", "trial.kdl"]).exits(0);
    assert!(ran.stdout.lines().all(|l| l.chars().count() <= 80), "{}", ran.stdout);
    insta::assert_snapshot!(ran.stdout, @"
    Accuracy, mean and deviation of two seeds

    variant                     GSM8K                  ECQA
    ──────────────  ────────────────────  ─────────────────────
    groundtruth     46.5 ± 6.4 (43.4)†    44.2 ± 5.3 (59.4)†
    gpt-4           59.8 ± 7.4 (59.7)***  58.2 ± 9.5    (–)***
    minimum-change  62.5 ± 6.4    (–)***                  – [1]

    cells: accuracy in % ± sd (paper)
    † more than 15% below the best accuracy of the same set
    * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001 (p_adjusted)
    [1] there is no file `ECQA-minimum-change-1.jsonl`; there is no file `ECQA-
        minimum-change-2.jsonl`

    variant         seed              GSM8K               ECQA
    ──────────────  ────  ─────────────────  ─────────────────────
    groundtruth     1     51.0 [44.1, 57.8]  48.0 [41.2, 54.9]
    groundtruth     2     42.0 [35.4, 48.9]  40.5 [33.9, 47.4]
    gpt-4           1     54.5 [47.6, 61.3]  51.5 [44.6, 58.3]
    gpt-4           2     65.0 [58.2, 71.3]  65.0 [58.2, 71.3]
    minimum-change  1     67.0 [60.2, 73.1]                  – [1]
    minimum-change  2     58.0 [51.1, 64.6]                  – [2]

    cells: accuracy in % [ci_low, ci_high]
    [1] there is no file `ECQA-minimum-change-1.jsonl`
    [2] there is no file `ECQA-minimum-change-2.jsonl`

    set    variant         pairs  difference  p_adjusted  verdict
    ─────  ──────────────  ─────  ──────────  ──────────  ───────  ───
    GSM8K  gpt-4             200       0.133      0.0003  better   [1]
    GSM8K  minimum-change    200       0.160      0.0003  better   [1]
    ECQA   gpt-4             200       0.140      0.0003  better   [1]
    ECQA   minimum-change      0           –           –  –        [2]

    [1] each question is the mean of its rows (up to 2 of a method)
    [2] minimum-change: skipped: there is no file `ECQA-minimum-change-1.jsonl`,
        skipped: there is no file `ECQA-minimum-change-2.jsonl`

                                                         other
    set    variant         other           pairs   mean   mean  difference
    ─────  ──────────────  ──────────────  ─────  ─────  ─────  ──────────  ───
    GSM8K  minimum-change  groundtruth       200  3.019  3.540     -0.5205  [1]
    GSM8K  minimum-change  gpt-4             200  3.019  3.040     -0.0207  [1]
    ECQA   gpt-4           groundtruth       200  3.046  3.546     -0.4995  [1]
    ECQA   gpt-4           minimum-change      0      –      –           –  [2]

    set    variant         other            ci_low  ci_high  test             p
    ─────  ──────────────  ──────────────  ───────  ───────  ─────────  ───────  ───
    GSM8K  minimum-change  groundtruth     -0.5225  -0.5185  sign-flip  1.00e-4  [1]
    GSM8K  minimum-change  gpt-4           -0.0232  -0.0182  sign-flip  1.00e-4  [1]
    ECQA   gpt-4           groundtruth     -0.5022  -0.4967  sign-flip  1.00e-4  [1]
    ECQA   gpt-4           minimum-change        –        –  –                –  [2]

                                                  p
    set    variant         other           adjusted  verdict  unpaired
    ─────  ──────────────  ──────────────  ────────  ───────  ────────  ───
    GSM8K  minimum-change  groundtruth      1.00e-4  better          0  [1]
    GSM8K  minimum-change  gpt-4            1.00e-4  better          0  [1]
    ECQA   gpt-4           groundtruth      1.00e-4  better          0  [1]
    ECQA   gpt-4           minimum-change         –  –             200  [2]

    [1] each question is the mean of its rows (up to 2 of a method)
    [2] minimum-change: skipped: there is no file `ECQA-minimum-change-1.jsonl`,
        skipped: there is no file `ECQA-minimum-change-2.jsonl`
    ");
    let text = |name: &str| String::from_utf8(s.read(&format!("runs/trial/{name}"))).expect("text");
    insta::assert_snapshot!(text("accuracy.md"), @r"
    **Accuracy, mean and deviation of two seeds**

    | variant        |                    GSM8K |                     ECQA |
    | -------------- | -----------------------: | -----------------------: |
    | groundtruth    | <u>46.5 ± 6.4 (43.4)</u> | <u>44.2 ± 5.3 (59.4)</u> |
    | gpt-4          |  59.8 ± 7.4 (59.7)\*\*\* |  58.2 ± 9.5    (–)\*\*\* |
    | minimum-change |  62.5 ± 6.4    (–)\*\*\* |                  – \[1\] |

    cells: accuracy in % ± sd (paper)

    <u>underlined</u>: more than 15% below the best accuracy of the same set

    \* p ≤ 0.05, \*\* p ≤ 0.01, \*\*\* p ≤ 0.001 (p_adjusted)

    \[1\] there is no file \`ECQA-minimum-change-1.jsonl\`; there is no file \`ECQA-minimum-change-2.jsonl\`
    ");
    insta::assert_snapshot!(text("accuracy.tex"), @r"
    % \usepackage{booktabs}
    \begin{table}
    \centering
    \caption{Accuracy, mean and deviation of two seeds}
    \begin{tabular}{lrr}
      \toprule
      variant & GSM8K & ECQA \\
      \midrule
      groundtruth & \underline{46.5 $\pm$ 6.4 (43.4)} & \underline{44.2 $\pm$ 5.3 (59.4)} \\
      gpt-4 & 59.8 $\pm$ 7.4 (59.7)$^{***}$ & 58.2 $\pm$ 9.5 (--)$^{***}$ \\
      minimum-change & 62.5 $\pm$ 6.4 (--)$^{***}$ & --$^{[1]}$ \\
      \bottomrule
    \end{tabular}
    \par{\footnotesize cells: accuracy in \% $\pm$ sd (paper)}
    \par{\footnotesize \underline{underlined}: more than 15\% below the best accuracy of the same set}
    \par{\footnotesize * p $\leq$ 0.05, ** p $\leq$ 0.01, *** p $\leq$ 0.001 (p\_adjusted)}
    \par{\footnotesize {[}1{]} there is no file \textasciigrave{}ECQA-minimum-change-1.jsonl\textasciigrave{}; there is no file \textasciigrave{}ECQA-minimum-change-2.jsonl\textasciigrave{}}
    \end{table}
    ");
    insta::assert_snapshot!(text("accuracy.csv"), @"
    set,variant,accuracy,sd,paper,accuracy_behind,note,p_adjusted
    GSM8K,groundtruth,0.46499999999999997,0.0636396103067893,0.434,true,,
    GSM8K,gpt-4,0.5975,0.07424621202458748,0.597,false,,0.00029997000299970003
    GSM8K,minimum-change,0.625,0.06363961030678934,,false,,0.00029997000299970003
    ECQA,groundtruth,0.4425,0.053033008588991036,0.594,true,,
    ECQA,gpt-4,0.5825,0.09545941546018392,,false,,0.00029997000299970003
    ECQA,minimum-change,,,,,there is no file `ECQA-minimum-change-1.jsonl`; there is no file `ECQA-minimum-change-2.jsonl`,
    ");
    let rows: serde_json::Value = serde_json::from_str(&text("accuracy.json")).expect("JSON");
    assert_eq!((rows.as_array().map(Vec::len), &rows[0]["accuracy_behind"]), (Some(6), &true.into()));
}

#[test]
fn numbers_depend_on_the_rows_alone() {
    let s = sandbox();
    let files = ["differences.csv", "familiarity-table.csv", "accuracy.csv", "each-run.csv"];
    s.run(&["run", "trial.kdl"]).exits(0);
    let mut other = s.command(&["run", "trial.kdl", "--out", "other", "--store", "other-store", "--batch-rows", "7"]);
    let ran = other.env("RAYON_NUM_THREADS", "1").output().expect("the binary starts");
    super::common::Ran::from(ran).exits(0);
    for file in files {
        assert_eq!(s.read(&format!("runs/trial/{file}")), s.read(&format!("other/{file}")), "{file}");
    }
}

#[test]
fn what_cannot_be_compared_or_placed_is_said() {
    let s = sandbox();
    s.write("baseline.kdl", PIPELINE.replace(r#"baseline="groundtruth""#, r#"baseline="ground-truth""#));
    s.run(&["check", "baseline.kdl"]).exits(2).says(&[
        "baseline-absent",
        "no `variant` is `ground-truth`",
        "did you mean `groundtruth`?",
    ]);
    s.write("cell.kdl", PIPELINE.replace(r#"rows "variant" "seed""#, r#"rows "variant""#));
    s.run(&["run", "cell.kdl"]).exits(1).says(&[
        "two rows for the cell variant = groundtruth, set = GSM8K; they differ in seed (1 and 2)",
        "name what tells them apart in `rows` or `columns`",
    ]);
}

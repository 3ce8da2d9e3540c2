use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, run};

fn direct() -> Given {
    given(
        "from",
        "scored[variant=direct]",
        rows(
            r#"[{"id": "d:0", "question": "q0", "response": "a", "ppl": 2.0},
                {"id": "d:1", "question": "q1", "response": "b", "ppl": 5.0},
                {"id": "d:2", "question": "q2", "response": "c", "ppl": 3.0},
                {"id": "d:3", "question": "q3", "response": "d", "ppl": 1.0}]"#,
        ),
    )
}

fn paraphrase() -> Given {
    given(
        "from",
        "scored[variant=paraphrase]",
        rows(
            r#"[{"id": "p:0", "question": "q1", "response": "B", "ppl": 4, "words": 2},
                {"id": "p:1", "question": "q0", "response": "A", "ppl": 3, "words": 1},
                {"id": "p:2", "question": "q2", "response": "C", "ppl": 3, "words": 3}]"#,
        ),
    )
}

const PER_QUESTION: &str = r#"split-by-ppl "halves" from="scored" per="row" key="question""#;

#[test]
fn every_question_has_one_row_in_each_half() {
    let ran = run(PER_QUESTION, &[direct(), paraphrase()], 2);
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"d:0","question":"q0","response":"a","ppl":2.0,"words":null,"source":"direct"}
    {"id":"p:0","question":"q1","response":"B","ppl":4.0,"words":2,"source":"paraphrase"}
    {"id":"d:2","question":"q2","response":"c","ppl":3.0,"words":null,"source":"direct"}
    "#);
    insta::assert_snapshot!(lines(&ran.rows[1]), @r#"
    {"id":"p:1","question":"q0","response":"A","ppl":3.0,"words":1,"source":"paraphrase"}
    {"id":"d:1","question":"q1","response":"b","ppl":5.0,"words":null,"source":"direct"}
    {"id":"p:2","question":"q2","response":"C","ppl":3.0,"words":3,"source":"paraphrase"}
    "#);
    let rejected: Vec<(&str, &str, &str)> =
        ran.rejected.iter().map(|r| (r.id.as_str(), r.reason, r.message.as_str())).collect();
    assert_eq!(rejected, [("d:3", "no-counterpart", "`paraphrase` has no row with question \"q3\"")]);
}

#[test]
fn labels_name_the_inputs() {
    let node =
        r#"split-by-ppl "halves" per="row" key="question" source="writer" { from "a" "b"; labels "first" "second" }"#;
    let ran = run(node, &[direct(), paraphrase()], 10);
    assert!(lines(&ran.rows[0]).lines().next().unwrap().ends_with(r#""writer":"first"}"#));
    assert!(lines(&ran.rows[1]).lines().next().unwrap().ends_with(r#""writer":"second"}"#));
}

#[test]
fn what_cannot_be_compared_goes_to_quarantine() {
    let broken = given(
        "from",
        "broken",
        rows(
            r#"[{"id": "b:0", "question": "q0", "ppl": null}, {"id": "b:1", "question": "q1", "ppl": 1.5},
                {"id": "b:2", "question": "q1", "ppl": 1.0}, {"id": "b:3", "question": null, "ppl": 1.0}]"#,
        ),
    );
    let ran = run(PER_QUESTION, &[direct(), broken], 10);
    let rejected: Vec<String> =
        ran.rejected.iter().map(|r| format!("{} {}: {}\n", r.id, r.reason, r.message)).collect();
    insta::assert_snapshot!(rejected.concat(), @r#"
    b:2 duplicate-key: `broken` has a second row with question "q1"
    b:3 null-value: `question` has no value
    d:0 null-value: `ppl` has no value in `broken`
    b:0 null-value: `ppl` has no value in `broken`
    d:2 no-counterpart: `broken` has no row with question "q2"
    d:3 no-counterpart: `broken` has no row with question "q3"
    "#);
    assert_eq!((ran.rows[0].num_rows(), ran.rows[1].num_rows()), (1, 1));
}

fn numbered(ppl: &[&str]) -> Given {
    let row = |(i, ppl): (usize, &&str)| format!(r#"{{"id": "{i}", "ppl": {ppl}}}"#);
    given("from", "x", rows(&format!("[{}]", ppl.iter().enumerate().map(row).collect::<Vec<_>>().join(","))))
}

fn ids(batch: &arrow::array::RecordBatch) -> String {
    lines(batch).lines().map(|l| l.split('"').nth(3).unwrap().to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_quantile_takes_whole_rows_and_the_earlier_of_equals() {
    let input = numbered(&["3.0", "1.0", "2.0", "2.0", "2.0", "null", "9.5"]);
    for (quantile, lower, higher) in
        [("0.5", "1 2 3", "0 4 6"), ("0.0", "", "0 1 2 3 4 6"), ("1.0", "0 1 2 3 4 6", ""), ("0.9", "0 1 2 3 4", "6")]
    {
        for batch_rows in [1, 3, 100] {
            let ran = run(
                &format!(r#"split-by-ppl "h" from="x" quantile={quantile}"#),
                std::slice::from_ref(&input),
                batch_rows,
            );
            assert_eq!((ids(&ran.rows[0]).as_str(), ids(&ran.rows[1]).as_str()), (lower, higher), "{quantile}");
            assert_eq!(
                ran.rejected.iter().map(|r| (r.id.as_str(), r.reason)).collect::<Vec<_>>(),
                [("5", "null-value")]
            );
        }
    }
}

#[test]
fn a_threshold_belongs_to_the_higher_rows() {
    let node = Node::new(r#"split-by-ppl "h" from="x" threshold=2"#, &[numbered(&["3", "1", "2"])]).unwrap();
    assert!(!node.resolved.barrier);
    let ran = node.run(2).unwrap();
    assert_eq!((ids(&ran.rows[0]).as_str(), ids(&ran.rows[1]).as_str()), ("1", "0 2"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let two = [direct(), paraphrase()];
    let one = [direct()];
    let refused = [
        refusal(r#"split-by-ppl "h" from="x""#, &one),
        refusal(r#"split-by-ppl "h" from="x" quantile=0.5 threshold=2"#, &one),
        refusal(r#"split-by-ppl "h" from="x" quantile=0.5 key="question""#, &one),
        refusal(r#"split-by-ppl "h" from="x" quantile=0.5"#, &two),
        refusal(r#"split-by-ppl "h" from="x" per="row""#, &one),
        refusal(r#"split-by-ppl "h" from="x" per="row" column="response" source="id""#, &two),
        refusal(r#"split-by-ppl "h" from="x" per="row" key="questions" { labels "a" }"#, &two),
    ];
    insta::assert_snapshot!(refused.join("\n"), @r#"
    error [missing-field]: `split-by-ppl` needs a way to split
      at: `per`, `quantile` or `threshold` is missing here
      help: per="row" chooses between several inputs, quantile=0.5 halves one input

    error [meaningless-field]: `quantile` and `threshold` say different things
      at: one too many
      at: there is this one

    error [meaningless-field]: `key` means nothing to `quantile`
      at: not read
      at: because of this
      help: remove `key`

    error [too-many-inputs]: `quantile` and `threshold` split one input
      at: one too many
      help: per="row" chooses between several inputs; `concat` makes one of them

    error [too-few-inputs]: `per="row"` chooses between two or more inputs
      at: asks for a choice
      at: there is only this one
      help: name another input, or split this one with quantile=0.5

    error [column-type]: column `response` is text, and `split-by-ppl` needs a number
      at: needs a number
      at: `scored[variant=direct]` gives it as text
    error [column-type]: column `response` is text, and `split-by-ppl` needs a number
      at: needs a number
      at: `scored[variant=paraphrase]` gives it as text
    error [duplicate-column]: the inputs have a column `id` already
      at: would be made again
      help: give the new column another name with `source`

    error [column-missing]: `test` needs a column `questions` that its input does not have
      at: column `questions` is read here
      at: `scored[variant=direct]` gives `id`, `question`, `response` and `ppl`
      help: did you mean `question`?
    error [column-missing]: `test` needs a column `questions` that its input does not have
      at: column `questions` is read here
      at: `scored[variant=paraphrase]` gives `id`, `question`, `response`, `ppl` and `words`
      help: did you mean `question`?
    error [wrong-count]: there are 1 labels for 2 inputs
      at: one label for each input is needed
    "#);
}

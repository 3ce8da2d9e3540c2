use crate::ops::testing_node::{Given, given, refusal, rows, run};
use crate::ops::testing_node::{Node, Ran};

fn cells() -> Given {
    given(
        "from",
        "cells",
        rows(
            r#"[{"id": "1", "set": "GSM8K", "variant": "human", "ppl": 4.5, "low": 4.0, "high": 5.25, "note": null},
                {"id": "2", "set": "GSM8K", "variant": "gpt-4", "ppl": 2.25, "low": 2.0, "high": 2.5, "note": null},
                {"id": "3", "set": "ECQA", "variant": "human", "ppl": 51.5, "low": null, "high": null, "note": null},
                {"id": "4", "set": "ECQA", "variant": "gpt-4", "ppl": null, "low": null, "high": null,
                 "note": "skipped: no file"}]"#,
        ),
    )
}

fn numbers() -> Given {
    let row = |i: u32| {
        let y = if i % 10 == 3 { "null".into() } else { (f64::from(i) - 5.0).to_string() };
        format!(r#"{{"id": "{i}", "x": {}, "y": {y}, "name": "n{}"}}"#, f64::from(i * 7 % 40) / 4.0, i % 2)
    };
    given("from", "numbers", rows(&format!("[{}]", (0..40).map(row).collect::<Vec<_>>().join(","))))
}

fn presented(ran: &Ran) -> String {
    ran.host.presented.lock().unwrap().concat()
}

fn svg(ran: &Ran) -> String {
    std::fs::read_to_string(ran.host.folder.path().join("test.svg")).unwrap()
}

#[test]
fn a_bar_chart_goes_to_files_and_the_terminal() {
    let node =
        r#"plot "p" from="cells" kind="bar" x="set" series="variant" y="ppl" low="low" high="high" title="Figure""#;
    let node = Node::new(node, &[cells()]).unwrap();
    assert_eq!(node.resolved.files_out, ["test.svg", "test.png"]);
    let ran = node.run(2).unwrap();
    insta::assert_snapshot!(presented(&ran), @"
    Figure
    ppl by set

    GSM8K  human  ████▎ 4.50 [4.00, 5.25]
           gpt-4  ██▏ 2.25 [2.00, 2.50]

    ECQA   human  ████████████████████████████████████████████████ 51.50
           gpt-4  n/a

    ECQA, gpt-4: skipped: no file
    ");
    assert!(svg(&ran).contains("ECQA, gpt-4: skipped: no file"));
    let png = std::fs::read(ran.host.folder.path().join("test.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000);
}

#[test]
fn files_do_not_depend_on_batches() {
    let node = r#"plot "p" from="numbers" kind="scatter" x="x" y="y" series="name" { formats "svg" }"#;
    let once = svg(&run(node, &[numbers()], 1000));
    assert!(!once.is_empty() && once == svg(&run(node, &[numbers()], 3)));
}

#[test]
fn what_is_not_drawn_is_told() {
    let points = run(r#"plot "p" from="n" kind="line" x="x" y="y" y-scale="log""#, &[numbers()], 10);
    let told = "Not drawn: 4 without a number, 5 with a number that has no place on the axis, of 40 rows";
    assert!(svg(&points).contains(told), "{}", svg(&points));
    let counted = run(r#"plot "p" from="n" kind="histogram" x="y""#, &[numbers()], 10);
    assert!(presented(&counted).ends_with("Not drawn: 4 without a number, of 40 rows\n"), "{}", presented(&counted));
}

#[test]
fn skipped_inputs_are_named() {
    let mut skipped = given("from", "scored[variant=gpt-4]", cells().rows.slice(0, 0));
    skipped.skipped = Some("no file".into());
    let human = given("from", "scored[variant=human]", numbers().rows);
    let node = r#"plot "p" from="scored" kind="histogram" x="x" series="variant" bins=4"#;
    insta::assert_snapshot!(presented(&run(node, &[human, skipped.clone()], 10)), @"
    rows by x

    0.000 – 2.438  human  ███████████████████████████████████████████████████████ 10
                   gpt-4  0

    2.438 – 4.875  human  ███████████████████████████████████████████████████████ 10
                   gpt-4  0

    4.875 – 7.312  human  ███████████████████████████████████████████████████████ 10
                   gpt-4  0

    7.312 – 9.750  human  ███████████████████████████████████████████████████████ 10
                   gpt-4  0

    gpt-4: skipped: no file
    ");
    let bars = r#"plot "p" from="scored" kind="bar" x="variant" y="ppl""#;
    insta::assert_snapshot!(presented(&run(bars, &[skipped], 10)), @"
    ppl by variant

    gpt-4  n/a

    gpt-4: skipped: no file
    ");
}

#[test]
fn two_rows_for_one_bar_are_an_error() {
    let node = Node::new(r#"plot "p" from="cells" kind="bar" x="set" y="ppl""#, &[cells()]).unwrap();
    let Err(error) = node.run(10) else { panic!("accepted") };
    assert_eq!(error.to_string(), "two rows give a bar for GSM8K");
    let both = r#"plot "p" from="cells" kind="bar" y="ppl" { x "variant" "set"; formats "svg" }"#;
    assert!(svg(&run(both, &[cells()], 10)).contains("human / GSM8K"));
}

#[test]
fn a_legend_without_end_is_refused() {
    let all: Vec<String> = (0..201).map(|i| format!(r#"{{"id": "{i}", "x": {i}, "y": 1}}"#)).collect();
    let input = given("from", "x", rows(&format!("[{}]", all.join(","))));
    let node = Node::new(r#"plot "p" from="x" kind="scatter" x="x" y="y" series="id""#, &[input]).unwrap();
    let Err(error) = node.run(10) else { panic!("accepted") };
    assert_eq!(error.to_string(), "the chart would have 201 series, and can have 200");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = [
        r#"plot "p" from="cells" kind="bar" x="set""#,
        r#"plot "p" from="cells" kind="bar" x="set" y="ppl" low="low""#,
        r#"plot "p" from="cells" kind="bar" x="set" y="ppl" bins=3 x-scale="log""#,
        r#"plot "p" from="cells" kind="histogram" x="ppl" y="low""#,
        r#"plot "p" from="cells" kind="scatter" y="ppl" { x "low" "high" }"#,
        r#"plot "p" from="cells" kind="bar" x="sets" y="variant""#,
        r#"plot "p" from="cells" kind="line" x="set" y="ppl""#,
    ];
    let all: Vec<String> = refused.iter().map(|node| refusal(node, &[cells()])).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    error [missing-field]: `kind="bar"` needs `y`
      at: `y` is missing here
      at: asked for here

    error [missing-field]: `low` needs `high`
      at: `high` is missing

    error [meaningless-field]: `bins` means nothing to `kind="bar"`
      at: not read
      at: because of this
      help: remove `bins`
    error [meaningless-field]: `x-scale` means nothing to `kind="bar"`
      at: not read
      at: because of this
      help: remove `x-scale`

    error [meaningless-field]: `y` means nothing to `kind="histogram"`
      at: not read
      at: because of this
      help: remove `y`

    error [meaningless-field]: `kind="scatter"` has one column along `x`
      at: one too many

    error [column-missing]: `test` has no column `sets`
      at: named here
      at: `cells` gives the rows
      help: there are `id`, `set`, `variant`, `ppl`, `low`, `high` and `note`
      help: did you mean `set`?
    error [column-type]: column `variant` is text, and `plot` needs a number
      at: needs a number

    error [column-type]: column `set` is text, and `plot` needs a number
      at: needs a number
    "#);
}

//! Writing through the binary, with a small random model as a local teacher: texts that were written once are not
//! written again, and depend on nothing but their rows.

use super::common::{Ran, Sandbox, until};
use super::tiny;
use std::fmt::Write;

const PIPELINE: &str = r#"
pipeline "p" seed=1 { doc "Texts that take a while" }
param "limit" type="int" default=1000000 { doc "Rows" }
model "tiny" path="tiny"
teacher "local" kind="local" model="tiny"
load "rows" path="rows.jsonl" limit="${limit}"
teacher-generate "written" from="rows" teacher="local" prompt="ask.jinja" tolerance=0.2 {
    temperature 1.0; max-tokens 32; on-truncated "keep"; usage #true
}
filter "all" from="written" where="response <> ''"
write "file" from="all" path="written.jsonl"
"#;

const PROMPT: &str = r#"{# prompt "ask" version=1 {
    doc "Asks"
    input "question" "text" doc="What is asked"
} #}
Say: {{ question }}"#;

fn sandbox(rows: impl Iterator<Item = usize>) -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    let mut lines = String::new();
    for i in rows {
        writeln!(lines, r#"{{"id":"row-{i}","question":"What is {i}, {}?"}}"#, "really ".repeat(i * 7 % 5)).unwrap();
    }
    s.write("rows.jsonl", lines);
    s.write("ask.jinja", PROMPT);
    s.write("p.kdl", PIPELINE);
    s
}

fn written(s: &Sandbox) -> Vec<String> {
    let text = String::from_utf8(s.read("runs/p/written.jsonl")).expect("UTF-8");
    text.lines().map(str::to_string).collect()
}

#[test]
fn a_killed_writing_goes_on_and_ends_in_the_same_bytes() {
    const ROWS: usize = 1200;
    let undisturbed = sandbox(0..ROWS);
    undisturbed.run(&["run", "p.kdl"]).exits(0);
    let s = sandbox(0..ROWS);
    let (mut kills, mut seen) = (0, 0);
    for wait in [5, 60, 20, 120, 0] {
        // Killed soon after further texts are kept, so that every round gets somewhere.
        if !s.kill(&["run", "p.kdl", "--quiet"], wait, || s.journalled().1 > seen) {
            break;
        }
        kills += 1;
        let (keys, records) = s.journalled();
        assert_eq!(keys.len(), records, "a text that was kept was written again");
        seen = records;
    }
    assert!(kills >= 2, "only {kills} kills: the run is too quick for this test");
    s.run(&["run", "p.kdl"]).exits(0);
    let (keys, records) = s.journalled();
    assert_eq!((keys.len(), records), (ROWS, ROWS), "every row is written for, and none twice");
    assert_eq!(written(&s), written(&undisturbed));
    assert_eq!(s.parts(".idiolect/store"), undisturbed.parts(".idiolect/store"));
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn ctrl_c_keeps_what_was_written() {
    let s = sandbox(0..1500);
    let run = s.spawn(&["run", "p.kdl"]);
    until("texts are kept", || s.journalled().1 > 20);
    super::runs::interrupt(&run);
    Ran::from(run.wait_with_output().unwrap()).exits(130).says(&["finished rows are kept"]);
    let (keys, kept) = s.journalled();
    assert!(kept < 1500, "the run is too quick for this test");
    s.run(&["run", "p.kdl"]).exits(0);
    let (all, records) = s.journalled();
    assert!(keys.is_subset(&all));
    assert_eq!((all.len(), records), (1500, 1500));
}

#[test]
fn texts_are_found_again_when_a_limit_grows() {
    let s = sandbox(0..90);
    s.run(&["run", "p.kdl", "-P", "limit=40"]).exits(0);
    let first = written(&s);
    assert_eq!(s.journalled().1, 40);
    s.run(&["run", "p.kdl", "-P", "limit=70"]).exits(0);
    assert_eq!(written(&s)[..first.len()], first);
    assert_eq!(s.journalled().1, 70);
    // Another prompt is another question, and a text of its own.
    s.write("ask.jinja", PROMPT.replace("Say", "Tell"));
    s.run(&["run", "p.kdl", "-P", "limit=10"]).exits(0);
    assert_eq!(s.journalled().1, 80);
    assert_ne!(written(&s)[..5], first[..5]);
}

#[test]
fn a_text_does_not_depend_on_other_rows_nor_on_how_they_travel() {
    let all = sandbox(0..60);
    all.run(&["run", "p.kdl"]).exits(0);
    let lines = written(&all);
    let some = sandbox([41, 7].into_iter());
    some.run(&["run", "p.kdl", "--batch-rows", "1", "--channel-batches", "1", "--stages", "1"]).exits(0);
    let own = |i: usize| lines.iter().find(|l| l.contains(&format!("\"row-{i}\""))).expect("a text").clone();
    assert_eq!(written(&some), [own(41), own(7)]);
}

#[test]
fn what_a_target_answers_is_sampled_checked_and_chosen() {
    let s = sandbox(0..6);
    // Whatever a random model says, the marker is not in it: no sample is right.
    s.write(
        "p.kdl",
        r#"
pipeline "p" seed=1 { doc "Own answers" }
model "tiny" path="tiny"
load "questions" path="rows.jsonl"
derive "rows" from="questions" { column "gold" "1" }
initial-prediction "drafts" from="rows" model="tiny" max-tokens=8 on-truncated="keep" tolerance=1
self-sample "own" from="rows" model="tiny" check="math" samples=3 max-tokens=8
self-sample "either" from="rows" model="tiny" check="math" samples=3 max-tokens=8 fallback="question"
write "drafts-file" from="drafts" path="drafts.jsonl"
write "own-file" from="own" path="own.jsonl"
write "dropped-file" from="own.dropped" path="dropped.jsonl"
write "either-file" from="either" path="either.jsonl"
"#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    let read = |name: &str| String::from_utf8(s.read(&format!("runs/p/{name}.jsonl"))).expect("UTF-8");
    assert_eq!((read("own").lines().count(), read("dropped").lines().count()), (0, 6));
    let either = read("either");
    assert_eq!(either.lines().count(), 6);
    assert!(either.contains(r#""response":"What is 0, ?","response_passed":0"#), "{either}");
    assert!(read("drafts").lines().all(|l| l.contains("\"initial_prediction\":")));
}

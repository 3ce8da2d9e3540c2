//! Checkers and edit distances through the binary.

use super::common::Sandbox;
use super::tiny;
use idiolect::eval::answer::cases::RELEASED;
use serde_json::Value;
use std::fmt::Write;

fn rows(s: &Sandbox, file: &str) -> Vec<Value> {
    let text = String::from_utf8(s.read(file)).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Right drafts are kept as they are, wrong ones are corrected; what changed is counted in words and in tokens.
#[test]
fn drafts_are_checked_and_corrections_are_measured() {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    s.write(
        "drafts.jsonl",
        r#"{"draft":"2 + 2 = 4. Final Answer: 4","response":"2 + 2 = 4. Final Answer: 4","gold":4}
{"draft":"2 + 3 = 6. Final Answer: 6","response":"2 + 3 = 5. Final Answer: 5","gold":5}
{"draft":"I cannot say.","response":"It is 1/2. **Final Answer:** $\\frac{1}{2}$","gold":0.5}
{"draft":null,"response":"Final Answer: 7","gold":7}
{"draft":"Final Answer: 1","response":"Final Answer: 1","gold":null}
"#,
    );
    s.write(
        "p.kdl",
        r#"
pipeline "p" { doc "Drafts and their corrections" }
model "tiny" path="tiny"
load "drafts" path="drafts.jsonl"
check-answer "before" from="drafts" task="math" response="draft" prefix="draft_" { tolerance 0.2 }
check-answer "after" from="before" task="math"
filter "drafted" from="after" where="draft IS NOT NULL"
edit-distance "words" from="drafted" reference="draft"
edit-distance "tokens" from="words" reference="draft" model="tiny" prefix="token_"
write "file" from="tokens" path="checked.jsonl"
write "all" from="after" path="all.jsonl"
"#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    let all = rows(&s, "runs/p/all.jsonl");
    let verdicts: Vec<String> = all
        .iter()
        .map(|r| format!("{} {} {} {}", r["draft_extracted"], r["draft_reason"], r["extracted"], r["correct"]))
        .collect();
    assert_eq!(
        verdicts,
        [
            r#""4" null "4" true"#,
            r#""6" "wrong" "5" true"#,
            r#"null "unmarked" "0.5" true"#,
            r#"null "empty" "7" true"#
        ]
    );
    let edits: Vec<String> = rows(&s, "runs/p/checked.jsonl")
        .iter()
        .map(|r| {
            let of = |prefix: &str| {
                ["kept", "inserted", "deleted"].map(|c| r[format!("{prefix}{c}")].as_u64().expect("a count"))
            };
            format!("{:?} {} {:?}", of(""), r["edit_ratio"], of("token_"))
        })
        .collect();
    assert_eq!(
        edits,
        ["[10, 0, 0] 0.0 [26, 0, 0]", "[8, 2, 2] 0.2 [24, 2, 2]", "[1, 22, 3] 0.9259259259259259 [6, 36, 7]"]
    );
    // Every byte is a token of the tiny model.
    for row in rows(&s, "runs/p/checked.jsonl") {
        let count = |column: &str| row[column].as_u64().expect("a count") as usize;
        let text = |column: &str| row[column].as_str().expect("a text").len();
        assert_eq!(count("token_kept") + count("token_inserted"), text("response"));
        assert_eq!(count("token_kept") + count("token_deleted"), text("draft"));
    }
}

#[test]
fn our_own_answers_pass_their_checker() {
    let s = Sandbox::new();
    s.write(
        "p.kdl",
        r#"
pipeline "p" { doc "Answers of three styles" }
load "problems" dataset="grade-school"
check-answer "terse" from="problems" task="math" response="terse" gold="answer_number" prefix="terse_"
check-answer "wordy" from="terse" task="math" response="wordy" gold="answer_number" prefix="wordy_"
check-answer "awkward" from="wordy" task="math" response="awkward" gold="answer_number" extractor="boxed" prefix="awkward_"
filter "wrong" from="awkward" where="NOT (terse_correct AND wordy_correct AND awkward_correct)"
write "file" from="wrong" path="wrong.jsonl"
"#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(rows(&s, "runs/p/wrong.jsonl"), Vec::<Value>::new());
}

#[test]
fn a_column_of_another_type_is_refused_before_the_run() {
    let s = Sandbox::new();
    s.write("rows.jsonl", r#"{"response":"Final Answer: 1","gold":true,"draft":3}"#);
    s.write(
        "p.kdl",
        "load \"rows\" path=\"rows.jsonl\"\n\
         check-answer \"checked\" from=\"rows\" task=\"prose\"\n\
         check-answer \"again\" from=\"rows\" task=\"math\"\n\
         edit-distance \"edited\" from=\"rows\" reference=\"draft\"\n\
         write \"a\" from=\"again\" path=\"a.jsonl\"\nwrite \"b\" from=\"edited\" path=\"b.jsonl\"\n\
         write \"c\" from=\"checked\" path=\"c.jsonl\"\n",
    );
    s.run(&["run", "p.kdl"]).exits(2).says(&["unknown-choice", "expected `math`, `ecqa` or `code`"]);
    s.write(
        "p.kdl",
        String::from_utf8(s.read("p.kdl")).expect("UTF-8").replace("\"prose\"", "\"math\" gold=\"response\""),
    );
    s.run(&["run", "p.kdl"]).exits(2).says(&["column-type", "needs string or number", "`draft` is integer"]);
}

#[test]
fn released_answers_are_right_as_often_as_published() {
    let Some(data) = std::env::var_os("IDIOLECT_DATA").filter(|_| std::env::var_os("CI").is_none()) else {
        eprintln!("skipped: IDIOLECT_DATA names no folder of released data");
        return;
    };
    let data = std::path::PathBuf::from(data).join("speak-my-language");
    let s = Sandbox::new();
    let mut text = String::from("pipeline \"p\" { doc \"Checks of the released files\" }\n");
    for set in ["GSM8K", "MATH", "ECQA"] {
        let path = data.join(set).join("groundtruth.json");
        writeln!(
            text,
            "load \"{set}\" path={path:?} id-prefix=\"r\" {{ fields {{ gold \"answer\" }}\ncolumns {{ gold \"string\" }} }}"
        )
        .unwrap();
    }
    for (at, (set, file, column, ..)) in RELEASED.iter().enumerate() {
        let path = data.join(set).join(format!("{file}.json"));
        let task = if *set == "ECQA" { "ecqa" } else { "math" };
        writeln!(
            text,
            "load \"l{at}\" path={path:?} id-prefix=\"r\" {{ fields {{ response {column:?} }}\ncolumns {{ response \"string\" }} }}
join \"j{at}\" {{ left \"l{at}\"; right \"{set}\"; on \"id\" }}
check-answer \"c{at}\" from=\"j{at}\" task=\"{task}\"
write \"w{at}\" from=\"c{at}\" path=\"{at}.jsonl\""
        )
        .unwrap();
    }
    s.write("p.kdl", text);
    s.run(&["run", "p.kdl", "--quiet"]).exits(0);
    for (at, (set, file, column, extracted, correct)) in RELEASED.iter().enumerate() {
        let all = rows(&s, &format!("runs/p/{at}.jsonl"));
        let count = |holds: &dyn Fn(&Value) -> bool| all.iter().filter(|r| holds(r)).count();
        let found = (all.len(), count(&|r| !r["extracted"].is_null()), count(&|r| r["correct"] == true));
        assert_eq!(found, (1000, *extracted, *correct), "{set}/{file}, `{column}`");
    }
}

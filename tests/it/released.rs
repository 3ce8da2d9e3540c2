//! Data shaped like that which the paper released, with content of our own, and the recipes that read it.

use std::path::Path;
use std::process::Command;

/// Question, answer by a person, answer by a teacher, its paraphrase, minimum change.
const ROWS: [[&str; 5]; 3] = [
    [
        "A pencil costs 30 cents. What do 4 pencils cost?",
        "4x30=120c\nFinal Answer: 120",
        "One pencil costs 30 cents, so 4 pencils cost 4 * 30 = 120 cents.\nFinal Answer: 120",
        "Since each pencil is 30 cents, four of them come to 120 cents.\nFinal Answer: 120",
        "4 pencils cost 4 * 30 = 120 cents.\nFinal Answer: 120",
    ],
    [
        "Tom reads 12 pages a day. How many pages does he read in a week?",
        "wk of 12s: 84\nFinal Answer: 84",
        "A week has 7 days. Tom reads 7 * 12 = 84 pages in a week.\nFinal Answer: 84",
        "With 12 pages on each of 7 days, Tom gets through 84 pages.\nFinal Answer: 84",
        "Tom reads 12 * 7 = 84 pages in a week.\nFinal Answer: 84",
    ],
    [
        "A box holds 6 eggs. How many boxes do 30 eggs fill?",
        "30/6\nFinal Answer: 5",
        "Each box holds 6 eggs, so 30 eggs fill 30 / 6 = 5 boxes.\nFinal Answer: 5",
        "Thirty eggs, six to a box, make five full boxes.\nFinal Answer: 5",
        "30 eggs fill 30 / 6 = 5 boxes.\nFinal Answer: 5",
    ],
];

/// The files of every set, and the column of [`ROWS`] that their answers come from.
const FILES: [(&str, usize); 4] = [
    ("groundtruth", 1),
    ("openai_gpt4_data", 2),
    ("openai_direct_paraphrase_gpt4_answer", 3),
    ("mistral_minimum_change_data", 4),
];

/// Those that were released for GSM8K alone.
const OF_GSM8K: [(&str, usize); 2] = [("anthropic_Claud", 3), ("llama_minimum_change_data", 4)];

/// Writes rows, and manifests that take the place of those that come with the program.
fn write(here: &Path) {
    std::fs::create_dir_all(here.join("datasets")).expect("a folder");
    for (set, name) in [("GSM8K", "sml-gsm8k"), ("MATH", "sml-math"), ("ECQA", "sml-ecqa")] {
        let folder = here.join("data").join(set);
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut splits = String::new();
        for (file, column) in FILES.iter().chain(OF_GSM8K.iter().filter(|_| set == "GSM8K")) {
            rows(&folder.join(format!("{file}.json")), *column);
            splits += &format!(
                "split \"{file}\" rows=3 {{ file \"{file}.json\" {{ path \"../data/{set}/{file}.json\"; }}; }}\n"
            );
        }
        let manifest = format!(
            r#"dataset "{name}" {{
                summary "Rows of our own"
                license "Apache-2.0"
                columns {{
                    question "string" doc="The user turn"
                    response "string" doc="The answer"
                    initial_prediction "string" doc="What was corrected"
                }}
                fields {{ question "question"; response "answer"; initial_prediction "previous_prediction"; }}
                {splits}
            }}"#
        );
        std::fs::write(here.join("datasets").join(format!("{name}.kdl")), manifest).expect("a writable file");
    }
}

fn rows(file: &Path, column: usize) {
    let row = |r: &[&str; 5]| serde_json::json!({ "question": r[0], "answer": r[column], "previous_prediction": r[4] });
    let all: Vec<_> = ROWS.iter().map(row).collect();
    std::fs::write(file, serde_json::to_string_pretty(&all).expect("JSON")).expect("a writable file");
}

fn run(recipe: &str, here: &Path) -> (Option<i32>, String, String) {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/speak-my-language").join(recipe);
    let mut command = Command::new(env!("CARGO_BIN_EXE_idiolect"));
    command.current_dir(here).arg("run").arg(recipe);
    let output = command.args(["-P", "limit=3", "--out", "out"]).output().expect("the binary runs");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn csv(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| l.split(',').map(str::to_string).collect()).collect()
}

#[test]
fn figure_2_has_its_columns_and_says_which_cells_are_missing() {
    let here = tempfile::tempdir().expect("a temporary folder");
    write(here.path());
    let (code, stdout, stderr) = run("figure-2.kdl", here.path());
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let table = csv(&here.path().join("out/figure-2.csv"));
    let expected =
        "set,variant,student,rows,mean_ppl,median_ppl,corpus_ppl,ci_low,ci_high,response_tokens,published_ppl";
    assert!(table[0].join(",").starts_with(expected), "{:?}", table[0]);
    assert_eq!(table.len(), 1 + 3 * 7, "a line for each cell:\n{table:?}");
    let missing: Vec<&Vec<String>> = table.iter().filter(|r| r.join(",").contains("anthropic_Claud")).collect();
    assert_eq!(missing.len(), 2, "MATH and ECQA have none of Claude's answers:\n{table:?}");
    let cell = |variant: &str, column: usize| -> f64 {
        let row = table.iter().find(|r| r[0] == "GSM8K" && r[1] == variant).expect("the cell");
        row[column].parse().expect("a number")
    };
    assert_eq!(cell("groundtruth", 10), 4.54, "published under Mistral");
    assert!(cell("groundtruth", 4) > cell("gpt-4", 4), "terse notes are less familiar than full sentences");
    for file in ["figure-2-chart.svg", "figure-2-chart.png"] {
        assert!(here.path().join("out").join(file).metadata().expect("the chart").len() > 1000);
    }
}

#[test]
fn table_3_splits_every_question_between_its_two_answers() {
    let here = tempfile::tempdir().expect("a temporary folder");
    write(here.path());
    let (code, stdout, stderr) = run("table-3-data.kdl", here.path());
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let lower = csv(&here.path().join("out/lower-table.csv"));
    let higher = csv(&here.path().join("out/higher-table.csv"));
    let mean = |table: &[Vec<String>], row: usize| -> f64 {
        let column = table[0].iter().position(|c| c == "mean_ppl").expect("the column");
        table[row][column].parse().expect("a number")
    };
    for row in 1..=3 {
        assert!(mean(&lower, row) < mean(&higher, row), "{lower:?}\n{higher:?}");
    }
    for set in ["GSM8K", "MATH", "ECQA"] {
        for half in ["lower", "higher"] {
            let file = here.path().join(format!("out/{set}-smollm2-135m-instruct-{half}.parquet"));
            assert!(file.exists(), "{}", file.display());
        }
    }
}

#[test]
fn elsewhere_a_missing_file_is_an_error() {
    let here = tempfile::tempdir().expect("a temporary folder");
    write(here.path());
    std::fs::remove_file(here.path().join("data/MATH/openai_gpt4_data.json")).expect("a file that was there");
    let (code, _, stderr) = run("table-3-data.kdl", here.path());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("file-missing"), "{stderr}");
}

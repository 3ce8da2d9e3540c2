//! Code that is judged by running it, through the binary.
#![cfg(target_os = "linux")]

use super::common::{Ran, Sandbox};
use serde_json::{Value, json};
use std::path::Path;

const PIPELINE: &str = r#"
pipeline "p"
load "solutions" path="solutions.json"
check-answer "judged" from="solutions" task="code" timeout=2
write "file" from="judged" path="judged.jsonl"
"#;

fn judged(s: &Sandbox) -> Vec<Value> {
    let text = String::from_utf8(s.read("runs/p/judged.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn right(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter(|r| r["correct"] == true).filter_map(|r| r["id"].as_str()).collect()
}

/// What stands in the environment and around the pipeline is out of reach, and what is seen of it is the same each time.
#[test]
fn hostile_programs_end_as_wrong_answers_and_harm_nothing() {
    let s = Sandbox::new();
    let here = s.path("").display().to_string();
    let hostile = [
        ("secret", "import os\nprint(dict(os.environ))\nassert 'A_SECRET_KEY' in os.environ".to_string()),
        ("own-file", format!("print(open('{here}/solutions.json').read())")),
        ("write", format!("open('{here}/planted', 'w').write('x')")),
        ("delete", format!("import shutil\nshutil.rmtree('{here}')")),
        ("store", format!("import os\nprint(os.listdir('{here}/.idiolect'))")),
        ("kill", "import os\nos.kill(os.getppid(), 9)".into()),
        ("fork", "import os\nwhile True: os.fork()".into()),
        ("forged", "import os\nprint('passed')\nos._exit(0)".into()),
        ("exit", "raise SystemExit(0)".into()),
        ("network", "import socket\nsocket.create_connection(('127.0.0.1', 80))".into()),
        ("sleep", "import time\ntime.sleep(1000)".into()),
        ("shell", "import os\nassert os.system('touch planted') == 0".into()),
        ("folder", "import os\nraise ValueError(os.getcwd())".into()),
    ];
    let row = |id: &str, response: &str| json!({"id": id, "response": response, "test_list": ["assert f(1) == 1"]});
    let mut rows: Vec<Value> = hostile.iter().map(|(id, code)| row(id, code)).collect();
    rows.push(row("right", "def f(x): return x"));
    s.write("solutions.json", Value::from(rows).to_string());
    s.write("p.kdl", PIPELINE);
    let run = || {
        let mut command = s.command(&["run", "p.kdl"]);
        Ran::from(command.env("A_SECRET_KEY", "not-to-be-seen").output().unwrap()).exits(0)
    };
    run();
    let found = judged(&s);
    assert_eq!(right(&found), ["right"]);
    assert_eq!(found.len(), hostile.len() + 1);
    let text = String::from_utf8(s.read("runs/p/judged.jsonl")).unwrap();
    assert!(!text.contains("not-to-be-seen") && !text.contains("idiolect-sandbox-"), "{text}");
    assert!(!s.path("planted").exists());
    std::fs::remove_dir_all(s.path(".idiolect")).unwrap();
    run();
    assert_eq!(judged(&s), found);
}

/// Tests that no pipe holds, and a program that leaves without reading them.
#[test]
fn a_program_that_leaves_early_takes_nobody_with_it() {
    let s = Sandbox::new();
    let long = format!("# {}\nassert f(1) == 1", "x".repeat(1 << 20));
    let row = |id: &str, response: &str| json!({"id": id, "response": response, "test_list": [long]});
    let rows =
        [row("left", "import os\nos._exit(0)"), row("wrong", "raise ValueError"), row("right", "def f(x): return x")];
    s.write("solutions.json", Value::from(rows.to_vec()).to_string());
    s.write("p.kdl", PIPELINE);
    s.run(&["run", "p.kdl"]).exits(0);
    let found = judged(&s);
    assert_eq!((right(&found), found.len()), (vec!["right"], 3));
}

#[test]
fn what_is_missing_is_said_before_anything_runs() {
    let s = Sandbox::new();
    s.write("solutions.json", json!([{"id": "a", "response": "x", "test_list": ["pass"]}]).to_string());
    s.write("p.kdl", PIPELINE.replace("timeout=2", "python=\"no-such-python\""));
    s.run(&["check", "p.kdl"]).exits(0);
    s.run(&["check", "p.kdl", "--env"]).exits(2).says(&["python-missing", "`no-such-python`"]);
    s.run(&["run", "p.kdl"]).exits(2).says(&["python-missing"]);
}

/// The set comes from its package, by the product itself.
#[test]
fn the_solutions_of_humaneval_pass() {
    let s = Sandbox::new();
    s.write(
        "p.kdl",
        PIPELINE.replace("path=\"solutions.json\"", "dataset=\"humaneval\"").replace("timeout=2", "timeout=5"),
    );
    let mut command = s.command(&["run", "p.kdl"]);
    // The user's own cache, so that it is fetched once.
    command.env_remove("IDIOLECT_CACHE");
    let ran = Ran::from(command.output().unwrap());
    if ran.code != Some(0) && ran.stderr.contains("fetch") && std::env::var_os("CI").is_none() {
        eprintln!("skipped: the set is not here and cannot be fetched:\n{}", ran.stderr);
        return;
    }
    ran.exits(0);
    let rows = judged(&s);
    let wrong: Vec<&Value> = rows.iter().filter(|r| r["correct"] != true).collect();
    assert_eq!((rows.len(), wrong), (164, vec![]));
}

/// Released data: looked for beside the project, and never in CI. Reference code passes where it passes in a plain
/// interpreter, and nowhere else.
#[test]
fn reference_code_of_mbpp_passes_as_in_plain_python() {
    let data = std::env::var_os("IDIOLECT_DATA").filter(|_| std::env::var_os("CI").is_none());
    let Some(shared) = data.map(|data| Path::new(&data).join("speak-my-language/MBPP")).filter(|path| path.exists())
    else {
        eprintln!("skipped: IDIOLECT_DATA names no folder of released data");
        return;
    };
    for name in ["test", "groundtruth"] {
        let given: Value =
            serde_json::from_slice(&std::fs::read(shared.join(format!("{name}.json"))).unwrap()).unwrap();
        let rows: Vec<Value> = given
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let column = |name: &str| row[name].clone();
                json!({"id": row["task_id"].to_string(), "response": column("code"), "test_list": column("test_list"),
                "test_setup_code": column("test_setup_code"), "challenge_test_list": column("challenge_test_list")})
            })
            .collect();
        let s = Sandbox::new();
        s.write("p.kdl", PIPELINE.replace("timeout=2", "timeout=30 { marker \"no marker at all\" }"));
        s.write("solutions.json", Value::from(rows.clone()).to_string());
        s.run(&["run", "p.kdl"]).exits(0);
        let found = judged(&s);
        let plain: Vec<&str> = rows.iter().filter(|r| passes(&s, r)).filter_map(|r| r["id"].as_str()).collect();
        eprintln!("{name}: {} of {} pass in a plain interpreter", plain.len(), rows.len());
        assert_eq!(right(&found), plain);
    }
}

/// In a process of its own without a sandbox.
fn passes(s: &Sandbox, row: &Value) -> bool {
    let texts = |name: &str| row[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    let tests = [texts("test_list"), texts("challenge_test_list")].concat().join("\n");
    let [code, setup] = ["response", "test_setup_code"].map(|name| row[name].as_str().unwrap_or_default());
    s.write("plain.py", format!("{code}\n{setup}\n{tests}\n"));
    let mut python = std::process::Command::new("python3");
    python.arg(s.path("plain.py")).stdin(std::process::Stdio::null()).output().unwrap().status.success()
}

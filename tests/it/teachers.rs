//! Hosted teachers through the binary, against a server on loopback that fails on purpose: [`Teacher`] has the log.

use crate::common::{Ran, Sandbox, until};
use crate::faults::{BatchFault, Fault, Teacher};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KEY: &str = "sk-no-file-and-no-message-has-this";
/// So many calls, with so many open, in place of those that a test can afford.
const CALLS: &str = "IDIOLECT_TEACHER_CALLS";
const CONCURRENCY: &str = "IDIOLECT_TEACHER_CONCURRENCY";

/// So many questions, and a pipeline that asks them. `teacher` has fields of the declaration.
fn sandbox(server: &Teacher, rows: usize, kind: &str, teacher: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let row = |i| format!("{{\"id\":\"r{i}\",\"question\":\"What is {i}?\"}}\n");
    sandbox.write("rows.jsonl", (0..rows).map(row).collect::<String>());
    sandbox.write(
        "ask.jinja",
        "{# prompt \"ask\" version=1 {\n    doc \"Asks\"\n    input \"question\" \"text\" doc=\"The question\"\n} #}\n\
         {{ question }}",
    );
    sandbox.write("p.kdl", pipeline(server, kind, teacher));
    sandbox
}

fn pipeline(server: &Teacher, kind: &str, teacher: &str) -> String {
    format!(
        r#"
pipeline "p" seed=1
run {{ tolerance 1.0 }}
teacher "t" kind="{kind}" model="m" base-url="{}" {{
    api-key env="TEACHER_KEY"
    {teacher}
}}
load "rows" path="rows.jsonl"
teacher-generate "asked" from="rows" teacher="t" prompt="ask.jinja" max-tokens=64 temperature=0
write "out" from="asked" path="out.jsonl"
"#,
        server.url()
    )
}

fn command(sandbox: &Sandbox) -> std::process::Command {
    let mut command = sandbox.command(&["run", "p.kdl", "--out", "run"]);
    command.env("TEACHER_KEY", KEY);
    command
}

fn run(sandbox: &Sandbox) -> Ran {
    let ran: Ran = command(sandbox).output().expect("the binary starts").into();
    assert!(!ran.stderr.contains(KEY) && !ran.stdout.contains(KEY), "{}", ran.stderr);
    ran
}

fn json_lines(sandbox: &Sandbox, path: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(path)).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every row has its answer.
#[track_caller]
fn all_answered(sandbox: &Sandbox, rows: usize) {
    let out = json_lines(sandbox, "run/out.jsonl");
    assert_eq!(out.len(), rows);
    for (i, row) in out.iter().enumerate() {
        assert_eq!(row["id"], format!("r{i}"));
        assert_eq!(row["response"], Teacher::answer(&format!("What is {i}?")));
    }
}

fn times_paid(server: &Teacher) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    server.paid().into_iter().for_each(|prompt| *times.entry(prompt).or_default() += 1);
    times
}

#[test]
fn every_fault_ends_in_its_named_outcome() {
    let faults = [
        (Fault::Refusal, "refused"),
        (Fault::Filtered, "refused"),
        (Fault::Empty, "empty-answer"),
        (Fault::Truncated, "truncated"),
        (Fault::Malformed, "malformed-answer"),
        (Fault::WebPage, "malformed-answer"),
        (Fault::Huge, "malformed-answer"),
        (Fault::Cut, "unreachable"),
        (Fault::Hangup, "unreachable"),
        (Fault::Drip, "timed-out"),
        (Fault::Slow(Duration::from_secs(3)), "timed-out"),
        (Fault::Status(500, vec![]), "server-error"),
        (Fault::Status(422, vec![]), "bad-request"),
        (Fault::TooLong, "too-long"),
        (Fault::None, ""),
        (Fault::Headers(vec![("retry-after", "5".into())]), ""),
    ];
    for kind in ["openai", "anthropic"] {
        let plan: Vec<Fault> = faults.iter().map(|(fault, _)| fault.clone()).collect();
        let server = Teacher::with(move |call| {
            let number = call.prompt.trim_start_matches("What is ").trim_end_matches('?').parse::<usize>();
            plan[number.expect("the number of a row")].clone()
        });
        let server = server.start();
        let sandbox = sandbox(&server, faults.len(), kind, "retries 1; timeout 2.0");
        run(&sandbox).exits(0);
        let reasons: BTreeMap<String, String> = json_lines(&sandbox, "run/quarantine.jsonl")
            .iter()
            .map(|row| (row["id"].as_str().unwrap().to_string(), row["reason"].as_str().unwrap().to_string()))
            .collect();
        for (i, (fault, reason)) in faults.iter().enumerate() {
            let found = reasons.get(&format!("r{i}")).map_or("", String::as_str);
            assert_eq!(found, *reason, "{kind} {fault:?}");
        }
        assert_eq!(json_lines(&sandbox, "run/out.jsonl").len(), 2);
    }
}

#[test]
fn what_stops_a_run_is_named_and_the_key_stands_nowhere() {
    for (fault, code, words) in [
        (Fault::KeyRefused, "key-refused", "`TEACHER_KEY`"),
        (Fault::QuotaSpent, "quota-spent", "quota"),
        (Fault::UnknownModel, "unknown-at-provider", "`m`"),
    ] {
        let server = Teacher::with(move |_| fault.clone()).start();
        let sandbox = sandbox(&server, 3, "openai", "");
        run(&sandbox).exits(1).says(&[&format!("error[{code}]"), words]);
        for (path, bytes) in sandbox.tree("") {
            assert!(!bytes.windows(KEY.len()).any(|w| w == KEY.as_bytes()), "{path} holds the key");
        }
    }
    let sandbox = sandbox(&Teacher::with(|_| Fault::None).start(), 3, "openai", "");
    sandbox.run(&["run", "p.kdl"]).exits(1).says(&["error[secret-missing]", "`TEACHER_KEY`"]);
}

/// Kills a run when the server has done what `when` waits for.
fn kill(sandbox: &Sandbox, what: &str, when: impl FnMut() -> bool) {
    let mut child = command(sandbox).stderr(std::process::Stdio::null()).spawn().expect("the binary starts");
    until(what, when);
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
}

#[test]
fn nothing_paid_is_paid_again_after_a_kill() {
    let server = Teacher::with(|_| Fault::None).latency(Duration::from_millis(20)).start();
    let sandbox = sandbox(&server, 200, "openai", "concurrency 8");
    kill(&sandbox, "sixty answers", || server.paid().len() >= 60);
    let before = server.paid().len();
    assert!(before < 200, "{before}");
    run(&sandbox).exits(0);
    all_answered(&sandbox, 200);
    let times = times_paid(&server);
    assert_eq!(times.len(), 200);
    // Only calls whose answers no journal had yet: those open, and those that were just being written down.
    let again = times.values().filter(|n| **n > 1).count();
    assert!(again <= 16 && times.values().all(|n| *n <= 2), "{again} were paid twice");
}

#[test]
fn a_budget_stops_cleanly_and_a_greater_one_pays_only_for_the_rest() {
    let server = Teacher::with(|_| Fault::None).start();
    let teacher = |money: f64| format!("price input=10 output=30; budget money={money:?}");
    let sandbox = sandbox(&server, 60, "openai", &teacher(0.01));
    run(&sandbox).exits(1).says(&["error[budget-spent]", "of $0.01 are spent", "raise `budget`", "  teacher t: "]);
    let first = server.paid().len();
    assert!((5..60).contains(&first), "{first}");
    sandbox.write("p.kdl", pipeline(&server, "openai", &teacher(1.0)));
    run(&sandbox).exits(0).says(&[&format!("  teacher t: {} calls, ", 60 - first)]);
    all_answered(&sandbox, 60);
    assert!(times_paid(&server).values().all(|n| *n == 1));
    let spent = sandbox.events("run").into_iter().find(|e| e["event"] == "teacher_spent").expect("an event");
    assert_eq!(spent["calls"], 60 - first);
    assert!(spent["money"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_batch_is_collected_after_a_kill_and_not_sent_again() {
    for (kind, make) in [("openai", "POST /v1/batches"), ("anthropic", "POST /v1/messages/batches")] {
        let server = Teacher::with(|_| Fault::None).batches(|_| BatchFault::None).looks(1).start();
        let sandbox = sandbox(&server, 40, kind, "batch #true");
        let look = make.replace("POST", "GET");
        kill(&sandbox, "a look at the batch", || server.count(&look) >= 1);
        assert_eq!((server.count(make), server.paid().len()), (1, 0));
        run(&sandbox).exits(0).says(&["  teacher t: 40 calls, "]);
        all_answered(&sandbox, 40);
        assert_eq!(server.count(make), 1);
        assert!(times_paid(&server).values().all(|n| *n == 1));
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |n| n.parse().expect("a number"))
}

/// With `IDIOLECT_TEACHER_CALLS=10000 IDIOLECT_TEACHER_CONCURRENCY=256` and `--nocapture` it measures as well.
#[test]
fn many_calls_with_faults_all_end_and_memory_stays_flat() {
    let (calls, concurrency) = (number(CALLS, 500), number(CONCURRENCY, 32));
    let latency = Duration::from_millis(400);
    let faults = vec![
        Fault::Status(500, vec![]),
        Fault::Cut,
        Fault::Malformed,
        Fault::Empty,
        Fault::Refusal,
        Fault::Status(429, vec![("retry-after-ms", "1".into())]),
    ];
    let start = |calls: usize| {
        let server = Teacher::seeded(7, 5, faults.clone()).latency(latency).start();
        let sandbox = sandbox(&server, calls, "openai", &format!("concurrency {concurrency}"));
        let begun = Instant::now();
        let (ran, peak) = sandbox.measured(command(&sandbox));
        (server, sandbox, ran, peak, begun.elapsed())
    };
    let (_, _, _, small, _) = start(calls / 4);
    let (server, sandbox, ran, large, took) = start(calls);
    ran.exits(0);
    let (out, bad) = (json_lines(&sandbox, "run/out.jsonl"), json_lines(&sandbox, "run/quarantine.jsonl"));
    assert_eq!(out.len() + bad.len(), calls);
    assert!(bad.iter().all(|row| row["reason"] == "refused") && bad.len() < calls / 20);
    assert!(times_paid(&server).values().all(|n| *n <= 2));
    assert!(large < small + (48 << 20), "{} MiB for a quarter, {} MiB for all", small >> 20, large >> 20);
    let made = server.calls().len();
    assert!(made > calls);
    let raw = raw(calls.min(4000), concurrency, latency);
    let ours = made as f64 / took.as_secs_f64();
    eprintln!(
        "{made} calls for {calls} rows at concurrency {concurrency}: {ours:.0}/s, all of the run counted; the server gives \
         {raw:.0}/s to a raw client ({:.0} %); memory {} MiB, for a quarter {} MiB",
        100.0 * ours / raw,
        large >> 20,
        small >> 20
    );
}

/// Calls a second that a server of this latency gives to a client of plain sockets.
fn raw(calls: usize, concurrency: usize, latency: Duration) -> f64 {
    let server = Teacher::with(|_| Fault::None).latency(latency).start();
    let address = server.url().trim_start_matches("http://").trim_end_matches("/v1").to_string();
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(&address).expect("a connection");
                stream.set_nodelay(true).expect("a socket");
                loop {
                    let i = next.fetch_add(1, Ordering::SeqCst);
                    if i >= calls {
                        return;
                    }
                    let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"What is {i}?\"}}]}}");
                    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\n";
                    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(request.as_bytes()).expect("a socket");
                    read_response(&mut stream);
                }
            });
        }
    });
    calls as f64 / begun.elapsed().as_secs_f64()
}

fn read_response(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer).expect("a socket");
        assert!(n > 0, "the server hung up");
        seen.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
            if body.len() >= length.parse::<usize>().expect("a number") {
                return;
            }
        }
    }
}

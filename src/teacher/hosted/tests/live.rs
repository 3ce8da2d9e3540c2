//! One call at a time: outcomes, waits, retries, budgets, stops.

use super::faults::{Fault, Teacher as Server};
use super::*;
use crate::config::Price;
use crate::teacher::Finish;
use serde_json::{Value, json};
use std::time::Instant;

const BOTH: [Api; 2] = [Api::OpenAi, Api::Anthropic];

/// What becomes of a call to a server where always the same goes wrong.
fn always(api: Api, fault: &Fault) -> (Result<Outcome, RunError>, usize) {
    let there = fault.clone();
    let server = Server::with(move |_| there.clone()).start();
    let mut teacher = url(api, &server);
    teacher.limits.timeout = 1.0;
    teacher.limits.retries = 2;
    let outcome = Asked::hire(&teacher).ask_one("q");
    (outcome, server.calls().len())
}

#[test]
fn every_fault_has_its_named_outcome() {
    // (what goes wrong, the reason in quarantine, how often the call was made)
    let rows = [
        (Fault::Refusal, "refused", 1),
        (Fault::Filtered, "refused", 1),
        (Fault::Empty, "empty-answer", 2),
        (Fault::Malformed, "malformed-answer", 3),
        (Fault::WebPage, "malformed-answer", 3),
        (Fault::Huge, "malformed-answer", 3),
        (Fault::Cut, "unreachable", 3),
        (Fault::Hangup, "unreachable", 3),
        (Fault::Drip, "timed-out", 3),
        (Fault::Slow(Duration::from_millis(1500)), "timed-out", 3),
        (Fault::Status(500, vec![]), "server-error", 3),
        (Fault::Status(503, vec![]), "server-error", 3),
        (Fault::Status(408, vec![]), "server-error", 3),
        (Fault::Status(409, vec![]), "server-error", 3),
        (Fault::Status(425, vec![]), "server-error", 3),
        (Fault::Status(500, vec![("x-should-retry", "false".into())]), "server-error", 1),
        (Fault::Status(400, vec![]), "bad-request", 1),
        (Fault::Status(422, vec![]), "bad-request", 1),
        (Fault::Status(413, vec![]), "too-long", 1),
        (Fault::TooLong, "too-long", 1),
    ];
    for (api, (fault, reason, calls)) in BOTH.iter().flat_map(|api| rows.iter().map(move |row| (*api, row))) {
        let (outcome, made) = always(api, fault);
        let failure = outcome.unwrap().unwrap_err();
        assert_eq!((failure.reason, made), (*reason, *calls), "{api:?} {fault:?}: {}", failure.message);
    }
}

#[test]
fn what_no_call_can_survive_stops_all_with_a_named_error() {
    let moved = Fault::Moved("https://elsewhere.example/v1".into());
    let later = Fault::Status(429, vec![("retry-after", "90000".into())]);
    let rows = [
        (Fault::KeyRefused, "key-refused", "`TEST_KEY`"),
        (Fault::Status(403, vec![]), "key-refused", "403"),
        (Fault::Status(402, vec![]), "quota-spent", "402"),
        (Fault::UnknownModel, "unknown-at-provider", "`test-model`"),
        (moved, "provider-moved", "elsewhere.example"),
        (later, "rate-limited", "1500 minutes"),
    ];
    for (api, (fault, name, words)) in BOTH.iter().flat_map(|api| rows.iter().map(move |row| (*api, row))) {
        let there = fault.clone();
        let server = Server::with(move |_| there.clone()).start();
        let mut teacher = url(api, &server);
        teacher.limits.concurrency = 1;
        let asked = Asked::hire(&teacher);
        let outcomes = asked.ask(&prompts(5));
        for outcome in &outcomes {
            let error = outcome.as_ref().unwrap_err();
            assert_eq!(code(error), *name, "{api:?} {fault:?}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!format!("{error:?}").contains(KEY), "{error:?}");
        }
        assert_eq!(server.calls().len(), 1, "{api:?} {fault:?}");
        // Whoever comes later hears the same.
        assert_eq!(code(asked.ask_one("later").as_ref().unwrap_err()), *name);
    }
    let (outcome, _) = always(Api::OpenAi, &Fault::QuotaSpent);
    assert_eq!(code(&outcome.unwrap_err()), "quota-spent");
    // Where nobody listens.
    let mut teacher = declared(Api::OpenAi, Some("http://127.0.0.1:9/v1"));
    teacher.limits.retries = 1;
    let error = Asked::hire(&teacher).ask_one("q").unwrap_err();
    assert_eq!(code(&error), "teacher-unreachable");
    assert!(error.to_string().contains("http://127.0.0.1:9/v1/chat/completions cannot be reached"), "{error}");
}

#[test]
fn an_answer_has_its_text_model_tokens_and_cost() {
    for api in BOTH {
        let server = Server::with(|_| Fault::None).start();
        let mut teacher = url(api, &server);
        teacher.price = Some(Price { input: 10.0, output: 30.0, cached_input: None });
        let asked = Asked::hire(&teacher);
        let answer = asked.ask_one("why?").unwrap().unwrap();
        let (input, output) = Server::tokens("why?");
        assert_eq!((answer.text.as_str(), answer.finish), (Server::answer("why?").as_str(), Finish::Stop));
        assert_eq!(answer.model, "test-model-0001");
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (input, output));
        let cost = (input as f64 * 10.0 + output as f64 * 30.0) / 1e6;
        assert!((answer.cost.unwrap() - cost).abs() < 1e-12);
        let spent = asked.teacher.spent();
        assert_eq!((spent.calls, spent.failed, spent.input_tokens, spent.output_tokens), (1, 0, input, output));
        assert!((spent.money.unwrap() - cost).abs() < 1e-12);
        let truncated = Server::with(|_| Fault::Truncated).start();
        let answer = Asked::hire(&url(api, &truncated)).ask_one("why?").unwrap().unwrap();
        assert_eq!((answer.text.as_str(), answer.finish, answer.cost), ("answer", Finish::Length, None));
    }
}

/// The one call that a server got.
fn sent(teacher: &Hosted, server: &Server, ask: Ask) -> (Value, HashMap<String, String>) {
    let (asked, mailbox) = (Asked::hire(teacher), Mailbox::default());
    asked.teacher.submit(vec![Posted { ask, to: mailbox.address(0) }], &asked.journal).unwrap();
    mailbox.wait(Duration::from_secs(60)).unwrap().1.unwrap().unwrap();
    let call = server.calls().pop().unwrap();
    (call.body, call.headers)
}

#[test]
fn requests_say_what_was_asked() {
    let settings = Settings {
        max_tokens: 50,
        temperature: Some(0.5),
        top_p: Some(0.9),
        top_k: Some(40),
        stop: ["a", "b", "c", "d", "e"].map(|s| format!("<{s}>")).to_vec(),
    };
    let drawn = |sample| Ask { settings: Arc::new(settings.clone()), sample, ..ask("q") };
    let server = Server::with(|_| Fault::None).start();
    let mut teacher = url(Api::OpenAi, &server);
    teacher.organization = Some("org-1".into());
    teacher.headers = vec![("X-Title".into(), "mine".into())];
    let (body, headers) = sent(&teacher, &server, drawn(0));
    let seed = body["seed"].clone();
    let turns = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "q" }]);
    let expected = json!({ "model": "test-model", "messages": turns, "max_tokens": 50, "temperature": 0.5, "top_p": 0.9,
        "top_k": 40, "seed": seed, "stop": ["<a>", "<b>", "<c>", "<d>"] });
    assert_eq!(body, expected);
    assert!(seed.as_u64().unwrap() < 1 << 31);
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!((headers["openai-organization"].as_str(), headers["x-title"].as_str()), ("org-1", "mine"));
    // Another sample is drawn otherwise, the same one in the same way.
    assert_ne!(sent(&teacher, &server, drawn(1)).0["seed"], seed);
    assert_eq!(sent(&teacher, &server, drawn(0)).0["seed"], seed);
    // The declaration's members take the place of ours, and null takes them away.
    teacher.body =
        json!({ "max_completion_tokens": 9, "seed": null, "reasoning_effort": "low" }).as_object().unwrap().clone();
    let (body, _) = sent(&teacher, &server, ask("q"));
    let expected = json!({ "model": "test-model", "messages": turns, "temperature": 0.0,
        "max_completion_tokens": 9, "reasoning_effort": "low" });
    assert_eq!(body, expected);
    let (body, headers) = sent(&url(Api::Anthropic, &server), &server, drawn(0));
    let expected = json!({ "model": "test-model", "max_tokens": 50, "system": "be brief",
        "messages": [{ "role": "user", "content": "q" }], "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "stop_sequences": ["<a>", "<b>", "<c>", "<d>", "<e>"] });
    assert_eq!(body, expected);
    assert_eq!((headers["x-api-key"].as_str(), headers["anthropic-version"].as_str()), (KEY, "2023-06-01"));
    assert!(!headers.contains_key("authorization"));
}

#[test]
fn servers_that_want_another_name_for_the_limit_get_it() {
    let server = Server::with(|_| Fault::WantsCompletionTokens).start();
    let asked = Asked::hire(&url(Api::OpenAi, &server));
    assert!(asked.ask(&prompts(20)).into_iter().all(|o| o.unwrap().is_ok()));
    assert_eq!(asked.teacher.spent().retried, 0);
    let last = server.calls().pop().unwrap().body;
    assert_eq!((&last["max_completion_tokens"], &last["max_tokens"]), (&json!(50), &Value::Null));
}

#[test]
fn texts_are_cut_at_stops_that_the_server_did_not_know() {
    let server = Server::with(|_| Fault::None).start();
    let asked = Asked::hire(&url(Api::OpenAi, &server));
    let mut call = ask("q");
    let stop = ["1", "2", "3", "4", " to"].map(String::from).to_vec();
    call.settings = Arc::new(Settings { stop: stop[4..].to_vec(), ..(*call.settings).clone() });
    let mailbox = Mailbox::default();
    asked.teacher.submit(vec![Posted { ask: call, to: mailbox.address(0) }], &asked.journal).unwrap();
    let answer = mailbox.wait(Duration::from_secs(60)).unwrap().1.unwrap().unwrap();
    assert!(Server::answer("q").starts_with(&format!("{} to", answer.text)), "{}", answer.text);
}

#[test]
fn passing_faults_are_got_over_and_every_row_is_paid_once() {
    let faults = vec![
        Fault::RateLimited,
        Fault::Status(429, vec![("retry-after-ms", "30".into())]),
        Fault::Status(503, vec![("retry-after", "0.02".into())]),
        Fault::Status(529, vec![("retry-after", "0".into())]),
        Fault::Status(500, vec![]),
        Fault::Status(502, vec![]),
        Fault::Cut,
        Fault::Hangup,
    ];
    for api in BOTH {
        let server = Server::seeded(1, 50, faults.clone()).start();
        let asked = Asked::hire(&url(api, &server));
        let prompts = prompts(100);
        let outcomes = asked.ask(&prompts);
        for (prompt, outcome) in prompts.iter().zip(outcomes) {
            assert_eq!(outcome.unwrap().unwrap().text, Server::answer(prompt));
        }
        let mut paid = server.paid();
        paid.sort();
        let mut all = prompts.clone();
        all.sort();
        assert_eq!(paid, all);
        let spent = asked.teacher.spent();
        assert!(spent.retried > 0 && spent.waits > 0 && spent.lost > 0, "{spent:?}");
        assert_eq!(server.calls().len() as u64, 100 + spent.retried + spent.waits);
        assert!(server.most_open() <= 8);
    }
}

#[test]
fn a_wait_costs_no_retry_and_holds_all_calls_back() {
    let wait = || Fault::Status(429, vec![("retry-after-ms", "150".into())]);
    let server = Server::with(move |call| if call.before < 3 { wait() } else { Fault::None }).start();
    let mut teacher = url(Api::OpenAi, &server);
    (teacher.limits.retries, teacher.limits.concurrency) = (0, 1);
    let (asked, start) = (Asked::hire(&teacher), Instant::now());
    assert!(asked.ask_one("q").unwrap().is_ok());
    assert!(start.elapsed() >= Duration::from_millis(450));
    let spent = asked.teacher.spent();
    assert_eq!((spent.waits, spent.retried), (3, 0));
    assert!((0.4..=0.5).contains(&spent.waited_seconds), "{spent:?}");
}

#[test]
fn limits_that_headers_tell_are_kept() {
    // 5 are left of 600 a minute: the sixth call waits for a tenth of a second, and so on.
    let told = |left: usize| {
        let all = [("limit", "600".into()), ("remaining", left.to_string()), ("reset", "59.5s".into())];
        Fault::Headers(
            all.map(|(w, v)| {
                (
                    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]
                        [["limit", "remaining", "reset"].iter().position(|n| *n == w).unwrap()],
                    v,
                )
            })
            .to_vec(),
        )
    };
    let server = Server::with(move |_| told(5)).start();
    let mut teacher = url(Api::OpenAi, &server);
    teacher.limits.concurrency = 1;
    let (asked, start) = (Asked::hire(&teacher), Instant::now());
    assert!(asked.ask(&prompts(16)).into_iter().all(|o| o.unwrap().is_ok()));
    // The first goes freely, five are left then, and ten wait.
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
}

#[test]
fn a_budget_is_never_passed_and_stops_cleanly() {
    for api in BOTH {
        let server = Server::with(|_| Fault::None).start();
        let mut teacher = url(api, &server);
        teacher.price = Some(Price { input: 10.0, output: 30.0, cached_input: None });
        teacher.budget = Budget { money: Some(0.01), tokens: None };
        let asked = Asked::hire(&teacher);
        let outcomes = asked.ask(&prompts(60));
        let answered = outcomes.iter().filter(|o| matches!(o, Ok(Ok(_)))).count();
        let error = outcomes.iter().find_map(|o| o.as_ref().err()).unwrap();
        assert_eq!(code(error), "budget-spent");
        assert!(error.to_string().contains("of $0.01 are spent"), "{error}");
        assert_eq!(outcomes.iter().filter(|o| o.is_err()).count() + answered, 60);
        let money = asked.teacher.spent().money.unwrap();
        assert_eq!(server.paid().len(), answered);
        // A call costs about 0.0006, and the next one was feared to cost five times as much.
        assert!((0.005..=0.01).contains(&money) && answered > 8, "{money}, {answered}");
    }
    let mut teacher = declared(Api::OpenAi, Some("http://localhost:1/v1"));
    teacher.budget.money = Some(1.0);
    assert_eq!(code(&Asked::again(&teacher, &Memory::default(), QUICK).err().unwrap()), "no-price");
}

fn stop_when_open(server: &Server, calls: usize, stop: &Stop) {
    while server.most_open() < calls {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.set();
}

#[test]
fn a_stop_lets_calls_on_their_way_finish() {
    let server = Server::with(|_| Fault::None).latency(Duration::from_millis(400)).start();
    let mut teacher = url(Api::OpenAi, &server);
    teacher.limits.concurrency = 3;
    let asked = Asked::hire(&teacher);
    let outcomes = std::thread::scope(|scope| {
        scope.spawn(|| stop_when_open(&server, 3, &asked.stop));
        asked.ask(&prompts(10))
    });
    assert_eq!(outcomes.iter().filter(|o| matches!(o, Ok(Ok(_)))).count(), 3, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| matches!(o, Err(RunError::Interrupted))).count(), 7, "{outcomes:?}");
    assert_eq!(server.paid().len(), 3);
    assert!(matches!(asked.ask_one("later"), Err(RunError::Interrupted)));
    // Not for ever.
    let server = Server::with(|_| Fault::Slow(Duration::from_secs(4))).start();
    let pace = Pace { grace: Duration::from_millis(50), ..QUICK };
    let asked = Asked::again(&url(Api::OpenAi, &server), &Memory::default(), pace).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| stop_when_open(&server, 1, &asked.stop));
        assert!(matches!(asked.ask_one("q"), Err(RunError::Interrupted)));
    });
    assert_eq!(server.paid(), [""; 0]);
    assert_eq!(asked.teacher.spent().lost, 1);
}

#[test]
fn nobody_is_asked_for_who_has_gone_away() {
    let server = Server::with(|_| Fault::None).latency(Duration::from_millis(50)).start();
    let mut teacher = url(Api::OpenAi, &server);
    teacher.limits.concurrency = 1;
    let asked = Asked::hire(&teacher);
    let mailbox = Mailbox::default();
    let posted = |(at, prompt): (usize, &String)| Posted { ask: ask(prompt), to: mailbox.address(at) };
    let all = prompts(20);
    asked.teacher.submit(all.iter().enumerate().map(posted).collect(), &asked.journal).unwrap();
    drop(mailbox);
    assert!(asked.ask_one("last").unwrap().is_ok());
    assert!(server.calls().len() <= 3, "{}", server.calls().len());
}

#[test]
fn a_key_is_asked_for_by_the_name_of_its_variable() {
    let mut teacher = declared(Api::OpenAi, Some("http://localhost:1/v1"));
    teacher.api_key_env.as_mut().unwrap().value = "NOT_SET".into();
    let error = Asked::again(&teacher, &Memory::default(), QUICK).err().unwrap();
    assert_eq!(code(&error), "secret-missing");
    assert!(error.to_string().contains("`NOT_SET`"), "{error}");
}

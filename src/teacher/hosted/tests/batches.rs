//! Calls that go together: made, looked at, collected, found again.

use super::faults::{BatchFault, Fault, Settings as Plan, Teacher as Server};
use super::*;
use crate::config::Price;

const BOTH: [(Api, &str, &str); 2] = [
    (Api::OpenAi, "POST /v1/batches", "GET /v1/batches"),
    (Api::Anthropic, "POST /v1/messages/batches", "GET /v1/messages/batches"),
];

fn batched(api: Api, server: &Server) -> Hosted {
    Hosted { batch: true, ..url(api, server) }
}

fn good() -> Plan {
    Server::with(|_| Fault::None)
}

#[track_caller]
fn all_answered(prompts: &[String], outcomes: Vec<Result<Outcome, RunError>>) {
    for (prompt, outcome) in prompts.iter().zip(outcomes) {
        assert_eq!(outcome.unwrap().unwrap().text, Server::answer(prompt));
    }
}

#[track_caller]
fn paid_once(server: &Server, prompts: &[String]) {
    let (mut paid, mut all) = (server.paid(), prompts.to_vec());
    paid.sort();
    all.sort();
    assert_eq!(paid, all);
}

#[test]
fn calls_go_together_and_come_back_with_tokens_and_cost() {
    for (api, make, _) in BOTH {
        let server = good().start();
        let mut teacher = batched(api, &server);
        teacher.price = Some(Price { input: 5.0, output: 15.0, cached_input: None });
        teacher.budget.money = Some(1.0);
        let asked = Asked::hire(&teacher);
        let prompts = prompts(30);
        let outcomes = asked.ask(&prompts);
        let answer = outcomes[3].as_ref().unwrap().as_ref().unwrap();
        let (input, output) = Server::tokens("question 3");
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (input, output));
        assert!((answer.cost.unwrap() - (input as f64 * 5.0 + output as f64 * 15.0) / 1e6).abs() < 1e-12);
        all_answered(&prompts, outcomes);
        paid_once(&server, &prompts);
        assert_eq!(server.count(make), 1);
        assert!(server.calls().iter().all(|call| call.in_batch));
        let spent = asked.teacher.spent();
        assert_eq!((spent.calls, spent.failed, spent.open_batches), (30, 0, 0));
        assert!(spent.money.unwrap() > 0.0);
        // The same request as that of a single call.
        let single = good().start();
        Asked::hire(&url(api, &single)).ask_one("question 3").unwrap().unwrap();
        let same = server.calls().into_iter().find(|c| c.prompt == "question 3").unwrap();
        assert_eq!(same.body, single.calls()[0].body);
    }
}

#[test]
fn lines_that_fail_have_the_outcomes_of_single_calls() {
    for (api, make, _) in BOTH {
        let plan = |call: &faults::Call| match (call.prompt.as_str(), call.before) {
            ("question 0", _) => Fault::Refusal,
            ("question 1", _) => Fault::TooLong,
            ("question 2", 0) | ("question 3", _) => Fault::Status(500, vec![]),
            ("question 4", _) => Fault::Empty,
            _ => Fault::None,
        };
        let server = Server::with(plan).start();
        let mut teacher = batched(api, &server);
        teacher.limits.retries = 2;
        let outcomes = Asked::hire(&teacher).ask(&prompts(6));
        let reasons: Vec<_> =
            outcomes.iter().map(|o| o.as_ref().unwrap().as_ref().map_or_else(|f| f.reason, |_| "")).collect();
        assert_eq!(reasons, ["refused", "too-long", "", "server-error", "empty-answer", ""], "{api:?}");
        assert_eq!(server.count(make), 3);
    }
}

#[test]
fn what_a_batch_has_not_done_is_sent_again() {
    for (api, make, _) in BOTH {
        let server = good().batches(|n| if n == 0 { BatchFault::Expired(4) } else { BatchFault::None }).start();
        let prompts = prompts(10);
        all_answered(&prompts, Asked::hire(&batched(api, &server)).ask(&prompts));
        paid_once(&server, &prompts);
        assert_eq!(server.count(make), 2);
        let server = good().batches(|_| BatchFault::Expired(0)).start();
        let mut teacher = batched(api, &server);
        teacher.limits.retries = 1;
        let failure = Asked::hire(&teacher).ask_one("q").unwrap().unwrap_err();
        assert_eq!(failure.reason, "batch-expired");
    }
}

#[test]
fn a_batch_that_is_cancelled_ends_the_run_and_the_next_one_sends_the_rest() {
    for (api, make, _) in BOTH {
        let server = good().batches(|n| if n == 0 { BatchFault::Cancelled(4) } else { BatchFault::None }).start();
        let (teacher, journal, prompts) = (batched(api, &server), Memory::default(), prompts(10));
        let outcomes = Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts);
        assert_eq!(outcomes.iter().filter(|o| matches!(o, Ok(Ok(_)))).count(), 4);
        assert_eq!(code(outcomes.iter().find_map(|o| o.as_ref().err()).unwrap()), "batch-cancelled");
        let rest: Vec<String> =
            prompts.iter().zip(&outcomes).filter(|(_, o)| o.is_err()).map(|(p, _)| p.clone()).collect();
        all_answered(&rest, Asked::again(&teacher, &journal, QUICK).unwrap().ask(&rest));
        paid_once(&server, &prompts);
        assert_eq!(server.count(make), 2);
    }
}

#[test]
fn a_batch_whose_making_nobody_heard_of_is_found() {
    for (api, make, _) in BOTH {
        // Others make batches too.
        let plan = |n| if n == 2 { BatchFault::Unheard } else { BatchFault::None };
        let server = good().batches(plan).start();
        let teacher = batched(api, &server);
        for other in ["a", "b"] {
            Asked::hire(&teacher).ask_one(other).unwrap().unwrap();
        }
        let prompts = prompts(5);
        all_answered(&prompts, Asked::hire(&teacher).ask(&prompts));
        assert_eq!(server.count(make), 3);
        assert_eq!(server.paid().len(), 7);
    }
}

/// A process that is killed leaves its journal, and batches go on.
#[test]
fn a_batch_is_collected_by_the_next_process_and_not_sent_again() {
    for (api, make, look) in BOTH {
        let server = good().looks(1).start();
        let (teacher, journal, prompts) = (batched(api, &server), Memory::default(), prompts(12));
        // Never looks again, as one that was killed.
        let killed = Pace { look: Duration::from_secs(1000), ..QUICK };
        let asked = Asked::again(&teacher, &journal, killed).unwrap();
        let mailbox = submitted(&asked, &prompts);
        while server.count(look) < 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(mailbox.look().is_none());
        // Only some of the calls are asked for now, and the rest later.
        let next = Asked::again(&teacher, &journal, QUICK).unwrap();
        all_answered(&prompts[..5], next.ask(&prompts[..5]));
        let spent = next.teacher.spent();
        assert_eq!((spent.calls, spent.retried), (5, 0));
        assert!(spent.output_tokens > 0);
        all_answered(&prompts[5..], Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts[5..]));
        assert_eq!(server.count(make), 1);
        paid_once(&server, &prompts);
        drop((asked, mailbox));
    }
}

fn submitted(asked: &Asked, prompts: &[String]) -> Mailbox<Outcome> {
    let mailbox = Mailbox::default();
    let posted = |(at, prompt): (usize, &String)| Posted { ask: ask(prompt), to: mailbox.address(at) };
    asked.teacher.submit(prompts.iter().enumerate().map(posted).collect(), &asked.journal).unwrap();
    asked.teacher.flush();
    mailbox
}

/// Killed between the making and the note of it: the nonce tells.
#[test]
fn a_batch_that_was_made_and_not_noted_is_found_by_its_nonce() {
    for (api, make, _) in BOTH {
        let server = good().looks(1).start();
        let (teacher, journal, prompts) = (batched(api, &server), Memory::default(), prompts(6));
        let killed = Pace { look: Duration::from_secs(1000), ..QUICK };
        let asked = Asked::again(&teacher, &journal, killed).unwrap();
        let mailbox = submitted(&asked, &prompts);
        while server.count(make) < 1 || !journal.forget(|note| note.get("batch").is_some()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        all_answered(&prompts, Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts));
        assert_eq!(server.count(make), 1);
        paid_once(&server, &prompts);
        drop((asked, mailbox));
    }
}

/// Killed between the note and the making.
#[test]
fn a_batch_that_was_never_made_is_made_by_the_next_process() {
    for (api, make, _) in BOTH {
        let server = good().batches(|n| if n == 0 { BatchFault::Refused } else { BatchFault::None }).start();
        let (teacher, journal, prompts) = (batched(api, &server), Memory::default(), prompts(6));
        let outcomes = Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts);
        assert_eq!(code(outcomes[0].as_ref().unwrap_err()), "batch-refused");
        assert!(server.paid().is_empty());
        all_answered(&prompts, Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts));
        assert_eq!(server.count(make), 2);
        paid_once(&server, &prompts);
    }
}

#[test]
fn a_batch_that_is_refused_when_it_is_read() {
    // One of its lines: that row, and the others go again.
    let server = good().batches(|n| if n == 0 { BatchFault::Invalid(Some(3)) } else { BatchFault::None }).start();
    let outcomes = Asked::hire(&batched(Api::OpenAi, &server)).ask(&prompts(5));
    let failed: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().unwrap().as_ref().err()).collect();
    assert_eq!((failed.len(), failed[0].reason), (1, "bad-request"));
    assert_eq!(server.paid().len(), 4);
    // As a whole: the end.
    let server = good().batches(|_| BatchFault::Invalid(None)).start();
    let error = Asked::hire(&batched(Api::OpenAi, &server)).ask_one("q").unwrap_err();
    assert_eq!(code(&error), "batch-refused");
    assert!(error.to_string().contains("not like this"), "{error}");
    // Too much for now: less, and later.
    let server = good().batches(|n| if n < 2 { BatchFault::QueueFull } else { BatchFault::None }).start();
    let prompts = prompts(8);
    all_answered(&prompts, Asked::hire(&batched(Api::OpenAi, &server)).ask(&prompts));
    paid_once(&server, &prompts);
    assert!(server.count("POST /v1/batches") >= 4);
}

#[test]
fn a_stop_leaves_batches_to_the_next_run() {
    for (api, make, look) in BOTH {
        let server = good().looks(20).start();
        let (teacher, journal, prompts) = (batched(api, &server), Memory::default(), prompts(7));
        let asked = Asked::again(&teacher, &journal, QUICK).unwrap();
        let outcomes = std::thread::scope(|scope| {
            scope.spawn(|| {
                while server.count(look) < 2 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                asked.stop.set();
            });
            asked.ask(&prompts)
        });
        assert!(outcomes.iter().all(|o| matches!(o, Err(RunError::Interrupted))));
        let spent = asked.teacher.spent();
        assert_eq!((spent.open_batches, spent.open_calls), (1, 7));
        all_answered(&prompts, Asked::again(&teacher, &journal, QUICK).unwrap().ask(&prompts));
        assert_eq!(server.count(make), 1);
        paid_once(&server, &prompts);
    }
}

#[test]
fn a_budget_bounds_batches_and_the_rest_waits_for_what_is_left() {
    let server = good().start();
    let mut teacher = batched(Api::OpenAi, &server);
    // A call takes about 25 tokens, and is feared to take about 200.
    teacher.budget.tokens = Some(1000);
    let asked = Asked::hire(&teacher);
    let outcomes = asked.ask(&prompts(100));
    let answered = outcomes.iter().filter(|o| matches!(o, Ok(Ok(_)))).count();
    assert_eq!(code(outcomes.iter().find_map(|o| o.as_ref().err()).unwrap()), "budget-spent");
    let spent = asked.teacher.spent();
    assert!(spent.input_tokens + spent.output_tokens <= 1000 && answered > 20, "{spent:?}");
    assert_eq!(server.paid().len(), answered);
    assert!(server.count("POST /v1/batches") > 1);
}

#[test]
fn a_batch_that_the_provider_does_not_know_is_not_paid_again() {
    let (first, other) = (good().start(), good().start());
    let (journal, prompts) = (Memory::default(), prompts(2));
    let killed = Pace { look: Duration::from_secs(1000), ..QUICK };
    let asked = Asked::again(&batched(Api::OpenAi, &first), &journal, killed).unwrap();
    let mailbox = submitted(&asked, &prompts);
    while first.count("GET /v1/batches") < 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let outcomes = Asked::again(&batched(Api::OpenAi, &other), &journal, QUICK).unwrap().ask(&prompts);
    assert_eq!(code(outcomes[0].as_ref().unwrap_err()), "batch-gone");
    assert_eq!(other.count("POST"), 0);
    drop(mailbox);
}

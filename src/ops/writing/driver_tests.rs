use super::testing::{Scripted, last_turn, refused, said};
use super::{Cell, InRow, NewRow, RowTask, Step, Task, drive, one};
use crate::exec::{NodeCx, RunError};
use crate::model::Address;
use crate::ops::rows::id_field;
use crate::ops::testing::{MemoryHost, MemoryJournal};
use crate::store::Journal;
use crate::teacher::{Ask, Failure, Outcome, Posted, Row, Settings, Teacher};
use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Asks a row's question; asks once more when the answer says so.
struct Asking {
    question: String,
    again: bool,
}

fn ask(question: &str, sample: u32) -> Ask {
    let settings = Settings { max_tokens: 9, temperature: Some(1.0), top_p: None, top_k: None, stop: Vec::new() };
    let messages = vec![("user".to_string(), question.to_string())];
    Ask { messages, settings: Arc::new(settings), sample, seed: 7, row: Arc::new(Row::default()) }
}

impl RowTask for Asking {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        match one(last) {
            None => Step::ask(ask(&self.question, 0)),
            Some(Ok(answer)) if answer.text.ends_with('3') && !self.again => {
                self.again = true;
                Step::ask(ask(&format!("{} once more", answer.text), 0))
            }
            Some(Ok(answer)) => Step::row(vec![Cell::Text(answer.text)]),
            Some(Err(failure)) => Step::Reject(failure),
        }
    }
}

fn asking(row: &InRow) -> Result<Vec<Task<'static>>, Failure> {
    Ok(vec![Box::new(Asking { question: row.need_text("question")?.to_string(), again: false })])
}

fn questions(texts: impl Iterator<Item = Option<String>>) -> RecordBatch {
    let texts: Vec<_> = texts.collect();
    let ids: StringArray = (0..texts.len()).map(|i| Some(format!("r{i}"))).collect();
    let schema = Schema::new(vec![id_field(), Field::new("question", DataType::Utf8, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(StringArray::from(texts))]).unwrap()
}

fn numbered(count: usize) -> RecordBatch {
    questions((0..count).map(|i| (i % 17 != 5).then(|| format!("question {i}"))))
}

fn host(rows: &RecordBatch, batch: usize, journal: &Arc<MemoryJournal>) -> Arc<MemoryHost> {
    let pieces = (0..rows.num_rows()).step_by(batch).map(|at| rows.slice(at, batch.min(rows.num_rows() - at)));
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("answer", DataType::Utf8, false)));
    let mut host = MemoryHost::new(vec![("from", pieces.collect())], vec![Arc::new(Schema::new(fields))]);
    host.journal = journal.clone();
    host.options.batch_rows = 10;
    Arc::new(host)
}

/// Every row that came out, and every one that was rejected, in order.
fn given(host: &MemoryHost) -> (Vec<Value>, Vec<String>) {
    let emitted = host.emitted.lock().unwrap();
    let rows = emitted[0].iter().flat_map(crate::ops::testing_node::rows_json).collect();
    let rejected = host.rejected.lock().unwrap();
    (rows, rejected.iter().map(|r| format!("{} {} {}", r.id, r.reason, r.message)).collect())
}

type Run = Result<(Vec<Value>, Vec<String>), RunError>;

fn run(rows: &RecordBatch, batch: usize, teacher: &Arc<Scripted>, journal: &Arc<MemoryJournal>) -> Run {
    let host = host(rows, batch, journal);
    let cx: NodeCx = host.clone();
    drive(&cx, teacher.clone(), &asking).map(|()| given(&host))
}

fn grumpy() -> Scripted {
    Scripted::new(|ask| match last_turn(ask).ends_with('7') {
        true => refused(ask),
        false => Ok(said(&format!("answer to {}", last_turn(ask)))),
    })
}

#[test]
fn rows_come_out_in_order_whatever_the_order_of_the_answers() {
    let rows = numbered(120);
    let expected = run(&rows, 120, &Arc::new(Scripted { at_once: 1, ..grumpy() }), &Arc::default()).unwrap();
    assert_eq!(expected.0.len() + expected.1.len(), 120);
    assert_eq!(expected.0[0]["answer"], "answer to question 0");
    assert_eq!(expected.0[3]["answer"], "answer to answer to question 3 once more");
    assert_eq!(expected.1[..2], ["r5 null-value `question` is null", "r7 refused will not answer question 7"]);
    for (window, at_once, order, batch) in [(1, 1, 1, 7), (5, 5, 3, 120), (64, 50, 17, 1), (1000, 7, 5, 30)] {
        let teacher = Arc::new(Scripted { window, at_once, order, ..grumpy() });
        assert_eq!(run(&rows, batch, &teacher, &Arc::default()).unwrap(), expected, "window {window}, order {order}");
        assert!(teacher.state.lock().unwrap().most_open <= window);
    }
}

#[test]
fn what_was_answered_is_not_asked_again_when_the_teacher_had_failed() {
    let rows = numbered(200);
    let expected = run(&rows, 200, &Arc::new(Scripted::default()), &Arc::default()).unwrap();
    let journal = Arc::default();
    let first = Arc::new(Scripted { fails_after: 50, ..Scripted::default() });
    let error = run(&rows, 64, &first, &journal).unwrap_err().to_string();
    assert_eq!(error, "the account is empty");
    let second = Arc::new(Scripted::default());
    assert_eq!(run(&rows, 64, &second, &journal).unwrap(), expected);
    let all = expected.0.len() + expected.0.iter().filter(|r| r["answer"].as_str().unwrap().contains("more")).count();
    assert_eq!(second.asked().len(), all - 50);
    let third = Arc::new(Scripted::default());
    assert_eq!(run(&rows, 9, &third, &journal).unwrap(), expected);
    assert_eq!(third.asked(), [""; 0]);
}

#[test]
fn the_same_question_is_asked_once_unless_answers_are_recorded() {
    let rows = questions((0..60).map(|i| Some(format!("question {}", i % 3))));
    let teacher = Arc::new(Scripted::default());
    assert_eq!(run(&rows, 60, &teacher, &Arc::default()).unwrap().0.len(), 60);
    assert_eq!(teacher.asked(), ["question 0", "question 1", "question 2"]);
    // A recording may have another answer for each row.
    let teacher = Arc::new(Scripted { recorded: true, ..Scripted::default() });
    assert_eq!(run(&rows, 60, &teacher, &Arc::default()).unwrap().0.len(), 60);
    assert_eq!(teacher.asked().len(), 60);
}

#[test]
fn a_slow_row_holds_back_so_many_others_and_no_more() {
    let rows = questions((0..3000).map(|i| Some(format!("question {i}"))));
    let journal = Arc::default();
    let host = host(&rows, 100, &journal);
    let cx: NodeCx = host.clone();
    let teacher = Arc::new(Slow::default());
    drive(&cx, teacher.clone(), &asking).unwrap();
    assert_eq!(given(&host).0.len(), 3000);
    let state = teacher.0.lock().unwrap();
    assert_eq!(state.before_flush, 4 * 4 + 1024, "as many as may wait behind the first");
}

/// Answers everything at once but the first question, which it answers when it hears that nothing more is coming.
#[derive(Default)]
struct Slow(Mutex<SlowState>);

#[derive(Default)]
struct SlowState {
    first: Option<Address<Outcome>>,
    taken: usize,
    before_flush: usize,
}

impl Teacher for Slow {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        let mut state = self.0.lock().unwrap();
        for Posted { ask, to } in calls {
            let question = last_turn(&ask);
            state.taken += usize::from(!question.contains("more"));
            match question == "question 0" {
                true => state.first = Some(to),
                false => to.answer(Ok(said(question))),
            }
        }
        Ok(())
    }
    fn flush(&self) {
        let mut state = self.0.lock().unwrap();
        if let Some(to) = state.first.take() {
            state.before_flush = state.taken;
            to.answer(Ok(said("late")));
        }
    }
    fn window(&self) -> usize {
        4
    }
    fn scope(&self) -> Option<Value> {
        Some(Value::Null)
    }
}

#[test]
fn several_tasks_of_a_row_have_ids_of_their_own() {
    let rows = questions(["a", "b"].map(|q| Some(q.to_string())).into_iter());
    let journal = Arc::default();
    let host = host(&rows, 2, &journal);
    let cx: NodeCx = host.clone();
    let open = |row: &InRow| {
        let question = row.need_text("question")?.to_string();
        let task = |sample| -> Task<'static> { Box::new(Sampled { question: question.clone(), sample }) };
        Ok((0..3).map(task).collect())
    };
    let script = |ask: &Ask| match ask.sample {
        1 if last_turn(ask) == "b" => refused(ask),
        n => Ok(said(&format!("{} {n}", last_turn(ask)))),
    };
    drive(&cx, Arc::new(Scripted::new(script)), &open).unwrap();
    let (rows, rejected) = given(&host);
    let texts: Vec<_> = rows.iter().map(|r| ["id", "answer"].map(|c| r[c].as_str().unwrap())).collect();
    assert_eq!(texts, [["r0#0", "a 0"], ["r0#1", "a 1"], ["r0#2", "a 2"], ["r1#0", "b 0"], ["r1#2", "b 2"]]);
    assert_eq!(rejected, ["r1#1 refused will not answer b"]);
}

struct Sampled {
    question: String,
    sample: u32,
}

impl RowTask for Sampled {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        match one(last) {
            None => Step::ask(ask(&self.question, self.sample)),
            Some(Ok(answer)) => {
                Step::Ready(vec![NewRow { output: 0, sample: None, cells: vec![Cell::Text(answer.text)] }])
            }
            Some(Err(failure)) => Step::Reject(failure),
        }
    }
}

/// Answers what it was asked before the run was stopped, a little later.
struct Late(crate::exec::Stop, Mutex<usize>);

impl Teacher for Late {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        self.0.set();
        *self.1.lock().unwrap() += calls.len();
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(150));
            calls.into_iter().for_each(|Posted { ask, to }| to.answer(Ok(said(last_turn(&ask)))));
        });
        Ok(())
    }
    fn window(&self) -> usize {
        6
    }
    fn scope(&self) -> Option<Value> {
        Some(Value::Null)
    }
}

#[test]
fn a_stop_keeps_the_answers_of_calls_that_were_made() {
    let journal = Arc::default();
    for _ in 0..2 {
        let host = host(&questions((0..50).map(|i| Some(format!("q{}", i * 10)))), 50, &journal);
        let teacher = Arc::new(Late(host.stop.clone(), Mutex::default()));
        let cx: NodeCx = host.clone();
        let error = drive(&cx, teacher.clone(), &asking).unwrap_err();
        assert!(matches!(error, RunError::Interrupted), "{error}");
        assert_eq!(*teacher.1.lock().unwrap(), 6, "a window of calls");
    }
    // Two windows of answers were kept.
    let teacher = Arc::new(Scripted::default());
    let host = host(&questions((0..50).map(|i| Some(format!("q{}", i * 10)))), 50, &journal);
    let cx: NodeCx = host.clone();
    let rest = Arc::new(LikeLate(teacher.clone()));
    drive(&cx, rest, &asking).unwrap();
    assert_eq!(teacher.asked().len(), 50 - 12);
}

/// The scope of [`Late`].
struct LikeLate(Arc<Scripted>);

impl Teacher for LikeLate {
    fn submit(&self, calls: Vec<Posted>, journal: &Arc<Journal>) -> Result<(), RunError> {
        self.0.submit(calls, journal)
    }
    fn flush(&self) {
        self.0.flush();
    }
    fn window(&self) -> usize {
        6
    }
    fn scope(&self) -> Option<Value> {
        Some(Value::Null)
    }
}

#[test]
fn the_whole_teacher_failing_or_a_dropped_call_ends_the_run() {
    let rows = numbered(30);
    let host = host(&rows, 30, &Arc::default());
    let cx: NodeCx = host.clone();
    let error = drive(&cx, Arc::new(Refusing), &asking).unwrap_err();
    assert_eq!(error.to_string(), "no such key");
}

struct Refusing;

impl Teacher for Refusing {
    fn submit(&self, _: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        Err(RunError::failed("no-key", "no such key"))
    }
    fn window(&self) -> usize {
        6
    }
    fn scope(&self) -> Option<Value> {
        None
    }
}

/// Answers at once.
#[derive(Default)]
struct Quick(Arc<Mutex<usize>>);

impl Teacher for Quick {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        *self.0.lock().unwrap() += calls.len();
        calls.into_iter().for_each(|Posted { ask, to }| to.answer(Ok(said(last_turn(&ask)))));
        Ok(())
    }
    fn window(&self) -> usize {
        4
    }
    fn scope(&self) -> Option<Value> {
        Some(Value::Null)
    }
}

#[test]
fn the_teacher_is_kept_busy_while_the_journal_is_slow() {
    let journal: Arc<MemoryJournal> = Arc::default();
    let teacher = Arc::new(Quick::default());
    let (taken, most) = (teacher.0.clone(), Arc::new(Mutex::new(0)));
    let seen = most.clone();
    let wait = move || {
        // The first answers are not written down before the teacher has a third window of calls.
        let start = Instant::now();
        while *taken.lock().unwrap() < 12 && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut most = seen.lock().unwrap();
        *most = (*most).max(*taken.lock().unwrap());
    };
    assert!(journal.before_put.set(Box::new(wait)).is_ok());
    let host = host(&questions((0..40).map(|i| Some(format!("q{}", i * 10)))), 40, &journal);
    let cx: NodeCx = host.clone();
    drive(&cx, teacher, &asking).unwrap();
    assert!(*most.lock().unwrap() >= 12);
    assert_eq!(given(&host).0.len(), 40);
}

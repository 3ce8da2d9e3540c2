//! Hosted teachers against a server that fails on purpose.

mod batches;
#[path = "../../../../tests/it/faults/mod.rs"]
#[allow(dead_code)]
mod faults;
mod live;

use super::{HostedTeacher, Office, Pace};
use crate::config::{Api, Budget, Hosted, Limits, TeacherDecl, TeacherSource};
use crate::diag::{SourceId, Span, Spanned};
use crate::exec::{RunError, Stop};
use crate::model::Mailbox;
use crate::plan::TeacherInfo;
use crate::store::{Journal, JournalStore};
use crate::teacher::{Ask, Outcome, Posted, Row, Settings, Teacher};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Waits that a test can afford.
const QUICK: Pace = Pace {
    first: Duration::from_millis(2),
    longest: Duration::from_millis(20),
    patience: Duration::from_secs(30),
    grace: Duration::from_secs(5),
    linger: Duration::from_millis(20),
    look: Duration::from_millis(5),
    seldom: Duration::from_millis(20),
    settle: Duration::from_millis(50),
};
const KEY: &str = "sk-the-key-of-a-test";

/// A declaration as a test begins with it; `url` is the server's.
pub fn declared(api: Api, url: Option<&str>) -> Hosted {
    let span = Span::new(SourceId(0), 0, 0);
    Hosted {
        api,
        model: Spanned::new("test-model".into(), span),
        base_url: url.map(|u| Spanned::new(u.into(), span)),
        api_key_env: Some(Spanned::new("TEST_KEY".into(), span)),
        organization: None,
        headers: Vec::new(),
        body: serde_json::Map::new(),
        batch: false,
        limits: Limits { concurrency: 8, requests_per_minute: None, tokens_per_minute: None, timeout: 5.0, retries: 5 },
        budget: Budget::default(),
        price: None,
    }
}

/// A journal in memory that outlives a teacher.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<HashMap<[u8; 16], Vec<u8>>>>);

impl Memory {
    pub fn values(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    /// Loses the notes that `which` picks; whether there were any.
    fn forget(&self, which: impl Fn(&serde_json::Value) -> bool) -> bool {
        let mut all = self.0.lock().unwrap();
        let before = all.len();
        all.retain(|_, note| !serde_json::from_slice(note).is_ok_and(|note| which(&note)));
        all.len() < before
    }
}

impl JournalStore for Memory {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.0.lock().unwrap().extend(entries.iter().cloned());
        Ok(())
    }
}

/// A hired teacher and what belongs to it.
struct Asked {
    teacher: HostedTeacher,
    journal: Arc<Journal>,
    stop: Stop,
}

impl Asked {
    fn hire(hosted: &Hosted) -> Self {
        Self::again(hosted, &Memory::default(), QUICK).unwrap()
    }

    /// As another process would, with the journal of one before.
    fn again(hosted: &Hosted, journal: &Memory, pace: Pace) -> Result<Self, RunError> {
        let source = TeacherSource::Hosted(Box::new(hosted.clone()));
        let decl = TeacherDecl { name: "t".into(), source, record: None, span: hosted.model.span };
        let info = TeacherInfo { decl, digest: "d".into(), model: None, recording: None, to_fetch: None };
        let (office, stop) = (Arc::new(Office::open()?), Stop::default());
        let look_up = |name: &str| (name == "TEST_KEY").then(|| KEY.to_string());
        let teacher = HostedTeacher::with(&info, hosted, office, &stop, pace, &look_up)?;
        Ok(Self { teacher, journal: Arc::new(Journal::new(Box::new(journal.clone()))), stop })
    }

    /// The outcomes of all prompts, in their order.
    fn ask(&self, prompts: &[String]) -> Vec<Result<Outcome, RunError>> {
        let mailbox = Mailbox::default();
        let posted = |(at, prompt): (usize, &String)| Posted { ask: ask(prompt), to: mailbox.address(at) };
        let calls = prompts.iter().enumerate().map(posted).collect();
        if let Err(error) = self.teacher.submit(calls, &self.journal) {
            return prompts.iter().map(|_| Err(error.clone())).collect();
        }
        self.teacher.flush();
        let mut outcomes: Vec<Option<_>> = prompts.iter().map(|_| None).collect();
        for _ in prompts {
            let (at, outcome) = mailbox.wait(Duration::from_secs(60)).expect("an outcome within a minute");
            outcomes[at] = Some(outcome);
        }
        outcomes.into_iter().map(|o| o.expect("each has one")).collect()
    }

    fn ask_one(&self, prompt: &str) -> Result<Outcome, RunError> {
        self.ask(&[prompt.to_string()]).pop().expect("one")
    }
}

fn ask(prompt: &str) -> Ask {
    let settings = Settings { max_tokens: 50, temperature: Some(0.0), top_p: None, top_k: None, stop: Vec::new() };
    let messages = vec![("system".to_string(), "be brief".to_string()), ("user".to_string(), prompt.to_string())];
    Ask { messages, settings: Arc::new(settings), sample: 0, seed: 7, row: Arc::new(Row::default()) }
}

fn prompts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("question {i}")).collect()
}

fn url(api: Api, server: &faults::Teacher) -> Hosted {
    declared(api, Some(&server.url()))
}

#[track_caller]
fn code(error: &RunError) -> &'static str {
    match error {
        RunError::Failed { code, .. } => code,
        other => panic!("{other:?} has no code"),
    }
}

//! A teacher for tests that answers as it is told to, in any order.

use crate::exec::RunError;
use crate::ops::testing_node::{Given, Node, Ran};
use crate::store::Journal;
use crate::teacher::{Answer, Ask, Failure, Finish, Outcome, Posted, Teacher, Usage};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

type Script = Box<dyn Fn(&Ask) -> Outcome + Send + Sync>;

/// Holds calls back until there are some, and answers them in an order of its own.
pub struct Scripted {
    pub script: Script,
    pub window: usize,
    /// Calls that are answered together.
    pub at_once: usize,
    /// Draws the order of the answers.
    pub order: u64,
    /// The teacher fails as a whole when it has answered so many.
    pub fails_after: usize,
    pub recorded: bool,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    held: Vec<Posted>,
    /// The last turn of everything that was asked, in order.
    pub asked: Vec<String>,
    pub answered: usize,
    /// The most calls that were open.
    pub most_open: usize,
    pub flushes: usize,
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new(|ask| Ok(said(&format!("answer to {}", last_turn(ask)))))
    }
}

/// A finished answer with this text.
pub fn said(text: &str) -> Answer {
    let usage = Usage { input_tokens: 10, cached_tokens: 0, output_tokens: text.len() as u64 };
    Answer { text: text.into(), finish: Finish::Stop, model: "scripted-1".into(), usage, cost: Some(0.5) }
}

pub fn last_turn(ask: &Ask) -> &str {
    &ask.messages.last().expect("asks have turns").1
}

impl Scripted {
    pub fn new(script: impl Fn(&Ask) -> Outcome + Send + Sync + 'static) -> Self {
        Self {
            script: Box::new(script),
            window: 8,
            at_once: 3,
            order: 1,
            fails_after: usize::MAX,
            recorded: false,
            state: Mutex::default(),
        }
    }

    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    fn answer_all(&self, state: &mut State) {
        while !state.held.is_empty() {
            // Any rule will do that does not answer in order.
            let at = (self.order.wrapping_mul(state.held.len() as u64 * 7 + state.answered as u64) % 1009) as usize;
            let Posted { ask, to } = state.held.remove(at % state.held.len());
            if state.answered >= self.fails_after {
                to.fail(&RunError::failed("no-credit", "the account is empty"));
                continue;
            }
            state.answered += 1;
            to.answer((self.script)(&ask));
        }
    }
}

impl Teacher for Scripted {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        let mut state = self.state.lock().unwrap();
        for call in calls {
            state.asked.push(last_turn(&call.ask).to_string());
            state.held.push(call);
            state.most_open = state.most_open.max(state.held.len());
            if state.held.len() >= self.at_once || state.answered >= self.fails_after {
                self.answer_all(&mut state);
            }
        }
        Ok(())
    }

    fn flush(&self) {
        let mut state = self.state.lock().unwrap();
        state.flushes += 1;
        self.answer_all(&mut state);
    }

    fn window(&self) -> usize {
        self.window
    }

    fn scope(&self) -> Option<Value> {
        (!self.recorded).then(|| json!({ "teacher": "scripted" }))
    }
}

/// A failure of one call.
pub fn refused(ask: &Ask) -> Outcome {
    Err(Failure::new("refused", format!("will not answer {}", last_turn(ask))))
}

/// Runs a node with a teacher; gives what it gave and everything that was asked, in the order of the rows.
pub fn asking(
    kdl: &str,
    inputs: &[Given],
    script: impl Fn(&Ask) -> Outcome + Send + Sync + 'static,
) -> (Ran, Vec<Ask>) {
    let log: Arc<Mutex<Vec<Ask>>> = Arc::default();
    let teacher = Arc::new(Scripted::new({
        let log = log.clone();
        move |ask: &Ask| {
            log.lock().unwrap().push(ask.clone());
            script(ask)
        }
    }));
    let node = Node::asking(kdl, inputs, teacher).unwrap_or_else(|problems| panic!("{problems}"));
    let ran = node.run(2).unwrap();
    let mut asks = log.lock().unwrap().clone();
    asks.sort_by_key(|ask| ask.row.id.clone());
    (ran, asks)
}

/// What is said of a node that cannot be.
pub fn problems(kdl: &str, inputs: &[Given]) -> String {
    match Node::asking(kdl, inputs, Arc::new(Scripted::default())) {
        Ok(node) => panic!("accepted: {:?}", node.operator),
        Err(problems) => problems,
    }
}

/// Id and reason of the rows in quarantine.
pub fn rejected(ran: &Ran) -> Vec<(&str, &str)> {
    ran.rejected.iter().map(|r| (&*r.id, r.reason)).collect()
}

//! What the calls of a plan will cost, before any of them is made.

use super::{Plan, State, Status, TeacherInfo};
use crate::config::{Hosted, TeacherSource};
use crate::teacher::Usage;
use crate::teacher::hosted::price;
use serde::Serialize;

/// Calls that a node expects to make, when nothing of it is done yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calls {
    pub teacher: String,
    /// `None` where the number of rows is not known.
    pub calls: Option<u64>,
    /// Tokens that a call reads.
    pub input_tokens: u64,
    /// Tokens that a call writes: as many as is usual, and at most.
    pub output_tokens: u64,
    pub most_output_tokens: u64,
}

/// What is still to be asked of a teacher, over all nodes of a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TeacherCost {
    pub teacher: String,
    /// Expected, those that are cached left out.
    pub calls: u64,
    /// Of the nodes whose rows are answered already.
    pub cached_calls: u64,
    /// Nodes whose number of rows is not known; they are in none of the numbers.
    pub unknown: Vec<String>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// US dollars; `None` where the price is not known. What costs nothing costs 0.
    pub money: Option<f64>,
    /// When every answer is as long as it may be.
    pub most_money: Option<f64>,
    /// How long it takes as limits and lengths go; `None` for batches, which take as long as the provider likes.
    pub seconds: Option<f64>,
}

/// Seconds that a hosted model takes to begin an answer, and tokens that it writes in a second: both vary by far more
/// than a factor of two.
const BEGIN_SECONDS: f64 = 1.0;
const WRITTEN_PER_SECOND: f64 = 50.0;

/// What every teacher of a plan will be asked, in the order of the plan's teachers.
pub fn costs(plan: &Plan, states: &[Status]) -> Vec<TeacherCost> {
    plan.teachers.values().map(|teacher| cost(plan, states, teacher)).collect()
}

fn cost(plan: &Plan, states: &[Status], teacher: &TeacherInfo) -> TeacherCost {
    let name = &teacher.decl.name;
    let mut sum = TeacherCost { teacher: name.clone(), ..TeacherCost::default() };
    let mut most_output = 0;
    let mut local_seconds = 0.0;
    for (node, status) in plan.nodes.iter().zip(states) {
        for calls in node.calls.iter().filter(|c| c.teacher == *name) {
            // Its calls are another node's, or nobody's.
            if matches!(status.state, State::Skipped(_) | State::Shared(_)) {
                continue;
            }
            let left = status.state.left();
            let Some(all) = calls.calls else {
                sum.unknown.push(node.name.to_string());
                continue;
            };
            let open = (all as f64 * left).round() as u64;
            sum.calls += open;
            sum.cached_calls += all - open.min(all);
            sum.input_tokens += open * calls.input_tokens;
            sum.output_tokens += open * calls.output_tokens;
            most_output += open * calls.most_output_tokens;
            local_seconds += node.estimate.seconds.unwrap_or(0.0) * left;
        }
    }
    let usage = |output_tokens| Usage { input_tokens: sum.input_tokens, cached_tokens: 0, output_tokens };
    match &teacher.decl.source {
        TeacherSource::Hosted(hosted) => {
            let price = price(hosted);
            sum.money = price.map(|p| p.of(&usage(sum.output_tokens)));
            sum.most_money = price.map(|p| p.of(&usage(most_output)));
            sum.seconds = hosted_seconds(hosted, &sum);
        }
        TeacherSource::Local { .. } => {
            (sum.money, sum.most_money, sum.seconds) = (Some(0.0), Some(0.0), Some(local_seconds));
        }
        TeacherSource::Replay(_) => (sum.money, sum.most_money, sum.seconds) = (Some(0.0), Some(0.0), Some(0.0)),
    }
    sum
}

/// The slowest of what bounds it: calls at once, calls in a minute, tokens in a minute.
fn hosted_seconds(hosted: &Hosted, sum: &TeacherCost) -> Option<f64> {
    if hosted.batch {
        return None;
    }
    let (calls, tokens) = (sum.calls as f64, (sum.input_tokens + sum.output_tokens) as f64);
    let limits = &hosted.limits;
    let writing = calls * BEGIN_SECONDS + sum.output_tokens as f64 / WRITTEN_PER_SECOND;
    let by_calls = limits.requests_per_minute.map_or(0.0, |n| 60.0 * calls / f64::from(n));
    let by_tokens = limits.tokens_per_minute.map_or(0.0, |n| 60.0 * tokens / n as f64);
    Some((writing / limits.concurrency as f64).max(by_calls).max(by_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Api, Budget, Limits};
    use crate::diag::{SourceId, Span, Spanned};

    fn hosted(concurrency: usize, requests_per_minute: Option<u32>) -> Hosted {
        Hosted {
            api: Api::OpenAi,
            model: Spanned::new("m".into(), Span::new(SourceId(0), 0, 0)),
            base_url: None,
            api_key_env: None,
            organization: None,
            headers: Vec::new(),
            body: serde_json::Map::new(),
            batch: false,
            limits: Limits { concurrency, requests_per_minute, tokens_per_minute: None, timeout: 60.0, retries: 5 },
            budget: Budget::default(),
            price: None,
        }
    }

    #[test]
    fn the_slowest_bound_counts() {
        let sum = TeacherCost { calls: 100, input_tokens: 1000, output_tokens: 5000, ..TeacherCost::default() };
        assert_eq!(hosted_seconds(&hosted(10, None), &sum), Some(20.0));
        assert_eq!(hosted_seconds(&hosted(10, Some(60)), &sum), Some(100.0));
        assert_eq!(hosted_seconds(&Hosted { batch: true, ..hosted(10, None) }, &sum), None);
    }

    #[test]
    fn what_is_cached_is_left_out() {
        assert_eq!(State::ToRun.left(), 1.0);
        assert_eq!(State::Partial { done: 30, total: Some(40) }.left(), 0.25);
        assert_eq!(State::Cached.left(), 0.0);
        assert_eq!(State::Shared(0).left(), 0.0);
    }
}

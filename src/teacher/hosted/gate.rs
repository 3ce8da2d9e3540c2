//! How fast a teacher may be asked: token buckets for requests and tokens, and pauses that the provider asks for.
//!
//! A declared limit lets a second's worth through at once. A limit that the provider's headers tell lets through what
//! they say is left: the lesser of the two holds.

use super::moment;
use reqwest::header::HeaderMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first pause after a refusal that does not say how long, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// What a provider's headers say of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Told {
    /// In a period, most often a minute.
    pub limit: Option<f64>,
    pub remaining: Option<f64>,
    /// Until `remaining` is `limit` again.
    pub reset: Option<Duration>,
}

impl Told {
    /// Of requests and of tokens; `name` makes a header's name of one of these words and of `limit`, `remaining` or
    /// `reset`.
    pub fn both(headers: &HeaderMap, name: impl Fn(&str, &str) -> String) -> (Self, Self) {
        let of = |kind| {
            let [limit, remaining, reset] = ["limit", "remaining", "reset"].map(|what| name(kind, what));
            Self::read(headers, &limit, &remaining, &reset)
        };
        (of("requests"), of("tokens"))
    }

    fn read(headers: &HeaderMap, limit: &str, remaining: &str, reset: &str) -> Self {
        let number = |name| moment::text(headers, name)?.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        Self {
            limit: number(limit).filter(|n| *n >= 1.0),
            remaining: number(remaining),
            reset: moment::text(headers, reset).and_then(|text| moment::reset(text, headers)),
        }
    }
}

/// Lets calls through.
pub struct Gate {
    state: Mutex<State>,
    /// How long the provider may refuse all calls.
    patience: Duration,
}

struct State {
    requests: Bucket,
    tokens: Bucket,
    paused: Option<Instant>,
    /// Refusals since the last answer, and the first of them.
    refusals: u32,
    since: Option<Instant>,
}

/// The provider has refused calls for longer than there is patience for.
#[derive(Debug, PartialEq)]
pub struct Exhausted(pub Duration);

impl Gate {
    pub fn new(requests: Option<f64>, tokens: Option<f64>, patience: Duration, now: Instant) -> Self {
        let state = State {
            requests: Bucket::new(requests, now),
            tokens: Bucket::new(tokens, now),
            paused: None,
            refusals: 0,
            since: None,
        };
        Self { state: Mutex::new(state), patience }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call of so many tokens through, or says how long to wait before asking again.
    pub fn pass(&self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let paused = state.paused.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let wait = paused.max(state.requests.wait(1.0, now)).max(state.tokens.wait(tokens, now));
        if wait > Duration::ZERO {
            return Err(wait);
        }
        state.requests.take(1.0);
        state.tokens.take(tokens);
        Ok(())
    }

    /// A call that was let through has an answer: with what its headers say, and how many tokens it took.
    pub fn answered(&self, estimated: f64, taken: Option<f64>, requests: Told, tokens: Told, now: Instant) {
        let mut state = self.state();
        state.requests.settle(1.0, 1.0);
        state.tokens.settle(estimated, taken.unwrap_or(estimated));
        state.requests.learn(requests, now);
        state.tokens.learn(tokens, now);
    }

    /// The provider took a call on: it refuses no more.
    pub fn accepted(&self) {
        let mut state = self.state();
        (state.refusals, state.since) = (0, None);
    }

    /// The provider refuses to work for now: all calls wait, this much longer than they do already. `jitter` is from 0 to 1.
    pub fn refused(&self, asked: Option<Duration>, jitter: f64, now: Instant) -> Result<Duration, Exhausted> {
        let mut state = self.state();
        let since = *state.since.get_or_insert(now);
        let paused = state.paused.is_some_and(|end| end > now);
        let pause = match asked {
            Some(asked) => asked,
            // Calls that were on their way are refused together and count once.
            None if paused => return Ok(Duration::ZERO),
            None => (FIRST * 2_u32.saturating_pow(state.refusals.min(16))).min(LONGEST).mul_f64(0.5 + jitter / 2.0),
        };
        if (now + pause).saturating_duration_since(since) > self.patience {
            return Err(Exhausted(now.saturating_duration_since(since).max(pause)));
        }
        if !paused {
            state.refusals += 1;
        }
        let before = state.paused.unwrap_or(now).max(now);
        state.paused = Some(before.max(now + pause));
        Ok((now + pause).saturating_duration_since(before))
    }
}

/// A token bucket. Without a known limit it lets everything through.
struct Bucket {
    declared: Option<f64>,
    flow: Option<Flow>,
    /// Taken by calls that have no answer yet.
    open: f64,
    at: Instant,
}

struct Flow {
    per_second: f64,
    /// The most that can be taken at once.
    capacity: f64,
    /// May be negative: a call that is larger than the capacity is let through when the bucket is full, and those after
    /// it wait the longer.
    level: f64,
}

impl Bucket {
    fn new(per_minute: Option<f64>, now: Instant) -> Self {
        let flow = per_minute.map(|limit| {
            let capacity = (limit / 60.0).max(1.0);
            Flow { per_second: limit / 60.0, capacity, level: capacity }
        });
        Self { declared: per_minute, flow, open: 0.0, at: now }
    }

    /// How long until this much may be taken.
    fn wait(&mut self, amount: f64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let Some(flow) = &mut self.flow else { return Duration::ZERO };
        flow.level = (flow.level + passed * flow.per_second).min(flow.capacity);
        let missing = amount.min(flow.capacity) - flow.level;
        // A share of a thousandth is what rounding leaves.
        if missing <= 1e-3 { Duration::ZERO } else { Duration::from_secs_f64((missing / flow.per_second).min(3600.0)) }
    }

    fn take(&mut self, amount: f64) {
        self.open += amount;
        if let Some(flow) = &mut self.flow {
            flow.level -= amount;
        }
    }

    fn settle(&mut self, estimated: f64, taken: f64) {
        self.open = (self.open - estimated).max(0.0);
        if let Some(flow) = &mut self.flow {
            flow.level = (flow.level + estimated - taken).min(flow.capacity);
        }
    }

    /// Takes over what the provider says. Calls that it has not counted yet are still open.
    fn learn(&mut self, told: Told, now: Instant) {
        self.wait(0.0, now);
        let Some(limit) = told.limit else { return };
        let left = told.remaining.unwrap_or(limit).min(limit);
        // The period is a minute unless the way back to the full limit says otherwise; near the full limit that is
        // rounded too much to tell.
        let period = told.reset.filter(|_| left < limit / 2.0).map(|r| r.as_secs_f64() * limit / (limit - left));
        let told_rate = limit / period.filter(|p| *p >= 1.0).unwrap_or(60.0);
        let (rate, capacity) = match self.declared {
            Some(declared) if declared / 60.0 <= told_rate => (declared / 60.0, (declared / 60.0).max(1.0).min(limit)),
            _ => (told_rate, limit),
        };
        let room = left - self.open;
        let level = self.flow.as_ref().map_or(room, |f| f.level.min(room)).min(capacity);
        self.flow = Some(Flow { per_second: rate, capacity, level });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn told(limit: f64, remaining: f64, reset: f64) -> Told {
        Told { limit: Some(limit), remaining: Some(remaining), reset: Some(Duration::from_secs_f64(reset)) }
    }

    /// How many calls of `tokens` pass between two moments, looking every 10 ms.
    fn passing(gate: &Gate, tokens: f64, start: Instant, from: f64, to: f64) -> usize {
        let steps = ((from * 100.0) as u64)..((to * 100.0) as u64);
        steps
            .map(|step| {
                let now = start + Duration::from_millis(10 * step);
                std::iter::from_fn(|| gate.pass(tokens, now).ok()).take(10_000).count()
            })
            .sum()
    }

    #[test]
    fn a_declared_limit_holds_for_every_minute() {
        let start = Instant::now();
        let gate = Gate::new(Some(120.0), None, HOUR, start);
        let first = passing(&gate, 1.0, start, 0.0, 60.0);
        assert!((120..=122).contains(&first), "{first}");
        let second = passing(&gate, 1.0, start, 60.0, 120.0);
        assert!((119..=121).contains(&second), "{second}");
    }

    #[test]
    fn tokens_are_a_limit_too_and_a_call_beyond_it_is_let_through_alone() {
        let start = Instant::now();
        let gate = Gate::new(None, Some(6000.0), HOUR, start);
        let calls = passing(&gate, 600.0, start, 0.0, 60.0);
        assert!((10..=11).contains(&calls), "{calls}");
        // Estimates are corrected by what was used.
        let gate = Gate::new(None, Some(6000.0), HOUR, start);
        assert!(gate.pass(600.0, start).is_ok());
        gate.answered(600.0, Some(100.0), Told::default(), Told::default(), start);
        assert_eq!(gate.pass(100.0, start), Err(Duration::from_secs(1)));
    }

    #[test]
    fn headers_teach_the_limit_and_what_is_left() {
        let start = Instant::now();
        let gate = Gate::new(None, None, HOUR, start);
        assert!(passing(&gate, 1.0, start, 0.0, 0.01) == 10_000);
        let gate = Gate::new(None, None, HOUR, start);
        assert!(gate.pass(1.0, start).is_ok() && gate.pass(1.0, start).is_ok());
        // One is answered, one is open: of 60 a minute 5 are left, 4 without the open one.
        gate.answered(1.0, None, told(60.0, 5.0, 55.0), Told::default(), start);
        assert_eq!(passing(&gate, 1.0, start, 0.0, 0.01), 4);
        let minute = passing(&gate, 1.0, start, 0.01, 60.0);
        assert!((59..=60).contains(&minute), "{minute}");
    }

    #[test]
    fn a_limit_of_a_day_is_known_by_its_reset() {
        let start = Instant::now();
        let gate = Gate::new(None, None, HOUR, start);
        assert!(gate.pass(1.0, start).is_ok());
        gate.answered(1.0, None, told(200.0, 0.0, 86_400.0), Told::default(), start);
        // 86,400 seconds for 200: one in 432 seconds.
        let wait = gate.pass(1.0, start).unwrap_err();
        assert!((wait.as_secs_f64() - 432.0).abs() < 1.0, "{wait:?}");
    }

    #[test]
    fn the_lesser_of_what_is_declared_and_told_holds() {
        let start = Instant::now();
        let gate = Gate::new(Some(60.0), None, HOUR, start);
        assert!(gate.pass(1.0, start).is_ok());
        gate.answered(1.0, None, told(6000.0, 5999.0, 0.01), Told::default(), start);
        let minute = passing(&gate, 1.0, start, 0.0, 60.0);
        assert!((59..=61).contains(&minute), "{minute}");
        let gate = Gate::new(Some(6000.0), None, HOUR, start);
        assert!(gate.pass(1.0, start).is_ok());
        gate.answered(1.0, None, told(60.0, 0.0, 60.0), Told::default(), start);
        let minute = passing(&gate, 1.0, start, 0.0, 60.0);
        assert!((59..=61).contains(&minute), "{minute}");
    }

    #[test]
    fn a_refusal_stops_all_calls_and_refusals_that_go_on_end() {
        let start = Instant::now();
        let gate = Gate::new(None, None, HOUR, start);
        gate.refused(Some(Duration::from_secs(7)), 0.0, start).unwrap();
        assert_eq!(gate.pass(1.0, start), Err(Duration::from_secs(7)));
        let later = start + Duration::from_secs(7);
        assert!(gate.pass(1.0, later).is_ok());
        // Without a span of its own: pauses that double, once for calls that are refused together.
        let mut now = later;
        let pauses: Vec<f64> = (0..8)
            .map(|_| {
                gate.refused(None, 1.0, now).unwrap();
                gate.refused(None, 1.0, now).unwrap();
                let pause = gate.pass(1.0, now).unwrap_err();
                now += pause;
                pause.as_secs_f64()
            })
            .collect();
        assert_eq!(pauses, [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        gate.accepted();
        gate.refused(None, 1.0, now).unwrap();
        assert_eq!(gate.pass(1.0, now), Err(Duration::from_secs(1)));
        let day = Duration::from_secs(86_400);
        assert_eq!(gate.refused(Some(day), 0.0, now), Err(Exhausted(day)));
    }
}

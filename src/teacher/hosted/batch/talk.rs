//! Requests about batches: made again until the provider answers, as long as there is patience.

use super::super::desk::Desk;
use super::super::pace::jitter;
use super::super::verdict::{ApiError, Verdict};
use super::super::wire::{Reply, Trouble, trouble};
use crate::exec::RunError;
use reqwest::RequestBuilder;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Files of batches are large.
const LONGEST: Duration = Duration::from_secs(900);
/// The most bytes of a line of results.
const LINE: usize = 16 << 20;

/// Why a request has no answer.
pub enum Unheard {
    /// It may help to ask again; it may also have been heard.
    Later(String, Option<Duration>),
    Refused {
        status: u16,
        error: RunError,
    },
}

impl From<Unheard> for RunError {
    fn from(unheard: Unheard) -> Self {
        match unheard {
            Unheard::Refused { error, .. } => error,
            Unheard::Later(why, _) => Self::failed("teacher-unreachable", why),
        }
    }
}

/// An answer of success that makes no sense.
impl From<RunError> for Unheard {
    fn from(error: RunError) -> Self {
        Self::Refused { status: 200, error }
    }
}

impl From<Trouble> for Unheard {
    fn from(trouble: Trouble) -> Self {
        let why = match trouble {
            Trouble::Unconnected(why) => format!("no connection: {why}"),
            Trouble::Cut(why) => format!("the connection was cut: {why}"),
            Trouble::TimedOut => "no answer in time".into(),
            Trouble::TooLarge => "an answer of more than 16 MiB".into(),
        };
        Self::Later(why, None)
    }
}

/// One request.
pub async fn once(desk: &Desk, request: RequestBuilder) -> Result<Value, Unheard> {
    let reply = desk.wire.send(request, LONGEST).await?;
    if !(200..300).contains(&reply.status) {
        return Err(refusal(desk, &reply));
    }
    match serde_json::from_slice(&reply.body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(Unheard::Later(format!("the provider answered {} with no JSON object", reply.status), None)),
    }
}

/// A request that does no harm when it is heard twice.
pub async fn ask(desk: &Desk, request: impl Fn() -> RequestBuilder) -> Result<Value, Unheard> {
    let mut patience = Patience::new(desk);
    loop {
        match once(desk, request()).await {
            Err(Unheard::Later(why, after)) => patience.wait(why, after).await?,
            other => return other,
        }
    }
}

/// Hands over the lines of a file, from the beginning again when the connection is cut, until `take` has enough.
pub async fn lines(
    desk: &Desk,
    request: impl Fn() -> RequestBuilder,
    take: &mut (dyn FnMut(Value) -> bool + Send),
) -> Result<(), Unheard> {
    let mut patience = Patience::new(desk);
    loop {
        let read = timeout(LONGEST, read_lines(desk, request(), take)).await;
        match read.unwrap_or(Err(Unheard::from(Trouble::TimedOut))) {
            Err(Unheard::Later(why, after)) => patience.wait(why, after).await?,
            other => return other,
        }
    }
}

async fn read_lines(
    desk: &Desk,
    request: RequestBuilder,
    take: &mut (dyn FnMut(Value) -> bool + Send),
) -> Result<(), Unheard> {
    let mut response = request.send().await.map_err(trouble)?;
    if !response.status().is_success() {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.chunk().await.map_err(trouble)?.unwrap_or_default().to_vec();
        return Err(refusal(desk, &Reply { status, headers, body }));
    }
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(trouble)? {
        rest.extend_from_slice(&piece);
        let mut done = 0;
        while let Some(end) = rest[done..].iter().position(|b| *b == b'\n') {
            if !line(&rest[done..done + end], take) {
                return Ok(());
            }
            done += end + 1;
        }
        rest.drain(..done);
        if rest.len() > LINE {
            return Err(Trouble::TooLarge.into());
        }
    }
    line(&rest, take);
    Ok(())
}

/// A line that is no JSON is passed over: its call has no result then.
fn line(text: &[u8], take: &mut (dyn FnMut(Value) -> bool + Send)) -> bool {
    serde_json::from_slice(text).map_or(true, take)
}

fn refusal(desk: &Desk, reply: &Reply) -> Unheard {
    let said = ApiError::read(&reply.body);
    let words = format!("the provider answered {}: {}", reply.status, desk.wire.quote(&said.message));
    let refused = |error| Unheard::Refused { status: reply.status, error };
    match desk.protocol.refused(reply.status, &reply.headers, &said, &desk.whom()) {
        Verdict::Stop(error) => refused(error),
        Verdict::Wait { after, .. } | Verdict::Again { after, .. } => Unheard::Later(words, after),
        Verdict::Unconnected(_) | Verdict::Rebuild => Unheard::Later(words, None),
        Verdict::Row(_) | Verdict::Answer(_) => refused(
            RunError::failed("batch-refused", format!("teacher `{}`: {words}", desk.name))
                .help("the message has the provider's words; without `batch=#true` calls are made one by one"),
        ),
    }
}

/// Waits that grow, until the provider was silent for too long.
pub struct Patience<'a> {
    desk: &'a Desk,
    since: Instant,
    pause: Duration,
}

impl<'a> Patience<'a> {
    pub fn new(desk: &'a Desk) -> Self {
        Self { desk, since: Instant::now(), pause: desk.pace.first }
    }

    pub async fn wait(&mut self, why: String, after: Option<Duration>) -> Result<(), Unheard> {
        if self.since.elapsed() > self.desk.pace.patience {
            let name = &self.desk.name;
            let message = format!("teacher `{name}`: the provider of its batches does not answer: {why}");
            let error = RunError::failed("teacher-unreachable", message)
                .help("batches go on at the provider: run again later, and what is finished is collected");
            return Err(Unheard::Refused { status: 0, error });
        }
        self.desk.ledger.count(|s| s.retried += 1);
        sleep(self.pause.mul_f64(jitter()).max(after.unwrap_or_default()).min(self.desk.pace.patience)).await;
        self.pause = (self.pause * 2).min(self.desk.pace.longest);
        Ok(())
    }
}

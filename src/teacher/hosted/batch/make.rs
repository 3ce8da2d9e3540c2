//! Making a batch, and finding one that was made by a process that is no more.

use super::super::moment;
use super::super::office::{First, first};
use super::format::{Shown, State};
use super::talk::{self, Patience, Unheard};
use super::{Batches, Call, Claims, Key, Load, named, notes};
use crate::exec::RunError;
use crate::store::Journal;
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// By how much clocks may differ, in seconds.
const SKEW: u64 = 600;
/// The most pages of a list that are looked through.
const PAGES: usize = 200;

impl Batches {
    /// Notes, makes and follows a batch.
    pub(super) async fn make(self: &Arc<Self>, load: Load) {
        let Load { journal, calls, lines, nonce } = load;
        let at = moment::now();
        let noted = notes::intend(&journal, &nonce, at, &generations(&calls));
        self.state().claims.insert(nonce.clone(), calls);
        if let Err(error) = noted {
            return self.fail(&nonce, Claims::new(), error, false);
        }
        let order: Vec<Key> = lines.iter().map(|(key, _)| *key).collect();
        let texts = lines.into_iter().map(|(_, line)| line).collect();
        // A stop lets it finish: what is made half would be looked for in vain.
        let making = self.hand_over(&nonce, texts, order.len() as u64);
        let id = match first(making, self.desk.end.out_of_patience(self.desk.pace.grace)).await {
            First::Left(Ok(id)) => id,
            First::Left(Err(unheard)) => {
                // A plain no: the next run need not look for it.
                let no = matches!(unheard, Unheard::Refused { status: 400..500, .. });
                let noted = if no { notes::never_made(&journal, &nonce) } else { Ok(()) };
                let error = noted.err().unwrap_or_else(|| unheard.into());
                return self.fail(&nonce, Claims::new(), error, false);
            }
            First::Right(error) => return self.give_up(&nonce, Claims::new(), &error, true),
        };
        match notes::made(&journal, &nonce, &id) {
            Ok(()) => self.follow(&nonce, &id, &order).await,
            Err(error) => self.fail(&nonce, Claims::new(), error, true),
        }
    }

    /// Ends the teacher's work.
    pub(super) fn fail(&self, nonce: &str, more: Claims, error: RunError, made: bool) {
        let error = self.desk.stop(error);
        self.give_up(nonce, more, &error, made);
    }

    /// Goes on with a batch of an earlier run.
    pub(super) async fn resume(self: &Arc<Self>, nonce: String, journal: &Arc<Journal>) {
        let Some(batch) = notes::batch(journal, &nonce) else {
            return self.requeue(&nonce);
        };
        let id = match batch.id {
            Some(id) => id,
            None => match self.desk.unless_ended(self.search(&nonce, batch.at, batch.calls)).await {
                Ok(Ok(Some(id))) => match notes::made(journal, &nonce, &id) {
                    Ok(()) => id,
                    Err(error) => return self.fail(&nonce, Claims::new(), error, true),
                },
                Ok(Ok(None)) => match notes::never_made(journal, &nonce) {
                    Ok(()) => return self.requeue(&nonce),
                    Err(error) => return self.fail(&nonce, Claims::new(), error, false),
                },
                Ok(Err(unheard)) => return self.fail(&nonce, Claims::new(), unheard.into(), true),
                Err(error) => return self.give_up(&nonce, Claims::new(), &error, true),
            },
        };
        self.follow(&nonce, &id, &[]).await;
    }

    /// The batch was never made: its calls go into another.
    fn requeue(self: &Arc<Self>, nonce: &str) {
        let calls = self.state().claims.remove(nonce).unwrap_or_default();
        self.again(calls.into_values().flatten());
    }

    /// Gives a batch to the provider; its name there.
    async fn hand_over(&self, nonce: &str, lines: Vec<String>, calls: u64) -> Result<String, Unheard> {
        let file = match self.format.upload() {
            Some(url) => Some(self.upload(&url, &lines).await?),
            None => None,
        };
        let (url, body) = self.format.create(lines, file.as_deref(), nonce);
        let mut patience = Patience::new(&self.desk);
        loop {
            let at = moment::now();
            match talk::once(&self.desk, self.post(&url).body(body.clone())).await {
                Ok(batch) => match self.format.shown(&batch) {
                    Some(shown) => return Ok(shown.id),
                    None => return Err(self.strange("made a batch and did not tell its name").into()),
                },
                Err(Unheard::Later(why, after)) => {
                    patience.wait(why, after).await?;
                    // It may have been heard all the same.
                    if let Some(id) = self.search(nonce, at, calls).await? {
                        return Ok(id);
                    }
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    fn post(&self, url: &str) -> RequestBuilder {
        self.desk.wire.client().post(url).header(CONTENT_TYPE, "application/json")
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.desk.wire.client().get(url)
    }

    pub(super) fn strange(&self, what: &str) -> RunError {
        RunError::failed("batch-refused", format!("teacher `{}`: the provider {what}", self.desk.name))
            .help("without `batch=#true` calls are made one by one")
    }

    async fn upload(&self, url: &str, lines: &[String]) -> Result<String, Unheard> {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| line.bytes().chain([b'\n'])).collect();
        // Clones of it share the bytes.
        let body = reqwest::Body::from(bytes);
        let form = || {
            let bytes = body.as_bytes().unwrap_or_default().to_vec();
            Form::new().text("purpose", "batch").part("file", Part::bytes(bytes).file_name("calls.jsonl"))
        };
        let file = talk::ask(&self.desk, || self.desk.wire.client().post(url).multipart(form())).await?;
        super::format::name(&file["id"]).ok_or_else(|| self.strange("took a file and did not tell its name").into())
    }

    /// The batch that was about to be made at this time (seconds since 1970) with this nonce, if it was made.
    async fn search(&self, nonce: &str, at: u64, calls: u64) -> Result<Option<String>, Unheard> {
        let found = self.search_once(nonce, at, calls).await?;
        let age = Duration::from_secs(moment::now().saturating_sub(at));
        if found.is_some() || age > self.desk.pace.settle {
            return Ok(found);
        }
        // A list may be a little behind.
        sleep(self.desk.pace.settle).await;
        self.search_once(nonce, at, calls).await
    }

    async fn search_once(&self, nonce: &str, at: u64, calls: u64) -> Result<Option<String>, Unheard> {
        let mut candidates: Vec<Shown> = Vec::new();
        let mut after: Option<String> = None;
        'pages: for _ in 0..PAGES {
            let page = talk::ask(&self.desk, || self.get(&self.format.list(after.as_deref()))).await?;
            let batches = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            for shown in batches.iter().filter_map(|batch| self.format.shown(batch)) {
                if shown.nonce.as_deref() == Some(nonce) {
                    return Ok(Some(shown.id));
                }
                if shown.created.is_some_and(|created| created + SKEW < at) {
                    break 'pages;
                }
                after = Some(shown.id.clone());
                candidates.push(shown);
            }
            if page["has_more"] != true || batches.is_empty() {
                break;
            }
        }
        if self.format.keeps_nonce() {
            return Ok(None);
        }
        // Only the results tell whose a batch is.
        for candidate in candidates.into_iter().filter(|c| c.calls.is_none_or(|n| n == calls)) {
            if self.is_ours(&candidate.id, nonce).await? {
                return Ok(Some(candidate.id));
            }
        }
        Ok(None)
    }

    async fn is_ours(&self, id: &str, nonce: &str) -> Result<bool, Unheard> {
        let mut pause = self.desk.pace.look;
        let results = loop {
            match self.look(id).await?.state {
                State::Ended { results, .. } => break results,
                State::Failed(_) => return Ok(false),
                State::Working => self.doze(&mut pause).await,
            }
        };
        let mut ours = false;
        for url in results {
            let mut first = |line: Value| {
                let name = line["custom_id"].as_str().and_then(named);
                ours = name.is_some_and(|(_, n)| n == nonce);
                false
            };
            talk::lines(&self.desk, || self.get(&url), &mut first).await?;
        }
        Ok(ours)
    }
}

/// Which generation of each call a batch holds.
fn generations(calls: &Claims) -> Vec<(Key, u32)> {
    let generation = |(key, calls): (&Key, &Vec<Call>)| Some((*key, calls.iter().map(|c| c.generation).max()?));
    calls.iter().filter_map(generation).collect()
}

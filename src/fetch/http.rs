//! Downloads over HTTP: resumed when cut, tried again when the failure may pass, checked when complete.

use super::cache::{self, beside};
use super::env::Retry;
use super::error::{FetchError, Kind};
use super::progress::{Event, Progress};
use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A client that is made when it is first needed.
#[derive(Default)]
pub struct Http {
    following: OnceLock<Client>,
    still: OnceLock<Client>,
    retry: Retry,
}

/// A file to be downloaded.
pub struct Download<'a> {
    pub url: &'a str,
    pub bearer: Option<&'a str>,
    /// Its name, for people.
    pub file: &'a str,
    /// Where from, for people.
    pub from: &'a str,
    /// Where the bytes gather; what is there from a cut attempt is used.
    pub part: &'a Path,
    pub bytes: Option<u64>,
    pub sha256: Option<&'a str>,
}

/// Beside a part file: what it is a part of.
#[derive(Serialize, Deserialize, PartialEq)]
struct PartState {
    url: String,
    etag: Option<String>,
}

/// A failed attempt, and whether another may do better.
struct Failed {
    error: FetchError,
    passing: bool,
    /// The server asked to wait this long.
    wait: Option<Duration>,
    /// New bytes came before it failed.
    moved: bool,
    /// Nobody answered at all: a wrong name or no network is more likely than a passing failure.
    unanswered: bool,
}

/// Attempts at a host that has never answered.
const UNANSWERED: u32 = 3;

impl Failed {
    fn final_(error: FetchError) -> Self {
        Self { error, passing: false, wait: None, moved: false, unanswered: false }
    }

    fn passing(error: FetchError) -> Self {
        Self { passing: true, ..Self::final_(error) }
    }
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        Self::final_(error)
    }
}

impl Http {
    pub fn new(retry: Retry) -> Self {
        Self { retry, ..Self::default() }
    }

    /// A question about `file`, without a body. Passing failures are tried again; a refusal is an error that names
    /// the server. Redirects are followed for GET and returned for HEAD, whose headers are what is asked for.
    pub fn request(
        &self,
        method: Method,
        url: &str,
        bearer: Option<&str>,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<Response, FetchError> {
        self.with_retries(file, progress, || {
            let client = if method == Method::HEAD { self.still()? } else { self.following()? };
            // Sizes are compared with what the server says, so nothing may be packed on the way.
            let mut request = client.request(method.clone(), url).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = bearer {
                request = request.bearer_auth(token);
            }
            let response = request.send().map_err(|e| unreachable(url, &e))?;
            if response.status().is_success() || response.status().is_redirection() {
                return Ok(response);
            }
            Err(refused(url, bearer.is_some(), response.status(), response.headers()))
        })
    }

    /// Downloads into `part` until it is complete and right. The part is left in place for the caller to move.
    pub fn download(&self, what: &Download<'_>, progress: &dyn Progress) -> Result<String, FetchError> {
        let mut from_scratch = false;
        loop {
            let resumed = self.with_retries(what.file, progress, || self.attempt(what, progress))?;
            match verify(what.part, what.bytes, what.sha256, what.from) {
                Ok(digest) => {
                    cache::remove_if_there(&state_path(what.part))?;
                    return Ok(digest);
                }
                Err(error) => {
                    forget(what.part)?;
                    // The earlier bytes may have been of another version: once more, all of it.
                    if !resumed || from_scratch {
                        return Err(error);
                    }
                    from_scratch = true;
                }
            }
        }
    }

    fn with_retries<T>(
        &self,
        file: &str,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, Failed>,
    ) -> Result<T, FetchError> {
        let mut failures = 0;
        let mut wait = self.retry.first;
        loop {
            let failed = match attempt() {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            if failed.moved {
                (failures, wait) = (0, self.retry.first);
            }
            failures += 1;
            if !failed.passing {
                return Err(failed.error);
            }
            let limit = if failed.unanswered { self.retry.attempts.min(UNANSWERED) } else { self.retry.attempts };
            if failures >= limit {
                let mut error = failed.error;
                error.message = format!("{} (tried {failures} times)", error.message);
                return Err(error);
            }
            let pause = failed.wait.unwrap_or(wait).min(self.retry.longest);
            progress.event(Event::Retry { file, reason: &failed.error.message, wait: pause });
            sleep(pause, progress)?;
            wait = (wait * 2).min(self.retry.longest);
        }
    }

    /// One request for the bytes that are still missing. Returns whether earlier bytes were used.
    fn attempt(&self, what: &Download<'_>, progress: &dyn Progress) -> Result<bool, Failed> {
        let (have, etag) = resumable(what);
        let mut request = self.following()?.get(what.url).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = what.bearer {
            request = request.bearer_auth(token);
        }
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
            if let Some(etag) = &etag {
                request = request.header(IF_RANGE, etag);
            }
        }
        let response = request.send().map_err(|e| unreachable(what.url, &e))?;
        let host = host_of(response.url());
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE && have > 0 {
            // More than there is, or exactly all of it: only a whole download can tell.
            forget(what.part)?;
            return Err(Failed::passing(FetchError::new(
                Kind::WrongContent,
                format!("{host} has fewer bytes than expected"),
            )));
        }
        if !status.is_success() {
            return Err(refused(what.url, what.bearer.is_some(), status, response.headers()));
        }
        not_a_web_page(&host, response.headers())?;
        let continues = status == StatusCode::PARTIAL_CONTENT && range_start(response.headers()) == Some(have);
        let start = if continues { have } else { 0 };
        let total = response.content_length().map(|n| n + start);
        expected_size(what, &host, total)?;
        receive(what, response, start, total, progress)?;
        Ok(start > 0)
    }

    fn following(&self) -> Result<&Client, FetchError> {
        client(&self.following, reqwest::redirect::Policy::limited(10))
    }

    fn still(&self) -> Result<&Client, FetchError> {
        client(&self.still, reqwest::redirect::Policy::none())
    }
}

fn client(slot: &OnceLock<Client>, redirects: reqwest::redirect::Policy) -> Result<&Client, FetchError> {
    if let Some(client) = slot.get() {
        return Ok(client);
    }
    // Another part of the process may have chosen a provider already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .user_agent(concat!("idiolect/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        // For a blocking client this bounds each wait for bytes, not the whole download.
        .timeout(Duration::from_secs(60))
        .redirect(redirects)
        .build()
        .map_err(|e| FetchError::new(Kind::Unreachable, format!("cannot set up HTTP: {}", chain(&e))))?;
    Ok(slot.get_or_init(|| client))
}

/// How many bytes of an earlier attempt can be built on, and the etag that they belong to.
fn resumable(what: &Download<'_>) -> (u64, Option<String>) {
    let have = fs::metadata(what.part).map_or(0, |m| m.len());
    let state = fs::read(state_path(what.part)).ok().and_then(|b| serde_json::from_slice::<PartState>(&b).ok());
    match state {
        Some(state) if state.url == what.url && have > 0 && what.bytes.is_none_or(|b| have < b) => {
            // A weak etag does not promise the same bytes.
            let etag = state.etag.filter(|e| !e.starts_with("W/"));
            if etag.is_some() || what.sha256.is_some() { (have, etag) } else { (0, None) }
        }
        _ => (0, None),
    }
}

fn receive(
    what: &Download<'_>,
    mut response: Response,
    start: u64,
    total: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), Failed> {
    let host = host_of(response.url());
    let etag = header(response.headers(), ETAG.as_str());
    let state = PartState { url: what.url.to_string(), etag };
    if let Some(folder) = what.part.parent() {
        cache::create_folder(folder)?;
    }
    enough_space(what.part, total.map(|t| t - start))?;
    let write_error = |e: std::io::Error| Failed::final_(FetchError::io("write", what.part, &e));
    let mut file = File::options().create(true).append(true).open(what.part).map_err(write_error)?;
    file.set_len(start).map_err(write_error)?;
    let text = serde_json::to_vec(&state).unwrap_or_default();
    cache::write_atomic(&state_path(what.part), &text)?;
    progress.event(Event::Started { file: what.file, from: what.from, done: start, bytes: total.or(what.bytes) });
    let mut buffer = vec![0; 1 << 16];
    let mut done = start;
    let mut shown = Instant::now();
    loop {
        if progress.stopping() {
            return Err(cache::interrupted().into());
        }
        let n = match response.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => {
                let message = format!("{host} cut the connection after {done} bytes: {}", chain(&e));
                let error = FetchError::new(Kind::Unreachable, message);
                return Err(Failed { moved: done > start, ..Failed::passing(error) });
            }
        };
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(write_error)?;
        done += n as u64;
        if shown.elapsed() > Duration::from_millis(100) {
            shown = Instant::now();
            progress.event(Event::Advanced { file: what.file, done });
        }
    }
    progress.event(Event::Advanced { file: what.file, done });
    match total.or(what.bytes) {
        Some(total) if done < total => {
            let message = format!("{host} sent {done} of {total} bytes");
            let error = FetchError::new(Kind::WrongContent, message);
            Err(Failed { moved: done > start, ..Failed::passing(error) })
        }
        _ => Ok(()),
    }
}

/// Checks a complete file and returns its SHA-256.
pub fn verify(path: &Path, bytes: Option<u64>, sha256: Option<&str>, from: &str) -> Result<String, FetchError> {
    expected_bytes(path, bytes, from)?;
    let digest = cache::sha256(path)?;
    expected_digest(&digest, sha256, from)?;
    Ok(digest)
}

/// Checks a file that has been here for a while; `digest` may remember. Without a checksum nothing is read.
pub fn verify_with(
    path: &Path,
    bytes: Option<u64>,
    sha256: Option<&str>,
    from: &str,
    digest: impl Fn(&Path) -> Result<String, FetchError>,
) -> Result<(), FetchError> {
    expected_bytes(path, bytes, from)?;
    match sha256 {
        Some(_) => expected_digest(&digest(path)?, sha256, from),
        None => Ok(()),
    }
}

fn expected_bytes(path: &Path, bytes: Option<u64>, from: &str) -> Result<(), FetchError> {
    let found = fs::metadata(path).map_err(|e| FetchError::io("read", path, &e))?.len();
    if let Some(expected) = bytes.filter(|b| *b != found) {
        let message = format!("expected {expected} bytes, {from} gave {found}");
        return Err(FetchError::new(Kind::WrongContent, message).help(CHANGED));
    }
    Ok(())
}

fn expected_digest(digest: &str, sha256: Option<&str>, from: &str) -> Result<(), FetchError> {
    match sha256 {
        Some(expected) if expected != digest => {
            let message = format!("expected the checksum sha256:{expected}, {from} gave sha256:{digest}");
            Err(FetchError::new(Kind::WrongContent, message).help(CHANGED))
        }
        _ => Ok(()),
    }
}

const CHANGED: &str =
    "the source has changed or is not to be trusted; if the new content is right, correct the manifest";

fn expected_size(what: &Download<'_>, host: &str, total: Option<u64>) -> Result<(), FetchError> {
    match (what.bytes, total) {
        (Some(expected), Some(total)) if expected != total => {
            let message = format!("expected {expected} bytes, {host} announces {total}");
            Err(FetchError::new(Kind::WrongContent, message).help(CHANGED))
        }
        _ => Ok(()),
    }
}

/// Login pages and proxies answer 200 with a page.
fn not_a_web_page(host: &str, headers: &HeaderMap) -> Result<(), FetchError> {
    match header(headers, CONTENT_TYPE.as_str()) {
        Some(kind) if kind.starts_with("text/html") => Err(FetchError::new(
            Kind::WrongContent,
            format!("{host} answered with a web page ({kind}) instead of data"),
        )
        .help("a login page or a proxy may stand in between; open the address in a browser")),
        _ => Ok(()),
    }
}

fn enough_space(part: &Path, missing: Option<u64>) -> Result<(), FetchError> {
    let folder = part.parent().unwrap_or(Path::new("."));
    let (Some(missing), Ok(free)) = (missing, fs4::available_space(folder)) else { return Ok(()) };
    if free >= missing {
        return Ok(());
    }
    let message = format!("{missing} bytes are still to come, and `{}` has room for {free}", folder.display());
    Err(FetchError::new(Kind::DiskFull, message)
        .help("free some space, or put the cache on another disk with IDIOLECT_CACHE"))
}

/// An answer that is neither success nor redirect.
fn refused(url: &str, with_token: bool, status: StatusCode, headers: &HeaderMap) -> Failed {
    let host = reqwest::Url::parse(url).map_or_else(|_| url.to_string(), |u| host_of(&u));
    // The hub says more precisely what it means.
    let detail = header(headers, "x-error-message").map(|m| format!(": {m}")).unwrap_or_default();
    let code = header(headers, "x-error-code");
    let answer = format!("{host} answered {status}{detail}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let help = match (code.as_deref(), with_token) {
                (Some("GatedRepo"), _) => {
                    "accept the model's terms on its page, and set HF_TOKEN to a token that may read it"
                }
                (_, false) => {
                    "it is private, gated or does not exist: check the name, or set HF_TOKEN to a token that may read it"
                }
                (_, true) => "the token (HF_TOKEN) may not read it: check the name and the token's rights",
            };
            Failed::final_(FetchError::new(Kind::Denied, answer).help(help))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Failed { wait: retry_after(headers), ..Failed::passing(FetchError::new(Kind::Unreachable, answer)) }
        }
        _ if status.is_server_error() => {
            Failed { wait: retry_after(headers), ..Failed::passing(FetchError::new(Kind::Unreachable, answer)) }
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Failed::final_(FetchError::new(Kind::NotFound, format!("{answer} for {url}")))
        }
        _ => Failed::final_(FetchError::new(Kind::Unreachable, format!("{answer} for {url}"))),
    }
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failed {
    let host = reqwest::Url::parse(url).map_or_else(|_| url.to_string(), |u| host_of(&u));
    let what = if error.is_timeout() { "does not answer" } else { "cannot be reached" };
    // The address is long and stands in the host already.
    let e = FetchError::new(Kind::Unreachable, format!("{host} {what}: {}", root(error)))
        .help("check the network, and HTTPS_PROXY and NO_PROXY if a proxy is needed");
    Failed { unanswered: error.is_connect(), ..Failed::passing(e) }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    header(headers, RETRY_AFTER.as_str())?.trim().parse().ok().map(Duration::from_secs)
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, CONTENT_RANGE.as_str())?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

fn host_of(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port().map_or_else(|| host.to_string(), |p| format!("{host}:{p}"))
}

/// An error with everything below it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(e) = below {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = e.source();
    }
    text
}

/// The bottom of an error: what the operating system or the TLS library said.
fn root(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}

fn state_path(part: &Path) -> std::path::PathBuf {
    beside(part, ".json")
}

/// Removes a part and what is known of it.
fn forget(part: &Path) -> Result<(), FetchError> {
    cache::remove_if_there(part)?;
    cache::remove_if_there(&state_path(part))
}

fn sleep(pause: Duration, progress: &dyn Progress) -> Result<(), FetchError> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        if progress.stopping() {
            return Err(cache::interrupted());
        }
        std::thread::sleep(Duration::from_millis(50).min(end - Instant::now().min(end)));
    }
    Ok(())
}

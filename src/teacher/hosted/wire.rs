//! The way to a provider: one HTTP client with the key, bounded in time and in size.

use crate::config::Hosted;
use crate::exec::RunError;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// The most bytes of an answer to one call; a model writes a thousandth of it.
const LARGEST: usize = 16 << 20;
/// The most characters of a provider's words in a message.
const LONGEST: usize = 300;

/// A client of one provider.
pub struct Wire {
    client: Client,
    key: Option<Key>,
}

/// A key and where it came from. Nothing prints it.
struct Key {
    value: String,
    variable: String,
}

/// What a server said, whole.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why a server's answer is not there.
#[derive(Debug)]
pub enum Trouble {
    /// No connection: nothing was sent.
    Unconnected(String),
    /// The connection ended before the answer did.
    Cut(String),
    TimedOut,
    TooLarge,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire {{ key: {:?} }}", self.key.as_ref().map(|k| &k.variable))
    }
}

impl Wire {
    /// A client whose requests carry the declared headers and those that `sign` makes of the key. `look_up` reads the
    /// environment.
    pub fn new(
        name: &str,
        hosted: &Hosted,
        look_up: &dyn Fn(&str) -> Option<String>,
        sign: impl Fn(Option<&str>) -> Vec<(&'static str, String)>,
    ) -> Result<Self, RunError> {
        let key = hosted.api_key_env.as_ref().map(|v| Key::read(name, &v.value, look_up)).transpose()?;
        let mut headers = HeaderMap::new();
        for (header, value) in sign(key.as_ref().map(|k| k.value.as_str())) {
            let mut value = HeaderValue::from_str(&value).map_err(|_| unfit_key(name, key.as_ref()))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(header), value);
        }
        for (header, value) in &hosted.headers {
            let unfit = || {
                RunError::failed("bad-header", format!("teacher `{name}` cannot send its header `{header}`"))
                    .help("names are ASCII words with `-`, values are visible ASCII")
            };
            let header = HeaderName::from_bytes(header.as_bytes()).map_err(|_| unfit())?;
            headers.insert(header, HeaderValue::from_str(value).map_err(|_| unfit())?);
        }
        Ok(Self { client: client(headers, hosted.limits.concurrency)?, key })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The variable that the key was read from.
    pub fn variable(&self) -> Option<&str> {
        self.key.as_ref().map(|k| k.variable.as_str())
    }

    /// Sends, and reads the whole answer, in this time.
    pub async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Reply, Trouble> {
        timeout(limit, receive(request)).await.unwrap_or(Err(Trouble::TimedOut))
    }

    /// A provider's words for a message: short, on one line, without the key.
    pub fn quote(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(&key.value, "***"),
            None => text.to_string(),
        };
        let mut line = String::new();
        for word in text.split_whitespace() {
            let space = usize::from(!line.is_empty());
            if line.len() + space + word.len() > LONGEST {
                let room = LONGEST.saturating_sub(line.len() + space);
                let end = (0..=room.min(word.len())).rev().find(|end| word.is_char_boundary(*end)).unwrap_or(0);
                return format!("{line}{}{}…", " ".repeat(space), &word[..end]);
            }
            line.extend(std::iter::repeat_n(' ', space));
            line.extend(word.chars().filter(|c| !c.is_control()));
        }
        line
    }
}

impl Key {
    fn read(name: &str, variable: &str, look_up: &dyn Fn(&str) -> Option<String>) -> Result<Self, RunError> {
        let value = look_up(variable).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let value = value.ok_or_else(|| {
            RunError::failed(
                "secret-missing",
                format!("teacher `{name}` takes its key from `{variable}`, and that is not set"),
            )
            .help(format!("export {variable}=... before the run"))
        })?;
        Ok(Self { value, variable: variable.to_string() })
    }
}

fn unfit_key(name: &str, key: Option<&Key>) -> RunError {
    let variable = key.map_or("its variable", |k| &k.variable);
    RunError::failed(
        "key-refused",
        format!("what `{variable}` holds for teacher `{name}` is no key: it has characters that no header can carry"),
    )
    .help("copy the key again: one line of visible ASCII")
}

fn client(headers: HeaderMap, connections: usize) -> Result<Client, RunError> {
    // Another part of the process may have chosen a provider already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("idiolect/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(connections)
        // A redirect would carry the key to wherever it points.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| RunError::failed("no-http", format!("cannot set up HTTP: {}", root(&e))))
}

async fn receive(request: RequestBuilder) -> Result<Reply, Trouble> {
    let mut response = request.send().await.map_err(trouble)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::with_capacity(response.content_length().unwrap_or(0).min(LARGEST as u64) as usize);
    while let Some(piece) = response.chunk().await.map_err(trouble)? {
        if body.len() + piece.len() > LARGEST {
            return Err(Trouble::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Reply { status, headers, body })
}

/// What went wrong on the way. The address stands in the declaration and is not repeated.
pub fn trouble(error: reqwest::Error) -> Trouble {
    let connecting = error.is_connect();
    match error.is_timeout() {
        true if connecting => Trouble::Unconnected("no connection in time".into()),
        true => Trouble::TimedOut,
        false if connecting => Trouble::Unconnected(root(&error)),
        false => Trouble::Cut(root(&error)),
    }
}

/// The bottom of an error: what the operating system or the TLS library said.
fn root(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_short_and_without_the_key() {
        let key = Key { value: "sk-secret".into(), variable: "K".into() };
        let wire = Wire { client: client(HeaderMap::new(), 1).unwrap(), key: Some(key) };
        assert_eq!(wire.quote(" bad\n key:\tsk-secret! "), "bad key: ***!");
        let long = wire.quote(&"wörter ".repeat(100));
        assert!(long.len() <= LONGEST + "…".len() && long.ends_with('…'), "{long}");
        let long = wire.quote(&"ö".repeat(1000));
        assert!(long.len() <= LONGEST + "…".len() && long.starts_with("öö"), "{long}");
        assert!(!format!("{wire:?}").contains("secret"));
    }
}

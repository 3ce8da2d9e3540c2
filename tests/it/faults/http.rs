//! As much HTTP/1.1 as clients of teachers speak: bodies of known length, connections that are kept.

use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: HashMap<String, String>,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// How a body gets on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delivery {
    Whole,
    /// Half of it, then the connection ends.
    Cut,
    /// Nothing at all.
    Hangup,
    /// A byte a tenth of a second.
    Drip,
}

pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    delivery: Delivery,
}

impl Request {
    /// The next request of a connection; `None` at its end.
    pub fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then_some(())?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_string());
        }
        let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs = query.split('&').filter_map(|p| p.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Some(Self { method, path: path.to_string(), query, headers, body })
    }

    /// The parts of a form, by name.
    pub fn parts(&self) -> HashMap<String, Vec<u8>> {
        let kind = self.headers.get("content-type").map_or("", String::as_str);
        let Some((_, boundary)) = kind.split_once("boundary=") else { return HashMap::new() };
        let boundary = format!("--{}", boundary.trim_matches('"'));
        // Parts of a test's own are text.
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let part = |part: &str| {
            let (head, content) = part.split_once("\r\n\r\n")?;
            let name = head.split_once("name=\"")?.1.split_once('"')?.0;
            Some((name.to_string(), content.strip_suffix("\r\n").unwrap_or(content).as_bytes().to_vec()))
        };
        text.split(&boundary).filter_map(part).collect()
    }
}

impl Response {
    pub fn new(status: u16, kind: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type".to_string(), kind.to_string())];
        Self { status, headers, body, delivery: Delivery::Whole }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string().into_bytes())
    }

    pub fn with(mut self, headers: &[(&'static str, String)]) -> Self {
        self.headers.extend(headers.iter().map(|(name, value)| (name.to_string(), value.clone())));
        self
    }

    pub fn delivered(self, delivery: Delivery) -> Self {
        Self { delivery, ..self }
    }

    /// Whether all of it is to arrive, sooner or later.
    pub fn arrives(&self) -> bool {
        matches!(self.delivery, Delivery::Whole | Delivery::Drip)
    }

    pub fn keeps_connection(&self) -> bool {
        self.delivery == Delivery::Whole
    }

    /// Whether all of it was sent.
    pub fn write(&self, mut stream: &TcpStream, done: &AtomicBool) -> bool {
        let mut head = format!("HTTP/1.1 {} Answer\r\ncontent-length: {}\r\n", self.status, self.body.len());
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        let sent = match self.delivery {
            Delivery::Whole => {
                bytes.extend_from_slice(&self.body);
                return stream.write_all(&bytes).is_ok();
            }
            Delivery::Cut => {
                bytes.extend_from_slice(&self.body[..self.body.len() / 2]);
                let _ = stream.write_all(&bytes);
                false
            }
            Delivery::Hangup => false,
            Delivery::Drip => {
                let drip = |stream: &mut &TcpStream, byte: &u8| {
                    std::thread::sleep(Duration::from_millis(100));
                    !done.load(Ordering::SeqCst) && stream.write_all(std::slice::from_ref(byte)).is_ok()
                };
                stream.write_all(&bytes).is_ok() && self.body.iter().all(|byte| drip(&mut stream, byte))
            }
        };
        let _ = stream.shutdown(Shutdown::Both);
        sent
    }
}

//! How fast nodes went, by what they told of themselves while they ran: `events.jsonl`.
//!
//! Speed is no part of an output, because two runs of the same pipeline give the same outputs.

use crate::report::plot::Point;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The file of a run's events, in its folder.
const EVENTS: &str = "events.jsonl";

/// Model tokens per second of each node, by the steps that it had done.
#[derive(Debug, Clone, Default)]
pub struct Speeds(HashMap<String, Vec<Point>>);

/// As much of an event as tells how far a node is.
#[derive(Deserialize)]
struct Progress {
    event: String,
    node: Option<String>,
    counts: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    done: u64,
    tokens: u64,
    seconds: f64,
}

impl Speeds {
    /// What the events of a run folder say; nothing where there are none. A line that is cut or strange says nothing.
    pub fn read(folder: &Path) -> Self {
        let Ok(file) = std::fs::File::open(folder.join(EVENTS)) else { return Self::default() };
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        Self::of(lines.filter_map(|line| serde_json::from_str(&line).ok()))
    }

    fn of(events: impl Iterator<Item = Progress>) -> Self {
        let (mut speeds, mut before): (HashMap<String, Vec<Point>>, HashMap<String, Counts>) = Default::default();
        for Progress { event, node, counts } in events {
            let (Some(node), Some(now)) = (node, counts) else { continue };
            if !matches!(event.as_str(), "node_progress" | "node_finished") {
                continue;
            }
            let Some(last) = before.get(&node) else {
                before.insert(node, now);
                continue;
            };
            let (tokens, seconds) = (now.tokens.saturating_sub(last.tokens), now.seconds - last.seconds);
            if now.done > last.done && tokens > 0 && seconds > 0.0 {
                let point = Point { x: now.done as f64, y: tokens as f64 / seconds, interval: None };
                speeds.entry(node.clone()).or_default().push(point);
                before.insert(node, now);
            }
        }
        Self(speeds)
    }

    /// Of a node by its whole name.
    pub fn of_node(&self, name: &str) -> &[Point] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_what_was_done_between_two_steps() {
        let folder = tempfile::tempdir().unwrap();
        let line = |node: &str, done: u64, tokens: u64, seconds: f64| {
            format!(
                r#"{{"event":"node_progress","node":"{node}","op":"x","counts":{{"done":{done},"tokens":{tokens},"seconds":{seconds},"more":1}}}}"#
            )
        };
        let lines = [
            line("train", 0, 0, 1.0),
            line("other", 0, 0, 1.0),
            line("train", 0, 0, 2.0),
            line("train", 1, 300, 4.0),
            "{\"event\":\"run_started\"}".into(),
            line("train", 3, 900, 6.0),
            "{\"event\":\"node_pro".into(),
        ];
        std::fs::write(folder.path().join(EVENTS), lines.join("\n")).unwrap();
        let speeds = Speeds::read(folder.path());
        let train: Vec<(f64, f64)> = speeds.of_node("train").iter().map(|p| (p.x, p.y)).collect();
        assert_eq!(train, [(1.0, 100.0), (3.0, 300.0)]);
        assert!(speeds.of_node("other").is_empty() && speeds.of_node("none").is_empty());
        assert!(Speeds::read(&folder.path().join("none")).of_node("train").is_empty());
    }
}

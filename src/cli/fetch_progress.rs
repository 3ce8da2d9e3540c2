//! Fetching as it is seen while it goes: a bar on a terminal, plain lines elsewhere.

use crate::fetch::{Event, Progress};
use crate::size;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often plain lines tell of progress.
const EVERY: Duration = Duration::from_secs(10);

/// Shows downloads on standard error.
pub struct FetchProgress {
    terminal: bool,
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    bytes: Option<u64>,
    last_line: Option<Instant>,
}

impl FetchProgress {
    /// When quiet, only warnings are shown.
    pub fn new(quiet: bool) -> Self {
        Self { terminal: !quiet && std::io::stderr().is_terminal(), quiet, state: Mutex::default() }
    }

    fn started(&self, state: &mut State, file: &str, from: &str, done: u64, bytes: Option<u64>) {
        state.bytes = bytes;
        state.last_line = Some(Instant::now());
        if self.terminal {
            let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = match bytes {
                Some(_) => "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
                None => "{spinner} {msg} {bytes}, {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> "));
            bar.set_message(file.to_string());
            bar.set_position(done);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(200));
            if let Some(old) = state.bar.replace(bar) {
                old.finish_and_clear();
            }
        } else {
            let what = bytes.map(|b| format!(" ({})", size::show(b))).unwrap_or_default();
            let resumed = if done > 0 { format!(", going on at {}", size::show(done)) } else { String::new() };
            self.say(state, &format!("fetching {file}{what} from {from}{resumed}"));
        }
    }

    fn advanced(&self, state: &mut State, file: &str, done: u64) {
        if let Some(bar) = &state.bar {
            bar.set_position(done);
        } else if state.last_line.is_none_or(|t| t.elapsed() > EVERY) {
            state.last_line = Some(Instant::now());
            let of = state.bytes.map(|b| format!(" of {}", size::show(b))).unwrap_or_default();
            self.say(state, &format!("fetching {file}: {}{of}", size::show(done)));
        }
    }

    fn say(&self, state: &State, line: &str) {
        if !self.quiet {
            print_above(state, line);
        }
    }
}

fn print_above(state: &State, line: &str) {
    match &state.bar {
        Some(bar) => bar.suspend(|| eprintln!("{line}")),
        None => eprintln!("{line}"),
    }
}

impl Progress for FetchProgress {
    fn event(&self, event: Event<'_>) {
        // A panic elsewhere must not silence the rest.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Started { file, from, done, bytes } => self.started(&mut state, file, from, done, bytes),
            Event::Advanced { file, done } => self.advanced(&mut state, file, done),
            Event::Retry { file, reason, wait } => {
                self.say(&state, &format!("{file}: {reason}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            Event::Waiting { file } => self.say(&state, &format!("{file}: another process is fetching it, waiting")),
            Event::Finished { .. } => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
            }
            Event::Warning(text) => print_above(&state, &format!("warning: {text}")),
        }
    }
}

impl Drop for FetchProgress {
    fn drop(&mut self) {
        if let Ok(State { bar: Some(bar), .. }) = self.state.get_mut() {
            bar.finish_and_clear();
        }
    }
}

//! A run as it is seen while it goes: bars on a terminal, plain lines elsewhere.

use crate::exec::{Counts, Event, Observer, TEXTS_OPEN, TOKENS_WRITTEN};
use crate::plan::NodeName;
pub use crate::report::words::{duration, number, rows};
use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use unicode_width::UnicodeWidthStr;

/// Bars shown at once; further running nodes are counted in one line.
const BARS: usize = 8;
/// With more nodes than this, only those that took a second or failed get a line when they finish.
const MANY: usize = 16;
/// How often plain lines tell of progress.
const EVERY: Duration = Duration::from_secs(10);
/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(15);

/// Shows a run on standard error.
pub struct Progress {
    bars: Option<MultiProgress>,
    quiet: bool,
    state: Mutex<State>,
}

struct State {
    started: Instant,
    to_run: usize,
    ended: usize,
    /// Running nodes in the order in which they started.
    running: Vec<(NodeName, Running)>,
    shown: Vec<ProgressBar>,
    footer: Option<ProgressBar>,
    last_line: Instant,
}

#[derive(Default)]
struct Running {
    counts: Counts,
    seen: VecDeque<(Instant, u64)>,
}

impl Running {
    fn update(&mut self, counts: &Counts, now: Instant) {
        self.counts = counts.clone();
        self.seen.push_back((now, counts.done));
        while self.seen.len() > 2 && now.duration_since(self.seen[0].0) > WINDOW {
            self.seen.pop_front();
        }
    }

    /// Rows a second, lately.
    fn rate(&self) -> Option<f64> {
        let ((start, from), (end, to)) = (self.seen.front()?, self.seen.back()?);
        let seconds = end.duration_since(*start).as_secs_f64();
        (seconds > 0.5 && to > from).then(|| (to - from) as f64 / seconds)
    }
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        let now = Instant::now();
        let state = State {
            started: now,
            to_run: 0,
            ended: 0,
            running: Vec::new(),
            shown: Vec::new(),
            footer: None,
            last_line: now,
        };
        Self { bars, quiet, state: Mutex::new(state) }
    }

    /// A handle that prints lines above the bars.
    pub fn printer(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let bars = self.bars.clone();
        move |line| print_line(bars.as_ref(), line)
    }

    /// A handle that answers a signal with a line above the bars. The bars leave the cursor at the right edge, where
    /// the `^C` that a terminal shows for the key goes to a line of its own: that line is taken back.
    pub fn answer(&self) -> impl Fn(&str, bool) + Send + Sync + 'static {
        let bars = self.bars.clone();
        move |line, by_key| {
            if by_key && bars.is_some() {
                eprint!("\x1b[A");
            }
            print_line(bars.as_ref(), line);
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            print_line(self.bars.as_ref(), text);
        }
    }

    fn progress(&self, state: &mut State, name: &NodeName, counts: &Counts) {
        let now = Instant::now();
        if let Some((_, running)) = state.running.iter_mut().find(|(n, _)| n == name) {
            running.update(counts, now);
        }
        match &self.bars {
            Some(bars) => draw(bars, state),
            None if now.duration_since(state.last_line) >= EVERY => {
                state.last_line = now;
                for (name, running) in &state.running {
                    self.line(&format!("  {}", describe(name, running, 200).trim_end()));
                }
            }
            None => {}
        }
    }

    fn finished(&self, state: &mut State, name: &NodeName, outcome: &str, message: Option<&str>, counts: &Counts) {
        state.running.retain(|(n, _)| n != name);
        state.ended += 1;
        let worth_a_line = state.to_run <= MANY || counts.seconds >= 1.0;
        match (outcome, message) {
            ("ran", _) if worth_a_line || self.bars.is_none() => {
                let quarantined = match counts.quarantined {
                    0 => String::new(),
                    n => format!(", {n} in quarantine"),
                };
                let rows = rows(counts.rows_out);
                self.line(&format!("  done      {name}: {rows}{quarantined}, {}", duration(counts.seconds)));
            }
            ("failed", Some(message)) => self.line(&format!("  failed    {name}: {message}")),
            _ => {}
        }
        if let Some(bars) = &self.bars {
            draw(bars, state);
        }
    }

    /// Takes the bars away.
    fn clear(&self, state: &mut State) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
            state.shown.drain(..).chain(state.footer.take()).for_each(|bar| bars.remove(&bar));
        }
    }
}

fn print_line(bars: Option<&MultiProgress>, line: &str) {
    match bars {
        Some(bars) => drop(bars.println(line)),
        None => eprintln!("{line}"),
    }
}

impl Observer for Progress {
    fn event(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::RunStarted { pipeline, nodes, to_run, .. } => {
                state.to_run = *to_run;
                if *to_run > 0 {
                    self.line(&format!("{pipeline}: {to_run} of {nodes} nodes to run"));
                }
            }
            // Said also when quiet: something on the disk is not as it was left.
            Event::ArtifactBroken { node, why, moved_to, .. } => print_line(
                self.bars.as_ref(),
                &format!(
                    "warning: the stored output of `{}` is damaged ({why}); moved to `{}`, running it again",
                    node.0,
                    moved_to.display()
                ),
            ),
            Event::NodeStarted { node, op, .. } => {
                state.running.push((node.0.clone(), Running::default()));
                if self.bars.is_none() {
                    self.line(&format!("  start     {} ({op})", node.0));
                }
            }
            Event::NodeProgress { node, counts, .. } => self.progress(&mut state, node.0, counts),
            Event::NodeFinished { node, outcome, message, counts, .. } => {
                self.finished(&mut state, node.0, outcome, message.as_deref(), counts);
            }
            Event::RunFinished { .. } => self.clear(&mut state),
            Event::NodeCached { .. } | Event::NodeSkipped { .. } | Event::TeacherSpent(_) => {}
        }
    }
}

/// Brings the bars in line with the state.
fn draw(bars: &MultiProgress, state: &mut State) {
    let style = ProgressStyle::with_template("{msg}").expect("a fixed template");
    let width = usize::from(console_width()).saturating_sub(1);
    let wanted = state.running.len().min(BARS);
    while state.shown.len() > wanted {
        // Removed and not finished: a finished bar leaves its line behind when lines above it come and go.
        state.shown.pop().into_iter().for_each(|bar| bars.remove(&bar));
    }
    while state.shown.len() < wanted {
        let bar = bars.insert(state.shown.len(), ProgressBar::new_spinner().with_style(style.clone()));
        state.shown.push(bar);
    }
    for (bar, (name, running)) in state.shown.iter().zip(&state.running) {
        bar.set_message(describe(name, running, width));
    }
    let footer = state.footer.get_or_insert_with(|| bars.add(ProgressBar::new_spinner().with_style(style)));
    let more = state.running.len() - wanted;
    let more = if more > 0 { format!(", {more} more running") } else { String::new() };
    let elapsed = duration(state.started.elapsed().as_secs_f64());
    footer.set_message(format!("  {} of {} nodes done{more}, {elapsed}", state.ended, state.to_run));
}

/// Columns of the terminal behind standard error; 80 when it does not say.
pub fn console_width() -> u16 {
    // SAFETY: `winsize` is plain numbers, for which zero is a value, and the call only writes into it.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &mut size);
        size
    };
    if size.ws_col == 0 { 80 } else { size.ws_col }
}

/// One running node in one line of at most `width` columns: name, rows, bar, rate, time left.
fn describe(name: &NodeName, running: &Running, width: usize) -> String {
    let counts = &running.counts;
    let total = counts.total.filter(|t| *t >= counts.done && *t > 0);
    let rate = running.rate();
    let rows = match total {
        Some(total) => format!("{}/{}", number(counts.done), number(total)),
        None => self::rows(counts.done),
    };
    let left = match (total, rate) {
        (Some(total), Some(rate)) => format!("{} left", duration((total - counts.done) as f64 / rate)),
        _ => String::new(),
    };
    let pace = match rate {
        Some(rate) => format!("{:>8} {left:<12}", format!("{}/s", speed(rate))),
        None => format!("{:<21}", writing(counts)),
    };
    let bar = total.map_or(String::new(), |total| bar(counts.done as f64 / total as f64));
    let loss = counts.measured.get("loss").map_or(String::new(), |loss| format!(" loss {loss:.3}"));
    let facts = format!("{rows:>17} {bar:<10} {pace}{loss}");
    let room = width.saturating_sub(facts.width() + 3).clamp(8, 44);
    format!("  {} {}", fit(&label(name), room), facts.trim_end())
}

/// What a node does that writes and of which no row ends.
fn writing(counts: &Counts) -> String {
    let measured = |name: &str| counts.measured.get(name).map_or(0, |value| *value as u64);
    match (measured(TEXTS_OPEN), measured(TOKENS_WRITTEN)) {
        (0, _) => String::new(),
        (open, 0) => format!("{} texts asked for", number(open)),
        (_, written) => format!("{} tokens written", number(written)),
    }
}

/// `scored[GSM8K, gpt-4]`: the values without the axes' names.
fn label(name: &NodeName) -> String {
    if name.bindings.0.is_empty() {
        return name.base.clone();
    }
    let values: Vec<&str> = name.bindings.0.iter().map(|(_, v)| v.as_str()).collect();
    format!("{}[{}]", name.base, values.join(", "))
}

/// The text in exactly `width` columns, cut with an ellipsis or filled with spaces.
fn fit(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    let whole = text.width() <= width;
    for c in text.chars() {
        let w = unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if used + w > if whole { width } else { width - 1 } {
            break;
        }
        out.push(c);
        used += w;
    }
    if !whole {
        out.push('…');
        used += 1;
    }
    out + &" ".repeat(width - used)
}

fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * 80.0).round() as usize;
    let part = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8];
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(part);
    }
    let fill = 10 - text.chars().count();
    text + &"·".repeat(fill)
}

fn speed(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { number(rate as u64) }
}

/// Values by key, in the order of the first of each.
pub fn grouped<K: std::hash::Hash + Eq, V>(items: impl Iterator<Item = (K, V)>) -> IndexMap<K, Vec<V>> {
    let mut groups: IndexMap<K, Vec<V>> = IndexMap::new();
    for (key, value) in items {
        groups.entry(key).or_default().push(value);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::IndexMapOrd;

    fn running(done: u64, total: Option<u64>) -> Running {
        let now = Instant::now();
        let mut running = Running::default();
        let counts = |done| Counts { done, total, ..Counts::default() };
        running.update(&counts(0), now - Duration::from_secs(10));
        running.update(&counts(done), now);
        running
    }

    #[test]
    fn a_line_fits_eighty_columns() {
        let pairs = ["set=GSM8K", "variant=a-very-long-variant-name-indeed", "target=student"];
        let pairs = pairs.map(|p| p.split_once('=').map(|(a, v)| (a.to_string(), v.to_string())).unwrap());
        let name = NodeName { base: "scored".into(), bindings: IndexMapOrd(pairs.to_vec()) };
        let line = describe(&name, &running(250, Some(1000)), 79);
        assert_eq!(line, "  scored[GSM8K, a-very-long…         250/1,000 ██▌·······     25/s 30 s left");
        for (done, total) in [(0, None), (5, None), (9_999_999, Some(9_999_999)), (123_456_789, Some(999_999_999))] {
            let line = describe(&name, &running(done, total), 79);
            assert!(line.width() <= 79, "{} columns: {line}", line.width());
        }
        assert_eq!(
            describe(&NodeName::plain("rows"), &running(5, None), 79).trim_end(),
            "  rows                                  5 rows               0.5/s"
        );
    }

    /// Before the first text ends, tokens tell that something happens.
    #[test]
    fn texts_under_way_are_shown_until_rows_end() {
        let line = |done: u64, open: f64, written: f64| {
            let mut running = running(done, Some(1319));
            running.counts.measured =
                [(TEXTS_OPEN, open), (TOKENS_WRITTEN, written)].map(|(n, v)| (n.into(), v)).into();
            let line = describe(&NodeName::plain("tested"), &running, 79);
            assert!(line.width() <= 79, "{} columns: {line}", line.width());
            line.split_once("1,319 ").unwrap().1.to_string()
        };
        assert_eq!(line(0, 256.0, 0.0), "·········· 256 texts asked for");
        assert_eq!(line(0, 256.0, 12_345.0), "·········· 12,345 tokens written");
        assert_eq!(line(0, 256.0, 123_456_789.0), "·········· 123.5M tokens written");
        // The time left follows the clock.
        let ends = line(10, 246.0, 12_345.0);
        assert!(ends.starts_with("▏·········    1.0/s ") && ends.trim_end().ends_with(" left"), "{ends}");
        assert_eq!(line(0, 0.0, 0.0), "··········");
    }

    #[test]
    fn bars_are_never_full_too_early() {
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(bar), ["··········", "█████·····", "█████████▉", "██████████"]);
    }

    #[test]
    fn groups_keep_the_first_order() {
        let items = [("a", 1), ("b", 2), ("a", 3)];
        let groups: Vec<_> = grouped(items.into_iter()).into_iter().collect();
        assert_eq!(groups, [("a", vec![1, 3]), ("b", vec![2])]);
    }
}

//! The training itself: optimizer steps on the model's lane, measurements, checkpoints.

use super::examples::{self, Cut, Examples};
use super::log::{self, Entry};
use super::settings::Settings;
use super::state::State;
use crate::exec::{NodeCx, RunError};
use crate::model::adapter::Adapter;
use crate::model::train::{Batches, Example, PassOptions, Trainer};
use crate::model::{AdapterFile, ModelLane, TextModel};
use crate::ops::rows::{Held, emit_in_batches};
use crate::ops::sample::drawn_seed;
use crate::ops::trained_on::TrainedOn;
use crate::ops::{FROM, adapters};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where no number of steps is given, a checkpoint is written this often.
const CHECKPOINT_TIME: Duration = Duration::from_secs(30);
/// A checkpoint takes at most one part in so many of the time.
const CHECKPOINT_COST: u32 = 50;
/// Ids that an error names.
const NAMED: usize = 5;

pub fn run(settings: &Settings, cx: &NodeCx) -> Result<(), RunError> {
    let lane = cx.model(&settings.model.value)?;
    let text = lane.text()?;
    let (train, validation) = read(settings, cx, &text)?;
    say_cut(settings, cx, &[("", train.cut), ("validation ", validation.cut)])?;
    let mut asked = train.questions;
    if settings.chooses() {
        asked.went_on_from(Some(validation.questions));
    }
    let mut training = Training::new(settings, cx, lane, &text, train.rows, validation.rows)?;
    training.resume();
    training.finish()?;
    training.give(asked)
}

/// The rows to train on and those to validate on.
fn read(settings: &Settings, cx: &NodeCx, text: &TextModel) -> Result<(Examples, Examples), RunError> {
    let mut held = Held::new(cx, "the tokens of the training rows");
    let port = |name: &str| cx.inputs().iter().position(|input| input.port == name);
    let mut read = |name: &str| match port(name) {
        Some(index) => examples::read(settings, cx, index, text, &mut held),
        None => Ok(Examples::default()),
    };
    let (train, validation) = (read(FROM[0].name)?, read("validation")?);
    let empty = |what: &str| {
        RunError::failed("no-rows", format!("there is no row to {what} on"))
            .help("look at the rows in quarantine for the reasons, and at the rows of the node before")
    };
    if train.rows.is_empty() && !settings.untrained {
        return Err(empty("train").help("`on-empty=\"untrained\"` gives an adapter that nothing has changed"));
    }
    if train.rows.is_empty() {
        cx.present(&format!("{}: no row to train on; the adapter is given as it begins\n", cx.node()))?;
    }
    if validation.rows.is_empty() && port("validation").is_some() {
        return Err(empty("validate"));
    }
    let mut both: Vec<&String> = train.ids.intersection(&validation.ids).collect();
    both.sort_unstable();
    if !both.is_empty() {
        let named: Vec<&str> = both.iter().take(NAMED).map(|id| id.as_str()).collect();
        let what = format!("{} rows are trained on and validated on, such as {}", both.len(), crate::ops::list(&named));
        return Err(RunError::failed("validation-overlap", what)
            .help("take validation rows of another split, or divide the rows with `filter` before"));
    }
    Ok((train, validation))
}

/// Tells the user of rows that were cut.
fn say_cut(settings: &Settings, cx: &NodeCx, cuts: &[(&str, Cut)]) -> Result<(), RunError> {
    for (kind, cut) in cuts.iter().filter(|(_, cut)| cut.rows > 0) {
        cx.present(&format!(
            "lora-train: {} {kind}rows were cut to {} prompt and {} response tokens, and lost {} tokens\n",
            cut.rows, settings.max_prompt, settings.max_response, cut.tokens
        ))?;
    }
    Ok(())
}

/// Refuses what would not fit, rather than let the system end the process in the midst of it.
fn check_memory(cx: &NodeCx, pass: &PassOptions, text: &TextModel, rows: &[Example]) -> Result<(), RunError> {
    let (needed, allowed) = (pass.bytes(&text.config, rows), cx.options().memory);
    if needed <= allowed {
        return Ok(());
    }
    let (needed, allowed) = (crate::size::show(needed), crate::size::show(allowed));
    let what = format!(
        "the rows computed at once would need {needed} for activations, and `memory` in `run` allows {allowed}"
    );
    Err(RunError::failed("out-of-memory", what).help(
        "lower `micro-batch` (rows computed at once), say `checkpointing #true`, or raise `memory`: none changes a result",
    ))
}

/// A training under way.
struct Training<'a> {
    settings: &'a Settings,
    cx: &'a NodeCx,
    lane: Arc<dyn ModelLane>,
    rows: Arc<Vec<Example>>,
    validation: Arc<Vec<Example>>,
    batches: Batches,
    steps: u64,
    /// When a checkpoint was last written, and how long that took.
    kept: (Instant, Duration),
    /// Behind a lock, for the lane's thread has it during a step.
    state: Arc<Mutex<State>>,
}

impl<'a> Training<'a> {
    /// A training before its first step.
    fn new(
        settings: &'a Settings,
        cx: &'a NodeCx,
        lane: Arc<dyn ModelLane>,
        text: &TextModel,
        rows: Vec<Example>,
        validation: Vec<Example>,
    ) -> Result<Self, RunError> {
        let seed = drawn_seed(settings.seed, cx);
        let adapter = match adapters::port(cx) {
            Some(at) => {
                let mut adapter = adapters::read(cx, at)?.adapter(&text.config)?;
                adapter.config.dropout = settings.lora.dropout;
                adapter
            }
            None => Adapter::new(settings.lora.clone(), &text.config, seed),
        };
        let steps = if rows.is_empty() { 0 } else { settings.steps(rows.len()) };
        let mut trainer = Trainer::new(adapter, settings.adam, settings.schedule(steps));
        (trainer.max_norm, trainer.seed) = (settings.max_norm, seed);
        trainer.pass.checkpointing = settings.checkpointing;
        if let Some(rows) = settings.micro_batch {
            trainer.pass = PassOptions { rows, tokens: usize::MAX, ..trainer.pass };
        }
        check_memory(cx, &trainer.pass, text, &rows)?;
        let batches = Batches { rows: rows.len(), batch: settings.batch, shuffled: settings.shuffle.then_some(seed) };
        Ok(Self {
            settings,
            cx,
            lane,
            rows: Arc::new(rows),
            validation: Arc::new(validation),
            batches,
            steps,
            kept: (Instant::now(), Duration::ZERO),
            state: Arc::new(Mutex::new(State { trainer, log: Vec::new(), best: None })),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A step that panicked has changed nothing: the adapter is updated at its very end.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Steps until there are no more, or the validation loss gets no better.
    fn finish(&mut self) -> Result<(), RunError> {
        let mut done = self.state().trainer.step;
        self.cx.progress(done, Some(self.steps));
        while done < self.steps && !self.out_of_patience() {
            if self.cx.stopping() {
                self.keep()?;
                return Err(RunError::Interrupted);
            }
            self.step(done)?;
            done += 1;
            if self.validates_after(done) {
                self.validate()?;
            }
            if self.checkpoint_is_due(done) {
                self.keep()?;
            }
            self.cx.progress(done, Some(self.steps));
        }
        Ok(())
    }

    /// Goes on from the node's checkpoint, if there is one.
    fn resume(&self) {
        if let Some(bytes) = self.cx.checkpoint() {
            // One that does not fit is of no use: the training begins anew, and comes to the same.
            self.state().restore(&bytes);
        }
    }

    fn checkpoint_is_due(&self, done: u64) -> bool {
        let (at, cost) = self.kept;
        match self.settings.checkpoint_every {
            Some(every) => done.is_multiple_of(every),
            None => at.elapsed() >= CHECKPOINT_TIME.max(cost * CHECKPOINT_COST),
        }
    }

    /// Writes a checkpoint: all that a killed run needs to go on from here.
    fn keep(&mut self) -> Result<(), RunError> {
        let start = Instant::now();
        let (bytes, done) = {
            let state = self.state();
            (state.encode()?, state.trainer.step)
        };
        self.cx.save_checkpoint(bytes, done, self.steps)?;
        self.kept = (Instant::now(), start.elapsed());
        Ok(())
    }

    fn out_of_patience(&self) -> bool {
        self.settings.patience.is_some_and(|patience| log::no_better(&self.state().log) >= patience)
    }

    fn validates_after(&self, done: u64) -> bool {
        let every = self.settings.validation_every.unwrap_or_else(|| self.batches.steps_per_epoch()).max(1);
        !self.validation.is_empty() && (done.is_multiple_of(every) || done == self.steps)
    }

    /// One optimizer step, of which `step` are done.
    fn step(&self, step: u64) -> Result<(), RunError> {
        let chosen = self.batches.of_step(step);
        let (state, rows) = (self.state.clone(), self.rows.clone());
        let (count, tokens) = (chosen.len(), chosen.iter().map(|row| rows[*row].tokens.len()).sum::<usize>());
        let report = self.lane.call(move |model| {
            let batch: Vec<&Example> = chosen.iter().map(|row| &rows[*row]).collect();
            state.lock().unwrap_or_else(|e| e.into_inner()).trainer.step(model.decoder(), &batch)
        });
        let report = report.map_err(|error| self.explained(error, step, count, tokens))?;
        self.cx.count_tokens(report.tokens as u64);
        let measured =
            [("loss", report.loss), ("learning_rate", report.learning_rate), ("grad_norm", report.grad_norm)];
        self.cx.measured(&measured);
        self.state().log.push(Entry {
            step: step + 1,
            epoch: self.batches.epoch(step) + 1,
            loss: report.loss,
            learning_rate: report.learning_rate,
            grad_norm: report.grad_norm,
            label_tokens: report.label_tokens as u64,
            tokens: report.tokens as u64,
            validation_loss: None,
        });
        Ok(())
    }

    /// What a failure of a step means here, and what to lower.
    fn explained(&self, error: RunError, step: u64, rows: usize, tokens: usize) -> RunError {
        let at = format!("`lora-train`, step {} of {rows} rows and {tokens} tokens", step + 1);
        match error {
            RunError::Failed { code: "loss-not-finite", message, .. } => {
                let help = format!(
                    "lower `learning-rate` (it was {:e} in this step), lengthen `warm-up`, or lower `max-norm`",
                    self.settings.schedule(self.steps).rate(step)
                );
                RunError::failed("loss-not-finite", format!("{at}: {message}")).help(help)
            }
            RunError::Failed { code: "out-of-memory", message, .. } => RunError::failed(
                "out-of-memory",
                format!("{at}: {message}"),
            )
            .help(
                "lower `micro-batch` (rows computed at once), or say `checkpointing #true`; neither changes a result",
            ),
            other => other,
        }
    }

    /// Measures the loss on the rows of `validation`, and keeps the adapter if there was none better. In calls of as many
    /// rows as a step has, so that other nodes have their turn.
    fn validate(&self) -> Result<(), RunError> {
        let (mut sum, mut labels) = (0.0, 0);
        let count = self.validation.len();
        for start in (0..count).step_by(self.settings.batch) {
            if self.cx.stopping() {
                return Err(RunError::Interrupted);
            }
            let rows = start..count.min(start + self.settings.batch);
            let (state, validation) = (self.state.clone(), self.validation.clone());
            let (part, part_labels) = self.lane.call(move |model| {
                let batch: Vec<&Example> = validation[rows].iter().collect();
                state.lock().unwrap_or_else(|e| e.into_inner()).trainer.loss(model.decoder(), &batch)
            })?;
            (sum, labels) = (sum + part, labels + part_labels);
        }
        self.cx.measured(&[("validation_loss", sum / labels as f64)]);
        let mut state = self.state();
        let state = &mut *state;
        if let Some(last) = state.log.last_mut() {
            last.validation_loss = Some(sum / labels as f64);
        }
        let is_best = log::best(&state.log).is_some_and(|at| at + 1 == state.log.len());
        if is_best && self.settings.keep_best != Some(false) {
            state.best = Some(state.trainer.adapter.values.clone());
        }
        Ok(())
    }

    /// Hands the adapter and the log on. `asked` is what it was trained on here.
    fn give(&self, mut asked: TrainedOn) -> Result<(), RunError> {
        let state = self.state();
        let mut adapter = state.trainer.adapter.clone();
        if let Some(best) = &state.best {
            adapter.values.clone_from(best);
        }
        let schema = self.cx.output_schema(0);
        if let Some(base) = adapters::merged_into(&*self.lane)? {
            asked.went_on_from(Some(base));
        }
        if let Some(at) = adapters::port(self.cx) {
            asked.went_on_from(TrainedOn::of_weights(&adapters::read(self.cx, at)?.weights));
        }
        let mut file = AdapterFile::new(&adapter, &adapters::base_name(&schema))?;
        file.weights = asked.put_into(&file.weights)?;
        self.cx.emit(0, adapters::batch(&schema, &file)?)?;
        emit_in_batches(self.cx, 1, &log::batch(&self.cx.output_schema(1), &state.log)?)
    }
}

//! The fields of `lora-train`.

use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::model::adapter::{LoraConfig, Target};
use crate::model::train::{AdamWConfig, Lengths, Schedule, Shape, WarmUp};
use crate::ops::{Default, FieldKind, FieldSpec, Fields};
use serde_json::json;

/// Names of linear layers, and the word for all of them.
const TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", ALL_LINEAR];
const ALL_LINEAR: &str = "all-linear";

/// Number of epochs where neither epochs nor steps are written: that of the transformers library's trainer.
const EPOCHS: u64 = 3;

const COUNT: FieldKind = FieldKind::Int { min: 1, max: u32::MAX as i64 };
const SHARE: FieldKind = FieldKind::Float { min: 0.0, max: 0.999_999 };

pub static FIELDS: &[FieldSpec] = &[
    FieldSpec::new("model", FieldKind::Model, "the model to train; its dtype is the one that it computes in").required(),
    FieldSpec::new("question", FieldKind::Column, "the column of user turns").default(Default::Str("question")),
    FieldSpec::new("response", FieldKind::Column, "the column of responses").default(Default::Str("response")),
    FieldSpec::new(
        "messages",
        FieldKind::Column,
        "instead of the two, a column of conversations: JSON lists of objects with `role` and `content`",
    ),
    FieldSpec::new(
        "system",
        FieldKind::Str,
        "the text of a system turn before every question; the template's own default if not given",
    ),
    FieldSpec::new(
        "mask-prompt",
        FieldKind::Bool,
        "only responses are labels; `#false`: the loss is over prompts as well",
    )
    .default(Default::Bool(true)),
    FieldSpec::new("max-prompt-tokens", COUNT, "the most tokens of all that is no response, those of the template included")
        .default(Default::Int(512)),
    FieldSpec::new("max-response-tokens", COUNT, "the most tokens of a response, or of all responses of a conversation")
        .default(Default::Int(1024)),
    FieldSpec::new(
        "on-too-long",
        FieldKind::Choice(&["quarantine", "truncate"]),
        "what becomes of a row that is too long: set aside, or cut",
    )
    .default(Default::Str("quarantine")),
    FieldSpec::new(
        "on-empty",
        FieldKind::Choice(&["fail", "untrained"]),
        "what becomes of a node without rows to train on: a failure, or an adapter that nothing has changed",
    )
    .default(Default::Str("fail")),
    FieldSpec::new("rank", FieldKind::Int { min: 1, max: 4096 }, "inner width of the update; 8 if not given"),
    FieldSpec::new(
        "alpha",
        FieldKind::Float { min: 1e-6, max: 1e6 },
        "the update is scaled by `alpha / rank`; 16 if not given",
    ),
    FieldSpec::new(
        "targets",
        FieldKind::List(&FieldKind::Choice(TARGETS)),
        "linear layers that get an update; `\"q_proj\" \"v_proj\"` if not given",
    ),
    FieldSpec::new("dropout", SHARE, "probability with which an input of an update is dropped in training")
        .default(Default::Float(0.0)),
    FieldSpec::new("learning-rate", FieldKind::Float { min: 1e-12, max: 10.0 }, "the rate at its highest")
        .default(Default::Float(2e-5)),
    FieldSpec::new(
        "schedule",
        FieldKind::Choice(&["cosine", "linear", "constant"]),
        "the rate's course after the warm-up: half a cosine to zero, straight to zero, or as it is",
    )
    .default(Default::Str("cosine")),
    FieldSpec::new(
        "warm-up",
        FieldKind::Float { min: 0.0, max: 1e9 },
        "steps in which the rate rises to its highest: below 1 a share of all steps (rounded up), otherwise a number",
    )
    .default(Default::Float(0.1)),
    FieldSpec::new(
        "warm-up-from",
        FieldKind::Choice(&["first-step", "zero"]),
        "what step `s` of `w` has of the rate: `s / w`, or `(s - 1) / w` as the transformers library has it, so that the \
         first step changes nothing",
    )
    .default(Default::Str("first-step")),
    FieldSpec::new("batch", COUNT, "rows of an optimizer step; an epoch's last step may have fewer")
        .default(Default::Int(32)),
    FieldSpec::new(
        "micro-batch",
        COUNT,
        "the most rows that are computed at once; fewer take less memory and change no result. Rows are packed, as many \
         as fit in 1024 tokens, if not given",
    ),
    FieldSpec::new("checkpointing", FieldKind::Bool, "compute activations twice: less memory, a third more work")
        .default(Default::Bool(false)),
    FieldSpec::new("epochs", COUNT, "how often each row is trained on; 3 if neither this nor `steps` is given"),
    FieldSpec::new("steps", COUNT, "number of optimizer steps, instead of epochs"),
    FieldSpec::new("shuffle", FieldKind::Bool, "draw a new order of the rows for each epoch").default(Default::Bool(true)),
    FieldSpec::new("weight-decay", FieldKind::Float { min: 0.0, max: 1.0 }, "decoupled weight decay of AdamW")
        .default(Default::Float(0.0)),
    FieldSpec::new("betas", FieldKind::List(&SHARE), "decay of AdamW's two running means; 0.9 and 0.999 if not given"),
    FieldSpec::new("eps", FieldKind::Float { min: 0.0, max: 1.0 }, "what AdamW adds to a root, against division by zero")
        .default(Default::Float(1e-8)),
    FieldSpec::new(
        "max-norm",
        FieldKind::Float { min: 0.0, max: 1e9 },
        "gradients are scaled down to this norm where theirs is greater; 0 leaves them as they are",
    )
    .default(Default::Float(1.0)),
    FieldSpec::new(
        "validation-every",
        COUNT,
        "steps after which the loss on the rows of `validation` is measured; an epoch's if not given",
    ),
    FieldSpec::new("patience", COUNT, "training ends after so many measurements in a row that were no better"),
    FieldSpec::new(
        "keep",
        FieldKind::Choice(&["best", "last"]),
        "which adapter is given: that of the lowest validation loss (as is usual where there are rows at `validation`), or \
         that of the last step",
    ),
    FieldSpec::new(
        "checkpoint-every",
        COUNT,
        "steps after which all that a killed run needs to go on is kept; about half a minute's if not given",
    ),
    FieldSpec::new(
        "seed",
        FieldKind::Int { min: 0, max: i64::MAX },
        "seed of the adapter's first values, the order of rows and dropout; otherwise drawn from the pipeline's seed and \
         the node's name",
    ),
];

/// Where a row's text is.
#[derive(Debug, Clone)]
pub enum Text {
    Pair { question: Spanned<String>, response: Spanned<String> },
    Messages(Spanned<String>),
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Epochs(u64),
    Steps(u64),
}

/// The fields as they were written.
#[derive(Debug)]
pub struct Settings {
    pub model: Spanned<String>,
    pub text: Text,
    pub system: Option<String>,
    pub mask_prompt: bool,
    pub max_prompt: usize,
    pub max_response: usize,
    pub truncate: bool,
    /// Without rows the adapter is given as it begins.
    pub untrained: bool,
    pub lora: LoraConfig,
    pub learning_rate: f64,
    pub shape: Shape,
    pub warm_up: f64,
    pub warm_up_from: WarmUp,
    pub batch: usize,
    pub micro_batch: Option<usize>,
    pub checkpointing: bool,
    pub length: Length,
    pub shuffle: bool,
    pub adam: AdamWConfig,
    pub max_norm: Option<f64>,
    pub validation_every: Option<u64>,
    pub patience: Option<u64>,
    /// Whether the best adapter was asked for, or the last one.
    pub keep_best: Option<bool>,
    pub checkpoint_every: Option<u64>,
    pub seed: Option<u64>,
    /// Written fields that mean something only where there are rows to validate on.
    pub about_validation: Vec<Spanned<&'static str>>,
    /// Written fields that a given adapter has already decided.
    pub about_shape: Vec<Spanned<&'static str>>,
}

impl Settings {
    pub fn of(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let count = |name: &str| fields.opt_int(name).map(|n| n.value as u64);
        let written = |names: &[&'static str]| -> Vec<Spanned<&'static str>> {
            names.iter().filter_map(|name| Some(Spanned::new(*name, fields.get(name)?.span))).collect()
        };
        let (text, betas, length) =
            (text(fields, diagnostics), betas(fields, diagnostics), length(fields, diagnostics));
        let warm_up = warm_up(fields, diagnostics);
        let system = fields.opt_str("system");
        let system_fits = match (&text, &system) {
            (Some(Text::Messages(_)), Some(system)) => {
                let what = "`system` is for questions: a conversation has its own system turn";
                diagnostics.push(Diagnostic::error("meaningless-field", what).at(system.span, "of no effect"));
                None
            }
            _ => Some(()),
        };
        let (text, betas, length, warm_up, ()) = (text?, betas?, length?, warm_up?, system_fits?);
        let shape = Shape::parse(&fields.str("schedule").value).expect("one of the field's choices");
        Some(Self {
            model: fields.str("model"),
            text,
            system: system.map(|s| s.value),
            mask_prompt: fields.bool("mask-prompt"),
            max_prompt: fields.int("max-prompt-tokens") as usize,
            max_response: fields.int("max-response-tokens") as usize,
            truncate: fields.str("on-too-long").value == "truncate",
            untrained: fields.str("on-empty").value == "untrained",
            lora: LoraConfig {
                rank: count("rank").unwrap_or(8) as usize,
                alpha: fields.opt_float("alpha").map_or(16.0, |a| a.value),
                dropout: fields.float("dropout"),
                targets: targets(fields),
            },
            learning_rate: fields.float("learning-rate"),
            shape,
            warm_up,
            warm_up_from: match fields.str("warm-up-from").value.as_str() {
                "zero" => WarmUp::FromZero,
                _ => WarmUp::FromFirstStep,
            },
            batch: fields.int("batch") as usize,
            micro_batch: count("micro-batch").map(|n| n as usize),
            checkpointing: fields.bool("checkpointing"),
            length,
            shuffle: fields.bool("shuffle"),
            adam: AdamWConfig { betas, eps: fields.float("eps"), weight_decay: fields.float("weight-decay") },
            max_norm: Some(fields.float("max-norm")).filter(|norm| *norm > 0.0),
            validation_every: count("validation-every"),
            patience: count("patience"),
            keep_best: fields.opt_str("keep").map(|keep| keep.value == "best"),
            checkpoint_every: count("checkpoint-every"),
            seed: count("seed"),
            about_validation: written(&["validation-every", "patience"])
                .into_iter()
                .chain(fields.opt_str("keep").filter(|k| k.value == "best").map(|k| Spanned::new("keep", k.span)))
                .collect(),
            about_shape: written(&["rank", "alpha", "targets"]),
        })
    }

    /// All that can change a byte of an output.
    pub fn canonical(&self) -> serde_json::Value {
        let text = match &self.text {
            Text::Pair { question, response } => json!({ "question": question.value, "response": response.value }),
            Text::Messages(column) => json!({ "messages": column.value }),
        };
        let targets: Vec<&str> = self.lora.targets.iter().map(|t| t.name()).collect();
        let (epochs, steps) = match self.length {
            Length::Epochs(epochs) => (Some(epochs), None),
            Length::Steps(steps) => (None, Some(steps)),
        };
        json!({
            "text": text,
            "system": self.system,
            "mask_prompt": self.mask_prompt,
            "max_prompt_tokens": self.max_prompt,
            "max_response_tokens": self.max_response,
            "truncate": self.truncate,
            "lora": {
                "rank": self.lora.rank,
                "alpha": self.lora.alpha,
                "dropout": self.lora.dropout,
                "targets": targets,
            },
            "learning_rate": self.learning_rate,
            "schedule": self.shape.name(),
            "warm_up": self.warm_up,
            "warm_up_from_zero": self.warm_up_from == WarmUp::FromZero,
            "batch": self.batch,
            "epochs": epochs,
            "steps": steps,
            "shuffle": self.shuffle,
            "weight_decay": self.adam.weight_decay,
            "betas": [self.adam.betas.0, self.adam.betas.1],
            "eps": self.adam.eps,
            "max_norm": self.max_norm,
            "validation_every": self.validation_every,
            "patience": self.patience,
            "keep_best": self.keep_best,
            "seed": self.seed,
        })
    }

    /// Whether rows at `validation` have a say in what is given.
    pub fn chooses(&self) -> bool {
        self.keep_best != Some(false) || self.patience.is_some()
    }

    /// Optimizer steps on so many rows.
    pub fn steps(&self, rows: usize) -> u64 {
        match self.length {
            Length::Epochs(epochs) => epochs.saturating_mul(rows.div_ceil(self.batch) as u64),
            Length::Steps(steps) => steps,
        }
    }

    pub fn schedule(&self, steps: u64) -> Schedule {
        let warm_up_steps = match self.warm_up < 1.0 {
            true => (self.warm_up * steps as f64).ceil() as u64,
            false => self.warm_up as u64,
        };
        Schedule { peak: self.learning_rate, shape: self.shape, steps, warm_up_steps, warm_up: self.warm_up_from }
    }

    pub fn lengths(&self, context: usize) -> Lengths {
        Lengths { prompt: self.max_prompt, response: self.max_response, context, truncate: self.truncate }
    }
}

fn text(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Text> {
    let (question, response) = (fields.str("question"), fields.str("response"));
    let Some(messages) = fields.opt_str("messages") else { return Some(Text::Pair { question, response }) };
    // A default is where the node is.
    let written = [&question, &response].into_iter().find(|field| field.span != fields.span);
    match written {
        None => Some(Text::Messages(messages)),
        Some(other) => {
            diagnostics.push(conflict("`messages`, or `question` and `response`", messages.span, other.span));
            None
        }
    }
}

fn length(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Length> {
    match (fields.opt_int("epochs"), fields.opt_int("steps")) {
        (Some(epochs), Some(steps)) => {
            diagnostics.push(conflict("`epochs` or `steps`", steps.span, epochs.span));
            None
        }
        (Some(epochs), None) => Some(Length::Epochs(epochs.value as u64)),
        (None, Some(steps)) => Some(Length::Steps(steps.value as u64)),
        (None, None) => Some(Length::Epochs(EPOCHS)),
    }
}

fn conflict(which: &str, one: Span, other: Span) -> Diagnostic {
    Diagnostic::error("conflicting-fields", format!("`lora-train` takes {which}, not both"))
        .at(one, "one of the two")
        .and(other, "and the other")
}

fn betas(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<(f64, f64)> {
    match fields.floats("betas").as_slice() {
        [] => Some(AdamWConfig::default().betas),
        [first, second] => Some((first.value, second.value)),
        given => {
            let error =
                Diagnostic::error("out-of-range", format!("`betas` are two numbers, and {} are given", given.len()))
                    .at(fields.span_of("betas"), "two are expected")
                    .help("`betas 0.9 0.999`");
            diagnostics.push(error);
            None
        }
    }
}

fn warm_up(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<f64> {
    let warm_up = fields.float("warm-up");
    if warm_up < 1.0 || warm_up.fract() == 0.0 {
        return Some(warm_up);
    }
    let error =
        Diagnostic::error("out-of-range", format!("`warm-up` is a share below 1 or a whole number, not {warm_up}"))
            .at(fields.span_of("warm-up"), "neither")
            .help("`warm-up 0.1` is a tenth of all steps, `warm-up 10` is ten steps");
    diagnostics.push(error);
    None
}

fn targets(fields: &Fields) -> Vec<Target> {
    let names = fields.strs("targets");
    if names.is_empty() {
        return LoraConfig::default().targets;
    }
    let of = |name: &str| match Target::parse(name) {
        Some(target) => vec![target],
        None => Target::ALL.to_vec(),
    };
    let mut targets: Vec<Target> = names.iter().flat_map(|name| of(&name.value)).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

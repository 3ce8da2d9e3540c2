//! The language's own nodes, described as operators are: the decoder and the reference read the same tables.

use crate::eval::answer::MARKER;
use crate::ops::{Default, FieldKind, FieldSpec};

/// A node of the language that is no operator.
#[derive(Debug)]
pub struct NodeSpec {
    pub name: &'static str,
    pub summary: &'static str,
    /// Markdown.
    pub doc: &'static str,
    /// What the argument is, where there is one.
    pub argument: Option<&'static str>,
    pub fields: &'static [FieldSpec],
    pub example: &'static str,
}

/// Every top-level node that is no operator, in the order of the reference.
pub static LANGUAGE: &[&NodeSpec] = &[&PIPELINE, &INCLUDE, &PARAM, &MODEL, &TEACHER, &TASK, &RUN, &MATRIX];

/// The node of that name.
pub fn find(name: &str) -> Option<&'static NodeSpec> {
    LANGUAGE.iter().copied().find(|n| n.name == name)
}

/// The types of parameters.
pub const PARAM_TYPES: &[&str] = &["string", "int", "float", "bool", "path", "list"];

const STR: FieldKind = FieldKind::Str;

pub static PIPELINE: NodeSpec = NodeSpec {
    name: "pipeline",
    summary: "Names the pipeline and fixes its seed",
    doc: "At most once, in the file that is run. Without it the pipeline is named after its file and has the seed 0.",
    argument: Some("the pipeline's name"),
    fields: &[
        FieldSpec::new("seed", FieldKind::Int { min: 0, max: i64::MAX }, "Fixes every random choice of the run")
            .default(Default::Int(0)),
        FieldSpec::new("doc", STR, "What the pipeline is for"),
    ],
    example: "pipeline \"figure-2\" seed=7 {\n    doc \"Mean perplexity of answers under a target model.\"\n}\n",
};

pub static INCLUDE: NodeSpec = NodeSpec {
    name: "include",
    summary: "Takes the params, models, teachers, matrices and nodes of another file",
    doc: "The path is relative to the file that includes. A file included twice is taken once; a circle is an error. \
          An included file has no `pipeline` and no `run` node.",
    argument: Some("the path of a file"),
    fields: &[],
    example: "include \"common.kdl\"\n",
};

pub static PARAM: NodeSpec = NodeSpec {
    name: "param",
    summary: "Declares a value that a run may set with `-P name=value`",
    doc: "Strings mention it as `${name}`. A string that is exactly one `${name}` takes the parameter's type. On the \
          command line the items of a list are separated by commas. A parameter without a default must be given.",
    argument: Some("the parameter's name"),
    fields: &[
        FieldSpec::new(
            "type",
            FieldKind::Choice(PARAM_TYPES),
            "A `path` given with `-P` is relative to the working directory, a default to its file; `list` is a list of strings",
        )
        .required(),
        FieldSpec::new("default", FieldKind::List(&FieldKind::Scalar), "The value when none is given"),
        FieldSpec::new("min", FieldKind::Float { min: f64::MIN, max: f64::MAX }, "Least value of a number"),
        FieldSpec::new("max", FieldKind::Float { min: f64::MIN, max: f64::MAX }, "Greatest value of a number"),
        FieldSpec::new(
            "choices",
            FieldKind::List(&FieldKind::Str),
            "The only strings allowed, for `string` and `list`",
        ),
        FieldSpec::new("doc", STR, "What the parameter means"),
    ],
    example: "param \"limit\" type=\"int\" default=48 min=1 max=100000 { doc \"Rows per variant\" }\n\
              param \"sets\" type=\"list\" { default \"GSM8K\" \"MATH\"; choices \"GSM8K\" \"MATH\" \"ECQA\" }\n",
};

pub static MODEL: NodeSpec = NodeSpec {
    name: "model",
    summary: "Declares a language model by name",
    doc: "Exactly one of `dataset`, `hub` and `path` says where the weights come from.",
    argument: Some("the model's name in this pipeline"),
    fields: &[
        FieldSpec::new("dataset", FieldKind::Dataset, "A manifest of kind `model`"),
        FieldSpec::new("hub", STR, "A repository of the Hugging Face hub: `org/name`"),
        FieldSpec::new("revision", STR, "Branch, tag or commit of the repository; only with `hub`"),
        FieldSpec::new("file", STR, "One file of the repository, such as a GGUF; only with `hub`"),
        FieldSpec::new("path", FieldKind::Path, "A GGUF file, or a folder with safetensors and a configuration"),
        FieldSpec::new(
            "dtype",
            FieldKind::Choice(&["f32", "bf16", "quantized"]),
            "Number format of the weights in memory; `quantized` keeps GGUF blocks as they are",
        )
        .default(Default::Str("f32")),
        FieldSpec::new(
            "context",
            FieldKind::Int { min: 1, max: 1 << 24 },
            "Context length in tokens, where the weights' own configuration is not to be followed",
        ),
        FieldSpec::new("chat-template", FieldKind::Path, "A Jinja file that replaces the model's own chat template"),
    ],
    example: "model \"student\" dataset=\"smollm2-135m-instruct\" dtype=\"f32\"\n\
              model \"other\" hub=\"org/name\" revision=\"main\" file=\"model-q4_1.gguf\"\n\
              model \"mine\" path=\"weights/model.gguf\" context=2048\n",
};

/// Fields of `api-key` inside a teacher.
const API_KEY: &[FieldSpec] = &[FieldSpec::new("env", STR, "The environment variable that holds the key").required()];

const MONEY: FieldKind = FieldKind::Float { min: 0.0, max: 1e9 };

/// Fields of `budget` inside a teacher.
const BUDGET: &[FieldSpec] = &[
    FieldSpec::new("money", MONEY, "US dollars; needs a price for the model"),
    FieldSpec::new("tokens", FieldKind::Int { min: 1, max: i64::MAX }, "Tokens, those read and those written together"),
];

/// Fields of `price` inside a teacher.
const PRICE: &[FieldSpec] = &[
    FieldSpec::new("input", MONEY, "US dollars for a million tokens read").required(),
    FieldSpec::new("output", MONEY, "US dollars for a million tokens written").required(),
    FieldSpec::new("cached-input", MONEY, "US dollars for a million tokens read from the provider's cache"),
];

const COUNT: FieldKind = FieldKind::Int { min: 1, max: i64::MAX };

pub static TEACHER: NodeSpec = NodeSpec {
    name: "teacher",
    summary: "Declares a writer of responses by name",
    doc: "`openai` speaks chat completions with any compatible server, `anthropic` speaks messages, `local` is a model of \
          the pipeline, and `replay` gives answers that were recorded. Keys are read from the environment and never \
          stand in a file. Limits and budgets never change an answer; what an answer depends on is the kind, the model, \
          the address and the body.",
    argument: Some("the teacher's name in this pipeline"),
    fields: &[
        FieldSpec::new(
            "kind",
            FieldKind::Choice(&["openai", "anthropic", "local", "replay"]),
            "The protocol that the teacher speaks",
        )
        .required(),
        FieldSpec::new("model", STR, "The model's name at the provider, or a `model` of this pipeline for `local`"),
        FieldSpec::new("base-url", STR, "Where the provider is reached, such as `http://localhost:8000/v1`"),
        FieldSpec::new("api-key", FieldKind::Records(API_KEY), "Where the key comes from: `api-key env=\"NAME\"`"),
        FieldSpec::new("organization", STR, "The organisation that pays, at providers that know several"),
        FieldSpec::new("headers", FieldKind::Map(&STR), "Headers of every request; never one that carries a key"),
        FieldSpec::new("body", STR, "Members of every request's body besides our own: a JSON object as text"),
        FieldSpec::new("batch", FieldKind::Bool, "Asks through the provider's batch API: cheaper, and slow"),
        FieldSpec::new(
            "concurrency",
            FieldKind::Int { min: 1, max: 4096 },
            "Calls that are open at once; 16 if not given",
        ),
        FieldSpec::new(
            "requests-per-minute",
            COUNT,
            "Calls begun in a minute; fewer where the provider's answers say so",
        ),
        FieldSpec::new("tokens-per-minute", COUNT, "Tokens in a minute; fewer where the provider's answers say so"),
        FieldSpec::new(
            "timeout",
            FieldKind::Float { min: 0.1, max: 86_400.0 },
            "Seconds that a call may take; 120 if not given",
        ),
        FieldSpec::new(
            "retries",
            FieldKind::Int { min: 0, max: 100 },
            "How often a call that failed is made again, when that may help; 5 if not given",
        ),
        FieldSpec::new("budget", FieldKind::Records(BUDGET), "What a run may spend; it stops before it spends more"),
        FieldSpec::new(
            "price",
            FieldKind::Records(PRICE),
            "What the model costs, where the built-in table is not to be followed",
        ),
        FieldSpec::new("record", FieldKind::Path, "A file for all of the teacher's answers, which `replay` reads"),
        FieldSpec::new("path", FieldKind::Path, "Of `replay`: the file of answers"),
        FieldSpec::new("dataset", FieldKind::Dataset, "Of `replay`: instead of `path`, a data set by its manifest"),
        FieldSpec::new("split", STR, "Of `replay`: the split of the data set; may be left out if it has one"),
        FieldSpec::new(
            "on",
            FieldKind::List(&FieldKind::Str),
            "Of `replay`: the columns by which rows find their answers, such as `id` or `question`; not for a file that \
             `record` wrote",
        ),
        FieldSpec::new("id-prefix", STR, "Of `replay`: what ids of its rows begin with, as in `load`"),
        FieldSpec::new("answer", STR, "Of `replay`: the column of answers; `response` if not given"),
    ],
    example: "teacher \"gpt4\" kind=\"openai\" model=\"gpt-4-1106-preview\" concurrency=8 {\n    \
              api-key env=\"OPENAI_API_KEY\"\n    budget money=5.0\n}\n",
};

pub static TASK: NodeSpec = NodeSpec {
    name: "task",
    summary: "Declares what a model is asked, how its answer is read and when it is right",
    doc: "`evaluate` names a task. Those that come with the program (`docs/evaluation.md`) are declared in the same way; a \
          declaration of the same name takes the place of one of them. Prompts are Jinja; each variable is a column.",
    argument: Some("the task's name"),
    fields: &[
        FieldSpec::new(
            "kind",
            FieldKind::Choice(&["generate", "multiple-choice"]),
            "How an answer comes about: `generate` has the model write it, `multiple-choice` takes the likeliest of several \
             texts",
        )
        .default(Default::Str("generate")),
        FieldSpec::new("prompt", STR, "The user's turn, or all turns in `{% call user() %}`")
            .default(Default::Str("{{ question }}")),
        FieldSpec::new("request", STR, "What stands below the prompt, unless the marker is in the prompt already"),
        FieldSpec::new("marker", STR, "What stands before a final answer").default(Default::Str(MARKER)),
        FieldSpec::new("optional", FieldKind::List(&FieldKind::Column), "Columns that the prompt may do without"),
        FieldSpec::new("gold", FieldKind::Column, "The column of right answers; a list holds several that are right")
            .default(Default::Str("gold")),
        FieldSpec::new(
            "gold-pattern",
            STR,
            "A regular expression that takes the right answer out of its column: its first group, or all of it; the last match",
        ),
        FieldSpec::new(
            "extract",
            FieldKind::Choice(super::tasks::READINGS),
            "What of an output is the answer: the first `number` after the marker, a number in a box (`boxed`), one of five \
             options after the marker (`option`), a program after it that the row's tests judge (`code`), what `pattern` finds (`regex`), all that follows the marker (`marked`), or \
             the whole `text`",
        )
        .default(Default::Str("text")),
        FieldSpec::new("pattern", STR, "The regular expression of `extract \"regex\"`"),
        FieldSpec::new(
            "group",
            FieldKind::Int { min: 0, max: 99 },
            "Which group of the expression is the answer; the first if it has any, otherwise the whole match",
        ),
        FieldSpec::new("take", FieldKind::Choice(&["first", "last"]), "Which match is the answer")
            .default(Default::Str("last")),
        FieldSpec::new(
            "match",
            FieldKind::Choice(super::tasks::MATCHES),
            "When an answer is right: the same number at two decimals, the same option, the same text, or one that the right \
             text stands in; by default as the answer is read",
        ),
        FieldSpec::new(
            "ignore",
            FieldKind::List(&FieldKind::Choice(crate::eval::task::Normal::NAMES)),
            "What does not count when texts are compared; white space at their ends never does",
        ),
        FieldSpec::new(
            "options",
            FieldKind::List(&FieldKind::Column),
            "The columns of the five options' texts; `option_1` to `option_5` if not given",
        ),
        FieldSpec::new(
            "metric",
            FieldKind::List(&FieldKind::Choice(&["rouge-l"])),
            "What is measured besides whether an answer is right: `rouge-l` against the best of the right answers",
        ),
        FieldSpec::new("wrong", FieldKind::Column, "A column of wrong answers: ROUGE-L against the best of them is taken off"),
        FieldSpec::new(
            "choices",
            FieldKind::List(&FieldKind::Column),
            "Of `multiple-choice`: the column with a list of texts, or the columns with a text each",
        ),
        FieldSpec::new(
            "continuation",
            STR,
            "Of `multiple-choice`: what follows the prompt, with `{{ choice }}`, `{{ letter }}` and `{{ number }}`; the \
             choice's text if not given",
        ),
        FieldSpec::new(
            "gold-as",
            FieldKind::Choice(crate::eval::task::GoldAs::NAMES),
            "Of `multiple-choice`: what the column of right answers holds: a place from 0 (`index`) or 1 (`number`), a \
             letter, a text, or a flag for each choice; `index` if not given",
        ),
        FieldSpec::new(
            "format",
            FieldKind::Choice(&["chat", "text"]),
            "Whether the prompt goes into the model's chat template or to the model as it is",
        )
        .default(Default::Str("chat")),
        FieldSpec::new("max-tokens", FieldKind::Int { min: 1, max: 1 << 20 }, "The most tokens of an answer")
            .default(Default::Int(1024)),
        FieldSpec::new("stop", FieldKind::List(&FieldKind::Str), "Texts that end an answer where they first appear"),
    ],
    example: "task \"capitals\" kind=\"generate\" {\n    prompt \"What is the capital of {{ country }}?\"\n    \
              request \"Say it after '{{ marker }}'\"\n    extract \"marked\"\n    gold \"capital\"\n    \
              ignore \"case\" \"punctuation\"\n}\n",
};

pub static RUN: NodeSpec = NodeSpec {
    name: "run",
    summary: "Bounds the resources of a run; never changes a result",
    doc: "At most once, in the file that is run.",
    argument: None,
    fields: &[
        FieldSpec::new("batch-rows", FieldKind::Int { min: 1, max: 1 << 24 }, "Rows of a batch between operators")
            .default(Default::Int(1024)),
        FieldSpec::new(
            "channel-batches",
            FieldKind::Int { min: 1, max: 1 << 16 },
            "Batches that an edge holds before its producer waits",
        )
        .default(Default::Int(4)),
        FieldSpec::new(
            "memory",
            FieldKind::Scalar,
            "Bytes that a sort, join or other barrier may hold: `\"4GiB\"`, `\"512MB\"` or a number of bytes",
        )
        .default(Default::Str("4GiB")),
        FieldSpec::new("stages", FieldKind::Int { min: 1, max: 1024 }, "Stages that run at once")
            .default(Default::Int(4)),
        FieldSpec::new(
            "tolerance",
            FieldKind::Float { min: 0.0, max: 1.0 },
            "Share of a node's rows that may go to quarantine before the run counts as failed",
        )
        .default(Default::Float(0.0)),
    ],
    example: "run { batch-rows 1024; channel-batches 4; memory \"4GiB\"; stages 4; tolerance 0.0 }\n",
};

pub static MATRIX: NodeSpec = NodeSpec {
    name: "matrix",
    summary: "Declares a sweep: nodes with `matrix=\"name\"` get one instance for each cell",
    doc: "Each child node is an axis and its arguments are the axis's values. A value with attributes has a node of its \
          own. Strings of a node in the sweep mention a value as `${axis}` and an attribute as `${axis.attribute}`. \
          `keep` restricts axes to some values, `exclude` drops cells.",
    argument: Some("the matrix's name"),
    fields: &[],
    example: "matrix \"cells\" {\n    set \"GSM8K\" \"MATH\"\n    variant \"groundtruth\" file=\"groundtruth.json\"\n    \
              variant \"gpt-4\" file=\"openai_gpt4_data.json\"\n    keep set=\"GSM8K\"\n    \
              exclude set=\"MATH\" variant=\"gpt-4\"\n}\n",
};

/// Fields that every operator node has besides its own. `doc` may mention the axes of the node.
pub static COMMON: &[FieldSpec] = &[
    FieldSpec::new("matrix", STR, "The sweep that the node takes part in"),
    FieldSpec::new(
        "over",
        FieldKind::List(&FieldKind::Str),
        "Only these axes of the matrix: one instance for each distinct combination of their values",
    ),
    FieldSpec::new(
        "tolerance",
        FieldKind::Float { min: 0.0, max: 1.0 },
        "Share of the node's rows that may go to quarantine, instead of the run's",
    ),
    FieldSpec::new(
        "unused",
        FieldKind::Choice(&["ok", "skip"]),
        "what becomes of a node that nobody reads: `ok` runs it, `skip` leaves it out, where a parameter chooses who is read",
    ),
];

/// `doc` of an operator node.
pub static DOC: &[FieldSpec] = &[FieldSpec::new("doc", STR, "What the node is for")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use crate::diag::{Diagnostics, Sources, render};

    #[test]
    fn every_example_decodes() {
        for node in LANGUAGE.iter().filter(|n| n.name != "include") {
            let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
            load_text("example", node.example, &[], &mut sources, &mut diagnostics).expect("a pipeline");
            assert!(!diagnostics.has_errors(), "{}", render(&diagnostics, &sources, false));
            assert!(find(node.name).is_some_and(|n| !n.doc.is_empty() && node.example.starts_with(n.name)));
        }
    }

    #[test]
    fn no_operator_takes_a_name_of_the_language() {
        for op in crate::ops::REGISTRY {
            assert!(find(op.name).is_none(), "{}", op.name);
            let taken: Vec<&str> = COMMON.iter().chain(DOC).map(|f| f.name).collect();
            let own: Vec<&str> = op.inputs.iter().map(|i| i.name).chain(op.fields.iter().map(|f| f.name)).collect();
            for (i, name) in own.iter().enumerate() {
                assert!(!taken.contains(name) && !own[..i].contains(name), "`{name}` of `{}`", op.name);
            }
        }
    }
}

//! Every diagnostic code, explained: the source of `docs/diagnostics.md`.

/// A diagnostic code and what it means.
#[derive(Debug)]
pub struct Code {
    pub code: &'static str,
    /// One line, without a full stop.
    pub title: &'static str,
    /// Markdown: why it is reported and what to do.
    pub doc: &'static str,
}

/// The explanation of a code.
pub fn explain(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|c| c.code == code)
}

/// The reference page of all codes.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Diagnostics\n\nEvery message of `idiolect` has a stable code, in brackets after its severity, and in the field `code` of `check --json`.\n",
    );
    for code in CODES {
        page += &format!("\n## {}\n\n**{}.** {}\n", code.code, code.title, code.doc);
    }
    page
}

const fn code(code: &'static str, title: &'static str, doc: &'static str) -> Code {
    Code { code, title, doc }
}

/// In alphabetical order.
pub static CODES: &[Code] = &[
    code(
        "adapter-file",
        "An adapter's files cannot be read",
        "An adapter is a folder of the peft library with `adapter_config.json` and `adapter_model.safetensors`. One of them is \
missing, is damaged, or holds values that are not finite.",
    ),
    code(
        "adapter-mismatch",
        "An adapter does not fit the model",
        "Every tensor of the adapter must have its place in the model, with the same shape, and every layer that it says it \
changes must have its tensors. Use the adapter with the model that it was trained on.",
    ),
    code(
        "adapter-of-another-model",
        "An adapter is used with weights that it was not trained on",
        "The plan knows which model an adapter of `lora-train` belongs to. Use it with a model of the same weights; the dtype \
may be another.",
    ),
    code(
        "adapter-rows",
        "An input does not give exactly one adapter",
        "The port `adapter` reads one row with the columns `adapter_config` and `adapter_weights`. Over a sweep, the reference \
must choose one instance; several rows can be narrowed down with `filter`.",
    ),
    code(
        "adapter-unsupported",
        "An adapter of a kind that is not supported",
        "LoRA adapters on the linear layers of attention and MLP are supported, with one rank and one alpha for all of them. \
Other kinds of peft (DoRA, biases, whole modules that were trained, patterns of ranks) are not.",
    ),
    code(
        "adapter-without-model",
        "An adapter where no model of the pipeline is used",
        "An adapter changes the weights of a model that runs here. Name the model with `model=`; for a local teacher give \
`model=` in place of `teacher=`.",
    ),
    code(
        "ambiguous-fingerprint",
        "Several outputs have that beginning",
        "`store explain` takes the first characters of a fingerprint as long as only one output begins with them.",
    ),
    code(
        "ambiguous-instances",
        "A reference means several instances",
        "A node with fewer matrix axes than its producer would read several instances through a port that takes one. Give the node the same `matrix` and axes, or gather the instances with `concat`.",
    ),
    code(
        "ambiguous-name",
        "A parameter and an axis share a name",
        "`${name}` would mean two things in a node of the sweep. Rename one of them.",
    ),
    code(
        "arrow",
        "An operation on columns failed",
        "The message has the column library's words. Most often the memory or a limit of a type is exceeded.",
    ),
    code(
        "artifact-gone",
        "A finished output went away during the run",
        "Something removed it from the store. Run the same command again.",
    ),
    code(
        "bad-character",
        "A character has no meaning here",
        "Control characters are allowed nowhere in KDL; brackets, slashes and backslashes mean nothing outside of strings. Paths stand in quotes, and lists are written as several values.",
    ),
    code(
        "bad-column",
        "A new column does not say what it holds",
        "A column of `derive` has either an expression or a constant value, and exactly one of them.",
    ),
    code(
        "bad-data-file",
        "A data file cannot be read as its format",
        "The file is damaged, cut short, or of another format than its name or `format` says. Check the file; `format` overrides the name.",
    ),
    code(
        "bad-delimiter",
        "A delimiter is not one character",
        "The delimiter of a CSV file is one ASCII character, such as `\",\"` or `\"\\t\"`.",
    ),
    code(
        "bad-escape",
        "An escape in a string does not exist",
        "KDL knows `\\n`, `\\t`, `\\r`, `\\s`, `\\b`, `\\f`, `\\\"`, `\\\\` and `\\u{...}`. Double a backslash that is meant as one, or write a raw string: `#\"...\"#`.",
    ),
    code(
        "bad-example",
        "A few-shot example cannot be used",
        "Its row lacks a value that the prompt needs, or its answer. The message has the row's id.",
    ),
    code(
        "bad-expression",
        "An expression cannot be used",
        "It does not parse, uses a function that does not exist, or has another type than its place needs. Conditions are booleans.",
    ),
    code(
        "bad-file-name",
        "A node names a file outside of the run's folder",
        "Names of files are relative, without `..`.",
    ),
    code(
        "bad-glob",
        "A path is no valid glob pattern",
        "`*`, `**`, `?` and `[...]` match files; a bracket that is meant as one is written `[[]`.",
    ),
    code(
        "bad-header",
        "A header cannot be sent",
        "Names of headers are ASCII words with `-`; values are visible ASCII on one line.",
    ),
    code(
        "bad-include",
        "An include names no file",
        "`include` takes one path in quotes, relative to the file that includes. It may name string parameters that are \
declared above it, as `${name}`.",
    ),
    code(
        "bad-interpolation",
        "A `${...}` is not well formed",
        "Write `${name}` or `${axis.attribute}` and close the brace. A literal `${` is written `$${`.",
    ),
    code(
        "bad-json",
        "A field must hold JSON and does not",
        "The message says where the JSON breaks off and what is expected.",
    ),
    code(
        "bad-keyword",
        "A word after `#` is no keyword",
        "The keywords are `#true`, `#false`, `#null`, `#inf`, `#-inf` and `#nan`.",
    ),
    code(
        "bad-manifest",
        "A manifest is wrong",
        "A file in `datasets/` or one that is built in does not say what a manifest must say. The message names the field.",
    ),
    code(
        "bad-multiline-string",
        "A multi-line string is not set as KDL wants it",
        "Text stands on the lines between the two `\"\"\"`, indented at least as far as the closing one.",
    ),
    code(
        "bad-name",
        "A name has characters that names cannot have",
        "Names are made of letters, digits, `-` and `_`: a dot separates a node from its output and an axis from its attribute.",
    ),
    code(
        "bad-names",
        "The tables of a query are not named one by one",
        "`names` gives each input of `sql` a table name, in order.",
    ),
    code(
        "bad-number",
        "A word begins like a number and is none",
        "Numbers are decimal, `0x`, `0o` or `0b`, with at most 64 bits. A string that begins like a number stands in quotes.",
    ),
    code(
        "bad-options",
        "The options are not five columns",
        "One column for each option, in the order of their numbers.",
    ),
    code(
        "bad-prompt",
        "A prompt's file is no valid template",
        "The message has the line and what is wrong there. The page on prompts shows how one is written.",
    ),
    code(
        "bad-query",
        "A query cannot be used",
        "It is no SELECT, does not parse, or reads a table or column that is not there.",
    ),
    code(
        "bad-recording",
        "Recorded answers are damaged",
        "A recording is used as a whole: half of it would make other rows than the whole. Record it again, or mend the row that the message names.",
    ),
    code(
        "bad-reference",
        "A port does not name a node",
        "References are strings: `\"node\"`, or `\"node.output\"` for one of several outputs.",
    ),
    code(
        "bad-regex",
        "A regular expression cannot be used",
        "The message says what is wrong with it. The syntax is that of Rust's regex crate: linear time, and so neither look-around nor back-references.",
    ),
    code(
        "bad-size",
        "A size cannot be read",
        "Sizes are a number of bytes, or a number with a unit: `\"512MiB\"`, `\"4GiB\"`, `\"1.5GB\"`.",
    ),
    code("bad-sort", "The order of rows contradicts itself", "`descending` names only columns that `by` names."),
    code(
        "bad-url",
        "An address is none",
        "`base-url` is where a provider's interface begins: `https://` or `http://`, a host and a path, without query or password.",
    ),
    code(
        "bare-keyword",
        "A keyword lacks its `#`",
        "KDL 2 writes `#true`, `#false` and `#null`. In quotes they are strings.",
    ),
    code(
        "baseline-absent",
        "The method to compare with does not occur",
        "`baseline` of `compare` names a value of the `method` column, or of that matrix axis. The message lists the values that there are.",
    ),
    code(
        "batch-cancelled",
        "A batch was cancelled at the provider",
        "What it had answered is kept. Run again, and the other calls are sent anew.",
    ),
    code(
        "batch-gone",
        "A provider does not know a batch that was sent",
        "The key may be of another account or project than the one that sent it: use that one's. Results are kept for about a month. Asked without `batch=#true`, the calls are made, and paid, again.",
    ),
    code(
        "batch-refused",
        "A provider refuses a batch",
        "Nothing of it was asked. The message has the provider's words; without `batch=#true` calls are made one by one.",
    ),
    code(
        "budget-spent",
        "A teacher's budget does not cover the next call",
        "Nothing more was asked once the most that a call can cost no longer fitted. What was answered is kept: raise `budget` and run again, and only the rest is asked for.",
    ),
    code(
        "chat-template-absent",
        "A model has no chat template",
        "Scoring and generating put conversations into the model's own template. Give the model one with `chat-template`.",
    ),
    code("checkpoint", "Where a training has got to cannot be kept", "The message has the reason."),
    code(
        "choices-need-model",
        "A multiple choice is asked of a teacher",
        "Choices are made by likelihoods, which a model of the pipeline gives and a teacher does not: name it with `model`.",
    ),
    code(
        "column-clash",
        "Two columns would have one name",
        "Rename a column before with `select`, or choose another suffix.",
    ),
    code(
        "column-missing",
        "A column is not there",
        "The node reads a column that its input does not have. The message lists what the producer gives.",
    ),
    code(
        "column-type",
        "A column has another type than is needed",
        "The message points at the reader and at the producer. Convert the column with `derive`, or read it with another type in `load`.",
    ),
    code(
        "columns-differ",
        "Inputs that become one have different columns",
        "Rows can be put under each other only if their columns agree; `concat` with `how=\"union\"` fills gaps with nulls.",
    ),
    code("conflicting-fields", "Two fields contradict each other", "Only one of them may be given."),
    code(
        "context-too-small",
        "A model's context is too short",
        "The node may need more tokens than the model can hold. Lower `max-tokens`, or take a model with a longer context.",
    ),
    code(
        "corrupt-artifact",
        "A finished output is damaged",
        "Its files are not those that its manifest names. `idiolect store gc --broken` removes it, and the next run makes it again.",
    ),
    code(
        "corrupt-part",
        "A stored part cannot be read",
        "Run the same command again: what is damaged is found, moved aside and made anew. Finished rows are in the journals and are not computed again.",
    ),
    code(
        "cycle",
        "Nodes read each other in a circle",
        "A pipeline has no loops. Every edge of the circle is labelled: cut one.",
    ),
    code(
        "device",
        "The demanded device cannot be used",
        "`--device` or the environment asks for a GPU that is not there, or that this build cannot use. \
         `docs/gpu.md` tells how to build for one; `--device cpu` takes none.",
    ),
    code(
        "disk-full",
        "No space left, or a limit on file sizes",
        "Make room (`idiolect store gc`) or give another place with `--store` or `--out`, then run the same command again: what is finished is kept.",
    ),
    code(
        "docs-outdated",
        "A generated page is not what the code gives",
        "For developers: `idiolect docs --write` writes the pages anew.",
    ),
    code(
        "duplicate-bar",
        "Two rows give the same bar of a chart",
        "Name more columns in `x`, or a `series`, so that each bar has one row.",
    ),
    code(
        "duplicate-cell",
        "Two rows fall into one cell of a table",
        "The message says in which columns they differ. Name one of them in `rows` or `columns` of the `pivot`, or bring the rows together before with `summarize`.",
    ),
    code("duplicate-column", "A column is named twice", "Once is enough."),
    code(
        "duplicate-field",
        "A field is given twice",
        "A property and a child node of the same name mean the same field. Both places are labelled: keep one.",
    ),
    code(
        "duplicate-name",
        "Two declarations of a kind share a name",
        "Names of nodes, parameters, models, teachers and matrices are unique within their kind, over all included files.",
    ),
    code(
        "duplicate-node",
        "A node that may stand once stands twice",
        "A pipeline has at most one `pipeline` and one `run` node, every operator node has a name of its own, and a `table` has one `pivot`.",
    ),
    code("duplicate-source", "Recorded answers come from two places", "Keep `path` or `dataset`."),
    code(
        "duplicate-value",
        "A value is listed twice",
        "An axis lists each value once, with all its attributes on one node; `over` names each axis once.",
    ),
    code(
        "empty-matrix",
        "A matrix has no cell",
        "It has no axis, or `keep` and `exclude` leave nothing. Look at the parameters that `keep` reads.",
    ),
    code(
        "empty-pipeline",
        "A file has nothing to run",
        "A warning: it declares no operator node. A file of declarations is meant to be included by another.",
    ),
    code(
        "empty-value",
        "A string must say something and is empty",
        "Paths, columns, expressions and the like cannot be empty.",
    ),
    code(
        "expression-too-long",
        "An expression or query chains too many operators",
        "The engine takes it apart by recursion. `x IN (…)` compares with many values, `join` with a table of them, and `derive` can go in steps.",
    ),
    code(
        "fetch-failed",
        "A file could not be fetched",
        "No source of its manifest gave the file, or what came was not what the manifest says. The message has what each source said.",
    ),
    code(
        "field-missing",
        "The source has no field of this name",
        "The node maps a field that the data does not have. The message lists those that it has.",
    ),
    code(
        "file-missing",
        "A file does not exist",
        "Check the path: in a file it is relative to that file. `on-missing=\"skip\"` turns the node and its readers into a cell that says so.",
    ),
    code(
        "file-too-large",
        "A pipeline file is too large",
        "Pipelines are written by people and fit into a mebibyte. Data is read by `load`.",
    ),
    code(
        "file-unreadable",
        "A file cannot be read",
        "The message has the system's reason. Check the path and its permissions. A relative path in a file is relative to that file.",
    ),
    code(
        "file-unwritable",
        "A file cannot be written",
        "The message has the system's reason: no room, no permission, or a folder that is not there.",
    ),
    code(
        "include-cycle",
        "A file includes itself",
        "Directly, or through the files whose includes are labelled. Move what both need into a third file.",
    ),
    code("io-error", "The system refused to read or write", "The message has the system's own words and the path."),
    code("journal-too-large", "A result is too large for the journal", "One result has more than 4 GiB."),
    code(
        "kernels",
        "The chosen kernels cannot be used",
        "The environment asks for instructions that this processor does not have.",
    ),
    code(
        "key-refused",
        "A provider refuses a teacher's key",
        "The message names the environment variable, never what it holds. Set it to a key that may use the model.",
    ),
    code(
        "labels-out-of-range",
        "A label is no token of its row",
        "Training was given ranges of labels that overlap, are not in order, or reach beyond the row's tokens.",
    ),
    code(
        "lint",
        "The data has findings of the refused severity",
        "Mend the data, leave a check out, or raise `fail-on`. The findings are printed.",
    ),
    code(
        "literal-secret",
        "A key stands in the file",
        "Keys come from the environment: `api-key env=\"NAME\"`. The message masks the key; if the file was shared, replace the key at its provider.",
    ),
    code(
        "loss-not-finite",
        "The loss of a training step is no number",
        "Lower the learning rate, warm up longer, or clip gradients to a smaller norm.",
    ),
    code(
        "manifest-replaced",
        "A manifest replaces a built-in one",
        "A note, no error: a file in `datasets/` has the name of a built-in manifest and takes its place.",
    ),
    code(
        "matrix-too-large",
        "A matrix has too many cells",
        "The axes multiply to more cells than a pipeline can hold. Split it.",
    ),
    code(
        "meaningless-annotation",
        "A type annotation means nothing",
        "KDL allows `(type)` before nodes and values; no node of the language uses it. Delete it.",
    ),
    code(
        "meaningless-field",
        "A field has no effect where it stands",
        "It belongs to another type, source or form of the node. The message says which.",
    ),
    code(
        "misplaced-node",
        "A node stands in an included file and may not",
        "`pipeline` and `run` belong in the file that is run.",
    ),
    code("missing-field", "A required field is not given", "The message has the field's meaning and form."),
    code("missing-input", "A node does not say what it reads", "Every port that is not optional needs a reference."),
    code(
        "missing-name",
        "A node has no name",
        "Declarations and operator nodes begin with their name: `load \"rows\" ...`.",
    ),
    code(
        "missing-value",
        "A field or property has no value",
        "Something must follow the name: `limit=5` or `limit 5`.",
    ),
    code(
        "model-failed",
        "A model failed while it was used",
        "The message says at what. Finished rows are kept; run again.",
    ),
    code(
        "model-file",
        "A model's file is damaged or incomplete",
        "Fetch it again. The message names the file and what is wrong with it.",
    ),
    code(
        "model-missing",
        "A model's files are not here and cannot be fetched",
        "The path of the model is wrong (in a file it is relative to that file) or not readable, or the model is on the hub and HF_HUB_OFFLINE is set.",
    ),
    code(
        "model-not-fetched",
        "A model is not on this machine yet",
        "Reported by `check --env`. `idiolect fetch` gets it beforehand, and `idiolect run` when it is needed.",
    ),
    code(
        "model-source",
        "A model comes from nowhere or from several places",
        "Exactly one of `dataset`, `hub` and `path` says where a model comes from.",
    ),
    code(
        "model-unreadable",
        "A model's files are no model",
        "A local GGUF file or folder of safetensors is cut short, damaged or of another kind. Fetch or copy it again.",
    ),
    code(
        "model-unsupported",
        "A model is of a kind that is not supported",
        "The message names the setting of the model's configuration that the decoder does not know.",
    ),
    code("nested-too-deep", "Blocks are nested too deep", "No node of the language needs more than a few levels."),
    code("no-artifact", "No output has that fingerprint", "`idiolect store ls` lists what is there."),
    code("no-effect", "A field changes nothing", "A warning: with these columns the field does nothing."),
    code(
        "no-examples",
        "There is no few-shot example",
        "The node that `examples` names gives no row. Leave `examples` out for prompts without.",
    ),
    code(
        "no-http",
        "HTTP cannot be set up",
        "The system's certificates cannot be read, or a proxy in the environment has no valid address.",
    ),
    code(
        "no-input",
        "An operator asked for an input that it does not have",
        "A bug in the program, not in the pipeline. Please report it.",
    ),
    code(
        "no-labels",
        "A batch has no label to learn from",
        "Every row of it is masked as a whole. Look at what is counted as prompt, and at rows with empty responses.",
    ),
    code(
        "no-matching-instance",
        "No instance of the producer fits",
        "Producer and reader share axes, and no instance of the producer has the reader's values on them. Compare their matrices, `keep` and `exclude`.",
    ),
    code(
        "no-models",
        "A run without models met a node that needs one",
        "Only programs that use the library can start such a run.",
    ),
    code(
        "no-permission",
        "The system allows no writing there",
        "Allow it, or give another place with `--store` (or `IDIOLECT_STORE`) and `--out`.",
    ),
    code(
        "no-price",
        "A budget in money needs a price",
        "The built-in table knows the models of the providers themselves. For others, say what a million tokens cost: `price input=0.5 output=1.5`.",
    ),
    code(
        "no-rows",
        "There is no row to work on",
        "The files or the limit leave none. The message says where they were looked for.",
    ),
    code(
        "no-run",
        "The folder is not that of a run",
        "`report` reads `run.json`, which a run leaves in its folder: `runs/<pipeline>`, or what `run --out` said. A folder of an earlier version has none: run the pipeline again, which computes nothing twice.",
    ),
    code("no-signals", "Ctrl-C cannot be watched for", "The system gave no signal handler."),
    code(
        "no-store",
        "There is no store at that place",
        "`idiolect run` makes one. `--store` and `IDIOLECT_STORE` name another.",
    ),
    code(
        "no-teacher",
        "A teacher cannot be asked",
        "The message says why. Programs that use the library can start runs without teachers.",
    ),
    code(
        "no-thread",
        "The system gave no thread",
        "Raise the limit of processes, or run fewer nodes at once with `--stages`.",
    ),
    code(
        "not-a-file",
        "A path names a folder",
        "`load` reads files: name one, or several with a glob such as `folder/*.jsonl`.",
    ),
    code("not-a-store", "The folder holds something else", "A store is made in a new or empty folder."),
    code(
        "not-an-adapter",
        "A reference to rows where an adapter is expected",
        "The port `adapter` takes the output of `lora-train` or `load-adapter`: a row with the columns `adapter_config` and \
`adapter_weights`.",
    ),
    code(
        "not-planned",
        "An operator was run without a plan",
        "A bug in the program, not in the pipeline. Please report it.",
    ),
    code(
        "not-row-wise",
        "An expression looks at several rows",
        "`derive` and `filter` see one row at a time. Use `summarize` or `sql` for sums, ranks and windows.",
    ),
    code("not-utf8", "A file is not UTF-8 text", "Save it as UTF-8."),
    code(
        "nothing-to-bind",
        "The inputs share all axes of the node",
        "A warning: `bind=#true` adds the axes that the inputs have and the node lacks, and there is none.",
    ),
    code("nothing-to-do", "A node computes nothing", "It needs at least one statistic or column."),
    code(
        "operator-bug",
        "An operator contradicts its own description",
        "A bug in the program, not in the pipeline. Please report it.",
    ),
    code(
        "out-of-memory",
        "There is not enough memory",
        "The message says which work needs how much. Raise `memory` in the `run` block, bring fewer rows or columns, or take a smaller `dtype`.",
    ),
    code("out-of-range", "A number is outside of its bounds", "The message has the bounds."),
    code("param-twice", "A parameter is given twice on the command line", "Keep one `-P name=value` for each name."),
    code(
        "param-type",
        "A parameter's value has another type than declared",
        "`-P` takes the text of a number, `true` or `false`, or items separated by commas. Defaults are written as KDL values.",
    ),
    code(
        "param-unknown",
        "The command line sets a parameter that is not declared",
        "The message lists those that are.",
    ),
    code("param-unset", "A parameter has no value", "It has no default and was not given with `-P`."),
    code(
        "path-outside",
        "A file would be written outside of the run's folder",
        "Paths of written files are relative and have no `..`; `--out` says where the folder is.",
    ),
    code("png", "A chart cannot be drawn as PNG", "The message has the reason. The SVG of the chart is not concerned."),
    code("polars", "A query failed while it ran", "The message has the words of the query engine."),
    code(
        "provider-moved",
        "A provider answers with a redirect",
        "A key is never carried to another address. Correct `base-url`.",
    ),
    code(
        "published-values",
        "The file of published values cannot be used",
        "It is read again while running, and has changed or gone since the plan was made.",
    ),
    code(
        "python-missing",
        "There is no Python to run programs with",
        "Generated code is judged by running it with Python 3 (CPython). Install it, or name an interpreter: `python=\"/usr/bin/python3.12\"`.",
    ),
    code(
        "quarantine",
        "More rows are in quarantine than a node tolerates",
        "`quarantine.jsonl` in the run folder has the rows with their reasons. Mend them, or say with `tolerance` which share may go there. The exit code is 3.",
    ),
    code(
        "quota-spent",
        "The account behind a key has nothing left",
        "No waiting helps. What was answered is kept: run again when the account has quota or credit.",
    ),
    code(
        "rate-limited",
        "A provider refuses all calls for too long",
        "Waiting for an hour, or as long as the provider asks, does not help. What was answered is kept: run again later.",
    ),
    code(
        "raw-text",
        "A hosted teacher is asked with raw text",
        "Providers take conversations. Ask with `format=\"chat\"`, or name a model of the pipeline.",
    ),
    code(
        "report-template",
        "The page of a run cannot be made",
        "A mistake in idiolect's own templates. Please report it, with the message.",
    ),
    code("reserved-column", "A column's name is taken", "`id` names the row and is set by `load`."),
    code(
        "run-folder-in-use",
        "Another run is writing into the run folder",
        "Wait for it, or give another folder with `--out`. Both can use one store.",
    ),
    code(
        "run-format",
        "The account of a run cannot be read",
        "`run.json` in the run's folder was changed, or another version of idiolect wrote it. Run the pipeline again; what is finished is not computed twice.",
    ),
    code(
        "same-samples",
        "Several samples would be one text several times",
        "Decoding that takes the likeliest token always gives the same. Give a `temperature` above 0, or drop `samples`.",
    ),
    code(
        "sampling",
        "A setting of sampling is out of its range",
        "The message names the setting, what it was and what it may be.",
    ),
    code(
        "sandbox-failed",
        "The sandbox cannot run a program",
        "The kernel has what it takes, but a program could not be started or listened to: the message says what went wrong. Limits that are too tight for the interpreter (`program-memory`), a temporary folder that cannot be written, and no processes or files left are the usual reasons.",
    ),
    code(
        "sandbox-unavailable",
        "Programs cannot be confined here",
        "Generated programs are run only where they can do no harm: on Linux from 5.13 on, with Landlock and seccomp (on x86-64, aarch64 and riscv64). In a container the host's kernel and the container's profile decide. Where you trust the programs or the machine is theirs anyway, `sandbox=\"rlimits\"` opts in to limits of time, memory and output, and to as much of the rest as is there.",
    ),
    code(
        "secret-missing",
        "An environment variable is not set",
        "Reported by `check --env`: a teacher takes its key from it.",
    ),
    code(
        "settings-refused",
        "A model does not take a setting",
        "Every call would be refused. Leave the setting out of the node, or take its member out of every request with `body`: a member that is `null` is not sent.",
    ),
    code("source-changed", "A file changed while it was read", "Run again, when nobody writes to it."),
    code("store-in-use", "A run is working in the store", "`store gc` needs the store for itself."),
    code("store-not-a-folder", "The store's place is a file", "Give a folder with `--store`."),
    code(
        "store-version",
        "The store is of another version",
        "Use the idiolect that made it, or give a new folder with `--store`.",
    ),
    code("stray-brace", "A `}` closes nothing", "Delete it, or open a block before it."),
    code(
        "syntax",
        "The text is not KDL 2",
        "A node is `name value key=value { ... }` on a line of its own. The message says what was expected where.",
    ),
    code(
        "syntax-timeout",
        "A file takes too long to parse",
        "Parsing is given up after some seconds. Split the file with `include`.",
    ),
    code(
        "teacher-unreachable",
        "Nobody answers at a teacher's address",
        "Check that the server runs, `base-url`, the network, and HTTPS_PROXY and NO_PROXY if a proxy is needed.",
    ),
    code(
        "too-few-inputs",
        "A choice needs two inputs or more",
        "Name another input, or split the one input by `quantile` or `threshold`.",
    ),
    code(
        "too-long",
        "A row is longer than the model's limit",
        "Raise `max-tokens`, filter long rows out, or say `on-too-long=\"quarantine\"`.",
    ),
    code(
        "too-many-examples",
        "There are too many few-shot examples",
        "All of them stand in every prompt. Choose some with `sample`.",
    ),
    code("too-many-inputs", "A port reads one node and several are given", "Put a `concat` before it."),
    code(
        "too-many-items",
        "A node or block is too long",
        "Ten thousand values on a node, or nodes in a block, are more than a person writes. Keep such lists in a data file.",
    ),
    code(
        "too-many-marks",
        "A chart would have too many marks",
        "Bring fewer rows with `sample` or `filter`, or draw a histogram.",
    ),
    code("too-many-messages", "There are more messages than are shown", "Mend the first ones."),
    code("too-many-references", "A port reads one node and several are named", "Put a `concat` before it."),
    code(
        "too-many-rows",
        "A table is too large for this operation",
        "The side that is held in memory has more rows than can be numbered. Exchange the sides, or filter before.",
    ),
    code(
        "training-is-test",
        "An adapter is trained on the rows that it is tested on",
        "Then the test says how well they are remembered, not how well the model does on new rows. Test on another split; `on-overlap=\"keep\"` at `evaluate` if memory is what you measure.",
    ),
    code(
        "training-overlap",
        "A model is tested on questions that it was trained on",
        "The message has their number and the first of them. Test on other rows, or train on others. `on-overlap` at `evaluate` sets such questions aside (`\"quarantine\"`) or asks them (`\"keep\"`).",
    ),
    code(
        "two-prompts",
        "Two fields name a prompt",
        "`style` is a prompt that comes with the program, `prompt` a file of your own: keep one.",
    ),
    code(
        "two-writers",
        "Two fields say who writes",
        "`teacher` names a declared teacher, `model` a model of the pipeline: keep one.",
    ),
    code(
        "unclosed-block",
        "A `{` has no `}`",
        "Where the indentation gives a hint, the block that probably lacks its brace is labelled as well.",
    ),
    code("unclosed-comment", "A `/*` has no `*/`", "Comments nest: each opening needs its own closing."),
    code(
        "unclosed-string",
        "A string is not closed",
        "Strings in one pair of quotes end on their line. Longer ones stand between lines with `\"\"\"`.",
    ),
    code("unexpected-argument", "A node has more values than it takes", "Properties are written `name=value`."),
    code("unexpected-block", "A node has a block and takes none", "Delete the braces."),
    code(
        "unknown-at-provider",
        "A provider knows no such model or address",
        "Correct `model` to a name that the provider knows and the key may use, or `base-url`. An address ends before `/chat/completions` and `/messages`.",
    ),
    code(
        "unknown-attribute",
        "A value has no such attribute",
        "`${axis.attribute}` needs the attribute on the value that the instance has; parameters have none.",
    ),
    code("unknown-axis", "A matrix has no such axis", "The message lists its axes."),
    code("unknown-child", "A node has no child node of this name", "The message has the nearest name, or all of them."),
    code("unknown-choice", "A word is none of the choices", "The message lists them."),
    code(
        "unknown-dataset",
        "No manifest has this name",
        "Manifests are built in, or stand in `datasets/` of the working directory. The message has the nearest name.",
    ),
    code("unknown-format", "A file's format cannot be told from its name", "Say it with `format`."),
    code(
        "unknown-input",
        "A prompt has no such input",
        "`inputs` has the names of the template's inputs on its left and columns on its right. `idiolect op show` lists the inputs.",
    ),
    code("unknown-matrix", "No matrix has this name", "Declare it, or correct the name."),
    code("unknown-model", "No model has this name", "Declare it with `model`, or correct the name."),
    code(
        "unknown-name",
        "A name means nothing here",
        "In a string, `${name}` is a parameter, or an axis that this node keeps of its matrix.",
    ),
    code("unknown-operator", "There is no such operator or declaration", "`idiolect op list` shows all operators."),
    code("unknown-output", "A node has no such output", "The message lists its outputs."),
    code(
        "unknown-property",
        "A node has no property of this name",
        "The message has the nearest name, or all of them.",
    ),
    code(
        "unknown-task",
        "No task has this name",
        "A task comes with the program or is declared with `task`. The message has the nearest name.",
    ),
    code("unknown-teacher", "No teacher has this name", "Declare it with `teacher`, or correct the name."),
    code(
        "unknown-value",
        "An axis has no such value",
        "`keep` and `exclude` name values of the axis. The message lists them.",
    ),
    code("unresolved-reference", "No node has this name", "The message has the nearest name."),
    code("unused-attribute", "An attribute is never used", "A warning: no string mentions `${axis.attribute}`."),
    code(
        "unused-axis",
        "An axis is never used",
        "A warning: no node mentions the axis or keeps it with `over`, so that its instances differ in nothing but their names.",
    ),
    code(
        "unused-input",
        "A query does not read one of its inputs",
        "A warning: the node waits for rows that it does not use.",
    ),
    code(
        "unused-instances",
        "Some instances are read by nobody",
        "They are not run. `keep` or `exclude` them if they are not wanted.",
    ),
    code("unused-matrix", "A matrix is never used", "A warning: no node has `matrix` with its name."),
    code("unused-model", "A model is never used", "A warning: no node names it."),
    code(
        "unused-node",
        "Nobody reads a node's output",
        "The node would be computed for nothing. Read it, delete it, or write `unused=\"ok\"`.",
    ),
    code("unused-param", "A parameter is never used", "A warning: no string mentions `${name}`."),
    code("unused-task", "A task is never used", "A warning: no node names it."),
    code("unused-teacher", "A teacher is never used", "A warning: no node names it."),
    code(
        "validation-is-test",
        "An adapter is chosen by the rows that it is tested on",
        "Then the test says how well it was chosen, not how well the model does on new rows. Validate on rows of the training split.",
    ),
    code(
        "validation-overlap",
        "Rows are trained on and validated on",
        "A loss on rows that were trained on says nothing of others, and must not choose the adapter. Take another split, or divide the rows with `filter`.",
    ),
    code(
        "write-failed",
        "A file could not be written",
        "The message has the system's reason: no room, no permission, or a folder that is not there.",
    ),
    code(
        "wrong-count",
        "A list has too many or too few entries",
        "Lists that belong together have one entry for each entry of the other; a field that takes a fixed number of values says so.",
    ),
    code(
        "wrong-rows",
        "An operator gave rows that do not have the planned schema",
        "This is a mistake in idiolect and not in the pipeline: please report it with the pipeline file.",
    ),
    code(
        "wrong-task",
        "A prompt is not written for this task",
        "The field `task` tells a prompt which kind of question it asks. The message has the tasks that the prompt is for.",
    ),
    code(
        "wrong-type",
        "A value has another type than the field",
        "The message says what is expected and what was found.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    /// The program's own sources, each without its unit tests.
    fn sources() -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a source folder") {
                let path = entry.expect("an entry").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".rs") && name != "codes.rs" && !name.contains("test") {
                    let text = std::fs::read_to_string(&path).expect("a source file");
                    let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string();
                    files.push((path, own));
                }
            }
        }
        files
    }

    /// The string literal that is the first argument of a call, for every call that begins with `call`.
    fn first_arguments<'t>(text: &'t str, call: &str) -> Vec<&'t str> {
        let argument = |(at, _)| -> Option<&'t str> {
            let rest = text[at + call.len()..].trim_start().strip_prefix('"')?;
            Some(&rest[..rest.find('"')?])
        };
        text.match_indices(call).filter_map(argument).collect()
    }

    #[test]
    fn every_code_in_use_is_explained() {
        let known: BTreeSet<&str> = CODES.iter().map(|c| c.code).collect();
        let calls = [
            "Diagnostic::error(",
            "Diagnostic::warning(",
            "self.error(",
            "Problem::new(",
            "RunError::failed(",
            "self.stop(",
            " problem(",
        ];
        // As messages print them, and where they stand in a value of their own.
        let printed = |text: &str| -> Vec<String> {
            let word = |c: char| c.is_ascii_lowercase() || c == '-';
            let after = |mark: &'static str, end: char| {
                let found = text.match_indices(mark).map(move |(at, _)| &text[at + mark.len()..]);
                found.filter_map(move |rest| rest.split_once(end).map(|(code, _)| code)).filter(|c| c.chars().all(word))
            };
            after("\"error[", ']').chain(after(" code: \"", '"')).map(String::from).collect()
        };
        for (path, text) in sources() {
            let called = calls.iter().flat_map(|call| first_arguments(&text, call)).map(String::from);
            for used in called.chain(printed(&text)) {
                let used = used.as_str();
                assert!(known.contains(used), "`{used}` of {} is not in diag/codes.rs", path.display());
            }
        }
    }

    #[test]
    fn every_code_explained_is_in_use() {
        let sources = sources();
        for code in CODES {
            let quoted = format!("\"{}\"", code.code);
            let printed = format!("error[{}]", code.code);
            let used = |text: &str| text.contains(&quoted) || text.contains(&printed);
            assert!(sources.iter().any(|(_, text)| used(text)), "`{}` is used nowhere", code.code);
        }
    }

    #[test]
    fn the_list_is_in_order_and_reads_well() {
        for pair in CODES.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} stands before {}", pair[0].code, pair[1].code);
        }
        for code in CODES {
            assert!(!code.title.ends_with('.') && code.doc.ends_with('.'), "{}", code.code);
        }
        assert!(explain("syntax").is_some() && explain("nothing").is_none());
        assert!(markdown().contains("\n## syntax\n"));
    }
}

//! Prompts: Jinja templates in files, versioned, with declared inputs.
//!
//! A file begins with a comment that holds its header in KDL, followed by the turns of a conversation:
//!
//! ```jinja
//! {# prompt "translate" version=1 {
//!     doc "Asks for a translation"
//!     input "question" "text" doc="What is translated"
//! } #}
//! {% call system() %}You are a translator.{% endcall %}
//! {% call user() %}Translate into French: {{ question }}{% endcall %}
//! ```
//!
//! A template without turns is one user turn. Values are inserted as they are: nothing in them is read as Jinja. White
//! space is trimmed at the ends of a turn, and kept otherwise.

mod built_in;
mod error;
mod header;
mod turns;

pub use built_in::used_by;
pub use error::{PromptError, RenderError};

use header::Header;
use minijinja::{Environment, ErrorKind};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What every template may use without declaring it: the operator's settings of these names, as text.
pub const SETTINGS: &[&str] = &["task", "marker"];

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    pub name: String,
    /// Raised by its author whenever the text changes what is demanded.
    pub version: u32,
    pub doc: String,
    /// In the order of the header.
    pub inputs: Vec<Input>,
    /// The tasks that the template is written for; empty where it does not look at the task.
    pub tasks: Vec<String>,
    text: String,
    digest: String,
    environment: Environment<'static>,
}

/// A value that a template asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub name: String,
    pub kind: InputKind,
    /// Without it nothing can be rendered for the tasks that use it.
    pub required: bool,
    pub doc: String,
    /// The tasks for which the template reads it; empty for all.
    pub tasks: Vec<String>,
    /// Of a list of records: what each record has.
    pub fields: Vec<String>,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// A string; a number is written as in JSON.
    Text,
    Number,
    /// Strings, or records with the input's `fields`. Empty where it is left out.
    List,
    /// True or false; false where it is left out.
    Flag,
    /// Whatever the column holds. Headers do not have it: it is for templates whose inputs are inferred.
    Any,
}

impl InputKind {
    pub const NAMES: &[&str] = &["text", "number", "list", "flag"];

    pub fn name(self) -> &'static str {
        match self {
            InputKind::Text => "text",
            InputKind::Number => "number",
            InputKind::List => "list",
            InputKind::Flag => "flag",
            InputKind::Any => "any",
        }
    }

    fn accepts(self, value: &Value) -> bool {
        match self {
            InputKind::Text => value.is_string() || value.is_number(),
            InputKind::Number => value.is_number(),
            InputKind::List => value.is_array(),
            InputKind::Flag => value.is_boolean(),
            InputKind::Any => true,
        }
    }
}

impl Input {
    /// Whether the template reads it for this task.
    pub fn is_for(&self, task: &str) -> bool {
        self.tasks.is_empty() || self.tasks.iter().any(|t| t == task)
    }
}

impl Template {
    /// A template that comes with the program.
    pub fn built_in(name: &str) -> Option<&'static Template> {
        Self::all().find(|t| t.name == name)
    }

    /// All templates that come with the program, in the order of the reference.
    pub fn all() -> impl Iterator<Item = &'static Template> {
        built_in::TEMPLATES.iter()
    }

    /// Reads an author's file; `path` is for messages.
    pub fn read(path: &Path, text: &str) -> Result<Template, PromptError> {
        let header = Header::read(path, text)?;
        let environment = turns::environment(text).map_err(|e| {
            PromptError::new(path, e.line(), format!("the template is not valid: {}", turns::cause(&e)))
        })?;
        let template = Self {
            name: header.name.clone(),
            version: header.version,
            doc: header.doc.clone(),
            inputs: header.inputs.iter().map(|i| i.input.clone()).collect(),
            tasks: header.tasks.clone(),
            text: text.to_string(),
            digest: blake3::hash(text.as_bytes()).to_hex()[..32].to_string(),
            environment,
        };
        template.check_variables(&header, path)?;
        template.try_out(path)?;
        Ok(template)
    }

    /// A template without a header: every variable that it does not set itself is an input, those named in `optional` may
    /// be left out. `name` is for messages.
    pub fn inferred(name: &str, text: &str, optional: &[&str]) -> Result<Template, PromptError> {
        let path = Path::new(name);
        let environment = turns::environment(text).map_err(|e| {
            PromptError::new(path, e.line(), format!("the template is not valid: {}", turns::cause(&e)))
        })?;
        let input = |name: String| Input {
            required: !optional.contains(&name.as_str()),
            doc: "read by the prompt".into(),
            name,
            kind: InputKind::Any,
            tasks: Vec::new(),
            fields: Vec::new(),
        };
        let used = turns::variables(&environment).into_iter().filter(|name| !SETTINGS.contains(&name.as_str()));
        let template = Self {
            name: name.into(),
            version: 1,
            doc: String::new(),
            inputs: used.map(input).collect(),
            tasks: Vec::new(),
            text: text.into(),
            digest: blake3::hash(text.as_bytes()).to_hex()[..32].to_string(),
            environment,
        };
        template.try_out(path)?;
        Ok(template)
    }

    /// The file as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the text, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The inputs that are read for a task.
    pub fn inputs_for<'a>(&'a self, task: &'a str) -> impl Iterator<Item = &'a Input> {
        self.inputs.iter().filter(move |i| i.is_for(task))
    }

    /// Whether the template is written for a task.
    pub fn takes_task(&self, task: &str) -> bool {
        self.tasks.is_empty() || self.tasks.iter().any(|t| t == task)
    }

    /// The turns of the conversation, (role, text). `values` are inputs and [`SETTINGS`] by name; null counts as left
    /// out. What the template does not ask for is ignored.
    pub fn render(&self, values: &BTreeMap<String, Value>) -> Result<Vec<(String, String)>, RenderError> {
        let fail = |line, message| RenderError { template: self.name.clone(), line, message };
        let task = values.get("task").and_then(Value::as_str).unwrap_or_default();
        let mut given = BTreeMap::new();
        for input in &self.inputs {
            match values.get(&input.name).filter(|v| !v.is_null()) {
                Some(value) if input.kind.accepts(value) => {
                    given.insert(input.name.as_str(), turns::value(value));
                }
                Some(value) => {
                    let found = error::kind_of(value);
                    let message = format!("input `{}` is {}, found {found}", input.name, error::a_kind(input.kind));
                    return Err(fail(None, message));
                }
                None if input.required && input.is_for(task) => {
                    return Err(fail(None, format!("input `{}` has no value", input.name)));
                }
                None => given.extend(turns::absent(input.kind).map(|v| (input.name.as_str(), v))),
            }
        }
        for name in SETTINGS {
            given.extend(values.get(*name).filter(|v| !v.is_null()).map(|v| (*name, turns::value(v))));
        }
        turns::render(&self.environment, &given).map_err(|e| fail(e.line(), turns::cause(&e)))
    }

    /// Every variable is declared, and every declared input used.
    fn check_variables(&self, header: &Header, path: &Path) -> Result<(), PromptError> {
        let used = turns::variables(&self.environment);
        let declared: BTreeSet<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
        let known = |name: &str| declared.contains(name) || SETTINGS.contains(&name);
        if let Some(name) = used.iter().find(|name| !known(name)) {
            let known = declared.iter().copied().chain(SETTINGS.iter().copied());
            let help = match crate::ops::did_you_mean(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declare it in the header: `input \"{name}\" \"text\" doc=\"...\"`"),
            };
            let line = turns::line_of(&self.text, name);
            return Err(PromptError::new(path, line, format!("variable `{name}` is not a declared input")).help(help));
        }
        if let Some(unused) = header.inputs.iter().find(|i| !used.contains(i.input.name.as_str())) {
            let message = format!("input `{}` is declared and never used", unused.input.name);
            return Err(PromptError::new(path, Some(unused.line), message)
                .help(format!("write `{{{{ {} }}}}` where it belongs, or delete the declaration", unused.input.name)));
        }
        Ok(())
    }

    /// Renders with stand-ins, so that unknown filters and misplaced text show at once. What depends on the stand-ins'
    /// values says nothing.
    fn try_out(&self, path: &Path) -> Result<(), PromptError> {
        let tasks: Vec<&str> = match self.tasks.as_slice() {
            [] => vec!["free"],
            tasks => tasks.iter().map(String::as_str).collect(),
        };
        for (task, full) in tasks.iter().flat_map(|t| [(t, true), (t, false)]) {
            let mut given: BTreeMap<&str, minijinja::Value> = BTreeMap::new();
            for input in &self.inputs {
                let there = full || input.required && input.is_for(task);
                let value = if there { Some(turns::stand_in(input)) } else { turns::absent(input.kind) };
                given.extend(value.map(|v| (input.name.as_str(), v)));
            }
            given.insert("task", (*task).into());
            given.insert("marker", "Final Answer:".into());
            let Err(error) = turns::render(&self.environment, &given) else { continue };
            let static_fault = matches!(
                error.kind(),
                ErrorKind::UnknownFilter
                    | ErrorKind::UnknownFunction
                    | ErrorKind::UnknownTest
                    | ErrorKind::UnknownMethod
                    | ErrorKind::TooManyArguments
                    | ErrorKind::MissingArgument
                    | ErrorKind::TemplateNotFound
            );
            if static_fault || turns::is_misplaced(&error) {
                return Err(PromptError::new(path, error.line(), turns::cause(&error)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

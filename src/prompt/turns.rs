//! Rendering: what `{% call user() %}` and its like collect, and the environment that templates run in.

use super::{Input, InputKind};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a template's only text is known by in its environment.
const NAME: &str = "prompt";
const ROLES: &[&str] = &["system", "user", "assistant"];
/// Begins the messages of faults in the order of turns, which [`is_misplaced`] knows them by.
const MISPLACED: &str = "turns: ";

/// The turns of one rendering.
#[derive(Default)]
struct Turns(Vec<(String, String)>);

/// An environment with one template: strict about undefined values, without clock, files or escaping.
pub fn environment(text: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // An input that is left out may be asked for by `if`, and is an error where it would be printed.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.remove_global("debug");
    for role in ROLES {
        environment.add_function(*role, move |state: &mut State, options: Kwargs| turn(role, state, &options));
    }
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    environment.add_template_owned(NAME, text.to_string())?;
    Ok(environment)
}

fn turn(role: &str, state: &mut State, options: &Kwargs) -> Result<String, Error> {
    let caller: Option<Value> = options.get("caller")?;
    let Some(caller) = caller.filter(|c| !c.is_undefined()) else {
        return Err(misplaced(format!("`{role}()` holds a turn: {{% call {role}() %}}...{{% endcall %}}")));
    };
    options.assert_all_used()?;
    let text = caller.call(state, &[])?.to_string();
    state.get_or_insert_extension(Turns::default()).0.push((role.to_string(), text.trim().to_string()));
    Ok(String::new())
}

/// The turns that the template writes for these values.
pub fn render(
    environment: &Environment<'static>,
    values: &BTreeMap<&str, Value>,
) -> Result<Vec<(String, String)>, Error> {
    let template = environment.get_template(NAME)?;
    let mut rendered =
        template.render_captured(Value::from_pairs(values.iter().map(|(name, value)| (*name, value.clone()))))?;
    let turns = rendered.with_state_mut(|state| state.get_extension_mut::<Turns>().map(std::mem::take));
    let outside = rendered.output().trim();
    let turns = match turns {
        None => vec![("user".to_string(), outside.to_string())],
        Some(_) if !outside.is_empty() => {
            let start: String = outside.chars().take(40).collect();
            return Err(misplaced(format!("`{start}` stands outside of the turns")));
        }
        // A system turn may come out empty, as a way not to have one.
        Some(Turns(turns)) => turns.into_iter().filter(|(r, t)| r != "system" || !t.is_empty()).collect(),
    };
    in_order(&turns).map(|()| turns)
}

/// Perhaps `system`, then `user` and `assistant` by turns, `user` last.
fn in_order(turns: &[(String, String)]) -> Result<(), Error> {
    let mut expected = "user";
    for (at, (role, text)) in turns.iter().enumerate() {
        if role == "system" && at == 0 {
            continue;
        }
        if role != expected {
            return Err(misplaced(format!("turn {} is `{role}`, expected `{expected}`", at + 1)));
        }
        if text.is_empty() {
            return Err(misplaced(format!("turn {} (`{role}`) is empty", at + 1)));
        }
        expected = if role == "user" { "assistant" } else { "user" };
    }
    match expected {
        "assistant" => Ok(()),
        _ => Err(misplaced("the last turn is not the user's".into())),
    }
}

fn misplaced(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{MISPLACED}{message}"))
}

/// Whether a fault is in where turns and text stand.
pub fn is_misplaced(error: &Error) -> bool {
    root(error).detail().is_some_and(|d| d.starts_with(MISPLACED))
}

/// The error that began it: those of a call block are wrapped by the call.
fn root(error: &Error) -> &Error {
    let mut root = error;
    while let Some(source) = std::error::Error::source(root).and_then(|e| e.downcast_ref::<Error>()) {
        root = source;
    }
    root
}

/// What went wrong, in words.
pub fn cause(error: &Error) -> String {
    let root = root(error);
    match (root.kind(), root.detail()) {
        (_, Some(detail)) if detail.starts_with(MISPLACED) => detail[MISPLACED.len()..].to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// The variables that a template reads and does not set itself.
pub fn variables(environment: &Environment<'static>) -> BTreeSet<String> {
    let Ok(template) = environment.get_template(NAME) else { return BTreeSet::new() };
    let globals: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
    template.undeclared_variables(false).into_iter().filter(|v| !globals.contains(v.as_str())).collect()
}

/// The first line on which a tag names a variable.
pub fn line_of(text: &str, name: &str) -> Option<usize> {
    let tagged = |at: &usize| {
        let open = text[..*at].rfind(['{', '}'])?;
        let bytes = text.as_bytes();
        (bytes[open] == b'{' && open > 0 && bytes[open - 1] == b'{')
            .then_some(())
            .or_else(|| text[open..].starts_with("{%").then_some(()))
    };
    let alone = |at: &usize| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !text[..*at].ends_with(|c: char| part(c) || c == '.' || c == '\'' || c == '"')
            && !text[at + name.len()..].starts_with(part)
    };
    let places = text.match_indices(name).map(|(at, _)| at);
    let at = places.filter(alone).find(|at| tagged(at).is_some())?;
    Some(text[..at].matches('\n').count() + 1)
}

/// A value for a template. Members of records that are null are left out, so that they are undefined and not `none`.
pub fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(members) => {
            Value::from_pairs(members.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), value(v))))
        }
        scalar => Value::from(Serde(scalar)),
    }
}

/// What an input is when it is left out; undefined if `None`.
pub fn absent(kind: InputKind) -> Option<Value> {
    match kind {
        InputKind::Text | InputKind::Number | InputKind::Any => None,
        InputKind::List => Some(Value::from(Vec::<Value>::new())),
        InputKind::Flag => Some(Value::from(false)),
    }
}

/// Something of an input's type.
pub fn stand_in(input: &Input) -> Value {
    match input.kind {
        InputKind::Text | InputKind::Any => Value::from("text"),
        InputKind::Number => Value::from(1),
        InputKind::Flag => Value::from(true),
        InputKind::List if input.fields.is_empty() => Value::from(vec!["text"; 2]),
        InputKind::List => {
            let record = Value::from_pairs(input.fields.iter().map(|f| (f.clone(), Value::from("text"))));
            Value::from(vec![record.clone(), record])
        }
    }
}

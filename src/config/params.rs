//! `param` declarations and the values given by `-P name=value`.

use super::Param;
use super::language::PARAM_TYPES;
use super::scope::{Declared, is_name, plain};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::ops::{Fields, Value, did_you_mean, list};

/// The declaration's own words for its type, range and choices.
struct Rules {
    kind: &'static str,
    min: Option<Spanned<f64>>,
    max: Option<Spanned<f64>>,
    choices: Vec<Spanned<Value>>,
}

/// Binds a declared parameter to its value. `None` after an error.
pub(super) fn bind(
    name: &Spanned<String>,
    fields: &Fields,
    overrides: &[(String, String)],
    diagnostics: &mut Diagnostics,
) -> Option<Param> {
    let (place, name) = (name.span, name.value.clone());
    let kind = PARAM_TYPES.iter().find(|t| **t == fields.str("type").value).copied()?;
    let before = diagnostics.0.len();
    let rules = rules(kind, fields, diagnostics);
    let default = fields.get("default").and_then(|d| default_value(&name, &rules, d, diagnostics));
    let given = overrides.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_str());
    let value = match given {
        Some(text) => match parse(kind, text, place) {
            Ok(value) => {
                check(&name, &rules, &Spanned::new(value.clone(), place), true, diagnostics);
                Some(value)
            }
            Err(expected) => {
                diagnostics.push(
                    Diagnostic::error("param-type", format!("`-P {name}={text}`: `{name}` must be {expected}"))
                        .at(place, format!("declared with type \"{kind}\""))
                        .help(example(&name, kind)),
                );
                None
            }
        },
        None => default,
    };
    if value.is_none() && given.is_none() && fields.get("default").is_none() {
        diagnostics.push(
            Diagnostic::error("param-unset", format!("the parameter `{name}` has no default and was not given"))
                .at(place, "has no value in this run")
                .help(format!("give it with {}, or a default in the file", example(&name, kind))),
        );
    }
    let failed = diagnostics.0[before..].iter().any(Diagnostic::is_error);
    let doc = fields.opt_str("doc").map_or_else(String::new, |d| d.value);
    value.filter(|_| !failed).map(|value| Param { name, doc, kind, value, given: given.is_some(), span: place })
}

fn rules(kind: &'static str, fields: &Fields, diagnostics: &mut Diagnostics) -> Rules {
    let mut bound = |name: &str| {
        let value = fields.opt_float(name)?;
        if !matches!(kind, "int" | "float") {
            let message = format!("`{name}` bounds numbers, and this parameter is of type \"{kind}\"");
            diagnostics.push(
                Diagnostic::error("meaningless-field", message)
                    .at(value.span, "means nothing here")
                    .help(format!("drop `{name}`, or make the type \"int\" or \"float\"")),
            );
        }
        Some(value)
    };
    let (min, max) = (bound("min"), bound("max"));
    if let (Some(min), Some(max)) = (&min, &max)
        && min.value > max.value
    {
        diagnostics.push(
            Diagnostic::error("out-of-range", format!("`min` is {} and `max` is {}", min.value, max.value))
                .at(max.span, "less than `min`")
                .and(min.span, "more than `max`")
                .help("swap them"),
        );
    }
    let choices = match fields.get("choices").map(|c| &c.value) {
        Some(Value::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    if let (Some(first), "int" | "float" | "bool") = (choices.first(), kind) {
        diagnostics.push(
            Diagnostic::error(
                "meaningless-field",
                format!("`choices` lists strings, and this parameter is of type \"{kind}\""),
            )
            .at(first.span, "means nothing here")
            .help("drop `choices`; bound a number by `min` and `max`"),
        );
    }
    Rules { kind, min, max, choices }
}

/// The declared default as a value of the parameter's type.
fn default_value(name: &str, rules: &Rules, default: &Spanned<Value>, diagnostics: &mut Diagnostics) -> Option<Value> {
    let Value::List(items) = &default.value else { return None };
    let value = match (rules.kind, items.as_slice()) {
        ("list", items) => {
            let texts = items.iter().map(|i| plain(&i.value).map(|t| Spanned::new(Value::Str(t), i.span)));
            texts.collect::<Option<Vec<_>>>().map(Value::List)
        }
        ("string" | "path", [Spanned { value: Value::Str(s), .. }]) => Some(Value::Str(s.clone())),
        ("int", [Spanned { value: Value::Int(i), .. }]) => Some(Value::Int(*i)),
        ("float", [Spanned { value: Value::Int(i), .. }]) => Some(Value::Float(*i as f64)),
        ("float", [Spanned { value: Value::Float(f), .. }]) => Some(Value::Float(*f)),
        ("bool", [Spanned { value: Value::Bool(b), .. }]) => Some(Value::Bool(*b)),
        _ => None,
    };
    let Some(value) = value else {
        let message = format!("the default of `{name}` must be {}", type_words(rules.kind));
        diagnostics.push(
            Diagnostic::error("param-type", message)
                .at(default.span, format!("not of type \"{}\"", rules.kind))
                .help("strings stand in quotes, booleans are `#true` and `#false`"),
        );
        return None;
    };
    let value = Spanned::new(value, default.span);
    check(name, rules, &value, false, diagnostics).then_some(value.value)
}

/// Checks range and choices.
fn check(name: &str, rules: &Rules, value: &Spanned<Value>, given: bool, diagnostics: &mut Diagnostics) -> bool {
    let number = match value.value {
        Value::Int(i) => Some(i as f64),
        Value::Float(f) => Some(f),
        _ => None,
    };
    let before = diagnostics.0.len();
    let whose = if given { format!("`-P {name}`") } else { format!("the default of `{name}`") };
    if let Some(number) = number {
        let low = rules.min.as_ref().filter(|min| number < min.value).map(|b| (b, "least"));
        let high = rules.max.as_ref().filter(|max| number > max.value).map(|b| (b, "most"));
        if let Some((bound, word)) = low.or(high) {
            diagnostics.push(
                Diagnostic::error(
                    "out-of-range",
                    format!("{whose} is {number}, and at {word} {} is allowed", bound.value),
                )
                .at(value.span, "out of range")
                .and(bound.span, "the bound"),
            );
        } else if !number.is_finite() {
            let message = format!("{whose} is {number}, which is no usable number");
            diagnostics.push(Diagnostic::error("out-of-range", message).at(value.span, "must be finite"));
        }
    }
    let words: Vec<&Value> = match &value.value {
        Value::List(items) => items.iter().map(|i| &i.value).collect(),
        single => vec![single],
    };
    let choices: Vec<String> = rules.choices.iter().filter_map(|c| plain(&c.value)).collect();
    let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
    for word in words.into_iter().filter_map(plain).filter(|w| !choices.is_empty() && !choices.contains(&w.as_str())) {
        let error = Diagnostic::error("unknown-choice", format!("{whose} has `{word}`, which is none of its choices"))
            .at(value.span, "not allowed");
        diagnostics.push(match did_you_mean(&word, choices.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("choose from {}", list(&choices))),
        });
    }
    diagnostics.0.len() == before
}

/// Reads a value from the command line; `Err` says what was expected. Items of a list get the declaration's place.
fn parse(kind: &str, text: &str, span: Span) -> Result<Value, &'static str> {
    let expected = type_words(kind);
    match kind {
        "int" => text.trim().parse().map(Value::Int).map_err(|_| expected),
        "float" => text.trim().parse().map(Value::Float).map_err(|_| expected),
        "bool" => text.trim().parse().map(Value::Bool).map_err(|_| expected),
        "list" => {
            let items = text.split(',').map(str::trim).filter(|i| !i.is_empty());
            Ok(Value::List(items.map(|i| Spanned::new(Value::Str(i.into()), span)).collect()))
        }
        "path" if text.trim().is_empty() => Err(expected),
        _ => Ok(Value::Str(text.to_string())),
    }
}

fn type_words(kind: &str) -> &'static str {
    match kind {
        "int" => "a whole number",
        "float" => "a number",
        "bool" => "true or false",
        "path" => "a path",
        "list" => "a list of words",
        _ => "a string",
    }
}

fn example(name: &str, kind: &str) -> String {
    let value = match kind {
        "int" => "5",
        "float" => "0.5",
        "bool" => "true",
        "list" => "a,b",
        "path" => "some/path",
        _ => "text",
    };
    format!("`-P {name}={value}`")
}

/// Reports overrides that name no parameter, and names given twice.
pub(super) fn check_overrides(
    overrides: &[(String, String)],
    params: &Declared<Param>,
    incomplete: bool,
    diagnostics: &mut Diagnostics,
) {
    let names: Vec<&str> = params.keys().map(String::as_str).collect();
    for (i, (name, value)) in overrides.iter().enumerate() {
        if overrides[..i].iter().any(|(n, _)| n == name) {
            diagnostics
                .push(Diagnostic::error("param-twice", format!("`-P {name}=...` is given twice")).help("keep one"));
        } else if !params.contains_key(name) && !incomplete {
            let error = Diagnostic::error(
                "param-unknown",
                format!("`-P {name}={value}`: the pipeline has no parameter `{name}`"),
            );
            diagnostics.push(match did_you_mean(name, names.iter().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None if names.is_empty() => error.help("it declares no parameters"),
                None => error.help(format!("its parameters are {}", list(&names))),
            });
        }
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Whether a name can be declared; reports it if not.
pub(super) fn check_name(what: &str, name: &Spanned<String>, diagnostics: &mut Diagnostics) -> bool {
    if is_name(&name.value) {
        return true;
    }
    diagnostics.push(
        Diagnostic::error("bad-name", format!("`{}` cannot be the name of {} {what}", name.value, article(what)))
            .at(name.span, "not a name")
            .help("names are made of letters, digits, `-` and `_`"),
    );
    false
}

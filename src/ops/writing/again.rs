//! Asking again: a call that continues the conversation of an earlier one, after an answer that will not do.

use crate::prompt::Template;
use crate::teacher::{Answer, Ask, Failure};
use serde_json::Value;
use std::collections::BTreeMap;

/// A template that comes with the program.
pub fn template(name: &str) -> &'static Template {
    Template::built_in(name).unwrap_or_else(|| panic!("no built-in template is named `{name}`"))
}

/// The earlier conversation, what was answered, and the template's turn. It is another prompt each time, so that no answer
/// of the journal is taken for it and a teacher that decodes greedily may answer something else.
pub fn again(ask: &Ask, answer: &str, template: &'static Template, values: &[(&str, &str)]) -> Result<Ask, Failure> {
    let values: BTreeMap<String, Value> = values.iter().map(|(name, v)| (name.to_string(), (*v).into())).collect();
    let turns = template.render(&values).map_err(|e| Failure::new("template", e.to_string()))?;
    let mut messages = ask.messages.clone();
    messages.push(("assistant".into(), answer.to_string()));
    messages.extend(turns);
    Ok(Ask { messages, ..ask.clone() })
}

/// An answer's bill with that of an earlier call of the same text added. A cost that is not known makes the sum unknown.
pub fn billed(earlier: Option<Answer>, answer: Answer) -> Answer {
    let Some(earlier) = earlier else { return answer };
    let mut sum = answer;
    sum.usage.input_tokens += earlier.usage.input_tokens;
    sum.usage.cached_tokens += earlier.usage.cached_tokens;
    sum.usage.output_tokens += earlier.usage.output_tokens;
    sum.cost = sum.cost.zip(earlier.cost).map(|(a, b)| a + b);
    sum
}

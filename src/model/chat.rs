//! The model's own chat template: conversations to prompts, and the token that ends a response.
//!
//! Templates are Jinja as the transformers library runs them: blocks trimmed, Python's string methods,
//! `raise_exception`, `tojson`, `bos_token` and `eos_token`. The clock is out of reach, so that a prompt is the same
//! every day: `strftime_now` is not defined, and templates that ask for it by `is defined` take their fixed date.

use super::error::{Result, bad_file};
use super::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use std::path::Path;

/// Stands for a response while looking for what the template puts after it. No template writes it itself.
const MARK: &str = "\u{1}response\u{1}";

/// Named special tokens that templates may refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub unk: Option<String>,
    pub pad: Option<String>,
}

impl SpecialTokens {
    /// Those that there are, by their names in `tokenizer_config.json`.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all =
            [("bos_token", &self.bos), ("eos_token", &self.eos), ("unk_token", &self.unk), ("pad_token", &self.pad)];
        all.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?)))
    }
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Parses a template; `origin` is the file it comes from, for messages.
    pub fn new(source: &str, special: SpecialTokens, origin: &Path) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| bad_file(origin, e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|e| bad_file(origin, format!("the chat template is not valid: {}", describe(&e))))?;
        Ok(Self { source: source.to_string(), environment, special })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The conversation up to where the assistant begins to write.
    pub fn prompt(&self, messages: &[(String, String)]) -> std::result::Result<String, String> {
        self.render(messages, true)
    }

    fn render(&self, messages: &[(String, String)], generation: bool) -> std::result::Result<String, String> {
        let template = self.environment.get_template("chat").expect("added when the template was made");
        let messages: Vec<Value> =
            messages.iter().map(|(role, content)| context! { role => role, content => content }).collect();
        let token = |t: &Option<String>| t.clone().unwrap_or_default();
        let variables = context! {
            messages,
            add_generation_prompt => generation,
            bos_token => token(&self.special.bos),
            eos_token => token(&self.special.eos),
            unk_token => token(&self.special.unk),
            pad_token => token(&self.special.pad),
            tools => (),
            documents => (),
        };
        template.render(variables).map_err(|e| describe(&e))
    }

    /// What the template writes after a response.
    fn after_response(&self) -> std::result::Result<String, String> {
        let turn = |role: &str, content: &str| (role.to_string(), content.to_string());
        let text = self.render(&[turn("user", "question"), turn("assistant", MARK)], false)?;
        match text.rsplit_once(MARK) {
            Some((_, after)) => Ok(after.to_string()),
            None => Err("the template leaves the assistant's turn out".into()),
        }
    }

    /// The token that closes a response: the first special token that the template writes after one, or the model's
    /// own end of text where it writes none.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer, origin: &Path) -> Result<u32> {
        let fail = |why: String| bad_file(origin, format!("the chat template does not render a conversation: {why}"));
        let after = self.after_response().map_err(fail)?;
        let tokens = tokenizer.encode(&after).map_err(fail)?;
        let special = tokens.iter().copied().find(|t| tokenizer.is_added(*t));
        let end_of_text = || tokenizer.id(self.special.eos.as_deref()?);
        special.or_else(end_of_text).ok_or_else(|| {
            bad_file(
                origin,
                "no special token follows a response in the chat template, and the model names no end of text",
            )
            .help("give the model a template that ends turns: `chat-template=\"template.jinja\"`")
        })
    }
}

/// `{% generation %}` marks the assistant's words for training masks in the transformers library. It writes nothing;
/// as a condition that always holds it keeps its effect on white space.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start + 2..start + length]);
        out.push_str(before);
        let inner = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replaced = match inner {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out.push_str("{%");
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what models were trained on.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    // Accepted and of no effect: text is never escaped beyond what JSON demands.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(out)
}

fn write_json(json: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let comma = |first: bool, out: &mut String| match (first, indent) {
        (true, _) => {}
        (false, None) => out.push_str(", "),
        (false, Some(_)) => out.push(','),
    };
    match json {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                comma(i == 0, out);
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        serde_json::Value::Object(entries) if !entries.is_empty() => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                comma(i == 0, out);
                line(depth + 1, out);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// The message of an error and of what caused it, on one line.
fn describe(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        // What `raise_exception` was given is the whole message.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn template(source: &str) -> ChatTemplate {
        let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() };
        ChatTemplate::new(source, special, Path::new("tokenizer_config.json")).unwrap()
    }

    fn turns(turns: &[(&str, &str)]) -> Vec<(String, String)> {
        turns.iter().map(|(r, c)| (r.to_string(), c.to_string())).collect()
    }

    #[test]
    fn a_default_system_turn_comes_from_the_template() {
        let prompt = template(CHATML).prompt(&turns(&[("user", "2 + 2?")])).unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
        );
        let own = template(CHATML).prompt(&turns(&[("system", "Be kind."), ("user", "hi")])).unwrap();
        assert!(own.starts_with("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user"), "{own}");
    }

    #[test]
    fn what_follows_a_response_is_found_by_rendering_one() {
        assert_eq!(template(CHATML).after_response().unwrap(), "<|im_end|>\n");
        let inst = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}";
        assert_eq!(template(inst).after_response().unwrap(), " </s>");
        assert_eq!(template(inst).prompt(&turns(&[("user", " hi ")])).unwrap(), "<s>[INST] hi [/INST]");
        assert!(template("{{ messages[0].content }}").after_response().unwrap_err().contains("leaves the assistant"));
    }

    #[test]
    fn blocks_on_their_own_lines_leave_no_white_space() {
        let source =
            "{% for m in messages %}\n    {%- if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n";
        assert_eq!(template(source).prompt(&turns(&[("user", "a"), ("user", "b")])).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_template_can_refuse() {
        let refuses =
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok";
        let error = template(refuses).prompt(&turns(&[("system", "x")])).unwrap_err();
        assert_eq!(error, "System role not supported (line 1 of the template)");
        assert_eq!(template(refuses).prompt(&turns(&[("user", "x")])).unwrap(), "ok");
    }

    #[test]
    fn the_clock_is_out_of_reach() {
        let dated = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(template(dated).prompt(&turns(&[("user", "x")])).unwrap(), "26 Jul 2024");
        let careless = template("{{ strftime_now('%Y') }}").prompt(&turns(&[("user", "x")])).unwrap_err();
        assert!(careless.contains("strftime_now"), "{careless}");
    }

    #[test]
    fn json_is_pythons() {
        let tojson = |filter: &str| {
            template(&format!("{{{{ messages[0] | {filter} }}}}")).prompt(&turns(&[("user", "é <b> \"")]))
        };
        assert_eq!(tojson("tojson").unwrap(), r#"{"role": "user", "content": "é <b> \""}"#);
        assert_eq!(tojson("tojson(indent=2)").unwrap(), "{\n  \"role\": \"user\",\n  \"content\": \"é <b> \\\"\"\n}");
    }

    #[test]
    fn marks_for_training_masks_write_nothing() {
        let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{%- generation -%} x {%- endgeneration -%}{% endfor %}";
        assert_eq!(template(source).prompt(&turns(&[("user", "a")])).unwrap(), "ax");
    }

    #[test]
    fn a_broken_template_names_its_file() {
        let error = ChatTemplate::new("{% for %}", SpecialTokens::default(), Path::new("chat_template.jinja"));
        let error = error.map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("chat_template.jinja: the chat template is not valid: "), "{error}");
    }
}

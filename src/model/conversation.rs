//! Conversations of several turns as tokens: where the assistant's turns are, and what closes them.

use super::language_model::{Chat, TextModel};
use super::{ScoreFailure, error::Result};
use std::ops::Range;

/// The role of the turns that a model writes.
const ASSISTANT: &str = "assistant";

/// A conversation up to the end of its last response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub tokens: Vec<u32>,
    /// The assistant's turns, ascending, each with the token that closes it. None where the assistant says nothing.
    pub responses: Vec<Range<usize>>,
}

/// A turn of the assistant that has been put into tokens.
struct Said<'a> {
    /// What the template writes up to the turn.
    before: String,
    content: &'a str,
}

impl TextModel {
    /// Puts a conversation of (role, content) into the chat template. Each response follows the very prompt that the
    /// model would be given to write it, so a conversation with one response has the tokens that [`Self::encode`] gives.
    pub fn conversation(
        &self,
        messages: &[(String, String)],
    ) -> Result<std::result::Result<Conversation, ScoreFailure>> {
        Ok(self.in_template(self.chat()?, messages))
    }

    fn in_template(
        &self,
        chat: &Chat,
        messages: &[(String, String)],
    ) -> std::result::Result<Conversation, ScoreFailure> {
        let encode = |text: &str| self.tokenizer.encode(text).map_err(ScoreFailure::Template);
        let end = self.tokenizer.text(chat.end_of_turn).unwrap_or_default();
        let mut whole = Conversation { tokens: Vec::new(), responses: Vec::new() };
        let mut last: Option<Said<'_>> = None;
        for (at, (_, content)) in messages.iter().enumerate().filter(|(_, (role, _))| role == ASSISTANT) {
            let prompt = chat.template.prompt(&messages[..at]).map_err(ScoreFailure::Template)?;
            let between = match &last {
                None => prompt.as_str(),
                Some(said) => {
                    let (between, closed) = said.rest_of(&prompt, &end).map_err(ScoreFailure::Template)?;
                    if !closed {
                        whole.open_last();
                    }
                    between
                }
            };
            whole.tokens.extend(encode(between)?);
            let start = whole.tokens.len();
            whole.tokens.extend(encode(content)?);
            if whole.tokens.len() == start {
                return Err(ScoreFailure::Empty);
            }
            whole.tokens.push(chat.end_of_turn);
            whole.responses.push(start..whole.tokens.len());
            last = Some(Said { before: prompt, content });
        }
        self.has_embeddings(&whole.tokens).map_err(ScoreFailure::Template)?;
        Ok(whole)
    }
}

impl Conversation {
    /// Takes the closing token of the last response away: this template writes none before another turn.
    fn open_last(&mut self) {
        self.tokens.pop();
        if let Some(last) = self.responses.last_mut() {
            last.end -= 1;
        }
    }
}

impl Said<'_> {
    /// What a later prompt writes after this turn, and whether the turn was closed by the text `end`.
    fn rest_of<'p>(&self, prompt: &'p str, end: &str) -> std::result::Result<(&'p str, bool), String> {
        // Templates may trim a turn and put spaces around it.
        let after = prompt.strip_prefix(self.before.as_str()).and_then(|rest| {
            rest.strip_prefix(self.content).or_else(|| rest.trim_start().strip_prefix(self.content.trim()))
        });
        let Some(after) = after else {
            return Err(
                "it writes an earlier turn in another way once later ones follow, so what the model learns in one \
                        turn would not be what it is asked in another; split the conversation into rows of one response"
                    .into(),
            );
        };
        match after.trim_start().strip_prefix(end) {
            Some(rest) if !end.is_empty() => Ok((rest, true)),
            _ => Ok((after, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::files::{ModelFiles, Precision, WeightFiles};
    use crate::model::{ScoreRequest, synthetic};
    use serde_json::json;

    const CHATML: &str = "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    /// With spaces around a response, which it trims, and the end of text for a closing token.
    const INST: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}";
    const HEADERS: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}";
    /// Closes no turn: the end of text comes after the last one alone.
    const PLAIN: &str = "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\nAssistant: {% else %}{{ m.content }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}";
    /// Leaves the thoughts of earlier turns out.
    const THINKING: &str = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

    const SPECIAL: [&str; 7] =
        ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];

    /// Bytes for tokens, and the special tokens of common templates.
    fn model(template: &str) -> TextModel {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_model(folder.path(), 1).unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut tokenizer: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path("tokenizer.json")).unwrap()).unwrap();
        let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap().len();
        for (id, text) in (vocabulary..).zip(SPECIAL) {
            tokenizer["model"]["vocab"][text] = id.into();
            tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": text,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
        }
        std::fs::write(path("tokenizer.json"), tokenizer.to_string()).unwrap();
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path("config.json")).unwrap()).unwrap();
        config["vocab_size"] = 300.into();
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
        std::fs::write(path("tokenizer_config.json"), settings.to_string()).unwrap();
        let companions = ["config.json", "tokenizer.json", "tokenizer_config.json"];
        TextModel::load(&ModelFiles {
            weights: WeightFiles::Safetensors(vec![path("model.safetensors")]),
            companions: companions.iter().map(|name| (name.to_string(), path(name))).collect(),
            chat_template: None,
            context: None,
            precision: Precision::F32,
        })
        .unwrap()
    }

    fn turns(turns: &[(&str, &str)]) -> Vec<(String, String)> {
        turns.iter().map(|(role, content)| (role.to_string(), content.to_string())).collect()
    }

    const TWO: &[(&str, &str)] =
        &[("user", "2 + 2?"), ("assistant", "It is 4."), ("user", "And 3 + 3?"), ("assistant", "6.")];

    /// The text of a conversation, with labels in brackets.
    fn marked(template: &str, messages: &[(&str, &str)]) -> String {
        let model = model(template);
        let row = model.conversation(&turns(messages)).unwrap().unwrap();
        let (mut text, mut at) = (String::new(), 0);
        let text_of = |token: &u32| match model.tokenizer.is_added(*token) {
            true => model.tokenizer.text(*token).unwrap(),
            false => model.tokenizer.text_of(&[*token]),
        };
        let show = |range: Range<usize>| row.tokens[range].iter().map(text_of).collect::<String>();
        for labels in row.responses.clone() {
            text += &format!("{}⟦{}⟧", show(at..labels.start), show(labels.clone()));
            at = labels.end;
        }
        text + &show(at..row.tokens.len())
    }

    #[test]
    fn every_response_and_its_closing_token_are_labels() {
        let chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n\
                      ⟦It is 4.<|im_end|>⟧\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>assistant\n⟦6.<|im_end|>⟧";
        assert_eq!(marked(CHATML, TWO), chatml);
        let (user, assistant) =
            ["user", "assistant"].map(|r| format!("<|start_header_id|>{r}<|end_header_id|>\n\n")).into();
        let headers = format!(
            "<s>{user}2 + 2?<|eot_id|>{assistant}⟦It is 4.<|eot_id|>⟧{user}And 3 + 3?<|eot_id|>{assistant}⟦6.<|eot_id|>⟧"
        );
        assert_eq!(marked(HEADERS, TWO), headers);
        assert_eq!(marked(INST, TWO), "<s>[INST] 2 + 2? [/INST]⟦It is 4.</s>⟧[INST] And 3 + 3? [/INST]⟦6.</s>⟧");
        let plain = "User: 2 + 2?\nAssistant: ⟦It is 4.⟧\nUser: And 3 + 3?\nAssistant: ⟦6.</s>⟧";
        assert_eq!(marked(PLAIN, TWO), plain);
    }

    /// The tokens are those of the whole conversation as the template renders it, up to the last closing token.
    #[test]
    fn nothing_is_added_to_what_the_template_writes() {
        for template in [CHATML, HEADERS] {
            let model = model(template);
            let row = model.conversation(&turns(TWO)).unwrap().unwrap();
            let next = [TWO, &[("user", "")]].concat();
            let prompt = ScoreRequest { messages: turns(&next), response: "x".into() };
            let encoded = model.encode(&prompt, 10_000).unwrap().unwrap();
            assert_eq!(encoded.tokens[..row.tokens.len()], row.tokens);
        }
    }

    #[test]
    fn a_conversation_of_one_response_is_a_row_as_it_is_scored() {
        for template in [CHATML, HEADERS, INST, PLAIN] {
            let model = model(template);
            let row = model.conversation(&turns(&TWO[..2])).unwrap().unwrap();
            let request = ScoreRequest { messages: turns(&TWO[..1]), response: "It is 4.".into() };
            let encoded = model.encode(&request, 10_000).unwrap().unwrap();
            let expected = encoded.prompt..encoded.tokens.len() + 1;
            assert_eq!((row.responses.len(), &row.responses[0]), (1, &expected));
            assert_eq!(row.tokens, [encoded.tokens, vec![encoded.end]].concat());
        }
    }

    #[test]
    fn what_cannot_be_learned_in_one_row_is_refused() {
        let thoughts = &[("user", "a"), ("assistant", "<think>b</think>c"), ("user", "d"), ("assistant", "e")];
        let refused = |template: &str, messages: &[(&str, &str)]| {
            model(template).conversation(&turns(messages)).unwrap().unwrap_err()
        };
        assert!(matches!(refused(THINKING, thoughts), ScoreFailure::Template(why) if why.contains("earlier turn")));
        assert_eq!(refused(CHATML, &[("user", "a"), ("assistant", "")]), ScoreFailure::Empty);
        let row = model(CHATML).conversation(&turns(&[("user", "a")])).unwrap().unwrap();
        assert!(row.responses.is_empty());
    }
}

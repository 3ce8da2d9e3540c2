//! Text to tokens: a `tokenizer.json`, or the vocabulary inside a GGUF file.

use super::error::{Result, bad_file, unsupported};
use super::gguf::GgufFile;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

const OWN_TOKENIZER: &str = "put the model's `tokenizer.json` beside the GGUF file and name their folder as the path";

/// How GGUF's `tokenizer.ggml.token_type` marks a token.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Turns text into tokens of one model.
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn from_json(path: &Path) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_file(path)
            .map_err(|e| bad_file(path, format!("not a tokenizer that can be read: {e}")))?;
        // Scores must not depend on cutting or padding that somebody left switched on in the file.
        inner.with_truncation(None).map_err(|e| bad_file(path, e))?;
        inner.with_padding(None);
        Ok(Self(inner))
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub(super) fn from_gguf(gguf: &GgufFile) -> Result<Self> {
        let vocabulary = Vocabulary::read(gguf)?;
        let mut inner = match gguf.str("tokenizer.ggml.model")? {
            "gpt2" => byte_level(gguf, &vocabulary)?,
            "llama" => sentence_piece(gguf, &vocabulary)?,
            other => {
                return Err(unsupported(
                    gguf.path(),
                    format!("tokenizer model `{other}` is not supported; supported are `gpt2` and `llama`"),
                )
                .help(OWN_TOKENIZER));
            }
        };
        let added = |kind: u64, special: bool| {
            let of_kind = move |(_, k): &(&&str, &u64)| **k == kind;
            let tokens = vocabulary.tokens.iter().zip(&vocabulary.kinds).filter(of_kind);
            tokens.map(move |(t, _)| AddedToken::from(t.to_string(), special).normalized(false)).collect::<Vec<_>>()
        };
        let fail = |e| bad_file(gguf.path(), format!("special tokens: {e}"));
        inner.add_special_tokens(added(CONTROL, true)).map_err(fail)?;
        inner.add_tokens(added(USER_DEFINED, false)).map_err(fail)?;
        Ok(Self(inner))
    }

    /// As a `tokenizer.json`.
    pub fn to_json(&self) -> Result<String> {
        let failed = |e| crate::exec::RunError::failed("model-failed", format!("the tokenizer cannot be written: {e}"));
        self.0.to_string(true).map_err(failed)
    }

    /// Tokens of a text. Special tokens are recognised where their text stands, and none is added.
    pub fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let encoding = self.0.encode_fast(text, false).map_err(|e| e.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token that the tokenizer puts before every text, if it does.
    pub fn start(&self) -> Option<u32> {
        let empty = self.0.encode_fast("", true).ok()?;
        // Of a template with a token at either end the first is meant.
        empty.get_ids().first().copied()
    }

    pub fn decode(&self, tokens: &[u32]) -> std::result::Result<String, String> {
        self.0.decode(tokens, false).map_err(|e| e.to_string())
    }

    /// The text of tokens that a model wrote: special tokens have none. Tokens that the vocabulary lacks have none either.
    pub fn text_of(&self, tokens: &[u32]) -> String {
        self.0.decode(tokens, true).unwrap_or_default()
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    pub fn text(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// Whether a token stands for itself in text rather than being made of text.
    pub fn is_added(&self, id: u32) -> bool {
        self.0.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }
}

/// What GGUF metadata says of the tokens.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
    unknown: Option<&'a str>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a GgufFile) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let missing = || bad_file(gguf.path(), format!("metadata key `{key}` is missing"));
        let tokens = gguf.strings(key)?.filter(|t| !t.is_empty()).ok_or_else(missing)?;
        let kinds = match gguf.array("tokenizer.ggml.token_type")? {
            Some(kinds) => kinds.iter().map(|k| super::gguf::whole(k).unwrap_or(1)).collect(),
            None => vec![1; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            let message = format!("{} token types for {} tokens", kinds.len(), tokens.len());
            return Err(bad_file(gguf.path(), message));
        }
        let unknown = gguf.opt_u64("tokenizer.ggml.unknown_token_id")?;
        let unknown = unknown.and_then(|id| tokens.get(id as usize).copied());
        Ok(Self { tokens, kinds, unknown })
    }

    fn ids(&self) -> Vocab {
        self.tokens.iter().enumerate().map(|(i, t)| (t.to_string(), i as u32)).collect()
    }
}

/// Byte-level byte-pair encoding, as GPT-2 introduced it.
fn byte_level(gguf: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer> {
    let pre = Splitting::named(gguf.opt_str("tokenizer.ggml.pre")?.unwrap_or("gpt-2"), gguf.path())?;
    let missing = || bad_file(gguf.path(), "metadata key `tokenizer.ggml.merges` is missing");
    let merges = gguf.strings("tokenizer.ggml.merges")?.ok_or_else(missing)?;
    let merges: Option<Merges> = merges.iter().map(|m| m.split_once(' ')).map(|m| Some(owned(m?))).collect();
    let merges = merges.ok_or_else(|| bad_file(gguf.path(), "a merge is not two tokens with a space between"))?;
    let bpe = BPE::builder().vocab_and_merges(vocabulary.ids(), merges).ignore_merges(pre.ignore_merges).build();
    let mut tokenizer = tokenizers::Tokenizer::new(bpe.map_err(|e| bad_file(gguf.path(), e))?);
    let byte_level =
        |regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let splitting = match pre.pattern {
        None => byte_level(true),
        Some(pattern) => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]}),
    };
    tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(splitting)));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(byte_level(true))));
    if pre.compose {
        let normalizer = part::<NormalizerWrapper>(json!({"type": "NFC"}));
        tokenizer.with_normalizer(Some(normalizer)).map_err(|e| bad_file(gguf.path(), e))?;
    }
    Ok(tokenizer)
}

/// How text is cut into words before byte pairs are merged.
struct Splitting {
    /// `None` is GPT-2's own.
    pattern: Option<&'static str>,
    /// Unicode normal form C comes first.
    compose: bool,
    /// A word that is a token is taken whole.
    ignore_merges: bool,
}

impl Splitting {
    fn named(name: &str, path: &Path) -> Result<Self> {
        const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let (pattern, compose, ignore_merges) = match name {
            // `smollm` as the transformers library reads it from the same file. The model's own `tokenizer.json`
            // cuts digits out first, which merges line breaks before a digit: put it beside the GGUF file and name their folder.
            "gpt-2" | "gpt2" | "smollm" => (None, false, false),
            "llama-bpe" | "llama3" | "llama-v3" => (Some(LLAMA3), false, true),
            "qwen2" | "deepseek-r1-qwen" => (Some(QWEN2), true, false),
            other => {
                let known = "`gpt-2`, `smollm`, `llama-bpe` and `qwen2`";
                let message = format!("pre-tokenizer `{other}` is not supported; supported are {known}");
                return Err(unsupported(path, message).help(OWN_TOKENIZER));
            }
        };
        Ok(Self { pattern, compose, ignore_merges })
    }
}

/// SentencePiece's byte-pair encoding (Llama 2, Mistral): the file has a score for every token and no merges. A pair
/// merges the earlier the higher the score of what it makes.
fn sentence_piece(gguf: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer> {
    let scores = gguf.array("tokenizer.ggml.scores")?.unwrap_or_default();
    let scores: Vec<f32> = scores.iter().filter_map(|s| s.to_f32().ok()).collect();
    if scores.len() != vocabulary.tokens.len() {
        let message = format!("{} token scores for {} tokens", scores.len(), vocabulary.tokens.len());
        return Err(bad_file(gguf.path(), message));
    }
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocabulary.ids(), merges_by_score(&vocabulary.tokens, &scores))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = vocabulary.unknown {
        bpe = bpe.unk_token(unknown.to_string());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(bpe.build().map_err(|e| bad_file(gguf.path(), e))?);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = gguf.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let normalizers = match prefix {
        true => vec![json!({"type": "Prepend", "prepend": "▁"}), space],
        false => vec![space],
    };
    let normalizer = part::<NormalizerWrapper>(json!({"type": "Sequence", "normalizers": normalizers}));
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| bad_file(gguf.path(), e))?;
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(json!({"type": "Sequence", "decoders": decoders}))));
    Ok(tokenizer)
}

/// All pairs of tokens that make a token, best score first; among equal scores the longer left part first.
fn merges_by_score(tokens: &[&str], scores: &[f32]) -> Merges {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<(&str, &str)> = cuts.filter(|(l, r)| ids.contains_key(l) && ids.contains_key(r)).collect();
        pairs.sort_by_key(|(l, r)| (ids[l], ids[r]));
        merges.extend(pairs.into_iter().map(|pair| (*score, pair)));
    }
    let length = |t: &str| std::cmp::Reverse(t.chars().count());
    merges.sort_by(|(s, (l, r)), (t, (m, n))| {
        t.total_cmp(s).then_with(|| (length(l), length(r)).cmp(&(length(m), length(n))))
    });
    merges.into_iter().map(|(_, pair)| owned(pair)).collect()
}

fn owned((left, right): (&str, &str)) -> (String, String) {
    (left.to_string(), right.to_string())
}

/// A part of a tokenizer by its description in `tokenizer.json`.
fn part<T: serde::de::DeserializeOwned>(description: Value) -> T {
    serde_json::from_value(description).expect("descriptions above are of parts that the library has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_merge_by_score_then_by_length() {
        let tokens = ["<unk>", "a", "b", "c", "ab", "bc", "abc"];
        let scores = [0.0, -3.0, -4.0, -5.0, -1.0, -2.0, -0.5];
        let merges = merges_by_score(&tokens, &scores);
        let merges: Vec<String> = merges.iter().map(|(l, r)| format!("{l}+{r}")).collect();
        assert_eq!(merges, ["ab+c", "a+bc", "a+b", "b+c"]);
    }

    #[test]
    fn an_unknown_splitting_is_refused_with_the_way_out() {
        let error = Splitting::named("tekken", Path::new("m.gguf")).map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "m.gguf: pre-tokenizer `tekken` is not supported; supported are `gpt-2`, `smollm`, `llama-bpe` and `qwen2`"
        );
    }
}

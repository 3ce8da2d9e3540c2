//! Declared models: what is known before their weights are here, and how they come.

use super::hub::{COMMIT, FakeHub};
use super::{Said, fetcher, sha256};
use crate::config::{ModelDecl, ModelSource};
use crate::diag::{SourceId, Span, Spanned};
use crate::fetch::progress::Quiet;
use crate::fetch::{Availability, Fetcher, Kind, WeightsKind};
use std::path::{Path, PathBuf};

fn span() -> Span {
    Span::new(SourceId(0), 0, 0)
}

fn decl(source: ModelSource) -> ModelDecl {
    let dtype = Spanned::new("f32".to_string(), span());
    ModelDecl { name: "m".into(), source, dtype, context: None, chat_template: None, span: span() }
}

fn manifest(name: &str) -> ModelDecl {
    decl(ModelSource::Manifest(Spanned::new(name.into(), span())))
}

fn path(path: &Path) -> ModelDecl {
    decl(ModelSource::Path(Spanned::new(path.to_path_buf(), span())))
}

fn hub(repo: &str, file: Option<&str>) -> ModelDecl {
    let text = |t: &str| Spanned::new(t.to_string(), span());
    decl(ModelSource::Hub { repo: text(repo), revision: None, file: file.map(text) })
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A GGUF file's head: a context of 4096, a template, and two tensors of 2x3 and 4 numbers.
fn gguf() -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(5u64.to_le_bytes());
    let mut entry = |key: &str, kind: u32, value: &[u8]| {
        string(&mut out, key);
        out.extend(kind.to_le_bytes());
        out.extend(value);
    };
    let text = |t: &str| {
        let mut bytes = Vec::new();
        string(&mut bytes, t);
        bytes
    };
    // An array of two strings, which is skipped.
    let array = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("bc")].concat();
    entry("tokenizer.ggml.tokens", 9, &array);
    entry("llama.context_length", 4, &4096u32.to_le_bytes());
    entry("other.context_length", 4, &1u32.to_le_bytes());
    entry("general.architecture", 8, &text("llama"));
    entry("tokenizer.chat_template", 8, &text("{{ messages }}"));
    for (name, shape) in [("a.weight", &[2u64, 3][..]), ("b.weight", &[4])] {
        string(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
    }
    out
}

fn safetensors(shape: &str) -> Vec<u8> {
    let header =
        format!(r#"{{"__metadata__":{{"format":"pt"}},"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

const CONFIG: &[u8] = br#"{"model_type":"llama","max_position_embeddings":2048}"#;

fn folder() -> (tempfile::TempDir, Fetcher) {
    let folder = tempfile::tempdir().unwrap();
    let f = fetcher(folder.path(), "", &[]);
    (folder, f)
}

#[test]
fn a_manifest_s_model_is_known_before_it_is_fetched() {
    let (_folder, f) = folder();
    let state = f.model_state(&manifest("smollm2-135m-instruct")).unwrap();
    let info = &state.info;
    assert_eq!((info.context, info.parameters, info.has_chat_template), (Some(8192), Some(134_515_008), Some(true)));
    assert_eq!(info.memory, Some(4 * 134_515_008));
    let Availability::ToFetch { bytes, pinned } = state.availability else { panic!("it is not here") };
    assert_eq!((bytes, pinned), (Some(98_362_432), true));
    let mut quantized = manifest("smollm2-135m-instruct");
    quantized.dtype.value = "quantized".into();
    let quantized = f.model_state(&quantized).unwrap().info;
    assert_eq!(quantized.memory, Some(98_362_432));
    assert_ne!(quantized.digest, info.digest);
}

#[test]
fn an_unknown_manifest_is_reported_with_what_is_near() {
    let (_folder, f) = folder();
    let d = f.model_state(&manifest("smollm2-135m-instuct")).unwrap_err();
    assert_eq!(d.code, "unknown-model");
    assert_eq!(d.help, ["did you mean `smollm2-135m-instruct`?"]);
}

#[test]
fn a_gguf_file_tells_its_facts() {
    let (folder, f) = folder();
    let file = folder.path().join("m.gguf");
    std::fs::write(&file, gguf()).unwrap();
    let state = f.model_state(&path(&file)).unwrap();
    assert!(matches!(state.availability, Availability::Here));
    let info = state.info;
    assert_eq!((info.context, info.parameters, info.has_chat_template), (Some(4096), Some(10), Some(true)));
    let mut shorter = path(&file);
    shorter.context = Some(Spanned::new(512, span()));
    assert_eq!(f.model_state(&shorter).unwrap().info.context, Some(512));
    // The same bytes under another name are the same model.
    let copy = folder.path().join("copy.gguf");
    std::fs::copy(&file, &copy).unwrap();
    assert_eq!(f.model_state(&path(&copy)).unwrap().info.digest, info.digest);
    let files = f.ensure_model(&path(&file), &Quiet).unwrap();
    assert_eq!((files.kind, files.weights), (WeightsKind::Gguf, vec![file]));
}

#[test]
fn a_gguf_file_cut_anywhere_is_an_error() {
    let (folder, f) = folder();
    let (whole, file) = (gguf(), folder.path().join("m.gguf"));
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let d = f.model_state(&path(&file)).unwrap_err();
        assert_eq!(d.code, "model-unreadable", "{length}");
    }
    // Lengths that claim more than there is take no memory.
    for at in [8, 16, 24, 32] {
        let mut wild = whole.clone();
        wild[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&file, &wild).unwrap();
        assert!(f.model_state(&path(&file)).is_err(), "{at}");
    }
}

#[test]
fn a_folder_of_safetensors_tells_its_facts() {
    let (folder, f) = folder();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for (name, bytes) in
        [("config.json", CONFIG), ("tokenizer.json", b"{}"), ("model.safetensors", &safetensors("[5,2]"))]
    {
        std::fs::write(model.join(name), bytes).unwrap();
    }
    let info = f.model_state(&path(&model)).unwrap().info;
    assert_eq!((info.context, info.parameters, info.has_chat_template), (Some(2048), Some(10), Some(false)));
    std::fs::write(model.join("tokenizer_config.json"), r#"{"chat_template":"x"}"#).unwrap();
    let with_template = f.model_state(&path(&model)).unwrap().info;
    assert_eq!(with_template.has_chat_template, Some(true));
    assert_ne!(with_template.digest, info.digest);
    for broken in [&b"{"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"", &safetensors("3")] {
        std::fs::write(model.join("model.safetensors"), broken).unwrap();
        assert_eq!(f.model_state(&path(&model)).unwrap_err().code, "model-unreadable");
    }
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let e = f.ensure_model(&path(&model), &Quiet).unwrap_err();
    assert!(e.message.contains("has no `tokenizer.json`"), "{}", e.message);
}

#[test]
fn a_template_in_place_of_the_model_s_own_changes_the_digest() {
    let (folder, f) = folder();
    let (file, template) = (folder.path().join("m.gguf"), folder.path().join("t.jinja"));
    std::fs::write(&file, gguf()).unwrap();
    std::fs::write(&template, "{{ messages }}").unwrap();
    let mut with = path(&file);
    with.chat_template = Some(Spanned::new(template.clone(), span()));
    let (plain, with_template) = (f.model_state(&path(&file)).unwrap(), f.model_state(&with).unwrap());
    assert_ne!(plain.info.digest, with_template.info.digest);
    assert_eq!(f.ensure_model(&with, &Quiet).unwrap().chat_template, Some(template.clone()));
    std::fs::remove_file(template).unwrap();
    assert_eq!(f.model_state(&with).unwrap_err().code, "file-missing");
}

#[test]
fn paths_that_lead_nowhere_or_to_something_else_are_reported() {
    let (folder, f) = folder();
    let state = f.model_state(&path(Path::new("/nonexistent/m.gguf"))).unwrap();
    let Availability::Missing(d) = state.availability else { panic!("it is not there") };
    assert_eq!(d.code, "model-missing");
    let text = folder.path().join("m.txt");
    std::fs::write(&text, "x").unwrap();
    assert_eq!(f.model_state(&path(&text)).unwrap_err().code, "model-unreadable");
}

/// A fetcher whose hub is this one.
fn at_hub(folder: &Path, url: &str) -> Fetcher {
    fetcher(folder, "", &[("HF_ENDPOINT", url)])
}

fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    let index = r#"{"metadata":{},"weight_map":{"b":"model-00002.safetensors","a":"model-00001.safetensors","c":"model-00002.safetensors"}}"#;
    vec![
        ("README.md", b"not fetched".to_vec()),
        ("config.json", CONFIG.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{{ messages }}".to_vec()),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
        ("model-00001.safetensors", safetensors("[3]")),
        ("model-00002.safetensors", safetensors("[4]")),
    ]
}

#[test]
fn a_sharded_hub_model_comes_whole_and_only_what_it_needs() {
    let server = FakeHub::new(sharded()).start();
    let folder = tempfile::tempdir().unwrap();
    let f = at_hub(folder.path(), &server.url);
    let decl = hub("org/name", None);
    let before = f.model_state(&decl).unwrap();
    assert!(matches!(before.availability, Availability::ToFetch { bytes: None, pinned: false }));
    let files = f.ensure_model(&decl, &Quiet).unwrap();
    let names = |paths: &[PathBuf]| -> Vec<String> {
        paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&files.weights), ["model-00001.safetensors", "model-00002.safetensors"]);
    assert_eq!(files.files.keys().collect::<Vec<_>>(), ["config.json", "tokenizer.json", "chat_template.jinja"]);
    assert!(!server.seen().iter().any(|s| s.path.ends_with("README.md")));
    let after = f.model_state(&decl).unwrap();
    assert!(matches!(after.availability, Availability::Here));
    assert_eq!((after.info.parameters, after.info.has_chat_template), (Some(7), Some(true)));
    assert_ne!(after.info.digest, before.info.digest);
    // Nothing is asked again.
    let requests = server.count();
    assert_eq!(f.ensure_model(&decl, &Quiet).unwrap().weights, files.weights);
    assert_eq!(server.count(), requests);
    // The same content from a folder is the same model.
    let snapshot = folder.path().join("hf/hub/models--org--name/snapshots").join(COMMIT);
    assert_eq!(f.model_state(&path(&snapshot)).unwrap().info.digest, after.info.digest);
}

#[test]
fn half_a_model_in_the_cache_is_no_model() {
    let server = FakeHub::new(sharded()).start();
    let folder = tempfile::tempdir().unwrap();
    let f = at_hub(folder.path(), &server.url);
    let decl = hub("org/name", None);
    let files = f.ensure_model(&decl, &Quiet).unwrap();
    std::fs::remove_file(&files.weights[1]).unwrap();
    assert!(matches!(f.model_state(&decl).unwrap().availability, Availability::ToFetch { .. }));
    f.ensure_model(&decl, &Quiet).unwrap();
    assert!(files.weights[1].exists());
}

#[test]
fn shards_may_not_lie_elsewhere() {
    let index = br#"{"weight_map":{"a":"../../../../evil.safetensors"}}"#.to_vec();
    let server = FakeHub::new(vec![("model.safetensors.index.json", index)]).start();
    let folder = tempfile::tempdir().unwrap();
    let e = at_hub(folder.path(), &server.url).ensure_model(&hub("org/name", None), &Quiet).unwrap_err();
    assert_eq!(e.kind, Kind::WrongContent, "{e}");
}

#[test]
fn of_several_gguf_files_one_must_be_named() {
    let files = || vec![("a.gguf", gguf()), ("b.gguf", gguf())];
    let server = FakeHub::new(files()).start();
    let folder = tempfile::tempdir().unwrap();
    let f = at_hub(folder.path(), &server.url);
    let e = f.ensure_model(&hub("org/name", None), &Quiet).unwrap_err();
    assert_eq!(e.help.as_deref(), Some("say which with `file=`: `a.gguf` and `b.gguf`"));
    let e = f.ensure_model(&hub("org/name", Some("c.gguf")), &Quiet).unwrap_err();
    assert_eq!((e.kind, e.help.as_deref()), (Kind::NotFound, Some("did you mean `a.gguf`?")));
    let model = f.ensure_model(&hub("org/name", Some("b.gguf")), &Quiet).unwrap();
    assert_eq!(sha256(&std::fs::read(&model.weights[0]).unwrap()), sha256(&gguf()));
    assert_eq!(f.model_state(&hub("org/name", Some("b.gguf"))).unwrap().info.context, Some(4096));
}

/// What may stand beside a GGUF file, and what is of no use to it.
fn beside_gguf() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("m.gguf", gguf()),
        ("config.json", b"not read".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", br#"{"chat_template":"x"}"#.to_vec()),
    ]
}

#[test]
fn a_gguf_file_of_the_hub_brings_the_tokenizer_beside_it() {
    let server = FakeHub::new(beside_gguf()).start();
    let folder = tempfile::tempdir().unwrap();
    let f = at_hub(folder.path(), &server.url);
    let decl = hub("org/name", Some("m.gguf"));
    let fetched = f.ensure_model(&decl, &Quiet).unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["tokenizer.json", "tokenizer_config.json"]);
    assert!(!server.seen().iter().any(|s| s.path.ends_with("/config.json")));
    // From the cache, and without naming the file, it is the same model.
    assert_eq!(f.ensure_model(&decl, &Quiet).unwrap().files, fetched.files);
    let digest = |decl: &ModelDecl| f.model_state(decl).unwrap().info.digest;
    assert_eq!(digest(&decl), digest(&hub("org/name", None)));
}

#[test]
fn what_stands_beside_a_gguf_file_belongs_to_its_folder_and_not_to_the_file_alone() {
    let (folder, f) = folder();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for (name, bytes) in beside_gguf() {
        std::fs::write(model.join(name), bytes).unwrap();
    }
    let (alone, whole) = (path(&model.join("m.gguf")), path(&model));
    assert!(f.ensure_model(&alone, &Quiet).unwrap().files.is_empty());
    assert_eq!(f.ensure_model(&whole, &Quiet).unwrap().files.len(), 2);
    let digest = |decl: &ModelDecl| f.model_state(decl).unwrap().info.digest;
    assert_ne!(digest(&alone), digest(&whole));
    std::fs::write(model.join("tokenizer_config.json"), "{").unwrap();
    std::fs::write(model.join("other.gguf"), gguf()).unwrap();
    let help = f.ensure_model(&whole, &Quiet).unwrap_err().help.unwrap();
    assert!(help.contains("name one as the `path`") && help.contains("`other.gguf`"), "{help}");
}

#[test]
fn a_manifest_may_put_a_tokenizer_beside_a_gguf_file() {
    let server = FakeHub::new(beside_gguf()).start();
    let folder = tempfile::tempdir().unwrap();
    let text = r#"model "m" {
        summary "m"; license "MIT"; kind "gguf"; architecture "llama"; context 4096; parameters 10
        file "m.gguf" { hub "org/name" file="m.gguf"; }
        file "tokenizer.json" { hub "org/name" file="tokenizer.json"; }
    }"#;
    let f = fetcher(folder.path(), text, &[("HF_ENDPOINT", &server.url)]);
    let files = f.ensure_model(&manifest("m"), &Quiet).unwrap();
    assert_eq!(files.files.keys().collect::<Vec<_>>(), ["tokenizer.json"]);
    assert_eq!(files.weights.len(), 1);
}

#[test]
fn a_manifest_s_model_comes_from_the_hub_cache_when_it_is_there() {
    let weights = gguf();
    let server = FakeHub::new(vec![("w.gguf", weights.clone())]).start();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"model "m" {{
            summary "m"; license "MIT"; kind "gguf"; architecture "llama"; context 4096; parameters 10
            file "w.gguf" sha256="{}" {{ hub "org/name" file="w.gguf"; }}
        }}"#,
        sha256(&weights)
    );
    let f = fetcher(folder.path(), &text, &[("HF_ENDPOINT", &server.url)]);
    let before = f.model_state(&manifest("m")).unwrap();
    let files = f.ensure_model(&manifest("m"), &Said::default()).unwrap();
    assert!(files.weights[0].starts_with(folder.path().join("hf")));
    let requests = server.count();
    let after = f.model_state(&manifest("m")).unwrap();
    assert_eq!((after.info.digest, server.count()), (before.info.digest, requests));
    // A manifest's model and the same file given by its path are one.
    let file = folder.path().join("x.gguf");
    std::fs::write(&file, weights).unwrap();
    assert_eq!(f.model_state(&path(&file)).unwrap().info.digest, f.model_state(&manifest("m")).unwrap().info.digest);
}

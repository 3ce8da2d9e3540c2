use super::super::adapter::{LoraConfig, Target};
use super::super::gguf_tests::{folder_files, request};
use super::super::synthetic;
use super::super::train::pass::{self, Example, PassOptions};
use super::*;
use crate::config::ModelSource;
use crate::diag::{SourceId, Span, Spanned};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn info(name: &str) -> ModelInfo {
    let span = Span::new(SourceId(0), 0, 0);
    let decl = ModelDecl {
        name: name.into(),
        source: ModelSource::Manifest(Spanned::new("small".into(), span)),
        dtype: Spanned::new("f32".into(), span),
        context: None,
        chat_template: None,
        span,
    };
    ModelInfo {
        decl,
        digest: format!("model:{name}"),
        context: None,
        parameters: None,
        has_chat_template: None,
        memory: None,
    }
}

/// Small models of any name, all of the same weights, and how often files were asked for.
fn lanes(options: LaneOptions) -> (tempfile::TempDir, Arc<AtomicUsize>, ModelLanes) {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let (files, asked) = (folder_files(folder.path()), Arc::<AtomicUsize>::default());
    let counter = asked.clone();
    let source: FileSource = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(files.clone())
    });
    (folder, asked, ModelLanes::new(source, options))
}

fn rows() -> Vec<ScoreRequest> {
    (0..12).map(|i| request(&format!("question {i}"), &"answer ".repeat(1 + i * 5 % 7))).collect()
}

#[test]
fn many_callers_get_their_own_rows_with_the_same_bits() {
    let (_folder, asked, lanes) = lanes(LaneOptions::default());
    let lane = lanes.lane("student", &info("student")).unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing is fetched before its first use");
    let expected = lane.score(&rows(), None).unwrap();
    std::thread::scope(|scope| {
        for at in 0..6 {
            let (lane, expected) = (&lane, &expected);
            scope.spawn(move || {
                let own = &rows()[at * 2..at * 2 + 2];
                assert_eq!(lane.score(own, None).unwrap(), expected[at * 2..at * 2 + 2]);
            });
        }
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(lane.count_tokens("four").unwrap(), 4);
    assert_eq!((lane.context().unwrap(), lane.digest()), (512, "model:student"));
}

#[test]
fn bad_rows_fail_alone() {
    let (_folder, _, lanes) = lanes(LaneOptions::default());
    let lane = lanes.lane("student", &info("student")).unwrap();
    let rows = [request("q", "good"), request("q", ""), request("q", &"long ".repeat(20))];
    let scored = lane.score(&rows, Some(50)).unwrap();
    assert!(scored[0].is_ok());
    assert_eq!(scored[1], Err(ScoreFailure::Empty));
    assert_eq!(scored[2], Err(ScoreFailure::TooLong { tokens: 104, limit: 50 }));
}

#[test]
fn models_take_turns_where_not_all_fit() {
    let bytes = {
        let (folder, ..) = lanes(LaneOptions::default());
        let files = folder_files(folder.path());
        TextModel::load(&files).unwrap().weight_bytes(&files)
    };
    let (_folder, _, lanes) = lanes(LaneOptions { memory: Some(bytes * 3 / 2), ..LaneOptions::default() });
    let [a, b] = ["a", "b"].map(|name| lanes.lane(name, &info(name)).unwrap());
    let first = a.score(&rows(), None).unwrap();
    assert_eq!(b.score(&rows(), None).unwrap(), first);
    assert_eq!(a.score(&rows(), None).unwrap(), first);
}

#[test]
fn a_model_larger_than_the_memory_says_what_to_lower() {
    let (_folder, _, lanes) = lanes(LaneOptions { memory: Some(1000), ..LaneOptions::default() });
    let error = lanes.lane("student", &info("student")).unwrap().score(&rows(), None).unwrap_err();
    let RunError::Failed { code, message, help } = error else { panic!("{error:?}") };
    assert_eq!(code, "out-of-memory");
    assert!(message.starts_with("model `student`: the weights need "), "{message}");
    assert!(message.ends_with(" KiB in `f32`, and models may take 1000 B"), "{message}");
    assert!(help.unwrap().contains("bf16"));
}

#[test]
fn the_device_is_told_once_when_a_model_is_first_used() {
    let told = Arc::<Mutex<Vec<String>>>::default();
    let lines = told.clone();
    let announce = Arc::new(move |name: &str| lock(&lines).push(name.to_string()));
    let (_folder, _, lanes) = lanes(LaneOptions { device: DeviceChoice::Cpu, announce, ..LaneOptions::default() });
    let [a, b] = ["a", "b"].map(|name| lanes.lane(name, &info(name)).unwrap());
    assert!(a.count_tokens("some words").unwrap() > 0 && lock(&told).is_empty());
    assert!(a.score(&rows(), None).is_ok() && b.score(&rows(), None).is_ok() && a.score(&rows(), None).is_ok());
    assert!(matches!(lock(&told).as_slice(), [one] if one.starts_with("cpu (")), "{told:?}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_demanded_gpu_that_is_absent_fails_every_time_and_names_itself() {
    let (_folder, _, lanes) = lanes(LaneOptions { device: DeviceChoice::Cuda(1), ..LaneOptions::default() });
    let lane = lanes.lane("student", &info("student")).unwrap();
    for _ in 0..2 {
        let error = lane.score(&rows(), None).unwrap_err();
        assert!(matches!(&error, RunError::Failed { code: "device", message, .. } if message.contains("`cuda:1`")));
    }
}

#[test]
fn a_stop_is_heeded() {
    let stop = Arc::<AtomicBool>::default();
    let flag = stop.clone();
    let stopping = Arc::new(move || flag.load(Ordering::SeqCst));
    let (_folder, _, lanes) = lanes(LaneOptions { stopping, ..LaneOptions::default() });
    let lane = lanes.lane("student", &info("student")).unwrap();
    assert!(lane.score(&rows(), None).is_ok());
    stop.store(true, Ordering::SeqCst);
    assert!(matches!(lane.score(&rows(), None), Err(RunError::Interrupted)));
}

#[test]
fn missing_files_name_the_model_and_are_asked_for_again() {
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    let source: FileSource = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(RunError::failed("not-found", "no such file").help("look elsewhere"))
    });
    let lane = ModelLanes::new(source, LaneOptions::default()).lane("student", &info("student")).unwrap();
    for _ in 0..2 {
        assert_eq!(lane.score(&rows(), None).unwrap_err().to_string(), "model `student`: no such file");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn loaded_models_go_first_until_patience_ends() {
    let (folder, ..) = lanes(LaneOptions::default());
    let files = folder_files(folder.path());
    let text = Arc::new(TextModel::load(&files).unwrap());
    let station = |name: &str| {
        let model = Arc::new(Resident { name: name.into(), files: files.clone(), text: text.clone(), adapter: None });
        let mut engine = Engine::default();
        std::mem::forget(engine.score(vec![Encoded { tokens: vec![1, 2], prompt: 1, end: 0 }]));
        Station { engine, ..Station::new(model) }
    };
    let mut stations = vec![station("cold"), station("warm")];
    for turn in 0..=PATIENCE {
        let at = next_turn(&mut stations, |m| m.name == "warm").unwrap();
        let expected = if turn < PATIENCE { "warm" } else { "cold" };
        assert_eq!(stations[at].model.name, expected, "turn {turn}");
    }
    stations.iter_mut().for_each(|s| s.engine = Engine::default());
    assert_eq!(next_turn(&mut stations, |_| true), None);
}

fn greedy(question: &str, most: u32) -> GenerateRequest {
    GenerateRequest::greedy(vec![("user".into(), question.into())], most)
}

#[test]
fn many_callers_get_their_own_texts_while_others_score() {
    let (_folder, _, lanes) = lanes(LaneOptions::default());
    let lane = lanes.lane("student", &info("student")).unwrap();
    let requests: Vec<_> = (0..6).map(|i| greedy(&format!("question {i}"), 12)).collect();
    let expected: Vec<_> = requests.iter().flat_map(|r| lane.generate(std::slice::from_ref(r)).unwrap()).collect();
    let scores = lane.score(&rows(), None).unwrap();
    std::thread::scope(|scope| {
        for at in 0..3 {
            let (lane, requests, expected, scores) = (&lane, &requests, &expected, &scores);
            scope.spawn(move || {
                let texts = lane.submit_generate(&requests[at * 2..at * 2 + 2]).unwrap();
                assert_eq!(&lane.score(&rows(), None).unwrap(), scores);
                assert_eq!(texts.wait().unwrap(), expected[at * 2..at * 2 + 2]);
            });
        }
    });
    let counts = lanes.counts();
    assert!(counts.written >= 72 && counts.computed < counts.asked, "{counts:?}");
}

#[test]
fn texts_that_a_swap_of_models_interrupts_are_the_same() {
    let bytes = {
        let (folder, ..) = lanes(LaneOptions::default());
        let files = folder_files(folder.path());
        TextModel::load(&files).unwrap().weight_bytes(&files)
    };
    let (_folder, _, lanes) = lanes(LaneOptions { memory: Some(bytes * 3 / 2), ..LaneOptions::default() });
    let models = ["a", "b", "c"].map(|name| lanes.lane(name, &info(name)).unwrap());
    let requests: Vec<_> = (0..4).map(|i| greedy(&format!("question {i}"), 100)).collect();
    let expected = models[0].generate(&requests).unwrap();
    let tickets: Vec<_> = models.iter().map(|m| m.submit_generate(&requests).unwrap()).collect();
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap(), expected);
    }
}

#[test]
fn bad_requests_fail_alone_and_say_why() {
    let (_folder, _, lanes) = lanes(LaneOptions::default());
    let lane = lanes.lane("student", &info("student")).unwrap();
    let long = greedy(&"long ".repeat(200), 5);
    let odd = GenerateRequest { prompt: super::super::Prompt::Tokens(vec![7, 100_000]), ..greedy("", 5) };
    let done = lane.generate(&[long, greedy("good", 5), odd]).unwrap();
    assert_eq!(done[0], Err(GenerateFailure::TooLong { tokens: 1003, limit: 512 }));
    assert_eq!(done[1].as_ref().unwrap()[0].tokens.len(), 5);
    assert!(matches!(&done[2], Err(GenerateFailure::Template(why)) if why.contains("100000")));
    let error = lane.generate(&[greedy("good", 0)]).unwrap_err().to_string();
    assert!(error.contains("`max-new-tokens` is 0"), "{error}");
}

#[test]
fn a_text_that_can_never_fit_says_what_to_lower() {
    let bytes = {
        let (folder, ..) = lanes(LaneOptions::default());
        let files = folder_files(folder.path());
        TextModel::load(&files).unwrap().weight_bytes(&files)
    };
    let (_folder, _, lanes) = lanes(LaneOptions { memory: Some(bytes + 100_000), ..LaneOptions::default() });
    let lane = lanes.lane("student", &info("student")).unwrap();
    let error = lane.generate(&[greedy("question", 400)]).unwrap_err();
    let RunError::Failed { code, message, help } = error else { panic!("{error:?}") };
    assert_eq!(code, "out-of-memory");
    assert!(message.contains("400 new ones need") && help.unwrap().contains("`context`"), "{message}");
    // A shorter one goes through, and rows as well.
    assert!(lane.generate(&[greedy("question", 20)]).unwrap()[0].is_ok());
    assert!(lane.score(&rows(), None).unwrap().iter().all(|score| score.is_ok()));
}

/// An adapter that changes what the small model says, in all its layers.
fn adapter(shift: f32) -> AdapterFile {
    let (folder, ..) = lanes(LaneOptions::default());
    let config = TextModel::load(&folder_files(folder.path())).unwrap().config;
    let targets = Target::ALL.to_vec();
    let mut adapter = Adapter::new(LoraConfig { rank: 2, targets, ..LoraConfig::default() }, &config, 3);
    let values = synthetic::values("adapter", adapter.values.len());
    adapter.values.iter_mut().zip(values).for_each(|(value, more)| *value += shift * more);
    AdapterFile::new(&adapter, "small").unwrap()
}

#[test]
fn adapters_share_the_weights_of_their_model() {
    let bytes = {
        let (folder, ..) = lanes(LaneOptions::default());
        let files = folder_files(folder.path());
        TextModel::load(&files).unwrap().weight_bytes(&files)
    };
    // Weights for one model and a half: two copies would not fit.
    let (_folder, asked, lanes) = lanes(LaneOptions { memory: Some(bytes * 3 / 2), ..LaneOptions::default() });
    let base = lanes.lane("student", &info("student")).unwrap();
    let plain = base.score(&rows(), None).unwrap();
    let [zero, one, other] = [0.0, 0.5, 0.6].map(|shift| base.adapted(adapter(shift)).unwrap());
    assert_eq!(zero.score(&rows(), None).unwrap(), plain, "B is zero: nothing changes");
    let changed = one.score(&rows(), None).unwrap();
    assert_ne!(changed, plain);
    assert_ne!(other.score(&rows(), None).unwrap(), changed);
    assert_eq!(base.score(&rows(), None).unwrap(), plain);
    // Alone or together, and from another handle.
    let again = one.adapted(adapter(0.5)).unwrap();
    assert_eq!(again.digest(), one.digest());
    assert_ne!(one.digest(), base.digest());
    for (row, expected) in rows().into_iter().zip(&changed) {
        assert_eq!(again.score(&[row], None).unwrap()[0], *expected);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// What training computes with an adapter is what scoring computes with it.
#[test]
fn scores_with_an_adapter_are_the_losses_of_training() {
    let (_folder, _, lanes) = lanes(LaneOptions::default());
    let base = lanes.lane("student", &info("student")).unwrap();
    let lane = base.adapted(adapter(0.5)).unwrap();
    let scored = lane.score(&rows(), None).unwrap();
    for (row, scored) in rows().into_iter().zip(scored) {
        let loss = base.call(move |model| {
            let encoded = model.text.encode(&row, 500)?.unwrap();
            let adapter = adapter(0.5).adapter(&model.text.config)?.prepare(model.decoder())?;
            let example = Example::response(&encoded);
            Ok(pass::gradients(model.decoder(), &adapter, &[&example], &PassOptions::default(), 0)?.loss)
        });
        let scored = scored.unwrap();
        let nll = scored.token_nll.iter().chain([&scored.end_nll]).map(|v| f64::from(*v));
        let mean = nll.sum::<f64>() / (scored.token_nll.len() + 1) as f64;
        let loss = loss.unwrap();
        assert!((loss - mean).abs() < 1e-5 * mean, "{loss} {mean}");
    }
}

#[test]
fn calls_have_the_model_between_passes_and_their_errors_come_back() {
    let (_folder, _, lanes) = lanes(LaneOptions::default());
    let lane = lanes.lane("student", &info("student")).unwrap();
    let ticket = lane.submit_score(&rows(), None).unwrap();
    assert_eq!(lane.call(|model| Ok(model.text.context)).unwrap(), 512);
    assert_eq!(ticket.wait().unwrap().len(), rows().len());
    let failed = lane.call(|_| Err::<(), _>(RunError::failed("loss-not-finite", "step 3")));
    assert_eq!(failed.unwrap_err().to_string(), "step 3");
    assert!(lane.call(|_| -> Result<()> { panic!("a bug") }).is_err());
    assert_eq!(lane.call(|_| Ok(1)).unwrap(), 1, "the lane goes on");
    let misfit = AdapterFile { config: "{}".into(), weights: Vec::new() };
    let error = lane.adapted(misfit).unwrap().score(&rows(), None).unwrap_err();
    assert!(error.to_string().starts_with("model `student`: the adapter cannot be read"), "{error}");
}

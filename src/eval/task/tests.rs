use super::*;
use crate::config::tasks::{BUILT_IN, TASKS};
use crate::eval::answer::Fault;
use crate::eval::rouge::rouge_l;

fn generated(name: &str) -> (&'static Task, &'static Generate) {
    let task = &TASKS[name];
    match &task.kind {
        Kind::Generate(generate) => (task, generate),
        Kind::Choice(_) => panic!("`{name}` is a multiple choice"),
    }
}

fn chosen(name: &str) -> &'static Choices {
    match &TASKS[name].kind {
        Kind::Choice(choices) => choices,
        Kind::Generate(_) => panic!("`{name}` is written"),
    }
}

#[test]
fn built_in_tasks_are_sound_declarations_of_their_names() {
    for (name, _) in BUILT_IN {
        assert_eq!(TASKS[name].name, *name);
    }
}

#[test]
fn texts_are_compared_without_what_does_not_count() {
    let normal = Normal::of(["case", "punctuation", "articles", "whitespace"]);
    let same =
        [("The Beatles!", "beatles"), (" a  cat, an apple ", "cat apple"), ("Theatre", "theatre"), ("U.S.", "us")];
    for (a, b) in same {
        assert_eq!(normal.apply(a), normal.apply(b), "{a:?} and {b:?}");
    }
    assert_eq!(Normal::default().apply(" The  Cat. "), "The  Cat.");
    assert_eq!(normal.names(), Normal::NAMES);
}

#[test]
fn short_answers_are_one_of_the_aliases() {
    let (task, trivia) = generated("triviaqa");
    let gold = trivia.gold(task, json!(["The Beatles", "Beatles"]), &[]).unwrap();
    assert!(trivia.judge("", "the beatles", &gold, &[]).correct);
    let wrong = trivia.judge("", "The Beatles and others", &gold, &[]);
    assert_eq!((wrong.correct, wrong.why), (false, Some(Fault::Wrong)));
    assert_eq!(trivia.judge("", " \n", &gold, &[]).why, Some(Fault::Empty));
    assert_eq!(trivia.gold(task, json!([]), &[]).unwrap_err().0, "gold-unreadable");
    assert_eq!(trivia.gold(task, json!(null), &[]).unwrap_err().0, "null-value");
}

#[test]
fn an_expression_finds_the_answer() {
    let (task, bbh) = generated("bbh");
    let gold = bbh.gold(task, json!("(A)"), &[]).unwrap();
    for output in ["First x. So the answer is (A).", "The answer is: (a)\nQ: more. The answer is (B)."] {
        assert!(bbh.judge("", output, &gold, &[]).correct, "{output}");
    }
    assert_eq!(bbh.judge("", "It is (A).", &gold, &[]).why, Some(Fault::Unreadable));
}

#[test]
fn right_choices_are_named_in_several_ways() {
    let texts: Vec<String> = ["red", "green", "blue"].map(String::from).into();
    let right = |gold_as: &str, cell: Value| {
        let choices = Choices { gold_as: GoldAs::of(gold_as), ..chosen("hellaswag").clone() };
        choices.gold("gold", cell, &texts).map(|right| right.iter().map(|r| usize::from(*r)).collect::<Vec<_>>())
    };
    for (gold_as, cell) in [
        ("index", json!(1)),
        ("index", json!("1")),
        ("index", json!(1.0)),
        ("number", json!("2")),
        ("letter", json!("B")),
        ("letter", json!("b")),
        ("letter", json!("2")),
        ("text", json!(" green ")),
        ("flags", json!([0, 1, 0])),
        ("flags", json!([false, true])),
    ] {
        assert_eq!(right(gold_as, cell.clone()).unwrap(), [0, 1, 0], "{gold_as}: {cell}");
    }
    assert_eq!(right("index", json!([0, 2])).unwrap(), [1, 0, 1]);
    for (gold_as, cell) in [
        ("index", json!(3)),
        ("number", json!(0)),
        ("letter", json!("D")),
        ("text", json!("pink")),
        ("flags", json!([0, 0])),
    ] {
        assert_eq!(right(gold_as, cell.clone()).unwrap_err().0, "gold-unreadable", "{gold_as}: {cell}");
    }
    assert_eq!(right("index", json!(null)).unwrap_err().0, "null-value");
}

#[test]
fn the_likeliest_choice_is_taken_as_it_is_and_for_its_length() {
    let texts: Vec<String> = ["no", "certainly so"].map(String::from).into();
    let chosen = choose(&[-4.0, -6.0], &texts, &[true, false]);
    assert_eq!((chosen.choice, chosen.correct, chosen.correct_norm), (0, true, false));
    let share = (-4f64).exp() / ((-4f64).exp() + (-6f64).exp());
    assert!((chosen.mc2 - share).abs() < 1e-12);
    // Of equals the first; and far below what a float's exponential holds, shares are still shares.
    let chosen = choose(&[-2000.0, -2000.0], &texts, &[true, false]);
    assert_eq!((chosen.choice, chosen.mc2), (0, 0.5));
}

#[test]
fn choices_come_from_a_list_or_from_columns() {
    let of = |columns: &[&str], cells: &[(&str, Value)]| {
        let columns = columns.iter().map(|c| c.to_string()).collect();
        let choices = Choices { columns, ..chosen("hellaswag").clone() };
        choices.texts(|name| cells.iter().find(|(n, _)| *n == name).map_or(Value::Null, |(_, v)| v.clone()))
    };
    assert_eq!(of(&["c"], &[("c", json!(["a", "b"]))]).unwrap(), ["a", "b"]);
    assert_eq!(of(&["x", "y", "z"], &[("x", json!("a")), ("y", json!(2))]).unwrap(), ["a", "2"]);
    assert_eq!(of(&["c"], &[("c", json!(["a", "b", null]))]).unwrap(), ["a", "b"]);
    for few in [json!(["a"]), json!(["a", "b", "", "d"])] {
        assert_eq!(of(&["c"], &[("c", few.clone())]).unwrap_err().0, "no-choices", "{few}");
    }
}

/// Values of the rouge-score package 0.1.2, `RougeScorer(["rougeL"])`.
#[test]
fn rouge_l_is_that_of_the_reference_package() {
    for (text, reference, expected) in include!("rouge_golden.in") {
        let got = rouge_l(text, reference);
        assert!((got - expected).abs() < 1e-12, "{text:?} and {reference:?}: {got}, expected {expected}");
    }
}

use super::*;
use proptest::prelude::*;

fn math(extractor: Extractor) -> Checker {
    Checker { task: Task::Math, extractor, marker: MARKER.into() }
}

fn ecqa() -> Checker {
    Checker { task: Task::Ecqa, extractor: Extractor::Marker, marker: MARKER.into() }
}

fn marked(tail: &str) -> Option<f64> {
    match math(Extractor::Marker).read(&format!("{MARKER}{tail}"), &[]) {
        Ok(Answer::Number(value)) => Some(value),
        _ => None,
    }
}

#[test]
fn every_case_is_read_as_its_table_says() {
    let mut wrong = Vec::new();
    for (_, group, cases) in cases::read_all() {
        for (text, expected, answer) in cases {
            let read = answer.map(|a| match a {
                Answer::Number(value) => value,
                Answer::Option(digit) => f64::from(digit),
            });
            let same = match (read, expected) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * b.abs().max(1.0),
                (a, b) => a == b,
            };
            if !same {
                wrong.push(format!("{}: {text:?} is read as {read:?} and not as {expected:?}", group.title));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn numbers_agree_at_two_decimals() {
    let agree = |a, b| Answer::Number(a).agrees(Answer::Number(b));
    assert!(agree(0.333, 1.0 / 3.0) && agree(17.0, 17.0) && agree(-0.001, 0.0) && agree(1e307, 1e307));
    assert!(!agree(0.33, 0.34) && !agree(1.0, -1.0) && !agree(1e307, 2e307) && !agree(f64::NAN, f64::NAN));
    assert!(!Answer::Number(1.0).agrees(Answer::Option(1)));
}

#[test]
fn right_answers_are_read_alone_and_from_rationales() {
    let gold = |text: &str| math(Extractor::Marker).gold(text, &[]);
    for text in ["72", "72.0", "$72", "24 + 48 = 72\n#### 72", "24 + 48 = 72. Final Answer: 72", r"so $x = \boxed{72}$"]
    {
        assert_eq!(gold(text), Some(Answer::Number(72.0)), "{text}");
    }
    assert_eq!(gold("unknown"), None);
    let options = ["2 wheels", "4", "a car"];
    let gold = |text: &str| ecqa().gold(text, &options);
    for (text, option) in [("1", 1), ("2 wheels", 1), (" A car", 3), ("Final Answer: 3", 3), ("(2)", 2)] {
        assert_eq!(gold(text), Some(Answer::Option(option)), "{text}");
    }
    assert_eq!(gold("a bus"), None);
}

#[test]
fn verdicts_say_what_is_wrong() {
    let verdict = |response: Option<&str>| {
        let verdict = math(Extractor::Marker).check(response, Answer::Number(7.0), &[]);
        (verdict.extracted.map(|a| a.to_string()), verdict.correct, verdict.why.map(Fault::name))
    };
    assert_eq!(verdict(Some("Final Answer: 7.001")), (Some("7.001".into()), true, None));
    assert_eq!(verdict(Some("Final Answer: 70%")), (Some("0.7".into()), false, Some("wrong")));
    assert_eq!(verdict(Some("Final Answer: none")), (None, false, Some("unreadable")));
    assert_eq!(verdict(Some("It is 7")), (None, false, Some("unmarked")));
    assert_eq!(verdict(Some(" \n")), (None, false, Some("empty")));
    assert_eq!(verdict(None), (None, false, Some("empty")));
    assert_eq!(Answer::Number(-0.0).to_string(), "0");
}

/// Texts that are made to be slow: what is nested, left open or repeated. The longest takes milliseconds.
#[test]
fn hostile_texts_are_read_in_linear_time() {
    let pieces =
        ["\\frac{", "2\\frac{2", "\\sqrt{", "√(", "(", "2^{", "1,", "1 000 ", "-", "9", "10^", "\\boxed{", "\\", "*"];
    for piece in pieces {
        let text = format!("{MARKER} {}", piece.repeat(50_000 / piece.len()));
        for extractor in [Extractor::Marker, Extractor::Boxed] {
            let _ = math(extractor).read(&text, &[]);
            let _ = math(extractor).read(&format!("\\boxed{{{text}}}"), &[]);
        }
        let _ = ecqa().read(&text, &["a"]);
    }
}

/// A number in cents as people write it, in every supported style.
fn styles(cents: i64) -> Vec<String> {
    let (sign, whole, part) = (if cents < 0 { "-" } else { "" }, (cents / 100).abs(), (cents % 100).abs());
    let grouped = |separator: &str| {
        let digits = whole.to_string();
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
        groups.join(separator)
    };
    let plain = format!("{whole}.{part:02}");
    let mut all = vec![
        format!("{sign}{plain}"),
        format!("{sign}${plain}"),
        format!("${sign}{plain}"),
        format!("**{sign}{plain}**"),
        format!("${sign}{plain}$ dollars."),
        format!("\\boxed{{{sign}{plain}}}"),
        format!("{sign}{}\\%", whole * 100 + part),
        format!("{sign}{}/100", whole * 100 + part),
        format!("{sign}\\frac{{{}}}{{100}}", whole * 100 + part),
        format!("{sign}{whole}\\frac{{{part}}}{{100}}"),
        format!("{sign}{whole} {part}/100"),
        format!("{sign}{} \\times 10^{{-2}}", whole * 100 + part),
        format!("{sign}{}e-2", whole * 100 + part),
        plain.replace('.', "．").chars().fold(sign.replace('-', "−"), |t, c| t + &wide(c)),
    ];
    for separator in [",", " ", "\u{2009}", "\u{202f}", "{,}", "\\,", "'"] {
        all.push(format!("{sign}{}.{part:02}", grouped(separator)));
    }
    all
}

fn wide(c: char) -> String {
    c.to_digit(10).and_then(|d| char::from_u32(0xff10 + d)).unwrap_or(c).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn numbers_are_read_back_in_every_style(cents in -10_000_000_000i64..10_000_000_000) {
        for text in styles(cents) {
            let read = marked(&format!(" {text}"));
            let right = Answer::Number(cents as f64 / 100.0);
            prop_assert!(read.is_some_and(|v| Answer::Number(v).agrees(right)), "{text:?} is read as {read:?}");
        }
    }

    #[test]
    fn any_text_is_survived(
        pieces in prop::collection::vec(prop_oneof![
            Just("Final Answer:"), Just("\\boxed{"), Just("\\frac"), Just("\\sqrt"), Just("["), Just("]"), Just("{"),
            Just("}"), Just("-"), Just("/"), Just("%"), Just("^"), Just("_"), Just("1"), Just("0"), Just(","), Just("."),
            Just(" "), Just("e"), Just("\\"), Just("²"), Just("½"), Just("é"), Just("**"), Just("√"), Just("("), Just(")"),
            Just("×"), Just("10"), Just("999999999999"), Just("\u{2009}"), Just("$"), Just("\n"),
        ], 0..40),
        noise in "\\PC{0,12}",
    ) {
        let text = pieces.concat() + &noise;
        for checker in [math(Extractor::Marker), math(Extractor::Boxed), ecqa()] {
            if let Ok(Answer::Number(value)) = checker.read(&text, &["1", "é"]) {
                prop_assert!(value.is_finite(), "{text:?} is {value}");
            }
            let _ = checker.gold(&text, &[&noise]);
        }
    }
}

//! How answers are read, by example: what the tests hold and the documentation shows.

use super::{Answer, Checker, Extractor, MARKER, Task};
use std::fmt::Write;

/// Ways of writing an answer that follow one rule.
pub struct Group {
    pub title: &'static str,
    pub rule: &'static str,
    /// A text, and what is read of it.
    pub cases: &'static [(&'static str, Option<f64>)],
}

const fn group(title: &'static str, rule: &'static str, cases: &'static [(&'static str, Option<f64>)]) -> Group {
    Group { title, rule, cases }
}

/// What stands behind the marker, and the number that is read there.
pub const MARKED: &[Group] = &[
    group(
        "The first number",
        "The first number after the marker is the answer, whatever follows. An equation is not solved: where it begins \
         with a number, that is the one.",
        &[
            (" 72", Some(72.0)),
            (" 72.", Some(72.0)),
            (" 72.0", Some(72.0)),
            ("\n\n72", Some(72.0)),
            (" .5", Some(0.5)),
            (" 1, 2 and 3", Some(1.0)),
            (" Natalia sold 72 clips in 2 months.", Some(72.0)),
            (" x = 7", Some(7.0)),
            (" x = 7 or x = 9", Some(7.0)),
            (" 3 + 4 = 7", Some(3.0)),
            (" f(2) = 9", Some(2.0)),
            (" 5-7", Some(5.0)),
            (" between 5 and 7", Some(5.0)),
            (" 3:30", Some(3.0)),
            (" ≈26.18", Some(26.18)),
            (" ±5", Some(5.0)),
            (" 007", Some(7.0)),
        ],
    ),
    group(
        "No number",
        "Numbers in words are not read.",
        &[("", None), (" seven", None), (" undefined", None), (" ∞", None), (" $ab + cd$", None)],
    ),
    group(
        "Emphasis",
        "Markdown's and TeX's do not matter.",
        &[
            ("** 72", Some(72.0)),
            (" **72**", Some(72.0)),
            (" **-72**", Some(-72.0)),
            (" _72_", Some(72.0)),
            (" `72`", Some(72.0)),
            (" $72$", Some(72.0)),
            (r" \(72\)", Some(72.0)),
            (r" \[ 72 \]", Some(72.0)),
            (r" $\boxed{72}$", Some(72.0)),
            (r" $\textbf{72}$", Some(72.0)),
        ],
    ),
    group(
        "Thousands",
        "Separated by a comma, a space of any width, an apostrophe or an underscore, in groups of three; with commas \
         also as 12,34,567. A comma is never a decimal sign.",
        &[
            (" 1,234", Some(1234.0)),
            (" 1,234,567.89", Some(1234567.89)),
            (" 12,34,567", Some(1234567.0)),
            (" 10 000", Some(10000.0)),
            (" 10\u{2009}000", Some(10000.0)),
            (" 10\u{a0}000", Some(10000.0)),
            (" 10{,}000", Some(10000.0)),
            (r" 10\,000", Some(10000.0)),
            (r" 10,\!000", Some(10000.0)),
            (" 10'000", Some(10000.0)),
            (" 10_000", Some(10000.0)),
            (" 1,23", Some(1.0)),
            (" 1,2345", Some(1.0)),
            (" 5 2019", Some(5.0)),
            (" 1.234,56", Some(1.234)),
        ],
    ),
    group(
        "Currency",
        "Signs and words are skipped, before and behind; cents are not made dollars.",
        &[
            (" $1,234.50", Some(1234.5)),
            (r" \$18", Some(18.0)),
            (" €9", Some(9.0)),
            (" 9 €", Some(9.0)),
            (" £9.50 a week", Some(9.5)),
            (" US$5", Some(5.0)),
            (" USD 5", Some(5.0)),
            (" Rs500", Some(500.0)),
            (" -$5", Some(-5.0)),
            (" $-5", Some(-5.0)),
            (" 18 dollars", Some(18.0)),
            (" 50 cents", Some(50.0)),
        ],
    ),
    group(
        "Units",
        "Are skipped and never converted; nor are words for scales.",
        &[
            (" 5 km", Some(5.0)),
            (" 5km", Some(5.0)),
            (" 5 hours and 30 minutes", Some(5.0)),
            (r" 5 \text{ cm}^2", Some(5.0)),
            (" 5 km/h", Some(5.0)),
            (r" 45^\circ", Some(45.0)),
            (" 45°", Some(45.0)),
            (" 5 million", Some(5.0)),
            (" the 3rd", Some(3.0)),
        ],
    ),
    group(
        "Digits of a word",
        "Indices, exponents of units and digits within words are no answers.",
        &[
            (" x_1 = 7", Some(7.0)),
            (" x_{12} = 7", Some(7.0)),
            (" x1 = 7", Some(7.0)),
            (" m^2: 7", Some(7.0)),
            (" H2O: 7", Some(7.0)),
            (" 答案是7元", Some(7.0)),
        ],
    ),
    group(
        "Percent",
        "The sign divides by 100; the word does not.",
        &[
            (" 20%", Some(0.2)),
            (r" 12.5\%", Some(0.125)),
            (" $20$%", Some(0.2)),
            (" 20 %", Some(0.2)),
            (" 33 1/3%", Some(1.0 / 3.0)),
            (" 20 percent", Some(20.0)),
        ],
    ),
    group(
        "Negative",
        "Hyphen, minus and en dash are signs where nothing stands before them that they could be subtracted from. \
         A dash and a blank at the beginning of a line are the bullet of a list; brackets are no sign.",
        &[
            (" -5", Some(-5.0)),
            (" −5", Some(-5.0)),
            (" –5", Some(-5.0)),
            (" - 5", Some(-5.0)),
            (" $-5$", Some(-5.0)),
            (" the value is -5", Some(-5.0)),
            (" x=-5", Some(-5.0)),
            (r" $-\frac{1}{2}$", Some(-0.5)),
            ("\n- 5 apples", Some(5.0)),
            (" x - 5", Some(5.0)),
            (" (5)", Some(5.0)),
            (" minus 5", Some(5.0)),
        ],
    ),
    group(
        "Fractions",
        "Plain, TeX's and those of one character; a whole number and a proper fraction are a mixed number. What divides \
         by zero is no fraction.",
        &[
            (" 3/4", Some(0.75)),
            (" 3 / 4", Some(0.75)),
            (" -3/4", Some(-0.75)),
            (r" $\frac{3}{4}$", Some(0.75)),
            (r" $\dfrac{3}{4}$", Some(0.75)),
            (r" \frac34", Some(0.75)),
            (r" \frac{1+5}{2^3}", Some(0.75)),
            (r" \frac{\frac{3}{2}}{2}", Some(0.75)),
            (r" \frac{3x}{4}", Some(3.0)),
            (" ¾", Some(0.75)),
            (" 2 3/4", Some(2.75)),
            (" 2¾", Some(2.75)),
            (r" 2\frac{3}{4}", Some(2.75)),
            (r" $2 \frac34$", Some(2.75)),
            (" 1/0", Some(1.0)),
            (" 24/7", Some(24.0 / 7.0)),
        ],
    ),
    group(
        "Roots",
        "Alone, as a factor and in fractions. π and other letters have no value.",
        &[
            (r" \sqrt{16}", Some(4.0)),
            (r" \sqrt16", Some(4.0)),
            (r" $\sqrt[3]{27}$", Some(3.0)),
            (" √16", Some(4.0)),
            (" √(7 + 9)", Some(4.0)),
            (r" 2\sqrt{9}", Some(6.0)),
            (" 2√9", Some(6.0)),
            (r" \frac{\sqrt{16}}{8}", Some(0.5)),
            (r" \frac{3\sqrt{16}}{8}", Some(1.5)),
            (r" \sqrt{16}/8", Some(0.5)),
            (r" 2\frac{\sqrt{16}}{8}", Some(1.0)),
            (r" \frac{1+\sqrt{9}}{2}", Some(2.0)),
            (r" \sqrt{-4}", Some(-4.0)),
            (r" 2\pi", Some(2.0)),
        ],
    ),
    group(
        "Powers",
        "Scientific notation and powers of numbers are evaluated.",
        &[
            (" 1.2e3", Some(1200.0)),
            (" 1.2E-3", Some(0.0012)),
            (r" 1.2 \times 10^3", Some(1200.0)),
            (r" $1.2 \cdot 10^{-3}$", Some(0.0012)),
            (" 1.2 × 10³", Some(1200.0)),
            (" 1.2 x 10^3", Some(1200.0)),
            (" 1.2*10**3", Some(1200.0)),
            (" 10^{3}", Some(1000.0)),
            (" 10³", Some(1000.0)),
            (" 2^10", Some(1024.0)),
            (" -2^2", Some(-4.0)),
            (" 3 x 4", Some(3.0)),
        ],
    ),
    group(
        "Digits of other scripts",
        "Are read where they are decimal.",
        &[(" ７２", Some(72.0)), (" ٧٢", Some(72.0)), (" ७२", Some(72.0)), (" 𝟕𝟐", Some(72.0)), (" Ⅶ", None)],
    ),
];

/// Whole responses, and the number that the marker extractor reads in them.
pub const MARKERS: &[Group] = &[group(
    "The marker",
    "The last one counts, also where nothing stands behind it. Where it is nowhere as written, upper and lower case, blanks \
     and emphasis in it do not matter.",
    &[
        ("Final Answer: 5. No, wait. Final Answer: 7", Some(7.0)),
        ("Final Answer: 7\n\nNote: 5 is wrong.", Some(7.0)),
        ("**Final Answer:** 7", Some(7.0)),
        ("**Final Answer**: 7", Some(7.0)),
        ("FINAL ANSWER: 7", Some(7.0)),
        ("The final answer : 7", Some(7.0)),
        (r"$\boxed{Final\ Answer:\ 7}$", Some(7.0)),
        ("final answer: 5. Final Answer: 7. final answer: 9", Some(7.0)),
        ("Final Answer: 5\nFinal Answer:", None),
        ("The answer is 7.", None),
        ("Semifinal answer: 7", None),
    ],
)];

/// Whole responses, and the number that the box extractor reads in them.
pub const BOXED: &[Group] = &[
    group(
        "The box",
        "The last one counts, if it is closed. What is one expression is evaluated, of anything else it is the first number.",
        &[
            (r"so $\boxed{5}$, no, $\boxed{7}$, as 99 shows", Some(7.0)),
            (r"\boxed{\frac{\sqrt{16}}{8}}", Some(0.5)),
            (r"\boxed{\text{7 cm}}", Some(7.0)),
            (r"\boxed{x = 7}", Some(7.0)),
            (r"\boxed{1 + \sqrt{9}}", Some(4.0)),
            (r"\boxed{\left(\frac{3}{2}\right)^2}", Some(2.25)),
            (r"\boxed{3x + 4}", Some(3.0)),
            (r"\boxed{20\%}", Some(0.2)),
            (r"\boxed{\$1{,}234}", Some(1234.0)),
            (r"\boxed 7", Some(7.0)),
            (r"\fbox{7}", Some(7.0)),
        ],
    ),
    group(
        "The last number",
        "Counts where there is no box, where it is open, and where it holds no number.",
        &[
            ("first 3, then 4,500.", Some(4500.0)),
            ("we get 10 - 7 = 3", Some(3.0)),
            ("the area is 7 cm^2", Some(7.0)),
            (r"\boxed{open 7", Some(7.0)),
            (r"7 is \boxed{\text{even}}", Some(7.0)),
            ("no number", None),
        ],
    ),
];

/// The options of [`OPTIONS`].
pub const FIVE: [&str; 5] = ["bloody mess", "pleasure", "being imprisoned", "mess", "cake"];

/// What stands behind the marker, and the option that is read there.
pub const OPTIONS: &[Group] = &[group(
    "Options",
    "The first digit from 1 to 5 that is no part of a longer number; where there is none, the option whose text stands \
     there, if it is one alone.",
    &[
        (" 1", Some(1.0)),
        (" (5): cake", Some(5.0)),
        (" **3**", Some(3.0)),
        (" 2 or 3", Some(2.0)),
        (" 12 or 3", Some(3.0)),
        (" ５", Some(5.0)),
        (" Bloody mess.", Some(1.0)),
        (" a mess", Some(4.0)),
        (" pancake", None),
        (" cake or pleasure", None),
        (" B", None),
        (" none of these", None),
    ],
)];

/// The first 1000 rows that were released with "I Learn Better If You Speak My Language" (arXiv 2402.11192): set, file,
/// column, rows with an answer that is read behind the marker, and rows with the right one. The right answers are those
/// of the human rationales.
pub const RELEASED: &[(&str, &str, &str, usize, usize)] = &[
    ("GSM8K", "groundtruth", "answer", 1000, 1000),
    ("GSM8K", "openai_gpt4_data", "answer", 998, 929),
    ("GSM8K", "anthropic_Claud", "answer", 1000, 965),
    ("GSM8K", "openai_step_by_step", "answer", 1000, 987),
    ("GSM8K", "openai_direct_paraphrase_gpt4_answer", "answer", 999, 932),
    ("GSM8K", "llama_minimum_change_data", "answer", 999, 978),
    ("GSM8K", "llama_minimum_change_data", "previous_prediction", 979, 385),
    ("GSM8K", "mistral_minimum_change_data", "answer", 999, 908),
    ("GSM8K", "mistral_minimum_change_data", "previous_prediction", 960, 379),
    ("MATH", "groundtruth", "answer", 1000, 1000),
    ("MATH", "openai_gpt4_data", "answer", 979, 823),
    ("MATH", "openai_step_by_step", "answer", 999, 989),
    ("MATH", "mistral_minimum_change_data", "answer", 980, 756),
    ("MATH", "mistral_minimum_change_data", "previous_prediction", 820, 169),
    ("ECQA", "groundtruth", "answer", 1000, 1000),
    ("ECQA", "openai_gpt4_data", "answer", 1000, 969),
    ("ECQA", "openai_step_by_step", "answer", 1000, 988),
    ("ECQA", "mistral_minimum_change_data", "answer", 997, 995),
];

const ON_RELEASED: &str = "
## On released answers

The checker on the answers that were released with \"I Learn Better If You Speak My Language\" (arXiv 2402.11192), 1000 rows \
each. The right answers are read in the human rationales: in the released column of checked answers, 8 rows of GSM8K are \
cut at a comma (`1.0` for 1,080).

| set | file | column | read | right |
|---|---|---|---|---|
";

const NOT_READ: &str = "
What the rules cost there: 5 of GPT-4's answers on GSM8K are right but for a percent sign (`75%` where 75 is asked for) \
and one but for a word (`$192 million`). Of Mistral's own predictions, 67 give the right number after an equals sign, \
behind another number (`48 - 13 = 35`): small models do that, and the published method does not read it.
";

/// Every set of groups: a heading, what reads it, whether a case is only what stands behind the marker.
const SETS: &[(&str, Task, Extractor, &[Group], bool)] = &[
    ("Numbers after the marker", Task::Math, Extractor::Marker, MARKED, true),
    ("The marker itself", Task::Math, Extractor::Marker, MARKERS, false),
    ("Numbers in a box", Task::Math, Extractor::Boxed, BOXED, false),
    ("Options after the marker", Task::Ecqa, Extractor::Marker, OPTIONS, true),
];

/// A heading, its rule, and its cases with the number that is expected and the answer that is read.
type Read<'a> = (&'a str, &'a Group, Vec<(&'a str, Option<f64>, Option<Answer>)>);

/// Reads every case.
pub fn read_all() -> Vec<Read<'static>> {
    let mut all = Vec::new();
    for &(heading, task, extractor, groups, tail) in SETS {
        let checker = Checker { task, extractor, marker: MARKER.into() };
        for group in groups {
            let read = |&(text, expected): &(&'static str, Option<f64>)| {
                let response = if tail { format!("So 9 it is. {MARKER}{text}") } else { text.to_string() };
                (text, expected, checker.read(&response, &FIVE).ok())
            };
            all.push((heading, group, group.cases.iter().map(read).collect()));
        }
    }
    all
}

/// The page `docs/answers.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# How answers are read\n\n\
         `check-answer` and `lint` read the answer of a response and compare it with the right one: numbers at two \
         decimals, options by their number. The marker is `Final Answer:` where the pipeline names no other.\n\n\
         The tables hold what is read; a dash where nothing is. They are made from the code and its tests.\n",
    );
    let mut above = "";
    for (heading, group, cases) in read_all() {
        if heading != above {
            page += &format!("\n## {heading}\n");
            above = heading;
        }
        page += &format!("\n### {}\n\n{}\n\n| text | read |\n|---|---|\n", group.title, group.rule);
        for (text, _, answer) in cases {
            let answer = answer.map_or("-".into(), |a| format!("{a}"));
            // Writing to a string does not fail.
            let _ = writeln!(page, "| {} | {answer} |", code(text.trim_start_matches(' ')));
        }
    }
    page += &format!("\nThe options here are {}.\n", FIVE.map(|o| format!("`{o}`")).join(", "));
    page += ON_RELEASED;
    for (set, file, column, extracted, correct) in RELEASED {
        let _ = writeln!(page, "| {set} | `{file}` | `{column}` | {extracted} | {correct} |");
    }
    page += NOT_READ;
    page + &crate::eval::code::cases::section(code)
}

/// A text in a cell, its line breaks as `⏎` and spaces that look like others by their code.
fn code(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\n' => shown.push('⏎'),
            '|' => shown.push_str("\\|"),
            '\u{a0}' | '\u{2009}' => shown.push_str(&format!("[U+{:04X}]", u32::from(c))),
            c => shown.push(c),
        }
    }
    match shown.as_str() {
        "" => "(nothing)".into(),
        _ if shown.contains('`') => format!("`` {shown} ``"),
        _ => format!("`{shown}`"),
    }
}

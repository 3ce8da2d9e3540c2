use super::*;
use serde_json::json;

fn values(json: Value) -> BTreeMap<String, Value> {
    json.as_object().unwrap().clone().into_iter().collect()
}

fn read(text: &str) -> Result<Template, PromptError> {
    Template::read(Path::new("mine.jinja"), text)
}

fn with(header: &str, body: &str) -> Result<Template, PromptError> {
    read(&format!("{{# prompt \"mine\" version=1 {{\n{header}\n}} #}}\n{body}"))
}

fn turns(turns: &[(&str, &str)]) -> Vec<(String, String)> {
    turns.iter().map(|(role, text)| (role.to_string(), text.to_string())).collect()
}

const QUESTION: &str = "input \"question\" \"text\"";

#[test]
fn every_template_that_comes_with_the_program_is_sound() {
    let names: Vec<&str> = Template::all().map(|t| t.name.as_str()).collect();
    assert!(names.contains(&"answer-directly"), "{names:?}");
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len());
    for template in Template::all() {
        assert!(!template.doc.is_empty(), "{} says nothing of itself", template.name);
        let silent: Vec<&Input> = template.inputs.iter().filter(|i| i.doc.is_empty()).collect();
        assert!(silent.is_empty(), "{}: {silent:?}", template.name);
    }
}

#[test]
fn a_header_declares_what_is_read() {
    let template = read(
        r#"
{#- prompt "two" version=3 {
    doc "Says two things"
    tasks "math" "ecqa"
    input "question" "text" doc="The question"
    input "gold" "text" task="ecqa"
    input "shots" "list" optional=#true { fields "q" "a" }
    input "loud" "flag" optional=#true
} -#}
{% for s in shots %}{% call user() %}{{ s.q }}{% endcall %}{% call assistant() %}{{ s.a }}{% endcall %}{% endfor %}
{% call user() %}{{ question }}{% if loud %}!{% endif %} {{ gold }}{% endcall %}
"#,
    );
    // `gold` is printed whatever the task: left out it is an error when it happens.
    let template = template.unwrap();
    assert_eq!((template.name.as_str(), template.version, template.doc.as_str()), ("two", 3, "Says two things"));
    assert_eq!(template.inputs_for("math").map(|i| i.name.as_str()).collect::<Vec<_>>(), ["question", "shots", "loud"]);
    assert_eq!(template.inputs[2].fields, ["q", "a"]);
    assert!(template.takes_task("ecqa") && !template.takes_task("code"));

    let given = json!({"question": "a", "gold": 2, "task": "ecqa", "shots": [{"q": "x", "a": "y"}], "loud": true});
    let expected = turns(&[("user", "x"), ("assistant", "y"), ("user", "a! 2")]);
    assert_eq!(template.render(&values(given)).unwrap(), expected);
    let error = template.render(&values(json!({"question": "a", "task": "ecqa"}))).unwrap_err();
    assert_eq!(error.to_string(), "template `two`: input `gold` has no value");
    let error = template.render(&values(json!({"question": "a", "task": "math"}))).unwrap_err();
    assert_eq!(error.line, Some(11), "{error}");
    assert!(error.message.starts_with("undefined value"), "{error}");
}

#[test]
fn values_are_never_read_as_jinja_and_white_space_inside_stays() {
    let template = with(QUESTION, "\n  {% call user() %}\n  Q:\n\n    {{ question }}  \n{% endcall %}\n").unwrap();
    let question = "{{ 1 + 1 }} {% raw %} <b>\t&amp; \"x\"\n\n  {# no #}";
    let rendered = template.render(&values(json!({"question": question}))).unwrap();
    assert_eq!(rendered, turns(&[("user", &format!("Q:\n\n    {question}"))]));
}

#[test]
fn a_template_without_turns_is_one_user_turn() {
    let template = with(QUESTION, "Translate: {{ question }}\n\n").unwrap();
    assert_eq!(template.render(&values(json!({"question": 7}))).unwrap(), turns(&[("user", "Translate: 7")]));
    let error = template.render(&values(json!({"question": "  "}))).map(|_| ());
    assert_eq!(error, Ok(()));
    let error = template.render(&values(json!({"question": ["x"]}))).unwrap_err();
    assert_eq!(error.to_string(), "template `mine`: input `question` is text, found a list");
}

#[test]
fn an_empty_system_turn_is_left_out() {
    let template = with(
        &format!("{QUESTION}\ninput \"who\" \"text\" optional=#true"),
        "{% call system() %}{% if who %}You are {{ who }}.{% endif %}{% endcall %}{% call user() %}{{ question }}{% endcall %}",
    )
    .unwrap();
    let rendered = |given| template.render(&values(given)).unwrap();
    assert_eq!(rendered(json!({"question": "a", "who": null})), turns(&[("user", "a")]));
    assert_eq!(rendered(json!({"question": "a", "who": "b"})), turns(&[("system", "You are b."), ("user", "a")]));
}

#[test]
fn digests_tell_texts_apart() {
    let digest = |body: &str| with(QUESTION, body).unwrap().digest().to_string();
    assert_eq!(digest("{{ question }}"), digest("{{ question }}"));
    assert_ne!(digest("{{ question }}"), digest("{{ question }}."));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let message = |result: Result<Template, PromptError>| match result {
        Ok(_) => "nothing".into(),
        Err(error) => format!("{error} | {}", error.help.as_deref().unwrap_or_default()),
    };
    let wrong = [
        message(read("no header {{ question }}")),
        message(read("x {# prompt \"a\" version=1 #}")),
        message(read("{# two; nodes #}")),
        message(read("{# prompt \"a\" {\n doc \"x\" \n} #}")),
        message(read("\n\n{# prompt \"a\" version=0 #}x")),
        message(with("input \"question\" \"words\"", "{{ question }}")),
        message(with("input \"question\"", "{{ question }}")),
        message(with("input \"a b\" \"text\"", "x")),
        message(with("input \"task\" \"text\"", "{{ task }}")),
        message(with("inputs", "x")),
        message(with(&format!("{QUESTION}\n{QUESTION}"), "{{ question }}")),
        message(with("input \"a\" \"text\" task=\"ecqa\"", "{{ a }}")),
        message(with("input \"a\" \"text\" { fields \"x\" }", "{{ a }}")),
        message(with("doc \"open", "x")),
        message(with(QUESTION, "\n{{ question }}\n{{ anser }}")),
        message(with(QUESTION, "{{ question }} {{ 'qestion' }} {{ qestion }}")),
        message(with(QUESTION, "nothing")),
        message(with(QUESTION, "{{ question }}\n{% if %}")),
        message(with(QUESTION, "{{ question }}\n{{ question | shout }}")),
        message(with(QUESTION, "{{ question }}\n{{ shout(question) }}")),
        message(with(QUESTION, "{{ question }}{% include 'other' %}")),
        message(with(QUESTION, "stray {% call user() %}{{ question }}{% endcall %}")),
        message(with(QUESTION, "{% call user() %}{{ question }}{% endcall %}{% call assistant() %}x{% endcall %}")),
        message(with(QUESTION, "{% call user() %}{{ question }}{% endcall %}{% call system() %}x{% endcall %}")),
        message(with(QUESTION, "{{ user(question) }}")),
        message(with(QUESTION, "{% call user() %}{{ question | shout }}{% endcall %}")),
    ];
    insta::assert_snapshot!(wrong.join("\n"));
}

/// What a person reads: every template that comes with the program, as a teacher gets it.
#[test]
fn the_texts_as_they_are_sent() {
    let given = json!({
        "marker": "Final Answer:",
        "question": "How many legs do 3 dogs have?",
        "groundtruth": "A dog has 4 legs, so 3 * 4 = 12.",
        "response": "Three dogs have 12 legs.\nFinal Answer: 12",
        "gold": "12",
        "code": "def legs(dogs):\n    return 3 * dogs",
        "initial_prediction": "3 + 4 = 7",
        "ending": "Final Answer: 12",
        "leak": "corrected draft",
        "option_1": "one", "option_2": "two", "option_3": "three", "option_4": "four", "option_5": "twelve",
    });
    for template in Template::all() {
        let mut text = String::new();
        let tasks: Vec<&str> = match template.tasks.as_slice() {
            [] => vec!["any"],
            tasks => tasks.iter().map(String::as_str).collect(),
        };
        for (task, full) in tasks.iter().flat_map(|task| [(*task, true), (*task, false)]) {
            if !full && template.inputs_for(task).all(|i| i.required) {
                continue;
            }
            let mut given = values(given.clone());
            given.insert("task".into(), task.into());
            if task == "ecqa" {
                given.insert("gold".into(), "5".into());
            }
            if !full {
                given.retain(|name, _| template.inputs.iter().all(|i| i.name != *name || i.required));
            }
            text += &format!("======== task {task}{}\n", if full { "" } else { ", without what is optional" });
            for (role, turn) in template.render(&given).unwrap() {
                text += &format!("---- {role}\n{turn}\n");
            }
        }
        insta::assert_snapshot!(template.name.clone(), text);
    }
}

/// Every template that the documentation shows is one.
#[test]
fn the_templates_of_the_documentation_are_sound() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prompts.md")).unwrap();
    let blocks: Vec<&str> = page.split("```jinja\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let template = read(block).unwrap_or_else(|e| panic!("{e}\n{block}"));
        let given: BTreeMap<String, Value> = template
            .inputs
            .iter()
            .filter(|i| i.required)
            .map(|i| (i.name.clone(), if i.kind == InputKind::List { json!([]) } else { "x".into() }))
            .chain([("task".to_string(), "ecqa".into()), ("marker".to_string(), "Final Answer:".into())])
            .collect();
        assert!(!template.render(&given).unwrap().is_empty(), "{block}");
    }
}

//! One snapshot for each kind of diagnostic of graph and plan.

use super::{messages, plan, plan_with};
use insta::assert_snapshot;

#[test]
fn cycle() {
    assert_snapshot!(messages(
        "gather \"a\" from=\"c\"\nhalves \"b\" from=\"a\"\ndraw \"c\" from=\"b.higher\"\nsave \"s\" from=\"c\"\n"
    ));
}

#[test]
fn cycle_of_one() {
    assert_snapshot!(messages("draw \"a\" from=\"a\"\nsave \"s\" from=\"a\"\n"));
}

#[test]
fn cycle_of_a_sweep_is_reported_once() {
    let text = "matrix \"m\" { x \"1\" \"2\"; }\ndraw \"a\" matrix=\"m\" from=\"b\" doc=\"${x}\"\n\
                draw \"b\" matrix=\"m\" from=\"a\"\nsave \"s\" matrix=\"m\" from=\"a\"\n";
    assert_eq!(messages(text).matches("error[cycle]").count(), 1);
}

#[test]
fn unresolved_reference() {
    assert_snapshot!(messages(
        "rows \"answers\"\nsave \"a\" from=\"anwsers\"\nsave \"b\" from=\"nothing-like-it\"\n\
         model \"student\" path=\"x\"\nsave \"c\" from=\"student\"\nscore \"d\" from=\"answers\" model=\"student\" unused=\"ok\"\n"
    ));
}

#[test]
fn no_price() {
    let teacher = |rest: &str| {
        format!(
            "teacher \"t\" kind=\"openai\" model=\"own\" {{ budget money=1; {rest}; }}\nrows \"r\"\n\
             model \"m\" path=\"x\"\nscore \"a\" from=\"r\" model=\"m\" teacher=\"t\"\nsave \"s\" from=\"a\"\n"
        )
    };
    assert_snapshot!(messages(&teacher("retries 3")));
    assert!(!messages(&teacher("price input=1 output=2")).contains("no-price"));
}

#[test]
fn unknown_output() {
    assert_snapshot!(messages(
        "rows \"r\"\nhalves \"h\" from=\"r\"\nsave \"a\" from=\"h.lowr\"\nsave \"b\" from=\"a\"\n"
    ));
}

#[test]
fn ambiguous_instances() {
    assert_snapshot!(messages(
        "matrix \"m\" { set \"GSM8K\" \"MATH\"; limit 1 2; }\nrows \"r\" matrix=\"m\" limit=\"${limit}\" doc=\"${set}\"\n\
         save \"s\" matrix=\"m\" over=\"set\" from=\"r\"\n"
    ));
}

#[test]
fn no_matching_instance() {
    assert_snapshot!(messages(
        "matrix \"m\" { set \"GSM8K\" \"MATH\"; }\nmatrix \"n\" { set \"MATH\" \"ECQA\"; }\n\
         rows \"r\" matrix=\"m\" doc=\"${set}\"\nsave \"s\" matrix=\"n\" from=\"r\" doc=\"${set}\"\n"
    ));
}

#[test]
fn missing_input() {
    let text = "param \"nodes\" type=\"list\"\ngather \"g\" { from \"${nodes}\"; }\nsave \"s\" from=\"g\"\n";
    let (plan, messages) = plan_with(text, &[("nodes", "")], false);
    assert!(plan.is_none());
    assert_snapshot!(messages);
}

#[test]
fn unused_node() {
    assert_snapshot!(messages("rows \"r\"\nhalves \"h\" from=\"r\"\nrows \"kept\" unused=\"ok\"\n"));
}

#[test]
fn unused_instances() {
    let text = "matrix \"all\" { set \"a\" \"b\" \"c\"; }\nmatrix \"some\" { set \"b\"; }\n\
                rows \"r\" matrix=\"all\" doc=\"${set}\"\ndraw \"d\" matrix=\"all\" from=\"r\"\n\
                save \"s\" matrix=\"some\" from=\"d\" doc=\"${set}\"\n";
    assert_snapshot!(messages(text));
    let names: Vec<String> = plan(text).nodes.iter().map(|n| n.name.to_string()).collect();
    assert_eq!(names, ["r[set=b]", "d[set=b]", "s[set=b]"]);
}

#[test]
fn column_missing_and_of_the_wrong_type() {
    assert_snapshot!(messages(
        "rows \"r\"\nsave \"a\" from=\"r\" column=\"questoin\"\nrows \"n\" number=#true\nsave \"b\" from=\"n\"\n"
    ));
}

#[test]
fn what_reads_a_failed_node_is_not_reported_again() {
    let text = "rows \"n\" number=#true\nmodel \"m\" path=\"x\"\nscore \"a\" from=\"n\" model=\"m\"\n\
                draw \"b\" from=\"a\"\nsave \"s\" from=\"b\" column=\"none\"\n";
    assert_eq!(messages(text).matches("error[").count(), 1);
}

#[test]
fn an_error_of_a_sweep_is_one_message() {
    assert_snapshot!(messages(
        "matrix \"m\" { limit 1 2 3; }\nrows \"r\" matrix=\"m\" limit=\"${limit}\"\n\
         save \"s\" matrix=\"m\" from=\"r\" column=\"none\"\n"
    ));
}

#[test]
fn chat_template_absent() {
    assert_snapshot!(messages(
        "model \"bare\" path=\"x\"\nrows \"r\"\nscore \"s\" from=\"r\" model=\"bare\"\nsave \"f\" from=\"s\"\n"
    ));
}

#[test]
fn context_too_small() {
    assert_snapshot!(messages(
        "model \"short\" path=\"x\"\nmodel \"cut\" path=\"x\" context=32\nrows \"r\"\n\
         score \"a\" from=\"r\" model=\"short\" tokens=64\nscore \"b\" from=\"r\" model=\"cut\" tokens=64\n\
         save \"c\" from=\"a\"\nsave \"d\" from=\"b\"\n"
    ));
}

#[test]
fn environment() {
    let text = "model \"absent\" path=\"x\"\n\
                teacher \"t\" kind=\"openai\" model=\"m\" { api-key env=\"IDIOLECT_TEST_NO_SUCH_KEY\"; }\n\
                rows \"r\" file=\"no-such-file.json\"\nscore \"a\" from=\"r\" model=\"absent\" teacher=\"t\"\nsave \"c\" from=\"a\"\n";
    let (plan, without) = plan_with(text, &[], false);
    assert!(plan.is_some(), "{without}");
    let (plan, messages) = plan_with(text, &[], true);
    assert!(plan.is_none());
    let folder = std::env::current_dir().expect("a folder").display().to_string();
    assert_snapshot!(messages.replace(&format!("{folder}/"), ""));
}

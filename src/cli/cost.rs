//! `idiolect plan --cost`.

use super::plan::{WIDTH, states, wrap};
use super::progress::{duration, number};
use super::store::StoreArg;
use crate::plan::{Plan, TeacherCost, costs};
use crate::teacher::hosted::{as_of, usd};
use serde_json::json;

/// Prints what the teachers of a plan will be asked, and what that costs.
pub fn show(plan: &Plan, store: &StoreArg, as_json: bool) -> u8 {
    let Some(states) = states(plan, store) else { return super::FAILED };
    let costs = costs(plan, &states);
    if as_json {
        println!("{:#}", json!({ "pipeline": plan.name, "prices_as_of": as_of(), "teachers": costs }));
    } else {
        print!("{}", text(&costs));
    }
    super::DONE
}

fn text(costs: &[TeacherCost]) -> String {
    if costs.is_empty() {
        return "no teacher is asked\n".into();
    }
    let mut out = String::new();
    for cost in costs {
        out += &format!("{}\n", cost.teacher);
        let cached = match cost.cached_calls {
            0 => String::new(),
            n => format!(" ({} more are cached)", number(n)),
        };
        let (read, written) = (number(cost.input_tokens), number(cost.output_tokens));
        out += &format!("  {:<7}{}{cached}\n", "calls", number(cost.calls));
        out += &format!("  {:<7}about {read} read, {written} written\n", "tokens");
        out += &format!("  {:<7}{}\n", "money", money(cost));
        let time = cost.seconds.map_or("as long as the provider takes for a batch".into(), |s| {
            if s < 0.5 { "none".into() } else { format!("about {}", duration(s)) }
        });
        out += &format!("  {:<7}{time}\n", "time");
        if !cost.unknown.is_empty() {
            out +=
                &wrap(&format!("not counted, because their rows are not known yet: {}", cost.unknown.join(", ")), "  ");
        }
        out.push('\n');
    }
    let note = format!(
        "Lengths are those of school problems and of answers that use a quarter of `max-tokens`; at most is when every \
         answer uses all of it. Calls that are made again are not in the numbers. Built-in prices are of {}; `price` in \
         the teacher's declaration goes before them.",
        as_of()
    );
    out + &textwrap::fill(&note, WIDTH) + "\n"
}

fn money(cost: &TeacherCost) -> String {
    match (cost.money, cost.most_money) {
        (Some(0.0), Some(0.0)) => "nothing".into(),
        (Some(expected), Some(most)) => format!("about {}, at most {}", usd(expected), usd(most)),
        _ => "no price is known: give `price` in the teacher's declaration".into(),
    }
}

//! `idiolect op`.

use super::docs::{operator_page, template_texts};
use crate::ops::{self, Arity, Default, FieldSpec, OpSpec, REGISTRY, did_you_mean};
use crate::prompt::{self, Input, Template};
use clap::Subcommand;
use serde_json::{Value, json};

/// Lists the operators and describes one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect op list
  idiolect op show score-ppl
  idiolect op show load --json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists every operator with what it does
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Describes an operator: what it does, its inputs, outputs and fields, an example, its prompts
    Show {
        /// The operator's name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> u8 {
    match args.command {
        Command::List { json: true } => {
            println!("{:#}", REGISTRY.iter().map(|op| describe(op)).collect::<Value>());
            super::DONE
        }
        Command::List { json: false } => {
            let width = REGISTRY.iter().map(|op| op.name.len()).max().unwrap_or(0);
            REGISTRY.iter().for_each(|op| println!("{:width$}  {}", op.name, op.summary));
            super::DONE
        }
        Command::Show { name, json } => show(&name, json),
    }
}

fn show(name: &str, as_json: bool) -> u8 {
    let Some(op) = ops::find(name) else {
        eprintln!("error[unknown-operator]: there is no operator `{name}`");
        match did_you_mean(name, REGISTRY.iter().map(|op| op.name)) {
            Some(near) => eprintln!("\nhint: did you mean `{near}`?"),
            None => eprintln!("\nhint: `idiolect op list` shows all operators"),
        }
        return super::WRONG_INPUT;
    };
    if as_json {
        println!("{:#}", describe(op));
    } else {
        print!("{}{}", operator_page(op), template_texts(op.name));
    }
    super::DONE
}

fn describe(op: &OpSpec) -> Value {
    let inputs = op.inputs.iter().map(|i| {
        let arity = match i.arity {
            Arity::One => "one",
            Arity::Optional => "optional",
            Arity::Many => "many",
        };
        json!({ "name": i.name, "doc": i.doc, "arity": arity, "accepts_skipped": i.accepts_skipped })
    });
    json!({
        "name": op.name,
        "summary": op.summary,
        "doc": op.doc,
        "version": op.version,
        "sink": op.sink,
        "inputs": inputs.collect::<Value>(),
        "outputs": op.outputs.iter().map(|o| json!({ "name": o.name, "doc": o.doc })).collect::<Value>(),
        "fields": op.fields.iter().map(field).collect::<Value>(),
        "prompts": prompt::used_by(op.name).map(template).collect::<Value>(),
        "example": op.example.trim(),
    })
}

fn template(template: &Template) -> Value {
    let input = |i: &Input| {
        json!({
            "name": i.name,
            "type": i.kind.name(),
            "required": i.required,
            "doc": i.doc,
            "tasks": i.tasks,
            "fields": i.fields,
        })
    };
    json!({
        "name": template.name,
        "version": template.version,
        "digest": template.digest(),
        "doc": template.doc,
        "tasks": template.tasks,
        "inputs": template.inputs.iter().map(input).collect::<Value>(),
        "text": template.text(),
    })
}

fn field(field: &FieldSpec) -> Value {
    let default = match field.default {
        Default::None => Value::Null,
        Default::Str(s) => s.into(),
        Default::Int(i) => i.into(),
        Default::Float(f) => f.into(),
        Default::Bool(b) => b.into(),
    };
    let inner = match field.kind {
        ops::FieldKind::Records(inner) => inner.iter().map(self::field).collect(),
        _ => Value::Null,
    };
    json!({
        "name": field.name,
        "doc": field.doc,
        "type": crate::config::expected(&field.kind),
        "required": field.required,
        "default": default,
        "fields": inner,
    })
}

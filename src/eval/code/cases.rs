//! How code is read, by example: what the tests hold and the documentation shows.

use crate::eval::answer::Fault;

/// A response, and the code that is read of it.
pub const READ: &[(&str, &str)] = &[
    ("Final Answer:\nx = 1\n", "x = 1"),
    ("I add one.\nFinal Answer:\n\n    return x + 1\n", "    return x + 1"),
    ("Final answer: x = 1", "x = 1"),
    ("```python\nx = 0\n```\nFinal Answer:\n```python\nx = 1\n```\nDone.", "x = 1"),
    ("x = 1", "x = 1"),
    ("Here:\n```python\nx = 1\n```\nwhich prints\n```\n1\n```", "x = 1"),
    ("```\nx = 1\n```\nand\n```\ny = 2\n```", "x = 1\n\ny = 2"),
    ("```py\nx = 1", "x = 1"),
    ("Final Answer:\n```python\nprint('Final Answer:', 1)\n```", "print('Final Answer:', 1)"),
    ("Final Answer:\nx = 1\nprint('Final Answer:', x)", "x = 1\nprint('Final Answer:', x)"),
];

/// A prompt that the next ones go on from.
pub const PROMPT: &str = "def f(x):\n    \"\"\"Doubles.\"\"\"\n";

/// Code that goes on from the prompt, and what stands behind the prompt in the program.
pub const COMPLETED: &[(&str, &str)] = &[
    ("    return 2 * x", "    return 2 * x"),
    ("return 2 * x", "    return 2 * x"),
    ("y = x\n    return 2 * y", "    y = x\n    return 2 * y"),
    ("if x:\n    return 1\nreturn 2", "    if x:\n        return 1\n    return 2"),
    ("def g(x):\n    return x\nreturn g(x)", "    def g(x):\n        return x\n    return g(x)"),
    ("def f(x):\n    return 2 * x", "\ndef f(x):\n    return 2 * x"),
    ("import re\ndef f (x): return 2", "\nimport re\ndef f (x): return 2"),
];

/// The part of `docs/answers.md` on code. `cell` shows a text in a table.
pub fn section(cell: impl Fn(&str) -> String) -> String {
    let mut page = String::from(
        "\n## Code\n\n\
         `check-answer` with `task=\"code\"` runs the code of a response with the tests of its row, in [the sandbox](sandbox.md). \
         What stands behind the last marker is read (one in a fenced block or behind a quotation mark is the program's own), or the whole response where there is none; of that what fenced blocks \
         hold, if there are any: those that are said to be Python, or all where none is. The first line keeps its \
         indentation.\n\n| response | code |\n|---|---|\n",
    );
    for (response, code) in READ {
        page += &format!("| {} | {} |\n", cell(response), cell(code));
    }
    page += &format!(
        "\nWhere the row has the beginning of the program (HumanEval's prompt, here {}), code that defines the function at \
         the left margin comes behind it as it stands; all else is the function's body, and is indented where it is not.\n\n\
         | code | behind the prompt |\n|---|---|\n",
        cell(PROMPT.trim_end())
    );
    for (code, tail) in COMPLETED {
        page += &format!("| {} | {} |\n", cell(code), cell(tail));
    }
    page += "\nThen come the setup and the tests, in one namespace; each passes by raising nothing.\n\n## Why an answer is not right\n\n| reason | what it means |\n|---|---|\n";
    for (_, name, meaning) in Fault::NAMES {
        page += &format!("| `{name}` | {meaning} |\n");
    }
    page
}

#!/usr/bin/env python3
"""Runs idiolect and its peers in turn on the same model, rows and machine, and prints the ratios.

    python3 -m venv .peer && .peer/bin/pip install -r benches/requirements.txt
    cargo build --release
    python3 benches/compare.py --python .peer/bin/python --gguf MODEL.gguf --rows FILE.json [FILE.json ...]

Each figure is the median over the rounds; in every round each program runs once, so that a machine whose speed
drifts drifts for all. The peer is asked for each batch size, and its best one counts. Rows are those of the first
file; `variants` takes all files, which hold different answers to the same questions. Nothing else should run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = ["score", "variants", "lora", "generate", "prefill", "decode"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--idiolect", default=os.path.join(HERE, "..", "target", "release", "idiolect"))
parser.add_argument("--python", default=sys.executable, help="a Python that has benches/requirements.txt")
parser.add_argument("--gguf", required=True)
parser.add_argument("--rows", nargs="+", required=True)
parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
parser.add_argument("--dtypes", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
parser.add_argument("--limit", type=int, default=32, help="rows of each file")
parser.add_argument("--prompts", type=int, default=32)
parser.add_argument("--new-tokens", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--json", help="also write every figure here")
args = parser.parse_args()

PEER_DTYPE = {"f32": "float32", "bf16": "bfloat16"}


def run(what, command):
    """The JSON object that a program prints last."""
    print(f"  {what}", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(work, dtype):
    rows = ["--rows", *(args.rows if work == "variants" else args.rows[:1])]
    model = ["--model", args.gguf, "--json", "--dtype", dtype]
    limit = ["--limit", str(args.prompts if work == "generate" else args.limit)]
    command = {
        "score": ["score", *model, *rows, *limit, "--parts"],
        "variants": ["score", *model, *rows, *limit],
        "lora": ["train", *model, *rows, *limit],
        "generate": ["generate", *model, *rows, *limit, "--new-tokens", str(args.new_tokens)],
        "prefill": ["prefill", *model, "--tokens", "512"],
        "decode": ["decode", *model, "--tokens", "128"],
    }[work]
    return run(f"idiolect, {dtype}", [args.idiolect, "bench", *command])


def transformers(work, dtype, batch):
    mode = {"variants": "score"}.get(work, work)
    command = [args.python, os.path.join(HERE, "peer.py"), mode, "--gguf", args.gguf]
    command += ["--rows", *(args.rows if work == "variants" else args.rows[:1])]
    command += ["--limit", str(args.prompts if work == "generate" else args.limit)]
    command += ["--batch", str(batch), "--dtype", PEER_DTYPE[dtype]]
    if work == "generate":
        command += ["--new-tokens", str(args.new_tokens)]
    return run(f"transformers, {dtype}, batches of {batch}", command)


def llama(work):
    command = [args.python, os.path.join(HERE, "peer_llama.py"), work, "--gguf", args.gguf]
    return run("llama.cpp", [*command, "--tokens", "512" if work == "prefill" else "128"])


def rounds(programs):
    """Every program once a round; the results by name."""
    results = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, program in programs.items():
            results[name].append(program())
    return results


def programs(work):
    if work in ("prefill", "decode"):
        dtypes = [*args.dtypes, "quantized"]
        return {("llama.cpp", "as stored", ""): lambda: llama(work)} | {
            ("idiolect", dtype, ""): lambda dtype=dtype: ours(work, dtype) for dtype in dtypes
        }
    # All prompts at once is the peer's best case for writing.
    batches = [args.prompts] if work == "generate" else args.batches
    all_programs = {}
    for dtype in args.dtypes:
        all_programs[("idiolect", dtype, "")] = lambda dtype=dtype: ours(work, dtype)
        for batch in batches:
            peer = lambda dtype=dtype, batch=batch: transformers(work, dtype, batch)
            all_programs[("transformers", dtype, batch)] = peer
    return all_programs


def median(results, key):
    values = [result[key] for result in results if result.get(key) is not None]
    return statistics.median(values) if values else None


def gib(size):
    return "" if size is None else f"{size / 2**30:.2f}"


def report(work, results):
    figures = {}
    for (program, dtype, batch), runs in results.items():
        figure = {"tokens_per_s": median(runs, "tokens_per_s"), "memory": median(runs, "peak_memory_bytes"),
                  "mean_ppl": median(runs, "mean_ppl"), "batch": batch, "runs": runs}
        best = figures.get((program, dtype))
        if best is None or figure["tokens_per_s"] > best["tokens_per_s"]:
            figures[(program, dtype)] = figure
    print(f"\n### {work}\n\n| program | dtype | batch | tokens/s | peak GiB | mean ppl | idiolect's ratio in it |")
    print("|---|---|---|---|---|---|---|")
    for (program, dtype), figure in figures.items():
        ratios = []
        if program != "idiolect":
            for own in [dtype] if ("idiolect", dtype) in figures else [d for p, d in figures if p == "idiolect"]:
                ratio = figures[("idiolect", own)]["tokens_per_s"] / figure["tokens_per_s"]
                ratios.append(f"{ratio:.2f}" if own == dtype else f"{own} {ratio:.2f}")
        ppl = "" if figure["mean_ppl"] is None else f"{figure['mean_ppl']:.4f}"
        cells = [program, dtype, figure["batch"], f"{figure['tokens_per_s']:.1f}", gib(figure["memory"]), ppl]
        print("|", " | ".join(map(str, [*cells, ", ".join(ratios)])), "|", flush=True)
    return {f"{program} {dtype}": figure for (program, dtype), figure in figures.items()}


everything = {}
for work in args.work:
    print(f"{work}:", file=sys.stderr)
    everything[work] = report(work, rounds(programs(work)))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(everything, file, indent=1)

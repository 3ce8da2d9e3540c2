#!/usr/bin/env python3
"""Measures idiolect on a GPU against transformers on the same GPU, in one go and without a network.

    gpu-measure.py rows --reference REFERENCE.json --data FOLDER ROWS.jsonl
    gpu-measure.py measure --idiolect IDIOLECT --model MODEL.gguf --rows ROWS.jsonl --out FOLDER

`rows` joins reference perplexities with the questions and responses that they belong to, into the one file that travels.
`measure` needs Python's standard library for idiolect's side; for the peer's (`peer.py`, beside this file or in
`../benches`) torch, transformers, peft and gguf. It writes FOLDER/gpu.json and FOLDER/gpu.md, a table for
docs/performance.md, after every step: what was measured is kept when time runs out. Steps that did not happen are
named with the reason.

Without a GPU it says so and measures nothing, unless `--device cpu` asks for a rehearsal.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A bundle brings Python packages that the peer needs.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE / "python"), os.environ.get("PYTHONPATH")]))
}
# Rows, and new tokens, of the throughput steps.
SCORE_ROWS, GENERATE_ROWS, LORA_ROWS, NEW_TOKENS = 336, 32, 64, 128

PIPELINE = """
pipeline "gpu-measure" {{ doc "Reference rows, with and without the token that ends the turn" }}
model "student" path={model} dtype="{dtype}"
load "rows" path="rows.jsonl"
score-ppl "with-end" from="rows" model="student"
score-ppl "plain" from="rows" model="student" count-end=#false
write "ends" from="with-end" path="with-end.jsonl"
write "plains" from="plain" path="plain.jsonl"
"""


class Failed(Exception):
    """A step that gave no figures, and why."""


def read_jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_rows(args):
    """The reference names each row's file, as `data/...`, and its number in it."""
    reference = json.loads(Path(args.reference).read_text(encoding="utf-8"))["rows"]
    files, rows = {}, []
    for entry in reference:
        name = entry["file"]
        if name not in files:
            path = Path(args.data) / name.removeprefix("data/")
            files[name] = json.loads(path.read_text(encoding="utf-8"))
        source = files[name][entry["row"]]
        rows.append(
            {
                "id": f"{entry['dataset']}/{entry['variant']}/{entry['row']}",
                "variant": entry["variant"],
                "question": source["question"],
                "response": source["answer"],
                "reference_ppl": entry["ppl"],
                "reference_ppl_with_end": entry["ppl_with_eos"],
            }
        )
    write_jsonl(args.out, rows)
    print(f"{len(rows)} rows of {len(files)} files in {args.out}", file=sys.stderr)


class MemorySampler:
    """The most memory of the GPU that was in use while a step ran, everything counted: weights, caches, the CUDA
    context. Read off nvidia-smi, for both sides alike."""

    def __init__(self, number):
        self.number, self.peak, self.base = number, None, None

    def __enter__(self):
        if self.number is None:
            return self
        query = ["nvidia-smi", "-i", str(self.number), "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        self.base = int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
        self.process = subprocess.Popen(query + ["-lms", "100"], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.peak = max(self.peak or 0, int(line))

    def __exit__(self, *_):
        if self.number is not None:
            self.process.terminate()
            self.process.wait()
            self.thread.join(timeout=5)

    def figures(self):
        if self.peak is None:
            return {}
        return {"gpu_memory_bytes": max(self.peak - self.base, 0) << 20}


class Measurement:
    def __init__(self, args):
        self.args = args
        self.deadline = time.monotonic() + 60 * args.minutes
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.cuda = args.device.startswith("cuda")
        self.number = int(args.device.partition(":")[2] or 0) if self.cuda else None
        self.rows = read_jsonl(args.rows)
        self.result = {"machine": self.machine(), "steps": {}, "missing": {}}

    def left(self):
        return self.deadline - time.monotonic()

    def step(self, name, work, *args):
        """Runs a step and keeps its figures, or the reason why there are none."""
        print(f"{name} ({self.left():.0f} s left)", file=sys.stderr, flush=True)
        try:
            if self.left() < 5:
                raise Failed("no time was left")
            with MemorySampler(self.number) as memory:
                figures = work(*args)
            self.result["steps"][name] = figures | memory.figures()
        except Failed as why:
            print(f"  {why}", file=sys.stderr, flush=True)
            self.result["missing"][name] = str(why)
        self.write()

    def call(self, command, **more):
        """A command's standard output. Messages go to a log beside the results."""
        with open(self.out / "gpu.log", "a", encoding="utf-8") as log:
            print("$", *command, file=log, flush=True)
            try:
                done = subprocess.run(
                    [str(part) for part in command],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    timeout=max(self.left(), 1),
                    env=ENVIRONMENT,
                    **more,
                )
            except subprocess.TimeoutExpired as late:
                raise Failed("time ran out") from late
            except OSError as error:
                raise Failed(f"cannot run {command[0]}: {error}") from error
            log.write(done.stderr)
        if done.returncode != 0:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            said = next((line for line in lines if line.startswith("error")), lines[-1] if lines else "nothing")
            raise Failed(f"exit code {done.returncode}: {said.strip()}")
        return done.stdout

    def machine(self):
        about = {"device": args_device_name(self.args.device), "system": platform.platform(), "cores": os.cpu_count()}
        about["idiolect"] = self.call([self.args.idiolect, "--version"]).strip()
        if self.cuda:
            fields = ["name", "driver_version", "memory.total", "compute_cap", "clocks.max.sm", "power.limit"]
            query = ["nvidia-smi", "-i", str(self.number), f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
            values = [value.strip() for value in self.call(query).strip().split(",")]
            about |= dict(zip(fields, values))
            about["device"] = about["name"]
        versions = "import json, torch, transformers as t; print(json.dumps([torch.__version__, t.__version__]))"
        if self.args.peer:
            try:
                torch, transformers = json.loads(self.call([sys.executable, "-c", versions]))
                about |= {"torch": torch, "transformers": transformers}
            except Failed as why:
                about["peer"] = f"absent: {why}"
                self.args.peer = None
        return about

    def reference(self, dtype):
        """All rows through the whole engine, in one batch and one by one: what differs from the reference, and
        between the two."""
        together, seconds = self.score(dtype, 1024)
        alone, _ = self.score(dtype, 1)
        known = {row["id"]: row for row in self.rows}
        figures = {"rows": len(known), "run_seconds": seconds}
        for kind, column in [("with-end", "reference_ppl_with_end"), ("plain", "reference_ppl")]:
            if set(together[kind]) != set(known):
                raise Failed(f"{len(known) - len(together[kind])} rows were not scored")
            off = [abs(ppl / known[name][column] - 1) for name, ppl in together[kind].items()]
            figures[kind] = {
                "mean_ppl": mean(together[kind].values()),
                "mean_reference_ppl": mean(row[column] for row in known.values()),
                "greatest_relative_difference": max(off),
            }
        figures["rows_whose_bits_change_with_the_batch"] = sum(
            together["with-end"][name] != ppl for name, ppl in alone["with-end"].items()
        )
        return figures

    def score(self, dtype, batch_rows):
        """Perplexities by row, and the seconds of the process from start to end."""
        place = self.out / "work" / f"{dtype}-{batch_rows}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        columns = ["id", "question", "response"]
        write_jsonl(place / "rows.jsonl", ({name: row[name] for name in columns} for row in self.rows))
        model = json.dumps(str(Path(self.args.model).resolve()))
        (place / "p.kdl").write_text(PIPELINE.format(model=model, dtype=dtype), encoding="utf-8")
        command = [Path(self.args.idiolect).resolve(), "run", "p.kdl", "--device", self.args.device, "--out", "out"]
        start = time.monotonic()
        self.call([*command, "--batch-rows", batch_rows], cwd=place)
        seconds = time.monotonic() - start
        kinds = ["with-end", "plain"]
        return {k: {r["id"]: r["ppl"] for r in read_jsonl(place / "out" / f"{k}.jsonl")} for k in kinds}, seconds

    def rows_file(self, work):
        """What a throughput step works on: every row; different questions; responses of the first variant."""
        first = [row for row in self.rows if row["variant"] == self.rows[0]["variant"]]
        chosen = {"score": self.rows[:SCORE_ROWS], "generate": first[:GENERATE_ROWS], "lora": self.rows[:LORA_ROWS]}
        path = self.out / "work" / f"{work}.json"
        path.parent.mkdir(exist_ok=True)
        rows = [{"question": row["question"], "answer": row["response"]} for row in chosen[work]]
        path.write_text(json.dumps(rows[: self.args.limit], ensure_ascii=False), encoding="utf-8")
        return path.resolve()

    def ours(self, work, dtype, batches):
        """One JSON object: tokens_per_s, rows_per_s, seconds, peak_memory_bytes, device, and what was computed. Scoring
        and writing choose their batches themselves; training has the peer's."""
        command = [self.args.idiolect, "bench", {"lora": "train"}.get(work, work), "--model", self.args.model]
        command += ["--rows", self.rows_file(work), "--limit", len(self.rows)]
        command += ["--dtype", dtype, "--device", self.args.device, "--json", *self.new_tokens(work)]
        sizes = [["--batch", size] for size in batches] if work == "lora" else [[]]
        return max((json.loads(self.call(command + size)) for size in sizes), key=lambda found: found["tokens_per_s"])

    def theirs(self, work, dtype, batches):
        command = [sys.executable, self.args.peer, work, "--model", self.args.model, "--rows", self.rows_file(work)]
        command += ["--dtype", dtype, "--device", self.args.device, "--batch", *batches]
        return json.loads(self.call(command + self.new_tokens(work)).strip().splitlines()[-1])

    def new_tokens(self, work):
        return ["--new-tokens", self.args.new_tokens] if work == "generate" else []

    def all(self):
        self.step("reference f32", self.reference, "f32")
        self.step("reference bf16", self.reference, "bf16")
        plan = [("score", "bf16", [16, 64]), ("generate", "bf16", [32]), ("lora", "bf16", [8, 32]), ("score", "f32", [32])]
        for work, dtype, batches in plan:
            self.step(f"{work} {dtype}, idiolect", self.ours, work, dtype, batches)
            if self.args.peer:
                self.step(f"{work} {dtype}, transformers", self.theirs, work, dtype, batches)
        return 0 if self.result["steps"] else 1

    def write(self):
        (self.out / "gpu.json").write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        (self.out / "gpu.md").write_text(markdown(self.result), encoding="utf-8")


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def args_device_name(device):
    return device if device.startswith("cuda") else f"{device} ({platform.processor() or platform.machine()})"


def markdown(result):
    about, steps = result["machine"], result["steps"]
    details = [f"{key} {about[key]}" for key in ("torch", "transformers") if key in about]
    details = [about["idiolect"], *details]
    if "driver_version" in about:
        details.append(f"driver {about['driver_version']}")
    lines = [f"### {about['device']}", "", ", ".join(details) + ".", ""]
    references = {name.split()[1]: figures for name, figures in steps.items() if name.startswith("reference")}
    if references:
        lines += [
            "| reference rows | mean perplexity | reference | greatest relative difference of a row | rows that change with the batch |",
            "|---|---|---|---|---|",
        ]
        for dtype, figures in references.items():
            ends, changed = figures["with-end"], figures["rows_whose_bits_change_with_the_batch"]
            lines.append(
                f"| {figures['rows']} in {dtype} | {ends['mean_ppl']:.4f} | {ends['mean_reference_ppl']:.4f} "
                f"| {ends['greatest_relative_difference']:.1e} | {changed} |"
            )
        lines.append("")
    both = [name.removesuffix(", idiolect") for name in steps if name.endswith(", idiolect")]
    both += [n for n in (m.removesuffix(", transformers") for m in steps if m.endswith(", transformers")) if n not in both]
    if both:
        lines += [
            "| work | idiolect, tokens/s | transformers, tokens/s (batch) | ratio | memory of the GPU, idiolect | transformers |",
            "|---|---|---|---|---|---|",
        ]
        for work in both:
            ours, theirs = steps.get(f"{work}, idiolect"), steps.get(f"{work}, transformers")
            ratio = f"{ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}" if ours and theirs else "-"
            rate = f"{theirs['tokens_per_s']:.0f} ({theirs['batch']})" if theirs else "-"
            own = f"{ours['tokens_per_s']:.0f}" if ours else "-"
            lines.append(f"| {work} | {own} | {rate} | {ratio} | {memory(ours)} | {memory(theirs)} |")
        lines.append("")
    lines += [f"- not measured: {name}: {why}" for name, why in result["missing"].items()]
    return "\n".join(lines).rstrip() + "\n"


def memory(figures):
    """As nvidia-smi saw it; else what the program says of itself."""
    if not figures:
        return "-"
    size = figures.get("gpu_memory_bytes") or figures.get("peak_memory_bytes")
    return f"{size / 2**30:.2f} GiB" if size else "-"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("--reference", required=True)
    rows.add_argument("--data", required=True)
    rows.add_argument("out")
    measure = commands.add_parser("measure")
    measure.add_argument("--idiolect", required=True)
    measure.add_argument("--model", required=True)
    measure.add_argument("--rows", required=True)
    measure.add_argument("--out", required=True)
    measure.add_argument("--device", default="cuda")
    measure.add_argument("--minutes", type=float, default=9, help="all in all")
    measure.add_argument("--limit", type=int, default=None, help="rows of a throughput step, for rehearsals")
    measure.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    measure.add_argument("--no-peer", dest="peer", action="store_false")
    return parser.parse_args()


def main():
    args = arguments()
    if args.command == "rows":
        return make_rows(args)
    if args.device.startswith("cuda") and not shutil.which("nvidia-smi"):
        sys.exit("no GPU here (there is no nvidia-smi): nothing was measured. `--device cpu` rehearses without one.")
    if args.peer:
        places = [HERE / "peer.py", HERE.parent / "benches" / "peer.py"]
        args.peer = next((path for path in places if path.exists()), None)
    try:
        return Measurement(args).all()
    except Failed as why:
        sys.exit(str(why))


if __name__ == "__main__":
    sys.exit(main())

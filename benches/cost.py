#!/usr/bin/env python3
"""What scoring costs, against rows, length, and number of variants: measures and writes a CSV that cost.kdl draws.

    python3 benches/cost.py --gguf MODEL.gguf --rows FILE.json [FILE.json ...] --out docs/performance/cost.csv
    target/release/idiolect run benches/cost.kdl

Rows are those of the first file; variants are answers to the same questions, one file each.
"""

import argparse
import csv
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--idiolect", default=os.path.join(HERE, "..", "target", "release", "idiolect"))
parser.add_argument("--gguf", required=True)
parser.add_argument("--rows", nargs="+", required=True)
parser.add_argument("--questions", type=int, default=16, help="questions of the variants")
parser.add_argument("--dtype", default="f32")
parser.add_argument("--out", required=True)
args = parser.parse_args()


def measure(work, *more):
    command = [args.idiolect, "bench", work, "--model", args.gguf, "--dtype", args.dtype, "--json", *map(str, more)]
    print(" ".join(command[1:3] + list(map(str, more))), file=sys.stderr, flush=True)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


lines = []
for count in (1, 2, 4, 8, 16, 32, 64):
    done = measure("score", "--limit", count, "--rows", args.rows[0])
    lines.append(("rows", count, "measured", done["seconds"]))
for length in (64, 128, 256, 512, 1024, 2048, 4096):
    done = measure("prefill", "--tokens", length, "--repeat", 1)
    lines.append(("length", length, "measured", done["seconds"]))
# Each variant for itself, and all of them together.
apart = 0
for count in range(1, len(args.rows) + 1):
    apart += measure("score", "--limit", args.questions, "--rows", args.rows[count - 1])["seconds"]
    together = measure("score", "--limit", args.questions, "--rows", *args.rows[:count])["seconds"]
    lines.append(("variants", count, "each for itself", apart))
    lines.append(("variants", count, "together", together))

with open(args.out, "w", newline="") as file:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(("against", "x", "series", "seconds"))
    table.writerows((against, x, series, f"{seconds:.3f}") for against, x, series, seconds in lines)

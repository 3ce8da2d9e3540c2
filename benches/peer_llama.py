"""llama.cpp on the same GGUF file: reading a prompt, and writing one token after another.

Prints one JSON line. Times the steady state: the model is loaded and warmed up.
"""

import argparse
import json
import os
import resource
import time

import llama_cpp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("mode", choices=["prefill", "decode"])
parser.add_argument("--gguf", required=True)
parser.add_argument("--tokens", type=int, default=512, help="tokens of the prompt, or to write")
parser.add_argument("--repeat", type=int, default=3)
parser.add_argument("--threads", type=int, default=os.cpu_count())
args = parser.parse_args()

model = llama_cpp.Llama(
    args.gguf, n_ctx=2048, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads, verbose=False
)
# Tokens of no meaning: their number is what costs.
prompt = [(7919 * i) % 40000 + 100 for i in range(args.tokens)]


def prefill():
    model.reset()
    start = time.perf_counter()
    model.eval(prompt)
    return time.perf_counter() - start


def decode():
    model.reset()
    model.eval(prompt[:8])
    start = time.perf_counter()
    for i in range(args.tokens):
        model.eval([prompt[i]])
    return time.perf_counter() - start


once = {"prefill": prefill, "decode": decode}[args.mode]
once()
seconds = min(once() for _ in range(args.repeat))
print(json.dumps({
    "mode": args.mode,
    "tokens": args.tokens,
    "threads": args.threads,
    "seconds": seconds,
    "tokens_per_s": args.tokens / seconds,
    "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))

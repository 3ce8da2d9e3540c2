#!/usr/bin/env python3
"""The peer that idiolect is measured against: transformers and peft, on the same model, rows and device.

    peer.py score    --model MODEL.gguf --rows ROWS.json [--batch 1 4 8]
    peer.py generate --model MODEL.gguf --rows ROWS.json --new-tokens 128 --batch 32
    peer.py lora     --model MODEL.gguf --rows ROWS.json --batch 8

needs torch, transformers, for `lora` peft, and for GGUF files the package gguf. `--model` is a GGUF file or a folder
in the hub's layout. ROWS are JSON arrays or JSON lines of objects with `question` and `answer` (or `response`).

For every batch size: the weights are loaded, one batch is done as a warm-up, and then all rows are timed once, those of
like length together. Tokens are those of prompt and response (score, lora) or the new ones (generate); padding
does not count. One JSON object goes to standard output: the figures of the fastest batch size, and all of them as
`batches`.
"""

import argparse
import json
import math
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# The names that torch has for them are taken too.
DTYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
IGNORED = -100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["score", "generate", "lora"])
    parser.add_argument("--model", "--gguf", required=True)
    parser.add_argument("--rows", required=True, nargs="+")
    parser.add_argument("--limit", type=int, default=None, help="rows of each file")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    return parser.parse_args()


def read_rows(path, limit):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    return rows[:limit]


class Peer:
    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        # Float32 means float32: no TF32.
        torch.backends.cuda.matmul.allow_tf32 = False
        source = {"pretrained_model_name_or_path": args.model}
        if os.path.isfile(args.model):
            folder, name = os.path.split(os.path.abspath(args.model))
            source = {"pretrained_model_name_or_path": folder, "gguf_file": name}
        self.tokenizer = AutoTokenizer.from_pretrained(**source)
        # A GGUF file is dequantised in float32 and then rounded once.
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        self.model = model.to(DTYPES[args.dtype]).to(self.device).eval()
        pad = self.tokenizer.pad_token_id
        self.pad = pad if pad is not None else self.tokenizer.eos_token_id
        self.end = self.end_of_turn()
        rows = [row for path in args.rows for row in read_rows(path, args.limit)]
        self.rows = [self.encode(row) for row in rows]

    def tokens(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def end_of_turn(self):
        """What the chat template writes behind an assistant's words: the token that ends its turn."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return self.tokens(text[text.rindex("b") + 1 :].strip())[:1]

    def encode(self, row):
        turns = [{"role": "user", "content": row["question"]}]
        prompt = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        response = row["answer"] if "answer" in row else row["response"]
        return self.tokens(prompt), self.tokens(response) + self.end

    def batches(self, size):
        by_length = sorted(self.rows, key=lambda row: len(row[0]) + len(row[1]))
        return [by_length[at : at + size] for at in range(0, len(by_length), size)]

    def tensor(self, lists):
        return torch.tensor(lists, device=self.device)

    def padded(self, batch):
        """Token ids, attention mask and labels, padded on the right."""
        width = max(len(prompt) + len(response) for prompt, response in batch)
        ids, mask, labels = [], [], []
        for prompt, response in batch:
            rest = width - len(prompt) - len(response)
            ids.append(prompt + response + [self.pad] * rest)
            mask.append([1] * (width - rest) + [0] * rest)
            labels.append([IGNORED] * len(prompt) + response + [IGNORED] * rest)
        return self.tensor(ids), self.tensor(mask), self.tensor(labels)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory(self):
        """Of tensors on a GPU since the last reset; of the whole process on a processor."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def measure(self, size):
        batches = self.batches(size)
        work, warm_up, figures = getattr(self, self.args.work)()
        # The longest batch: what it allocates serves the others.
        warm_up(batches[-1])
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.synchronize()
        start = time.perf_counter()
        results = [work(batch) for batch in batches]
        self.synchronize()
        seconds = time.perf_counter() - start
        tokens = sum(len(prompt) + len(response) for prompt, response in self.rows)
        if self.args.work == "generate":
            tokens = len(self.rows) * self.args.new_tokens
        return {
            "batch": size,
            "rows": len(self.rows),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "rows_per_s": len(self.rows) / seconds,
            "peak_memory_bytes": self.peak_memory(),
            **figures(results),
        }

    def score(self):
        def work(batch):
            ids, mask, labels = self.padded(batch)
            with torch.inference_mode():
                logits = self.model(ids, attention_mask=mask).logits[:, :-1].float()
                labels = labels[:, 1:]
                nll = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
                mean = nll.sum(1) / (labels != IGNORED).sum(1)
            return [math.exp(value) for value in mean.tolist()]

        def figures(results):
            values = [ppl for batch in results for ppl in batch]
            return {"mean_ppl": sum(values) / len(values)}

        return work, work, figures

    def generate(self):
        def work(batch, new_tokens=self.args.new_tokens):
            width = max(len(prompt) for prompt, _ in batch)
            ids = self.tensor([[self.pad] * (width - len(p)) + p for p, _ in batch])
            mask = self.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in batch])
            with torch.inference_mode():
                out = self.model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=new_tokens,
                    min_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=self.pad,
                )
            return out[:, width:].tolist()

        def figures(results):
            return {"first_output": self.tokenizer.decode(results[0][0])[:200]}

        return work, lambda batch: work(batch, 4), figures

    def lora(self):
        from peft import LoraConfig, get_peft_model

        if not hasattr(self, "adapted"):
            adapter = LoraConfig(
                r=self.args.rank,
                lora_alpha=2 * self.args.rank,
                lora_dropout=0.0,
                target_modules=["q_proj", "v_proj"],
                task_type="CAUSAL_LM",
            )
            self.adapted = get_peft_model(self.model.train(), adapter)
        weights = [w for w in self.adapted.parameters() if w.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self.args.learning_rate)

        def work(batch):
            ids, mask, labels = self.padded(batch)
            loss = self.adapted(ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return work, work, lambda losses: {"first_loss": losses[0], "last_loss": losses[-1]}

    def name(self):
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu ({self.args.threads} threads)"


def main():
    args = arguments()
    start = time.perf_counter()
    peer = Peer(args)
    load_seconds = time.perf_counter() - start
    measured = []
    for size in args.batch:
        try:
            measured.append(peer.measure(size))
        except torch.cuda.OutOfMemoryError as error:
            print(f"batches of {size}: {error}", file=sys.stderr)
            torch.cuda.empty_cache()
    if not measured:
        sys.exit("no batch size fits into the device's memory")
    best = max(measured, key=lambda figures: figures["tokens_per_s"])
    about = {"work": args.work, "dtype": args.dtype, "device": peer.name(), "load_seconds": load_seconds}
    print(json.dumps(about | best | {"batches": measured}))


if __name__ == "__main__":
    main()

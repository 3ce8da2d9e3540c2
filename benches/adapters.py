#!/usr/bin/env python3
"""Adapters between idiolect and the peft library, both ways, on a small model whose weights are made of arithmetic.

    adapters.py golden                 the numbers of tests/golden/peft.json: an adapter that peft wrote, and its scores
    adapters.py check --idiolect BIN   trains with idiolect, loads the adapter in peft, and compares every token's score;
                                       the same for the merged model in transformers

needs torch, transformers and peft. The model is that of `model::synthetic::write_model`, or with `check --gguf FILE` a real one.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

VOCABULARY = 260
CONFIG = dict(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
              tie_word_embeddings=True, bos_token_id=None, eos_token_id=0)
# A prompt and a response: (seed, tokens).
ROWS = [(1, 30), (2, 57), (3, 12)]


def values(name, count):
    """Numbers in [-0.5, 0.5) that a name stands for: SplitMix64, seeded with the name's FNV-1a hash."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(16777216.0) - np.float32(0.5)


def tokens(seed, count):
    return ((values(f"tokens {seed}", count) + np.float32(0.5)) * np.float32(VOCABULARY)).astype(np.int64)


def weights(name, shape):
    own = values(name, int(np.prod(shape))).reshape(shape)
    if "norm" in name:
        return 1.0 + own * np.float32(0.5)
    return own * np.float32(2.0 if "embed" in name else 0.5)


def small_model():
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights(name, tuple(parameter.shape))))
    return model


def write_model(folder):
    """The folder of `write_model`: weights, configuration, a tokenizer of bytes, a template that marks turns."""
    small = small_model()
    tensors = {name: p.detach().contiguous() for name, p in small.named_parameters()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **CONFIG}
    (folder / "config.json").write_text(json.dumps(config))
    special = ["<end>", "<user>", "<assistant>", "<system>"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = sorted([chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))])
    vocabulary = {text: id for id, text in enumerate(special + alphabet)}
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, t in enumerate(special)]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", truncation=None, padding=None, normalizer=None, pre_tokenizer=level, post_processor=None,
                     decoder=level, added_tokens=added, model=dict(type="BPE", vocab=vocabulary, merges=[]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = ("{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}")
    settings = {"eos_token": "<end>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def nll(model, ids):
    """Of every token but the first."""
    ids = torch.tensor([list(ids)])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].double()
    return F.cross_entropy(logits, ids[0, 1:], reduction="none")


def golden(_):
    """An adapter that peft saved and loaded again, its values those of its tensors' names."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.1)
    wrapped = get_peft_model(small_model(), config)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wrapped.save_pretrained(folder)
        path = folder / "adapter_model.safetensors"
        shapes = {name: list(t.shape) for name, t in load_file(path).items()}
        own = {name: torch.from_numpy(values(name, int(np.prod(shape))).reshape(shape)) for name, shape in shapes.items()}
        save_file(own, path, {"format": "pt"})
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["target_modules"] = sorted(settings["target_modules"])
        model = PeftModel.from_pretrained(small_model(), folder).eval()
    base = small_model()
    rows = [dict(seed=seed, tokens=count, nll=nll(model, tokens(seed, count)).sum().item(),
                 without=nll(base, tokens(seed, count)).sum().item()) for seed, count in ROWS]
    json.dump(dict(adapter_config=settings, tensors=shapes, rows=rows), sys.stdout, indent=1)
    print()


PIPELINE = """
pipeline "adapters" seed=1 {{ doc "An adapter for peft" }}
model "base" path="{path}" dtype="f32"
load "rows" path="rows.jsonl"
lora-train "tuned" from="rows" model="base" {{ targets "all-linear"; rank 4; learning-rate {rate}; batch 4; epochs 4 }}
score-ppl "scored" from="rows" model="base" adapter="tuned" token-nll=#true
score-ppl "before" from="rows" model="base" token-nll=#true
write-adapter "adapter" adapter="tuned" path="adapter"
merge-adapter "merged" adapter="tuned" model="base" path="merged"
write "scores" from="scored" path="scores.jsonl"
write "scores-before" from="before" path="before.jsonl"
"""


def check(args):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "model").mkdir()
        if args.gguf:
            path, rate, limit = args.gguf, 2e-4, 1e-3
            source = dict(pretrained_model_name_or_path=args.gguf.parent, gguf_file=args.gguf.name)
        else:
            write_model(folder / "model")
            path, rate, limit = "model", 0.01, 1e-4
            source = dict(pretrained_model_name_or_path=folder / "model")
        rows = [dict(id=f"r{i}", question=f"What is {i} + {i}?", response=f"It is {2 * i}, " + "as said, " * (i % 4))
                for i in range(24)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "p.kdl").write_text(PIPELINE.format(path=path, rate=rate))
        subprocess.run([args.idiolect, "run", "p.kdl", "--quiet"], cwd=folder, check=True)
        out = folder / "runs/adapters"

        tokenizer = AutoTokenizer.from_pretrained(**source)
        base = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
        untrained = compare("without adapter", base, tokenizer, out / "before.jsonl", limit)
        tuned = PeftModel.from_pretrained(base, out / "adapter").eval()
        trained = compare("with adapter", tuned, tokenizer, out / "scores.jsonl", limit)
        merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32).eval()
        compare("merged", merged, AutoTokenizer.from_pretrained(out / "merged"), out / "scores.jsonl", limit)
    assert trained < 0.7 * untrained, "the adapter has learned nothing"


def compare(what, model, tokenizer, path, limit):
    """The greatest difference of a token's score; gives the mean."""
    worst, total, count = 0.0, 0.0, 0
    for row in map(json.loads, path.read_text().splitlines()):
        prompt = tokenizer.apply_chat_template([dict(role="user", content=row["question"])], tokenize=False,
                                               add_generation_prompt=True)
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        after = tokenizer(row["response"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        expected = nll(model, before + after)[len(before) - 1:]
        found = torch.tensor(row["token_nll"], dtype=torch.float64)
        assert found.shape == expected.shape, f"{row['id']}: {found.shape} scores, {expected.shape} expected"
        worst = max(worst, (found - expected).abs().max().item())
        total, count = total + found.sum().item(), count + len(found)
    print(f"{what}: {count} tokens, mean {total / count:.4f}, greatest difference {worst:.1e}")
    assert worst < limit, "the scores differ"
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    works = parser.add_subparsers(required=True)
    works.add_parser("golden").set_defaults(work=golden)
    checked = works.add_parser("check")
    checked.add_argument("--idiolect", type=lambda path: str(pathlib.Path(path).resolve()), required=True)
    checked.add_argument("--gguf", type=lambda path: pathlib.Path(path).resolve(), help="needs the package gguf")
    checked.set_defaults(work=check)
    args = parser.parse_args()
    args.work(args)


if __name__ == "__main__":
    main()

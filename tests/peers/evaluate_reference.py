#!/usr/bin/env python3
"""Perplexity and KL divergence of a model and of rounded versions of it, by transformers in float32: what Sluice's
own numbers are compared with, window by window. Nothing here comes from Sluice.

Protocol: the text is one stream of tokens without a BOS, cut into windows that do not overlap; each window predicts
its last `window - 1` tokens; perplexity is exp of the mean over all predictions; KL(original || rounded) is over the
full vocabulary, in nats, mean over the same predictions. Only the linears of the blocks are rounded: the embedding and
the head stay as they are.

    python evaluate_reference.py MODEL TEXT --window 512 --windows 64 --variants int8-channel,int4-g64,nf4 --output r.json

Variants: `int<bits>-<channel|g<size>>[-affine][-bf16|-f16]` (symmetric: scale = 2*absmax/(2^bits - 1), codes
-2^(bits-1) ... 2^(bits-1)-1; the last word rounds the scale before codes are chosen), `nf4` (bitsandbytes, double
quantization), `<w8a8|fp8>[-weights][-bf16|-f16]` (rows; activations rounded per token, or with `-weights` left in float),
`llm-int8` (bitsandbytes' own layers), `llm-int8-f32` (the same arithmetic in plain float32) and `bf16` (nothing rounded, the whole
model computed in bfloat16).
"""
import argparse
import contextlib
import hashlib
import json
import logging
import math
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import activations

SCALE_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}
CHUNK = 512  # predictions scored at a time


def round_int(weight, bits, group, affine, scale_dtype):
    """A float32 weight [R, C] as its integers of `bits` bits would read back. group: columns per scale, or None for rows."""
    rows, columns = weight.shape
    w = weight.view(rows, columns // (group or columns), group or columns)
    levels = 2**bits - 1
    low_code, high_code = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if affine:
        low, high = w.amin(-1, True).clamp(max=0), w.amax(-1, True).clamp(min=0)
        scale = (high - low) / levels
    else:
        low, scale = None, w.abs().amax(-1, True) * 2 / levels
    scale = scale.to(scale_dtype).float() if scale_dtype else scale
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (low_code - low / scale).round().clamp(low_code, high_code) if affine else torch.zeros_like(scale)
    codes = ((w / scale).round() + zero).clamp(low_code, high_code)
    return ((codes - zero) * scale).view(rows, columns)


def round_fp8(weight, scale_dtype):
    """A float32 weight [R, C] as E4M3 rows with scale = absmax / 448 would read back."""
    scale = weight.abs().amax(-1, True) / 448
    scale = scale.to(scale_dtype).float() if scale_dtype else scale
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def round_nf4(weight):
    """A weight [R, C] in the model's own dtype through bitsandbytes' NF4, blocks of 64, double quantization."""
    import bitsandbytes.functional as bnb

    codes, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    state.dtype = torch.float32  # read back in float32, not in the model's dtype
    return bnb.dequantize_4bit(codes, state)


def rounding(name):
    """(function of a weight in the model's dtype, kind of activation rounding or None) of a variant."""
    plain = {"nf4": (round_nf4, None), "llm-int8-f32": (activations.round_rows_llm_int8, "llm_int8")}
    if name in plain:
        return plain[name]
    eight = re.fullmatch(r"(w8a8|fp8)(-weights)?(?:-(bf16|f16))?", name)
    if eight:
        kind, weights_only, dtype = eight.groups()
        dtype = SCALE_DTYPES.get(dtype)
        if kind == "fp8":
            return (lambda w: round_fp8(w.float(), dtype)), None if weights_only else "fp8"
        return (lambda w: round_int(w.float(), 8, None, False, dtype)), None if weights_only else "int8"
    match = re.fullmatch(r"int([2-8])-(?:channel|g(\d+))(-affine)?(?:-(bf16|f16))?", name)
    if not match:
        raise SystemExit(f"There is no variant {name!r}; see the first lines of this file for the names.")
    bits, group, affine, dtype = match.groups()
    group = int(group) if group else None
    return (lambda w: round_int(w.float(), int(bits), group, bool(affine), SCALE_DTYPES.get(dtype))), None


def linears(model):
    """The linear layers of the blocks by name: all but the head."""
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.endswith("lm_head")}


@contextlib.contextmanager
def variant(name, path, base, weights):
    """The model of a variant: `base` with other weights, put back afterwards, or a model of its own."""
    if name == "bf16":
        yield AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), None
        return
    if name == "llm-int8":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
        yield AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=config).eval(), None
        return
    function, kind = rounding(name)
    error = total = 0.0
    hooks = []
    for layer, module in linears(base).items():
        rounded = function(weights[layer])
        exact = weights[layer].float()
        error += float(((rounded - exact).double() ** 2).sum())
        total += float((exact.double() ** 2).sum())
        module.weight.data = rounded
        if kind:
            hooks.append(activations.install(module, kind))
    try:
        yield base, error / total
    finally:
        for hook in hooks:
            hook.remove()


def score(model, window, reference):
    """(mean NLL, mean KL or None) of one window of tokens, given the original model's log-probabilities [T-1, V]."""
    hidden = model.model(window[None]).last_hidden_state[0]
    nll = kl = 0.0
    last = len(window) - 1
    for a in range(0, last, CHUNK):
        b = min(a + CHUNK, last)
        # In float64: with norms near 20, probabilities rounded to float32 that sum to 1 + 8e-6 move KL by 2e-4.
        logits = model.lm_head(hidden[a:b]).double()
        norm = torch.logsumexp(logits, -1)
        nll += (norm - logits.gather(1, window[a + 1 : b + 1, None])[:, 0]).double().sum().item()
        p = torch.log_softmax(torch.from_numpy(reference[a:b]).double(), -1)
        kl += (norm + (p.exp() * (p - logits)).sum(-1)).double().sum().item()
    return nll / last, kl / last


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--variants", default="", help="names separated by commas; without it only the original is scored")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for all results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of its float16 at every layer of every window

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer(args.text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    needed = args.window * args.windows
    if len(ids) < needed:
        raise SystemExit(f"{args.windows} windows of {args.window} need {needed} tokens, {args.text} has {len(ids)}.")
    windows = torch.tensor(ids[:needed]).view(args.windows, args.window)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    stored = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    weights = {name: module.weight.data for name, module in linears(stored).items()}

    results = {
        "model": args.model.resolve().name,
        "text": args.text.name,
        "tokens": len(ids),
        "tokens_sha256": hashlib.sha256(np.array(ids, "<u4").tobytes()).hexdigest(),
        "window": args.window,
        "windows": args.windows,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": {},
    }

    def report(name, nll, kl, error, seconds):
        row = {"perplexity": math.exp(np.mean(nll)), "kl": float(np.mean(kl)) if kl else 0.0}
        print(f"{name:24} perplexity {row['perplexity']:.4f}  KL {row['kl']:.6f}  {seconds:.0f} s", flush=True)
        row |= {
            "relative_mse": error,
            "seconds": round(seconds, 1),
            "window_nll": nll,
            "window_perplexity": [math.exp(x) for x in nll],
            "window_kl": kl,
        }
        results["rows"][name] = row
        if args.output:
            args.output.write_text(json.dumps(results, indent=1) + "\n")

    with torch.inference_mode(), tempfile.TemporaryFile() as file:
        reference = np.memmap(file, "float32", "w+", shape=(args.windows, args.window - 1, base.config.vocab_size))
        start, nll = time.time(), []
        for i, window in enumerate(windows):
            p = torch.log_softmax(base(window[None]).logits[0, :-1].float(), -1)
            reference[i] = p.numpy()
            nll.append(-p.gather(1, window[1:, None]).double().mean().item())
        report("float32", nll, [], 0.0, time.time() - start)
        for name in filter(None, args.variants.split(",")):
            start = time.time()
            with variant(name, args.model, base, weights) as (model, error):
                scores = [score(model, window, reference[i]) for i, window in enumerate(windows)]
            report(name, [s[0] for s in scores], [s[1] for s in scores], error, time.time() - start)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compares the logits that open_checkpoint.py and logits.ts wrote for one checkpoint, against bounds derived here.

    python compare.py THEIRS.json OURS.json

**Weights.** Both sides multiply the same float32 weights, in another order. A sum of C float32 products whose partial sums
wander as the sum itself does has a relative error of about sqrt(C) u, u = 2^-24. A block adds about 12 such results to the
residual stream (seven products, two norms, attention's two, the gate); errors of different results are independent, and a residual
network passes a small relative error on with a gain near 1, so after L blocks it is sqrt(12 L C) u of the hidden state, and
of the logits' root mean square, with C the widest sum. The largest of some 10^7 errors is under 6 of their standard deviations:

    |difference of logits| <= 6 sqrt(12 L C) u rms(logits)

The truth compared with is the same model in float64; that torch's own float32 stays within the bound shows that the
reasoning holds for this model. Logits that differ by at most d have KL <= (2 d)^2 / 8 (Hoeffding's lemma).

**Single layers.** Given the same input, y = sum of C products with rounded weights and activations; each side errs by at most
(C + 4) u sum |x| |w| (one rounding per product and addition, two for the weight, two for the activation), so the difference by twice
that. Rounded activations exceed |x| by at most 1/16 (E4M3). An activation whose quotient by the scale is within rounding of a tie
may have gone the other way: those few are known beforehand, and what they may move is added. LLM.int8(): bitsandbytes has
6.200124e-05 where 1/127^2 = 6.2000124e-05, a relative 1.8e-5.

**Rounded activations, whole model.** Rounding is not continuous. A value within float32 noise of a boundary goes one way here and the
other there, and then differs by a whole step, which makes the next layer's values differ by much more than noise: with n the
difference in steps, about n of the values flip, and the root mean square of flips is sqrt(n), so 1e-5 becomes 1 after a few roundings. Two correct runs
thus end as far apart as two independent roundings: the variance of their difference is twice that of one, and so is KL, which is half a variance to
first order. Between them and a run without rounding lies KL_act = KL(weights64 || rounded64), measured here. The bound
is 3 KL_act (2, and half as much again for one window's scatter); float32 against float64 of the library is held to it too. That
activations *are* rounded in the same way is what the single layers show.

**default.** The library as a user gets it computes in bfloat16, u = 2^-8: products of rounded factors, the result rounded once, so an error
u of each of those 12 L results, sqrt(12 L) u of the logits' spread s, and KL about half its square: KL <= (sqrt(12 L) u s)^2 / 2 (+ 3 KL_act).
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

from checks import Checks

U32, UBF16 = 2.0**-24, 2.0**-8
NUMPY = {"f32": "<f4", "f64": "<f8"}


def read(path, record):
    """One file of logits as float64 [T, V]."""
    values = np.fromfile(path.with_name(record["file"]), NUMPY[record["dtype"]])
    return values.reshape(record["shape"]).astype("f8")


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(p, q):
    """Mean KL(p || q) over tokens, nats, of two arrays of logits."""
    p, q = log_softmax(p), log_softmax(q)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def losses(logits, tokens):
    """-log p of each token but the first, given those before it."""
    return -log_softmax(logits[:-1])[np.arange(len(tokens) - 1), tokens[1:]]


def worst(a, b):
    return float(np.abs(a - b).max())


def compare_linears(theirs_path, theirs, ours_path, ours, activations, checks):
    record = theirs["linears"]
    values = np.fromfile(theirs_path.with_name(record["file"]), "<f4").astype("f8")
    found = read(ours_path, ours["logits"]["linears"])
    extra = 1.9e-5 if activations == "llm_int8" else 0.0
    at, ratio, where = 0, 0.0, ""
    for entry in record["entries"]:
        size = record["tokens"] * entry["rows"]
        y, magnitude, ties = (values[entry[key] : entry[key] + size] for key in ("y", "magnitude", "ties"))
        bound = (2 * (entry["columns"] + 4) * U32 + extra) * 17 / 16 * magnitude + ties * 17 / 16 + 1e-30
        highest = float((np.abs(found[at : at + size] - y) / bound).max())
        at += size
        if not highest <= ratio:  # NaN is the worst
            ratio, where = highest, entry["weight"]
    checks.check(ratio <= 1, f"{len(record['entries'])} single layers: largest difference {ratio:.3g} of the bound ({where})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("theirs", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--label", default="")
    args = parser.parse_args()
    theirs, ours = json.loads(args.theirs.read_text()), json.loads(args.ours.read_text())
    checks = Checks(args.label)
    them = lambda kind: read(args.theirs, theirs["logits"][kind])
    us = lambda kind: read(args.ours, ours["logits"][kind])
    layers, columns, activations = theirs["layers"], theirs["columns"], theirs["activations"]

    truth = them("weights64")
    bound = 6 * np.sqrt(12 * layers * columns) * U32 * np.sqrt((truth**2).mean())

    def same(name, logits):
        d, kl = worst(logits, truth), divergence(truth, logits)
        checks.check(
            d <= bound and kl <= bound**2 / 2,
            f"{name} against float64: |difference of logits| {d:.2e} <= {bound:.2e}, KL {kl:.1e} <= {bound**2 / 2:.1e}",
        )

    same("torch float32, dequantized weights", them("weights"))
    same("Sluice, dequantized weights", us("weights"))
    runtime = us("runtime")
    drift = 0.0
    if activations == "none":
        same("Sluice, its own product", runtime)
        if "runtime" in theirs["logits"]:
            same("the library, its own product", them("runtime"))
    else:
        rounded = them("rounded64")
        drift = 3 * divergence(truth, rounded)
        for name, logits in (("Sluice", runtime), ("the library", them("runtime"))):
            kl = divergence(rounded, logits)
            checks.check(
                kl <= drift,
                f"{name}, {activations} activations, against float64: KL {kl:.2e} <= {drift:.2e}, |difference| {worst(rounded, logits):.2e}",
            )
        kl = divergence(them("runtime"), runtime)
        checks.check(kl <= drift, f"Sluice against the library, {activations} activations: KL {kl:.2e} <= {drift:.2e}")
    own = "runtime" if "runtime" in theirs["logits"] else "weights"
    mine, other = (losses(logits, theirs["tokens"]) for logits in (runtime, them(own)))
    # Where activations are rounded, ties fall either way and each token's loss differs; over one window that leaves three standard errors.
    chance = 3 * float((mine - other).std()) / len(mine) ** 0.5 if own == "runtime" else 0.0
    of = [float(np.exp(loss.mean())) for loss in (mine, other)]
    checks.check(
        abs(of[0] / of[1] - 1) <= 2e-3 + chance,
        f"perplexity {of[0]:.4f} by Sluice, {of[1]:.4f} by the library: within 0.2 %"
        + (f" and the chance of ties, {100 * chance:.2f} %" if chance else ""),
    )
    if theirs["linears"]:
        compare_linears(args.theirs, theirs, args.ours, ours, activations, checks)
    if "default" in theirs["logits"]:
        limit = 12 * layers * (UBF16 * float(truth.std(-1).mean())) ** 2 / 2 + drift
        kl = divergence(runtime, them("default"))
        checks.check(kl <= limit, f"the library without options (bfloat16) against Sluice: KL {kl:.2e} <= {limit:.2e}")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How fast torch and bitsandbytes quantize and pack a 4096 x 14336 bf16 matrix on this machine's CPU, in GB/s of bf16 input.

    python pack_peers.py --rounds 3          all measurements, interleaved, then one JSON object of best and median
    python pack_peers.py --serve             one line of JSON for each line "run int4|nf4 THREADS" on standard input; "quit" ends

Served, a bench in another language can take turns with it, so that both see the same state of the machine. `int4` is plain torch:
symmetric, groups of 64, scale = 2*absmax/15 rounded to bf16, eight codes to an int32 (the layout of compressed-tensors'
pack-quantized). `nf4` is bitsandbytes' quantize_4bit, blocks of 64, with double quantization.
"""
import argparse
import json
import statistics
import sys
import time

import torch

ROWS, COLUMNS, GROUP = 4096, 14336, 64
SHIFTS = torch.arange(0, 32, 4, dtype=torch.int32)


def pack_int4(weight):
    """(words int32[R, C/8], scales bf16[R, C/64]) of a bf16 weight [R, C]."""
    w = weight.float().view(ROWS, COLUMNS // GROUP, GROUP)
    scale = (w.abs().amax(-1, True) * (2 / 15)).to(torch.bfloat16)
    codes = w.div_(scale.float()).round_().clamp_(-8, 7).add_(8).to(torch.int32).view(ROWS, COLUMNS // 8, 8)
    return (codes << SHIFTS).sum(-1, dtype=torch.int32), scale.squeeze(-1)


def pack_nf4(weight):
    import bitsandbytes.functional as bnb

    return bnb.quantize_4bit(weight, blocksize=GROUP, compress_statistics=True, quant_type="nf4")


PACK = {"int4": pack_int4, "nf4": pack_nf4}


def measure(what, threads, weight):
    """One run: seconds and GB/s of input."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    with torch.inference_mode():
        PACK[what](weight)
    seconds = time.perf_counter() - start
    return {"what": what, "threads": threads, "seconds": seconds, "gb_per_s": weight.numel() * 2 / seconds / 1e9}


def serve(weight):
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        if len(words) != 3 or words[0] != "run" or words[1] not in PACK or not words[2].isdigit() or words[2] == "0":
            raise SystemExit(f'Cannot serve {line.strip()!r}: expected "run int4|nf4 THREADS" or "quit".')
        print(json.dumps(measure(words[1], int(words[2]), weight)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    weight = (torch.randn(ROWS, COLUMNS) * 0.02).to(torch.bfloat16)
    for what in PACK:
        measure(what, 1, weight[:64].repeat(ROWS // 64, 1))  # imports and first allocations do not count
    if args.serve:
        print(json.dumps({"ready": True, "rows": ROWS, "columns": COLUMNS, "torch": torch.__version__}), flush=True)
        serve(weight)
        return
    runs = {}
    for _ in range(args.rounds):
        for threads in map(int, args.threads.split(",")):
            for what in PACK:
                result = measure(what, threads, weight)
                runs.setdefault(f"{what} {threads}", []).append(result["gb_per_s"])
    print(json.dumps({k: {"best": max(v), "median": statistics.median(v), "runs": v} for k, v in runs.items()}, indent=1))


if __name__ == "__main__":
    main()

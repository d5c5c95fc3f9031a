"""Perplexity of a model in torch's float32 on the CPU, for evaluate.ts, which takes turns with it.

    python torch_evaluate.py MODEL WINDOWS.json THREADS

WINDOWS.json holds {"windows": [[token, …], …]}. The model is loaded once; after a first line that says so, each line "run" on
standard input is answered by a line of JSON: the seconds of every window's forward pass and of the log-softmax of its labels, and
the perplexity.
"""
import json
import math
import sys
import time

import torch
from transformers import AutoModelForCausalLM

folder, windows, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
tokens = torch.tensor(json.load(open(windows))["windows"])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def loss(window):
    """Sum of the negative log-likelihoods of all tokens but the first."""
    logits = model(window[None], use_cache=False).logits[0, :-1]
    return -torch.log_softmax(logits, -1).gather(1, window[1:, None]).sum().item()


print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
for line in sys.stdin:
    if line.strip() != "run":
        raise SystemExit(f'Cannot serve {line.strip()!r}: expected "run".')
    begun = time.perf_counter()
    losses = [loss(window) for window in tokens]
    seconds = time.perf_counter() - begun
    predicted = tokens.shape[0] * (tokens.shape[1] - 1)
    print(json.dumps({"seconds": seconds, "perplexity": math.exp(sum(losses) / predicted)}), flush=True)

"""Seconds of x @ w.T in float32 on a CUDA device: argv [rounds, "T,C,R", ...] → JSON."""
import json
import statistics
import sys
import time

import torch

if not torch.cuda.is_available():
    print(json.dumps({"skipped": "The torch of SLUICE_BENCH_PYTHON has no CUDA device."}))
    sys.exit()
torch.backends.cuda.matmul.allow_tf32 = False
torch.set_float32_matmul_precision("highest")
rounds = int(sys.argv[1])
seconds = []
for sizes in sys.argv[2:]:
    t, c, r = map(int, sizes.split(","))
    x, w = torch.randn(t, c, device="cuda"), torch.randn(r, c, device="cuda")
    y = torch.empty(t, r, device="cuda")
    product = lambda: torch.matmul(x, w.T, out=y)
    begun = time.perf_counter()
    while time.perf_counter() - begun < 0.5:  # an idle card is slow
        product()
        torch.cuda.synchronize()
    turns = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(10):
            product()
        torch.cuda.synchronize()
        turns.append((time.perf_counter() - begun) / 10)
    seconds.append(statistics.median(turns))
print(json.dumps({"seconds": seconds, "device": torch.cuda.get_device_name()}))

"""llm-compressor's GPTQ on the windows that Sluice calibrates on, for gptq.ts: prints the seconds that it took, the model being loaded.

    python llm_compressor_gptq.py MODEL WINDOWS.json THREADS [OUTPUT]

WINDOWS.json holds {"windows": [[token, …], …]}. Needs llmcompressor (0.14.0.1 when this was written), which needs no GPU for GPTQ.
"""
import json
import sys
import time

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM

folder, windows, threads, *output = sys.argv[1:]
torch.set_num_threads(int(threads))
tokens = json.load(open(windows))["windows"]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
rows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in tokens]
weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
recipe = GPTQModifier(
    config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"]
)
begun, cpu = time.perf_counter(), time.process_time()
oneshot(
    model=model,
    dataset=Dataset.from_list(rows),
    recipe=recipe,
    num_calibration_samples=len(rows),
    max_seq_length=len(tokens[0]),
    pipeline="sequential",
)
seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
if output:
    model.save_pretrained(output[0], save_compressed=True)
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))

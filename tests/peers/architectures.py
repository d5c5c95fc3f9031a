#!/usr/bin/env python3
"""Opens the checkpoints that architectures.ts made with transformers and GPTQModel, and holds the loader table to its word.

    python architectures.py MODELS OUT

A "yes" must open: no tensor without a place or made up, and logits as those of the original model with the weights that stored.py reads
from the bytes. What opens though the table said "no" or "unknown" is noted, so that the table can learn of it. Prints a line for each
"yes" (`ok`, `FAIL`), and at the end the table of architectures by formats.
"""
import json
import logging
import os
import re
import signal
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AwqConfig, CompressedTensorsConfig, GPTQConfig

from checks import Checks
from stored import read_tensors, stored_weights

# Rounding to bfloat16 at other places; activations that are rounded too, as much as weights are.
WEIGHTS, ACTIVATIONS, ROUNDED = 0.03, 0.25, 0.15
# Their layers are Conv1D, stored inputs by outputs; quantized they are stored as those of linear layers.
INPUTS_FIRST = {"GPT2LMHeadModel"}
SECONDS = 240  # for one checkpoint; GPTQModel is slow to start


def sample(model):
    """An input of the model's kind."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 96, (1, 24), generator=generator)
    config, kind = model.config, model.main_input_name
    if kind == "pixel_values":
        size = getattr(config, "image_size", 64)
        values = {"pixel_values": torch.randn(1, 3, size, size, generator=generator).to(model.dtype)}
    elif kind == "input_features":
        values = {"input_features": torch.randn(1, 32, 64, generator=generator).to(model.dtype)}
    else:
        values = {"input_ids": ids}
    return values | ({"decoder_input_ids": ids[:, :8]} if config.is_encoder_decoder else {})


@torch.no_grad()
def outputs(model):
    """Logits, or the hidden states of a model without a head."""
    result = model.eval()(**sample(model))
    return (result.logits if "logits" in result else result.last_hidden_state).float()


def expected(architecture, source, checkpoint, scratch):
    """What the original computes with the weights that are stored."""
    tensors = read_tensors(source)
    # Norms and biases may have been divided by scales that were moved.
    for name, tensor in read_tensors(checkpoint).items():
        before = tensors.get(name)
        if before is not None and (tensor.shape, tensor.dtype) == (before.shape, before.dtype):
            tensors[name] = tensor
    if "quantization_config" in json.loads((checkpoint / "config.json").read_text()):
        for module, (weight, _) in stored_weights(checkpoint)[1].items():
            before = tensors[f"{module}.weight"]
            values = torch.from_numpy(weight)
            if architecture in INPUTS_FIRST and ".h." in module:
                values = values.T
            tensors[f"{module}.weight"] = values.reshape(before.shape).to(before.dtype)
    scratch.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(scratch / "model.safetensors"), {"format": "pt"})
    (scratch / "config.json").write_text((source / "config.json").read_text())
    return outputs(getattr(transformers, architecture).from_pretrained(scratch))


def open_transformers(architecture, column, checkpoint, why):
    options = {}
    # The kernels that others choose are compiled at the first product, for minutes.
    if column.endswith("@gptq"):
        options["quantization_config"] = GPTQConfig(bits=4, backend="gptq_torch")
    elif column.endswith("@awq"):
        options["quantization_config"] = AwqConfig(backend="torch_awq")
    elif "dequantize=True" in why:
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, info = getattr(transformers, architecture).from_pretrained(checkpoint, output_loading_info=True, **options)
    wrong = {kind: sorted(map(str, found))[:2] for kind, found in info.items() if found}
    if wrong:
        raise ValueError(f"tensors without a place, or made up: {wrong}")
    return outputs(model)


def open_gptqmodel(architecture, column, checkpoint, _why):
    from gptqmodel import BACKEND, GPTQModel

    backend = BACKEND.GPTQ_TORCH if column.endswith("@gptq") else BACKEND.AWQ_TORCH
    model = GPTQModel.load(str(checkpoint), backend=backend, device="cpu").model
    if type(model).__name__ != architecture:
        raise ValueError(f"it is opened as {type(model).__name__}")
    return outputs(model)


def bound_of(column):
    if column.endswith("@plain"):
        return ROUNDED
    return ACTIVATIONS if re.split("[+:]", column)[0] in ("W8A8", "FP8_DYNAMIC", "LLM_INT8") else WEIGHTS


def attempt(load, architecture, column, checkpoint, why, want):
    """What was found: a phrase, and whether it opens and computes what it should."""
    try:
        found = load(architecture, column, checkpoint, why)
    except Exception as error:  # whatever a loader raises is its answer
        return False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    distance = float((found - want).norm() / want.norm())
    return distance <= bound_of(column), f"outputs differ by {distance:.4f} of their size, {bound_of(column)} allowed"


def judge(name, models, out, verdicts):
    """The row of one model; lines of what was checked are printed. A suffix of the name says what is odd about it."""
    architecture = name.split(".")[0]
    row = {}
    for column, said in verdicts.items():
        if "refused" in said:
            row[column] = ("refused", said["refused"])
            continue
        checkpoint = out / name / column
        want = expected(architecture, models / name, checkpoint, out / name / "expected")
        for verdict in said["loaders"]:
            loader = {"any": "transformers"}.get(verdict["name"], verdict["name"])
            load = {"transformers": open_transformers, "GPTQModel": open_gptqmodel}.get(loader)
            # GPTQModel takes its time, and is asked only where it is promised.
            if load is None or loader == "GPTQModel" and verdict["opens"] != "yes":
                continue
            if verdict["why"].startswith("on GPU only"):
                row[column] = ("GPU only", verdict["why"])
                continue
            signal.alarm(SECONDS)
            opens, phrase = attempt(load, architecture, column, checkpoint, verdict["why"], want)
            signal.alarm(0)
            checks = Checks(f"{name} {column}")
            if verdict["opens"] == "yes":
                checks.check(opens, f"{loader} opens it, as the table says: {phrase}")
            elif opens:
                checks.note(f"{loader} opens it, where the table says {verdict['opens']} ({verdict['why']})")
            if loader == "transformers":
                word = ("loaded" if opens else "WRONG") if verdict["opens"] == "yes" else verdict["opens"] + (", loads" if opens else "")
                row[column] = (word, verdict["why"] if verdict["opens"] != "yes" else phrase)
    return row


def table(rows):
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    cells = [["", *columns], *[[name, *[row.get(c, ("-",))[0] for c in columns]] for name, row in rows.items()]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("     " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    reasons = {}
    for name, row in rows.items():
        for column, (word, why) in row.items():
            if word.split(",")[0] in ("no", "unknown", "refused", "GPU only"):
                reasons.setdefault((word.split(",")[0], why), []).append(f"{name} {column}")
    for (word, why), where in reasons.items():
        print(f"     {word}: {why} [{', '.join(where[:3])}{f' and {len(where) - 3} more' if len(where) > 3 else ''}]")


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("bitsandbytes", "gptqmodel", "optimum"):
        logging.getLogger(name).setLevel(logging.ERROR)
    models, out = map(Path, sys.argv[1:3])
    verdicts = json.loads((out / "verdicts.json").read_text())
    rows, failed = {}, False
    for name in verdicts:
        # A process each: a kernel that crashes ends one row, and what libraries patch stays there.
        child = os.fork()
        if child == 0:
            row = judge(name, models, out, verdicts[name])
            (out / name).mkdir(exist_ok=True)
            (out / name / "row.json").write_text(json.dumps(row))
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"FAIL {name}: opening it ended with status {status}", flush=True)
            failed, rows[name] = True, {}
            continue
        rows[name] = json.loads((out / name / "row.json").read_text())
        failed |= any(word == "WRONG" for word, _ in rows[name].values())
    table(rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

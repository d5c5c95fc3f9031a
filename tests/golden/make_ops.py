"""Writes ops.json: what bitsandbytes and torch make of a few hand-picked inputs. Run once, with both installed; needs no GPU."""

import importlib
import json
from pathlib import Path

import bitsandbytes
import bitsandbytes._ops
import bitsandbytes.backends.default.ops as portable
import bitsandbytes.functional as functional
import torch

KERNELS = {}


def record(name, device):
    """Keeps the portable kernels by name: on a CPU bitsandbytes would run its x86 library instead."""
    return lambda kernel: KERNELS.setdefault(name.removeprefix("bitsandbytes::"), kernel)


bitsandbytes._ops.register_kernel = record
importlib.reload(portable)


def hexed(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes().hex()


torch.manual_seed(7)
weight = (torch.randn(167) * 0.05).to(torch.bfloat16)  # five blocks of 32 and a short one
weight[32:64] = 0
weight[64:69] = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.25])
weight[96:128] = torch.linspace(-1, 1, 32)
result = {
    "origin": f"make_ops.py with bitsandbytes {bitsandbytes.__version__} (its portable CPU kernels) and torch {torch.__version__}",
    "weight": hexed(weight),
}
for kind in ("nf4", "fp4"):
    codes, absmax = KERNELS["quantize_4bit"](weight, 32, kind, torch.uint8)
    values = KERNELS["dequantize_4bit"](codes, absmax, 32, kind, weight.shape, torch.float32)
    result[kind] = {"codes": hexed(codes), "absmax": hexed(absmax), "values": hexed(values)}

absmax = (torch.randn(300).abs() * 0.02 + 0.05).float()
offset = absmax.mean()
table = functional.create_dynamic_map().float()
codes, nested = KERNELS["quantize_blockwise"](absmax - offset, table, 256)
result["dynamic8"] = {"x": hexed(absmax), "offset": offset.item(), "codes": hexed(codes), "absmax": hexed(nested), "table": hexed(table)}

x = (torch.randn(6, 20) * 2).to(torch.bfloat16).float()
x[1, 3], x[4, 3], x[2, 11], x[3] = -9.5, 6.0, 7.25, 0
codes, absmax, columns = KERNELS["int8_vectorwise_quant"](x.clone(), threshold=6.0)
result["rows_int8"] = {"x": hexed(x), "threshold": 6.0, "columns": columns.tolist(), "codes": hexed(codes), "absmax": hexed(absmax)}

edges = [0.0, 447.9, 448, 463.9, 464, 500, -1e4, 2**-6, 2**-9, 2**-10, 1.5 * 2**-9, 2.5 * 2**-9, 1.0625, 1.1875]
edges += [65504, 65519.9, 65520, 1e-7, 3e-8, 1 + 2**-8, 1 + 3 * 2**-8, 3.39e38]
x = torch.cat([torch.randn(80) * 3, torch.randn(40) * 0.01, torch.randn(20) * 200, torch.tensor(edges)]).float()
result["narrow"] = {
    "x": hexed(x),
    "bf16": hexed(x.to(torch.bfloat16)),
    "f16": hexed(x.to(torch.float16)),
    "f8_e4m3": hexed(x.clamp(-448, 448).to(torch.float8_e4m3fn)),
}
result["e4m3_values"] = hexed(torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float())
Path(__file__).with_name("ops.json").write_text(json.dumps(result, indent=1) + "\n")

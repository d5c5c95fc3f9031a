"""Makes safetensors_writer.safetensors: one tensor of every dtype torch has, odd names, scalars and empty shapes, by safetensors' own writer.

    pip install safetensors==0.8.0 torch numpy packaging; python safetensors_writer.py
"""
import os, torch
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
dtypes = [torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.float8_e4m3fnuz,
          torch.float8_e5m2fnuz, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32,
          torch.complex64, torch.float64, torch.int64, torch.uint64]
tensors, seed = {}, 1
def add(name, dtype, shape):
    """A tensor whose bytes count up from a seed (zeros and ones for booleans)."""
    global seed
    size = torch.empty(shape, dtype=dtype).numel() * torch.empty((), dtype=dtype).element_size()
    data = torch.arange(seed, seed + size, dtype=torch.int64).remainder(2 if dtype is torch.bool else 251).to(torch.uint8)
    tensors[name] = data.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    seed += 7
for i, dtype in enumerate(dtypes):
    add(f"z.{i}", dtype, (3, 5))
    add(f"a.{i}", dtype, (2,))
for i, shape in enumerate([(), (0,), (4, 0, 2), (1, 1, 1, 1, 1, 1, 2)]):
    add(f"shape.{i}", torch.float32, shape)
for name in ["", "x", "X", "é", "e\u0301", "\uffff", "\U0001f600", "\ue000", 'quote"', "back\\slash", "sla/sh", "\u2028"]:
    if name: add(name, torch.int16, (3,))
add("packed.f4", torch.float4_e2m1fn_x2, (2, 3))
save_file(tensors, os.path.join(here, "safetensors_writer.safetensors"), metadata={"format": "pt"})

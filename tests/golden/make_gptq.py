"""Makes gptq.safetensors and awq.safetensors: weights, and what the real packers and dequantizers make of them.

    pip install torch gptqmodel safetensors
    pip download --no-deps --no-binary autoawq autoawq==0.2.9 && tar xzf autoawq-0.2.9.tar.gz
    python make_gptq.py autoawq-0.2.9

Runs on the CPU. AutoAWQ is archived and its package no longer imports with a current transformers, so its packer is taken
from its unpacked sources without the package's `__init__`. Every stored tensor comes out of the libraries' own code; codes and
scales are computed here as Sluice does, and the packers are given the weights they stand for.
"""

import json
import sys
import types

import gptqmodel
import numpy
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.awq.utils.packing_utils import pack_awq
from gptqmodel.quantization.config import QuantizeConfig
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from safetensors.torch import save_file

ROWS, COLUMNS = 64, 128
VERSIONS = {"torch": torch.__version__, "gptqmodel": gptqmodel.__version__, "autoawq": "0.2.9"}


def weights(seed):
    """Heavy-tailed, like a weight with outliers: Student t with 5 degrees of freedom, times 0.02."""
    generator = numpy.random.default_rng(seed)
    return torch.tensor(generator.standard_t(5, (ROWS, COLUMNS)) * 0.02).to(torch.bfloat16)


def parameters(weight, bits, size, *, affine=False, negative=False):
    """(signed codes [O, I], scales [O, G] rounded to f16, signed zero points [O, G]) by rounding to nearest."""
    groups = weight.float().reshape(ROWS, -1, size)
    low, high = groups.amin(-1), groups.amax(-1)
    least = -(2 ** (bits - 1))
    if affine:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).half().float()
        zero = torch.round(least - low / scale).clamp(least, -least - 1)
    else:
        scale = (torch.maximum(low.abs(), high.abs()) / ((2**bits - 1) / 2)).half().float()
        zero = torch.zeros_like(scale)
    if negative:  # of every other group, as a grid whose lowest code stands for the greatest weight has
        scale = scale * torch.tensor([1.0, -1.0]).repeat(scale.numel() // 2).view_as(scale)
    codes = torch.round(groups / scale[..., None]) + zero[..., None]
    return codes.clamp(least, -least - 1).reshape(ROWS, COLUMNS), scale, zero


def linear_of(codes, scale, zero):
    """A torch Linear with the weight that the codes stand for."""
    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    size = COLUMNS // scale.shape[1]
    spread = lambda x: x.repeat_interleave(size, 1)
    module.weight.data = (codes - spread(zero)) * spread(scale)
    return module


def make_gptq():
    weight = weights(3000)
    tensors, schemes = {"original.weight": weight}, {}
    for name, bits, size, negative in [
        ("int2_g32", 2, 32, False),
        ("int3_g64", 3, 64, False),
        ("int4_g64", 4, 64, False),
        ("int4_channel", 4, -1, False),
        ("int8_g64", 8, 64, False),
        ("int3_channel", 3, -1, False),
        ("int4_negative", 4, 32, True),
        ("int2_negative", 2, 64, True),
    ]:
        group = COLUMNS if size == -1 else size
        codes, scale, zero = parameters(weight, bits, group, negative=negative)
        module = TorchLinear(
            bits=bits, group_size=size, sym=True, desc_act=False, in_features=COLUMNS, out_features=ROWS
        )
        g_idx = torch.arange(COLUMNS, dtype=torch.int32) // group
        unsigned = torch.full_like(scale, 2 ** (bits - 1)).to(torch.int32)
        module.pack_original(linear_of(codes, scale, zero), scale, unsigned, g_idx)
        # The library dequantizes in the scales' dtype, with zero points as they are (version 2).
        module.post_init()
        half, module.scales = module.scales, module.scales.float()
        tensors[f"dequantized.{name}"] = module.dequantize_weight().T[37:45].contiguous()
        module.scales = half
        config = QuantizeConfig(bits=bits, group_size=size, sym=True, desc_act=False)
        convert_gptq_v2_to_v1_format_module(module, config)
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{name}.{part}"] = getattr(module, part).contiguous()
        schemes[name] = {"bits": bits, "group_size": size, "negative": negative}
    metadata = {"format": "pt", "versions": json.dumps(VERSIONS), "schemes": json.dumps(schemes)}
    save_file(tensors, "gptq.safetensors", metadata=metadata)


def autoawq(folder):
    """AutoAWQ's linear layer and dequantizer."""
    for package in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):
        module = types.ModuleType(package)
        module.__path__ = [f"{folder}/{package.replace('.', '/')}"]
        sys.modules[package] = module
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    return WQLinear_GEMM, dequantize_gemm


def make_awq(folder):
    layer, dequantize = autoawq(folder)
    weight = weights(3001)
    tensors, schemes = {"original.weight": weight}, {}
    for name, size, affine, negative in [
        ("affine_g64", 64, True, False),
        ("affine_g32", 32, True, False),
        ("symmetric_g128", 128, False, False),
        ("negative_g64", 64, False, True),
    ]:
        codes, scale, zero = parameters(weight, 4, size, affine=affine, negative=negative)
        # Scales and zero points lie as [G, O] here.
        made = layer.from_linear(
            linear_of(codes, scale, zero), 4, size, scales=scale.T.contiguous(), zeros=(zero + 8).T.contiguous()
        )
        other = pack_awq((codes + 8).T.to(torch.int32), (zero + 8).T.to(torch.int32), 4)
        assert torch.equal(made.qweight, other[0]) and torch.equal(made.qzeros, other[1])  # GPTQModel's packer agrees
        values = dequantize(made.qweight, made.qzeros, made.scales.float(), 4, size)
        tensors[f"dequantized.{name}"] = values.T[40:48].contiguous()
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"{name}.{part}"] = getattr(made, part).contiguous()
        schemes[name] = {"group_size": size, "affine": affine, "negative": negative}
    metadata = {"format": "pt", "versions": json.dumps(VERSIONS), "schemes": json.dumps(schemes)}
    save_file(tensors, "awq.safetensors", metadata=metadata)


with torch.no_grad():
    make_gptq()
    make_awq(sys.argv[1])

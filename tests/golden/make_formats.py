"""Makes bitsandbytes.safetensors and compressed_tensors.safetensors: weights, and what the real libraries make of them.

    pip install torch bitsandbytes compressed-tensors safetensors
    python make_formats.py

Runs on the CPU. Every stored tensor comes out of the libraries' own code (bitsandbytes' quantize_4bit and Int8Params,
compressed-tensors' compressors); only the scales that compressed-tensors is given are computed here, in plain torch.
"""

import json

import bitsandbytes
import compressed_tensors
import numpy
import torch
from bitsandbytes import MatmulLtState
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant, quantize_4bit
from bitsandbytes.nn import Int8Params
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file

VERSIONS = {
    "torch": torch.__version__,
    "bitsandbytes": bitsandbytes.__version__,
    "compressed_tensors": compressed_tensors.__version__,
}


def weights(rows, columns, seed, dtype):
    """Heavy-tailed, like a weight with outliers: Student t with 5 degrees of freedom, times 0.02."""
    generator = numpy.random.default_rng(seed)
    return torch.tensor(generator.standard_t(5, (rows, columns)) * 0.02).to(dtype)


def metadata(tables):
    return {"format": "pt", **{key: json.dumps(value) for key, value in tables.items()}}


def four_bit(weight, **options):
    codes, state = quantize_4bit(weight, **options)
    return {"": codes, **{f".{key}": value for key, value in state.as_dict(packed=True).items()}}, state


def make_bitsandbytes():
    tensors = {}

    def store(name, weight, parts):
        state = QuantState.from_dict({f"weight{key}": value for key, value in parts.items() if key}, "cpu")
        state.dtype = torch.float32  # the library dequantizes in float32, then rounds to the weight's dtype
        tensors[f"dequantized.{name}"] = dequantize_4bit(parts[""], state)[-8:].contiguous()
        tensors[f"original.{name}"] = weight
        for suffix, value in parts.items():
            tensors[f"{name}.weight{suffix}"] = value.contiguous()

    # 272 blocks: two nested blocks, the second short. torch's float32 mean depends on the machine's vector width; a seed is
    # taken at which it is the correctly rounded one, so that what follows from it must be equal bit for bit.
    for seed in range(100):
        weight = weights(136, 128, seed, torch.bfloat16)
        parts, state = four_bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        plain, _ = four_bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
        if state.offset.item() == numpy.float32(plain[".absmax"].double().mean().item()):
            break
    else:
        raise SystemExit("no seed has a correctly rounded mean")
    weight[0, 0:64] = 0  # a block of zeros
    parts, state = four_bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    plain, _ = four_bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    assert state.offset.item() == numpy.float32(plain[".absmax"].double().mean().item())
    store("nested", weight, parts)
    # odd rows: blocks cross them, the last is short, and half a byte is left over
    ragged = weights(9, 37, 1000, torch.float32)
    store("ragged", ragged, four_bit(ragged, blocksize=32, quant_type="nf4")[0])
    # Rows of whole blocks: bitsandbytes 0.50.2's CPU code dequantizes even rows as if no block crossed from one to the next.
    half = weights(12, 256, 1001, torch.float16)
    store("fp4", half, four_bit(half, blocksize=128, quant_type="fp4")[0])
    nested_fp4 = weights(8, 64, 1002, torch.bfloat16)
    store("nested_fp4", nested_fp4, four_bit(nested_fp4, quant_type="fp4", compress_statistics=True)[0])
    eight = weights(24, 100, 1003, torch.bfloat16)
    eight[3] = 0
    eight[4, 5] = 3e-8  # below float16's normal numbers: the library rounds it away
    parameter = Int8Params(eight, requires_grad=False)._quantize("cpu")
    tensors["original.int8"] = eight
    tensors["int8.weight"] = parameter.CB
    tensors["int8.SCB"] = parameter.SCB
    tensors["dequantized.int8"] = int8_vectorwise_dequant(parameter.CB, parameter.SCB)[-8:].contiguous()
    tensors["int8.weight_format"] = torch.tensor(0, dtype=torch.uint8)
    # Columns 7 and 50 hold outliers for some tokens; for others they hold the row's greatest value that is none.
    generator = numpy.random.default_rng(1004)
    x = torch.tensor(generator.standard_normal((7, 100))).float()
    x[:, 7] *= 4
    x[0, 7], x[1, 7], x[2, 50], x[3, 50] = 31.0, 5.5, -8.25, 6.0
    x[4, 60] = 5.999  # 6 in float16
    x[5] = 0
    for threshold in (6.0, 0.0):
        state = MatmulLtState()
        state.is_training = False  # training takes another path, without int8 activations
        state.CB, state.SCB, state.has_fp16_weights, state.threshold = parameter.CB, parameter.SCB, False, threshold
        tensors[f"linear.y{threshold:.0f}"] = bitsandbytes.matmul(x, parameter, state=state).contiguous()
    tensors["linear.x"] = x
    save_file(tensors, "bitsandbytes.safetensors", metadata=metadata({"versions": VERSIONS}))


def ranges(weight, shape):
    """Least and greatest of each tile of a weight: [A, B]."""
    rows, columns = weight.shape[0] // shape[0], weight.shape[1] // shape[1]
    tiles = weight.reshape(shape[0], rows, shape[1], columns).transpose(1, 2)
    return tiles.amin((2, 3)), tiles.amax((2, 3))


def make_compressed_tensors():
    weight = weights(40, 192, 2000, torch.bfloat16).float()
    tensors = {"original.weight": weight.to(torch.bfloat16)}
    schemes = {}
    token = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}

    def store(name, format, scale_shape, input_scale=None, **args):
        symmetric, bits = args.get("symmetric", True), args.get("num_bits", 8)
        low, high = ranges(weight, scale_shape)
        if args.get("type") == "float":
            scale = torch.maximum(low.abs(), high.abs()) / 448
        elif symmetric:
            scale = torch.maximum(low.abs(), high.abs()) / ((2**bits - 1) / 2)
        else:
            scale = (high.clamp(min=0) - low.clamp(max=0)) / (2**bits - 1)
        scale = scale.to(torch.bfloat16).float()  # the library divides in the dtype it is given
        state = {"weight": weight, "weight_scale": scale}
        least = -(2 ** (bits - 1))
        if not symmetric:
            zero = torch.round(least - low.clamp(max=0) / scale).clamp(least, -least - 1)
            state["weight_zero_point"] = zero.to(torch.int8)
        if scale_shape == (1, 1):
            state = {key: value.reshape(1) if key != "weight" else value for key, value in state.items()}
        activations = {**token, "type": args.get("type", "int")} if format in ("int-quantized", "float-quantized") else None
        if input_scale is not None:
            activations |= {"strategy": "tensor", "dynamic": False}
            state["input_scale"] = torch.tensor([input_scale])
        group = {"targets": ["Linear"], "weights": args, "input_activations": activations}
        compressor = BaseCompressor.get_value_from_registry(format)
        made = compressor.compress(state, QuantizationScheme(**group))
        for key in made.keys() & {"weight_scale", "input_scale"}:
            made[key] = made[key].to(torch.bfloat16)
        for key, value in made.items():
            tensors[f"{name}.{key}"] = value.contiguous()
        schemes[name] = {"format": format, **group}

    store("int4_g64", "pack-quantized", (40, 3), num_bits=4, strategy="group", group_size=64)
    store("int4_g32_asym", "pack-quantized", (40, 6), num_bits=4, strategy="group", group_size=32, symmetric=False)
    store("int3_g96", "pack-quantized", (40, 2), num_bits=3, strategy="group", group_size=96)
    store("int3_asym", "pack-quantized", (40, 1), num_bits=3, strategy="channel", symmetric=False)
    store("int8_channel", "pack-quantized", (40, 1), num_bits=8, strategy="channel")
    store("int4_tensor_asym", "pack-quantized", (1, 1), num_bits=4, strategy="tensor", symmetric=False)
    store("int4_block", "pack-quantized", (5, 3), num_bits=4, strategy="block", block_structure=[8, 64])
    store("w8a8", "int-quantized", (40, 1), num_bits=8, strategy="channel")
    store("fp8", "float-quantized", (40, 1), num_bits=8, type="float", strategy="channel")
    store("w8a8_static", "int-quantized", (40, 1), input_scale=0.03125 * 1.5, num_bits=8, strategy="channel")
    store("fp8_static", "float-quantized", (1, 1), input_scale=2.0**-7, num_bits=8, type="float", strategy="tensor")
    store("fp8_block", "naive-quantized", (5, 3), num_bits=8, type="float", strategy="block", block_structure=[8, 64])
    save_file(tensors, "compressed_tensors.safetensors", metadata=metadata({"versions": VERSIONS, "schemes": schemes}))


make_bitsandbytes()
make_compressed_tensors()

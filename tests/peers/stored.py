"""What a quantized checkpoint says its weights are, read with NumPy from the bytes alone: a second reader beside the
libraries, written from the description of the formats. Each weight comes with the rounding error that round-to-nearest may
have made, so that codes can be checked against the unquantized model element by element.
"""
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # relative rounding error of a scale


def read_tensors(folder):
    """Every tensor of a checkpoint by name, from one file or from those of the index."""
    index = Path(folder) / "model.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors = {}
    for file in files:
        with safe_open(Path(folder) / file, "pt") as reader:
            tensors |= {name: reader.get_tensor(name) for name in reader.keys()}
    return tensors


def unpack(words, bits, count):
    """Codes of an LSB-first stream of int32 words along the last axis, minus 2^(bits-1): int32 [..., count]."""
    stream = np.unpackbits(words.numpy().view(np.uint8), axis=-1, bitorder="little")
    fields = stream[..., : count * bits].reshape(*words.shape[:-1], count, bits)
    return fields @ (1 << np.arange(bits, dtype=np.int32)) - 2 ** (bits - 1)


def integers(codes, zero, scale, bits):
    """(values, allowed errors) of signed codes [R, C] with scale and zero point [R, G]."""
    rows, columns = codes.shape
    step = scale.float().numpy()
    w = (codes.reshape(rows, step.shape[1], -1) - zero[..., None]).astype(np.float32) * step[..., None]
    # Half a step; at the ends of the range also what they lost when the scale was rounded to its dtype and (affine) the zero
    # point to an integer, since what lies outside is clipped. The symmetric grid ends half a step inside absmax on one side,
    # which is that same half step.
    affine = bool(np.any(zero))
    end = (2**bits - 1) / (1 if affine else 2) * UNIT[scale.dtype] + (0.5 if affine else 0)
    at_end = (codes == -(2 ** (bits - 1))) | (codes == 2 ** (bits - 1) - 1)
    error = np.repeat(np.abs(step), columns // step.shape[1], axis=1) * np.where(at_end, 0.5 + end, 0.5)
    return w.reshape(rows, columns), error


def group_of(config, module):
    """The group of compressed-tensors' section that a quantized module is of: the one there is, or that which names it."""
    groups = list(config["config_groups"].values())
    (group,) = groups if len(groups) == 1 else [one for one in groups if module in one["targets"]]
    return group


def compressed_tensors(tensors, config):
    """Weights of the three layouts Sluice writes: packed integers, int8, E4M3."""
    for name, scale in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        module = name.removesuffix(".weight_scale")
        group = group_of(config, module)
        bits, kind = group["weights"]["num_bits"], group["weights"]["type"]
        if kind == "float":
            step = scale.float().numpy()
            w = tensors[f"{module}.weight"].float().flatten(1).numpy() * step
            # E4M3 has 3 bits of mantissa: the error is at most 2^-4 of the exact value, 1/15 of the rounded one; below 2^-6
            # values are 2^-9 apart.
            yield module, w, np.maximum(np.abs(w) / 15, step * 2.0**-10)
            continue
        if group.get("format", config["format"]) == "int-quantized":
            codes = tensors[f"{module}.weight"].flatten(1).numpy().astype(np.int32)
        else:
            rows, columns = tensors[f"{module}.weight_shape"].tolist()
            codes = unpack(tensors[f"{module}.weight_packed"], bits, columns)
            if codes.shape[0] != rows:
                raise ValueError(f"{module}: weight_shape has {rows} rows, weight_packed {codes.shape[0]}")
        zero = np.zeros(scale.shape, np.int32)
        if f"{module}.weight_zero_point" in tensors:
            words = tensors[f"{module}.weight_zero_point"].T.contiguous()  # packed along the rows
            zero = unpack(words, bits, codes.shape[0]).T
        yield module, *integers(codes, zero, scale, bits)


def bitsandbytes(tensors, config):
    """Weights of LLM.int8() and of NF4 or FP4 with or without double quantization."""
    for name, tensor in tensors.items():
        module = name.rsplit(".", 1)[0]
        if name.endswith(".SCB"):
            scale = tensor.numpy()[:, None] / np.float32(127)
            w = tensors[f"{module}.weight"].flatten(1).numpy().astype(np.float32) * scale
            # Half a step, and the rounding to float16 that came before it.
            yield module, w, 0.5 * scale + np.abs(w) * UNIT[torch.float16]
        elif ".quant_state.bitsandbytes__" in name:
            weight = name.split(".quant_state.")[0]
            state = json.loads(bytes(tensor.tolist()))
            table = tensors[f"{weight}.quant_map"].numpy()
            packed = tensors[weight].numpy().ravel()
            codes = np.stack([packed >> 4, packed & 15], -1).ravel()
            absmax, slack = tensors[f"{weight}.absmax"], 0.0
            if absmax.dtype == torch.uint8:
                nested = np.repeat(tensors[f"{weight}.nested_absmax"].numpy(), state["nested_blocksize"])[: len(absmax)]
                steps = tensors[f"{weight}.nested_quant_map"].numpy()
                # The map's widest gap, halved, is how far a statistic may be from what it was.
                slack = np.diff(steps).max() / 2 * nested
                absmax = steps[absmax.numpy()] * nested + np.float32(state["nested_offset"])
            else:
                absmax = absmax.numpy()
            count = int(np.prod(state["shape"]))
            spread = lambda x: np.repeat(x, state["blocksize"])[:count].reshape(state["shape"])
            gap = np.diff(np.sort(table)).max() / 2
            w = table[codes[:count]].reshape(state["shape"]) * spread(absmax)
            yield weight.removesuffix(".weight"), w, spread(gap * (absmax + slack) + slack)


def gptq_settings(config, module):
    """What the section says of one module: the first pattern of `dynamic` that matches, before what it says of all."""
    for pattern, keys in config.get("dynamic", {}).items():
        if re.match(pattern[2:], module):
            return config | keys
    return config


def gptq(tensors, config):
    """Weights of GPTQ's first version, symmetric: words down the inputs, a column an output; the zero point is stored less one."""
    for name, words in tensors.items():
        if not name.endswith(".qweight"):
            continue
        module = name.removesuffix(".qweight")
        settings = gptq_settings(config, module)
        bits, size = settings["bits"], settings["group_size"]
        scale, g_idx = tensors[f"{module}.scales"].T.contiguous(), tensors[f"{module}.g_idx"].numpy()
        codes = unpack(words.T.contiguous(), bits, len(g_idx))
        zero = unpack(tensors[f"{module}.qzeros"], bits, codes.shape[0]).T + 1
        if np.any(zero) or np.any(g_idx != np.arange(len(g_idx)) // (size if size > 0 else len(g_idx))):
            raise ValueError(f"{module}: zero points or groups are not the symmetric format's")
        yield module, *integers(codes, zero, scale, bits)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the output that each nibble of a word holds, lowest nibble first


def awq(tensors, config):
    """Weights of AWQ's GEMM layout: words of eight outputs, a row an input."""

    def outputs(words):
        fields = unpack(words, 4, words.shape[1] * 8).reshape(len(words), -1, 8)
        return fields[..., np.argsort(AWQ_ORDER)].reshape(len(words), -1).T

    for name, words in tensors.items():
        if not name.endswith(".qweight"):
            continue
        module = name.removesuffix(".qweight")
        scale = tensors[f"{module}.scales"].T.contiguous()
        yield module, *integers(outputs(words), outputs(tensors[f"{module}.qzeros"]), scale, 4)


def stored_weights(folder):
    """{module path: (float32 weight [R, C], largest allowed rounding error of each element)} and the plain tensors."""
    config = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
    tensors = read_tensors(folder)
    readers = {"compressed-tensors": compressed_tensors, "bitsandbytes": bitsandbytes, "gptq": gptq, "awq": awq}
    weights = {module: (w, error) for module, w, error in readers[config["quant_method"]](tensors, config)}
    plain = {n: t for n, t in tensors.items() if not any(n.startswith(f"{module}.") for module in weights)}
    biases = {n: t for n, t in tensors.items() if n.endswith(".bias")}
    return config, weights, plain | biases

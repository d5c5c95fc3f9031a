#!/usr/bin/env python3
"""Quantizes the original weights again with the libraries themselves and compares what they store with what Sluice stored.

    python same_bytes.py OUT MODEL

compressed-tensors is given Sluice's scales and zero points and must pack the same bytes; GPTQModel, whose packer is not meant to
round weights, is given those that were stored, too. bitsandbytes computes its own statistics;
codes may differ at ties, where a scaled weight lies within float32 rounding of the middle between two levels. Its CPU kernel for
8-bit statistics (double quantization) looks codes up in a table of 65536 entries over [-1, 1], so there a tie is as wide as one
entry; its factor 127/absmax of LLM.int8() is torch's `127.0 / tensor`, the product of 127 and the rounded reciprocal.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from checks import Checks
from stored import awq, gptq, gptq_settings, group_of, read_tensors

ROUNDING = 2.0**-21  # a few float32 roundings of a number near 1
TABLE_ENTRY = 1 / 65535  # half the width of an entry of bitsandbytes' table over [-1, 1]


def compressed_tensors(tensors, original, config, checks):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationScheme

    same = total = codes = codes_differ = ties = 0
    for name, scale in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        module = name.removesuffix(".weight_scale")
        group = group_of(config, module)
        scheme = QuantizationScheme.model_validate(group)
        compressor = BaseCompressor.get_value_from_registry(group.get("format", config["format"]))
        bits = scheme.weights.num_bits
        w = original[f"{module}.weight"].float()
        state = {"weight": w, "weight_scale": scale.float()}
        affine = f"{module}.weight_zero_point" in tensors
        if affine:
            packed, shape = tensors[f"{module}.weight_zero_point"], torch.Size((w.shape[0], scale.shape[1]))
            state["weight_zero_point"] = unpack_from_int32(packed, bits, shape, packed_dim=0)
        for key, value in compressor.compress(state, scheme).items():
            stored = tensors[f"{module}.{key}"]
            if key == "weight_scale":
                continue
            if affine and key == "weight_packed":
                differ = unpack_from_int32(value, bits, w.shape) != unpack_from_int32(stored, bits, w.shape)
                quotient = (w.double().view(*scale.shape, -1) / scale.double()[..., None]).view(w.shape)[differ]
                codes += w.numel()
                codes_differ += int(differ.sum())
                ties += int(((quotient - quotient.floor() - 0.5).abs() <= 2**bits * ROUNDING).sum())
                continue
            total += 1
            same += value.dtype == stored.dtype and torch.equal(value.view(torch.uint8), stored.view(torch.uint8))
    checks.check(same == total > 0, f"{same} of {total} tensors are what compressed-tensors packs with the same scales")
    if codes:
        # Sluice, as GPTQ does, adds the zero point after rounding to even, compressed-tensors before.
        checks.check(
            codes_differ == ties <= 1e-2 * codes,
            f"{codes_differ} of {codes} affine codes differ from compressed-tensors', {ties} of them at ties",
        )


def gptqmodel(tensors, _, config, checks):
    """What GPTQModel's packers make of the stored weights, scales and zero points."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    is_gptq, same, total = config["quant_method"] == "gptq", 0, 0
    for module, w, _ in (gptq if is_gptq else awq)(tensors, config):
        settings = gptq_settings(config, module)
        bits, size = settings["bits"], settings["group_size"]
        rows, columns = w.shape
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = torch.from_numpy(w)
        shape = {"bits": bits, "group_size": size, "in_features": columns, "out_features": rows, "sym": is_gptq, "desc_act": False}
        scale = tensors[f"{module}.scales"].T.float()
        packed = (TorchLinear if is_gptq else AwqTorchLinear)(**shape)
        if is_gptq:
            zero = torch.full_like(scale, 2 ** (bits - 1)).to(torch.int32)
            packed.pack_original(linear, scale, zero, torch.arange(columns, dtype=torch.int32) // (size if size > 0 else columns))
            convert_gptq_v2_to_v1_format_module(packed, QuantizeConfig(bits=bits, group_size=size))
        else:
            fields = tensors[f"{module}.qzeros"][..., None] >> torch.arange(0, 32, 4) & 15
            zero = fields[..., [0, 4, 1, 5, 2, 6, 3, 7]].flatten(1).T
            packed.pack(linear, scale.half(), zero)
        for key in ("qweight", "qzeros", "scales", *(["g_idx"] if is_gptq else [])):
            total += 1
            same += torch.equal(getattr(packed, key), tensors[f"{module}.{key}"])
    checks.check(same == total > 0, f"{same} of {total} tensors are what GPTQModel packs of the same weights")


def near_middle(scaled, table, width):
    """Whether each value in [-1, 1] lies within `width` of the middle between two neighbouring levels."""
    levels = np.sort(table.astype("f8"))
    middles = (levels[1:] + levels[:-1]) / 2
    return np.abs(scaled[:, None] - middles).min(1) <= width


def nibbles(packed):
    """4-bit codes, the high half of a byte first."""
    packed = packed.numpy().ravel()
    return np.stack([packed >> 4, packed & 15], -1).ravel()


def bitsandbytes_4bit(tensors, original, config, checks):
    import bitsandbytes.functional as bnb

    nested, kind = config["bnb_4bit_use_double_quant"], config["bnb_4bit_quant_type"]
    codes = codes_differ = code_ties = statistics = statistics_differ = statistic_ties = 0
    same_tables, worst_offset, worst_nested = True, 0.0, 0.0
    for name, tensor in tensors.items():
        if ".quant_state.bitsandbytes__" not in name:
            continue
        weight = name.split(".quant_state.")[0]
        written = json.loads(bytes(tensor.tolist()))
        block = written["blocksize"]
        packed, state = bnb.quantize_4bit(original[weight], blocksize=block, compress_statistics=nested, quant_type=kind)
        same_tables &= torch.equal(tensors[f"{weight}.quant_map"], state.code)

        w = original[weight].float().numpy().ravel().astype("f8")
        absmax = np.maximum.reduceat(np.abs(w), np.arange(0, w.size, block))
        differ = np.flatnonzero((nibbles(packed) != nibbles(tensors[weight]))[: w.size])
        codes += w.size
        codes_differ += differ.size
        code_ties += int(near_middle(w[differ] / absmax[differ // block], state.code.numpy(), ROUNDING).sum())

        differ = np.flatnonzero(tensors[f"{weight}.absmax"].numpy() != state.absmax.numpy())
        statistics += absmax.size
        statistics_differ += differ.size
        if nested:
            table = state.state2.code.numpy()
            same_tables &= torch.equal(tensors[f"{weight}.nested_quant_map"], state.state2.code)
            offset, outer = float(state.offset), state.state2.absmax.numpy().astype("f8")
            scaled = (absmax[differ] - offset) / outer[differ // written["nested_blocksize"]]
            statistic_ties += int(near_middle(scaled, table, TABLE_ENTRY + ROUNDING).sum())
            worst_offset = max(worst_offset, abs(written["nested_offset"] - offset) / offset)
            found = tensors[f"{weight}.nested_absmax"].numpy()
            worst_nested = max(worst_nested, float((np.abs(found - outer) / outer).max()))
    checks.check(
        codes > 0 and codes_differ == code_ties and code_ties <= 1e-3 * codes,
        f"{codes_differ} of {codes} codes differ from bitsandbytes', {code_ties} of them at ties",
    )
    checks.check(same_tables, "the tables of levels are bitsandbytes', bit for bit")
    checks.check(
        statistics_differ == statistic_ties and statistics_differ <= 1e-2 * statistics,
        f"{statistics_differ} of {statistics} absmax values differ, {statistic_ties} of them at ties",
    )
    if nested:
        # A mean of many values: its relative rounding error is a few units, and it is subtracted from values of its own size.
        checks.check(
            worst_offset <= ROUNDING and worst_nested <= 16 * ROUNDING,
            f"nested offsets differ by {worst_offset:.1e} at most, nested absmax values by {worst_nested:.1e}",
        )


def bitsandbytes_8bit(tensors, original, config, checks):
    import bitsandbytes.functional as bnb

    total = codes_differ = ties = 0
    same_absmax = True
    for name, absmax in tensors.items():
        if not name.endswith(".SCB"):
            continue
        module = name.removesuffix(".SCB")
        w = original[f"{module}.weight"].to(torch.float16)
        codes, statistics, _ = bnb.int8_vectorwise_quant(w.clone())
        same_absmax &= torch.equal(statistics.float(), absmax)
        differ = codes != tensors[f"{module}.weight"]
        total += codes.numel()
        codes_differ += int(differ.sum())
        scaled = (w.double().abs() * 127 / absmax.double()[:, None])[differ]
        ties += int(((scaled - scaled.floor() - 0.5).abs() <= 127 * ROUNDING).sum())
    checks.check(
        total > 0 and codes_differ == ties and ties <= 1e-3 * total,
        f"{codes_differ} of {total} int8 codes differ from bitsandbytes', {ties} of them at ties",
    )
    checks.check(same_absmax, "absmax values are bitsandbytes', bit for bit")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--label", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    checks = Checks(args.label or args.checkpoint.name)
    config = json.loads((args.checkpoint / "config.json").read_text())["quantization_config"]
    compare = (
        compressed_tensors
        if config["quant_method"] == "compressed-tensors"
        else gptqmodel
        if config["quant_method"] in ("gptq", "awq")
        else bitsandbytes_8bit
        if config["load_in_8bit"]
        else bitsandbytes_4bit
    )
    compare(read_tensors(args.checkpoint), read_tensors(args.model), config, checks)
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()

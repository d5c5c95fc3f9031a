#!/usr/bin/env python3
"""Opens a quantized checkpoint with transformers as a user would and checks that it is what its bytes say; writes logits.

    python open_checkpoint.py OUT TOKENS.json PREFIX [--source MODEL]

Checked: every key of the checkpoint found its place and none was made up; the linears of the blocks, and only they, are
quantized modules holding our bytes; the weights the library dequantizes equal those that stored.py reads from the bytes;
with --source, every weight is as near to the unquantized one as round-to-nearest brings it.

Written: PREFIX.json, and for each kind of logits a raw little-endian file of shape [tokens, vocabulary]:
`weights` (float32) and `weights64` (float64): a plain model with the dequantized weights, activations left in float;
`rounded64`: the same in float64 with the activations rounded as the scheme says, when it says so;
`runtime`: the library's own forward, in float32 wherever the library allows it;
`linears`: inputs and outputs of single layers of that forward, so that the arithmetic of one layer can be compared tightly where
rounded activations make whole models drift apart;
`default`: what `from_pretrained(OUT)` gives without being asked for anything, in the model's own dtype.
"""
import argparse
import json
import logging
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AwqConfig, CompressedTensorsConfig, GPTQConfig

import activations
from checks import Checks
from stored import gptq_settings, read_tensors, stored_weights

LINEAR_TOKENS = 16  # tokens whose inputs and outputs of single layers are kept


def block_linears(model):
    """Modules of the blocks that multiply by a weight, by path; the head is not among them."""
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.endswith("lm_head")}


def load(folder, checks, **options):
    """The model in float32, and a check that loading was complete."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    wrong = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
    checks.check(not wrong, f"every tensor found its place, none was re-initialised {wrong or ''}".rstrip())
    for parameter in model.parameters():
        # transformers 5.23 ignores `dtype` for the plain tensors of a bitsandbytes checkpoint.
        if parameter.is_floating_point() and parameter.dtype != torch.float8_e4m3fn:
            parameter.data = parameter.data.float()
    return model.eval()


def plain_model(folder, weights, plain):
    """The architecture without quantization, its weights those that stored.py read."""
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.to_empty(device="cpu")
    state = {name: tensor.float() for name, tensor in plain.items()}
    state |= {f"{module}.weight": torch.from_numpy(w) for module, (w, _) in weights.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    # Not in the checkpoint, so lost on the way over the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def in_float64(model):
    """The same model in float64 throughout: transformers' RMSNorm and rotary tables would go back to float32 by themselves."""
    model = model.double()

    def norm_forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary_forward(self, x, position_ids):
        if self.rope_type != "default":
            raise ValueError(f"The float64 reference knows default rotary embeddings, not {self.rope_type!r}.")
        half = self.config.head_dim // 2
        base = self.config.rope_parameters["rope_theta"]
        frequencies = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = norm_forward.__get__(module)
    model.model.rotary_emb.forward = rotary_forward.__get__(model.model.rotary_emb)
    return model


def activations_of(config):
    """How the scheme rounds activations: a name of activations.PARTS, or "none"."""
    if config["quant_method"] == "bitsandbytes":
        return "llm_int8" if config["load_in_8bit"] else "none"
    if config["quant_method"] in ("gptq", "awq"):
        return "none"
    (rounding,) = dict.fromkeys(json.dumps(group.get("input_activations")) for group in config["config_groups"].values())
    rounding = json.loads(rounding)
    if rounding is None:
        return "none"
    values = {"int": "int8", "float": "fp8"}[rounding["type"]]
    return values if rounding["dynamic"] else f"{values}-static"


def input_scales(folder, dtype):
    """The stored scale of each module's input, for those that have one; others have None."""
    scales = {n: t for n, t in read_tensors(folder).items() if n.endswith(".input_scale")}
    return lambda module: scales[f"{module}.input_scale"].to(dtype) if scales else None


def open_compressed_tensors(folder, config, weights, checks):
    """The model as compressed-tensors runs it, after a check of its modules; None where the library cannot open it."""
    raw = read_tensors(folder)
    groups = config["config_groups"].values()
    if not all(group["weights"]["symmetric"] for group in groups):
        # compressed-tensors 0.20 makes an unpacked zero point where it should make a packed one, and then finds that
        # the checkpoint's does not fit: only dequantize=True opens these. It rounds weights to the scales' dtype.
        model = load(folder, checks, quantization_config=CompressedTensorsConfig(dequantize=True))
        linears = block_linears(model)
        checks.check(set(linears) == set(weights), f"the {len(weights)} quantized weights are those of the blocks' linears")
        dtypes = {n: raw[f"{n}.weight_scale"].dtype for n in weights}
        same = all(torch.equal(m.weight, torch.from_numpy(weights[n][0]).to(dtypes[n]).float()) for n, m in linears.items())
        checks.check(same, "dequantized at loading, every weight is the stored one rounded to its scale's dtype")
        return None
    model = load(folder, checks)
    linears = block_linears(model)
    quantized = {n for n, m in linears.items() if str(getattr(m, "quantization_status", "")).endswith("COMPRESSED")}
    plain = {n for n in linears if n not in quantized}
    right = quantized == set(weights) and plain == {n for n in linears if f"{n}.weight" in raw and f"{n}.weight_scale" not in raw}
    checks.check(right, f"{len(weights)} linears of the blocks are compressed modules, {len(plain)} are plain")
    linears = {n: m for n, m in linears.items() if n in quantized}
    same = True
    for n, m in linears.items():
        for key, value in m.state_dict().items():
            same &= torch.equal(value.float(), raw[f"{n}.{key}"].float())
    checks.check(same, "compressed modules hold the checkpoint's tensors")
    with torch.inference_mode():
        model(torch.zeros(1, 1, dtype=torch.long))  # the first forward decompresses
    same = all(torch.equal(m.weight, torch.from_numpy(weights[n][0])) for n, m in linears.items())
    checks.check(same, "decompressed weights equal the stored ones, bit for bit")
    rounds = {n for n, m in linears.items() if m.quantization_scheme.input_activations is not None}
    asked = set(weights) if activations_of(config) != "none" else set()
    checks.check(rounds == asked, f"{len(rounds)} linears round their activations, {len(asked)} should")
    return model


def open_bitsandbytes(folder, config, weights, checks):
    """The model as bitsandbytes runs it, after a check of its modules."""
    import bitsandbytes as bnb

    raw = read_tensors(folder)
    model = load(folder, checks)
    kind = bnb.nn.Linear4bit if config["load_in_4bit"] else bnb.nn.Linear8bitLt
    linears = block_linears(model)
    quantized = {n for n, m in linears.items() if type(m) is kind}
    checks.check(quantized == set(weights) == set(linears), f"the {len(weights)} linears of the blocks are {kind.__name__}")
    same = all(torch.equal(m.weight.data, raw[f"{n}.weight"]) for n, m in linears.items())
    checks.check(same, "their codes are the checkpoint's")
    worst = 0.0
    for n, m in linears.items():
        expected = torch.from_numpy(weights[n][0])
        if config["load_in_4bit"]:
            state = m.weight.quant_state
            dtype, state.dtype = state.dtype, torch.float32
            found = bnb.functional.dequantize_4bit(m.weight.data, state)
            state.dtype = dtype
        else:
            found = m.weight.data.float() * (m.weight.SCB / 127)[:, None]
        worst = max(worst, float(((found - expected).abs() / expected.abs().amax()).max()))
    # Two roundings: of the statistic (a product and a sum) and of the weight.
    if config["load_in_4bit"]:
        for module in linears.values():
            # On a CPU with AVX512-BF16 the layer would repack its weight at the first forward and compute in bfloat16.
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
            module.support_avx512bf16_for_cpu = False
    checks.check(worst <= 2.0**-22, f"dequantized weights equal the stored ones within 2^-22 of the largest (are within {worst:.1e})")
    return model


def is_mixed(config):
    """Whether layers differ: transformers passes over what says so, GPTQModel itself does not."""
    return any(pattern.startswith("+:") for pattern in config.get("dynamic", {}))


def load_mixed(folder, **options):
    """The model as GPTQModel opens it."""
    from gptqmodel import GPTQModel

    return GPTQModel.load(str(folder), device="cpu", **options).model


def open_gptqmodel(folder, config, weights, checks):
    """A check of the modules that GPTQModel makes of GPTQ and AWQ files. It has no product in float32, so nothing is returned: what
    it computes by default is compared."""
    from gptqmodel import BACKEND
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    is_gptq, raw = config["quant_method"] == "gptq", read_tensors(folder)
    # Its plain kernel keeps what was stored; others pack it anew.
    if is_mixed(config):
        model = load_mixed(folder, backend=BACKEND.GPTQ_TORCH)
        same = all(torch.equal(p, raw[n]) for n, p in model.named_parameters() if n in raw)
        checks.check(same, "plain tensors are the checkpoint's")
    else:
        kernel = GPTQConfig(bits=config["bits"], backend="gptq_torch") if is_gptq else AwqConfig(backend="torch_awq")
        model = load(folder, checks, quantization_config=kernel)
    quantized = {n: m for n, m in model.named_modules() if hasattr(m, "qweight")}
    plain = {n for n in block_linears(model) if n not in quantized}
    stored = {n.removesuffix(".weight") for n in raw if n.endswith("_proj.weight")}
    kinds = "/".join(sorted({type(m).__name__ for m in quantized.values()}))
    right = set(quantized) == set(weights) and plain == stored
    checks.check(right, f"{len(weights)} linears of the blocks are {kinds}, {len(plain)} are plain")
    differ, worst = 0, 0.0
    for n, m in quantized.items():
        differ += not torch.equal(m.qweight, raw[f"{n}.qweight"]) or m.bits != gptq_settings(config, n)["bits"]
        exact = torch.from_numpy(weights[n][0])
        m.scales = raw[f"{n}.scales"].float()  # a product of 11 and 9 bits is exact in float32
        found = m.dequantize_weight() if is_gptq else dequantize_gemm(m.qweight, m.qzeros, m.scales, 4, config["group_size"])
        worst = max(worst, float((found.T - exact).abs().max()))
    checks.check(not differ, "their codes are the checkpoint's")
    checks.check(worst == 0, f"dequantized weights equal the stored ones bit for bit (differ by {worst:.1e} at most)")


def check_nearest(source, weights, checks):
    """Every stored weight is within the error that rounding to nearest may make."""
    original = read_tensors(source)
    error = total = 0.0
    worst, where = 0.0, ""
    for module, (w, allowed) in weights.items():
        exact = original[f"{module}.weight"].float().numpy()
        difference = abs(w - exact)
        error += float((difference.astype("f8") ** 2).sum())
        total += float((exact.astype("f8") ** 2).sum())
        ratio = float((difference / (allowed + 1e-6 * abs(exact) + 1e-30)).max())
        if ratio > worst:
            worst, where = ratio, module
    checks.check(
        worst <= 1.0,
        f"every weight is the nearest there is: at most {worst:.3f} of the allowed error ({where}), relative MSE {error / total:.3e}",
    )


def record_linears(model, tokens, weights, rounding, scale_of, prefix):
    """Inputs x [LINEAR_TOKENS, C] and outputs y [LINEAR_TOKENS, R] of the first and the last block's linears; |x| |W|^T, which bounds
    the rounding errors of y; and how far activations at ties of their rounding may move it. Offsets count float32 values in one file."""
    linears = block_linears(model)
    blocks = [int(n.split(".")[2]) for n in linears]
    chosen = {n: m for n, m in linears.items() if int(n.split(".")[2]) in (min(blocks), max(blocks)) and n in weights}
    inputs = {}
    hooks = [m.register_forward_pre_hook(lambda m, x, n=n: inputs.setdefault(n, x[0].detach())) for n, m in chosen.items()]
    model(tokens)
    for hook in hooks:
        hook.remove()
    file = prefix.with_name(f"{prefix.name}.linears.f32")
    entries, at = [], 0
    with file.open("wb") as out:
        for n, module in chosen.items():
            x = inputs[n][:, :LINEAR_TOKENS].float()
            y = module(x)[0].float()
            w = torch.from_numpy(weights[n][0]).abs().T
            ties = torch.zeros_like(x) if rounding == "none" else activations.jumps(x, rounding, scale_of(n))
            entry = {"weight": f"{n}.weight", "rows": y.shape[1], "columns": x.shape[2]}
            for key, values in (("x", x[0]), ("y", y), ("magnitude", x[0].abs() @ w), ("ties", ties[0] @ w)):
                entry[key] = at
                at += values.numel()
                out.write(values.contiguous().numpy().astype("<f4").tobytes())
            entries.append(entry)
    return {"file": file.name, "tokens": LINEAR_TOKENS, "entries": entries}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path, help='{"tokens": [ids of one window]}')
    parser.add_argument("prefix", type=Path, help="where to write: PREFIX.json, PREFIX.weights.f32, …")
    parser.add_argument("--source", type=Path, help="the unquantized model")
    parser.add_argument("--label", default="")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of its float16 at every layer
    checks = Checks(args.label or args.checkpoint.name)
    tokens = torch.tensor([json.loads(args.tokens.read_text())["tokens"]])
    config, weights, plain = stored_weights(args.checkpoint)
    if args.source:
        check_nearest(args.source, weights, checks)

    logits, linears = {}, None

    def write(kind, model):
        with torch.inference_mode():
            values = model(tokens).logits[0]
        values = (values if values.dtype == torch.float64 else values.float()).numpy()
        dtype = {"float32": "f32", "float64": "f64"}[str(values.dtype)]
        file = args.prefix.with_name(f"{args.prefix.name}.{kind}.{dtype}")
        values.astype("<" + values.dtype.str[1:]).tofile(file)
        logits[kind] = {"file": file.name, "dtype": dtype, "shape": list(values.shape)}

    plain = plain_model(args.checkpoint, weights, plain)
    shape = {
        "layers": plain.config.num_hidden_layers,
        "columns": max(m.in_features for m in block_linears(plain).values()),
    }
    write("weights", plain)
    plain = in_float64(plain)
    write("weights64", plain)
    rounding = activations_of(config)
    if rounding != "none":
        scale_of = input_scales(args.checkpoint, torch.float64)
        for name, module in block_linears(plain).items():
            activations.install(module, rounding, scale_of(name))
        write("rounded64", plain)
    del plain

    open_library = {
        "compressed-tensors": open_compressed_tensors,
        "bitsandbytes": open_bitsandbytes,
        "gptq": open_gptqmodel,
        "awq": open_gptqmodel,
    }[config["quant_method"]]
    model = open_library(args.checkpoint, config, weights, checks)
    if model:
        write("runtime", model)
        with torch.inference_mode():
            scale_of = input_scales(args.checkpoint, torch.float32)
            linears = record_linears(model, tokens, weights, rounding, scale_of, args.prefix)
    if model or open_library is open_gptqmodel:
        open_default = load_mixed if is_mixed(config) else AutoModelForCausalLM.from_pretrained
        write("default", open_default(args.checkpoint).eval())
    record = {"tokens": tokens[0].tolist(), "activations": rounding, **shape, "logits": logits, "linears": linears, "versions": {"transformers": transformers.__version__}}
    args.prefix.with_name(f"{args.prefix.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()

"""The rounding of a linear's input that a runtime does, by a scale of each token or by one that the checkpoint holds, put before a plain torch Linear by a hook.

transformers drops it without a word when a compressed-tensors checkpoint is loaded with `dequantize=True` (formerly
`run_compressed=False`), so comparisons of W8A8 and FP8 checkpoints put it back from here. The arithmetic is that of
compressed-tensors (quantization/utils/helpers.py `calculate_qparams`, quantization/lifecycle/forward_helpers.py) and, for
`llm_int8`, that of bitsandbytes (autograd/_functions.py, backends/default/ops.py), but for its scale 6.200124e-05 in place of
1/127^2 = 6.2000124e-05.
"""
import torch

THRESHOLD = 6.0  # of LLM.int8(): a column of the input with one value this large is left in float


NUDGE = 2.0**-20  # relative; a few float32 roundings


def per_token(x, levels):
    """The scale of each row: its largest magnitude over half the number of steps; a row of zeros has 1."""
    scale = x.abs().amax(-1, True) / levels
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def int8_level(quotient):
    return quotient.round().clamp(-128, 127)


def fp8_level(quotient):
    return quotient.clamp(-448, 448).to(torch.float8_e4m3fn).to(quotient.dtype)


def parts_int8(x, _):
    """compressed-tensors' dynamic int8: scale = absmax / 127.5, codes -128 ... 127."""
    scale = per_token(x, 127.5)
    return x / scale, scale, int8_level, None


def parts_fp8(x, _):
    """compressed-tensors' dynamic fp8: scale = absmax / 448, values E4M3."""
    scale = per_token(x, 448.0)
    return x / scale, scale, fp8_level, None


def parts_static_int8(x, scale):
    """compressed-tensors' static int8: the checkpoint's `input_scale`, codes -128 ... 127."""
    return x / scale, scale, int8_level, None


def parts_static_fp8(x, scale):
    """compressed-tensors' static fp8: the checkpoint's `input_scale`, values E4M3."""
    return x / scale, scale, fp8_level, None


def parts_llm_int8(x, _):
    """LLM.int8(): rows of the float16 input to int8 with scale = absmax / 127 of what is below the threshold; columns with an
    outlier are left out."""
    half = x.to(torch.float16)
    outliers = half.abs() >= THRESHOLD
    half = half.masked_fill(outliers, 0).to(x.dtype)
    scale = per_token(half, 127.0)
    return half * (1 / scale), scale, torch.round, outliers.flatten(0, -2).any(0)


# Each gives (quotients, scales, the function from quotient to level, columns left as they are or None).
PARTS = {
    "int8": parts_int8,
    "int8-static": parts_static_int8,
    "fp8": parts_fp8,
    "fp8-static": parts_static_fp8,
    "llm_int8": parts_llm_int8,
}


def rounded(x, kind, scale=None):
    """x [..., T, C] as the runtime's rounding leaves it; `scale` is the stored one of the static kinds."""
    quotient, scale, level, kept = PARTS[kind](x, scale)
    values = level(quotient) * scale
    return values if kept is None else torch.where(kept, x, values)


def jumps(x, kind, scale=None):
    """How far each rounded value would move if its quotient were off by float32 rounding: 0, but a whole step at ties."""
    quotient, scale, level, kept = PARTS[kind](x, scale)
    step = (level(quotient * (1 + NUDGE)) - level(quotient * (1 - NUDGE))).abs() * scale
    return step if kept is None else step.masked_fill(kept, 0)


def round_rows_llm_int8(weight):
    """A weight [R, C] as LLM.int8() stores it, read back: rows of the float16 weight over absmax / 127."""
    half = weight.to(torch.float16)
    absmax = half.abs().amax(-1, True).float()
    codes = (half.float() * torch.where(absmax == 0, torch.zeros_like(absmax), 127.0 / absmax)).round()
    return codes * (absmax / 127.0)


def install(module, kind, scale=None):
    """Round the input of `module` from now on; returns the hook's handle."""
    return module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], kind, scale), *inputs[1:]))

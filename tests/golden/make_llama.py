"""Tiny random Llama and Mistral models and their logits, by transformers: llama_*.safetensors and llama.json beside this script.

    pip install torch==2.15.0 transformers==5.23.0 safetensors && python make_llama.py

Two sets of weights (f32; one with biases, a head of its own and a head_dim that is not hidden/heads) under several configs. Per case:
the logits of one window computed with weights and products in float64 (transformers still rounds norms and rotary angles to float32),
and two measured numbers that tests derive their bound from: `rounding`, the largest difference that computing in float32 makes, and
`angle`, the largest difference that frequencies off by 2^-23 make (the last bit of a power function).
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

HERE = Path(__file__).parent
TOKENS = 48
SHAPE = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, attn_implementation="eager")
PLAIN = dict(SHAPE, tie_word_embeddings=True, rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(type="yarn", factor=4.0, original_max_position_embeddings=16)
CASES = {  # name: (weights, config class, settings)
    "plain": ("tied", LlamaConfig, PLAIN),
    "biased": ("biased", LlamaConfig, dict(SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
                                           head_dim=24, rope_parameters=dict(rope_type="default", rope_theta=500.0))),
    "llama3": ("tied", LlamaConfig, dict(PLAIN, rope_scaling=LLAMA3)),
    "yarn": ("tied", LlamaConfig, dict(PLAIN, rope_scaling=YARN)),
    "yarn_mscale": ("tied", LlamaConfig, dict(PLAIN, rope_parameters=dict(
        rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=16.0,
        beta_slow=2.0, mscale=1.2, mscale_all_dim=0.5, truncate=False))),
    "linear": ("tied", LlamaConfig, dict(PLAIN, rope_scaling=dict(type="linear", factor=4.0))),
    "sliding": ("tied", MistralConfig, dict(PLAIN, sliding_window=7)),
}


def make(config_class, settings):
    model_class = LlamaForCausalLM if config_class is LlamaConfig else MistralForCausalLM
    return model_class(config_class(**json.loads(json.dumps(settings)))).eval()


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * r if "norm" in name else r * (0.3 if name.endswith("bias") else 2.0 * p.shape[-1] ** -0.5))


@torch.no_grad()
def logits(model, ids, nudge=1.0):
    rotary = model.model.rotary_emb
    kept = rotary.inv_freq.clone()
    rotary.inv_freq.copy_((kept * nudge))
    result = model(ids[None], use_cache=False).logits[0].double()
    rotary.inv_freq.copy_(kept)
    return result


def main():
    torch.set_num_threads(1)
    ids = torch.randint(0, SHAPE["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(1))
    weights, index, expected = {}, {}, {}
    for name, (weight_set, config_class, settings) in CASES.items():
        model = make(config_class, settings)
        if weight_set not in weights:
            randomize(model, seed=len(weights) + 2)
            weights[weight_set] = {k: v.clone() for k, v in model.state_dict().items()
                                   if not (settings["tie_word_embeddings"] and k == "lm_head.weight")}
        model.load_state_dict(weights[weight_set], strict=False)
        model.tie_weights()
        single = logits(model, ids)
        model = model.double()
        double = logits(model, ids)
        nudged = logits(model, ids, 1 + 2.0 ** -23)
        expected[name] = double.float().contiguous()
        config = {k: v for k, v in settings.items() if k != "attn_implementation"}
        index[name] = {
            "weights": f"llama_{weight_set}.safetensors",
            "config": {"model_type": config_class.model_type, "hidden_act": "silu", **config},
            "rounding": (single - double).abs().max().item(),
            "angle": (nudged - double).abs().max().item(),
            "largest": double.abs().max().item(),
        }
    for weight_set, tensors in weights.items():
        save_file(tensors, HERE / f"llama_{weight_set}.safetensors")
    save_file(expected, HERE / "llama_logits.safetensors")
    (HERE / "llama.json").write_text(json.dumps({"tokens": ids.tolist(), "cases": index}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Makes families/: tiny random models of every family that Sluice runs, and what transformers makes of one window of tokens.

    python make_families.py [FAMILY ...]      (torch 2.15, transformers 5.23)

families/NAME/config.json and model.safetensors (bf16) are what transformers saves, with the names that the Hub has. golden.safetensors holds
input_ids I32[T], logits F32[T, V], hidden.0 (embeddings) to hidden.N (of the last block after the final norm), computed in float32, eager, from
the values on disk. Windows and "original" lengths are shorter than T, caps are low, and no weight is left at its initial 0 or 1, so that a runtime
that leaves one of them out cannot pass. A variant has the weights of another model under another config.
"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
T, V, C, I = 40, 96, 64, 96
BASE = dict(vocab_size=V, hidden_size=C, intermediate_size=I, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=None)
WINDOWS = ["sliding_attention", "full_attention"]
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
SIGLIP = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
FALCON = dict(vocab_size=V, hidden_size=C, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, ffn_hidden_size=I,
              bos_token_id=1, eos_token_id=2)

FAMILIES = {
    "llama": dict(BASE, rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                             original_max_position_embeddings=16)),
    "smollm3": dict(BASE, num_hidden_layers=4),
    "mistral": dict(BASE, head_dim=32, sliding_window=8),
    "ministral3": dict(BASE, head_dim=32, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)),
    "qwen2": dict(BASE, tie_word_embeddings=True, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": dict(BASE, head_dim=32),
    "phi3": dict(BASE, original_max_position_embeddings=16, partial_rotary_factor=0.75,
                 rope_parameters=dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 6, long_factor=[1.0, 1.5, 2, 3, 4, 8.0])),
    "olmo2": dict(BASE),
    "olmo3": dict(BASE, num_hidden_layers=4, sliding_window=8),
    "granite": dict(BASE, embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_multiplier=0.05),
    "glm4": dict(BASE, head_dim=16),
    "gemma2": dict(BASE, head_dim=32, query_pre_attn_scalar=24, sliding_window=8, attn_logit_softcapping=2.0, final_logit_softcapping=4.0),
    "gemma3_text": dict(BASE, head_dim=32, query_pre_attn_scalar=24, sliding_window=8, layer_types=WINDOWS),
    "gpt2": dict(vocab_size=V, n_positions=128, n_embd=C, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2,
                 scale_attn_by_inverse_layer_idx=True),
    "opt": dict(BASE, ffn_dim=I, word_embed_proj_dim=C),
    "gpt_neox": dict(BASE),
    "bloom": dict(vocab_size=V, hidden_size=C, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "falcon": dict(FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon.7b": dict(FALCON),
    "falcon.rw": dict(FALCON, multi_query=False, parallel_attn=False, alibi=True, bias=True),
    # Wrappers: a text model beside a vision tower.
    "gemma3": dict(text_config=dict(BASE, head_dim=32, sliding_window=8, layer_types=WINDOWS), vision_config=SIGLIP, mm_tokens_per_image=4),
    "qwen3_vl": dict(text_config=dict(BASE, head_dim=32, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[6, 5, 5])),
                     vision_config=dict(hidden_size=32, intermediate_size=32, depth=1, num_heads=2, out_hidden_size=C,
                                        num_position_embeddings=16, deepstack_visual_indexes=[0])),
}

# Other configs of the weights above: what config.json alone switches.
VARIANTS = {
    "gpt_neox.sequential": ("gpt_neox", dict(use_parallel_residual=False)),
    "bloom.normed": ("bloom", dict(apply_residual_connection_post_layernorm=True)),
    "opt.post": ("opt", dict(do_layer_norm_before=False)),
    "llama.linear": ("llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
    "llama.dynamic": ("llama", dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=4.0), max_position_embeddings=128)),
    "llama.yarn": ("llama", dict(rope_parameters=dict(YARN, truncate=False))),
    "phi3.short": ("phi3", dict(original_max_position_embeddings=64)),
}

# The same models in the spelling of older files on the Hub: keys that transformers 5 reads, and does not write any more.
OLD = {
    "llama": dict(rope_parameters=None, rope_theta=5e5, torch_dtype="bfloat16",
                  rope_scaling=dict(type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
    "smollm3": dict(rope_parameters=None, rope_theta=2e6, layer_types=None),
    "mistral": dict(rope_parameters=None, rope_theta=1e4),
    "qwen2": dict(rope_parameters=None, rope_theta=1e4, layer_types=None),
    "qwen3": dict(rope_parameters=None, rope_theta=1e4, layer_types=None),
    "phi3": dict(rope_parameters=None, rope_theta=1e4, partial_rotary_factor=0.75,
                 rope_scaling=dict(type="longrope", short_factor=[1.0] * 6, long_factor=[1.0, 1.5, 2, 3, 4, 8.0])),
    "olmo2": dict(rope_parameters=None, rope_theta=1e4),
    "olmo3": dict(rope_parameters=None, layer_types=None, rope_theta=5e5),
    "granite": dict(rope_parameters=None, rope_theta=1e4),
    "glm4": dict(rope_parameters=None, rope_theta=1e4, partial_rotary_factor=0.5),
    "gemma2": dict(rope_parameters=None, rope_theta=1e4, layer_types=None),
    "gemma3_text": dict(rope_parameters=None, rope_theta=1e6, rope_local_base_freq=1e4, layer_types=None, sliding_window_pattern=2),
    "gpt_neox": dict(rope_parameters=None, rotary_pct=0.25, rotary_emb_base=10000),
    "bloom": dict(hidden_size=None, n_embed=C),
    "falcon": dict(rope_parameters=None, rope_theta=1e4),
}


@torch.no_grad()
def randomize(model):
    """Matrices: normal; vectors (norms, biases): spread around their initial value. All representable in bf16."""
    for tensor in model.state_dict().values():
        noise = torch.randn_like(tensor) * 0.15 if tensor.ndim > 1 else tensor + (torch.rand_like(tensor) - 0.5) * 0.6
        tensor.copy_(noise.bfloat16())


def auto_of(config):
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def golden(folder, weights):
    config = AutoConfig.from_pretrained(folder)
    # Falcon's eager attention adds ALiBi twice: to the scores, and within the mask.
    attention = "sdpa" if getattr(config, "alibi", False) else "eager"
    model = auto_of(config).from_pretrained(weights, config=config, attn_implementation=attention, dtype=torch.float32).eval()
    torch.manual_seed(1)
    ids = torch.randint(3, V, (1, T))
    with torch.no_grad():
        result = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    made = {"input_ids": ids[0].int(), "logits": result.logits[0].float().contiguous()}
    for i, state in enumerate(result.hidden_states):
        made[f"hidden.{i}"] = state[0].float().clone().contiguous()
    save_file(made, os.path.join(folder, "golden.safetensors"))
    return result.logits


def make(name):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    if name in VARIANTS:
        base, changes = VARIANTS[name]
        os.makedirs(folder)
        config = json.load(open(os.path.join(HERE, base, "config.json")))
        config.update(json.loads(json.dumps(changes)))
        json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1)
        return golden(folder, os.path.join(HERE, base))
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(".")[0], **json.loads(json.dumps(FAMILIES[name])))
    model = auto_of(config).from_config(config, dtype=torch.float32)
    randomize(model)
    model.bfloat16().save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    logits = golden(folder, folder)
    if name in OLD:
        config = json.load(open(os.path.join(folder, "config.json")))
        for key, value in OLD[name].items():
            if value is None:
                config.pop(key, None)
            else:
                config[key] = value
        old = os.path.join(folder, "old_config.json")
        json.dump(config, open(old, "w"), indent=1)
        check_old(folder, old, logits)
    return logits


def check_old(folder, old, logits):
    """transformers reads the old spelling as the same model."""
    work = os.path.join(folder, "old")
    os.makedirs(work)
    shutil.copy(old, os.path.join(work, "config.json"))
    shutil.copy(os.path.join(folder, "model.safetensors"), work)
    model = AutoModelForCausalLM.from_pretrained(work, attn_implementation="eager", dtype=torch.float32).eval()
    torch.manual_seed(1)
    ids = torch.randint(3, V, (1, T))
    with torch.no_grad():
        again = model(input_ids=ids, use_cache=False).logits
    shutil.rmtree(work)
    assert (again - logits).abs().max() < 1e-6, f"{folder}: the old spelling is another model"


def main():
    logging.set_verbosity_error()
    for name in sys.argv[1:] or [*FAMILIES, *VARIANTS]:
        logits = make(name)
        print(f"{name}: finite {bool(logits.isfinite().all())}, std {logits.std():.3f}", flush=True)


main()

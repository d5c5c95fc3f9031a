#!/usr/bin/env python3
"""Tiny random models of many architectures, for what test:peers says of loaders.

    python tiny_models.py OUT [NAME ...]

Writes OUT/NAME/ as `save_pretrained` does, in bfloat16: decoders, mixtures of experts, encoders, encoder-decoders, classifiers, a
vision model; `.norms_f32` is one whose norms are float32, `.own_head` one with a head of its own under a config that ties it. Every matrix has sides that all formats can pack (multiples of 32). Every expert is chosen for every token, so that
rounding cannot choose others. A NAME is a class of
transformers, as config.json has it.
"""
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

VOCABULARY, WIDTH, INNER = 96, 64, 128
DECODER = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
ENCODER = {k: v for k, v in DECODER.items() if k != "num_key_value_heads"}
EXPERTS = dict(DECODER, moe_intermediate_size=32, num_experts_per_tok=4)
MIXED = ["linear_attention", "full_attention"]
DELTA = dict(head_dim=16, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=4, linear_num_value_heads=4)
LATENT = dict(
    q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16, num_key_value_heads=4, n_group=1, topk_group=1,
    first_k_dense_replace=1,
)
BART = dict(
    vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=INNER, decoder_ffn_dim=INNER, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    decoder_start_token_id=1,
)
VISION = dict(hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14)

MODELS = {
    # Decoders of linear layers alone.
    "LlamaForCausalLM": DECODER,
    "LlamaForCausalLM.norms_f32": DECODER,
    "LlamaForCausalLM.own_head": DECODER,
    "MistralForCausalLM": dict(DECODER, sliding_window=None),
    "Qwen2ForCausalLM": dict(DECODER, tie_word_embeddings=True),
    "Qwen3ForCausalLM": dict(DECODER, head_dim=32),
    "SmolLM3ForCausalLM": DECODER,
    "Gemma2ForCausalLM": dict(DECODER, head_dim=32, query_pre_attn_scalar=32),
    "Gemma3ForCausalLM": dict(DECODER, head_dim=32, query_pre_attn_scalar=32, sliding_window=64),
    "Phi3ForCausalLM": DECODER,
    "PhiForCausalLM": dict(DECODER, num_key_value_heads=4),
    "Olmo2ForCausalLM": DECODER,
    "Olmo3ForCausalLM": dict(DECODER, sliding_window=64),
    "GraniteForCausalLM": DECODER,
    "Glm4ForCausalLM": dict(DECODER, head_dim=16),
    "CohereForCausalLM": DECODER,
    "StableLmForCausalLM": DECODER,
    "OPTForCausalLM": dict(DECODER, ffn_dim=INNER, word_embed_proj_dim=WIDTH),
    "GPTNeoXForCausalLM": DECODER,
    "BloomForCausalLM": dict(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "FalconForCausalLM": dict(DECODER, new_decoder_architecture=True, num_kv_heads=2),
    "GPTBigCodeForCausalLM": dict(vocab_size=VOCABULARY, n_positions=128, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "Qwen3_5ForCausalLM": dict(DECODER, **DELTA, layer_types=MIXED),
    # Matrices of another class than Linear.
    "GPT2LMHeadModel": dict(vocab_size=VOCABULARY, n_positions=128, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    # Experts.
    "MixtralForCausalLM": dict(DECODER, num_local_experts=4, num_experts_per_tok=4),
    "Qwen2MoeForCausalLM": dict(EXPERTS, num_experts=4, shared_expert_intermediate_size=32),
    "Qwen3MoeForCausalLM": dict(EXPERTS, head_dim=32, num_experts=4, mlp_only_layers=[0]),
    "Qwen3NextForCausalLM": dict(EXPERTS, **DELTA, num_experts=4, shared_expert_intermediate_size=32, layer_types=MIXED),
    "OlmoeForCausalLM": dict(DECODER, num_experts=4, num_experts_per_tok=4),
    "DeepseekV3ForCausalLM": dict({**EXPERTS, **LATENT}, n_routed_experts=4),
    "Glm4MoeForCausalLM": dict(EXPERTS, head_dim=16, n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1),
    "GraniteMoeForCausalLM": dict(DECODER, num_local_experts=4, num_experts_per_tok=4),
    "GptOssForCausalLM": dict(DECODER, head_dim=16, num_local_experts=4, num_experts_per_tok=4, sliding_window=64),
    # Other heads, and none.
    "LlamaForSequenceClassification": dict(DECODER, num_labels=3),
    "LlamaForTokenClassification": dict(DECODER, num_labels=3),
    "LlamaModel": DECODER,
    "MistralModel": dict(DECODER, sliding_window=None),
    "Qwen3ForSequenceClassification": dict(DECODER, head_dim=32, num_labels=3),
    # Encoders.
    "BertModel": ENCODER,
    "BertForMaskedLM": ENCODER,
    "BertForSequenceClassification": dict(ENCODER, num_labels=3),
    "RobertaForMaskedLM": ENCODER,
    "RobertaForSequenceClassification": dict(ENCODER, num_labels=3),
    "XLMRobertaModel": ENCODER,
    "DistilBertForSequenceClassification": dict(vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=INNER, n_layers=2, n_heads=4, num_labels=3),
    "ModernBertForMaskedLM": dict(ENCODER, pad_token_id=0, cls_token_id=1, sep_token_id=2),
    # Encoder-decoders.
    "T5ForConditionalGeneration": dict(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=INNER, num_layers=2, num_heads=4, decoder_start_token_id=0),
    "BartForConditionalGeneration": BART,
    "MarianMTModel": BART,
    "WhisperForConditionalGeneration": dict({**BART, "max_source_positions": 32, "max_target_positions": 64}, num_mel_bins=32),
    # Pictures, and a text model beside one of pictures.
    "ViTForImageClassification": dict(VISION, num_labels=3),
    "ResNetForImageClassification": dict(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_labels=3),
    "Gemma3ForConditionalGeneration": dict(
        text_config=dict(DECODER, head_dim=32, query_pre_attn_scalar=32, sliding_window=64), vision_config=VISION, mm_tokens_per_image=4,
    ),
}


@torch.no_grad()
def randomize(model):
    """Matrices: normal, so that a layer keeps the size of its input; vectors: spread around their initial values."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name.endswith(("running_mean", "running_var")):
            continue
        if tensor.ndim > 1:
            fan_in = tensor[0].numel() if tensor.ndim != 3 else tensor.shape[-1]
            noise = torch.randn_like(tensor) / max(fan_in, 1) ** 0.5
        else:
            noise = tensor + (torch.rand_like(tensor) - 0.5) * 0.4
        tensor.copy_(noise.bfloat16())


def make(name, out):
    """The folder of a model."""
    torch.manual_seed(0)
    architecture, _, oddity = name.partition(".")
    kind = getattr(transformers, architecture)
    # Config classes write into the dicts that they are given.
    model = kind(kind.config_class(**json.loads(json.dumps(MODELS[name]))))
    randomize(model)
    folder = out / name
    model.bfloat16().save_pretrained(folder)
    # GPTQModel opens nothing without a tokenizer.
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0", eos_token="w2").save_pretrained(folder)
    if oddity == "norms_f32":
        weights = {n: t.float() if "norm" in n else t for n, t in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif oddity == "own_head":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}, indent=1))
    return folder


def main():
    logging.set_verbosity_error()
    out, wanted = Path(sys.argv[1]), sys.argv[2:] or MODELS
    for name in wanted:
        make(name, out)


if __name__ == "__main__":
    main()

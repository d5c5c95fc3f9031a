"""Seconds of a Llama's block in float32 on the CPU: argv [JSON of sizes, windows, tokens, threads]; a line "forward" or "both" → seconds in JSON.

"both" is the way forward and back with the gradients by all weights and by the input, of a sum of the output's products with fixed numbers.
"""
import json
import sys
import time

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

sizes = json.loads(sys.argv[1])
torch.set_num_threads(sizes["threads"])
config = LlamaConfig(
    hidden_size=sizes["hidden"],
    intermediate_size=sizes["intermediate"],
    num_attention_heads=sizes["heads"],
    num_key_value_heads=sizes["keyHeads"],
    num_hidden_layers=1,
    attn_implementation="sdpa",
)
layer = LlamaDecoderLayer(config, 0).float()
for parameter in layer.parameters():
    parameter.requires_grad_(parameter.dim() > 1)
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.02)
x = torch.randn(sizes["windows"], sizes["tokens"], sizes["hidden"], requires_grad=True)
g = torch.randn_like(x)
with torch.no_grad():
    embeddings = LlamaRotaryEmbedding(config)(x, torch.arange(sizes["tokens"])[None])


def forward():
    y = layer(x, position_embeddings=embeddings)
    return y[0] if isinstance(y, tuple) else y


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    if line.strip() == "forward":
        with torch.inference_mode():
            forward()
    else:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        forward().backward(g)
    print(json.dumps(time.perf_counter() - begun), flush=True)

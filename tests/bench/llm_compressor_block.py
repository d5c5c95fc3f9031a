"""llm-compressor's GPTQ on blocks of a Llama of given sizes with random weights, for llama8b_block.ts.

    python llm_compressor_block.py '{"hidden": 4096, "intermediate": 14336, "heads": 32, "keyHeads": 8, "blocks": 1, "windows": 128, "seqLen": 512}'

Prints the seconds that it took, the model being loaded, and the device. Needs llmcompressor (0.14.0.1 when this was written).
"""
import json
import sys
import tempfile
import time

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

asked = json.loads(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
config = LlamaConfig(
    hidden_size=asked["hidden"],
    intermediate_size=asked["intermediate"],
    num_attention_heads=asked["heads"],
    num_key_value_heads=asked["keyHeads"],
    num_hidden_layers=asked["blocks"],
    vocab_size=4096,
    tie_word_embeddings=False,
)
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    model = LlamaForCausalLM(config).eval()
tokens = torch.randint(4096, (asked["windows"], asked["seqLen"]), device="cpu").tolist()
rows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in tokens]
# llm-compressor looks for a tokenizer and, on disk, for the model's config, though it needs neither here.
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({"none": 0}, unk_token="none")), unk_token="none", pad_token="none"
)
folder = tempfile.TemporaryDirectory()
config.save_pretrained(folder.name)
model.config.name_or_path = folder.name
weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
recipe = GPTQModifier(
    config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"]
)
begun = time.perf_counter()
oneshot(
    model=model,
    tokenizer=tokenizer,
    dataset=Dataset.from_list(rows),
    recipe=recipe,
    num_calibration_samples=len(rows),
    max_seq_length=asked["seqLen"],
    pipeline="sequential",
)
if device == "cuda":
    torch.cuda.synchronize()
name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
print(json.dumps({"seconds": time.perf_counter() - begun, "device": name}))

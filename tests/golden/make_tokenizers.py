"""Small tokenizers of three designs and the tokens they give, by Hugging Face's `tokenizers`: tokenizers.json beside this script.

    pip install tokenizers==0.23.3 && python make_tokenizers.py

Designs: byte-level BPE (as SmolLM2), the same with Llama 3's split and a BOS from the post-processor, and Llama 2's: no split
at all, "▁" for spaces, byte fallback, a BOS. Trained on the calibration text of sample/, the first 60,000 characters.
"""
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
TEXT = (HERE / "../../sample/corpus/calibration.txt").read_text(encoding="utf-8")[:60000]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
CASES = ["", " ", "a", "The year 1873 had 365 days.", "  two  spaces\n\n\nand\tlines \r\n end ", "don't WON'T you'll",
         "naïve café — “quoted” … ½", "日本語のテキスト and 한국어", "emoji 👩‍👩‍👧‍👦🇩🇪!", "x = {'a': [1, 22, 333, 4444]}; // end",
         "a<s>b</s><|end|>c", "\u00a0\u200b\ufeffe\u0301", TEXT[1000:1400]]


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    train(t, ["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, ["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])])
    return t


def llama2():
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")  # for training only: words are learnt one by one
    train(t, ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)])
    t.pre_tokenizer = None
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def train(t, special, **options):
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False, **options))


def main():
    tokenizers = {"byte_level": byte_level(), "llama3": llama3(), "llama2": llama2()}
    cases = [{"tokenizer": name, "text": text, "ids": t.encode(text).ids} for name, t in tokenizers.items() for text in CASES]
    texts = {name: json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":"))
             for name, t in tokenizers.items()}
    (HERE / "tokenizers.json").write_text(
        json.dumps({"tokenizers": texts, "cases": cases}, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

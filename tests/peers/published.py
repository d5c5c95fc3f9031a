#!/usr/bin/env python3
"""Downloads what was published, by huggingface_hub, compares it with what was made, and opens it with transformers.

    HF_ENDPOINT=… python published.py ORG/NAME OUT
"""
import hashlib
import sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM

from checks import Checks


def hashes(folder):
    """SHA-256 of each file, by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def main():
    name, out = sys.argv[1:]
    checks = Checks("published")
    made, found = hashes(out), hashes(snapshot_download(name))
    extra = sorted(set(found) - set(made))
    checks.check(all(found.get(f) == h for f, h in made.items()), f"all {len(made)} files are there as they were made")
    checks.check(extra == [".gitattributes", "README.md"], f"beside them: {', '.join(extra)}")
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    with torch.no_grad():
        logits = model(torch.arange(16)[None]).logits
    checks.check(bool(logits.isfinite().all()), f"transformers opens it by its name, logits {tuple(logits.shape)}")
    sys.exit(1 if checks.failed else 0)


main()

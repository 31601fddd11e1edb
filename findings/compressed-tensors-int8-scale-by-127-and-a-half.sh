#!/usr/bin/env bash
# compressed-tensors 0.20.1: the symmetric 8-bit integer scale of a row of inputs is its largest magnitude over 127.5, half
# the width of -128..127, so that the largest positive input is 127.5 steps, is rounded to 128 and clamped to 127: it comes back
# smaller than it was. Engines that divide by 127 have another scale for every token; logits of W8A8 checkpoints differ by that.
#
# Seen: `scale 0.0078431377 code 127.0 back 0.9960785`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check compressed-tensors==0.20.1 torch==2.15.0
seen=$("$dir/venv/bin/python" - <<'PY'
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams

args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
scale, zero_point = calculate_qparams(torch.tensor([[-1.0]]), torch.tensor([[1.0]]), args)
code = torch.clamp(torch.round(torch.tensor(1.0) / scale), -128, 127)
print(f"scale {scale.item():.8g} code {code.item()} back {(code * scale).item():.7g}")
PY
)
echo "$seen"
[ "$seen" = "scale 0.0078431377 code 127.0 back 0.9960785" ]

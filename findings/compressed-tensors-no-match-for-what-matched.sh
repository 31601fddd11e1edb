#!/usr/bin/env bash
# compressed-tensors 0.20.1: with two config groups, one for a class and one for a name, it warns that the name's target could
# not be matched, and applies it all the same: the search for a target that matches ends at a module's first one, so that a module
# that is of the class and has the name counts for the class alone. Who reads logs takes a head in 8 bits for one in 4.
#
# Seen: `warned of re:.*lm_head; up 4 bits, lm_head 8 bits`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check compressed-tensors==0.20.1 torch==2.15.0
cat >"$dir/seen.py" <<'PY'
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config

model = torch.nn.ModuleDict({name: torch.nn.Linear(32, 32, bias=False) for name in ("up", "lm_head")})
layers = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(num_bits=4, strategy="group", group_size=32))
head = QuantizationScheme(targets=["re:.*lm_head"], weights=QuantizationArgs(num_bits=8, strategy="channel"))
apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": layers, "group_1": head}, format="mixed-precision"))
print(", ".join(f"{name} {module.quantization_scheme.weights.num_bits} bits" for name, module in model.items()))
PY
bits=$("$dir/venv/bin/python" "$dir/seen.py" 2>"$dir/log")
# Loguru or not, colours or not: what is said names the target.
warned=$(grep -o 'Could not match `[^`]*`' "$dir/log" | cut -d'`' -f2)
seen="warned of $warned; $bits"
echo "$seen"
[ "$seen" = 'warned of re:.*lm_head; up 4 bits, lm_head 8 bits' ]

#!/usr/bin/env bash
# anthropic 2.14.0 (the Python SDK): `messages.create` takes no `temperature`, `top_p` or `top_k`, although servers of the Messages API
# sample by them: a caller that gives one gets a TypeError before anything is sent, and must put it into `extra_body`.
#
# Seen: `missing ['temperature', 'top_k', 'top_p'] extra_body True`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
seen=$("$dir/venv/bin/python" - <<'PY'
import inspect
from anthropic.resources.messages import Messages

parameters = inspect.signature(Messages.create).parameters
missing = sorted({"temperature", "top_k", "top_p"} - set(parameters))
print("missing", missing, "extra_body", "extra_body" in parameters)
PY
)
echo "$seen"
[ "$seen" = "missing ['temperature', 'top_k', 'top_p'] extra_body True" ]

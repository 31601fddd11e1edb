#!/usr/bin/env bash
# Jinja2 3.1.6: `xs|indent` of a list raises AttributeError, as it must, and has changed the list by then: a newline was
# appended to the caller's own object, although the sandbox that chat templates are rendered in promises that templates
# change nothing. A caller that renders the same messages again after the error has other messages.
#
# Seen: `before ['a'] after ['a', '\n'] error AttributeError`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check jinja2==3.1.6
seen=$("$dir/venv/bin/python" - <<'PY'
from jinja2.sandbox import ImmutableSandboxedEnvironment

xs = ["a"]
before = list(xs)
try:
    ImmutableSandboxedEnvironment().from_string("{{ xs|indent }}").render(xs=xs)
    error = None
except Exception as e:
    error = type(e).__name__
print("before", before, "after", xs, "error", error)
PY
)
echo "$seen"
[ "$seen" = "before ['a'] after ['a', '\\n'] error AttributeError" ]

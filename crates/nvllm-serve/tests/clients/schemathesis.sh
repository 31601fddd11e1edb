#!/bin/sh
# Sends what /openapi.json allows, and what it does not, to every route of a server with the demo
# model, and looks for failures: a status of 500 or above, a body or a content type that is not the
# described one.
#   usage: schemathesis.sh path/to/nvllm [examples of an operation]
# Needs python3 and PyPI. Exits with an error if something is found.
set -eu
binary=$1
examples=${2:-50}
dir=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT INT TERM

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5

# A short context, so that no answer is long.
port=$("$dir/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$binary" serve --port "$port" --max-model-len 64 >"$dir/log" 2>&1 &
server=$!
url="http://127.0.0.1:$port"
"$dir/venv/bin/python" - "$url" <<'EOF'
import sys, time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen(sys.argv[1] + "/health/ready")
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("the server is not ready after a minute")
EOF

status=0
(cd "$dir" && venv/bin/st run "$url/openapi.json" \
    --checks not_a_server_error,response_schema_conformance,content_type_conformance \
    --phases examples,coverage,fuzzing --max-examples "$examples" --seed 1 \
    --generation-database none --output-sanitize false --request-timeout 60 --warnings off --no-color) || status=$?
# Whatever was sent, the server lives.
kill -0 "$server" || { cat "$dir/log"; exit 1; }
exit "$status"

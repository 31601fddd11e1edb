#!/bin/bash
# Runs python_sdks.py and node_sdks.mjs, with the releases named here, against a server with the demo
# model. Node's is left out, and that is said, where there is no node.
#   usage: sdks.sh path/to/nvllm [a directory for the packages, made if it is not there]
# Needs python3, PyPI and npm's registry. Exits with an error if a case failed.
set -eu
binary=$1
here=$(cd "$(dirname "$0")" && pwd)
. "$(dirname "$0")/server.sh"
packages=${2:-$dir/packages}

if ! test -d "$packages/venv"; then
    python3 -m venv "$packages/venv"
    "$packages/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0 anthropic==2.14.0
fi
if command -v npm >/dev/null && ! test -d "$packages/node_modules"; then
    (cd "$packages" && npm install --silent --no-fund --no-audit openai@7.59.0 @anthropic-ai/sdk@1.14.0)
fi
start_server "$binary"

timeout 300 "$packages/venv/bin/python" "$here/python_sdks.py" "$url"
if command -v node >/dev/null; then
    NODE_SDKS="$packages" timeout 300 node "$here/node_sdks.mjs" "$url"
else
    echo "node_sdks.mjs is left out: there is no node"
fi
kill "$server"
status=0
wait "$server" || status=$?
server=
if test "$status" -ne 0; then
    echo "FAILED server_exits_with_0: $status"
    exit 1
fi
echo "ok server_exits_with_0"

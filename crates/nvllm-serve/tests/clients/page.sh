#!/bin/bash
# Runs page.mjs: the chat page in a headless Chromium, on a server with the demo model that asks for
# a key.
#   usage: page.sh path/to/nvllm [a directory for the packages, made if it is not there [a directory for screenshots]]
# Needs chromium, node and npm's registry. Exits with an error if a case failed, with 75 if the
# packages cannot be had.
set -eu
binary=$1
here=$(cd "$(dirname "$0")" && pwd)
. "$here/server.sh"
packages=${2:-$dir/packages}

if ! test -d "$packages/node_modules/axe-core"; then
    mkdir -p "$packages"
    if ! (cd "$packages" && npm install --silent --no-fund --no-audit --prefix . playwright-core@1.65.1 axe-core@4.14.1); then
        echo "npm's packages cannot be had"
        exit 75
    fi
fi
start_server "$binary" --api-key sk-page

PACKAGES="$packages" CHROMIUM="$(command -v chromium)" timeout 600 node "$here/page.mjs" "$url" "${3:-}"

#!/usr/bin/env bash
# Tries what `cargo xtask dist` made in fresh root file systems: the archive in one with nothing but Debian's
# minimal set, the wheel in one with Python and pip. Needs debootstrap and root. About two minutes.
set -euo pipefail
cd "$(dirname "$0")/../.dist"
sha256sum --check --quiet SHA256SUMS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A root file system with the packages named.
system() {
    debootstrap --variant=minbase --include="$2" bookworm "$work/$1" >"$work/$1.log" 2>&1 || { tail "$work/$1.log"; exit 1; }
}

# Answers a question by the command line, then over HTTP.
try() {
    local root=$1 program=$2 port
    chroot "$root" "$program" --version
    chroot "$root" "$program" chat --temp 0 "What is the capital of France?"
    chroot "$root" "$program" serve --port 0 2>"$work/serve.log" &
    local server=$!
    for _ in $(seq 600); do
        port=$(sed -n 's,.*http://127.0.0.1:\([0-9]*\).*,\1,p' "$work/serve.log" | head -1)
        [ -n "$port" ] && curl -sf "http://127.0.0.1:$port/health/ready" >/dev/null && break
        sleep 0.1
    done
    curl -sf "http://127.0.0.1:$port/v1/completions" -d '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}'
    echo
    kill -TERM "$server"
    wait "$server"
}

echo "== the archive on a minimal Debian"
system archive libc6
tar -C "$work/archive/opt" -xJf nvllm-*-linux.tar.xz
try "$work/archive" "/opt/$(basename nvllm-*-linux)/nvllm"

echo "== the wheel, by pip"
system wheel python3-pip,python3-venv
cp nvllm-*.whl "$work/wheel/opt/"
chroot "$work/wheel" python3 -m venv /opt/venv
chroot "$work/wheel" /opt/venv/bin/pip install --no-index --quiet "/opt/$(basename nvllm-*.whl)"
try "$work/wheel" /opt/venv/bin/nvllm
echo "both run"

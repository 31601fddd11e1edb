# Sourced by the scripts beside it: a temporary folder in $dir, and a server with the demo model that ends with the script.
dir=$(mktemp -d)
server=
trap 'test -z "$server" || { kill "$server"; wait "$server"; } 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM

# Starts the binary $1 with the flags that follow, and waits until it serves: $url is its address,
# $server its process.
start_server() {
    # Before the server's process, which may begin late, opens it.
    : >"$dir/server.log"
    "$1" serve --port 0 --backend cpu --threads 1 "${@:2}" >"$dir/server.log" 2>&1 &
    server=$!
    for _ in $(seq 600); do
        url=$(sed -n 's/^serving .* on \(http.*\)$/\1/p' "$dir/server.log")
        test -z "$url" || return 0
        kill -0 "$server" || { cat "$dir/server.log"; exit 1; }
        sleep 0.1
    done
    echo "FAILED the server is not ready after a minute"
    exit 1
}

#!/bin/bash
# Runs aiperf against a server with the demo model, with lengths that are fixed, and checks that no
# request fails, and that aiperf, the server's answers and its /metrics tell of the tokens asked for.
#   usage: load_generators.sh path/to/nvllm [a virtual environment, made if it is not there]
# Needs python3 (3.11 to 3.13), PyPI and 1.2 GB for aiperf. Prints a line for each case, and exits
# with an error if one failed.
set -eu
binary=$1
models=$(cd "$(dirname "$0")/../../../../models" && pwd)
. "$(dirname "$0")/server.sh"
venv=${2:-$dir/venv}
requests=24 input=100 output=32

if ! test -x "$venv/bin/aiperf"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check aiperf==0.13.0
fi
start_server "$binary"

# Prompts are made with the model's own tokenizer, from a directory: HF_HUB_OFFLINE would have aiperf
# look for the directory's name in the hub's cache. Tokens are counted by the answers' usage, because
# a text does not always have as many tokens as it was generated from.
run() {
    endpoint=$1
    shift
    status=0
    (cd "$dir" && HF_HOME="$dir/hf" timeout 300 "$venv/bin/aiperf" profile --model nvllm-tiny --url "$url" \
        --tokenizer "$models/nvllm-tiny" --use-server-token-count --endpoint-type "$endpoint" "$@" \
        --request-count "$requests" --concurrency 4 --random-seed 1 --extra-inputs ignore_eos:true \
        --synthetic-input-tokens-mean "$input" --synthetic-input-tokens-stddev 0 \
        --output-tokens-mean "$output" --output-tokens-stddev 0 \
        --artifact-dir "$dir/$endpoint" --export-level records --ui none >"$dir/aiperf.log" 2>&1) || status=$?
    if test "$status" -ne 0; then
        tail -40 "$dir/aiperf.log"
        echo "FAILED aiperf_${endpoint}_ends_well: exit code $status"
        exit 1
    fi
    echo "ok aiperf_${endpoint}_ends_well"
}

"$venv/bin/aiperf" --version
run chat --streaming
run completions --streaming

"$venv/bin/python" - "$url" "$dir" "$requests" "$input" "$output" <<'EOF'
import json, re, sys, urllib.request

url, directory = sys.argv[1:3]
requests, asked_input, asked_output = map(int, sys.argv[3:])
failed = []


def case(name, left, right):
    print(f"ok {name}" if left == right else f"FAILED {name}: {left}, and not {right}")
    failed.extend([] if left == right else [name])


def post(path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


template = post("/tokenize", {"messages": [{"role": "user", "content": ""}]})["count"]
generated = prompts = 0
for endpoint, around in (("chat", template), ("completions", 0)):
    with open(f"{directory}/{endpoint}/profile_export.jsonl", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    case(f"{endpoint}_no_request_failed", (len(records), [record["error"] for record in records if record.get("error")]),
         (requests, []))
    counts = {name: {record["metrics"][name]["value"] for record in records}
              for name in ("input_sequence_length", "output_sequence_length")}
    case(f"{endpoint}_lengths_are_as_asked", counts,
         {"input_sequence_length": {asked_input + around}, "output_sequence_length": {asked_output}})
    generated += requests * asked_output
    prompts += requests * (asked_input + around)
metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
totals = [sum(float(value) for value in re.findall(rf"^nvllm:{name}_total{{.*}} (\S+)$", metrics, re.MULTILINE))
          for name in ("generation_tokens", "prompt_tokens", "request_success")]
case("metrics_tell_the_same", totals, [generated, prompts, 2 * requests])
with open(f"{directory}/server.log") as log:
    case("log_has_no_error", [line for line in log if " request " in line and "status=200" not in line], [])
sys.exit(bool(failed))
EOF

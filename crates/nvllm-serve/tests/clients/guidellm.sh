#!/bin/bash
# Runs guidellm against a server with the demo model, with synthetic prompts and answers of a fixed
# length, offline, and checks that no request fails, and that guidellm and the server's /metrics
# tell of the same tokens.
#   usage: guidellm.sh path/to/nvllm [a virtual environment, made if it is not there]
# Needs python3 (3.10 to 3.13), PyPI and 6 GB for guidellm with its torch. Prints a line for each
# case, and exits with an error if one failed.
set -eu
binary=$1
models=$(cd "$(dirname "$0")/../../../../models" && pwd)
. "$(dirname "$0")/server.sh"
venv=${2:-$dir/venv}
requests=12 input=100 output=32

if ! test -x "$venv/bin/guidellm"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check guidellm==0.8.1
fi
start_server "$binary"

"$venv/bin/guidellm" --version
for format in chat_completions completions; do
    status=0
    HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 timeout 300 "$venv/bin/guidellm" run \
        --backend "kind=openai_http,target=$url,request_format=/v1/${format/_//}" \
        --profile kind=concurrent,streams=4 --constraint "kind=max_requests,count=$requests" \
        --tokenizer "kind=hf_auto,model=$models/nvllm-tiny" \
        --data "kind=synthetic_text,prompt_tokens=$input,output_tokens=$output" \
        --output "kind=json,path=$dir/$format.json" --disable-console >"$dir/guidellm.log" 2>&1 || status=$?
    if test "$status" -ne 0; then
        tail -40 "$dir/guidellm.log"
        echo "FAILED guidellm_${format}_ends_well: exit code $status"
        exit 1
    fi
    echo "ok guidellm_${format}_ends_well"
done

"$venv/bin/python" - "$url" "$dir" "$requests" "$output" <<'EOF'
import json, re, sys, urllib.request

url, directory = sys.argv[1:3]
requests, output = map(int, sys.argv[3:])
failed = []


def case(name, left, right):
    print(f"ok {name}" if left == right else f"FAILED {name}: {left}, and not {right}")
    failed.extend([] if left == right else [name])


answers = []
for name in ("chat_completions", "completions"):
    with open(f"{directory}/{name}.json", encoding="utf-8") as report:
        told = json.load(report)["benchmarks"][0]["requests"]
    case(f"{name}_no_request_failed", [len(told[kind]) for kind in ("successful", "errored", "incomplete")],
         [requests, 0, 0])
    case(f"{name}_lengths_are_as_asked", {answer["output_tokens"] for answer in told["successful"]}, {output})
    answers += told["successful"]
metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
totals = [sum(float(value) for value in re.findall(rf"^nvllm:{name}_total{{.*}} (\S+)$", metrics, re.MULTILINE))
          for name in ("generation_tokens", "prompt_tokens", "request_success")]
case("metrics_tell_the_same", totals,
     [sum(answer[name] for answer in answers) for name in ("output_tokens", "prompt_tokens")] + [len(answers)])
sys.exit(bool(failed))
EOF

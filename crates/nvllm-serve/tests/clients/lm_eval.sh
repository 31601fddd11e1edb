#!/bin/bash
# Runs lm-eval's `local-completions`, with the server's own tokenizer, on the local task beside this
# file, and compares each recorded log-likelihood with what /v1/completions says when asked directly.
#   usage: lm_eval.sh path/to/nvllm [a virtual environment, made if it is not there]
# Needs python3 and PyPI. Prints a line for each case, and exits with an error if one failed.
set -eu
binary=$1
here=$(cd "$(dirname "$0")" && pwd)
. "$(dirname "$0")/server.sh"
venv=${2:-$dir/venv}

if ! test -x "$venv/bin/lm_eval"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'lm-eval[api]==0.4.13'
fi
start_server "$binary"

# The fixed lines, and the model's own likeliest continuations of their contexts.
"$venv/bin/python" - "$url" "$here/lm_eval_task/continuations.jsonl" >"$dir/continuations.jsonl" <<'EOF'
import json, sys, requests
url, path = sys.argv[1:]
for line in open(path, encoding="utf-8"):
    print(line, end="")
    context = json.loads(line)["context"]
    asked = {"prompt": context, "max_tokens": 3, "temperature": 0, "repetition_penalty": 1, "ignore_eos": True}
    said = requests.post(f"{url}/v1/completions", json=asked).json()["choices"][0]["text"]
    if "\ufffd" not in said and said:
        print(json.dumps({"context": context, "continuation": said}))
EOF
mkdir "$dir/task"
sed "s|CONTINUATIONS|$dir/continuations.jsonl|" "$here/lm_eval_task/nvllm_continuations.yaml" >"$dir/task/task.yaml"

(cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 timeout 300 "$venv/bin/lm_eval" run \
    --model local-completions --tasks nvllm_continuations --include_path "$dir/task" --batch_size 3 \
    --model_args "model=nvllm-tiny,base_url=$url/v1/completions,num_concurrent=2,tokenizer_backend=auto" \
    --output_path "$dir/results" --log_samples >"$dir/lm_eval.log" 2>&1) ||
    { tail -40 "$dir/lm_eval.log"; echo "FAILED lm_eval_ends_well"; exit 1; }
echo "ok lm_eval_ends_well"

"$venv/bin/python" - "$url" "$dir" <<'EOF'
import glob, json, math, sys
import requests

url, directory = sys.argv[1:]
failed = []


def case(name, wrong):
    print(f"FAILED {name}: {wrong}" if wrong else f"ok {name}")
    failed.extend([name] if wrong else [])


def tokens(text):
    body = {"prompt": text, "add_special_tokens": False}
    return requests.post(f"{url}/tokenize", json=body).json()["tokens"]


def ask(prompt, **fields):
    body = {"prompt": prompt, "echo": True, "temperature": 0, **fields}
    return requests.post(f"{url}/v1/completions", json=body).json()["choices"][0]["logprobs"]


log = open(f"{directory}/server.log").read()
counts = {path: log.count(f'path="{path}"') for path in ("/tokenizer_info", "/tokenize", "/v1/completions")}
case("tokenizer_is_the_servers", None if all(counts.values()) else f"asked were {counts}")
case("no_request_failed", [line for line in log.splitlines() if " request " in line and "status=200" not in line])

path, = glob.glob(f"{directory}/results/**/samples_*.jsonl", recursive=True)
samples = [json.loads(line) for line in open(path, encoding="utf-8")]
documents = [json.loads(line) for line in open(f"{directory}/continuations.jsonl", encoding="utf-8")]
case("all_lines_are_recorded", None if len(samples) == len(documents) >= 8 else f"{len(samples)} of {len(documents)}")
unlike, greedy_unlike, greedy, must_be = [], [], 0, 0
for sample in samples:
    document, (recorded, is_greedy) = sample["doc"], sample["filtered_resps"][0]
    recorded, is_greedy = float(recorded), str(is_greedy) == "True"
    # As lm-eval does: a space at the context's end is the continuation's.
    context = document["context"].rstrip()
    whole, start = tokens(document["context"] + document["continuation"]), len(tokens(context))
    # The prompt alone, and the prompt with one token more, which is not the continuation's.
    alone, one_more = ask(whole, max_tokens=0, logprobs=1), ask(whole, max_tokens=1, logprobs=1)
    ends = [alone["token_logprobs"][start:], one_more["token_logprobs"][start:-1]]
    for how, entries in zip(("max_tokens 0", "max_tokens 1"), ends):
        if len(entries) != len(whole) - start or not math.isclose(sum(entries), recorded, rel_tol=0, abs_tol=1e-9):
            unlike.append(f"{document}: recorded {recorded}, {how} says {sum(entries)} in {len(entries)} tokens")
    # What the likeliest tokens are, from answers of one token after each prefix.
    likeliest = [ask(whole[:end], max_tokens=1, repetition_penalty=1, return_token_ids=True, logprobs=1)
                 for end in range(start, len(whole))]
    same = [one["token_logprobs"][-1] == own for one, own in zip(likeliest, ends[0])]
    greedy += is_greedy
    must_be += all(same)
    if is_greedy != all(same):
        greedy_unlike.append(f"{document}: is_greedy {is_greedy}, the likeliest have {likeliest}, it has {ends[0]}")
case("loglikelihoods_are_the_servers", unlike)
case("is_greedy_where_it_must_be", greedy_unlike or (None if must_be and greedy < len(samples) else "no such line"))
print(f"   {len(samples)} lines, {greedy} greedy; asked: {counts}")
sys.exit(bool(failed))
EOF

#!/usr/bin/env bash
# Tests and measures the CUDA backend from a bundle (`cargo xtask bundle`), on a machine that has a GPU and neither Rust nor the repository.
#
#     ./gpu-suite.sh [show] [test] [logits] [sanitize] [bench]      all of them if none is named
#
# `logits` needs a python3 with torch, transformers and safetensors.
#
# Logs and raw records go to $OUT (./out if it is not set); what failed and the tables are printed last. What is measured: $WORKLOADS under
# each of $NUMERICS, with more arguments in $BENCH_ARGS, beside the peers that the Python $PEER_PYTHON has.
set -u
cd "$(dirname "$0")" || exit 1
out=${OUT:-$PWD/out}
logs=$(mktemp -d)
mkdir -p "$out"
wanted=" ${*:-show test logits sanitize bench} "
failed=""

# Runs a command with its output in a log; prints one line.
step() {
    local name=$1
    shift
    local start=$SECONDS
    if "$@" >"$logs/$name.log" 2>&1; then
        echo "ok      $name ($((SECONDS - start)) s)"
    else
        echo "FAILED  $name ($((SECONDS - start)) s)"
        failed="$failed $name"
    fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1

if [[ $wanted == *" show "* ]]; then
    step doctor ./nvllm doctor
    step generate ./nvllm generate --backend cuda --model models/nvllm-tiny --temperature 0 -n 128 "Once upon a time"
    tail -n 20 "$logs"/doctor.log "$logs"/generate.log
fi

if [[ $wanted == *" test "* ]]; then
    step parity ./parity --nocapture --test-threads 8
    step golden_fixtures ./golden_fixtures cuda --nocapture --test-threads 2
    step golden_text ./golden_text cuda --nocapture --test-threads 2
    step metamorphic ./metamorphic cuda --nocapture --test-threads 2
    step golden ./xtask golden --backend cuda
    cat "$logs/golden.log"
    if grep -h "^skipped" "$logs"/*.log; then
        failed="$failed skipped"
    fi
fi

if [[ $wanted == *" logits "* ]]; then
    # Where `xtask bench` looks for it too.
    model=out/bench/qwen3-0.6b-seed0
    [ -f $model/model.safetensors ] || step synth ./xtask synth --config qwen3-0.6b --seed 0 --out $model
    step logits python3 tests/python/logits_distance.py --model $model --nvllm ./nvllm --backend cuda \
        --records "$out/logits.jsonl" --commit "$(cat commit)"
    sed -n '/^| prompt/,$p' "$logs/logits.log"
fi

if [[ $wanted == *" sanitize "* ]]; then
    if command -v compute-sanitizer >/dev/null; then
        # Few trials: a sanitised kernel runs ten to a hundred times slower. Only these kernels share memory between threads, which
        # is what racecheck looks at.
        shared="eager::rms_norm eager::paged_attention eager::sample eager::logprobs eager::masks"
        PROPTEST_CASES=3 step memcheck compute-sanitizer --tool memcheck --error-exitcode 1 --print-limit 20 \
            ./parity eager:: --test-threads 1
        PROPTEST_CASES=3 step initcheck compute-sanitizer --tool initcheck --error-exitcode 1 --print-limit 20 \
            ./parity eager:: --test-threads 1
        # shellcheck disable=SC2086 # Several filters.
        PROPTEST_CASES=2 step racecheck compute-sanitizer --tool racecheck --error-exitcode 1 --print-limit 20 \
            ./parity $shared --test-threads 1
    else
        echo "skipped: compute-sanitizer is not on this machine"
    fi
fi

if [[ $wanted == *" bench "* ]]; then
    # Peers only where a Python is named that has them.
    peers=--no-peers
    [ -n "${PEER_PYTHON:-}" ] && peers="--peer-python $PEER_PYTHON"
    for numerics in ${NUMERICS:-invariant fast}; do
        # shellcheck disable=SC2086 # Several workloads, several words.
        step "bench_$numerics" ./xtask bench ${WORKLOADS:-accuracy memory decode prefill ops} --backend cuda $peers \
            --numerics "$numerics" --records "$out/cuda.jsonl" --commit "$(cat commit)" ${BENCH_ARGS:-}
        sed -n '/^| workload/,$p' "$logs/bench_$numerics.log"
    done
fi

tail -n +1 "$logs"/*.log >"$out/suite.log"
for name in $failed; do
    [ -f "$logs/$name.log" ] || continue
    echo "== $name"
    grep -E -A8 "panicked|^error|Error: |ended with|ERROR SUMMARY|========= [A-Z]" "$logs/$name.log" | cut -c1-400 | head -60
done
echo "failed:${failed:- nothing}"
[ -z "$failed" ]

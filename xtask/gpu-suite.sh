#!/usr/bin/env bash
# Tests and measures the CUDA backend from a bundle (`cargo xtask bundle`), on a machine that has a GPU and neither Rust nor the repository.
#
#     ./gpu-suite.sh [test] [sanitize] [bench]      all three if none is named
#
# Logs and raw records go to $OUT (./out if it is not set); what failed and the tables are printed last. What is measured: $WORKLOADS under
# each of $NUMERICS, with more arguments in $BENCH_ARGS, beside the peers that the Python $PEER_PYTHON has.
set -u
cd "$(dirname "$0")" || exit 1
out=${OUT:-$PWD/out}
logs=$(mktemp -d)
mkdir -p "$out"
wanted=" ${*:-test sanitize bench} "
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

if [[ $wanted == *" test "* ]]; then
    step parity ./parity --nocapture --test-threads 8
    step golden_fixtures ./golden_fixtures cuda --nocapture --test-threads 2
    step golden_text ./golden_text cuda --nocapture --test-threads 2
    step metamorphic ./metamorphic cuda --nocapture --test-threads 2
    if grep -h "^skipped" "$logs"/*.log; then
        failed="$failed skipped"
    fi
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
    grep -E -A8 "panicked|^error|ERROR SUMMARY|========= [A-Z]" "$logs/$name.log" | cut -c1-400 | head -60
done
echo "failed:${failed:- nothing}"
[ -z "$failed" ]

#!/usr/bin/env bash
# Tests and measures the CUDA backend with a bundle (`cargo xtask bundle`), from a checkout on a machine that has a GPU and no Rust. `wgpu`
# tests the portable backend on any GPU, with a bundle of its own (`cargo xtask bundle --wgpu`), a Vulkan loader and the GPU's driver for it.
#
#     xtask/gpu-suite.sh [program] [test] [wgpu] [ops] [logits] [sanitize] [bench]      all but wgpu if none is named
#
# The bundle's executables are in $BUNDLE (.bundle/gpu if it is not set; .bundle/gpu.tar.xz is unpacked if that is all there is). What they
# read is the checkout's. `logits` needs a python3 with torch, transformers and safetensors.
#
# Logs and raw records go to $OUT (./out if it is not set); what failed and the tables are printed last. What is measured: $WORKLOADS under
# each of $NUMERICS, with more arguments in $BENCH_ARGS, beside the peers that the Python $PEER_PYTHON has. `ops` is given $OPS_ARGS.
set -u
cd "$(dirname "$0")/.." || exit 1
bundle=${BUNDLE:-.bundle/gpu}
if [ ! -d "$bundle" ] && [ -f .bundle/gpu.tar.xz ]; then
    python3 -m tarfile -e .bundle/gpu.tar.xz .bundle || exit 1
fi
[ -x "$bundle/nvllm" ] || {
    echo "$bundle holds no bundle: make one with \`cargo xtask bundle\`, and unpack it there" >&2
    exit 1
}
# Snapshots are the checkout's: the folder that the tests were built in is not here.
export INSTA_WORKSPACE_ROOT=$PWD INSTA_UPDATE=no
commit=$(cat "$bundle/commit")
out=${OUT:-$PWD/out}
logs=$(mktemp -d)
mkdir -p "$out"
wanted=" ${*:-program test ops logits sanitize bench} "
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

# Fails for logs of tests that tested nothing.
ran() {
    for name in "$@"; do
        if grep -q -e "skipped: " -e "^running 0 tests" "$logs/$name.log"; then
            echo "SKIPPED $name"
            failed="$failed $name"
        fi
    done
}

# Runs a command that must fail, with an error in one line that holds these words.
refused() {
    local words=$1
    shift
    ! "$@" 2>"$logs/refusal" && cat "$logs/refusal" && tail -n 1 "$logs/refusal" | grep -q "^error: .*$words"
}

# A prompt of 2,048 tokens has the same logits, byte for byte, in whatever steps it runs.
same_bits() {
    python3 -c 'import random; print(*(random.Random(7).choices(range(151643), k=2048)))' >"$logs/ids"
    for tokens in 2048 1500 512 100 24 9 2 1; do
        "$bundle/nvllm" logits --model "$1" --backend cuda --ids "$logs/ids" --max-model-len 2048 --max-num-batched-tokens $tokens \
            --out "$logs/$tokens.safetensors" || return 1
        sha256sum "$logs/$tokens.safetensors"
        cmp "$logs/2048.safetensors" "$logs/$tokens.safetensors" || return 1
        [ $tokens = 2048 ] || rm "$logs/$tokens.safetensors"
    done
}

[ "$wanted" = " wgpu " ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1

if [[ $wanted == *" program "* ]]; then
    # As a user has it for the first time: nothing kept, and nothing to compile.
    nvllm=(env XDG_CACHE_HOME="$logs/cache" "$bundle/nvllm")
    generate=("${nvllm[@]}" generate "Once upon a time" --model models/nvllm-tiny --backend cuda -n 64)
    step doctor "${nvllm[@]}" doctor
    step generate "${generate[@]}"
    step nothing_compiled test ! -e "$logs/cache/nvllm/kernels"
    step refused_gpu refused "the driver shows" "${generate[@]}" --gpu 99
    step refused_plan refused "the model does not fit" "${generate[@]}" --kv-cache-bytes 1000000000000
    cat "$logs/doctor.log" "$logs/generate.log" "$logs/refused_gpu.log" "$logs/refused_plan.log"
fi

if [[ $wanted == *" test "* ]]; then
    step parity "$bundle/parity" --nocapture --test-threads 8
    step golden_fixtures "$bundle/golden_fixtures" cuda --nocapture --test-threads 2
    step golden_text "$bundle/golden_text" cuda --nocapture --test-threads 2
    step metamorphic "$bundle/metamorphic" cuda --nocapture --test-threads 2
    step decode_pass "$bundle/decode_pass" --nocapture
    step schedule "$bundle/schedule" --nocapture
    step golden "$bundle/xtask" golden --backend cuda
    cat "$logs/golden.log"
    ran parity golden_fixtures golden_text metamorphic decode_pass schedule
fi

if [[ $wanted == *" wgpu "* ]]; then
    # `ops` runs the parity suite's cases, then the ops of models, with the time of each.
    # shellcheck disable=SC2086 # Several arguments, several words.
    step wgpu_ops "$bundle/xtask" ops --backend wgpu --perf --records "$out/wgpu-ops.jsonl" --commit "$commit" ${OPS_ARGS:-}
    step wgpu_golden "$bundle/xtask" golden --backend wgpu
    step wgpu_doctor "$bundle/nvllm" doctor
    step wgpu_verify "$bundle/nvllm" verify --model models/nvllm-tiny --backend wgpu
    cat "$logs/wgpu_doctor.log" "$logs/wgpu_ops.log" "$logs/wgpu_golden.log" "$logs/wgpu_verify.log"
fi

if [[ $wanted == *" ops "* ]]; then
    # shellcheck disable=SC2086 # Several arguments, several words.
    step ops "$bundle/xtask" ops --backend cuda --perf --records "$out/ops.jsonl" --commit "$commit" ${OPS_ARGS:-}
    cat "$logs/ops.log"
fi

if [[ $wanted == *" logits "* ]]; then
    # Where `xtask bench` looks for it too.
    model=out/bench/qwen3-0.6b-seed0
    [ -f $model/model.safetensors ] || step synth "$bundle/xtask" synth --config qwen3-0.6b --seed 0 --out $model
    step logits python3 tests/python/logits_distance.py --model $model --nvllm "$bundle/nvllm" --backend cuda \
        --records "$out/logits.jsonl" --commit "$commit"
    sed -n '/^| prompt/,$p' "$logs/logits.log"
    step same_bits same_bits $model
fi

if [[ $wanted == *" sanitize "* ]]; then
    if command -v compute-sanitizer >/dev/null; then
        # Few trials, because sanitised kernels run ten to a thousand times slower; drawn shapes seldom are those of fast kernels, which
        # the demo model's steps run one after another. Racecheck looks at memory that a block's threads share: not every kernel has it.
        general="eager::rms_norm eager::paged_attention eager::sample eager::logprobs eager::masks"
        for tool in memcheck initcheck racecheck; do
            sanitize=(compute-sanitizer --tool $tool --error-exitcode 1 --print-limit 20)
            [ $tool = racecheck ] && cases=$general || cases="eager::"
            # shellcheck disable=SC2086 # Several filters.
            PROPTEST_CASES=1 step ${tool}_ops "${sanitize[@]}" "$bundle/parity" $cases --test-threads 1 --nocapture
            step ${tool}_steps "${sanitize[@]}" "$bundle/metamorphic" cuda_step_sizes --nocapture
        done
        ran memcheck_ops memcheck_steps initcheck_ops initcheck_steps racecheck_ops racecheck_steps
    else
        echo "skipped: compute-sanitizer is not on this machine"
        failed="$failed sanitize"
    fi
fi

if [[ $wanted == *" bench "* ]]; then
    # Peers only where a Python is named that has them.
    peers=(--no-peers)
    [ -n "${PEER_PYTHON:-}" ] && peers=(--peer-python "$PEER_PYTHON")
    for numerics in ${NUMERICS:-invariant fast}; do
        # shellcheck disable=SC2086 # Several workloads, several words.
        step "bench_$numerics" "$bundle/xtask" bench --commit "$commit" "${peers[@]}" \
            ${WORKLOADS:-startup accuracy memory decode prefill ops} --backend cuda --numerics "$numerics" --records "$out/cuda.jsonl" ${BENCH_ARGS:-}
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

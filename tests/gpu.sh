#!/usr/bin/env bash
# The GPU suite: operators, fixtures, the zoo and the quick start on an NVIDIA GPU, and one report of it all.
#
#   tests/gpu.sh [REPORT]
#
# Needs no compiler: only what `cargo build --release` and `cargo test --no-run --workspace` have built, here or, by SNNC and
# SUITE, elsewhere; and NVIDIA's libraries, found in LD_LIBRARY_PATH, on the usual paths, or in a Python's `nvidia` packages.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
report=${1:-docs/gpu-report.md}
snnc=$(realpath "${SNNC:-target/release/snnc}")
suite=${SUITE:-$(find target/debug/deps -maxdepth 1 -name 'suite-*' -type f -executable -printf '%T@ %p\n' 2>/dev/null | sort -rn | head -1 | cut -d' ' -f2)}
for binary in "$snnc" "$suite"; do
    if [ ! -x "$binary" ]; then
        echo "there is no ${binary:-test suite}: cargo build --release && cargo test --no-run --workspace, or set SNNC and SUITE" >&2
        exit 2
    fi
done
suite=$(realpath "$suite")
export SNNC_GPU=1 SNNC_TESTS="$PWD/tests"

# The libraries of a Python that is here, behind those that were given.
for site in $(python3 -c 'import site; print(*site.getsitepackages(), site.getusersitepackages())' 2>/dev/null); do
    for folder in "$site"/nvidia/*/lib; do
        [ -d "$folder" ] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
    done
done
export LD_LIBRARY_PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SNNC_CACHE="$work/cache"
failed=0
: > "$work/table"
: > "$work/details"

# Without a GPU there is nothing to report.
if ! "$snnc" train quickstart/digits --backend cuda --epochs 1 -o "$work/first" > "$work/out" 2>&1 && grep -q -- '--backend cuda:' "$work/out"; then
    cat "$work/out" >&2
    exit 2
fi

# step NAME COMMAND...: runs it, keeps what it says, and adds a row.
step() {
    local name=$1 began ended status
    shift
    began=$(date +%s.%N)
    if "$@" > "$work/out" 2>&1; then status=passes; else status=fails failed=1; fi
    ended=$(date +%s.%N)
    printf '| %s | %s | %.1f s |\n' "$name" "$status" "$(echo "$ended - $began" | bc -l 2>/dev/null || echo 0)" >> "$work/table"
    {
        printf '\n### %s\n\n```text\n' "$name"
        tail -60 "$work/out"
        printf '```\n'
    } >> "$work/details"
    echo "$name: $status"
}

# shellcheck disable=SC2317 # called by step
sanitized() {
    compute-sanitizer --tool "$1" --error-exitcode 1 "$suite" "$2" --exact --test-threads 1
}

step "operators, forward and backward" "$suite" operators:: --test-threads 1
step "sums that bits mask, on tensor cores" "$suite" masked:: --test-threads 1
step "fixtures" "$suite" fixtures:: --test-threads 1
step "every model of the zoo for 20 steps, twice" "$suite" gpu:: --skip what_a_device_is_told --test-threads 1 --nocapture
step "the quick start" "$snnc" train quickstart/digits --backend cuda -o "$work/digits"
step "16 bits beside f32" "$suite" precision:: --test-threads 1 --nocapture
step "the quick start in f16" "$snnc" train quickstart/digits --backend cuda --precision f16 -o "$work/digits-f16"
step "the quick start's kernels from the cache" "$snnc" train quickstart/digits --backend cuda --epochs 1 -o "$work/again"
for precision in f32 tf32 bf16 f16; do
    step "a step of MlpSpeT in $precision" "$snnc" bench step mixer/mlp_spe#MlpSpeT --batch 64 --precision "$precision" --backend cuda --by kernel
done
step "a step of Spikingformer8x512Published in f16" \
    "$snnc" bench step spikingformer/imagenet_published#Spikingformer8x512Published --batch 64 --precision f16 --backend cuda --by kernel
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    for model in mlp_spe_t spikingformer_8_512; do
        step "peers: $model" python3 tests/benches/peers/step.py --model "$model" --batch 64 --precision f16 --snnc "$snnc"
    done
else
    echo '| peers | no PyTorch with a GPU here | |' >> "$work/table"
fi
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for test in operators::gradients_of_both_backends_are_the_reference_s operators::long_sums_in_16_bits_are_the_reference_s \
            masked::sums_that_bits_mask_are_exact; do
            step "compute-sanitizer $tool: $test" sanitized "$tool" "$test"
        done
    done
else
    echo '| compute-sanitizer | not installed here | |' >> "$work/table"
fi

{
    echo '# The GPU suite'
    echo
    echo 'Written by tests/gpu.sh.'
    echo
    printf -- '- date: %s\n' "$(date -u +%Y-%m-%d)"
    printf -- '- commit: %s\n' "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
    printf -- '- device: %s\n' "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)"
    printf -- '- snnc: %s\n' "$("$snnc" --version)"
    echo
    echo '| part | | time |'
    echo '|---|---|---|'
    cat "$work/table"
    echo
    echo '## What they said'
    cat "$work/details"
} > "$report"
echo "wrote $report"
exit "$failed"

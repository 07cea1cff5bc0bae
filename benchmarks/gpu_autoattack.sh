#!/usr/bin/env bash
# The CUDA half of benchmarks/RESULTS.md, in pieces of at most a few minutes; each finished piece is kept.
#
#     benchmarks/gpu_autoattack.sh CHECKPOINT DATA_DIR OUT     # CHECKPOINT: a preact_resnet18 trained on CIFAR-10
#     benchmarks/gpu_autoattack.sh --toy OUT                   # the same calls on a CPU with toy sizes
#
# float32 with TF32 off on both sides, then on for both; then our float16 search against the same reference.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}

if [ "$1" = --toy ]; then
    out=$2 device=cpu n=4 count=2 batches=(2 4) ours=(4)
    net=(--architecture small_cnn) data=() stages=(--stages apgd_ce)
    wide=(--architecture small_cnn)
else
    out=$3 device=cuda n=1000 count=256 batches=(250 500 1000) ours=(500 1000)
    net=("$1") data=(--data-dir "$2") stages=()
    wide=(--architecture wrn28_10)
fi
mkdir -p "$out"

# A piece that is there is not done again, so a lent machine may end in the middle.
piece() {
    local name=$1
    shift
    if [ -s "$out/$name.md" ]; then
        return
    fi
    echo "== $name"
    "$@" | tee "$out/$name.tmp" && mv "$out/$name.tmp" "$out/$name.md"
}

# First the truth: an engine that is fast and wrong needs no benchmark.
piece selftest "$python" -m robustbench_lite selftest --device "$device"

attack=("$python" "$here/autoattack.py" --eps 8/255 --device "$device")
piece float32 "${attack[@]}" "${net[@]}" "${data[@]}" "${stages[@]}" --n $n \
    --batches "${batches[@]}" --ours "${ours[@]}" --json "$out/float32.json"
piece tf32 "${attack[@]}" "${net[@]}" "${data[@]}" "${stages[@]}" --n $n --tf32 --bare 0 \
    --batches "${batches[@]: -1}" --ours "${ours[@]: -1}" --json "$out/tf32.json"
piece mixed "${attack[@]}" "${net[@]}" "${data[@]}" "${stages[@]}" --n $n --precision mixed --bare 0 \
    --batches "${batches[@]: -1}" --ours "${ours[@]: -1}" --json "$out/mixed.json"
# Throughput per attack on random weights: labels are predictions, and at this radius none is broken, so nothing leaves early.
for stage in apgd_ce square; do
    piece "wide_$stage" "${attack[@]}" "${wide[@]}" --eps 0.00001 --n $count --stages $stage --bare 3 \
        --batches $count --ours $count
done
piece pgd "$python" "$here/pgd.py" "${net[@]}" "${data[@]}" --eps 8/255 --n $count \
    --batch-size $count --device "$device" --rounds 3

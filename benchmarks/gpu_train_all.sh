#!/usr/bin/env bash
# Train and evaluate the mid-sized CIFAR-10 recipes on one GPU, in order, as many as fit:
#
#     benchmarks/gpu_train_all.sh --data-dir DIR [--minutes 25] [--epochs 12] [--n 1000]
#
# Restartable: everything resumes or answers from what is there. After the deadline no further
# network is begun; the one in progress is stopped and goes on in the next call. Results (result.json,
# examples.parquet, card, metrics, float16 weights, hardware and versions) land in --entries, to be
# committed. A rehearsal at toy size on a CPU: benchmarks/gpu_train_all.sh --toy --entries /tmp/entries
set -euo pipefail

data=() device=auto minutes=25 epochs=12 n=1000 toy=0 work=runs/gpu entries=leaderboard/entries
protocol=linf_standard eps=8/255
names=(pgd_at trades lbgat_trades mart irat lbgat_trades_alpha6)
while [ $# -gt 0 ]; do
    case $1 in
        --data-dir) data=(--data-dir "$2"); shift 2 ;;
        --device) device=$2; shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --epochs) epochs=$2; shift 2 ;;
        --n) n=$2; shift 2 ;;
        --work) work=$2; shift 2 ;;
        --entries) entries=$2; shift 2 ;;
        --only) read -ra names <<< "$2"; shift 2 ;;
        --toy) toy=1; shift ;;
        *) echo "gpu_train_all.sh: unknown argument $1 (see its first lines)" >&2; exit 2 ;;
    esac
done

overrides=(--training.epochs "$epochs")
if [ "$toy" = 1 ]; then
    # Digits, two PGD steps, a small network: only the plumbing is tried.
    overrides=(--data.name digits --data.validation 100 --data.crop_padding 0 --training.epochs 1
        --model.name small_cnn --training.precision float32 --defense.crafting.steps 2)
    device=cpu n=20 work=$work/toy
fi

deadline=$((SECONDS + minutes * 60))
left() { echo $((deadline - SECONDS)); }

for name in "${names[@]}"; do
    run=$work/$name result=$work/results/$name entry=$entries/cifar10_short_$name
    extra=("${overrides[@]}")
    case $toy$name in 1lbgat*) extra+=(--defense.natural_architecture small_cnn) ;; esac
    case $toy$name in 1irat) extra+=(--defense.begin_epoch 1) ;; esac
    [ "$(left)" -gt 0 ] || { echo "== time is up before $name"; break; }
    echo "== $name: training, $(left) s left"
    timeout --signal=INT "$(left)" rbl train "cifar10_short_$name" --out "$run" --device "$device" \
        "${data[@]}" "${extra[@]}" || { echo "== $name: not finished (exit $?); call again"; break; }
    [ "$(left)" -gt 0 ] || { echo "== time is up before evaluating $name"; break; }
    timeout --signal=INT "$(left)" rbl evaluate "$run/best" --protocol "$protocol" --eps "$eps" \
        --n "$n" --device "$device" --out "$result" "${data[@]}" \
        || { echo "== $name: not finished (exit $?); call again"; break; }
    mkdir -p "$entry"
    cp "$result/result.json" "$result/examples.parquet" "$result/timing.json" "$entry/"
    cp "$run/best/card.json" "$run/metrics.jsonl" "$entry/"
    python - "$run/best/model.safetensors" "$entry/weights_fp16.safetensors" <<'PYTHON'
import sys

from safetensors.torch import load_file, save_file

weights = load_file(sys.argv[1])
half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
save_file(half, sys.argv[2], metadata={"format": "pt", "precision": "float16 copy"})
PYTHON
    chmod 644 "$entry/weights_fp16.safetensors"
    { uname -sr; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null || true
      python -c 'import torch; print("torch", torch.__version__, "cuda", torch.version.cuda)'
      git rev-parse HEAD 2> /dev/null || true; } > "$entry/hardware.txt"
    echo "== $name: $entry"
done

finished=()
for name in "${names[@]}"; do
    [ -f "$work/results/$name/result.json" ] && finished+=("$work/results/$name")
done
[ ${#finished[@]} -eq 0 ] || rbl leaderboard "${finished[@]}"

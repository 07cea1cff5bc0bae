#!/usr/bin/env bash
# Train and evaluate the mid-sized CIFAR-10 recipes on one GPU, in order, as many as fit:
#
#     benchmarks/gpu_train_all.sh --data-dir DIR [--minutes 25] [--each 4] [--epochs 12] [--n 1000]
#
# Restartable: everything resumes or answers from what is there. A network that has not finished
# after --each minutes (training and evaluation together), or at the deadline, is left, and goes on in
# the next call; so does the rest when one fails. Exit code 1 says that something is left. Results (result.json,
# examples.parquet, card, metrics, float16 weights, hardware and versions) land in --entries, to be
# committed. A rehearsal at toy size on a CPU: benchmarks/gpu_train_all.sh --toy --entries /tmp/entries
set -euo pipefail

data=() device=auto minutes=25 epochs=12 n=1000 toy=0 each=4 work=runs/gpu entries=
protocol=linf_standard eps=8/255
names=(pgd_at trades lbgat_trades mart irat lbgat_trades_alpha6)
while [ $# -gt 0 ]; do
    case $1 in
        --data-dir) data=(--data-dir "$2"); shift 2 ;;
        --device) device=$2; shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --epochs) epochs=$2; shift 2 ;;
        --each) each=$2; shift 2 ;;
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
    device=cpu n=20 epochs=1 work=$work/toy
fi
entries=${entries:-$([ "$toy" = 1 ] && echo "$work/entries" || echo leaderboard/entries)}

deadline=$((SECONDS + minutes * 60)) unfinished=0
left() { local now=$((deadline - SECONDS)) own=$((limit - SECONDS)); echo $((now < own ? now : own)); }

one() { # NAME: train, round to float16, evaluate what is rounded, copy
    local run=$work/$1 result=$work/results/$1 entry=$entries/cifar10_short_$1
    local extra=("${overrides[@]}")
    case $toy$1 in 1lbgat*) extra+=(--defense.natural_architecture small_cnn) ;; esac
    # Weights begin in the middle of the run, as in the authors' 120 epochs.
    case $1 in irat) extra+=(--defense.begin_epoch $(((epochs + 1) / 2))) ;; esac
    timeout --signal=INT "$(left)" rbl train "cifar10_short_$1" --out "$run" --device "$device" \
        "${data[@]}" "${extra[@]}" || return
    mkdir -p "$entry"
    python - "$run/best" "$run/rounded" "$entry/weights_fp16.safetensors" <<'PYTHON' || return
import dataclasses
import sys
from pathlib import Path

from safetensors.torch import save

from robustbench_lite.checkpoints.checkpoint import load_checkpoint, save_checkpoint

network, card = load_checkpoint(sys.argv[1])
half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
note = "weights rounded to float16: this network is what was evaluated"
save_checkpoint(sys.argv[2], network, dataclasses.replace(card, notes=note))
Path(sys.argv[3]).write_bytes(save(half, metadata={"format": "pt"}))
PYTHON
    timeout --signal=INT "$(left)" rbl evaluate "$run/rounded" --protocol "$protocol" --eps "$eps" \
        --n "$n" --device "$device" --out "$result" "${data[@]}" || return
    cp "$result/result.json" "$result/examples.parquet" "$result/timing.json" "$entry/"
    cp "$run/rounded/card.json" "$run/metrics.jsonl" "$entry/"
    { uname -sr; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null || true
      python -c 'import torch; print("torch", torch.__version__, "cuda", torch.version.cuda)'
      git rev-parse HEAD 2> /dev/null || true; } > "$entry/hardware.txt"
}

for name in "${names[@]}"; do
    limit=$((SECONDS + each * 60))
    if [ "$(left)" -le 0 ]; then
        echo "== time is up before $name"; unfinished=1; break
    fi
    echo "== $name: $(left) s"
    one "$name" && echo "== $name: $entries/cifar10_short_$name" \
        || { echo "== $name: not finished (exit $?)"; unfinished=1; }
done

finished=()
for name in "${names[@]}"; do
    [ -f "$work/results/$name/result.json" ] && finished+=("$work/results/$name")
done
[ ${#finished[@]} -eq 0 ] || rbl leaderboard "${finished[@]}"
exit $unfinished

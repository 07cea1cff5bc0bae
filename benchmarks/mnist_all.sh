#!/usr/bin/env bash
# Every method on MNIST, on a CPU: what docs/results_cpu.md shows. Restartable; about an hour and a
# half on two cores.
#
#     benchmarks/mnist_all.sh DATA_DIR [OUT=runs/mnist_all] [JOBS=2]
#
# DATA_DIR: MNIST as local Parquet files or archives, as for `rbl train --data-dir`.
set -euo pipefail
data=${1:?usage: mnist_all.sh DATA_DIR [OUT] [JOBS]} out=${2:-runs/mnist_all} jobs=${3:-2}
export data out OMP_NUM_THREADS=1
mkdir -p "$out"

one() { # NAME: train, then PGD and CW on 1,000 test images, AutoAttack as well on the first 100
    local run=$out/runs/mnist_$1
    rbl train "mnist_$1" --out "$run" --threads 1 --data-dir "$data" &&
    rbl evaluate "$run/best" --protocol linf_quick --eps 0.15 --n 1000 --threads 1 \
        --data-dir "$data" --out "$out/results/quick/$1" &&
    rbl evaluate "$run/best" --protocol linf_standard --eps 0.15 --n 100 --threads 1 \
        --data-dir "$data" --out "$out/results/standard/$1"
}
export -f one

rbl list recipes | sed -n 's/^mnist_\([a-z0-9_]*\) .*/\1/p' | grep -v '^trades_zhang$' \
    | xargs -P "$jobs" -I{} bash -c 'one {} > "$out/log_{}.txt" 2>&1 || echo "mnist_{} failed: $out/log_{}.txt"'

rbl leaderboard "$out"/results/quick/* --format markdown
rbl leaderboard "$out"/results/standard/* --format markdown

echo; echo "Rare digits 5-9 (50 training images each), PGD-20 and CW:"
rbl classes "$out"/results/quick/{step100_pgd_at,cb_reweight,focal,ldam_drw,balanced_softmax,srat} --format markdown

echo; echo "Transfer from standard training to the masked network, and to a twin without masks:"
rbl train mnist_standard --training.seed 1 --out "$out/runs/mnist_standard_twin" --threads 1 \
    --data-dir "$data"
for eps in 0.15 0.3; do
    rbl transfer --source "$out/runs/mnist_standard/best" --protocol linf_transfer --eps "$eps" \
        --target "$out/runs/mnist_standard_twin/best" --target "$out/runs/mnist_random_mask/best" \
        --target "$out/runs/mnist_pgd_at/best" --attack pgd40_ce_clean_start --n 1000 --threads 1 \
        --data-dir "$data" --out "$out/results/transfer_$eps"
done

echo; echo "Outliers, clean and attacked on both sides at 38/255:"
for name in standard oe acet aloe; do
    rbl detect "$out/runs/mnist_$name/best" --outliers gaussian_oe --outliers pixelate \
        --outliers geometric_mean --outliers rademacher --eps 38/255 --steps 40 --n 1000 \
        --threads 1 --data-dir "$data" --out "$out/results/detection_$name.json"
done

#!/usr/bin/env bash
# Is a reward model the same to the bit after `kill -9` half-way? ./benchmarks/kill_resume.sh MODEL PAIRS.jsonl[.gz] [STEP]
# Trains twice on the first 300 pairs, the second time killed after STEP lines of metrics (default 20) and resumed.
set -euo pipefail
model=$1 pairs=$2 step=${3:-20} at=$(mktemp -d)
export OMP_NUM_THREADS=1
{ gzip -dcf "$pairs" || true; } | head -300 > "$at/pairs.jsonl"
train() {
    prefloop reward -C "$1" -q --set project.threads=1 --set reward.epochs=2 --set reward.max_tokens=192 \
        --set reward.checkpoint_every=5
}
for name in whole killed; do
    prefloop init "$at/$name" --model "$model" -q > "$at/log"
    prefloop import "$at/pairs.jsonl" -C "$at/$name" -q > "$at/log"
done
train "$at/whole" > "$at/log"

train "$at/killed" > "$at/log" 2>&1 &
lines() { cat "$at"/killed/runs/reward-*/metrics.jsonl 2> "$at/err" | wc -l; }
while [ "$(lines)" -lt "$step" ]; do sleep 0.05; done
pkill -9 -P $! && echo "killed after $(lines) lines of metrics, with $(ls "$at"/killed/runs/reward-*/checkpoints | wc -l) checkpoints"
wait $! || true
train "$at/killed" > "$at/log"
cmp "$at"/whole/runs/reward-001/model/model.safetensors "$at"/killed/runs/reward-001/model/model.safetensors
echo "the weights are the same to the bit: $(sha256sum < "$at/whole/runs/reward-001/model/model.safetensors" | cut -c1-16)"

#!/usr/bin/env bash
# The whole product on a model and prompts of your own: ./examples/loop.sh MODEL PROMPTS.jsonl
# Simulated people rank here, by counting positive words, so that it runs without anybody. With real people, run
# `prefloop annotate` in place of `prefloop crowd`, and go on when they have ranked.
set -euo pipefail
model=$1 prompts=$2 project=${3:-my-project}

prefloop init "$project" --model "$model"
cd "$project"
prefloop doctor                                          # is everything in order before hours are spent?
prefloop import "$prompts"
prefloop sample --set sample.prompts=500 --set sample.max_tokens=48
prefloop crowd --set crowd.scorer=positive
prefloop reward --set align.max_tokens=48
prefloop align --set align.max_tokens=48 --set align.steps=40
prefloop evaluate --set evaluate.max_tokens=48 --set evaluate.scorer=positive
prefloop report
prefloop export policy --to aligned
echo "look at $PWD/report.html; the aligned model is in $PWD/aligned"

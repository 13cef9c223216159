#!/usr/bin/env bash
# The default chain on the embedded model, then rounding by data alone at three bit widths: are pictures of more
# bits closer to the floating-point model's?   uv run benchmarks/first_light.sh [STORE]
set -euo pipefail
cd "$(dirname "$0")/.."
export SDQUANT_STORE=${1:-runs/first-light}

evaluate() { # the metrics' means, on one line
  sdquant evaluate --against fp --json | python3 -c '
import json, sys
for name, m in json.load(sys.stdin)["metrics"].items():
    m["mean"] is None or print(name, round(m["mean"], 4), "N", m["n"], end="; ")
print()'
}

time sdquant sample --prompts examples/prompts/shapes-train.txt --per-prompt 1
time sdquant precalc-time
time sdquant sensitivity
time sdquant calibrate --bits w4a8 --mixed --activations per-step --no-full-range
time sdquant generate
time sdquant evaluate --against fp
for bits in w8a8 w4a8 w4a4; do
  sdquant calibrate --bits "$bits" --iterations 0 --activations per-step --no-full-range >/dev/null
  sdquant generate >/dev/null
  echo "$bits, rounding by data alone: $(evaluate)"
done

#!/usr/bin/env bash
# How close W8A8, W4A8 and W4A4 come, trained and by rounding alone, between the floor (other noise) and the
# reference itself; and a report of the trained ones side by side.   uv run benchmarks/quality.sh [STORE]
set -euo pipefail
cd "$(dirname "$0")/.."
export SDQUANT_STORE=${1:-runs/quality}
mkdir -p "$SDQUANT_STORE"
pictures=${PICTURES:-64}

sdquant sample --prompts examples/prompts/shapes-train.txt --limit 128 --per-prompt 8
sdquant precalc-time
sdquant sensitivity --limit 128
measured=()
for words in "serial-to-parallel w8a8 --mixed" "serial-to-parallel w4a8 --mixed" "serial-to-parallel w4a4 --mixed" \
  "rtn w8a8" "rtn w4a8" "rtn w4a4"; do
  read -r method bits mixed <<<"$words"
  sdquant calibrate --method "$method" --bits "$bits" $mixed --activations per-step --no-full-range >/dev/null
  sdquant generate --limit "$pictures" --seed 1 >/dev/null # other noise than that of the latents
  drift=$([[ $mixed ]] && echo --drift || true)
  sdquant evaluate --against fp $drift --json >"$SDQUANT_STORE/$method-$bits.json"
  if [[ $mixed ]]; then
    name=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["artifact"])' "$SDQUANT_STORE/$method-$bits.json")
    sdquant tag "$name" "$bits"
    measured+=("metrics/$bits")
  fi
done
python3 - "$SDQUANT_STORE"/*-w*a*.json <<'PY'
import json, pathlib, sys
from sdquant_cli.manifests import MetricSummary
from sdquant_cli.report.numbers import interval, mean
shown = ["psnr", "ssim", "feature_distance[shapes-clip]", "fid[shapes-clip]", "kid[shapes-clip]",
         "clip_score_difference[shapes-clip]"]
def row(name, metrics):
    found = [MetricSummary.model_validate(metrics[metric]) for metric in shown]
    print(f"| {name} |", " | ".join(f"{mean(s)} {interval(s)}".strip() for s in found), "|")
documents = {pathlib.Path(path).stem: json.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:]}
first = next(iter(documents.values()))
print("| | " + " | ".join(shown) + " |\n" + "|---" * (len(shown) + 1) + "|")
row("the reference itself", first["itself"])
for name, document in documents.items():
    row(name, document["metrics"])
row("FP, other noise (floor)", first["floor"])
PY
sdquant report "${measured[@]}" --output "$SDQUANT_STORE/report.html"

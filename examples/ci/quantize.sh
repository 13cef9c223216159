#!/usr/bin/env bash
# A CI job: quantize a model, draw with it, and fail where its pictures have left the floating-point model's.
#
#   MODEL=path/or/hub-id PROMPTS=calibration.txt HELDOUT=prompts.txt GATES="psnr>=25 ssim>=0.9" ./quantize.sh
#
# Run twice, it computes only what changed: keep the store (SDQUANT_STORE) between jobs.
set -euo pipefail

export SDQUANT_STORE=${SDQUANT_STORE:-./sdquant-store}
limit=${LIMIT:-256}           # calibration prompts
pictures=${PICTURES:-64}      # pictures that are judged
iterations=${ITERATIONS:-400}
gates=()
for gate in ${GATES:-"psnr>=25"}; do gates+=(--gate "$gate"); done

sdquant sample --model "${MODEL:-shapes}" --prompts "$PROMPTS" --per-prompt 1 --limit "$limit" ${STEPS:+--steps "$STEPS"}
sdquant precalc-time
sdquant sensitivity
sdquant calibrate --bits "${BITS:-w4a8}" --mixed --iterations "$iterations"
sdquant generate --prompts "$HELDOUT" --limit "$pictures"
code=0
sdquant evaluate --against fp "${gates[@]}" --summary "${GITHUB_STEP_SUMMARY:-sdquant-summary.md}" || code=$?
sdquant report --output sdquant-report.html # also of a job that fails: it shows why
exit "$code"

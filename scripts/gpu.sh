#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: builds for it, runs the tests of the cuda backend, looks for bad memory accesses and
# races in a small run, and measures. `bash scripts/gpu.sh [build|test|sanitize|bench …]` does the parts named, or all.
# Figures go to docs/benchmarks (or $BENCH_OUT) as JSON, with device, date and commit.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${BENCH_OUT:-docs/benchmarks}
parts=${*:-build test sanitize bench}
failed=0
mkdir -p "$out"

section() { printf '\n=== %s (%s s)\n' "$*" "$SECONDS"; }
run() { "$@" || { echo "FAILED: $*"; failed=1; }; }
bench() { run node dist/src/bench/main.js --backend cuda "$@"; }

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) || { echo "nvidia-smi finds no GPU."; exit 1; }
echo "$gpu"
short=$(echo "$gpu" | grep -oiE '[a-z]*[0-9]+[a-z0-9]*' | head -1 | tr '[:upper:]' '[:lower:]')

for part in $parts; do
  case $part in
    build)
      section "build"
      CI=1 run node scripts/setup.mjs --ladder # CI: a failed build is an error, not a slower engine
      ;;
    test)
      section "tests"
      NANOVLLM_REQUIRE_CUDA=1 run node node_modules/vitest/vitest.mjs run tests/cuda
      ;;
    sanitize)
      # The tools slow kernels down a hundredfold: a few tokens of the bundled model, prefill and decode, graphs off and on.
      for tool in memcheck racecheck; do
        for mode in --enforce-eager --top-k=20; do
          section "compute-sanitizer $tool $mode"
          run timeout 120 compute-sanitizer --tool $tool --error-exitcode 9 node dist/src/cli.js --backend cuda \
            --prompt "Once upon a time" --max-tokens 3 --max-num-seqs 2 --max-model-len 64 --max-num-batched-tokens 64 $mode
        done
      done
      ;;
    bench)
      for suite in throughput latency startup attention linear; do
        section "bench: $suite"
        bench --suite $suite --json "$out/$short-$suite.json"
      done
      ;;
    *) echo "There is no part '$part': use build, test, sanitize or bench."; failed=1 ;;
  esac
done
section "$([ $failed = 0 ] && echo 'all passed' || echo 'some FAILED, see above')"
exit $failed

#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: builds for it, runs the tests of the cuda backend, looks for bad memory accesses and
# races in a small run, and measures. `bash scripts/gpu.sh [build|test|sanitize|bench|soak …]` does the parts named, or all.
# Figures go to docs/benchmarks (or $BENCH_OUT) as JSON, with device, date and commit.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${BENCH_OUT:-docs/benchmarks}
parts=${*:-build test sanitize bench soak}
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
      NANOVLLM_REQUIRE_CUDA=1 run node node_modules/vitest/vitest.mjs run --project gpu
      ;;
    sanitize)
      # A few tokens of the bundled model. Eight tokens a step keep cuBLASLt out, which racecheck cannot run: its own
      # error, without a kernel of ours being watched. Racecheck takes one of our kernels at a time, since preparing
      # all of them would take it minutes, and no programmatic launches, which it does not know.
      small=(node dist/src/cli.js --backend cuda --prompt "Once upon a time" --max-tokens 3 --temperature 0.8 --top-k 20
        --max-num-seqs 2 --max-model-len 64 --max-num-batched-tokens 8)
      sanitize=(timeout 60 compute-sanitizer --error-exitcode 9)
      section "memcheck: one operation after the other, graphs, own matrix product"
      run "${sanitize[@]}" --tool memcheck "${small[@]}" --enforce-eager
      run "${sanitize[@]}" --tool memcheck "${small[@]}"
      run "${sanitize[@]}" --tool memcheck "${small[@]}" --batch-invariant
      section "racecheck"
      # Those whose threads exchange data through shared memory, which is what racecheck watches.
      racecheck() {
        local kernel=$1
        shift
        printf '%-20s %-20s ' "$kernel" "$*"
        NANOVLLM_CUDA_PDL=0 "${sanitize[@]}" --tool racecheck --kernel-name kernel_substring="$kernel" "${small[@]}" \
          --enforce-eager "$@" >"$log" 2>&1 || { echo "FAILED ($?)"; failed=1; }
        grep -E 'SUMMARY|Error' "$log"
      }
      log=$(mktemp)
      for kernel in normKernel gemvKernel fusedKernel clusterKernel prefillWgmmaKernel scanChunks chooseToken; do
        racecheck $kernel
      done
      for kernel in gemmKernel prefillMmaKernel cumulativeLengths; do racecheck $kernel --batch-invariant; done
      rm -f "$log"
      ;;
    bench)
      for suite in throughput latency startup attention linear; do
        section "bench: $suite"
        more=()
        [ $suite = latency ] && more=(--input-len 512,1024 --repeats 7)
        bench --suite $suite "${more[@]}" --json "$out/$short-$suite.json"
      done
      ;;
    soak)
      section "soak: five minutes of mixed load"
      run node --expose-gc dist/src/bench/main.js --backend cuda --suite soak --json "$out/$short-soak.json"
      ;;
    *) echo "There is no part '$part': use build, test, sanitize, bench or soak."; failed=1 ;;
  esac
done
section "$([ $failed = 0 ] && echo 'all passed' || echo 'some FAILED, see above')"
exit $failed

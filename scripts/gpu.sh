#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: builds for it, runs the tests of the cuda backend, looks for bad memory accesses in a
# small run, and measures. `bash scripts/gpu.sh [build|test|sanitize|bench|day7|parallel|soak|racecheck …]` does the parts named, or all.
# Figures go to docs/benchmarks (or $BENCH_OUT) as JSON, with device, date and commit.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${BENCH_OUT:-docs/benchmarks}
parts=${*:-build test sanitize bench day7 parallel soak}
failed=0
mkdir -p "$out"

# NCCL may have come with Python's packages, where the system does not look.
if [ -z "${NANOVLLM_NCCL:-}" ] && ! ldconfig -p 2>/dev/null | grep -q libnccl.so.2; then
  nccl=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null)
  [ -f "$nccl" ] && export NANOVLLM_NCCL=$nccl
fi

section() { printf '\n=== %s (%s s)\n' "$*" "$SECONDS"; }
run() { "$@" || { echo "FAILED: $*"; failed=1; }; }
bench() { run node dist/src/bench/main.js --backend cuda "$@"; }

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) || { echo "nvidia-smi finds no GPU."; exit 1; }
echo "$gpu"
short=$(echo "$gpu" | grep -oiE '[a-z]*[0-9]+[a-z0-9]*' | head -1 | tr '[:upper:]' '[:lower:]')

# Eight tokens a step keep cuBLASLt out, whose kernels are not ours to check.
small=(node dist/src/cli.js --backend cuda --prompt "Once upon a time" --max-tokens 3 --temperature 0.8
  --max-num-seqs 2 --max-model-len 64 --max-num-batched-tokens 8)
sanitize=(timeout 180 compute-sanitizer --error-exitcode 9)

for part in $parts; do
  case $part in
    build)
      section "build"
      CI=1 run node scripts/setup.mjs --ladder # CI: a failed build is an error, not a slower engine
      ;;
    test)
      section "tests"
      NANOVLLM_REQUIRE_CUDA=1 run node node_modules/vitest/vitest.mjs run --project gpu
      # The course's own kernel, against its own reference.
      exercise=$(mktemp) && run nvcc -std=c++17 -O2 -arch=native -o "$exercise" days/day3/cuda/solution.cu && run "$exercise"
      ;;
    sanitize)
      # A few tokens of the bundled model: one operation after the other, as graphs, and with our own matrix product.
      for tool in memcheck synccheck; do
        for mode in --enforce-eager --top-k=20 --batch-invariant; do
          section "compute-sanitizer $tool $mode"
          run "${sanitize[@]}" --tool $tool "${small[@]}" $mode
        done
      done
      ;;
    racecheck)
      # CUDA 13.0's tool breaks down over an addon with Hopper's own instructions ("Internal Sanitizer Error: … failed to handle a
      # hardware exception"). So this is the code for compute capability 8.0, which drivers translate for newer GPUs; its tests
      # run too. One kernel at a time: to prepare all of them takes the tool minutes.
      section "compute capability 8.0: build and tests"
      NANOVLLM_CUDA_ARCH=80-virtual CI=1 run node scripts/setup.mjs --ladder
      NANOVLLM_REQUIRE_CUDA=1 run node node_modules/vitest/vitest.mjs run --project gpu kernels attention parity
      section "compute-sanitizer racecheck"
      for kernel in normKernel gemvKernel fusedKernel packedKernel mergeKernel scanChunks chooseToken prefillMmaKernel; do
        section "compute-sanitizer racecheck $kernel"
        run "${sanitize[@]}" --tool racecheck --kernel-name kernel_substring=$kernel "${small[@]}" --enforce-eager
      done
      # A model's thousands of products would take this tool an hour.
      section "compute-sanitizer racecheck gemmKernel"
      run "${sanitize[@]}" --tool racecheck --kernel-name kernel_substring=gemmKernel node --input-type=module -e "
        import { createCudaBackend } from '#nano/backends/cuda';
        const gpu = createCudaBackend({ batchInvariant: true });
        for (const [rows, outputs, inputs] of [[1, 64, 64], [17, 200, 96], [130, 300, 256]]) {
          const [x, weight] = [gpu.allocate([rows, inputs], 'bfloat16'), gpu.allocateWeight([outputs, inputs], 'bfloat16')];
          const out = gpu.allocate([rows, outputs], 'float32');
          gpu.linear(out, x, weight, { bias: null, accumulate: false, siluAndMul: false });
          console.log((await gpu.read(out)).length);
        }
        gpu.close();"
      CI=1 run node scripts/setup.mjs --ladder
      ;;
    bench)
      for suite in throughput latency startup attention linear; do
        section "bench: $suite"
        more=()
        [ $suite = latency ] && more=(--input-len 512,1024 --repeats 7)
        bench --suite $suite "${more[@]}" --json "$out/$short-$suite.json"
      done
      ;;
    day7)
      # Attention backends compared, memory as contexts grow, load, and Hugging Face transformers (torch must be there).
      for suite in backends memory serving compare; do
        section "bench: $suite"
        more=()
        [ $suite = backends ] && more=(--seconds 8) # most for one cell of its table of 60
        [ $suite = serving ] && more=(--num-requests 640) # enough that a queue can form
        bench --suite $suite "${more[@]}" --json "$out/$short-$suite.json"
      done
      section "a trace of the bundled model"
      run node dist/src/cli.js --backend cuda --prompt "Once upon a time" --max-tokens 64 --profile "$out/$short-trace.json"
      ;;
    parallel)
      # Ranks 1, 2, 4, … as far as there are GPUs. Needs NCCL (see docs/tuning.md), on one host.
      gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
      [ "$gpus" -lt 2 ] && { section "parallel: skipped, there is one GPU"; continue; }
      ranks=1
      for ((n = 2; n <= gpus && n <= 8; n *= 2)); do ranks+=,$n; done
      for shape in qwen3-0.6b qwen3-8b; do
        section "bench: $shape on $ranks ranks"
        bench --suite parallel --shape $shape --ranks $ranks --json "$out/$short-parallel-$shape.json"
      done
      ;;
    soak)
      section "soak: ten minutes of mixed load"
      bench --suite soak --json "$out/$short-soak.json"
      ;;
    *) echo "There is no part '$part': use build, test, sanitize, bench, day7, parallel, soak or racecheck."; failed=1 ;;
  esac
done
section "$([ $failed = 0 ] && echo 'all passed' || echo 'some FAILED, see above')"
exit $failed

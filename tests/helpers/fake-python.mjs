#!/usr/bin/env node
// Stands in for the Python that `--suite compare` calls: there is no nano-vllm, and transformers makes ten tokens a second; the
// largest workload does not fit.
const [script, ...args] = process.argv.slice(2);
if (script === '-c') process.exit(1);
const [, , , , ...workloads] = args;
workloads.forEach((workload, i) => {
  const rate = i === workloads.length - 1 ? null : 10;
  console.log(JSON.stringify({ workload, seconds: 1, rate, peak: null }));
});

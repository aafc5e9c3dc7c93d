#!/usr/bin/env node
// Stands in for the Python that `--suite compare` calls: transformers makes ten tokens a second, nano-vllm twenty where
// WITH_NANO_VLLM says that there is one; the largest workload does not fit. Libraries print what nobody asked for.
const [script, ...args] = process.argv.slice(2);
if (script === '-c') process.exit(process.env.WITH_NANO_VLLM ? 0 : 1);
const [peer, , , , ...workloads] = args;
console.log('Setting up …');
workloads.forEach((workload, i) => {
  const rate = i === workloads.length - 1 ? null : { transformers: 10, 'nano-vllm': 20 }[peer];
  console.log(JSON.stringify({ workload, seconds: 1, rate, peak: null }));
});

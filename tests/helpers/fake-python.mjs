#!/usr/bin/env node
// Stands in for the Python that `--suite compare` calls: transformers makes ten tokens a second, nano-vllm twenty where
// WITH_NANO_VLLM says that there is one, or fails where it says 'broken'; the largest workload does not fit. Libraries print what nobody
// asked for.
const [script, ...args] = process.argv.slice(2);
if (script === '-c') process.exit(process.env.WITH_NANO_VLLM ? 0 : 1);
const [peer, , , , ...workloads] = args;
if (peer === 'nano-vllm' && process.env.WITH_NANO_VLLM === 'broken') {
  console.error('Traceback (most recent call last): …\nRuntimeError: no GPU');
  process.exit(1);
}
console.log('Setting up …');
workloads.forEach((workload, i) => {
  const rate = i === workloads.length - 1 ? null : { transformers: 10, 'nano-vllm': 20 }[peer];
  console.log(JSON.stringify({ workload, seconds: 1, rate, peak: null }));
});

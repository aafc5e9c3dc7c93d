import type { BuiltEngine } from '#nano/engine/build-engine';
import type { StepResult } from '#nano/engine/model-runner';
import type { Step } from '#nano/engine/step';
import { Tensor } from '#nano/tensor/tensor';
import { Trace } from '#nano/utils/trace';

const [HOST, DEVICE] = [0, 1];

/** What a backend does for a step: kernels, and on GPUs a graph of them; transfers. Those it lacks are passed over. */
const BACKEND_CALLS = [
  ...['embedding', 'linear', 'rmsNorm', 'siluAndMul', 'rotaryEmbedding', 'storeKvCache', 'qkNormRopeStore'],
  ...['attnVarlen', 'attnWithKvCache', 'gatherRows', 'gatherTokens', 'scatterTokens', 'concatColumns', 'sample'],
  ...['launchGraph', 'write', 'read'],
];

type Methods = Record<string, unknown>;

/**
 * Times an engine from outside, so that the engine need not know of it, and costs nothing while nobody looks: for as long as it is
 * profiled, some methods of its parts are replaced by timed ones.
 *
 * On `host` lies what JavaScript's thread does: the scheduler's decisions, the preparation of inputs, and within it each kernel call.
 * On GPUs a call only puts the kernel into the stream; what the device does lies on `device`, a span a step, from the launch
 * until the tokens are there. So with run-ahead two of them may overlap.
 *
 * @returns ends the profile, and gives the trace.
 */
export function startProfile({ engine, ops }: Pick<BuiltEngine, 'engine' | 'ops'>): () => Trace {
  const trace = new Trace(['host', 'device: launch to tokens'], {
    device: ops.backend.description,
    date: new Date().toISOString().slice(0, 10),
  });
  const undo: (() => void)[] = [];
  const time = (object: object, name: string, label: (args: unknown[]) => string, describe = shapes) => {
    const methods = object as Methods;
    const original = methods[name] as ((...args: unknown[]) => unknown) | undefined;
    if (!original) return;
    const isOwn = Object.hasOwn(object, name);
    methods[name] = (...args: unknown[]) =>
      trace.time(HOST, label(args), () => original.apply(object, args), describe(args));
    undo.push(() => {
      if (isOwn) methods[name] = original;
      else delete methods[name];
    });
  };

  const { scheduler, runner } = engine.parts;
  for (const name of ['schedule', 'postprocess']) time(scheduler, name, () => name, nothing);
  for (const name of BACKEND_CALLS) time(ops.backend, name, () => name);
  time(runner, 'launch', ([step]) => `launch: ${describeStep(step as Step)}`, nothing);
  const timed = runner.launch;
  runner.launch = (step) => {
    const [start, name] = [performance.now(), describeStep(step)];
    const result: Promise<StepResult> = timed.call(runner, step);
    const note = () => trace.add(DEVICE, name, start, performance.now());
    result.then(note, note);
    return result;
  };
  return () => {
    for (const restore of undo) restore();
    return trace;
  };
}

function describeStep({ isPrefill, seqs }: Step): string {
  const tokens = seqs.reduce((sum, seq) => sum + seq.numScheduledTokens, 0);
  return isPrefill ? `prefill ${tokens} tokens of ${seqs.length}` : `decode ${seqs.length}`;
}

const shapes = (args: unknown[]): object | undefined => {
  const tensors = args.filter((arg): arg is Tensor => arg instanceof Tensor);
  return tensors.length > 0
    ? { tensors: tensors.map(({ shape, dtype }) => `${dtype}[${shape}]`).join(' ') }
    : undefined;
};

const nothing = () => undefined;

/** Flags whose value is the next argument. */
const CODE = /^(-e|-p|-pe|--eval|--print)$/;
const CONDITION = /^(-C|--conditions)$/;

/**
 * Node's own options that go for all ranks, such as the conditions of a learner's days. Those that say what to run, and a
 * debugger's port, of which there is one, go for rank 0 only; and where rank 0 runs from src, the others run what was built.
 */
export function inheritedFlags(execArgv: readonly string[]): string[] {
  const isSource = (i: number) => CONDITION.test(execArgv[i] ?? '') && execArgv[i + 1] === 'source';
  return execArgv.filter((flag, i) => {
    if (CODE.test(flag) || CODE.test(execArgv[i - 1] ?? '') || isSource(i) || isSource(i - 1)) return false;
    return !/^(-i$|--interactive|--input-type|--inspect|(-C|--conditions)=source$)/.test(flag);
  });
}

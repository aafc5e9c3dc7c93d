import type { Followers } from '#nano/distributed/followers';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { encodeStep } from '#nano/distributed/step-message';
import type { ModelRunner, StepResult } from '#nano/engine/model-runner';
import type { Batch } from '#nano/engine/scheduler';

/** Rank 0's way to the others: they compute in the group, and are told what by messages. */
export interface Ranks {
  readonly group: ProcessGroup;
  readonly followers: Followers;
  /** Where the model is, for the other ranks to open. */
  readonly model: string;
}

/** Rank 0's runner, and with each of its steps the same step of all other ranks. */
export class ParallelRunner implements Pick<ModelRunner, 'launch' | 'close'> {
  constructor(
    private readonly runner: ModelRunner,
    private readonly followers: Followers,
  ) {}

  launch(batch: Batch): Promise<StepResult> {
    this.followers.send({ kind: 'step', words: encodeStep(batch) });
    try {
      return this.followers.orFail(this.runner.launch(batch));
    } catch (error) {
      // The others are in the middle of a step that this rank will not finish.
      throw this.followers.fail(`Rank 0 failed: ${(error as Error).message}`);
    }
  }

  close(): void {
    this.runner.close();
  }
}

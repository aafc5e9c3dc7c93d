// A rank in a process without GPUs: it computes the whole model, so that it needs nobody, and does all else as a rank does. It is
// how processes, rendezvous and step messages are tested where there is no NCCL. On request it says what it drew.
import { writeFileSync } from 'node:fs';
import { connectToRank0 } from '#nano/distributed/connect';
import { follow } from '#nano/distributed/follower';
import { ALONE } from '#nano/distributed/process-group';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { liveAsLongAsRank0 } from '#nano/distributed/watchdog';
import { ModelRunner } from '#nano/engine/model-runner';

liveAsLongAsRank0();
const info = rankFromEnv();

const drawn = [];
const { launch } = ModelRunner.prototype;
ModelRunner.prototype.launch = function (step) {
  const result = launch.call(this, step);
  result.then(({ tokenIds }) => drawn.push(...Array.from(tokenIds).slice(0, step.numDrawing)));
  return result;
};

const channel = await connectToRank0(info);
try {
  await follow(channel, { connect: async () => ALONE });
  writeFileSync(`${process.env.DRAWN}.${info.rank}`, JSON.stringify(drawn));
  process.exit(0);
} catch (error) {
  process.stderr.write(`[rank ${info.rank}] ${error.message}\n`);
  process.exit(1);
}

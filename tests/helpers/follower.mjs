// What a forked rank runs in tests/distributed/: it answers, or behaves as badly as it is told.
import { connectToRank0 } from '#nano/distributed/connect';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { exitWhenLost, liveAsLongAsRank0 } from '#nano/distributed/watchdog';

liveAsLongAsRank0();
const info = rankFromEnv();
const [mode, whose] = process.argv.slice(2);
if (mode === 'crash' && Number(whose) === info.rank) process.exit(7);
if (mode === 'late' && Number(whose) === info.rank) await new Promise(() => setInterval(() => {}, 1000));

const channel = await connectToRank0(info);
exitWhenLost(channel);
channel.onMessage((message) => {
  if (message === 'block') {
    channel.send('blocking');
    // As in native code that waits for a rank which will never come. The answer is on its way: Node writes at once.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
  channel.send({ rank: info.rank, pid: process.pid, flags: process.execArgv, message });
});

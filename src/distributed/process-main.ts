// A rank in a process: what `forkRanks` starts.
import { serveAsRank } from '#nano/distributed/process-rank';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { liveAsLongAsRank0 } from '#nano/distributed/watchdog';

liveAsLongAsRank0();
const info = rankFromEnv();
if (!info) throw new Error('This is no program: `forkRanks` starts it, or a launcher that sets RANK and WORLD_SIZE.');
process.exit(await serveAsRank(info));

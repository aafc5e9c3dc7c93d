// A rank that a launcher started, with the same command as all others. Rank 0 prints who came.
import { connectToRank0 } from '#nano/distributed/connect';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { Rendezvous } from '#nano/distributed/rendezvous';

const info = rankFromEnv();
if (info.rank === 0) {
  const channels = await (await Rendezvous.open(info)).channels;
  const answers = channels.map((channel) => new Promise((resolve) => channel.onMessage(resolve)));
  for (const channel of channels) channel.send('who?');
  console.log(JSON.stringify(await Promise.all(answers)));
  for (const channel of channels) channel.close();
} else {
  const channel = await connectToRank0(info);
  channel.onMessage(() => channel.send([info.rank, info.localRank]));
}

// A rank 0 that can be killed: forks two followers, prints their pids as JSON when they are as they should be, and goes on
// until it is ended, or ends itself without a word to them.
import { fileURLToPath } from 'node:url';
import { forkRanks } from '#nano/distributed/processes';

const [mode] = process.argv.slice(2);
if (mode === 'ignore-sigint') process.on('SIGINT', () => console.log('interrupted'));

const entry = fileURLToPath(new URL('follower.mjs', import.meta.url));
const { channels } = await forkRanks({ worldSize: 3, entry });
const answers = (message) =>
  Promise.all(
    channels.map((channel) => {
      channel.send(message);
      return new Promise((resolve) => (heard.get(channel).resolve = resolve));
    }),
  );
const heard = new Map(channels.map((channel) => [channel, {}]));
for (const channel of channels) channel.onMessage((message) => heard.get(channel).resolve(message));

const pids = (await answers('hello')).map(({ pid }) => pid);
if (mode === 'block') await answers('block');
console.log(JSON.stringify(pids));
if (mode === 'exit') process.exit(0);
process.stdin.on('data', async () => console.log(JSON.stringify((await answers('again')).map(({ pid }) => pid))));

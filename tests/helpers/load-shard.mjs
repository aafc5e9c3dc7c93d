// Loads one rank's shard of a model folder, alone, and prints what that took: loading needs no other rank.
import { Config } from '#nano/config';
import { ALONE } from '#nano/distributed/process-group';
import { buildRunner } from '#nano/engine/build-runner';
import { platform } from '#nano/platform';

const [folder, rank, worldSize] = process.argv.slice(2);
const files = await platform.openModel(folder, () => {});
let bytesRead = 0;
const open = files.open.bind(files);
files.open = async (name) => {
  const file = await open(name);
  const read = file.read.bind(file);
  file.read = (offset, into) => {
    bytesRead += into.byteLength;
    return read(offset, into);
  };
  return file;
};
const backend = platform.createBackend('cpu', { ranksOnHost: 2 });
const config = new Config({ backend: 'cpu', maxModelLen: 64, maxNumBatchedTokens: 32 });
const group = { ...ALONE, rank: Number(rank), worldSize: Number(worldSize) };
const { weightBytes } = await buildRunner(files, config, backend, () => {}, group);
const peakBytes = process.resourceUsage().maxRSS * 1024;
console.log(JSON.stringify({ weightBytes, allocatedBytes: backend.allocatedBytes, bytesRead, peakBytes }));

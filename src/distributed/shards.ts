import type { ProcessGroup } from '#nano/distributed/process-group';
import { ConfigError } from '#nano/errors';
import type { ModelConfig } from '#nano/models/model-config';

/** Where a rank is among how many. */
export type Place = Pick<ProcessGroup, 'rank' | 'worldSize'>;

/** Some of many equal things in a row: attention heads, rows of a weight. */
export interface Shard {
  readonly first: number;
  readonly count: number;
}

/** This rank's of `total` things that all ranks share evenly. */
export function shardOf(total: number, { rank, worldSize }: Place): Shard {
  const count = total / worldSize;
  if (!Number.isInteger(count)) throw new Error(`${total} cannot be shared evenly by ${worldSize} ranks.`);
  return { first: rank * count, count };
}

/** This rank's rows of the vocabulary. They need not share evenly: the last shards may be short, or empty. */
export function vocabShard(vocabSize: number, { rank, worldSize }: Place): Shard & { readonly padded: number } {
  const padded = Math.ceil(vocabSize / worldSize);
  const first = Math.min(rank * padded, vocabSize);
  return { first, count: Math.min(padded, vocabSize - first), padded };
}

/**
 * This rank's key/value heads. Where there are fewer heads than ranks, neighbours keep a copy of the one that their query
 * heads share: the model is a little larger in all, and no rank has to ask another for keys.
 */
export function kvHeadShard(numKeyValueHeads: number, { rank, worldSize }: Place): Shard {
  if (numKeyValueHeads >= worldSize) return shardOf(numKeyValueHeads, { rank, worldSize });
  return { first: Math.floor((rank * numKeyValueHeads) / worldSize), count: 1 };
}

/** @throws ConfigError naming the size that cannot be shared by so many ranks, and the numbers of ranks that can. */
export function checkShards(model: ModelConfig, worldSize: number): void {
  const { numAttentionHeads, numKeyValueHeads, intermediateSize } = model;
  const problemOf = (n: number): string | undefined => {
    if (numAttentionHeads % n !== 0) return `num_attention_heads ${numAttentionHeads}`;
    if (numKeyValueHeads % n !== 0 && n % numKeyValueHeads !== 0) return `num_key_value_heads ${numKeyValueHeads}`;
    return intermediateSize % n !== 0 ? `intermediate_size ${intermediateSize}` : undefined;
  };
  const problem = problemOf(worldSize);
  if (problem === undefined) return;
  const possible = Array.from({ length: numAttentionHeads }, (_, i) => i + 1).filter((n) => !problemOf(n));
  throw new ConfigError(
    `tensorParallelSize ${worldSize} does not fit the model: its ${problem} cannot be shared evenly by ${worldSize} ranks. ` +
      `Use ${possible.join(', ').replace(/, (\d+)$/, ' or $1')}.`,
  );
}

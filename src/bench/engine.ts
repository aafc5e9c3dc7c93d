import { Costs } from '#nano/bench/costs';
import type { BenchContext } from '#nano/bench/options';
import { shapeFiles } from '#nano/bench/shapes';
import { Config, type ConfigOptions } from '#nano/config';
import { type BuiltEngine, buildEngine } from '#nano/engine/build-engine';
import type { RequestUpdate } from '#nano/engine/outputs';
import { platform } from '#nano/platform';
import { FolderFiles } from '#nano/platform/node-files';
import type { Opened } from '#nano/platform/platform';
import { DTYPE_BYTES } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';

/** An engine over random weights, to be closed when it has been measured. */
export class BenchEngine {
  private constructor(
    private readonly opened: Opened,
    readonly built: BuiltEngine,
    readonly costs: Costs,
  ) {}

  /** @param suite settings the suite wants, unless others were asked for. */
  static async open(
    { shape, model, options, log }: BenchContext,
    suite: ConfigOptions | ((backend: Backend) => ConfigOptions),
  ): Promise<BenchEngine> {
    const { backend: name = 'auto', batchInvariant = false, tensorParallelSize = 1 } = options;
    const files = await (model ? FolderFiles.open(model) : shapeFiles(shape));
    const opened = await platform.open(files.name, { backend: name, batchInvariant, tensorParallelSize });
    const { backend, ranks, place } = opened;
    const forGpu = { maxNumSeqs: 256, maxNumBatchedTokens: 16384 };
    const defaults = { ...(!model && { loadFormat: 'dummy' as const }), ...(backend.name === 'cuda' && forGpu) };
    const config = new Config({ ...defaults, ...(typeof suite === 'function' ? suite(backend) : suite), ...options });
    log(model ? `loading ${model} …` : `loading random weights of ${shape} …`);
    const started = performance.now();
    const budget = () => platform.kvCacheBudget(backend, config.gpuMemoryUtilization, place);
    const built = await buildEngine(files, config, backend, budget, () => {}, ranks);
    const { modelConfig, weightBytes, dtype, engine } = built;
    const rank = tensorParallelSize > 1 ? ` on each of ${tensorParallelSize} ranks` : '';
    log(
      `${backend.description}; ${dtype}; weights ${(weightBytes / 1e6).toFixed(0)} MB${rank}; KV cache of ` +
        `${engine.options.numKvCacheBlocks} blocks of ${config.kvCacheBlockSize} tokens; ` +
        `ready after ${((performance.now() - started) / 1000).toFixed(1)} s`,
    );
    return new BenchEngine(opened, built, new Costs(modelConfig, weightBytes, DTYPE_BYTES[dtype], tensorParallelSize));
  }

  get backend(): Backend {
    return this.opened.backend;
  }

  /** One step, of which every request must come out well. */
  async step(): Promise<RequestUpdate[]> {
    const updates = await this.built.engine.step();
    for (const { error } of updates) if (error) throw error;
    return updates;
  }

  get isBusy(): boolean {
    return this.built.engine.hasUnfinishedRequests;
  }

  async close(): Promise<void> {
    this.built.engine.close();
    await this.opened.close();
  }
}

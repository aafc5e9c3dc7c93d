import type { Backend, DeviceGraph } from '#nano/tensor/kernels';

/** What a GPU's backend looks like to the engine, on top of another: results come later, and steps become graphs. */
export interface FakeDevice extends Backend {
  captureGraph(run: () => void): DeviceGraph;
  /** What happened, in order: 'capture', 'launch' and 'free' of graphs, 'write' and 'read' of tensors. */
  readonly log: string[];
}

export function fakeDevice(backend: Backend): FakeDevice {
  const log: string[] = [];
  const device: Partial<FakeDevice> = {
    isAsync: true,
    log,
    write(...args) {
      log.push('write');
      backend.write(...args);
    },
    async read(tensor) {
      log.push('read');
      const values = await backend.read(tensor); // what it holds now
      await new Promise((done) => setImmediate(done));
      return values;
    },
    captureGraph(run) {
      log.push('capture');
      run();
      let freed = false;
      return {
        launch() {
          if (freed) throw new Error('A graph was launched after it was freed.');
          log.push('launch');
          run();
        },
        free() {
          freed = true;
          log.push('free');
        },
      };
    },
  };
  // Everything else is the backend's own, by the prototype chain.
  return Object.defineProperties(Object.create(backend), Object.getOwnPropertyDescriptors(device)) as FakeDevice;
}

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createReadStream, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { describe, expect, test } from 'vitest';
import { LLM } from '#nano/llm';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MODEL = join(ROOT, 'models/storyteller');
const CHROMIUM = ['chromium', 'chromium-browser', 'google-chrome'].find(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
const OPTIONS = { backend: 'reference', dtype: 'float32', maxModelLen: 64 } as const;
const PROMPT = 'Once upon a time';
const SAMPLING = { temperature: 0, maxTokens: 16 };

/** The package's index for a browser: esbuild fails when anything in it imports a Node module. */
async function bundle(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [join(ROOT, 'src/index.ts')],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    conditions: ['browser', 'source'],
    logLevel: 'silent',
  });
  return outputFiles[0].text;
}

const PAGE = `<script type="module">
  import { LLM } from './bundle.js';
  const report = (value) => fetch('/result', { method: 'POST', body: JSON.stringify(value) });
  try {
    const llm = await LLM.load(location.origin + '/model', ${JSON.stringify(OPTIONS)});
    const [{ tokenIds }] = await llm.generate(${JSON.stringify(PROMPT)}, ${JSON.stringify(SAMPLING)});
    await llm.close();
    await report({ tokenIds });
  } catch (error) {
    await report({ error: String(error.stack ?? error) });
  }
</script>`;

/** Serves the page, the bundle and the model; resolves with what the page reports. */
async function runInChromium(program: string, source: string): Promise<{ tokenIds?: number[]; error?: string }> {
  const profile = mkdtempSync(join(tmpdir(), 'nano-vllm-chromium-'));
  let browser: ChildProcess | undefined;
  const server = createServer();
  try {
    return await new Promise((resolve, reject) => {
      server.on('request', (request: IncomingMessage, response: ServerResponse) => {
        if (request.url === '/result') {
          let body = '';
          request.on('data', (data) => (body += data));
          request.on('end', () => resolve(JSON.parse(body)));
          return;
        }
        serve(request.url ?? '/', source, response);
      });
      server.listen(0, '127.0.0.1', () => {
        const { port } = server.address() as AddressInfo;
        const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'];
        const quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync'];
        browser = spawn(program, [...flags, ...quiet, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`], {
          stdio: 'ignore',
          detached: true, // a process group of its own, so that its helpers end with it
        });
        browser.on('exit', (code) => reject(new Error(`${program} ended with ${code} before the page reported.`)));
      });
    });
  } finally {
    browser?.removeAllListeners('exit');
    if (browser?.pid && browser.exitCode === null) {
      const gone = new Promise((resolve) => browser?.once('exit', resolve));
      process.kill(-browser.pid, 'SIGKILL');
      await gone;
    }
    server.closeAllConnections();
    server.close();
    // A helper may still be writing while it dies.
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

function serve(url: string, source: string, response: ServerResponse): void {
  if (url === '/') response.setHeader('content-type', 'text/html').end(PAGE);
  else if (url === '/bundle.js') response.setHeader('content-type', 'text/javascript').end(source);
  else {
    const file = join(MODEL, url.replace(/^\/model\//, ''));
    if (!url.startsWith('/model/') || !existsSync(file)) response.writeHead(404).end();
    else createReadStream(file).pipe(response);
  }
}

describe('the core runs in a browser', () => {
  test('it bundles without any Node module', async () => {
    expect(await bundle()).not.toMatch(/from\s*"node:|require\("node:/);
  });

  // CI installs Chromium; elsewhere the bundle alone is checked.
  test.skipIf(!CHROMIUM && !process.env.CI)('headless Chromium generates the same tokens as Node', async () => {
    const llm = await LLM.load(MODEL, OPTIONS);
    const [{ tokenIds }] = await llm.generate(PROMPT, SAMPLING);
    await llm.close();
    expect(await runInChromium(CHROMIUM ?? 'chromium', await bundle())).toEqual({ tokenIds });
  });
});

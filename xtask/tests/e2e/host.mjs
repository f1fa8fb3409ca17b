// A Node program on the compiled addon of node-llama-cpp, which knows nothing of recording.
//
//   node host.mjs ADDON MODEL ID,ID... N    decodes the ids, then N - 1 tokens more, and prints all N that follow

import { createRequire } from 'node:module';
import { dirname } from 'node:path';

const [path, file, ids, count] = process.argv.slice(2);
const addon = createRequire(import.meta.url)(path);
addon.loadBackends(dirname(path));
await addon.init();
const model = new addon.AddonModel(file, { gpuLayers: 0, useMmap: true });
if (!(await model.init())) throw new Error(`can't load ${file}`);
const context = new addon.AddonContext(model, { contextSize: 256, batchSize: 64, sequences: 1, threads: 1, flashAttention: true });
if (!(await context.init())) throw new Error("can't make a context");
const sampler = new addon.AddonSampler(model);
sampler.applyConfig({ temperature: 0 });

let tokens = ids.split(',').map(Number);
const generated = [];
for (let position = 0; generated.length < Number(count); ) {
  context.initBatch(tokens.length);
  const [row] = context.addToBatch(0, position, Uint32Array.from(tokens), Uint32Array.from([tokens.length - 1]));
  await context.decodeBatch();
  position += tokens.length;
  tokens = [await context.sampleToken(row, sampler)];
  generated.push(...tokens);
}
console.log(generated.join(' '));

/**
 * Tiny models of every family give what transformers gives, on every backend; each switch of their
 * configs counts (golden/make_families.py).
 */
import assert from "node:assert/strict";
import { configureModel } from "../../src/families/mod.ts";
import { originalWeights } from "../../src/forward/weights.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { onEveryBackend } from "../present.ts";
import { FAMILIES, MODELS, weightsFolder } from "./given.ts";
import { largestDifference, runModel } from "./run.ts";

/**
 * How far logits and hidden states may be from transformers'. Two right implementations differ by
 * less than 1e-5, and what a model leaves out changes some logit by 0.1 or more.
 */
const BOUND = 1e-4;

type Config = Record<string, unknown>;

const readConfig = (name: string, file = "config.json"): Config =>
  JSON.parse(Deno.readTextFileSync(new URL(`${name}/${file}`, FAMILIES)));

async function floatsOf(source: Awaited<ReturnType<typeof openCheckpoint>>, name: string) {
  return new Float32Array((await source.read(name)).buffer);
}

for (const name of MODELS) {
  onEveryBackend(
    `the ${name} model gives transformers' hidden states and logits`,
    async (backend) => {
      await using source = await openCheckpoint(weightsFolder(name));
      await using golden = await openCheckpoint(new URL(`${name}/golden.safetensors`, FAMILIES));
      const model = configureModel(readConfig(name), (tensor) => source.tensors.has(tensor));
      const ids = Uint32Array.from(new Int32Array((await golden.read("input_ids")).buffer));
      const weights = originalWeights(source);
      const { hidden, final, logits } = await runModel(model, weights, { ids, backend });
      const states = [...hidden.slice(0, -1), final];
      for (const [i, state] of states.entries()) {
        const off = largestDifference(state, await floatsOf(golden, `hidden.${i}`));
        assert.ok(off < BOUND, `hidden state ${i} is off by ${off}`);
      }
      const off = largestDifference(logits, await floatsOf(golden, "logits"));
      assert.ok(off < BOUND, `logits are off by ${off}`);
    },
  );
}

/** What the default backend of tests makes of a model under a config. */
async function logitsOf(name: string, config: Config): Promise<Float32Array> {
  const { openWasm } = await import("../../src/backends/wasm/mod.ts");
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(weightsFolder(name));
  await using golden = await openCheckpoint(new URL(`${name}/golden.safetensors`, FAMILIES));
  const model = configureModel(config, (tensor) => source.tensors.has(tensor));
  const ids = Uint32Array.from(new Int32Array((await golden.read("input_ids")).buffer));
  return (await runModel(model, originalWeights(source), { ids, backend })).logits;
}

for (const name of MODELS) {
  const folder = new URL(`${name}/`, FAMILIES);
  if (![...Deno.readDirSync(folder)].some(({ name }) => name === "old_config.json")) continue;
  Deno.test(`the ${name} model is the same in the spelling of older files`, async () => {
    await using golden = await openCheckpoint(new URL("golden.safetensors", folder));
    const logits = await logitsOf(name, readConfig(name, "old_config.json"));
    assert.ok(largestDifference(logits, await floatsOf(golden, "logits")) < BOUND);
  });
}

/** Changes of one thing in a model's config, by what they change. */
function switchesOf(name: string): Record<string, Config> {
  const folder = new URL(`${name}/`, FAMILIES);
  const has = [...Deno.readDirSync(folder)].some(({ name }) => name === "switches.json");
  return has ? readConfig(name, "switches.json") as Record<string, Config> : {};
}

for (const name of MODELS) {
  for (const [what, change] of Object.entries(switchesOf(name))) {
    Deno.test(`${what} of the ${name} model counts`, async () => {
      await using golden = await openCheckpoint(new URL(`${name}/golden.safetensors`, FAMILIES));
      const logits = await logitsOf(name, { ...readConfig(name), ...change });
      const off = largestDifference(logits, await floatsOf(golden, "logits"));
      assert.ok(off > 20 * BOUND, `the largest change of a logit is ${off}`);
    });
  }
}

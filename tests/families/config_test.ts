/**
 * Configs of strangers: whatever a key of a config.json holds, a family takes it or refuses it in a
 * sentence.
 */
import assert from "node:assert/strict";
import { CheckpointError, UnsupportedError } from "../../src/errors.ts";
import { configureModel } from "../../src/families/mod.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { FAMILIES, MODELS, weightsFolder } from "./given.ts";

type Config = Record<string, unknown>;

const HOSTILE: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  0.5,
  7,
  1e18,
  NaN,
  Infinity,
  "",
  "x",
  [],
  [null],
  [1e18],
  new Array(1000).fill("full_attention"),
  {},
  { rope_type: "x" },
  { full_attention: 3 },
];

/** Every config that differs in one place, also within its objects and lists. */
function* changed(config: unknown): Generator<unknown> {
  if (typeof config !== "object" || config === null) return;
  for (const [key, value] of Object.entries(config)) {
    const put = (other: unknown) =>
      Array.isArray(config)
        ? config.map((own, i) => String(i) === key ? other : own)
        : { ...config, [key]: other };
    for (const other of HOSTILE) yield put(other);
    yield put(undefined);
    for (const other of changed(value)) yield put(other);
  }
}

for (const name of MODELS) {
  Deno.test(`the ${name} model's config is taken or refused in a sentence, whatever a key holds`, async () => {
    await using source = await openCheckpoint(weightsFolder(name));
    const text = await Deno.readTextFile(new URL(`${name}/config.json`, FAMILIES));
    let [taken, refused] = [0, 0];
    for (const config of changed(JSON.parse(text))) {
      try {
        configureModel(config as Config, (tensor) => source.tensors.has(tensor));
        taken++;
      } catch (error) {
        const known = error instanceof CheckpointError || error instanceof UnsupportedError;
        assert.ok(known, `${error}: ${JSON.stringify(config)}`);
        assert.match((error as Error).message, /^Cannot .+: .+\.$/s);
        refused++;
      }
    }
    assert.ok(taken > 100 && refused > 100, `${taken} taken, ${refused} refused`);
  });
}

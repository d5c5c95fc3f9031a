/**
 * Gradients of what predictions lose, through the head and the final norm of every family: in
 * float64 they are what differences say, and on each backend they are those but for rounding.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../../src/backend.ts";
import { configureModel } from "../../src/families/mod.ts";
import type { Model } from "../../src/family.ts";
import { LoadedBlock } from "../../src/forward/loaded_block.ts";
import { type Against, PredictionLoss } from "../../src/forward/prediction_loss.ts";
import { finalVectors, headOf } from "../../src/forward/scoring.ts";
import { ModelTables } from "../../src/forward/tables.ts";
import { normalize } from "../../src/forward/walk.ts";
import { loadRows, type ModelWeights, originalWeights } from "../../src/forward/weights.ts";
import { scaleCap } from "../../src/ops/mod.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { gaussian } from "../conformance/given.ts";
import { float64Backend, numbersOf } from "../f64_backend.ts";
import { onEveryBackend } from "../present.ts";
import { FAMILIES, MODELS, weightsFolder } from "./given.ts";

/** Two windows. */
const SEQ_LEN = 5;
const TOKENS = 2 * SEQ_LEN;

/** A head, and two models' states in front of it. */
interface Given {
  readonly model: Model;
  readonly weights: ModelWeights;
  readonly tables: ModelTables;
  readonly scope: Scope;
  readonly x: Tensor;
  readonly original: Tensor;
  readonly ids: Uint32Array<ArrayBuffer>;
}

/** The head is walked in slices of so many words. */
const SLICE = 50;

async function withHead<T>(
  name: string,
  backend: Backend,
  act: (given: Given) => Promise<T>,
): Promise<T | undefined> {
  await using source = await openCheckpoint(weightsFolder(name));
  const config = JSON.parse(await Deno.readTextFile(new URL(`${name}/config.json`, FAMILIES)));
  const model = configureModel(config, (tensor) => source.tensors.has(tensor));
  if (!model.head) return undefined;
  using scope = backend.scope();
  using tables = new ModelTables(model, { tokens: SEQ_LEN, scope });
  const shape = [TOKENS, model.hiddenSize];
  const [x, original] = [1, 2].map((seed) => {
    const tensor = scope.alloc("f32", shape);
    backend.write(tensor, new Uint8Array(gaussian(TOKENS * model.hiddenSize, seed).buffer));
    return tensor;
  }) as [Tensor, Tensor];
  const ids = Uint32Array.from({ length: TOKENS }, (_, i) => (i * 37 + 11) % model.vocabSize);
  return await act({ model, weights: originalWeights(source), tables, scope, x, original, ids });
}

/** The same device, of which no tensor holds logits of all words. */
function narrow(backend: Backend): Backend {
  return new Proxy(backend, {
    get(device, key) {
      if (key === "maxTensorBytes") return 4 * TOKENS * SLICE;
      const value = Reflect.get(device, key, device);
      return typeof value === "function" ? value.bind(device) : value;
    },
  });
}

async function gradientOf(given: Given, against: Against): Promise<Tensor> {
  const { model, scope } = given;
  const loss = await PredictionLoss.open(
    model,
    { ...given, tokens: TOKENS, backend: narrow(scope.backend) },
    scope,
  );
  return await loss.gradient(given.x, against, { scope });
}

/** Logits by token, in float64. */
async function logitsOf({ model, weights, tables, scope }: Given, x: Tensor) {
  const { backend } = scope;
  const content = { matrices: [], vectors: finalVectors(model) };
  const tensors = await LoadedBlock.load(content, weights, { scope });
  const h = model.final ? normalize(x, model.final, { scope, tensors, tables }) : x;
  const { linear, times = 1, softcap: cap = 0 } = headOf(model);
  const y = scope.alloc("f32", [TOKENS, model.vocabSize]);
  const rows = { from: 0, to: model.vocabSize };
  (await loadRows(linear.at.of, weights, { scope, rows })).product(h, y, 0);
  backend.run(scaleCap, { x: y }, { times, cap });
  const all = numbersOf(y);
  return Array.from(
    { length: TOKENS },
    (_, t) => all.slice(t * model.vocabSize, (t + 1) * model.vocabSize),
  );
}

const logSum = (row: Float64Array) => {
  const top = row.reduce((most, value) => Math.max(most, value));
  return top + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0));
};

/** The loss as its definition has it. */
async function lossOf(given: Given, against: Against): Promise<number> {
  const q = await logitsOf(given, given.x);
  if ("ids" in against) {
    return q.reduce((all, row, t) => {
      if ((t + 1) % SEQ_LEN === 0) return all;
      return all + logSum(row) - row[against.ids[t + 1]!]!;
    }, 0);
  }
  const p = await logitsOf(given, against.original);
  return p.reduce((all, row, t) => {
    const [zp, zq] = [logSum(row), logSum(q[t]!)];
    const terms = row.map((value, v) => Math.exp(value - zp) * (value - zp - q[t]![v]! + zq));
    return all + terms.reduce((sum, term) => sum + term, 0);
  }, 0);
}

const STEP = 2 ** -12;

for (const name of MODELS) {
  Deno.test(`the gradients of ${name}'s predictions are what differences say`, async () => {
    await withHead(name, float64Backend(), async (given) => {
      for (const against of [{ ids: given.ids }, { original: given.original }]) {
        const slope = numbersOf(await gradientOf(given, against));
        const direction = gaussian(slope.length, 3);
        const values = numbersOf(given.x);
        const before = values.slice();
        const at = async (step: number) => {
          values.set(before.map((value, i) => value + step * direction[i]!));
          return await lossOf(given, against);
        };
        const expected = (await at(STEP) - await at(-STEP)) / (2 * STEP);
        values.set(before);
        const found = slope.reduce((sum, value, i) => sum + value * direction[i]!, 0);
        assert.ok(
          Math.abs(found - expected) <= 1e-5 * (1 + Math.abs(expected)),
          `${found}, differences say ${expected}`,
        );
        assert.ok(Math.abs(expected) > 1e-3, `nothing depends on the states: ${expected}`);
      }
    });
  });
}

onEveryBackend("gradients of predictions are the same but for rounding", async (backend) => {
  // With a bound of logits, with a factor of them, with a norm that takes the mean off.
  for (const name of ["gemma2", "granite", "gpt2", "llama"]) {
    for (const kind of ["ids", "original"] as const) {
      const against = (given: Given) =>
        kind === "ids" ? { ids: given.ids } : { original: given.original };
      const exact = await withHead(
        name,
        float64Backend(),
        async (given) => numbersOf(await gradientOf(given, against(given))).slice(),
      );
      const found = await withHead(name, backend, async (given) => {
        const [bytes] = await backend.read(await gradientOf(given, against(given)));
        return new Float32Array(bytes!.buffer);
      });
      const most = exact!.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      found!.forEach((value, i) => {
        assert.ok(Math.abs(value - exact![i]!) <= 2e-5 * most, `${name}: ${value}, ${exact![i]}`);
      });
    }
  }
});

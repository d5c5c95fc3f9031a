/**
 * A whole model run in one piece, for tests: hidden states after the embedding and after each
 * block, and logits.
 */
import assert from "node:assert/strict";
import type { Backend } from "../../src/backend.ts";
import { embedWindows } from "../../src/forward/embedding.ts";
import { HiddenStates } from "../../src/forward/hidden_states.ts";
import { LoadedBlock } from "../../src/forward/loaded_block.ts";
import { ModelTables } from "../../src/forward/tables.ts";
import { normalize, walkBlock } from "../../src/forward/walk.ts";
import { loadRows, type ModelWeights } from "../../src/forward/weights.ts";
import type { Model } from "../../src/family.ts";
import { graphsOf } from "../../src/graph/block_graph.ts";
import { scaleCap } from "../../src/ops/mod.ts";

/** What a model makes of one window. */
export interface Outcome {
  /** f32[T, C] after the embedding, then after each block. */
  readonly hidden: readonly Float32Array[];
  /** f32[T, C] after the final norm. */
  readonly final: Float32Array;
  /** f32[T, V] */
  readonly logits: Float32Array;
}

/** Run a model on the tokens of one window. */
export async function runModel(
  model: Model,
  weights: ModelWeights,
  { ids, backend }: { readonly ids: Uint32Array<ArrayBuffer>; readonly backend: Backend },
): Promise<Outcome> {
  using scope = backend.scope();
  using tables = new ModelTables(model, { tokens: ids.length, scope });
  await using states = await HiddenStates.open({
    backend,
    rows: [ids.length],
    channels: model.hiddenSize,
    resident: 1,
  });
  await embedWindows(model, { backend, stacks: [ids], streams: [{ states, weights }], tables });
  const read = async () => {
    const [bytes] = await backend.read(await states.get(0, scope));
    return new Float32Array(bytes!.buffer);
  };
  const hidden = [await read()];
  for (const graph of graphsOf(model)) {
    using inner = backend.scope();
    const tensors = await LoadedBlock.load(graph, weights, { scope: inner });
    const x = await states.get(0, inner);
    await states.set(0, walkBlock(graph, x, { scope: inner, tensors, tables }), inner);
    hidden.push(await read());
  }
  let x = await states.get(0, scope);
  const { final, head } = model;
  if (final) {
    const vectors = [final.weight, final.bias].filter((name) => name !== undefined);
    const tensors = await LoadedBlock.load({ matrices: [], vectors }, weights, { scope });
    x = normalize(x, final, { scope, tensors, tables });
  }
  const logits = scope.alloc("f32", [ids.length, model.vocabSize]);
  const { linear, times = 1, softcap: cap = 0 } = head!;
  const rows = { from: 0, to: model.vocabSize };
  const { product } = await loadRows(linear.at.of, weights, { scope, rows });
  product(x, logits, 0);
  backend.run(scaleCap, { x: logits }, { times, cap });
  const [last, scores] = await backend.read(x, logits);
  return {
    hidden,
    final: new Float32Array(last!.buffer),
    logits: new Float32Array(scores!.buffer),
  };
}

/** How far two arrays of finite numbers are apart at most. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((most, value, i) => {
    assert.ok(Number.isFinite(value));
    return Math.max(most, Math.abs(value - b[i]!));
  }, 0);
}

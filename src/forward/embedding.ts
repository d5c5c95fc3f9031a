/**
 * The first hidden states of windows: rows of the embedding table, times a factor, with positions
 * and a norm where the model has them.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Model } from "../family.ts";
import { TABLE_BYTES } from "../limits.ts";
import { stackRows, upload } from "../linalg/channels.ts";
import { add, embedding, scaleCap } from "../ops/mod.ts";
import { widened } from "../ops/widen.ts";
import type { HiddenStates } from "./hidden_states.ts";
import { Pace } from "../pace.ts";
import type { ModelTables } from "./tables.ts";
import { normalize } from "./walk.ts";
import { areAlike, loadTable, loadVector, type ModelWeights } from "./weights.ts";

/** Rows of the embedding table or the head that are on the device at once. */
export function tableRows(
  { hiddenSize, vocabSize }: Pick<Model, "hiddenSize" | "vocabSize">,
  { maxTensorBytes }: Pick<Backend, "maxTensorBytes">,
): number {
  return Math.min(
    vocabSize,
    Math.max(1, Math.floor(Math.min(TABLE_BYTES, maxTensorBytes) / (hiddenSize * 4))),
  );
}

/** Tensors that embedding reads, in order. */
export function embeddingTensors({ embedding: { table, positions, norm } }: Model): string[] {
  return [table, positions?.table, norm?.weight, norm?.bias].filter((name) => name !== undefined);
}

/** One stream of hidden states to be begun. */
export interface EmbeddedStream {
  readonly states: HiddenStates;
  readonly weights: ModelWeights;
}

/** Set the hidden states of every stack of windows, in each stream, to those of its tokens. */
export async function embedWindows(
  model: Model,
  { backend, stacks, streams, tables }: {
    readonly backend: Backend;
    /** Tokens of each stack. */
    readonly stacks: readonly Uint32Array<ArrayBuffer>[];
    readonly streams: readonly EmbeddedStream[];
    readonly tables: ModelTables;
  },
): Promise<void> {
  const { embedding: { table: name }, vocabSize, hiddenSize } = model;
  const rows = tableRows(model, backend);
  const pace = new Pace(backend);
  for (let from = 0; from < vocabSize; from += rows) {
    using scope = backend.scope();
    const slice = { from, to: Math.min(vocabSize, from + rows) };
    let first: Tensor | undefined;
    for (const { states, weights } of streams) {
      const table: Tensor = first && areAlike(name, streams[0]!.weights, weights)
        ? first
        : await loadTable(name, weights, { scope, rows: slice });
      first ??= table;
      for (const [stack, ids] of stacks.entries()) {
        using inner = backend.scope();
        const wanted = upload(ids, inner);
        const x = from === 0
          ? inner.alloc("f32", [ids.length, hiddenSize])
          : await states.get(stack, inner);
        backend.run(embedding, { ids: wanted, table, x }, { first: from });
        await states.set(stack, x, inner);
        await pace.keep();
      }
    }
  }
  for (const stream of streams) await finishEmbedding(model, stream, { backend, tables, pace });
}

/** What follows the look-up, once all slices of the table have been seen. */
async function finishEmbedding(
  { embedding: { times = 1, positions, norm } }: Model,
  { states, weights }: EmbeddedStream,
  { backend, tables, pace }: {
    readonly backend: Backend;
    readonly tables: ModelTables;
    readonly pace: Pace;
  },
): Promise<void> {
  if (times === 1 && !positions && !norm) return;
  using scope = backend.scope();
  const { tokens } = tables;
  const placed = positions && await placesOf(positions, weights, { tokens, scope });
  const vectors = new Map<string, Tensor>();
  for (const name of [norm?.weight, norm?.bias]) {
    if (name !== undefined) vectors.set(name, await loadVector(name, weights, scope));
  }
  const tensors = { vector: (name: string) => vectors.get(name)! };
  for (let stack = 0; stack < states.stacks; stack++) {
    using inner = backend.scope();
    let x = await states.get(stack, inner);
    if (times !== 1) backend.run(scaleCap, { x }, { times, cap: 0 });
    if (placed) {
      const [rows = 0] = x.shape;
      const y = stackRows(new Array<Tensor>(rows / tokens).fill(placed), inner);
      backend.run(add, { y, x }, { times: 1, other: 1 });
    }
    if (norm) x = normalize(x, norm, { scope: inner, tensors, tables });
    await states.set(stack, x, inner);
    await pace.keep();
  }
}

/** What is added at each position: f32[T, C]. */
async function placesOf(
  { table, offset }: NonNullable<Model["embedding"]["positions"]>,
  weights: ModelWeights,
  { tokens, scope }: { readonly tokens: number; readonly scope: Scope },
): Promise<Tensor> {
  const rows = { from: offset, to: offset + tokens };
  return widened(await loadTable(table, weights, { scope, rows }), scope);
}

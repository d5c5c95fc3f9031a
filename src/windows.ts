/** What every walk of windows through a model begins with: rotary tables, and the embedding of tokens. */
import type { Backend, Scope, Tensor } from "./backend.ts";
import { TABLE_BYTES } from "./budget.ts";
import type { Model } from "./family.ts";
import type { HiddenStates } from "./hidden_states.ts";
import { embedding } from "./ops/mod.ts";
import { areAlike, loadTable, type ModelWeights } from "./weights.ts";

/** Rotary tables for windows of `tokens` tokens, f32[T, head_dim/2] each, in `scope`. */
export function rotaryTables(
  model: Model,
  { tokens, scope }: { readonly tokens: number; readonly scope: Scope },
): { readonly cos: Tensor; readonly sin: Tensor } {
  const { halfDim, cos, sin } = model.rotary(tokens);
  const table = (values: Float32Array<ArrayBuffer>) => {
    const tensor = scope.alloc("f32", [tokens, halfDim]);
    scope.backend.write(tensor, new Uint8Array(values.buffer));
    return tensor;
  };
  return { cos: table(cos), sin: table(sin) };
}

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

/** Set the hidden states of every window, in each stream, to the embedding of its tokens. */
export async function embedWindows(
  model: Model,
  { backend, windows, streams }: {
    readonly backend: Backend;
    readonly windows: readonly Uint32Array<ArrayBuffer>[];
    readonly streams: readonly {
      readonly states: HiddenStates;
      readonly weights: ModelWeights;
    }[];
  },
): Promise<void> {
  const { embedding: name, vocabSize, hiddenSize } = model;
  const tokens = windows[0]!.length;
  const rows = tableRows(model, backend);
  for (let from = 0; from < vocabSize; from += rows) {
    using scope = backend.scope();
    const slice = { from, to: Math.min(vocabSize, from + rows) };
    let first: Tensor | undefined;
    for (const { states, weights } of streams) {
      const table: Tensor = first && areAlike(name, streams[0]!.weights, weights)
        ? first
        : await loadTable(name, weights, { scope, rows: slice });
      first ??= table;
      for (const [window, ids] of windows.entries()) {
        using inner = backend.scope();
        const wanted = inner.alloc("u32", [tokens]);
        backend.write(wanted, new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
        const x = from === 0
          ? inner.alloc("f32", [tokens, hiddenSize])
          : await states.get(window, inner);
        backend.run(embedding, { ids: wanted, table, x }, { first: from });
        await states.set(window, x, inner);
      }
      await backend.finish();
    }
  }
}

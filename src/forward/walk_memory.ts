/**
 * The device's memory for walks that have no plan: an evaluation of what is there already, a search
 * for outliers.
 */
import type { Backend } from "../backend.ts";
import { activationsPerToken } from "../plan/memory.ts";
import { UnsupportedError } from "../errors.ts";
import type { Model } from "../family.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { SMALL_BYTES } from "../limits.ts";
import type { WindowsRequest } from "../plan/planned.ts";
import { stackTokens } from "../plan/stacks.ts";
import { schemeKind } from "../schemes/mod.ts";
import { size } from "../size.ts";
import { byteLength, matrixShape, sum } from "../tensor.ts";
import { areAlike, type ModelWeights } from "./weights.ts";

/**
 * Bytes of a block's linears in all streams, and the most that one product of them takes beside.
 */
function blockBytes(
  { matrices }: BlockGraph,
  { streams, tokens }: { readonly streams: readonly ModelWeights[]; readonly tokens: number },
): number {
  let scratch = 0;
  const held = sum(matrices, ({ name, at }) =>
    sum(streams, (weights) => {
      if (weights !== streams[0] && areAlike(name, streams[0]!, weights)) return 0;
      const stored = weights.stored(name);
      if (!stored) return byteLength(weights.info(at.of)!);
      const { shape, scheme, parts } = stored.weight;
      const packed = sum(parts, byteLength);
      scratch = Math.max(scratch, packed, schemeKind(scheme).linearBytes(scheme, shape, tokens));
      return schemeKind(scheme).codeBytes(scheme, ...matrixShape(shape));
    }));
  return held + scratch;
}

/** A walk without a plan. */
export interface Walk {
  readonly backend: Pick<
    Backend,
    "name" | "memoryBytes" | "maxTensorBytes" | "productRows" | "productElements"
  >;
  readonly streams: readonly ModelWeights[];
  readonly windows: WindowsRequest;
  /** Floats of hidden states per token. */
  readonly statesPerToken: number;
  /** Bytes of what else lies on the device meanwhile. */
  readonly beside?: number;
}

/**
 * Bytes that must be on the device at once: a block, the hidden states that are kept in memory, and
 * a stack's activations; and those of the block.
 */
export function walkNeeds(
  model: Model,
  { backend, streams, windows, statesPerToken, beside = 0 }: Walk,
): { readonly needed: number; readonly block: number } {
  const { seqLen, windows: count, stateBudget } = windows;
  const tokens = stackTokens(windows, { model, device: backend });
  const states = Math.min(stateBudget, count * seqLen * statesPerToken * 4);
  const block = Math.max(
    ...graphsOf(model).map((graph) => blockBytes(graph, { streams, tokens })),
  );
  const activations = tokens * activationsPerToken(model) * 4;
  return { needed: block + activations + states + beside + SMALL_BYTES, block };
}

/**
 * Refuse to send windows through a model where the device cannot hold what {@linkcode walkNeeds}
 * counts.
 *
 * @param doing Completes "Cannot … on wasm".
 * @throws {UnsupportedError} it cannot; a device that does not say what it holds is believed to.
 */
export function checkWalk(doing: string, model: Model, walk: Walk): void {
  const { name, memoryBytes = Infinity } = walk.backend;
  const { needed, block } = walkNeeds(model, walk);
  if (needed <= memoryBytes) return;
  const reason = `${size(needed)} must be on it at once, ${size(block)} of them for the weights ` +
    `of a block, and it holds ${size(memoryBytes)}`;
  const fewer = block > memoryBytes
    ? ""
    : ", a shorter `seqLen`, or keep fewer hidden states in memory (`maxStates`)";
  throw new UnsupportedError(
    `Cannot ${doing} on ${name}: ${reason}. Use a GPU (\`device\` webgpu)${fewer}.`,
    { what: name, reason },
  );
}

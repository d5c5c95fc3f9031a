/**
 * Between what scales may move without changing what a model computes (AWQ, SmoothQuant): the
 * channels of a stage's input are divided by them, the columns of its linears multiplied. Dividing
 * is done where the input is made: in a norm's weight, or in rows of a linear from which the way to
 * the input is a product with each channel: values through attention, up through a gate, anything
 * through ReLU. Read off the graph; nothing is declared.
 */
import type { Norm, State } from "../family.ts";
import type { BlockGraph, Stage } from "./block_graph.ts";
import type { Matrix } from "./matrices.ts";

/** What may be divided so that a stage's input is. */
export type Smoothing =
  /** The norm that makes it. */
  | { readonly kind: "norm"; readonly norm: Norm }
  /**
   * A matrix of an earlier stage: its row `rows[c]` makes channel c; channels of one row must share
   * a scale.
   */
  | {
    readonly kind: "linear";
    readonly matrix: Matrix;
    readonly rows: Uint32Array<ArrayBuffer>;
  };

/** The exact pair of a stage; undefined where there is none. */
export function smoothingOf(
  graph: BlockGraph,
  { input, channels, at }: Stage,
): Smoothing | undefined {
  if (input === graph.block.output || graph.readersOf(input).length !== 1) return undefined;
  const producer = graph.producerOf(input);
  const identity = () => new Uint32Array(channels).map((_, channel) => channel);
  switch (producer?.op) {
    case "norm":
      // A norm without a weight has nothing to divide, and one weight for all heads no scale of
      // each channel.
      if (producer.norm.weight === undefined || producer.norm.perHead !== undefined) {
        return undefined;
      }
      return { kind: "norm", norm: producer.norm };
    case "attend": {
      const { heads, keyValueHeads, dim } = producer.attention;
      const shared = heads / keyValueHeads;
      // Query heads share value heads.
      return throughRows(
        graph,
        producer.v,
        at,
        () =>
          new Uint32Array(channels).map((_, channel) => {
            const head = Math.floor(channel / dim);
            return Math.floor(head / shared) * dim + channel % dim;
          }),
      );
    }
    case "gate":
      return throughRows(graph, producer.up, at, identity);
    case "act":
      return producer.act === "relu" ? throughRows(graph, producer.from, at, identity) : undefined;
  }
  return undefined;
}

/** The rows that make a state which nothing else reads, where it is a linear's output. */
function throughRows(
  graph: BlockGraph,
  state: State,
  before: number,
  rows: () => Uint32Array<ArrayBuffer>,
): Smoothing | undefined {
  const place = graph.placeOf(state);
  if (graph.readersOf(state).length !== 1 || place >= before) return undefined;
  if (graph.producerOf(state)?.op !== "linears") return undefined;
  for (const matrix of graph.stageAt(place).matrices) {
    const part = matrix.parts.find((part) => part.state === state);
    if (!part) continue;
    const { rows: own } = part;
    return { kind: "linear", matrix, rows: own ? rows().map((row) => own[row]!) : rows() };
  }
  return undefined;
}

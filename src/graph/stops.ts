/**
 * Where windows stop in a block while it is calibrated, in the quantized stream and in the original
 * one, and what is kept of them there. The original's states walk along for propagation; where a
 * stage's output joins the residual stream they are ahead by that stage, so that no product is
 * computed twice and nothing but the residual stream is kept. Pure.
 */
import type { Model, State } from "../family.ts";
import { type BlockGraph, graphsOf, type Stage } from "./block_graph.ts";
import { residualEdge } from "./residual.ts";

/** The place before a stage's linears, or the end of the block. */
export function placeOf(graph: BlockGraph, stage: Stage | undefined): number {
  return stage ? stage.at : graph.nodes.length;
}

/** Where the original's states stop when the quantized model's stop before a stage. */
export function originalPlace(graph: BlockGraph, stage: Stage | undefined): number {
  if (!stage || !residualEdge(graph, stage)) return placeOf(graph, stage);
  let place = stage.at + 1;
  const known = (state: State) => graph.placeOf(state) < place;
  for (;;) {
    const node = graph.nodes[place];
    if (node?.op !== "add" || !node.terms.every(({ state }) => known(state))) return place;
    place++;
  }
}

/** What is kept of a window at a stop, by stream. */
export interface Stop {
  readonly quantized: readonly State[];
  readonly original: readonly State[];
}

/** What is kept when windows stop before a stage, or at the end of the block. */
export function stopAt(graph: BlockGraph, stage: Stage | undefined): Stop {
  return {
    quantized: graph.resumption(placeOf(graph, stage)).states,
    original: graph.resumption(originalPlace(graph, stage)).states,
  };
}

/**
 * Floats per token of a calibration's states: at one stop at most, and of two stops that follow
 * each other.
 */
export interface StateWidths {
  readonly kept: number;
  /** States at one stop, at most. */
  readonly stores: number;
  /** As many are on disk while windows go from one stop to the next. */
  readonly between: number;
}

/** What windows of a calibration take along. */
export interface Streams {
  /** Whether the original's hidden states walk along. */
  readonly propagate: boolean;
  /** Whether blocks are trained, for which their inputs are kept, and what they are to make. */
  readonly tuned?: boolean;
}

const known = new WeakMap<Model, Map<string, StateWidths>>();

/** How many states are kept of each token, by what windows take along. */
export function stateWidths(model: Model, { propagate, tuned = false }: Streams): StateWidths {
  const widths = known.getOrInsertComputed(model, () => new Map());
  return widths.getOrInsertComputed(`${propagate} ${tuned}`, () => {
    const stops = graphsOf(model).map((graph) => widthsOf(graph, { propagate, tuned }));
    return {
      kept: Math.max(...stops.map(({ kept }) => kept)),
      stores: Math.max(...stops.map(({ stores }) => stores)),
      between: Math.max(...stops.map(({ between }) => between)),
    };
  });
}

function widthsOf(graph: BlockGraph, { propagate, tuned }: Required<Streams>): StateWidths {
  const { input, output } = graph.block;
  const start: Stop = { quantized: [input], original: propagate ? [input] : [] };
  const onWay = [...graph.stages, ...tuned ? [] : [undefined]].map((stage): Stop => {
    const { quantized, original } = stopAt(graph, stage);
    return {
      quantized: tuned ? [...new Set([input, ...quantized])] : quantized,
      original: propagate ? original : [],
    };
  });
  // Trained, windows go from a block's input to its end once more.
  const end = (state: State): Stop => ({ quantized: [state], original: [output] });
  const stops = [start, ...onWay, ...tuned ? [end(input), end(output)] : []];
  const width = (states: Iterable<State>) =>
    [...states].reduce((sum, state) => sum + graph.width(state === output ? input : state), 0);
  const both = (of: (stream: "quantized" | "original") => Iterable<State>) =>
    width(of("quantized")) + width(of("original"));
  return {
    kept: Math.max(...stops.map((stop) => both((stream) => stop[stream]))),
    stores: Math.max(
      ...stops.map(({ quantized, original }) => quantized.length + original.length),
    ),
    between: Math.max(
      ...stops.slice(1).map((stop, i) =>
        both((stream) => new Set([...stops[i]![stream], ...stop[stream]]))
      ),
    ),
  };
}

/**
 * What going back through a block takes: which states' values, which of them are kept on the way
 * forward and which are computed anew, and how many bytes that comes to. Counted as
 * forward/backward.ts goes. Pure.
 */
import type { Node, State } from "../family.ts";
import { QUERY_FACTS } from "../ops/attention_vjp_q.ts";
import { sum } from "../tensor.ts";
import { type BlockGraph, readsOf, writesOf } from "./block_graph.ts";
import { Gradients } from "./gradients.ts";
import { walkWidths } from "./live.ts";
import type { Matrix } from "./matrices.ts";

/** States whose values the way back through a node takes. */
export function valuesFor(node: Node): readonly State[] {
  switch (node.op) {
    case "norm":
    case "linears":
    case "act":
      return [node.from];
    case "gate":
      return [node.gate, node.up];
    case "attend":
      return [node.q, node.k, node.v, node.to];
    case "add":
      return [];
  }
}

/** How a block is gone through and back. */
export interface TapePlan {
  /** Places of the nodes that are run again when their values are needed; norms always are. */
  readonly again: ReadonlySet<number>;
  /** Whether the gradient by the block's input is wanted. */
  readonly inputGradient: boolean;
  /**
   * Bytes of the device at most, on the way forward the output included. What the tape is given
   * (weights, input, gradient by the output) and what is made of a linear's gradient come on top.
   */
  readonly bytes: number;
}

/** What is asked of a plan. */
export interface TapeRequest {
  /** Of a stack of windows. */
  readonly tokens: number;
  /** Of each window. */
  readonly seqLen: number;
  readonly inputGradient: boolean;
  /** Bytes that there are; the plan may take more where it cannot do with them. */
  readonly budget: number;
  /**
   * Bytes that a matrix takes as f32 beside what is loaded, while a gradient is multiplied by it; 4
   * a weight unless said.
   */
  readonly valuesBytes?: (matrix: Matrix) => number;
}

/**
 * A plan that fits, of those that compute little anew; else the one that takes the fewest bytes of
 * those that were tried.
 */
export function planTape(graph: BlockGraph, request: TapeRequest): TapePlan {
  const { inputGradient, budget } = request;
  const { nodes } = graph;
  const again = new Set(nodes.flatMap(({ op }, at) => op === "norm" ? [at] : []));
  const planned = (): TapePlan => ({
    again: new Set(again),
    inputGradient,
    bytes: tapeBytes(graph, { again, inputGradient }, request),
  });
  let best = planned();
  while (best.bytes > budget) {
    const kept = (places: ReadonlySet<number>) =>
      sum(
        [...new Tape(graph, { again: places, inputGradient }).kept],
        (state) => graph.width(state),
      );
    const before = kept(again);
    const [cheapest] = nodes.flatMap((node, at) => {
      const saved = before - kept(new Set([...again, at]));
      return saved > 0 ? [{ at, price: workOf(node, request) / saved }] : [];
    }).sort((a, b) => a.price - b.price);
    if (!cheapest) break;
    again.add(cheapest.at);
    const next = planned();
    if (next.bytes < best.bytes) best = next;
  }
  return best;
}

/** Multiply-adds of a node, by token. */
function workOf(node: Node, { seqLen }: Pick<TapeRequest, "seqLen">): number {
  switch (node.op) {
    case "linears":
      return sum(Object.values(node.to), ({ rows, columns }) => rows * columns);
    case "attend":
      return node.attention.heads * node.attention.dim * seqLen;
    default:
      return 1;
  }
}

/** Which states of a block have values and gradients on the way back, and for how long. */
export class Tape {
  /** States that are kept on the way forward. */
  readonly kept: ReadonlySet<State>;
  readonly #until = new Map<State, number>();
  readonly #active = new Set<State>();
  readonly #graph: BlockGraph;

  constructor(
    graph: BlockGraph,
    { again, inputGradient }: Pick<TapePlan, "again" | "inputGradient">,
  ) {
    this.#graph = graph;
    const { nodes, block } = graph;
    if (inputGradient) this.#active.add(block.input);
    for (const node of nodes) {
      if (node.op === "linears" || readsOf(node).some((state) => this.isActive(state))) {
        for (const state of writesOf(node)) this.#active.add(state);
      }
    }
    const kept = new Set<State>();
    const need = (state: State, at: number): void => {
      this.#until.set(state, Math.min(at, this.#until.get(state) ?? Infinity));
      const place = graph.placeOf(state);
      if (!again.has(place)) kept.add(state);
      else for (const read of readsOf(nodes[place]!)) need(read, at);
    };
    for (const [at, node] of nodes.entries()) {
      if (this.isOnWay(node)) valuesFor(node).forEach((state) => need(state, at));
    }
    this.kept = kept;
  }

  /** Whether a gradient by this state is wanted. */
  isActive(state: State): boolean {
    return this.#active.has(state);
  }

  /** Whether the way back goes through a node. */
  isOnWay(node: Node): boolean {
    return node.op === "linears" || readsOf(node).some((state) => this.isActive(state));
  }

  /** Whether a state's value is not needed once the way back has passed the node at a place. */
  isOver(state: State, at: number): boolean {
    return at <= (this.#until.get(state) ?? Infinity);
  }

  /** What has to be run, in order, for states whose values are not at hand. */
  missing(states: readonly State[], isAtHand: (state: State) => boolean): readonly number[] {
    const places = new Set<number>();
    const need = (state: State): void => {
      const place = this.#graph.placeOf(state);
      if (isAtHand(state) || places.has(place)) return;
      places.add(place);
      readsOf(this.#graph.nodes[place]!).forEach(need);
    };
    states.forEach(need);
    return [...places].sort((a, b) => a - b);
  }
}

/** A gradient's floats per token. */
interface Size {
  readonly width: number;
}

/** Bytes of the device that the way through a block and back takes at most. */
function tapeBytes(
  graph: BlockGraph,
  plan: Pick<TapePlan, "again" | "inputGradient">,
  { tokens, valuesBytes = ({ rows, columns }) => rows * columns * 4 }: TapeRequest,
): number {
  const tape = new Tape(graph, plan);
  const { nodes, block } = graph;
  const way = walkWidths(graph, { from: 0, to: nodes.length, keep: tape.kept });
  let most = way.most * tokens * 4;
  const held = new Set([...tape.kept].filter((state) => state !== block.input));
  let width = sum([...held], (state) => graph.width(state));
  /** Floats per token, and bytes, that are there for a moment. */
  const meet = (floats = 0, bytes = 0) => {
    most = Math.max(most, (width + floats) * tokens * 4 + bytes);
  };
  const alloc = (floats: number): Size => {
    width += floats;
    meet();
    return { width: floats };
  };
  const gradients = new Gradients<Size>({
    copy: ({ width }) => alloc(width),
    add: () => {},
    free: (size) => {
      width -= size.width;
    },
  });
  gradients.lend(block.output, { width: graph.width(block.output) });
  for (let at = nodes.length - 1; at >= 0; at--) {
    const node = nodes[at]!;
    if (tape.isOnWay(node)) {
      const isAtHand = (state: State) => state === block.input || held.has(state);
      for (const place of tape.missing(valuesFor(node), isAtHand)) {
        const made = writesOf(nodes[place]!);
        width += sum(made, (state) => graph.width(state));
        meet(scratchAgain(nodes[place]!, graph));
        made.forEach((state) => held.add(state));
      }
      sizeBack(node, at, { graph, tape, gradients, alloc, meet, valuesBytes });
    }
    for (const state of held) {
      if (!tape.isOver(state, at)) continue;
      held.delete(state);
      width -= graph.width(state);
    }
  }
  return Math.ceil(most);
}

/** Floats per token that a node takes beside what it makes, when it may change nothing in place. */
function scratchAgain(node: Node, graph: BlockGraph): number {
  if (node.op === "attend") return graph.width(node.q) + graph.width(node.k);
  if (node.op !== "linears") return 0;
  return sum(Object.values(node.to), ({ at, rows }) => at.rows ? rows : 0);
}

interface SizeContext {
  readonly graph: BlockGraph;
  readonly tape: Tape;
  readonly gradients: Gradients<Size>;
  readonly alloc: (floats: number) => Size;
  readonly meet: (floats?: number, bytes?: number) => void;
  readonly valuesBytes: (matrix: Matrix) => number;
}

/** The gradients of one node's inputs. */
function sizeBack(
  node: Node,
  at: number,
  { graph, tape, gradients, alloc, meet, valuesBytes }: SizeContext,
): void {
  switch (node.op) {
    case "norm":
    case "act":
      return gradients.put(node.from, gradients.take(node.to));
    case "gate": {
      const other = alloc(graph.width(node.gate));
      const own = gradients.take(node.to);
      gradients.put(node.up, own);
      return gradients.put(node.gate, other);
    }
    case "add": {
      for (const { state, times = 1 } of node.terms) {
        if (tape.isActive(state)) gradients.share(state, node.to, times);
      }
      return gradients.drop(node.to);
    }
    case "linears": {
      const x = tape.isActive(node.from) ? alloc(graph.width(node.from)) : undefined;
      for (const matrix of graph.stageAt(at).matrices) {
        // Parts are brought together, then into the order of rows.
        const parts = matrix.parts[0]!.rows ? matrix.rows : 0;
        meet(2 * parts);
        if (x) meet(parts, valuesBytes(matrix));
        for (const { state } of matrix.parts) gradients.drop(state);
      }
      if (x) gradients.put(node.from, x);
      return;
    }
    case "attend": {
      const { q, k, v, to, attention: { heads } } = node;
      const [width, shared] = [graph.width(q), graph.width(k)];
      const made = [alloc(width), alloc(shared), alloc(shared)];
      meet(width + shared + QUERY_FACTS * heads);
      gradients.drop(to);
      [q, k, v].forEach((state, i) => gradients.put(state, made[i]!));
    }
  }
}

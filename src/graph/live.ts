/**
 * How wide a walk through nodes is: floats per token of the states that it has made and still
 * needs. Counted as forward/walk.ts walks: what nobody needs again is changed in place, or freed.
 * Pure.
 */
import type { Linear, Node, State } from "../family.ts";
import { type BlockGraph, readsOf, writesOf } from "./block_graph.ts";

/** Floats per token, what the walk was given apart. */
export interface WalkWidths {
  /** At most on the way. */
  readonly most: number;
  /** When it has arrived. */
  readonly end: number;
}

/**
 * What a walk from one place to another holds beside the states that it is given, of which it keeps
 * some that are not needed to go on.
 */
export function walkWidths(
  graph: BlockGraph,
  { from, to, keep = [] }: {
    readonly from: number;
    readonly to: number;
    readonly keep?: Iterable<State>;
  },
): WalkWidths {
  const wanted = new Set([...graph.resumption(to).states, ...keep]);
  const own = new Set<State>();
  const width = (states: Iterable<State>) =>
    [...states].reduce((sum, state) => sum + graph.width(state), 0);
  let most = 0;
  const run = (node: Node, at: number) => {
    const isOver = (state: State) => graph.lastUse(state) <= at && !wanted.has(state);
    const isFree = (state: State) => own.has(state) && isOver(state);
    const taken = changed(node).findLast(isFree);
    if (taken !== undefined) own.delete(taken);
    for (const state of writesOf(node)) own.add(state);
    most = Math.max(most, width(own) + scratch(node, width, isFree));
    for (const state of [...readsOf(node), ...writesOf(node)]) if (isOver(state)) own.delete(state);
  };
  for (const node of graph.resumption(from).redo) run(node, graph.nodes.indexOf(node));
  for (let at = from; at < to; at++) run(graph.nodes[at]!, at);
  return { most, end: width(own) };
}

/** The states of which a node may turn one into its output. */
function changed(node: Node): readonly State[] {
  switch (node.op) {
    case "act":
      return [node.from];
    case "gate":
      return [node.gate];
    case "add":
      return node.terms.map(({ state }) => state);
    default:
      return [];
  }
}

/** What a node holds that is no state: whole products, copies of what it turns. */
function scratch(
  node: Node,
  width: (states: Iterable<State>) => number,
  isFree: (state: State) => boolean,
): number {
  switch (node.op) {
    case "linears":
      return partsWidth(Object.values(node.to));
    case "attend":
      return width([node.q, node.k].filter((state) => !isFree(state)));
    default:
      return 0;
  }
}

/** Of linears that are some rows of a matrix: they are copied out of the whole product. */
function partsWidth(linears: readonly Linear[]): number {
  return linears.reduce((sum, { at, rows }) => sum + (at.rows ? rows : 0), 0);
}

/**
 * What is read off a block's graph: its stages, at which calibration stops; the states that are
 * needed to go on from a place; how wide states are. Pure.
 */
import type { Block, Linear, Model, Node, State } from "../family.ts";
import { matricesOf, type Matrix, vectorsOf } from "./matrices.ts";

/**
 * Linears that read one state: calibration observes it, and quantizes them before it goes on ("true
 * sequential" in GPTQ's code).
 */
export interface Stage {
  /** Its place among the graph's nodes. */
  readonly at: number;
  readonly input: State;
  /** Channels of the input: C. */
  readonly channels: number;
  /** By the states they make. */
  readonly linears: ReadonlyMap<State, Linear>;
  /** What is stored of them. */
  readonly matrices: readonly Matrix[];
}

/** What is needed to go on from a place between two nodes. */
export interface Resumption {
  /** States that must be at hand. */
  readonly states: readonly State[];
  /**
   * Norms that are computed anew from them, because that is cheaper than keeping what they gave.
   */
  readonly redo: readonly Node[];
}

/** States that a node reads. */
export function readsOf(node: Node): readonly State[] {
  switch (node.op) {
    case "norm":
    case "linears":
    case "act":
      return [node.from];
    case "attend":
      return [node.q, node.k, node.v];
    case "gate":
      return [node.gate, node.up];
    case "add":
      return node.terms.map(({ state }) => state);
  }
}

/** States that a node writes. */
export function writesOf(node: Node): readonly State[] {
  return node.op === "linears" ? Object.keys(node.to) : [node.to];
}

/** A block's nodes in the order they are walked, and what follows from it. */
export class BlockGraph {
  readonly block: Block;
  /** Those of the block; linears that read one state are one node. */
  readonly nodes: readonly Node[];
  readonly stages: readonly Stage[];
  readonly #widths = new Map<State, number>();
  readonly #producers = new Map<State, number>();
  readonly #readers = new Map<State, number[]>();
  /** By place: every window asks for them at every stop. */
  readonly #resumptions = new Map<number, Resumption>();

  /** @param hiddenSize Channels of the block's input. */
  constructor(block: Block, hiddenSize: number) {
    this.block = block;
    this.nodes = mergeTaps(block.nodes);
    this.#widths.set(block.input, hiddenSize);
    for (const [at, node] of this.nodes.entries()) {
      for (const state of readsOf(node)) this.#readers.getOrInsert(state, []).push(at);
      for (const state of writesOf(node)) {
        this.#producers.set(state, at);
        this.#widths.set(state, this.#widthOf(node, state));
      }
    }
    this.stages = this.nodes.flatMap((node, at) =>
      node.op === "linears"
        ? [{
          at,
          input: node.from,
          channels: this.width(node.from),
          linears: new Map(Object.entries(node.to)),
          matrices: matricesOf(Object.entries(node.to)),
        }]
        : []
    );
  }

  #widthOf(node: Node, state: State): number {
    switch (node.op) {
      case "linears":
        return node.to[state]!.rows;
      case "attend":
        return node.attention.heads * node.attention.dim;
      case "norm":
      case "act":
        return this.width(node.from);
      case "gate":
        return this.width(node.up);
      case "add":
        return this.width(node.terms[0]!.state);
    }
  }

  /** All matrices of the block, in the order they are used. */
  get matrices(): readonly Matrix[] {
    return this.stages.flatMap(({ matrices }) => matrices);
  }

  /** All norms and biases of the block. */
  get vectors(): readonly string[] {
    return vectorsOf(this.block);
  }

  /** Every tensor that running the block reads. */
  get tensors(): readonly string[] {
    return [...new Set(this.matrices.map(({ at }) => at.of)), ...this.vectors];
  }

  /** The stage at a place. */
  stageAt(at: number): Stage {
    return this.stages.find((stage) => stage.at === at)!;
  }

  /** Floats of a state per token. */
  width(state: State): number {
    return this.#widths.get(state)!;
  }

  /** The node that writes a state; undefined for the block's input. */
  producerOf(state: State): Node | undefined {
    const at = this.#producers.get(state);
    return at === undefined ? undefined : this.nodes[at];
  }

  /** The place of the node that writes a state; −1 for the block's input. */
  placeOf(state: State): number {
    return this.#producers.get(state) ?? -1;
  }

  /** The nodes that read a state, in order. */
  readersOf(state: State): readonly Node[] {
    return (this.#readers.get(state) ?? []).map((at) => this.nodes[at]!);
  }

  /** The place after which a state is not needed any more; the end for the block's output. */
  lastUse(state: State): number {
    return state === this.block.output
      ? this.nodes.length
      : this.#readers.get(state)?.at(-1) ?? this.placeOf(state);
  }

  /** The place up to which a state, or a norm of it that is computed anew, is needed. */
  lastNeed(state: State): number {
    const needs = this.readersOf(state).map((node) =>
      node.op === "norm" ? this.lastNeed(node.to) : 0
    );
    return Math.max(this.lastUse(state), ...needs);
  }

  /** What is needed to run the nodes from a place on. */
  resumption(at: number): Resumption {
    return this.#resumptions.getOrInsertComputed(at, () => this.#findResumption(at));
  }

  #findResumption(at: number): Resumption {
    const states = new Set<State>();
    const redo = new Set<number>();
    const need = (state: State): void => {
      const place = this.placeOf(state);
      if (place >= at) return;
      const producer = this.producerOf(state);
      if (producer?.op !== "norm" || at === this.nodes.length) {
        states.add(state);
      } else if (!redo.has(place)) {
        redo.add(place);
        need(producer.from);
      }
    };
    for (const node of this.nodes.slice(at)) readsOf(node).forEach(need);
    need(this.block.output);
    return {
      states: [...states],
      redo: [...redo].sort((a, b) => a - b).map((place) => this.nodes[place]!),
    };
  }
}

const known = new WeakMap<Model, readonly BlockGraph[]>();

/** The graphs of a model's blocks. */
export function graphsOf(model: Model): readonly BlockGraph[] {
  let graphs = known.get(model);
  if (!graphs) {
    graphs = model.blocks.map((block) => new BlockGraph(block, model.hiddenSize));
    known.set(model, graphs);
  }
  return graphs;
}

/** The tensors of a model that hold matrices [R, C] as [C, R]. */
export function transposedTensors(model: Model): ReadonlySet<string> {
  const matrices = graphsOf(model).flatMap(({ matrices }) => matrices);
  return new Set(matrices.filter(({ at }) => at.transposed).map(({ at }) => at.of));
}

/** Bring linears that read one state together, where the first of them stands. */
function mergeTaps(nodes: readonly Node[]): Node[] {
  const merged: Node[] = [];
  const taps = new Map<State, { op: "linears"; from: State; to: Record<State, Linear> }>();
  for (const node of nodes) {
    if (node.op !== "linears") {
      merged.push(node);
      continue;
    }
    const known = taps.get(node.from);
    if (known) {
      Object.assign(known.to, node.to);
    } else {
      const tap = { ...node, to: { ...node.to } };
      taps.set(node.from, tap);
      merged.push(tap);
    }
  }
  return merged;
}

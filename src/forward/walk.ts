/**
 * The way of a stack of windows through a block: nodes run one after the other, states freed after
 * their last use. Serves evaluation, calibration and the search for outliers.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Attention, Node, Norm, State } from "../family.ts";
import type { BlockGraph } from "../graph/block_graph.ts";
import type { Matrix } from "../graph/matrices.ts";
import type { Scalars } from "../op.ts";
import { readsOf, writesOf } from "../graph/block_graph.ts";
import { ACTIVATIONS } from "../ops/activation.ts";
import { copyRectangle } from "../ops/copy.ts";
import {
  act,
  add,
  attention,
  gate,
  gatherColumns,
  layerNorm,
  rmsNorm,
  rope,
  scaleRows,
} from "../ops/mod.ts";
import { States } from "./states.ts";
import type { ModelTables } from "./tables.ts";

/** A block's tensors in one stream of hidden states, original or quantized. */
export interface BlockTensors {
  /** x·Wᵀ + b as this stream's runtime would compute it, for x f32[T, C]: f32[T, R] in `scope`. */
  product(matrix: Matrix, x: Tensor, scope: Scope): Tensor;
  /** A norm's weight or a bias, on the device. */
  vector(name: string): Tensor;
}

/** What a walk may use. */
export interface Forward {
  /** What it makes belongs to this scope. */
  readonly scope: Scope;
  readonly tensors: BlockTensors;
  readonly tables: ModelTables;
}

/**
 * Run the nodes from one place to another.
 *
 * @param given The states that `graph.resumption(from)` asks for.
 * @param keep States on the way that are wanted, too.
 * @returns every state that is needed from `to` on, what was to be kept, and what was given.
 */
export function walk(
  graph: BlockGraph,
  { from, to }: { readonly from: number; readonly to: number },
  { given, keep = [], forward }: {
    readonly given: Iterable<readonly [State, Tensor]>;
    readonly keep?: Iterable<State>;
    readonly forward: Forward;
  },
): States {
  const states = new States(given, forward.scope);
  const wanted = new Set([...graph.resumption(to).states, ...keep]);
  const isOver = (state: State, at: number) => graph.lastUse(state) <= at && !wanted.has(state);
  const run = (node: Node, at: number) => {
    runNode(node, states, {
      ...forward,
      matrices: node.op === "linears" ? graph.stageAt(at).matrices : [],
      lastUse: (state) => isOver(state, at),
    });
    for (const state of [...readsOf(node), ...writesOf(node)]) {
      if (isOver(state, at)) states.drop(state);
    }
  };
  for (const node of graph.resumption(from).redo) run(node, graph.nodes.indexOf(node));
  for (let at = from; at < to; at++) run(graph.nodes[at]!, at);
  return states;
}

/** A stack of windows through a whole block: x f32[T, C] in, a new f32[T, C] in `forward.scope` out. */
export function walkBlock(graph: BlockGraph, x: Tensor, forward: Forward): Tensor {
  const { input, output } = graph.block;
  const given = [[input, x]] as const;
  return walk(graph, { from: 0, to: graph.nodes.length }, { given, forward }).take(output);
}

/** What running a node may use. */
export interface NodeContext extends Forward {
  /** Of the node's linears. */
  readonly matrices: readonly Matrix[];
  /** Whether a state is not needed after this node. */
  lastUse(state: State): boolean;
}

/** Run one node: the states that it reads are at hand, those that it makes are set. */
export function runNode(node: Node, states: States, context: NodeContext): void {
  const { scope, tables } = context;
  const { backend } = scope;
  switch (node.op) {
    case "norm":
      return states.set(node.to, normalize(states.get(node.from), node.norm, context));
    case "linears":
      return runLinears(node, states, context);
    case "attend": {
      const [q, k] = [changeable(node.q, states, context), changeable(node.k, states, context)];
      const o = attend({ q, k, v: states.get(node.v) }, node.attention, { scope, tables });
      for (const tensor of [q, k]) scope.release(tensor)[Symbol.dispose]();
      return states.set(node.to, o);
    }
    case "act": {
      const x = changeable(node.from, states, context);
      backend.run(act, { x }, { kind: ACTIVATIONS.indexOf(node.act) });
      return states.set(node.to, x);
    }
    case "gate": {
      const x = changeable(node.gate, states, context);
      const kind = ACTIVATIONS.indexOf(node.act);
      backend.run(gate, { up: states.get(node.up), gate: x }, { kind });
      return states.set(node.to, x);
    }
    case "add":
      return runAdd(node, states, context);
  }
}

/**
 * A state's tensor to be changed in place: its own where nothing else needs it, else a copy in the
 * walk's scope.
 */
function changeable(state: State, states: States, { scope, lastUse }: NodeContext): Tensor {
  if (states.owns(state) && lastUse(state)) return states.take(state);
  return copyOf(states.get(state), scope);
}

/** A copy of f32[T, n], in the scope. */
export function copyOf(from: Tensor, scope: Scope): Tensor {
  const to = scope.alloc("f32", from.shape);
  const [rows = 0, columns = 0] = from.shape;
  copyRectangle(scope.backend, { from: { tensor: from }, to: { tensor: to } }, { rows, columns });
  return to;
}

/** What a norm takes of a block and its model. */
type NormContext = Pick<Forward, "scope" | "tables"> & {
  readonly tensors: Pick<BlockTensors, "vector">;
};

/** A norm of x, f32[T, C] in the scope. */
export function normalize(x: Tensor, norm: Norm, context: NormContext): Tensor {
  const { scope } = context;
  const y = scope.alloc("f32", x.shape);
  const { weight, bias, scalars } = normCall(x, norm, context);
  if (norm.kind === "rms") scope.backend.run(rmsNorm, { x, weight, y }, scalars);
  else scope.backend.run(layerNorm, { x, weight, bias: bias(), y }, scalars);
  return y;
}

/** What the ops of a norm of x are given besides. */
export function normCall(
  { shape: [, columns = 0] }: Tensor,
  { kind, weight, bias, plusOne, eps, perHead }: Norm,
  { tensors, tables }: Pick<NormContext, "tensors" | "tables">,
): { readonly weight: Tensor; readonly bias: () => Tensor; readonly scalars: Scalars } {
  const vector = (name: string | undefined, otherwise: number) =>
    name === undefined ? tables.constant(otherwise, perHead ?? columns) : tensors.vector(name);
  const plus = { plus: plusOne && weight !== undefined ? 1 : 0 };
  return {
    weight: vector(weight, 1),
    bias: () => vector(bias, 0),
    scalars: { eps, ...(kind === "rms" ? plus : {}) },
  };
}

/**
 * Every stored matrix is multiplied once; linears that are some of its rows take their columns of
 * the product.
 */
function runLinears(
  { from }: Extract<Node, { op: "linears" }>,
  states: States,
  { scope, tensors, tables, matrices }: NodeContext,
): void {
  const { backend } = scope;
  const x = states.get(from);
  const [tokens = 0] = x.shape;
  for (const matrix of matrices) {
    const product = tensors.product(matrix, x, scope);
    for (const { state, rows } of matrix.parts) {
      if (!rows) {
        states.set(state, product);
        continue;
      }
      const y = scope.alloc("f32", [tokens, rows.length]);
      backend.run(gatherColumns, { x: product, columns: tables.columns(rows), y });
      states.set(state, y);
    }
    if (matrix.parts[0]!.rows) scope.release(product)[Symbol.dispose]();
  }
}

/** What walks with an attention take besides the states. */
type Tables = Pick<Forward, "scope" | "tables">;

/** attention(rope(q), rope(k), v): q and k change in place. */
function attend(
  { q, k, v }: Readonly<Record<"q" | "k" | "v", Tensor>>,
  how: Attention,
  context: Tables,
): Tensor {
  const { scope, tables } = context;
  turn({ q, k }, how, context);
  const o = scope.alloc("f32", q.shape);
  const { bias, scalars } = attentionCall(how, tables);
  scope.backend.run(attention, { q, k, v, bias, o }, scalars);
  return o;
}

/** Put positions into queries and keys, in place. */
export function turn(
  { q, k }: Readonly<Record<"q" | "k", Tensor>>,
  { dim, rotation, temperature }: Attention,
  { scope: { backend }, tables }: Tables,
): void {
  const [rows = 0] = q.shape;
  if (rotation) {
    const adjacent = Number(rotation.pairs === "adjacent");
    for (const x of [q, k]) {
      backend.run(rope, { ...tables.rotary(rotation.table, rows), x }, { head_dim: dim, adjacent });
    }
  }
  if (temperature) {
    const factor = tables.temperature(temperature, rows);
    backend.run(scaleRows, { factor, y: q }, { scale_dtype: 0 });
  }
}

/** What the ops of an attention are given besides queries, keys and values. */
export function attentionCall(
  { heads, dim, window = 0, scale, softcap = 0, bias }: Attention,
  tables: ModelTables,
): { readonly bias: Tensor; readonly scalars: Scalars } {
  const scalars = {
    head_dim: dim,
    window,
    scale,
    cap: softcap,
    biased: Number(bias !== undefined),
    length: tables.tokens,
  };
  return { bias: tables.bias(bias, heads), scalars };
}

/** Σ times·state, into a term that nothing else needs. */
function runAdd(
  { to, terms }: Extract<Node, { op: "add" }>,
  states: States,
  context: NodeContext,
): void {
  const { backend } = context.scope;
  const own = terms.findLast(({ state }) => states.owns(state) && context.lastUse(state));
  const first = own ?? terms.at(-1)!;
  const x = changeable(first.state, states, context);
  let { times = 1 } = first;
  for (const { state, times: other = 1 } of terms) {
    if (state === first.state) continue;
    backend.run(add, { y: states.get(state), x }, { times, other });
    times = 1;
  }
  states.set(to, x);
}

/**
 * The way of a stack of windows through a block and back: gradients by what its linears make, from
 * which a caller has those by weights, and by its input. What the plan does not keep on the way
 * forward is computed anew, node by node, when it is needed.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Attention, Node, Norm, State } from "../family.ts";
import type { BlockGraph } from "../graph/block_graph.ts";
import { Gradients } from "../graph/gradients.ts";
import type { Matrix, MatrixPart } from "../graph/matrices.ts";
import { Tape, type TapePlan, valuesFor } from "../graph/tape.ts";
import { upload } from "../linalg/channels.ts";
import { ACTIVATIONS } from "../ops/activation.ts";
import { QUERY_FACTS } from "../ops/attention_vjp_q.ts";
import { copyRectangle } from "../ops/copy.ts";
import { multiply } from "../ops/gemm.ts";
import {
  actVjp,
  add,
  attentionVjpKv,
  attentionVjpQ,
  gateVjp,
  gatherColumns,
  layerNormVjp,
  rmsNormVjp,
  rope,
  scaleCap,
  scaleRows,
} from "../ops/mod.ts";
import type { States } from "./states.ts";
import type { ModelTables } from "./tables.ts";
import { attentionCall, type BlockTensors, copyOf, normCall, runNode, turn, walk } from "./walk.ts";

/** Rows of a matrix as products use them. */
export interface MatrixRows {
  /** The first of them. */
  readonly from: number;
  /** f32[rows, C]: what is at hand, or made in `scope`. */
  values(scope: Scope): Tensor;
}

/** A block's tensors where gradients go back through them. */
export interface TapeTensors extends BlockTensors {
  /** All rows of a matrix in order, in slices that the device can bind. */
  rowsOf(matrix: Matrix): Iterable<MatrixRows>;
}

/** What becomes of a gradient that has come to a matrix. */
export type OnLinear = (
  matrix: Matrix,
  /**
   * The matrix's input f32[T, C], and the gradient by its output f32[T, R]: that by the matrix is
   * dyᵀ·x. To be read, and only during the call.
   */
  gradient: { readonly x: Tensor; readonly dy: Tensor },
) => void;

/** What a tape may use. */
export interface TapeContext {
  /** The tape's memory is its backend's. */
  readonly scope: Scope;
  readonly tensors: TapeTensors;
  readonly tables: ModelTables;
}

/** One stack of windows on its way; see the head of this file. */
export class BlockTape implements Disposable {
  readonly #graph: BlockGraph;
  readonly #tape: Tape;
  readonly #context: TapeContext;
  readonly #held: Scope;
  #states: States | undefined;

  /** @param plan See `planTape` (graph/tape.ts), which also tells its bytes. */
  constructor(graph: BlockGraph, plan: TapePlan, context: TapeContext) {
    this.#graph = graph;
    this.#tape = new Tape(graph, plan);
    this.#context = context;
    this.#held = context.scope.backend.scope();
  }

  /**
   * Send a stack through the block. Its input stays the caller's and is needed until it has come
   * back; the one before is forgotten.
   *
   * @param x f32[T, C]
   * @param scope The result belongs to it.
   * @returns a new f32[T, C].
   */
  forward(x: Tensor, scope: Scope): Tensor {
    this.#forget();
    const { block: { input, output }, nodes } = this.#graph;
    const { kept } = this.#tape;
    const { tensors, tables } = this.#context;
    const states = walk(this.#graph, { from: 0, to: nodes.length }, {
      given: [[input, x]],
      keep: kept,
      forward: { scope: this.#held, tensors, tables },
    });
    this.#states = states;
    if (kept.has(output)) return copyOf(states.get(output), scope);
    return scope.adopt(this.#held.release(states.take(output)));
  }

  /**
   * Go back with a gradient by the output; nothing is kept of the stack after that.
   *
   * @param gradient f32[T, C], which stays as it is.
   * @param scope The result belongs to it.
   * @returns the gradient by the input, f32[T, C], if the plan has it.
   * @throws {RangeError} no stack has gone forward.
   */
  backward(
    gradient: Tensor,
    { scope, onLinear }: { readonly scope: Scope; readonly onLinear: OnLinear },
  ): Tensor | undefined {
    const states = this.#states;
    if (!states) throw new RangeError("Cannot go back: no stack of windows has gone forward");
    const { nodes, block } = this.#graph;
    const way = new WayBack(states, {
      ...this.#context,
      scope: this.#held,
      onLinear,
      graph: this.#graph,
      tape: this.#tape,
    });
    way.gradients.lend(block.output, gradient);
    for (let at = nodes.length - 1; at >= 0; at--) way.pass(at);
    const found = way.gradients.has(block.input) ? way.gradients.take(block.input) : undefined;
    if (found) scope.adopt(this.#held.release(found));
    this.#states = undefined;
    return found;
  }

  /** Let go of a stack that will not come back. */
  #forget(): void {
    const states = this.#states;
    for (const state of states?.own ?? []) states!.drop(state);
    this.#states = undefined;
  }

  [Symbol.dispose](): void {
    this.#held[Symbol.dispose]();
    this.#states = undefined;
  }
}

interface BackContext extends TapeContext {
  readonly graph: BlockGraph;
  readonly tape: Tape;
  readonly onLinear: OnLinear;
}

/** One way back. */
class WayBack {
  readonly gradients: Gradients<Tensor>;
  readonly #states: States;
  readonly #context: BackContext;

  constructor(states: States, context: BackContext) {
    this.#states = states;
    this.#context = context;
    const { scope } = context;
    const { backend } = scope;
    this.gradients = new Gradients<Tensor>({
      copy(gradient, times) {
        const x = copyOf(gradient, scope);
        if (times !== 1) backend.run(scaleCap, { x }, { times, cap: 0 });
        return x;
      },
      add: (into, gradient, times) =>
        backend.run(add, { y: gradient, x: into }, { times: 1, other: times }),
      free: (gradient) => scope.release(gradient)[Symbol.dispose](),
    });
  }

  /** The gradients of the inputs of the node at a place. */
  pass(at: number): void {
    const { graph, tape } = this.#context;
    const node = graph.nodes[at]!;
    if (tape.isOnWay(node)) {
      const isAtHand = (state: State) => this.#states.has(state);
      for (const place of tape.missing(valuesFor(node), isAtHand)) this.#runAgain(place);
      this.#back(node, at);
    }
    for (const state of this.#states.own) {
      if (tape.isOver(state, at)) this.#states.drop(state);
    }
  }

  #runAgain(at: number): void {
    const { graph, ...context } = this.#context;
    const node = graph.nodes[at]!;
    const matrices = node.op === "linears" ? graph.stageAt(at).matrices : [];
    runNode(node, this.#states, { ...context, matrices, lastUse: () => false });
  }

  #back(node: Node, at: number): void {
    const { scope: { backend }, tape, tensors, tables } = this.#context;
    const { gradients } = this;
    switch (node.op) {
      case "norm": {
        const g = gradients.take(node.to);
        const x = this.#states.get(node.from);
        normBack({ x, g, norm: node.norm }, { backend, tensors, tables });
        return gradients.put(node.from, g);
      }
      case "linears":
        return this.#linearsBack(node.from, at);
      case "attend":
        return this.#attendBack(node);
      case "act": {
        const g = gradients.take(node.to);
        const kind = ACTIVATIONS.indexOf(node.act);
        backend.run(actVjp, { x: this.#states.get(node.from), g }, { kind });
        return gradients.put(node.from, g);
      }
      case "gate":
        return this.#gateBack(node);
      case "add": {
        for (const { state, times = 1 } of node.terms) {
          if (tape.isActive(state)) gradients.share(state, node.to, times);
        }
        return gradients.drop(node.to);
      }
    }
  }

  #gateBack({ gate, up, to, act }: Extract<Node, { op: "gate" }>): void {
    const { scope } = this.#context;
    const [x, y] = [this.#states.get(gate), this.#states.get(up)];
    const gate_g = scope.alloc("f32", x.shape);
    const up_g = this.gradients.take(to);
    const kind = ACTIVATIONS.indexOf(act);
    scope.backend.run(gateVjp, { gate: x, up: y, up_g, gate_g }, { kind });
    this.gradients.put(up, up_g);
    this.gradients.put(gate, gate_g);
  }

  #attendBack({ q, k, v, to, attention }: Extract<Node, { op: "attend" }>): void {
    const { scope, tables } = this.#context;
    const { backend } = scope;
    const [queries, keys, values] = [q, k, v].map((state) => this.#states.get(state)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const [dq, dk, dv] = [queries, keys, values].map(({ shape }) => scope.alloc("f32", shape)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    {
      using scratch = backend.scope();
      const turned = { q: copyOf(queries, scratch), k: copyOf(keys, scratch), v: values };
      turn(turned, attention, { scope: scratch, tables });
      const facts = scratch.alloc("f32", [queries.shape[0]!, QUERY_FACTS * attention.heads]);
      const { bias, scalars } = attentionCall(attention, tables);
      const given = { ...turned, bias, g: this.gradients.get(to) };
      backend.run(attentionVjpQ, { ...given, o: this.#states.get(to), dq, facts }, scalars);
      backend.run(attentionVjpKv, { ...given, facts, dk, dv }, scalars);
    }
    this.gradients.drop(to);
    this.#turnBack({ q: dq, k: dk }, attention);
    this.gradients.put(q, dq);
    this.gradients.put(k, dk);
    this.gradients.put(v, dv);
  }

  /** The transpose of `turn`, in place: what it does, in reverse order. */
  #turnBack(
    { q, k }: Readonly<Record<"q" | "k", Tensor>>,
    { dim, rotation, temperature }: Attention,
  ): void {
    const { scope: { backend }, tables } = this.#context;
    const [rows = 0] = q.shape;
    if (temperature) {
      const factor = tables.temperature(temperature, rows);
      backend.run(scaleRows, { factor, y: q }, { scale_dtype: 0 });
    }
    if (!rotation) return;
    const adjacent = Number(rotation.pairs === "adjacent");
    const table = tables.rotaryBack(rotation.table, rows);
    for (const x of [q, k]) backend.run(rope, { ...table, x }, { head_dim: dim, adjacent });
  }

  #linearsBack(from: State, at: number): void {
    const { scope, graph, tape, tensors, onLinear } = this.#context;
    const { backend } = scope;
    const x = this.#states.get(from);
    const [tokens = 0, columns = 0] = x.shape;
    const dx = tape.isActive(from) ? scope.alloc("f32", x.shape) : undefined;
    let begun = false;
    for (const matrix of graph.stageAt(at).matrices) {
      using scratch = backend.scope();
      const dy = this.#outputGradient(matrix, scratch);
      onLinear(matrix, { x, dy });
      for (const { from: first, values } of dx ? tensors.rowsOf(matrix) : []) {
        using slice = backend.scope();
        const w = values(slice);
        const [rows = 0] = w.shape;
        multiply(backend, {
          a: { tensor: dy, column: first },
          b: { tensor: w, transposed: true },
          c: { tensor: dx! },
        }, { m: tokens, n: columns, k: rows, add: begun });
        begun = true;
      }
      for (const { state } of matrix.parts) this.gradients.drop(state);
    }
    if (dx) this.gradients.put(from, dx);
  }

  /** The gradient by all rows of a matrix: of its one linear, or of its parts in their places. */
  #outputGradient({ parts, rows }: Matrix, scratch: Scope): Tensor {
    const { backend } = scratch;
    const [first] = parts as [MatrixPart];
    const only = this.gradients.get(first.state);
    if (!first.rows) return only;
    const [tokens = 0] = only.shape;
    const beside = scratch.alloc("f32", [tokens, rows]);
    const columns = new Uint32Array(rows);
    let column = 0;
    for (const { state, rows: places } of parts) {
      const from = { tensor: this.gradients.get(state) };
      const count = places!.length;
      copyRectangle(backend, { from, to: { tensor: beside, column } }, {
        rows: tokens,
        columns: count,
      });
      places!.forEach((place, i) => columns[place] = column + i);
      column += count;
    }
    const dy = scratch.alloc("f32", [tokens, rows]);
    backend.run(gatherColumns, { x: beside, columns: upload(columns, scratch), y: dy });
    scratch.release(beside)[Symbol.dispose]();
    return dy;
  }
}

/** The gradient g by what a norm makes of x, in place, becomes that by x. */
export function normBack(
  { x, g, norm }: { readonly x: Tensor; readonly g: Tensor; readonly norm: Norm },
  { backend, tensors, tables }: {
    readonly backend: Backend;
    readonly tensors: Pick<BlockTensors, "vector">;
    readonly tables: ModelTables;
  },
): void {
  const { weight, scalars } = normCall(x, norm, { tensors, tables });
  const vjp = norm.kind === "rms" ? rmsNormVjp : layerNormVjp;
  backend.run(vjp, { x, weight, g }, scalars);
}

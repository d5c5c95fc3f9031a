/**
 * The parts that blocks are made of, as functions that return nodes, and how steps of parts are put
 * around a residual stream. Names of tensors are relative to their block; model.ts puts its name
 * before them.
 */
import type { Activation, Attention, Linear, Node, Norm, RowRange, State } from "../family.ts";

/** From a state to a state of a block. */
export type Part = (from: State, to: State) => readonly Node[];

/** RMSNorm with the weight of a module. */
export function rms(module: string, eps: number, more: Partial<Norm> = {}): Norm {
  return { kind: "rms", weight: `${module}.weight`, eps, ...more };
}

/** LayerNorm with the weight and the bias of a module. */
export function layerNorm(module: string, eps: number): Norm {
  return { kind: "layer", weight: `${module}.weight`, bias: `${module}.bias`, eps };
}

/** A linear layer of a module: [rows, columns], or a part of its rows. */
export function linear(
  module: string,
  { rows, columns, bias = false, part, transposed, fused }: {
    readonly rows: number;
    readonly columns: number;
    readonly bias?: boolean;
    readonly part?: RowRange;
    readonly transposed?: true;
    readonly fused?: string;
  },
): Linear {
  return {
    at: {
      of: `${module}.weight`,
      ...(transposed ? { transposed } : {}),
      ...(part ? { rows: part } : {}),
    },
    rows,
    columns,
    ...(bias ? { bias: `${module}.bias` } : {}),
    ...(fused === undefined ? {} : { fused }),
  };
}

/**
 * Self-attention: queries, keys and values of one state, normed if the model does so, and the
 * projection of what they give.
 */
export function attention(
  { q, k, v, o, qNorm, kNorm, ...options }: Attention & {
    readonly q: Linear;
    readonly k: Linear;
    readonly v: Linear;
    readonly o: Linear;
    readonly qNorm?: Norm | undefined;
    readonly kNorm?: Norm | undefined;
  },
): Part {
  return (from, to) => {
    const [query, queryNode] = normed(`${to}.q`, qNorm);
    const [key, keyNode] = normed(`${to}.k`, kNorm);
    return [
      { op: "linears", from, to: { [`${to}.q`]: q, [`${to}.k`]: k, [`${to}.v`]: v } },
      ...queryNode,
      ...keyNode,
      { op: "attend", q: query, k: key, v: `${to}.v`, to: `${to}.heads`, attention: options },
      { op: "linears", from: `${to}.heads`, to: { [to]: o } },
    ];
  };
}

/** A state after a norm, if there is one. */
function normed(from: State, norm: Norm | undefined): [state: State, nodes: Node[]] {
  if (!norm) return [from, []];
  return [`${from}.normed`, [{ op: "norm", from, to: `${from}.normed`, norm }]];
}

/** down(act(gate(x))·up(x)) */
export function gated(
  { gate, up, down, act }: {
    readonly gate: Linear;
    readonly up: Linear;
    readonly down: Linear;
    readonly act: Activation;
  },
): Part {
  return (from, to) => [
    { op: "linears", from, to: { [`${to}.gate`]: gate, [`${to}.up`]: up } },
    { op: "gate", gate: `${to}.gate`, up: `${to}.up`, to: `${to}.inner`, act },
    { op: "linears", from: `${to}.inner`, to: { [to]: down } },
  ];
}

/** down(act(up(x))) */
export function plain(
  { up, down, act }: { readonly up: Linear; readonly down: Linear; readonly act: Activation },
): Part {
  return (from, to) => [
    { op: "linears", from, to: { [`${to}.up`]: up } },
    { op: "act", from: `${to}.up`, to: `${to}.inner`, act },
    { op: "linears", from: `${to}.inner`, to: { [to]: down } },
  ];
}

/** A branch beside the residual stream. */
export interface Step {
  /** What reports call it, and its states. */
  readonly name: string;
  readonly part: Part;
  /** Of the branch's input; absent: it reads the stream itself. */
  readonly pre?: Norm;
  /** Of the branch's output, before it is added. */
  readonly post?: Norm;
  /** Of the sum. */
  readonly after?: Norm;
  /** The branch's output is multiplied by this before it is added. */
  readonly times?: number;
  /**
   * The branch is added to its own normed input, not to the stream (BLOOM's
   * `apply_residual_connection_post_layernorm`).
   */
  readonly onNormed?: boolean;
}

/** What goes through a block, from its input to its output. */
export interface Path {
  readonly input: State;
  readonly output: State;
  readonly nodes: readonly Node[];
}

/** Branches one after the other, each added to the residual stream: x ← x + f(x). */
export function sequential(...steps: readonly Step[]): Path {
  const input = "x";
  let stream = input;
  const nodes: Node[] = [];
  for (const { name, part, pre, post, after, times, onNormed } of steps) {
    const [from, before] = enter(stream, name, pre);
    const [branch, behind] = normed(`${name}.out`, post);
    const sum = `x.${name}`;
    nodes.push(...before, ...part(from, `${name}.out`), ...behind, {
      op: "add",
      to: sum,
      terms: [{ state: onNormed ? from : stream }, {
        state: branch,
        ...(times === undefined || times === 1 ? {} : { times }),
      }],
    });
    const [next, last] = normed(sum, after);
    nodes.push(...last);
    stream = next;
  }
  return { input, output: stream, nodes };
}

/**
 * Branches beside each other, all added at once: x ← x + f(x) + g(x). Those with one norm share its
 * output.
 */
export function parallel(...steps: readonly Pick<Step, "name" | "part" | "pre">[]): Path {
  const input = "x";
  const entered = new Map<string | undefined, State>();
  const nodes: Node[] = [];
  for (const { name, part, pre } of steps) {
    const known = entered.get(pre?.weight);
    const [from, before] = known === undefined ? enter(input, name, pre) : [known, []];
    entered.set(pre?.weight, from);
    nodes.push(...before, ...part(from, `${name}.out`));
  }
  const terms = [{ state: input }, ...steps.map(({ name }) => ({ state: `${name}.out` }))];
  return { input, output: "x.out", nodes: [...nodes, { op: "add", to: "x.out", terms }] };
}

/** The input of a branch. */
function enter(stream: State, name: string, pre: Norm | undefined): [State, Node[]] {
  if (!pre) return [stream, []];
  return [`${name}.in`, [{ op: "norm", from: stream, to: `${name}.in`, norm: pre }]];
}

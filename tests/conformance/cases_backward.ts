/** Conformance cases of the backward pass through what a block is made of beside products. */
import { actVjp } from "../../src/ops/act_vjp.ts";
import { ACTIVATIONS, activationSlope } from "../../src/ops/activation.ts";
import { attention, queriesOf } from "../../src/ops/attention.ts";
import { attentionVjpKv } from "../../src/ops/attention_vjp_kv.ts";
import { attentionVjpQ, QUERY_FACTS } from "../../src/ops/attention_vjp_q.ts";
import { divergence } from "../../src/ops/divergence.ts";
import { divergenceVjp } from "../../src/ops/divergence_vjp.ts";
import { gateVjp } from "../../src/ops/gate_vjp.ts";
import { layerNormVjp } from "../../src/ops/layer_norm_vjp.ts";
import { nllVjp, NO_LABEL } from "../../src/ops/nll_vjp.ts";
import { rmsNormVjp } from "../../src/ops/rms_norm_vjp.ts";
import { scaleCapVjp } from "../../src/ops/scale_cap_vjp.ts";
import { activationBound } from "../../src/ops/activation.ts";
import { freshState } from "./cases_model.ts";
import {
  blank,
  FLOATS,
  floats,
  gaussian,
  type Given,
  integers,
  normal,
  valuesOf,
} from "./given.ts";
import { type Case, U, type View, within } from "./judge.ts";

/**
 * The root and its inverse are off by (D/2 + 10) roundings; a weight times a gradient by three, of
 * |w| + plus where they are added; a mean of D products by D + 4 of the mean of their magnitudes.
 */
function rmsVjpBound({ before: { x, weight, g }, scalars, dims }: View): Float64Array {
  const { D = 1 } = dims;
  const { eps = 0, plus = 0 } = scalars;
  const allowed = new Float64Array(x!.length);
  const root = (D / 2 + 10) * U;
  for (let first = 0; first < x!.length; first += D) {
    const row = Array.from(x!.subarray(first, first + D), Math.abs);
    const h = row.map((_, c) => Math.abs(g![first + c]!) * (Math.abs(weight![c]!) + plus));
    const factor = 1 / Math.sqrt(row.reduce((sum, value) => sum + value ** 2, 0) / D + eps);
    const along = row.reduce((sum, value, c) => sum + value * h[c]!, 0) / D;
    row.forEach((value, c) => {
      const back = value * factor ** 2 * along * ((D + 10) * U + 3 * root);
      allowed[first + c] = factor * (h[c]! * (root + 6 * U) + back);
    });
  }
  return allowed;
}

/** The same with a mean taken off, whose error counts as in `layer_norm`. */
function layerVjpBound({ before: { x, weight, g }, scalars, dims }: View): Float64Array {
  const { C = 1 } = dims;
  const allowed = new Float64Array(x!.length);
  const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / C;
  for (let first = 0; first < x!.length; first += C) {
    const row = Array.from(x!.subarray(first, first + C));
    const h = row.map((_, c) => Math.abs(g![first + c]! * weight![c]!));
    const [mean, size] = [meanOf(row), meanOf(row.map(Math.abs))];
    const deviation = Math.sqrt(meanOf(row.map((value) => (value - mean) ** 2)) + scalars.eps!);
    const off = (C + 2) * U * size;
    const root = (C / 2 + 12) * U + 2 * off / deviation + (off / deviation) ** 2;
    const middle = meanOf(h);
    const along = meanOf(row.map((value, c) => Math.abs(value - mean) * h[c]!));
    row.forEach((value, c) => {
      const own = off + 2 * U * (Math.abs(value) + size);
      const far = Math.abs(value - mean);
      const back = far * (along * (3 * root + (C + 10) * U) + (own + off) * middle) + own * along;
      allowed[first + c] = (h[c]! * (root + 6 * U) + middle * (root + (C + 6) * U) +
        back / deviation ** 2) / deviation;
    });
  }
  return allowed;
}

/**
 * An exponential of y is off by 3 + 2|y| units in WGSL and by three roundings of y; a part of 1
 * relatively by as much. Beyond 85 exponentials are cut off. GELU's erf is off by 2e-7 at most.
 */
function slopeBound(x: number, kind: number): number {
  const want = Math.abs(activationSlope(x, kind));
  const far = 1e-34 * (1 + Math.abs(x) ** 3);
  const sigmoid = (y: number) => 1 / (1 + Math.exp(-y));
  const parted = (y: number, steep: number) => {
    const relative = 2 * (8 + 8 * Math.min(90, Math.abs(y))) * U;
    const terms = sigmoid(y) + 2 * Math.abs(x) * steep * sigmoid(y) * sigmoid(-y);
    return relative * terms + 4 * U * want + far;
  };
  switch (ACTIVATIONS[kind]) {
    case "silu":
      return parted(x, 1);
    case "gelu": {
      const bell = Math.abs(x) * Math.exp(-x * x / 2);
      return 2.5e-7 + 8 * U + bell * (8 + 4 * x * x) * U + far;
    }
    case "gelu_tanh":
      return parted(1.5957691 * (x + 0.044715 * x ** 3), 1.5957691 * (1 + 0.134145 * x * x));
    default:
      return 0;
  }
}

function actVjpBound({ before: { x, g }, want, scalars }: View): Float64Array {
  return Float64Array.from(
    want.g!,
    (value, i) => Math.abs(g![i]!) * slopeBound(x![i]!, scalars.kind!) + 4 * U * Math.abs(value),
  );
}

const upBound = ({ before: { gate, up_g }, want, scalars }: View) =>
  Float64Array.from(
    want.up_g!,
    (value, i) => activationBound(gate![i]!, value, scalars.kind!, up_g![i]!),
  );

const gateBound = ({ before: { gate, up, up_g }, want, scalars }: View) =>
  Float64Array.from(want.gate_g!, (value, i) => {
    const beside = Math.abs(up![i]! * up_g![i]!);
    return beside * slopeBound(gate![i]!, scalars.kind!) + 6 * U * Math.abs(value);
  });

/** The tanh of a capped number is off by 12 roundings of 1, its square by twice that. */
const capVjpBound = ({ before: { g }, want, scalars: { times = 1, cap = 0 } }: View) =>
  Float64Array.from(
    want.g!,
    (value, i) => 4 * U * Math.abs(value) + (cap === 0 ? 0 : 30 * U * Math.abs(times * g![i]!)),
  );

/**
 * A chance e^y/s is off by an exponential's 3 + 2|y| units in WGSL, the rounding of y, and that of a
 * quotient; exponentials below 1e-37 may be cut off.
 */
function chanceBounds(
  logits: ArrayLike<number>,
  { before: { state }, dims }: View,
  of: 0 | 2,
): Float64Array {
  const { V = 1, S = 0 } = dims;
  return Float64Array.from(logits, (logit, i) => {
    const [top, sum] = [0, 1].map((n) => state![Math.floor(i / V) * S + of + n]!) as [
      number,
      number,
    ];
    const y = logit - top;
    return Math.exp(y) / sum * (16 + 6 * Math.abs(y)) * U + 1e-37 / sum;
  });
}

const nllVjpBound = (view: View) =>
  chanceBounds(view.before.q!, view, 2).map((chance, i) => chance + U * Math.abs(view.want.q![i]!));

function divergenceVjpBound(view: View): Float64Array {
  const { before: { p, q }, want } = view;
  const others = chanceBounds(p!, view, 0);
  return chanceBounds(q!, view, 2).map((chance, i) =>
    chance + others[i]! + U * Math.abs(want.q![i]!)
  );
}

/** Logits of two models over a slice, and what `divergence` gathered over that and as much more. */
function predictions(t: number, v: number) {
  const p = normal("f32", [t, v], { seed: 340, scale: 3 });
  const q = normal("f32", [t, v], { seed: 341, scale: 3 });
  const state = floats("f32", [t, 10], freshState(t));
  const values = (given: Given) => valuesOf(given.dtype, given.bytes) as Float32Array<ArrayBuffer>;
  const gathered = values(state);
  for (const first of [0, v]) {
    const arrays = { p: values(p), q: values(q), labels: new Uint32Array(t), state: gathered };
    divergence.reference(arrays, { T: t, V: v, S: 10 }, { first });
  }
  return { p, q, state: floats("f32", [t, 10], gathered) };
}

/**
 * What the outputs of attention's backward pass may be off by. A weight p is relatively off as in
 * `attention`; products g·v and o·g by d + 3 roundings of the products of magnitudes; of a cap's
 * part 1 − t² the tanh t by 12 roundings and by what its argument is off. Sums are of at most T
 * keys, or of T queries of all heads that share a key.
 */
function attentionVjpBounds({ before, dims, scalars }: View) {
  const { q, k, v, g, bias } = before;
  const { T = 0, Q = 0, K = 1, P = 0 } = dims;
  const { head_dim: d = 1, scale = 0, cap = 0, biased = 0 } = scalars;
  const most = (values: ArrayLike<number>) => {
    let norm = 0;
    for (let i = 0; i < values.length; i += d) {
      norm = Math.max(norm, Math.hypot(...Array.from({ length: d }, (_, n) => values[i + n]!)));
    }
    return norm;
  };
  const steepest = biased ? Math.max(0, ...Array.from(bias!, Math.abs)) : 0;
  const reach = scale * most(q!) * most(k!);
  const score = ((d + 3) * reach + (cap === 0 ? 0 : 12 * cap) + steepest) * U;
  const relative = 2 * score + 4 * (3 + 4 * (reach + steepest)) * U + (2 * T + 16) * U;
  const bend = cap === 0 ? 0 : 2 * (d + 3) * reach / cap * U + 30 * U;
  const terms = T * Q / K;
  const all = relative + bend + (d + terms + 20) * U;
  const allowed = {
    dq: new Float64Array(T * Q),
    dk: new Float64Array(T * K),
    dv: new Float64Array(T * K),
    facts: new Float64Array(T * P),
  };
  // Where the outputs o are no argument, they are what they must be.
  const o = before.o ?? outputsOf(before, dims, scalars);
  const arrays = { q: q as Float32Array<ArrayBuffer>, k: k as Float32Array<ArrayBuffer> };
  const biases = bias as Float32Array<ArrayBuffer>;
  for (const query of queriesOf({ ...arrays, bias: biases }, dims, scalars)) {
    const { i, head, keys, from, scores } = query;
    const at = i * Q + head * d;
    const top = Math.max(...scores);
    const total = scores.reduce((sum, value) => sum + Math.exp(value - top), 0);
    let along = 0;
    for (let n = 0; n < d; n++) along += Math.abs(o[at + n]! * g![at + n]!);
    allowed.facts.set(
      [score + 4 * U * Math.abs(top), relative * total, (d + 3) * U * along],
      i * P + QUERY_FACTS * head,
    );
    scores.forEach((value, j) => {
      const place = (from + j) * K + keys;
      const weight = Math.exp(value - top) / total;
      let toward = 0;
      for (let n = 0; n < d; n++) toward += Math.abs(g![at + n]! * v![place + n]!);
      const back = weight * scale * (toward + along) * all;
      for (let n = 0; n < d; n++) {
        allowed.dq[at + n]! += back * Math.abs(k![place + n]!) + 1e-38;
        allowed.dk[place + n]! += back * Math.abs(q![at + n]!) + 1e-38;
        allowed.dv[place + n]! += weight * Math.abs(g![at + n]!) * (relative + (terms + 8) * U) +
          1e-38;
      }
    });
  }
  return allowed;
}

function outputsOf(
  { q, k, v, bias }: View["before"],
  dims: View["dims"],
  scalars: View["scalars"],
): Float32Array {
  const copy = (values: ArrayLike<number>) => Float32Array.from(values);
  const o = new Float32Array(q!.length);
  const arrays = { q: copy(q!), k: copy(k!), v: copy(v!), bias: copy(bias!), o };
  attention.reference(arrays, dims, scalars);
  return o;
}

/** Sizes and scalars of an attention. */
export interface AttentionSizes {
  readonly tokens: number;
  readonly heads: number;
  /** Heads of keys. */
  readonly shared: number;
  readonly dim: number;
  readonly window?: number;
  /** Of each window; all tokens unless said. */
  readonly length?: number;
  readonly cap?: number;
  readonly biased?: boolean;
  /** Of queries and keys. */
  readonly size?: number;
  readonly seed: number;
}

/** A backward pass of attention whose outputs, and facts of queries, belong to its inputs. */
export function attentionVjpCase(
  op: typeof attentionVjpQ | typeof attentionVjpKv,
  { tokens, heads, shared, dim, window = 0, length = tokens, cap = 0, seed, ...more }:
    AttentionSizes,
): Case {
  const { biased = false, size = 1 } = more;
  const rows = (width: number, n: number, scale = 1) =>
    normal("f32", [tokens, width * dim], { seed: seed + n, scale });
  const bias = biased
    ? floats(
      "f32",
      [heads, length],
      Array.from({ length: heads * length }, (_, i) => i % length / 2 ** (1 + i / length)),
    )
    : blank("f32", [1, 1]);
  const [q, k] = [rows(heads, 1, size), rows(shared, 2, size)];
  const [v, g] = [rows(shared, 3), rows(heads, 4)];
  const P = QUERY_FACTS * heads;
  const dims = {
    T: tokens,
    Q: heads * dim,
    K: shared * dim,
    B: bias.shape[0]!,
    S: bias.shape[1]!,
    P,
  };
  const scalars = {
    head_dim: dim,
    window,
    scale: Math.fround(dim ** -0.5),
    cap,
    biased: Number(biased),
    length,
  };
  const numbers = (given: Given) => valuesOf(given.dtype, given.bytes) as Float32Array<ArrayBuffer>;
  const given = { q: numbers(q), k: numbers(k), v: numbers(v), bias: numbers(bias) };
  const o = outputsOf(given, dims, scalars) as Float32Array<ArrayBuffer>;
  const facts = new Float32Array(tokens * P);
  const dq = new Float32Array(q.bytes.length / 4);
  attentionVjpQ.reference({ ...given, g: numbers(g), o, dq, facts }, dims, scalars);
  const bound = (output: "dq" | "dk" | "dv" | "facts") =>
    within((view) => attentionVjpBounds(view)[output]);
  const inputs = { q, k, v, bias };
  if (op === attentionVjpQ) {
    return {
      op,
      tensors: {
        ...inputs,
        ...{ o: floats("f32", q.shape, o), g },
        ...{ dq: blank("f32", q.shape), facts: blank("f32", [tokens, P]) },
      },
      scalars,
      judge: { dq: bound("dq"), facts: bound("facts") },
    };
  }
  return {
    op,
    tensors: {
      ...inputs,
      ...{ facts: floats("f32", [tokens, P], facts), g },
      ...{ dk: blank("f32", k.shape), dv: blank("f32", k.shape) },
    },
    scalars,
    judge: { dk: bound("dk"), dv: bound("dv") },
  };
}

const ATTENTIONS: readonly Omit<AttentionSizes, "seed">[] = [
  { tokens: 1, heads: 1, shared: 1, dim: 1 },
  { tokens: 3, heads: 2, shared: 1, dim: 8 },
  { tokens: 33, heads: 3, shared: 3, dim: 31 },
  { tokens: 65, heads: 9, shared: 3, dim: 64 },
  { tokens: 130, heads: 4, shared: 2, dim: 16, window: 1 },
  { tokens: 70, heads: 4, shared: 2, dim: 16, window: 31 },
  // Heads that fill no tile, and such as take several.
  { tokens: 34, heads: 2, shared: 1, dim: 20 },
  { tokens: 66, heads: 2, shared: 1, dim: 100, window: 5 },
  { tokens: 37, heads: 2, shared: 1, dim: 300 },
  // More keys than a block has, with windows whose first key is in the middle of one.
  { tokens: 700, heads: 2, shared: 1, dim: 8 },
  { tokens: 650, heads: 1, shared: 1, dim: 4, window: 530, cap: 3, biased: true },
  ...[2, 32, 63, 100, 300].map((window) => ({ tokens: 330, heads: 2, shared: 1, dim: 8, window })),
  // Windows that follow each other: shorter than a block, as long, longer.
  { tokens: 5, heads: 2, shared: 1, dim: 8, length: 1 },
  { tokens: 21, heads: 4, shared: 2, dim: 16, length: 7 },
  { tokens: 96, heads: 2, shared: 2, dim: 8, length: 32 },
  { tokens: 210, heads: 3, shared: 1, dim: 16, window: 40, length: 70 },
  ...[{ cap: 2 }, { biased: true }, { cap: 30, biased: true }].flatMap((how) => [
    { tokens: 33, heads: 3, shared: 1, dim: 31, ...how },
    { tokens: 130, heads: 4, shared: 2, dim: 16, window: 40, ...how },
    { tokens: 99, heads: 2, shared: 1, dim: 8, length: 33, ...how },
  ]),
  // Scores in the hundreds.
  { tokens: 40, heads: 2, shared: 1, dim: 16, size: 10 },
];

export const backwardCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [3, 33], [5, 257], [2, 2049]].map(([t = 0, c = 0]) => ({
      op: rmsNormVjp,
      tensors: {
        x: normal("f32", [t, c], { seed: 301 }),
        weight: normal(dtype, [c], { seed: 302 }),
        g: normal("f32", [t, c], { seed: 303 }),
      },
      scalars: { eps: 1e-5, plus: 0 },
      judge: { g: within(rmsVjpBound) },
    }))
  ),
  ...[[3, 1, 33, 1], [5, 3, 32, 0], [2, 4, 65, 1]].map(([t = 0, heads = 0, d = 0, plus = 0]) => ({
    op: rmsNormVjp,
    note: "of each head, and with weights less 1",
    tensors: {
      x: normal("f32", [t, heads * d], { seed: 304 }),
      weight: normal("bf16", [d], { seed: 305 }),
      g: normal("f32", [t, heads * d], { seed: 306 }),
    },
    scalars: { eps: 1e-6, plus },
    judge: { g: within(rmsVjpBound) },
  })),
  {
    op: rmsNormVjp,
    note: "a row of zeros, and more than 65535 rows",
    tensors: {
      x: floats("f32", [65600, 2], gaussian(131200, 307).map((x, i) => i < 2 ? 0 : x)),
      weight: normal("f32", [2], { seed: 308 }),
      g: normal("f32", [65600, 2], { seed: 309 }),
    },
    scalars: { eps: 1e-6, plus: 0 },
    judge: { g: within(rmsVjpBound) },
  },
  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [3, 33], [5, 257], [2, 2049]].map(([t = 0, c = 0]) => ({
      op: layerNormVjp,
      tensors: {
        x: floats("f32", [t, c], gaussian(t * c, 310).map((value) => value + 3)),
        weight: normal(dtype, [c], { seed: 311 }),
        g: normal("f32", [t, c], { seed: 312 }),
      },
      scalars: { eps: 1e-5 },
      judge: { g: within(layerVjpBound) },
    }))
  ),
  {
    op: layerNormVjp,
    note: "a row of equal numbers",
    tensors: {
      x: floats("f32", [2, 5], [7, 7, 7, 7, 7, 1, 2, 3, 4, 5]),
      weight: normal("f32", [5], { seed: 313 }),
      g: normal("f32", [2, 5], { seed: 314 }),
    },
    scalars: { eps: 1e-5 },
    judge: { g: within(layerVjpBound) },
  },
  ...ACTIVATIONS.flatMap((_, kind) =>
    [
      ...[1, 33, 257].map((n) => gaussian(n, 315, 4)),
      Float32Array.of(-100, 100, -85, 0, -20, 3e4),
    ].flatMap((x) => [
      {
        op: actVjp,
        tensors: { x: floats("f32", [x.length], x), g: normal("f32", [x.length], { seed: 316 }) },
        scalars: { kind },
        judge: { g: within(actVjpBound) },
      },
      {
        op: gateVjp,
        tensors: {
          gate: floats("f32", [x.length], x),
          up: normal("f32", [x.length], { seed: 317 }),
          up_g: normal("f32", [x.length], { seed: 318 }),
          gate_g: blank("f32", [x.length]),
        },
        scalars: { kind },
        judge: { up_g: within(upBound), gate_g: within(gateBound) },
      },
    ])
  ),
  ...[1, 33, 257].flatMap((n) =>
    [[1, 0], [12, 0], [1, 2], [0.125, 30]].map(([times = 1, cap = 0]) => ({
      op: scaleCapVjp,
      tensors: {
        x: floats("f32", [n], gaussian(n, 330).map((x, i) => i === 5 ? 1e6 * x : 9 * x)),
        g: normal("f32", [n], { seed: 331 }),
      },
      scalars: { times, cap },
      judge: { g: within(capVjpBound) },
    }))
  ),
  ...[[1, 1], [3, 33], [5, 258], [2, 1500]].flatMap(([t = 0, v = 0]) => {
    const { p, q, state } = predictions(t, v);
    const labels = (first: number) =>
      integers("u32", [t], Array.from({ length: t }, (_, i) => i === 2 ? NO_LABEL : first + i * v));
    return [
      { op: divergenceVjp, tensors: { p, state, q }, judge: { q: within(divergenceVjpBound) } },
      ...[0, 40].map((first) => ({
        op: nllVjp,
        tensors: { labels: labels(first), state, q },
        scalars: { first },
        judge: { q: within(nllVjpBound) },
      })),
    ];
  }),
  ...ATTENTIONS.flatMap((sizes) =>
    [attentionVjpQ, attentionVjpKv].map((op) => attentionVjpCase(op, { ...sizes, seed: 320 }))
  ),
];

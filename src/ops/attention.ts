/** Attention of windows of tokens, which do not see each other. */
import wgsl from "../../shaders/attention.wgsl" with { type: "text" };
import scores from "../../shaders/attention_scores.wgsl" with { type: "text" };
import vectors from "../../shaders/attention_vectors.wgsl" with { type: "text" };
import { type Arrays, defineOp, type Dims, type Op, type Scalars, type Variant } from "../op.ts";
import { type Draw, type Part, type Seen, U, type Values } from "../sampling.ts";
import { SOFT_CAP_WGSL, softCap } from "./soft_cap.ts";
import { unroll } from "./unroll.ts";

/** Why dims and scalars of an attention do not fit together, or `true`. */
export function checkAttention(
  { T = 0, Q = 0, K = 0, B = 0, S = 0 }: Dims,
  scalars: Scalars,
): true | string {
  const { head_dim = 0, scale = 0, cap = 0, biased = 0, length = 0 } = scalars;
  if (length < 1 || T % length !== 0) return `${T} tokens are not windows of ${length} each`;
  // Scores that do not count are −∞ on some devices before they are scaled.
  if (!(scale > 0)) return `scale must be above 0, got ${scale}`;
  if (head_dim < 1 || Q % head_dim !== 0 || K % head_dim !== 0) {
    return `Q = ${Q} and K = ${K} must be multiples of head_dim = ${head_dim}`;
  }
  if (cap < 0) return `cap must not be negative, got ${cap}`;
  if (biased && (B !== Q / head_dim || S !== length)) {
    return `a bias must have ${Q / head_dim} heads and ${length} tokens, got [${B}, ${S}]`;
  }
  return Q % K === 0 ||
    `Q = ${Q} is not a multiple of K = ${K}: query heads cannot share key heads evenly`;
}

/** One query of one head, and the keys it sees. */
interface Query {
  /** Its token. */
  readonly i: number;
  readonly head: number;
  /** The first column of its head's keys and values. */
  readonly keys: number;
  /** The first token that it sees; the last is its own. */
  readonly from: number;
  /** By key: the score, capped, and the same with the bias. */
  readonly capped: readonly number[];
  readonly scores: readonly number[];
}

/** Every query of an attention, head by head. */
export function* queriesOf(
  { q, k, bias }: Arrays,
  { T = 0, Q = 0, K = 1, S = 0 }: Dims,
  { head_dim = 1, window = 0, scale = 0, cap = 0, biased = 0, length = 1 }: Scalars,
): Generator<Query> {
  for (let head = 0; head < Q / head_dim; head++) {
    const keys = Math.floor(head / (Q / K)) * head_dim;
    for (let i = 0; i < T; i++) {
      const begin = i - i % length;
      const from = window > 0 ? Math.max(begin, i - window + 1) : begin;
      const capped: number[] = [];
      for (let j = from; j <= i; j++) {
        let dot = 0;
        for (let d = 0; d < head_dim; d++) {
          dot += q![i * Q + head * head_dim + d]! * k![j * K + keys + d]!;
        }
        capped.push(softCap(dot * scale, cap));
      }
      const scores = biased
        ? capped.map((score, n) => score + bias![head * S + from + n - begin]!)
        : capped;
      yield { i, head, keys, from, capped, scores };
    }
  }
}

/** The first tokens of a window as one head sees them, to be checked: a window by themselves. */
function someHead({ T = 0, Q = 0, K = 1 }: Dims, scalars: Scalars, draw: Draw): Part {
  const { head_dim = 1, length = 1, biased = 0 } = scalars;
  const head = draw(Q / head_dim);
  const keys = Math.floor(head / (Q / K));
  const first = draw(T / length) * length;
  const tokens = Math.min(length, 24);
  return {
    ranges: {
      T: [first, first + tokens],
      Q: [head * head_dim, (head + 1) * head_dim],
      K: [keys * head_dim, (keys + 1) * head_dim],
      ...(biased ? { B: [head, head + 1], S: [0, tokens] } : {}),
    },
    scalars: { length: tokens },
  };
}

/**
 * A score is off by δ = (d + 3)·u·scale·|q||k|, of which a cap leaves as much at most, and adds 12
 * units of itself and a bias a rounding of it; an exponential relatively by δ and WGSL's 3 +
 * 2|score| units; numerator and denominator are sums of at most T such terms, so the quotient is
 * off by twice all that times Σp|v|.
 */
function attentionBound(view: Seen): Float64Array {
  const { before: { q, k, v, bias }, dims, scalars, want } = view;
  const { T = 0, Q = 0 } = dims;
  const { head_dim = 1, scale = 0 } = scalars;
  const norm = (values: Values, from: number) =>
    Math.hypot(...values.subarray(from, from + head_dim));
  let most = 0;
  for (let i = 0; i < q!.length; i += head_dim) most = Math.max(most, norm(q!, i));
  let key = 0;
  for (let i = 0; i < k!.length; i += head_dim) key = Math.max(key, norm(k!, i));
  const { cap = 0, biased = 0 } = scalars;
  const steepest = biased ? Math.max(0, ...Array.from(bias!, Math.abs)) : 0;
  const reach = scale * most * key;
  const shape = (cap === 0 ? 0 : 12 * cap) + steepest;
  const sizes = new Float32Array(T * Q);
  const arrays = {
    q: Float32Array.from(q!),
    k: Float32Array.from(k!),
    v: Float32Array.from(v!, Math.abs),
    bias: Float32Array.from(bias!),
    o: sizes,
  };
  average(arrays, dims, scalars);
  const span = 2 * (reach + steepest);
  const relative = 2 * ((head_dim + 3) * reach + shape + 2 * (3 + 2 * span) + T + 8) * U;
  return Float64Array.from(want.o!, (_, i) => relative * sizes[i]! + 1e-38);
}

/** The definition. */
function average(arrays: Arrays, dims: Dims, scalars: Scalars): void {
  const { v, o } = arrays;
  const { Q = 0, K = 0 } = dims;
  const { head_dim = 1 } = scalars;
  for (const { i, head, keys, from, scores } of queriesOf(arrays, dims, scalars)) {
    const most = scores.reduce((max, score) => Math.max(max, score), -Infinity);
    const weights = scores.map((score) => Math.exp(score - most));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let d = 0; d < head_dim; d++) {
      let sum = 0;
      weights.forEach((weight, n) => sum += weight * v![(from + n) * K + keys + d]!);
      o![i * Q + head * head_dim + d] = sum / total;
    }
  }
}

const plain = {
  name: "attention",
  inputs: { q: "f32[T, Q]", k: "f32[T, K]", v: "f32[T, K]", bias: "f32[B, S]" },
  outputs: { o: "f32[T, Q]" },
  scalars: {
    head_dim: "u32",
    window: "u32",
    scale: "f32",
    cap: "f32",
    biased: "u32",
    length: "u32",
  },
  wgsl: SOFT_CAP_WGSL + scores + wgsl,
  workgroups: ({ T = 0, Q = 0 }, { head_dim = 1, length = 1 }) => [
    T / length * Math.ceil(length / 32),
    Q / head_dim,
    Math.ceil(head_dim / 64),
  ],
  check: checkAttention,
  sampling: { part: someHead, bounds: { o: attentionBound } },
  reference: average,
} as const satisfies Op;

/** Attention in vectors, a workgroup for `part` dimensions of a head: 64 or 128. */
function inVectors(part: 64 | 128): Variant {
  const code = unroll(vectors, { FOURS: part / 32, KEYS: 1024 / part });
  return {
    op: {
      ...plain,
      name: `attention ${part}`,
      wgsl: `const PART = ${part}u;\n${SOFT_CAP_WGSL}${scores}${code}`,
      workgroups: ({ T = 0, Q = 0 }, { head_dim = 1, length = 1 }) => [
        T / length * Math.ceil(length / 32),
        Q / head_dim,
        Math.ceil(head_dim / part),
      ],
    },
    fits: (_dims, { head_dim = 1 }) => head_dim % 4 === 0,
    // Scores are computed anew for each part.
    suits: (_dims, { head_dim = 1 }) => (head_dim > 64) === (part > 64),
  };
}

/**
 * Causal attention of windows of `length` tokens that follow each other, softmax(scale·q·kᵀ)·v,
 * with grouped key and value heads: query head h uses head floor(h / (query heads / key heads)).
 * With window > 0, token i sees only keys j with i − window < j ≤ i. With cap > 0, scaled scores s
 * become cap·tanh(s / cap); with `biased`, bias[h, j] is added to them then (ALiBi), and B is the
 * number of query heads, S that of a window's tokens. i and j count from the window's first token.
 */
export const attention = defineOp({ ...plain, variants: [inVectors(64), inVectors(128)] });

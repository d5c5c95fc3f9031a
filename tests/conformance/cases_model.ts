/** Conformance cases of the ops that a model's forward pass is made of, but for the products. */
import { attention } from "../../src/ops/attention.ts";
import { divergence } from "../../src/ops/divergence.ts";
import { embedding } from "../../src/ops/embedding.ts";
import { fakeQuantize } from "../../src/ops/fake_quantize.ts";
import { fakeQuantizeRows } from "../../src/ops/fake_quantize_rows.ts";
import { rmsNorm } from "../../src/ops/rms_norm.ts";
import { rope } from "../../src/ops/rope.ts";
import { siluMul } from "../../src/ops/silu_mul.ts";
import { type Case, U, type View, within } from "./judge.ts";
import { blank, FLOATS, floats, gaussian, integers, normal, type Values, whole } from "./given.ts";

/** Half the C roundings of the sum (the root halves them), and some units for the root, its inverse and two products. */
function rmsBound({ want, dims: { C = 0 } }: View): Float64Array {
  return Float64Array.from(want.y!, (value) => (C / 2 + 10) * U * Math.abs(value));
}

/** Two products and a sum: three roundings of at most |x1·cos| + |x2·sin|. */
function ropeBound({ before: { x, cos, sin }, dims: { D = 0, H = 1 } }: View): Float64Array {
  return Float64Array.from(x!, (_, i) => {
    const [t, h] = [Math.floor(i / D), i % H];
    const partner = Math.floor(i / H) % 2 ? i - H : i + H;
    const [c, s] = [cos![t * H + h]!, sin![t * H + h]!];
    const [own, other] = [Math.abs(x![i]! * c), Math.abs(x![partner]! * s)];
    return 3 * U * (own + other);
  });
}

/**
 * A score is off by δ = (d + 3)·u·scale·|q||k|, an exponential relatively by δ and WGSL's 3 + 2|score| units; numerator and
 * denominator are sums of at most T such terms, so the quotient is off by twice all that times Σp|v|.
 */
function attentionBound(view: View): Float64Array {
  const { before: { q, k, v }, dims, scalars, want } = view;
  const { T = 0, Q = 0, K = 1 } = dims;
  const { head_dim = 1, scale = 0 } = scalars;
  const norm = (values: Values, from: number) =>
    Math.hypot(...values.subarray(from, from + head_dim));
  let most = 0;
  for (let i = 0; i < q!.length; i += head_dim) most = Math.max(most, norm(q!, i));
  let key = 0;
  for (let i = 0; i < k!.length; i += head_dim) key = Math.max(key, norm(k!, i));
  const reach = scale * most * key;
  const sizes = new Float32Array(T * Q);
  const arrays = {
    q: Float32Array.from(q!),
    k: Float32Array.from(k!),
    v: Float32Array.from(v!, Math.abs),
    o: sizes,
  };
  attention.reference(arrays, { T, Q, K }, scalars);
  const relative = 2 * ((head_dim + 3) * reach + 2 * (3 + 4 * reach) + T + 8) * U;
  return Float64Array.from(want.o!, (_, i) => relative * sizes[i]! + 1e-38);
}

/**
 * exp is off by 3 + 2|x| units in WGSL, the rest is a sum, a division of 2.5 units and a product.
 * Below −88.7, where e^−x is more than f32 holds, silu is less than 3e-37 and may be 0.
 */
function siluBound({ before: { gate, up }, want }: View): Float64Array {
  return Float64Array.from(
    want.gate!,
    (value, i) =>
      2 * (8 + 2 * Math.abs(gate![i]!)) * U * Math.abs(value) + 3e-37 * (1 + Math.abs(up![i]!)),
  );
}

/** Maxima, the label's logits and argmax are exact. Sums: V roundings, and the error of exp over the span of the logits. */
function stateBound({ before: { p, q }, want: { state }, dims }: View): Float64Array {
  const { T = 0, V = 0, S = 10 } = dims;
  const allowed = new Float64Array(T * S);
  for (let t = 0; t < T; t++) {
    let span = 0;
    let moved = 0;
    for (let i = t * V; i < (t + 1) * V; i++) {
      span = Math.max(
        span,
        Math.abs(p![i]! - state![t * S]!),
        Math.abs(q![i]! - state![t * S + 2]!),
      );
      moved += Math.exp(p![i]! - state![t * S]!) * Math.abs(p![i]! - q![i]!);
    }
    const relative = (V + 2 * (3 + 2 * Math.min(span, 100)) + 8) * U;
    allowed[t * S + 1] = relative * state![t * S + 1]!;
    allowed[t * S + 3] = relative * state![t * S + 3]!;
    allowed[t * S + 4] = relative * (moved + 2 * Math.abs(state![t * S + 4]!) + 1);
  }
  return allowed;
}

/** The scale's division is off by up to 2.5 units; a quotient near a tie may take the other level, one step away. */
function fakeBound({ before: { x }, want: { y }, dims: { T = 0, C = 0 }, scalars, exact }: View) {
  const { kind = 0, bits = 0 } = scalars;
  const allowed = new Float64Array(T * C);
  if (exact) return allowed;
  for (let t = 0; t < T; t++) {
    const row = Array.from(x!.subarray(t * C, (t + 1) * C));
    const most = Math.max(...row.map(Math.abs));
    const scale = most / (kind === 0 ? (2 ** bits - 1) / 2 : 448);
    row.forEach((value, c) => {
      const i = t * C + c;
      allowed[i] = levelBound(value, y![i]!, { scale, kind });
    });
  }
  return allowed;
}

/** Two divisions and two products; a whole step at a tie. */
function levelBound(
  value: number,
  rounded: number,
  { scale, kind }: { scale: number; kind: number },
): number {
  const level = Math.abs(value) / scale;
  const step = kind === 0 ? 1 : Math.max(2 ** -9, 2 ** (Math.floor(Math.log2(level)) - 3));
  const tie = Math.abs(level / step - Math.floor(level / step) - 0.5) < 1e-4;
  return 6 * U * Math.abs(rounded) + (tie ? step * scale * 1.001 : 0);
}

function staticBound({ before: { x, scale }, want: { y }, scalars, exact }: View): Float64Array {
  return Float64Array.from(
    x!,
    (value, i) => exact ? 0 : levelBound(value, y![i]!, { scale: scale![0]!, kind: scalars.kind! }),
  );
}

/** A running state as it is before the first slice. */
export function freshState(tokens: number): number[] {
  return Array.from(
    { length: tokens },
    () => [-3.4028234663852886e38, 0, -3.4028234663852886e38, ...new Array(7).fill(0)],
  ).flat();
}

/** Angles of a rotary embedding. */
function angles(t: number, h: number): number[] {
  return Array.from({ length: t * h }, (_, i) => Math.floor(i / h) * 100 ** (-(i % h) / h));
}

export const modelCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    [[1, 1, 1, 0], [5, 7, 3, 0], [65, 33, 65, 4], [31, 5, 64, 1000]].map((
      [t = 0, v = 0, c = 0, first = 0],
    ) => ({
      op: embedding,
      note: "a slice of the table",
      tensors: {
        ids: whole("u32", [t], { low: Math.max(0, first - 4), high: first + v + 3, seed: 51 }),
        table: normal(dtype, [v, c], { seed: 52 }),
        x: normal("f32", [t, c], { seed: 53 }),
      },
      scalars: { first },
    }))
  ),
  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [3, 33], [5, 257], [2, 2049]].map(([t = 0, c = 0]) => ({
      op: rmsNorm,
      tensors: {
        x: normal("f32", [t, c], { seed: 54 }),
        weight: normal(dtype, [c], { seed: 55 }),
        y: blank("f32", [t, c]),
      },
      scalars: { eps: 1e-5 },
      judge: { y: within(rmsBound) },
    }))
  ),
  {
    op: rmsNorm,
    note: "a row of zeros, and more than 65535 rows",
    tensors: {
      x: floats("f32", [65600, 2], gaussian(131200, 56).map((x, i) => i < 2 ? 0 : x)),
      weight: normal("f32", [2], { seed: 57 }),
      y: blank("f32", [65600, 2]),
    },
    scalars: { eps: 1e-6 },
    judge: { y: within(rmsBound) },
  },
  ...[[1, 1, 1], [3, 2, 3], [17, 3, 32], [33, 9, 16]].map(([t = 0, heads = 0, h = 0]) => ({
    op: rope,
    tensors: {
      cos: floats("f32", [t, h], angles(t, h).map(Math.cos)),
      sin: floats("f32", [t, h], angles(t, h).map(Math.sin)),
      x: normal("f32", [t, heads * 2 * h], { seed: 58 }),
    },
    judge: { x: within(ropeBound) },
  })),
  ...[[1, 1, 1, 1, 0], [3, 2, 1, 8, 0], [33, 3, 3, 31, 0], [65, 9, 3, 64, 0], [130, 4, 2, 16, 0]]
    .concat([[33, 2, 1, 8, 1], [70, 4, 2, 16, 31], [20, 2, 2, 128, 64]])
    // Several blocks of queries, with windows whose first key is in the middle of a block of keys.
    .concat([2, 32, 63, 100, 300].map((window) => [330, 2, 1, 8, window]))
    .map(([t = 0, heads = 0, shared = 0, d = 0, window = 0]) => ({
      op: attention,
      tensors: {
        q: normal("f32", [t, heads * d], { seed: 61 }),
        k: normal("f32", [t, shared * d], { seed: 62 }),
        v: normal("f32", [t, shared * d], { seed: 63 }),
        o: blank("f32", [t, heads * d]),
      },
      scalars: { head_dim: d, window, scale: d ** -0.5 },
      judge: { o: within(attentionBound) },
    })),
  {
    op: attention,
    note: "scores in the hundreds",
    tensors: {
      q: normal("f32", [40, 32], { seed: 64, scale: 20 }),
      k: normal("f32", [40, 16], { seed: 65, scale: 20 }),
      v: normal("f32", [40, 16], { seed: 66 }),
      o: blank("f32", [40, 32]),
    },
    scalars: { head_dim: 16, window: 0, scale: 0.25 },
    judge: { o: within(attentionBound) },
  },
  ...[1, 33, 257].map((n) => ({
    op: siluMul,
    tensors: {
      up: normal("f32", [n], { seed: 67 }),
      gate: normal("f32", [n], { seed: 68, scale: 4 }),
    },
    judge: { gate: within(siluBound) },
  })),
  {
    op: siluMul,
    note: "far from zero",
    tensors: {
      up: floats("f32", [6], [1, 1, 1, 2, -1, 1]),
      gate: floats("f32", [6], [-100, 100, -85, 0, -20, 3e4]),
    },
    judge: { gate: within(siluBound) },
  },

  ...[[1, 1, 0], [3, 33, 0], [5, 257, 0], [2, 1500, 40]].map(([t = 0, v = 0, first = 0]) => ({
    op: divergence,
    tensors: {
      p: normal("f32", [t, v], { seed: 71, scale: 3 }),
      q: normal("f32", [t, v], { seed: 72, scale: 3 }),
      labels: whole("u32", [t], { low: first, high: first + v - 1, seed: 73 }),
      state: floats("f32", [t, 10], freshState(t)),
    },
    scalars: { first },
    judge: { state: within(stateBound) },
  })),
  {
    op: divergence,
    note: "a second slice, with greater and with smaller maxima, labels inside and outside",
    tensors: {
      p: floats("f32", [2, 3], [5, 6, 6, -1, -2, -3]),
      q: floats("f32", [2, 3], [7, 7, 1, 2, 0, 1]),
      labels: integers("u32", [2], [101, 4]),
      state: floats("f32", [2, 10], [
        ...[3, 2.5, 4, 1.5, 0.25, 1, 2, 40, 41, 0],
        ...[3, 2.5, 4, 1.5, -0.25, 1, 2, 40, 41, 0],
      ]),
    },
    scalars: { first: 100 },
    judge: { state: within(stateBound) },
  },
  {
    op: divergence,
    note: "equal logits: the first is the argmax",
    tensors: {
      p: floats("f32", [1, 300], new Array(300).fill(1.5)),
      q: floats("f32", [1, 300], new Array(300).fill(-2)),
      labels: integers("u32", [1], [7]),
      state: floats("f32", [1, 10], freshState(1)),
    },
    scalars: { first: 0 },
    judge: { state: within(stateBound) },
  },

  ...[1, 33, 1285].flatMap((n) =>
    [[0, 8], [0, 4], [1, 8]].map(([kind = 0, bits = 0]) => ({
      op: fakeQuantize,
      note: "some values beyond the outermost levels",
      tensors: {
        x: normal("f32", [n], { seed: 82 }),
        scale: floats("f32", [1], [kind === 0 ? 2 / 2 ** (bits - 1) : 2 / 448]),
        y: blank("f32", [n]),
      },
      scalars: { kind, bits },
      judge: { y: within(staticBound) },
    }))
  ),
  ...[[1, 1], [3, 33], [5, 257]].flatMap(([t = 0, c = 0]) =>
    [[0, 8], [0, 4], [1, 8]].map(([kind = 0, bits = 0]) => ({
      op: fakeQuantizeRows,
      tensors: { x: normal("f32", [t, c], { seed: 81 }), y: blank("f32", [t, c]) },
      scalars: { kind, bits },
      judge: { y: within(fakeBound) },
    }))
  ),
  ...[0, 1].map((kind) => ({
    op: fakeQuantizeRows,
    note: "a row of zeros",
    tensors: {
      x: floats("f32", [2, 5], Array.from({ length: 10 }, (_, i) => i < 5 ? 0 : i - 7)),
      y: blank("f32", [2, 5]),
    },
    scalars: { kind, bits: 8 },
    judge: { y: within(fakeBound) },
  })),
];

/** Conformance cases of the ops that a model's forward pass is made of, but for the products. */
import { act } from "../../src/ops/act.ts";
import { add } from "../../src/ops/add.ts";
import { ACTIVATIONS } from "../../src/ops/activation.ts";
import { attention } from "../../src/ops/attention.ts";
import { divergence } from "../../src/ops/divergence.ts";
import { embedding } from "../../src/ops/embedding.ts";
import { fakeQuantize } from "../../src/ops/fake_quantize.ts";
import { fakeQuantizeRows } from "../../src/ops/fake_quantize_rows.ts";
import { gate } from "../../src/ops/gate.ts";
import { gatherColumns } from "../../src/ops/gather_columns.ts";
import { layerNorm } from "../../src/ops/layer_norm.ts";
import { rmsNorm } from "../../src/ops/rms_norm.ts";
import { rope } from "../../src/ops/rope.ts";
import { scaleCap } from "../../src/ops/scale_cap.ts";
import { type Case, judgesOf, U, type View, within } from "./judge.ts";
import { blank, FLOATS, floats, gaussian, integers, normal, whole } from "./given.ts";

/**
 * Of a capped number the tanh is off by 5 units of 1 in any kernel, and by the rounding of its
 * argument.
 */
function capBound({ want, scalars: { cap = 0 } }: View): Float64Array {
  return Float64Array.from(want.x!, (value) => 4 * U * Math.abs(value) + 12 * U * cap);
}

/**
 * Maxima, the label's logits and argmax are exact. Sums: V roundings, and the error of exp over the
 * span of the logits.
 */
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

/**
 * The scale's division is off by up to 2.5 units; a quotient near a tie may take the other level,
 * one step away.
 */
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
      scalars: { eps: 1e-5, plus: 0 },
      judge: judgesOf(rmsNorm),
    }))
  ),
  ...[[3, 1, 33, 1], [5, 3, 32, 0], [2, 4, 65, 1]].map(([t = 0, heads = 0, d = 0, plus = 0]) => ({
    op: rmsNorm,
    note: "of each head, and with weights less 1",
    tensors: {
      x: normal("f32", [t, heads * d], { seed: 54 }),
      weight: normal("bf16", [d], { seed: 55 }),
      y: blank("f32", [t, heads * d]),
    },
    scalars: { eps: 1e-6, plus },
    judge: judgesOf(rmsNorm),
  })),
  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [3, 33], [5, 257], [2, 2049]].map(([t = 0, c = 0]) => ({
      op: layerNorm,
      tensors: {
        x: floats("f32", [t, c], gaussian(t * c, 154).map((value) => value + 3)),
        weight: normal(dtype, [c], { seed: 155 }),
        bias: normal(c % 2 ? "f32" : dtype, [c], { seed: 156 }),
        y: blank("f32", [t, c]),
      },
      scalars: { eps: 1e-5 },
      judge: judgesOf(layerNorm),
    }))
  ),
  {
    op: layerNorm,
    note: "a row of equal numbers",
    tensors: {
      x: floats("f32", [2, 5], [7, 7, 7, 7, 7, 1, 2, 3, 4, 5]),
      weight: normal("f32", [5], { seed: 157 }),
      bias: normal("f32", [5], { seed: 158 }),
      y: blank("f32", [2, 5]),
    },
    scalars: { eps: 1e-5 },
    judge: judgesOf(layerNorm),
  },
  {
    op: rmsNorm,
    note: "a row of zeros, and more than 65535 rows",
    tensors: {
      x: floats("f32", [65600, 2], gaussian(131200, 56).map((x, i) => i < 2 ? 0 : x)),
      weight: normal("f32", [2], { seed: 57 }),
      y: blank("f32", [65600, 2]),
    },
    scalars: { eps: 1e-6, plus: 0 },
    judge: judgesOf(rmsNorm),
  },
  ...[[1, 1, 1, 2], [3, 2, 3, 6], [17, 3, 32, 64], [33, 9, 16, 32], [5, 3, 3, 13], [9, 2, 8, 64]]
    .flatMap(([t = 0, heads = 0, h = 0, d = 0]) =>
      [0, 1].map((adjacent) => ({
        op: rope,
        tensors: {
          cos: floats("f32", [t, h], angles(t, h).map(Math.cos)),
          sin: floats("f32", [t, h], angles(t, h).map(Math.sin)),
          x: normal("f32", [t, heads * d], { seed: 58 }),
        },
        scalars: { head_dim: d, adjacent },
        judge: judgesOf(rope),
      }))
    ),
  ...[[1, 1, 1, 1, 0], [3, 2, 1, 8, 0], [33, 3, 3, 31, 0], [65, 9, 3, 64, 0], [130, 4, 2, 16, 0]]
    .concat([[33, 2, 1, 8, 1], [70, 4, 2, 16, 31], [20, 2, 2, 128, 64]])
    // Heads that fill no tile, and such as take two.
    .concat([[34, 2, 1, 20, 0], [66, 2, 1, 100, 5], [37, 2, 1, 256, 0]])
    // Several blocks of queries, with windows whose first key is in the middle of a block of keys.
    .concat([2, 32, 63, 100, 300].map((window) => [330, 2, 1, 8, window]))
    // Windows that follow each other: shorter than a block, as long, longer.
    .concat([[5, 2, 1, 8, 0, 1], [21, 4, 2, 16, 0, 7], [96, 2, 2, 8, 0, 32], [
      210,
      3,
      1,
      16,
      40,
      70,
    ]])
    .map(([t = 0, heads = 0, shared = 0, d = 0, window = 0, length = t]) => ({
      op: attention,
      tensors: {
        q: normal("f32", [t, heads * d], { seed: 61 }),
        k: normal("f32", [t, shared * d], { seed: 62 }),
        v: normal("f32", [t, shared * d], { seed: 63 }),
        bias: blank("f32", [1, 1]),
        o: blank("f32", [t, heads * d]),
      },
      scalars: { head_dim: d, window, scale: d ** -0.5, cap: 0, biased: 0, length },
      judge: judgesOf(attention),
    })),
  ...[[1, 1, 1, 1, 0], [33, 3, 1, 31, 0], [130, 4, 2, 16, 40], [99, 2, 1, 8, 0, 33]].flatMap((
    [t = 0, heads = 0, shared = 0, d = 0, window = 0, length = t],
  ) =>
    [[2, 0], [0, 1], [30, 1]].map(([cap = 0, biased = 0]) => ({
      op: attention,
      note: "with a cap of scores, and with a bias of each key",
      tensors: {
        q: normal("f32", [t, heads * d], { seed: 61, scale: 3 }),
        k: normal("f32", [t, shared * d], { seed: 62 }),
        v: normal("f32", [t, shared * d], { seed: 63 }),
        bias: floats(
          "f32",
          [heads, length],
          Array.from(
            { length: heads * length },
            (_, i) => (i % length) / 2 ** (1 + Math.floor(i / length)),
          ),
        ),
        o: blank("f32", [t, heads * d]),
      },
      scalars: { head_dim: d, window, scale: d ** -0.5, cap, biased, length },
      judge: judgesOf(attention),
    }))
  ),
  {
    op: attention,
    note: "scores in the hundreds",
    tensors: {
      q: normal("f32", [40, 32], { seed: 64, scale: 20 }),
      k: normal("f32", [40, 16], { seed: 65, scale: 20 }),
      v: normal("f32", [40, 16], { seed: 66 }),
      bias: blank("f32", [1, 1]),
      o: blank("f32", [40, 32]),
    },
    scalars: { head_dim: 16, window: 0, scale: 0.25, cap: 0, biased: 0, length: 40 },
    judge: judgesOf(attention),
  },
  ...ACTIVATIONS.flatMap((_, kind) => [
    ...[1, 33, 257].flatMap((n) => [
      {
        op: gate,
        tensors: {
          up: normal("f32", [n], { seed: 67 }),
          gate: normal("f32", [n], { seed: 68, scale: 4 }),
        },
        scalars: { kind },
        judge: judgesOf(gate),
      },
      {
        op: act,
        tensors: { x: normal("f32", [n], { seed: 69, scale: 3 }) },
        scalars: { kind },
        judge: judgesOf(act),
      },
    ]),
    {
      op: gate,
      note: "far from zero",
      tensors: {
        up: floats("f32", [6], [1, 1, 1, 2, -1, 1]),
        gate: floats("f32", [6], [-100, 100, -85, 0, -20, 3e4]),
      },
      scalars: { kind },
      judge: judgesOf(gate),
    },
  ]),
  ...[1, 33, 257].flatMap((n) =>
    [[1, 0], [12, 0], [1, 2], [0.125, 30]].map(([times = 1, cap = 0]) => ({
      op: scaleCap,
      tensors: { x: floats("f32", [n], gaussian(n, 70).map((x, i) => i === 5 ? 1e6 * x : 9 * x)) },
      scalars: { times, cap },
      judge: { x: within(capBound) },
    }))
  ),
  ...[1, 33, 257].flatMap((n) =>
    [[1, 1], [0.22, 1], [1, -2]].map(([times = 1, other = 1]) => ({
      op: add,
      tensors: { y: normal("f32", [n], { seed: 74 }), x: normal("f32", [n], { seed: 75 }) },
      scalars: { times, other },
      judge: judgesOf(add),
    }))
  ),
  {
    op: add,
    note: "more than 65535 workgroups",
    tensors: {
      y: floats("f32", [2 ** 22 + 67], gaussian(2 ** 22 + 67, 5)),
      x: floats("f32", [2 ** 22 + 67], new Float32Array(2 ** 22 + 67).fill(1)),
    },
    scalars: { times: 1, other: 1 },
    judge: judgesOf(add),
  },
  ...[[1, 1, 1], [3, 9, 4], [5, 70, 65], [65, 4, 300]].map(([t = 0, c = 0, n = 0]) => ({
    op: gatherColumns,
    tensors: {
      x: normal("f32", [t, c], { seed: 76 }),
      columns: whole("u32", [n], { low: 0, high: c - 1, seed: 77 }),
      y: blank("f32", [t, n]),
    },
  })),

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

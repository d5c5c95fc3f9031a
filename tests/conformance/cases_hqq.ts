/** Cases of half-quadratic scales and zero points. */
import assert from "node:assert/strict";
import { roundTo } from "../../src/number.ts";
import { codeRange, eachTile, rangeOf, SCALE_DTYPES, scaleOf } from "../../src/ops/grid.ts";
import { errorOf, hqqParams } from "../../src/ops/hqq_params.ts";
import { blank, FLOATS, floats, gaussian, integers, type Values, whole } from "./given.ts";
import type { Case, Judge } from "./judge.ts";

/**
 * Each turn depends on those before it, so one tie may lead elsewhere. What is found must be about
 * as good as what the definition finds, no worse than the range's parameters that it began with,
 * and with a guard no worse than the rival.
 */
const solved: Judge = ({ before, dims, scalars, got, want }) => {
  eachTile(dims, scalars, (tile, elements) => {
    const weights = Array.from(elements, (i) => before.w![i]!);
    const params = (from: Readonly<Record<string, Values>>, prefix = "") => ({
      scale: from[`${prefix}scale`]![tile]!,
      zero: from[`${prefix}zero`]![tile]!,
    });
    const [mine, right] = [params(got), params(want)];
    if (!Number.isFinite(right.scale)) {
      assert.deepEqual(mine, right, `tile ${tile}`);
      return;
    }
    const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
    assert.equal(mine.scale, roundTo(dtype, mine.scale), `tile ${tile}: a scale is not ${dtype}`);
    assert.ok(mine.scale >= smallest, `tile ${tile}: scale ${mine.scale}`);
    const range = scalars.grid === 2 ? codeRange(scalars) : { low: 0, high: 0 };
    const fits = mine.zero >= range.low && mine.zero <= range.high;
    assert.ok(fits, `tile ${tile}: zero ${mine.zero}`);
    const power = scalars.guard ? 2 : 1;
    const error = errorOf(weights, mine, scalars, power);
    // What remains when every weight is met but for the last bits of its scale.
    const dust = weights.reduce((sum, w) => sum + (2 ** -20 * Math.abs(w)) ** power, 0);
    const { low, high } = rangeOf(weights, [...weights.keys()]);
    const limits = [
      ["the definition", 1.05 * errorOf(weights, right, scalars, power)],
      ["the range", 1.0001 * errorOf(weights, scaleOf(low, high, scalars), scalars, power)],
      ...(scalars.guard
        ? [["the rival", 1.0001 * errorOf(weights, params(before, "rival_"), scalars, 2)] as const]
        : []),
    ] as const;
    for (const [whose, limit] of limits) {
      assert.ok(error <= limit + dust, `tile ${tile}: error ${error}, ${whose} has ${limit}`);
    }
  });
};

/** Weights with a few outliers. */
export function spiky(count: number, seed: number): Float32Array {
  return gaussian(count, seed, 0.02).map((w, i) => i % 37 === 5 ? 6 * w : w);
}

export function hqqCase(
  dtype: typeof FLOATS[number],
  { shape: [rows, columns], tile, ...scalars }: {
    readonly shape: readonly [number, number];
    readonly tile: readonly [number, number];
    readonly bits: number;
    readonly grid: number;
    readonly scale_dtype?: number;
    readonly guard?: number;
  },
  weights: ArrayLike<number> = spiky(rows * columns, 121),
  note?: string,
): Case {
  const { bits, grid, scale_dtype = 0, guard = 0 } = scalars;
  const [tile_rows, tile_columns] = tile;
  const tiles = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const count = tiles[0]! * tiles[1]!;
  return {
    op: hqqParams,
    ...(note === undefined ? {} : { note }),
    tensors: {
      w: floats(dtype, [rows, columns], weights),
      rival_scale: floats(
        "f32",
        tiles,
        gaussian(count, 122).map((s) =>
          roundTo(SCALE_DTYPES[scale_dtype]!.dtype, 0.01 * (0.5 + Math.abs(s)))
        ),
      ),
      rival_zero: grid === 2
        ? whole("i8", tiles, { low: -(2 ** (bits - 2)), high: 2 ** (bits - 2), seed: 123 })
        : integers("i8", tiles, new Array(count).fill(0)),
      scale: blank("f32", tiles),
      zero: blank("i8", tiles),
    },
    scalars: { bits, grid, tile_rows, tile_columns, scale_dtype, guard },
    judge: { scale: solved, zero: solved },
  };
}

const line = (make: (i: number) => number) => Array.from({ length: 40 }, (_, i) => make(i));

export const hqqCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    [[4, 0, 0, 0], [4, 2, 1, 0], [8, 2, 2, 0], [3, 2, 0, 1], [2, 0, 1, 1], [3, 1, 0, 0]].flatMap((
      [bits = 0, grid = 0, scale_dtype = 0, guard = 0],
    ) => [
      hqqCase(dtype, { shape: [5, 70], tile: [1, 35], bits, grid, scale_dtype, guard }),
      hqqCase(dtype, { shape: [7, 33], tile: [3, 33], bits, grid, scale_dtype, guard }),
      hqqCase(dtype, { shape: [3, 131], tile: [1, 64], bits, grid, scale_dtype, guard }),
    ])
  ),
  ...[0, 2].map((grid) =>
    hqqCase(
      "f32",
      { shape: [9, 70], tile: [1, 70], bits: 4, grid },
      spiky(630, 124).map((w) => 100 * w),
      "weights so large that outliers are shrunk",
    )
  ),
  ...[-1, 1].map((sign) =>
    hqqCase(
      "f32",
      { shape: [9, 70], tile: [1, 35], bits: 3, grid: 2 },
      spiky(630, 125).map((w) => sign * (1 + w)),
      "weights far from 0 on one side, whose zero point is at an end",
    )
  ),
  hqqCase("f32", { shape: [1, 1], tile: [1, 1], bits: 4, grid: 2 }),
  hqqCase("bf16", { shape: [20, 2100], tile: [20, 2100], bits: 4, grid: 2, scale_dtype: 1 }),
  hqqCase(
    "f32",
    { shape: [6, 40], tile: [1, 40], bits: 4, grid: 2, guard: 1 },
    [
      ...line(() => 0),
      ...line((i) => i === 7 ? 3 : 0),
      ...line(() => 0.25),
      ...line((i) => (i % 16 - 8) / 8),
      ...line((i) => i === 3 ? NaN : i),
      ...line((i) => i === 30 ? -Infinity : 0.1 * i),
    ],
    "zeros, one spike, all equal, exact codes, NaN, an infinity",
  ),
];

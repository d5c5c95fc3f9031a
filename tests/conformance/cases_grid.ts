/** Conformance cases of the ops that round to integer and fp8 grids, one scale a tile. */
import assert from "node:assert/strict";
import { roundTo } from "../../src/number.ts";
import { dequantizeFp8 } from "../../src/ops/dequantize_fp8.ts";
import { dequantizeInt } from "../../src/ops/dequantize_int.ts";
import { eachTile, SCALE_DTYPES } from "../../src/ops/grid.ts";
import { quantizeFp8 } from "../../src/ops/quantize_fp8.ts";
import { quantizeInt } from "../../src/ops/quantize_int.ts";
import { scaleParams } from "../../src/ops/scale_params.ts";
import { searchError, searchParams } from "../../src/ops/search_params.ts";
import { tileRange } from "../../src/ops/tile_range.ts";
import {
  blank,
  FLOATS,
  floats,
  gaussian,
  type Given,
  integers,
  normal,
  type Values,
  whole,
} from "./given.ts";
import { type Case, equal, type Judge, judgesOf } from "./judge.ts";
import { brokenWeights, ODD_ROWS, oddWeights } from "./weights.ts";
/**
 * Shapes of weights and of the tiles they are cut into: whole tensor, rows, groups, blocks, with
 * short last tiles too.
 */
const TILED = [
  { shape: [1, 1], tile: [1, 1] },
  { shape: [3, 31], tile: [3, 31] },
  { shape: [3, 33], tile: [1, 33] },
  { shape: [5, 65], tile: [1, 13] },
  { shape: [7, 257], tile: [1, 32] },
  { shape: [33, 65], tile: [16, 24] },
  { shape: [257, 3], tile: [128, 2] },
];

interface Tiled {
  readonly shape: readonly [number, number];
  readonly tiles: readonly [number, number];
  readonly scalars: { readonly tile_rows: number; readonly tile_columns: number };
}

function tiled({ shape: [r = 1, c = 1], tile: [tile_rows = 1, tile_columns = 1] }: {
  readonly shape: readonly number[];
  readonly tile: readonly number[];
}): Tiled {
  return {
    shape: [r, c],
    tiles: [Math.ceil(r / tile_rows), Math.ceil(c / tile_columns)],
    scalars: { tile_rows, tile_columns },
  };
}

/** Scales that go with normally distributed weights: a few different ones, none a power of two. */
function scales(shape: readonly [number, number]): Given {
  const values = gaussian(shape[0] * shape[1], 77).map((s) => 0.11 + 0.02 * Math.abs(s));
  return floats("f32", shape, values);
}

/** Scales are exact where divisions are. */
const rangeJudges: Readonly<Record<string, Judge>> = {
  ...judgesOf(scaleParams),
  scale: (view, output) => (view.exact ? equal : judgesOf(scaleParams).scale!)(view, output),
};

/**
 * Scales found by search: as small an error as the definition's, up to what f32 sums of errors can
 * tell apart.
 */
const foundScales: Judge = ({ before, dims, scalars, got, want }) => {
  eachTile(dims, scalars, (tile, elements) => {
    const weights = Array.from(elements, (i) => ({
      w: before.w![i]!,
      by: before.importance![i % dims.C!]!,
    }));
    const params = (from: Readonly<Record<string, Values>>) => ({
      scale: from.scale![tile]!,
      zero: from.zero![tile]!,
    });
    const [mine, right] = [params(got), params(want)];
    if (!Number.isFinite(right.scale)) {
      assert.deepEqual(mine, right, `tile ${tile}`);
      return;
    }
    const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
    assert.equal(mine.scale, roundTo(dtype, mine.scale), `tile ${tile}: a scale is not ${dtype}`);
    const size = scalars.signed ? Math.abs(mine.scale) : mine.scale;
    assert.ok(size >= smallest, `tile ${tile}: scale ${mine.scale}`);
    const [error, least] = [mine, right].map((p) => searchError(weights, p, scalars));
    // What remains when every weight is met but for the last bits of its scale; and what f32 loses
    // of an error that is a difference of three sums of (scale/2)² and less, of six roundings each:
    // 3·6·2^-24/4 of a scale squared, below 2^-21.
    const step = Math.max(Math.abs(mine.scale), Math.abs(right.scale));
    const dust = weights.reduce(
      (sum, { w, by }) => sum + by * ((2 ** -20 * w) ** 2 + 2 ** -21 * step ** 2),
      0,
    );
    assert.ok(
      error! <= least! * 1.001 + dust,
      `tile ${tile}: error ${error}, the definition has ${least}`,
    );
  });
};

const RANGES = [
  ...[[-1, 1], [0, 0], [-0.5, 3], [0.25, 3], [-3, -0.25], [-7.5, 0], [1e-40, 2e-40], [-1e-42, 0]],
  ...[[-1e-30, 1e-36], [-65504 * 9, 1], [-3e38, 3e38], [-0.30000001, 0.7], [-1e-5, 1e-6]],
  ...Array.from(gaussian(52, 92), (x, i) => [x - 0.1 * i, x + 0.01 * i + 0.5]),
];

export const gridCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    TILED.map(tiled).map(({ shape, tiles, scalars }) => ({
      op: tileRange,
      tensors: {
        w: normal(dtype, shape, { seed: 101 }),
        low: blank("f32", tiles),
        high: blank("f32", tiles),
      },
      scalars,
    }))
  ),
  ...FLOATS.map((dtype) => ({
    op: tileRange,
    note: "NaN and an infinity",
    tensors: { w: brokenWeights(dtype), low: blank("f32", [5, 2]), high: blank("f32", [5, 2]) },
    scalars: { tile_rows: 1, tile_columns: 20 },
  })),
  {
    op: tileRange,
    note: "odd rows",
    tensors: { w: oddWeights, low: blank("f32", [7, 1]), high: blank("f32", [7, 1]) },
    scalars: { tile_rows: 1, tile_columns: 40 },
  },
  {
    op: tileRange,
    note: "more than 65535 tiles",
    tensors: {
      w: normal("bf16", [65539, 3], { seed: 102 }),
      low: blank("f32", [65539, 1]),
      high: blank("f32", [65539, 1]),
    },
    scalars: { tile_rows: 1, tile_columns: 3 },
  },

  ...[2, 3, 4, 8].flatMap((bits) =>
    [0, 1, 2, 3].flatMap((grid) =>
      [0, 1, 2].map((scale_dtype) => ({
        op: scaleParams,
        tensors: {
          low: floats("f32", [13, 5], RANGES.map(([low]) => low!)),
          high: floats("f32", [13, 5], RANGES.map(([, high]) => high!)),
          scale: blank("f32", [13, 5]),
          zero: blank("i8", [13, 5]),
        },
        scalars: { bits, grid, scale_dtype },
        judge: rangeJudges,
      }))
    )
  ),
  ...[0, 1, 2, 3].map((grid) => ({
    op: scaleParams,
    note: "ranges of usual weights",
    tensors: {
      low: floats("f32", [33, 7], gaussian(231, 93, 0.02).map((x) => -Math.abs(x))),
      high: floats("f32", [33, 7], gaussian(231, 94, 0.02).map(Math.abs)),
      scale: blank("f32", [33, 7]),
      zero: blank("i8", [33, 7]),
    },
    scalars: { bits: 4, grid, scale_dtype: 1 },
    judge: rangeJudges,
  })),
  ...[0, 1, 2, 3].flatMap((grid) =>
    [0, 1, 2].map((scale_dtype) => ({
      op: scaleParams,
      note: "a range that is not finite",
      tensors: {
        low: floats("f32", [1, 6], [-Infinity, -1, -Infinity, 0, -0.1, -Infinity]),
        high: floats("f32", [1, 6], [Infinity, 2, Infinity, 0, 3, Infinity]),
        scale: blank("f32", [1, 6]),
        zero: blank("i8", [1, 6]),
      },
      scalars: { bits: 4, grid, scale_dtype },
      judge: rangeJudges,
    }))
  ),

  ...FLOATS.flatMap((dtype) =>
    TILED.map(tiled).flatMap(({ shape, tiles, scalars }) =>
      [[4, 0], [4, 2], [8, 1], [3, 1]].map(([bits = 0, grid = 0]) => ({
        op: quantizeInt,
        tensors: {
          w: normal(dtype, shape, { seed: 103 }),
          scale: scales(tiles),
          zero: grid === 2
            ? whole("i8", tiles, { low: -(2 ** (bits - 1)), high: 2 ** (bits - 1) - 1 })
            : integers("i8", tiles, new Array(tiles[0] * tiles[1]).fill(0)),
          codes: blank("i8", shape),
        },
        scalars: { bits, grid, ...scalars },
        judge: judgesOf(quantizeInt),
      }))
    )
  ),
  ...[2, 5, 6, 7].map((bits) => ({
    op: quantizeInt,
    tensors: {
      w: normal("f32", [5, 65], { seed: 104, scale: 2 }),
      scale: scales([5, 3]),
      zero: integers("i8", [5, 3], new Array(15).fill(1)),
      codes: blank("i8", [5, 65]),
    },
    scalars: { bits, grid: 2, tile_rows: 1, tile_columns: 32 },
    judge: judgesOf(quantizeInt),
  })),
  {
    op: quantizeInt,
    note: "odd rows",
    tensors: {
      w: oddWeights,
      scale: floats("f32", [7, 1], [1, 2 ** -126, 1000 / 7.5, 0.3 / 7.5, 1, 1, 4e31 / 7.5]),
      zero: integers("i8", [7, 1], new Array(7).fill(0)),
      codes: blank("i8", [7, 40]),
    },
    scalars: { bits: 4, grid: 0, tile_rows: 1, tile_columns: 40 },
    judge: judgesOf(quantizeInt),
  },
  ...FLOATS.flatMap((dtype) =>
    [0, 2].map((grid) => ({
      op: quantizeInt,
      note: "a scale that is not finite",
      ieeeOnly: true as const,
      tensors: {
        w: brokenWeights(dtype),
        scale: floats("f32", [5, 1], [0.1, Infinity, 0.1, Infinity, 0.1]),
        zero: integers("i8", [5, 1], grid === 2 ? [-8, 3, 7, -2, 0] : [0, 0, 0, 0, 0]),
        codes: blank("i8", [5, 40]),
      },
      scalars: { bits: 4, grid, tile_rows: 1, tile_columns: 40 },
    }))
  ),
  ...TILED.map(tiled).flatMap(({ shape, tiles, scalars }) => [
    {
      op: dequantizeInt,
      tensors: {
        codes: whole("i8", shape, { low: -128, high: 127 }),
        scale: scales(tiles),
        zero: whole("i8", tiles, { low: -128, high: 127, seed: 2 }),
        w: blank("f32", shape),
      },
      scalars,
    },
    ...FLOATS.map((dtype) => ({
      op: quantizeFp8,
      tensors: {
        w: normal(dtype, shape, { seed: 105 }),
        scale: floats(
          "f32",
          tiles,
          gaussian(tiles[0] * tiles[1], 106).map((s) => 0.002 + Math.abs(s) / 99),
        ),
        codes: blank("f8_e4m3", shape),
      },
      scalars,
      judge: judgesOf(quantizeFp8),
    })),
    {
      op: dequantizeFp8,
      tensors: {
        codes: normal("f8_e4m3", shape, { seed: 107, scale: 50 }),
        scale: scales(tiles),
        w: blank("f32", shape),
      },
      scalars,
    },
  ]),
  {
    op: quantizeFp8,
    note: "odd rows",
    tensors: {
      w: oddWeights,
      scale: floats("f32", [7, 1], [1, 2 ** -126, 1, 0.3 / 448, 1 / 64, 1, 4e31 / 448]),
      codes: blank("f8_e4m3", [7, 40]),
    },
    scalars: { tile_rows: 1, tile_columns: 40 },
    judge: judgesOf(quantizeFp8),
  },

  ...FLOATS.flatMap((dtype) =>
    TILED.map(tiled).flatMap(({ shape, tiles, scalars }) =>
      [
        ...[[4, 0, 0, 0], [4, 2, 1, 0], [8, 1, 2, 0], [2, 0, 0, 0], [3, 2, 0, 0], [4, 0, 1, 1]],
        ...[[2, 0, 0, 1], [8, 0, 1, 1], [7, 2, 1, 0]],
      ].flatMap(([bits = 0, grid = 0, scale_dtype = 0, signed = 0]) =>
        [0, 1].map((objective) => ({
          op: searchParams,
          tensors: {
            w: normal(dtype, shape, { seed: 108 }),
            importance: floats("f32", [1, shape[1]], gaussian(shape[1], 107).map((x) => x * x)),
            scale: blank("f32", tiles),
            zero: blank("i8", tiles),
          },
          scalars: { bits, grid, ...scalars, scale_dtype, objective, signed },
          judge: { scale: foundScales, zero: foundScales },
        }))
      )
    )
  ),
  ...[0, 1].flatMap((objective) => [
    {
      op: searchParams,
      note: "NaN and an infinity",
      tensors: {
        w: brokenWeights("bf16"),
        importance: floats("f32", [1, 40], new Array(40).fill(1)),
        scale: blank("f32", [5, 1]),
        zero: blank("i8", [5, 1]),
      },
      scalars: {
        bits: 4,
        grid: 2,
        tile_rows: 1,
        tile_columns: 40,
        scale_dtype: 1,
        objective,
        signed: 0,
      },
      judge: { scale: foundScales, zero: foundScales },
    },
    ...[0, 1].map((signed) => ({
      op: searchParams,
      note: "zeros, one spike, all equal, exact ties",
      tensors: {
        w: floats("f32", [4, 40], [0, 2, 3, 4].flatMap((row) => ODD_ROWS[row]!)),
        importance: floats("f32", [1, 40], new Array(40).fill(1)),
        scale: blank("f32", [4, 1]),
        zero: blank("i8", [4, 1]),
      },
      scalars: {
        bits: 4,
        grid: 0,
        tile_rows: 1,
        tile_columns: 40,
        scale_dtype: 0,
        objective,
        signed,
      },
      judge: { scale: foundScales, zero: foundScales },
    })),
  ]),
];

/**
 * Cases of the ops that follow GPTQ: coordinate descent on a block of columns, and scales refitted
 * with codes held.
 */
import assert from "node:assert/strict";
import { roundTo } from "../../src/number.ts";
import { descendBlock } from "../../src/ops/descend_block.ts";
import { codeRange, partOf, SCALE_DTYPES, tileOf } from "../../src/ops/grid.ts";
import { nearestValue } from "../../src/ops/nearest.ts";
import { refitScales } from "../../src/ops/refit_scales.ts";
import { factors, gram } from "./cases_calibration.ts";
import { floats, gaussian, integers, normal, valuesOf, whole } from "./given.ts";
import { type Case, type Judge, U } from "./judge.ts";

/** A number and by how much arithmetic in f32 may miss it. */
interface Near {
  readonly value: number;
  readonly off: number;
}

/** move·(slope + move·curvature/2): what a move does to the loss. */
function changeOf(move: number, slope: Near, curvature: number): Near {
  const [first, second] = [move * slope.value, move * move * curvature / 2];
  return {
    value: first + second,
    off: Math.abs(move) * slope.off + 12 * U * (Math.abs(first) + second),
  };
}

/** Whether two numbers are one value of a grid, divided by a factor. */
function same(one: number, other: number): boolean {
  return Math.abs(one - other) <= 8 * U * Math.abs(one);
}

/**
 * What a column becomes depends on those before it, so one tie may change a row. The loop is
 * followed with the moves that were made: each must be to a value nearest to the minimum within
 * rounding, and none may cost anything; where none was made, none may have been worth it.
 */
const descended: Judge = ({ before, got, dims, scalars }) => {
  const { R = 0, C = 0, K = 0, G = 1 } = dims;
  const { first = 0, count = 0, panel = 0, damp = 0 } = scalars;
  const { h, factor, g, scale, zero } = before;
  for (let r = 0; r < R; r++) {
    const moves: number[] = [];
    let [loss, slack] = [before.loss![r]!, 0];
    for (let i = 0; i < count; i++) {
      const column = first + i;
      const [row, at] = [(column - panel) * C, r * C + column];
      const by = factor![partOf(r, R, G) * C + column]!;
      const [was, is] = [before.w![at]!, got.w![at]!];
      const curvature = h![row + column]! + damp;
      const move = is - was;
      moves.push(move);
      const error = before.e![at]! + move;
      assert.ok(
        Math.abs(got.e![at]! - error) <= 4 * U * (Math.abs(error) + Math.abs(move)),
        `e[${r}, ${column}] is ${got.e![at]}, not ${error}`,
      );
      const terms = [g![r * K + i]!, damp * before.e![at]!];
      for (let k = 0; k < i; k++) terms.push(moves[k]! * h![row + first + k]!);
      const size = terms.reduce((sum, term) => sum + Math.abs(term), 0);
      const slope = { value: terms.reduce((a, b) => a + b), off: (i + 10) * U * size };
      const target = was - slope.value / curvature;
      const near = (slope.off + 10 * U * Math.abs(slope.value)) / curvature +
        10 * U * (Math.abs(target) + Math.abs(was));
      const tile = tileOf(r, column, dims, scalars);
      const params = { scale: scale![tile]!, zero: zero![tile]! };
      const values = [-near, 0, near].map((shift) =>
        nearestValue(Math.fround((target + shift) * by), params, scalars) / by
      );
      const change = changeOf(move, slope, curvature);
      if (is === was) {
        const best = changeOf(values[1]! - was, slope, curvature);
        const wanted = best.value < -best.off && !values.some((one) => same(one, was));
        assert.ok(!wanted, `w[${r}, ${column}] stays ${was}, ${values[1]} would be better`);
      } else {
        const fits = values.some((one) => same(one, is));
        assert.ok(fits, `w[${r}, ${column}] is ${is}, not ${values[1]}`);
        assert.ok(change.value <= change.off, `w[${r}, ${column}] costs ${change.value}`);
      }
      loss += change.value;
      slack += change.off;
    }
    assert.ok(
      Math.abs(got.loss![r]! - loss) <= slack + 80 * U * (Math.abs(loss) + before.loss![r]!),
      `loss[${r}] is ${got.loss![r]}, not ${loss}`,
    );
    for (let c = 0; c < C; c++) {
      if (c >= first && c < first + count) continue;
      assert.equal(got.w![r * C + c], before.w![r * C + c], "a column outside the block");
      assert.equal(got.e![r * C + c], before.e![r * C + c], "a column outside the block");
    }
  }
};

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly first: number;
  readonly count: number;
}

/** A block of columns of a rounded weight; `seed` gives other contents. */
export function descendCase(
  { rows, columns, first, count, panel = 0, panelRows = columns, k = 64, tile, ...how }: Shape & {
    readonly panel?: number;
    readonly panelRows?: number;
    readonly k?: number;
    readonly tile: readonly [number, number];
    readonly kind?: number;
    readonly bits?: number;
    readonly grid?: number;
    readonly damp?: number;
    readonly parts?: number;
    readonly seed?: number;
  },
): Case {
  const { kind = 0, bits = 4, grid = 0, damp = 0.03, parts = 1, seed = 0 } = how;
  const [tile_rows, tile_columns] = tile;
  const [a, b] = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const size = kind >= 2 ? 2 : kind === 1 ? 0.01 : 6 / 2 ** bits;
  const scales = gaussian(a * b, seed + 92).map((s, i) =>
    // Symmetric grids may have scales of either sign.
    size * (0.5 + Math.abs(s)) * (kind === 0 && grid !== 2 && i % 3 === 1 ? -1 : 1)
  );
  const range = codeRange({ bits, grid });
  const zero = grid === 2
    ? whole("i8", [a, b], { low: range.low, high: range.high, seed: seed + 93 })
    : integers("i8", [a, b], new Array(a * b).fill(0));
  const zeros = valuesOf("i8", zero.bytes);
  const factor = factors(parts * columns, seed);
  const values = gaussian(rows * columns, seed + 94).map((w, i) => {
    const [r, c] = [Math.floor(i / columns), i % columns];
    const at = tileOf(r, c, { B: b }, { tile_rows, tile_columns });
    const value = nearestValue(w, { scale: scales[at]!, zero: zeros[at]! }, { kind, bits, grid });
    return value / factor[partOf(r, rows, parts) * columns + c]!;
  });
  return {
    op: descendBlock,
    tensors: {
      h: floats(
        "f32",
        [panelRows, columns],
        gram(columns, seed + 95).subarray(panel * columns, (panel + panelRows) * columns),
      ),
      factor: floats("f32", [parts, columns], factor),
      g: normal("f32", [rows, k], { seed: seed + 96, scale: 0.4 }),
      scale: floats("f32", [a, b], scales),
      zero,
      w: floats("f32", [rows, columns], values),
      e: normal("f32", [rows, columns], { seed: seed + 97, scale: 0.1 }),
      loss: floats("f32", [rows], gaussian(rows, seed + 98).map(Math.abs)),
    },
    scalars: { first, count, panel, tile_rows, tile_columns, kind, bits, grid, damp },
    judge: { w: descended, e: () => {}, loss: () => {} },
  };
}

/**
 * The new scale is that of least loss, but for rounding, or the old one where that is no worse; all
 * else follows from it.
 */
const refitted: Judge = ({ before, got, dims, scalars }) => {
  const { R = 0, C = 0, K = 0, B = 0, G = 1 } = dims;
  const { first = 0, count = 0, tile = 0, scale_dtype = 0, damp = 0 } = scalars;
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  const { factor, g, m } = before;
  got.scale!.forEach((scale, i) => {
    if (i % B !== tile) assert.equal(scale, before.scale![i], `scale ${i} is of another group`);
  });
  for (let r = 0; r < R; r++) {
    let [slope, curvature, slopeSize, bendSize] = [0, 0, 0, 0];
    for (let i = 0; i < count; i++) {
      const at = r * C + first + i;
      const size = before.w![at]!;
      const [linear, square] = [g![r * K + i]!, m![r * K + i]!];
      slope += size * (linear + damp * before.e![at]!);
      curvature += size * (square + damp * size);
      slopeSize += Math.abs(size) * (Math.abs(linear) + Math.abs(damp * before.e![at]!));
      bendSize += Math.abs(size) * (Math.abs(square) + Math.abs(damp * size));
    }
    const [was, is] = [before.scale![r * B + tile]!, got.scale![r * B + tile]!];
    const part = slope / curvature;
    const off = (count + 12) * U * (slopeSize / curvature + Math.abs(part) * bendSize / curvature);
    const near = { value: slope, off: (count + 12) * U * slopeSize };
    const wanted = [-1, 0, 1].map((side) =>
      roundTo(dtype, Math.fround(was * (1 - part + side * (off + 4 * U))))
    );
    const change = changeOf((is - was) / was, near, curvature);
    if (is === was) {
      const [, right = was] = wanted;
      const able = curvature > 0 && right / was > 0 && Math.abs(right) >= smallest;
      const best = changeOf((right - was) / was, near, curvature);
      const worth = able && best.value < -best.off && !wanted.includes(was);
      assert.ok(!worth, `scale[${r}] stays ${was}, ${right} would be better`);
    } else {
      assert.ok(
        is >= Math.min(...wanted) && is <= Math.max(...wanted),
        `scale[${r}] is ${is}, not ${wanted[1]}`,
      );
      assert.equal(is, roundTo(dtype, is), `scale[${r}] is not ${dtype}`);
      assert.ok(is / was > 0 && change.value <= change.off, `scale[${r}] costs ${change.value}`);
    }
    const loss = before.loss![r]! + change.value;
    assert.ok(
      Math.abs(got.loss![r]! - loss) <= change.off + 8 * U * (Math.abs(loss) + before.loss![r]!),
      `loss[${r}] is ${got.loss![r]}, not ${loss}`,
    );
    for (let c = 0; c < C; c++) {
      const at = r * C + c;
      const own = c >= first && c < first + count;
      const by = factor![partOf(r, R, G) * C + c]!;
      const value = own ? Math.round(before.w![at]! * by / was) * is / by : before.w![at]!;
      const error = before.e![at]! + (own ? value - before.w![at]! : 0);
      assert.ok(Math.abs(got.w![at]! - value) <= 6 * U * Math.abs(value), `w[${r}, ${c}]`);
      const size = Math.abs(error) + Math.abs(before.e![at]!) + Math.abs(value);
      assert.ok(Math.abs(got.e![at]! - error) <= 8 * U * size, `e[${r}, ${c}]`);
    }
  }
};

/** Scales of a group of columns; `seed` gives other contents. */
export function refitCase(
  {
    rows,
    columns,
    first,
    count,
    k = count,
    tile,
    tiles,
    scale_dtype,
    parts = 1,
    damp = 0.02,
    slope = 0.3,
    seed = 0,
  }:
    & Shape
    & {
      readonly k?: number;
      readonly tile: number;
      readonly tiles: number;
      readonly scale_dtype: number;
      readonly parts?: number;
      readonly damp?: number;
      /** How large slopes are: large ones ask for a scale of the other sign. */
      readonly slope?: number;
      readonly seed?: number;
    },
): Case {
  const { dtype } = SCALE_DTYPES[scale_dtype]!;
  const scales = gaussian(rows * tiles, seed + 83).map((s, i) =>
    roundTo(dtype, (0.2 + 0.1 * Math.abs(s)) * (i % 3 === 1 ? -1 : 1))
  );
  const codes = valuesOf(
    "i8",
    whole("i8", [rows, columns], { low: -8, high: 7, seed: seed + 84 }).bytes,
  );
  const factor = factors(parts * columns, seed);
  // Of one row all codes are 0.
  const values = Float32Array.from(codes, (code, i) => {
    const r = Math.floor(i / columns);
    const by = factor[partOf(r, rows, parts) * columns + i % columns]!;
    return r % 5 === 2 ? 0 : code * scales[r * tiles + tile]! / by;
  });
  const h = gram(columns, seed + 85);
  const m = new Float32Array(rows * k);
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) {
        m[r * k + i]! += values[r * columns + first + j]! * h[(first + i) * columns + first + j]!;
      }
    }
  }
  return {
    op: refitScales,
    tensors: {
      factor: floats("f32", [parts, columns], factor),
      g: normal("f32", [rows, k], { seed: seed + 86, scale: slope }),
      m: floats("f32", [rows, k], m),
      w: floats("f32", [rows, columns], values),
      e: normal("f32", [rows, columns], { seed: seed + 87, scale: 0.1 }),
      scale: floats("f32", [rows, tiles], scales),
      loss: floats("f32", [rows], gaussian(rows, seed + 88).map(Math.abs)),
    },
    scalars: { first, count, tile, scale_dtype, damp },
    judge: { scale: refitted, w: () => {}, e: () => {}, loss: () => {} },
  };
}

export const polishCases: readonly Case[] = [
  ...[2, 3, 4, 8].flatMap((bits) =>
    [0, 1, 2].map((grid) =>
      descendCase({ rows: 5, columns: 70, first: 3, count: 33, tile: [1, 35], bits, grid })
    )
  ),
  descendCase({ rows: 1, columns: 1, first: 0, count: 1, k: 1, tile: [1, 1] }),
  descendCase({ rows: 67, columns: 130, first: 64, count: 64, tile: [1, 65], grid: 2 }),
  descendCase({
    rows: 9,
    columns: 200,
    first: 130,
    count: 50,
    panel: 128,
    panelRows: 72,
    tile: [4, 50],
    damp: 0,
  }),
  descendCase({ rows: 6, columns: 128, first: 64, count: 64, tile: [6, 128], grid: 1, damp: 0.5 }),
  descendCase({ rows: 66, columns: 70, first: 6, count: 64, tile: [1, 10], parts: 6 }),
  ...[1, 2, 3].map((kind) =>
    descendCase({ rows: 7, columns: 96, first: 32, count: 64, tile: [1, 32], kind })
  ),
  refitCase({ rows: 1, columns: 1, first: 0, count: 1, tile: 0, tiles: 1, scale_dtype: 0 }),
  refitCase({ rows: 9, columns: 75, first: 50, count: 25, tile: 2, tiles: 3, scale_dtype: 1 }),
  refitCase({ rows: 66, columns: 64, first: 32, count: 32, tile: 1, tiles: 2, scale_dtype: 2 }),
  refitCase({
    rows: 21,
    columns: 64,
    first: 0,
    count: 32,
    tile: 0,
    tiles: 2,
    scale_dtype: 1,
    parts: 3,
  }),
  refitCase({
    rows: 13,
    columns: 131,
    first: 0,
    count: 131,
    k: 140,
    tile: 0,
    tiles: 1,
    scale_dtype: 0,
    damp: 0,
  }),
  refitCase({
    rows: 21,
    columns: 33,
    first: 0,
    count: 33,
    tile: 0,
    tiles: 1,
    scale_dtype: 1,
    slope: 15,
  }),
];

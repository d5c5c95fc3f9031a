/** Cases of the ops that train codes: latents at the start, and steps of them and their scales. */
import assert from "node:assert/strict";
import { roundTo } from "../../src/number.ts";
import { codeRange, SCALE_DTYPES } from "../../src/ops/grid.ts";
import { startLatents } from "../../src/ops/start_latents.ts";
import { stepLatents } from "../../src/ops/step_latents.ts";
import { blank, floats, gaussian, normal, whole } from "./given.ts";
import { type Case, type Judge, U, within } from "./judge.ts";

/** A quotient may be an ulp off where its product was lost; bounds are within an ulp. */
const near = within(({ before: { w, scale }, want }) => {
  // A quotient may be far larger than what is left of it.
  const least = Array.from(scale!, Math.abs).reduce((a, b) => Math.min(a, b), Infinity);
  return Float64Array.from(want.u!, (u, i) => 8 * U * (1 + Math.abs(u) + Math.abs(w![i]!) / least));
});

export interface LatentsShape {
  readonly rows: number;
  readonly columns: number;
  readonly tile: readonly [rows: number, columns: number];
  readonly seed?: number;
}

/** Weights of which a third lies outside of the cells of their codes. */
export function startCase({ rows, columns, tile, seed = 0 }: LatentsShape): Case {
  const [tile_rows, tile_columns] = tile;
  const tiles = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const signed = gaussian(tiles[0]! * tiles[1]!, seed + 1).map((s, i) =>
    (0.2 + Math.abs(s)) * (i % 3 === 1 ? -1 : 1)
  );
  return {
    op: startLatents,
    tensors: {
      w: normal("f32", [rows, columns], { seed: seed + 2, scale: 3 }),
      codes: whole("i8", [rows, columns], { low: -8, high: 7, seed: seed + 3 }),
      scale: floats("f32", tiles, signed),
      zero: whole("i8", tiles, { low: -8, high: 7, seed: seed + 4 }),
      u: blank("f32", [rows, columns]),
    },
    scalars: { tile_rows, tile_columns },
    judge: { u: near },
  };
}

/**
 * A scale goes the way of a sum, which near zero may have either sign: what it has become must be a
 * step from what it was, the right way where the sum is known.
 */
const stepped: Judge = ({ before, got, dims, scalars }) => {
  const { R = 0, C = 0, B = 0 } = dims;
  const { tile_columns = 1, scale_dtype = 0, scale_rate = 0 } = scalars;
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  for (let r = 0; r < R; r++) {
    for (let b = 0; b < B; b++) {
      const tile = r * B + b;
      const [first, end] = [b * tile_columns, Math.min(C, (b + 1) * tile_columns)];
      let [slope, size] = [0, 0];
      for (let c = first; c < end; c++) {
        const term = before.g![r * C + c]! * (before.codes![r * C + c]! - before.zero![tile]!);
        slope += term;
        size += Math.abs(term);
      }
      const [was, is] = [before.wide![tile]!, got.wide![tile]!];
      const doubtful = Math.abs(slope) <= (end - first + 2) * U * size;
      const ways = doubtful ? [1, 0, -1] : [Math.sign(slope) * Math.sign(was)];
      assert.ok(
        ways.some((way) => Math.abs(is - (was - was * scale_rate * way)) <= 4 * U * Math.abs(was)),
        `wide[${tile}] is ${is}, was ${was}, with a slope of ${slope}`,
      );
      const stored = Math.max(Math.abs(roundTo(dtype, is)), smallest);
      assert.equal(got.scale![tile], is < 0 ? -stored : stored, `scale[${tile}]`);
    }
  }
};

const moved = within(({ before, scalars }) =>
  Float64Array.from(before.u!, (u) => 4 * U * (1 + Math.abs(u) + scalars.rate!))
);

/** A step of latents, some of which are at the end of their range. */
export function stepCase(
  { rows, columns, tile: [, tile_columns], seed = 0, ...how }: LatentsShape & {
    readonly bits: number;
    readonly grid: number;
    readonly scale_dtype: number;
    readonly rate?: number;
    readonly scale_rate?: number;
  },
): Case {
  const tiles = [rows, Math.ceil(columns / tile_columns)];
  const { low, high } = codeRange(how);
  const signed = gaussian(tiles[0]! * tiles[1]!, seed + 1).map((s, i) =>
    (0.01 + Math.abs(s)) * (i % 4 === 1 ? -1 : 1)
  );
  const { rate = 0.005, scale_rate = 0.001 } = how;
  return {
    op: stepLatents,
    tensors: {
      g: floats(
        "f32",
        [rows, columns],
        gaussian(rows * columns, seed + 2).map((g, i) => i % 7 === 3 ? 0 : g),
      ),
      codes: whole("i8", [rows, columns], { low, high, seed: seed + 3 }),
      zero: whole("i8", tiles, how.grid === 2 ? { low, high, seed } : { low: 0, high: 0 }),
      u: normal("f32", [rows, columns], { seed: seed + 4, scale: (high - low) / 2 }),
      wide: floats("f32", tiles, signed),
      scale: blank("f32", tiles),
    },
    scalars: { ...how, tile_rows: 1, tile_columns, rate, scale_rate },
    judge: { u: moved, wide: stepped, scale: () => {} },
  };
}

export const latentsCases: readonly Case[] = [
  startCase({ rows: 1, columns: 1, tile: [1, 1] }),
  startCase({ rows: 7, columns: 75, tile: [1, 25] }),
  startCase({ rows: 9, columns: 130, tile: [4, 130] }),
  stepCase({ rows: 1, columns: 1, tile: [1, 1], bits: 4, grid: 0, scale_dtype: 0 }),
  ...[2, 3, 4, 8].flatMap((bits) =>
    [0, 1, 2].map((grid) =>
      stepCase({ rows: 5, columns: 70, tile: [1, 35], bits, grid, scale_dtype: (bits + grid) % 3 })
    )
  ),
  stepCase({ rows: 67, columns: 131, tile: [1, 131], bits: 4, grid: 2, scale_dtype: 1 }),
  stepCase({ rows: 3, columns: 200, tile: [1, 64], bits: 4, grid: 0, scale_dtype: 2, rate: 0.5 }),
  stepCase({ rows: 3, columns: 9, tile: [1, 4], bits: 3, grid: 1, scale_dtype: 1, scale_rate: 0 }),
];

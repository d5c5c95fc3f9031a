/** Cases of the ops that train codes: latents at the start, and steps of them and of scales. */
import assert from "node:assert/strict";
import { roundTo } from "../../src/number.ts";
import { codeRange, SCALE_DTYPES } from "../../src/ops/grid.ts";
import { adam } from "../../src/ops/adam.ts";
import { scaleSlopes } from "../../src/ops/scale_slopes.ts";
import { startLatents } from "../../src/ops/start_latents.ts";
import { stepLatents } from "../../src/ops/step_latents.ts";
import { zeroSlopes } from "../../src/ops/zero_slopes.ts";
import { stepScales } from "../../src/ops/step_scales.ts";
import { blank, floats, gaussian, integers, normal, whole } from "./given.ts";
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
export function startCase(
  { rows, columns, tile, seed = 0, bits = 4 }: LatentsShape & { readonly bits?: number },
): Case {
  const { low, high } = codeRange({ bits, grid: 2 });
  const [tile_rows, tile_columns] = tile;
  const tiles = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const signed = gaussian(tiles[0]! * tiles[1]!, seed + 1).map((s, i) =>
    (0.2 + Math.abs(s)) * (i % 3 === 1 ? -1 : 1)
  );
  return {
    op: startLatents,
    tensors: {
      w: normal("f32", [rows, columns], { seed: seed + 2, scale: 3 }),
      codes: whole("i8", [rows, columns], { low, high, seed: seed + 3 }),
      scale: floats("f32", tiles, signed),
      zero: whole("i8", tiles, { low, high, seed: seed + 4 }),
      u: blank("f32", [rows, columns]),
    },
    scalars: { bits, grid: 2, tile_rows, tile_columns },
    judge: { u: near },
  };
}

/** Running means, some of which are 0 as at the first step, and some of whose gradients are. */
export function adamCase(
  { n, seed = 0, ...scalars }: {
    readonly n: number;
    readonly seed?: number;
    readonly decay_m: number;
    readonly decay_v: number;
    readonly gain_m?: number;
    readonly gain_v?: number;
  },
): Case {
  const { decay_m, decay_v, gain_m = 1.5, gain_v = 3 } = scalars;
  const seldom = (values: Float32Array, every: number) =>
    values.map((value, i) => i % every === 2 ? 0 : value);
  return {
    op: adam,
    tensors: {
      g: floats("f32", [n], seldom(gaussian(n, seed + 1), 3)),
      m: floats("f32", [n], seldom(gaussian(n, seed + 2), 4)),
      v: floats("f32", [n], seldom(gaussian(n, seed + 3).map((x) => x * x), 2)),
    },
    scalars: { decay_m, decay_v, gain_m, gain_v },
    judge: {
      m: within(({ before: { g, m } }) =>
        Float64Array.from(m!, (m, i) => 4 * U * (Math.abs(m) + Math.abs(g![i]!)))
      ),
      v: within(({ want }) => Float64Array.from(want.v!, (v) => 8 * U * v)),
      // The mean of a gradient and those before may be next to nothing beside them.
      g: within(({ before: { g, m }, want }) =>
        Float64Array.from(
          want.v!,
          (v, i) =>
            v === 0 ? 0 : 32 * U * gain_m * (Math.abs(m![i]!) + Math.abs(g![i]!)) /
              Math.sqrt(v * gain_v),
        )
      ),
    },
  };
}

/** Sums, of which f32 may lose a unit a term. */
export function slopesCase(
  { rows, columns, tile: [, tile_columns], seed = 0 }: LatentsShape,
): Case {
  const tiles = [rows, Math.ceil(columns / tile_columns)];
  return {
    op: scaleSlopes,
    tensors: {
      g: normal("f32", [rows, columns], { seed: seed + 1 }),
      codes: whole("i8", [rows, columns], { low: -8, high: 7, seed: seed + 2 }),
      zero: whole("i8", tiles, { low: -8, high: 7, seed: seed + 3 }),
      slope: blank("f32", tiles),
    },
    scalars: { tile_rows: 1, tile_columns },
    judge: {
      slope: within(({ before, want, dims: { C = 0, B = 0 } }) =>
        Float64Array.from(want.slope!, (_, tile) => {
          const [row, first] = [Math.floor(tile / B), tile % B * tile_columns];
          let size = 0;
          for (let c = first; c < Math.min(C, first + tile_columns); c++) {
            const at = row * C + c;
            size += Math.abs(before.g![at]! * (before.codes![at]! - before.zero![tile]!));
          }
          return (Math.min(tile_columns, C) + 2) * U * size;
        })
      ),
    },
  };
}

/** Latents, a third of which are at the ends of their range. */
export function zerosCase(
  { rows, columns, tile: [, tile_columns], seed = 0, ...how }:
    & LatentsShape
    & { readonly bits: number; readonly grid: number },
): Case {
  const { low, high } = codeRange(how);
  const width = Math.ceil(columns / tile_columns);
  const tiles = [rows, width];
  const zeros = Array.from(
    { length: rows * width },
    (_, i) => how.grid === 2 ? low + (i * 3 + seed) % (high - low + 1) : 0,
  );
  const drawn = gaussian(rows * columns, seed + 4);
  const u = drawn.map((value, i) => {
    const zero = zeros[Math.floor(i / columns) * width + Math.floor(i % columns / tile_columns)]!;
    const [least, most] = [low - zero - 0.5, high - zero + 0.5];
    if (i % 6 === 1) return least;
    return i % 6 === 3 ? most : Math.min(Math.max(value, least + 0.25), most - 0.25);
  });
  return {
    op: zeroSlopes,
    tensors: {
      g: normal("f32", [rows, columns], { seed: seed + 2 }),
      u: floats("f32", [rows, columns], u),
      scale: normal("f32", tiles, { seed: seed + 1 }),
      zero: integers("i8", tiles, zeros),
      slope: blank("f32", tiles),
    },
    scalars: { ...how, tile_rows: 1, tile_columns },
    judge: {
      slope: within(({ before: { g, scale }, want, dims: { C = 0, B = 0 } }) =>
        Float64Array.from(want.slope!, (_, tile) => {
          const [row, first] = [Math.floor(tile / B), tile % B * tile_columns];
          let size = 0;
          for (let c = first; c < Math.min(C, first + tile_columns); c++) {
            size += Math.abs(g![row * C + c]! * scale![tile]!);
          }
          return (Math.min(tile_columns, C) + 2) * U * size;
        })
      ),
    },
  };
}

/** Latents, some of which are at the end of their range. */
export function stepCase(
  { rows, columns, tile: [tile_rows, tile_columns], seed = 0, rate = 0.005, ...how }:
    & LatentsShape
    & {
      readonly bits: number;
      readonly grid: number;
      readonly rate?: number;
    },
): Case {
  const tiles = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const { low, high } = codeRange(how);
  return {
    op: stepLatents,
    tensors: {
      d: normal("f32", [rows, columns], { seed: seed + 2 }),
      scale: normal("f32", tiles, { seed: seed + 1 }),
      zero: whole("i8", tiles, how.grid === 2 ? { low, high, seed } : { low: 0, high: 0 }),
      u: normal("f32", [rows, columns], { seed: seed + 4, scale: (high - low) / 2 }),
    },
    scalars: { ...how, tile_rows, tile_columns, rate },
    judge: {
      u: within(({ before }) =>
        Float64Array.from(
          before.u!,
          (u, i) => 4 * U * (1 + Math.abs(u) + rate * Math.abs(before.d![i]!)),
        )
      ),
    },
  };
}

/** What is stored is what wide rounds to; in bf16 and f16 that may be the next number. */
const rounded: Judge = ({ got, scalars: { scale_dtype = 0 } }) => {
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  got.scale!.forEach((scale: number, i: number) => {
    const wide = got.wide![i]!;
    const stored = Math.max(Math.abs(roundTo(dtype, wide)), smallest);
    assert.equal(scale, wide < 0 ? -stored : stored, `scale[${i}], where wide is ${wide}`);
  });
};

/** Scales of both signs, tiny ones too. */
export function scalesCase(
  { n, scale_dtype, rate = 0.001, seed = 0 }: {
    readonly n: number;
    readonly scale_dtype: number;
    readonly rate?: number;
    readonly seed?: number;
  },
): Case {
  return {
    op: stepScales,
    tensors: {
      d: normal("f32", [n], { seed: seed + 1 }),
      wide: floats("f32", [n], gaussian(n, seed + 2).map((s, i) => i % 5 === 1 ? s * 2 ** -13 : s)),
      scale: blank("f32", [n]),
    },
    scalars: { scale_dtype, rate },
    judge: {
      wide: within(({ before }) =>
        Float64Array.from(
          before.wide!,
          (s, i) => 4 * U * Math.abs(s) * (1 + rate * Math.abs(before.d![i]!)),
        )
      ),
      scale: rounded,
    },
  };
}

export const latentsCases: readonly Case[] = [
  startCase({ rows: 1, columns: 1, tile: [1, 1] }),
  startCase({ rows: 7, columns: 75, tile: [1, 25] }),
  startCase({ rows: 9, columns: 130, tile: [4, 130] }),
  startCase({ rows: 9, columns: 130, tile: [1, 32], bits: 2 }),
  adamCase({ n: 1, decay_m: 0.9, decay_v: 0.99 }),
  adamCase({ n: 4099, decay_m: 0.9, decay_v: 0.999, gain_m: 10, gain_v: 1000 }),
  adamCase({ n: 514, decay_m: 0, decay_v: 0, gain_m: 1, gain_v: 1 }),
  slopesCase({ rows: 1, columns: 1, tile: [1, 1] }),
  slopesCase({ rows: 67, columns: 131, tile: [1, 131] }),
  slopesCase({ rows: 5, columns: 200, tile: [1, 64] }),
  zerosCase({ rows: 1, columns: 1, tile: [1, 1], bits: 4, grid: 2 }),
  ...[[2, 2], [3, 2], [4, 1], [8, 0]].map(([bits = 0, grid = 0]) =>
    zerosCase({ rows: 7, columns: 131, tile: [1, 32], bits, grid })
  ),
  stepCase({ rows: 1, columns: 1, tile: [1, 1], bits: 4, grid: 0 }),
  ...[2, 3, 4, 8].flatMap((bits) =>
    [0, 1, 2].map((grid) => stepCase({ rows: 5, columns: 70, tile: [1, 35], bits, grid }))
  ),
  stepCase({ rows: 67, columns: 131, tile: [8, 131], bits: 4, grid: 2 }),
  stepCase({ rows: 3, columns: 200, tile: [1, 64], bits: 4, grid: 0, rate: 0.5 }),
  ...[0, 1, 2].map((scale_dtype) => scalesCase({ n: 137, scale_dtype })),
  scalesCase({ n: 1, scale_dtype: 1, rate: 0 }),
];

/**
 * Conformance cases of bitsandbytes' ops (4-bit codebooks, the 8-bit dynamic map, int8 rows), and
 * of tables of levels that were found.
 */
import { CODEBOOKS, DYNAMIC_MAP, midpoints, nearBound } from "../../src/ops/codebook.ts";
import { dequantize4bit } from "../../src/ops/dequantize_4bit.ts";
import { dequantizeCodebook } from "../../src/ops/dequantize_codebook.ts";
import { dequantizeDynamic8 } from "../../src/ops/dequantize_dynamic8.ts";
import { nearHalf } from "../../src/ops/grid.ts";
import { quantize4bit } from "../../src/ops/quantize_4bit.ts";
import { quantizeCodebook } from "../../src/ops/quantize_codebook.ts";
import { quantizeDynamic8 } from "../../src/ops/quantize_dynamic8.ts";
import { quantizeRowsInt8 } from "../../src/ops/quantize_rows_int8.ts";
import { blank, FLOATS, floats, gaussian, type Given, integers, normal, whole } from "./given.ts";
import {
  type Case,
  equal,
  equalButTies,
  type Judge,
  judgesOf,
  type View,
  within,
} from "./judge.ts";
import { bf16ToF32, f32ToBf16 } from "../../src/number.ts";
import { brokenWeights, ODD_ROWS, oddWeights } from "./weights.ts";
const codesDynamic8: Judge = equalButTies(({ before: { x }, want: { absmax }, scalars }) => {
  const { block = 1, offset = 0 } = scalars;
  return Array.from(
    x!,
    (value, i) =>
      nearBound(
        Math.fround(value - offset) / absmax![Math.floor(i / block)]!,
        midpoints(DYNAMIC_MAP),
      ),
  );
});

const codesRows: Judge = equalButTies(({ before: { x }, want: { absmax }, dims: { C = 1 } }) =>
  Array.from(x!, (value, i) => nearHalf(value * 127 / absmax![Math.floor(i / C)]!))
);

/** table·absmax and + offset: a product and a sum, or the two fused. */
function dynamicBound({ before: { codes, table, absmax }, want: { x }, scalars }: View): number[] {
  const { block = 1 } = scalars;
  return Array.from(codes!, (code, i) => {
    const product = table![code]! * absmax![Math.floor(i / block)]!;
    return 2 ** -24 * (Math.abs(product) + 2 * Math.abs(x![i]!));
  });
}

/** The numbers of bf16 from 2^-14 to `absmax` and their negatives, `absmax` first in every 16. */
function everyNumber(absmax: number): number[] {
  const numbers: number[] = [];
  for (let bits = f32ToBf16(2 ** -14); bf16ToF32(bits) <= absmax; bits++) {
    for (const number of [bf16ToF32(bits), -bf16ToF32(bits)]) {
      if (numbers.length % 16 === 0) numbers.push(absmax);
      numbers.push(number);
    }
  }
  while (numbers.length % 16 > 0) numbers.push(0);
  return numbers;
}

/** Ascending levels, some of them equal. */
export function levels(tables: number, count: number, seed: number): Given {
  const values = gaussian(tables * count, seed);
  for (let at = 0; at < values.length; at += count) values.subarray(at, at + count).sort();
  if (count > 2) values[2] = values[1]!;
  return floats("f32", [tables, count], values);
}

/** Runs of a signature over flat elements: the same bytes as a vector. */
function flat(given: Given): Given {
  return { ...given, shape: [given.shape.reduce((a, b) => a * b, 1)] };
}

export const codebookCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    [[1, 32], [3, 32], [64, 32], [65, 64], [257, 64], [4096, 64], [1033, 1024]].flatMap((
      [n = 0, block = 0],
    ) =>
      [0, 1].map((kind) => ({
        op: quantize4bit,
        tensors: {
          w: normal(dtype, [n], { seed: n, scale: 0.02 }),
          codes: blank("u8", [Math.ceil(n / 2)]),
          absmax: blank("f32", [Math.ceil(n / block)]),
        },
        scalars: { block, kind, given: 0 },
        judge: judgesOf(quantize4bit),
      }))
    )
  ),
  ...[0, 1].flatMap((kind) => [
    {
      op: quantize4bit,
      note: "odd rows, one a block",
      tensors: {
        w: flat(oddWeights),
        codes: blank("u8", [140]),
        absmax: blank("f32", [7]),
      },
      scalars: { block: 40, kind, given: 0 },
      judge: judgesOf(quantize4bit),
    },
    {
      op: quantize4bit,
      note: "blocks with NaN and an infinity",
      tensors: {
        w: flat(brokenWeights("bf16")),
        codes: blank("u8", [100]),
        absmax: blank("f32", [5]),
      },
      scalars: { block: 40, kind, given: 0 },
      judge: judgesOf(quantize4bit),
    },
    {
      op: quantize4bit,
      note: "every midpoint and its neighbours",
      tensors: {
        w: floats("f32", [46], [
          1,
          ...Array.from(CODEBOOKS[kind]!.bounds).flatMap((bound) => {
            return [bound, bound + 2 ** -24 * Math.abs(bound), bound - 2 ** -24 * Math.abs(bound)];
          }),
        ]),
        codes: blank("u8", [23]),
        absmax: blank("f32", [1]),
      },
      scalars: { block: 64, kind, given: 0 },
      judge: judgesOf(quantize4bit),
    },
    ...[1, 1.5].map(everyNumber).map((numbers) => ({
      op: quantize4bit,
      note: "every number of bf16 from 2^-14 to the absmax",
      tensors: {
        w: floats("bf16", [numbers.length], numbers),
        codes: blank("u8", [numbers.length / 2]),
        absmax: blank("f32", [numbers.length / 16]),
      },
      scalars: { block: 16, kind, given: 0 },
      judge: judgesOf(quantize4bit),
    })),
    ...[[3, 32], [1033, 64]].map(([n = 0, block = 0]) => ({
      op: quantize4bit,
      note: "by an absmax that is given",
      tensors: {
        w: normal("f32", [n], { seed: 107 }),
        codes: blank("u8", [Math.ceil(n / 2)]),
        absmax: floats(
          "f32",
          [Math.ceil(n / block)],
          gaussian(Math.ceil(n / block), 108).map((x) => 1 + Math.abs(x)),
        ),
      },
      scalars: { block, kind, given: 1 },
      judge: judgesOf(quantize4bit),
    })),
    ...[[1, 32], [3, 32], [65, 64], [1033, 64]].map(([n = 0, block = 0]) => ({
      op: dequantize4bit,
      tensors: {
        codes: whole("u8", [Math.ceil(n / 2)], { low: 0, high: 255, seed: n }),
        absmax: floats(
          "f32",
          [Math.ceil(n / block)],
          gaussian(Math.ceil(n / block), 109).map(Math.abs),
        ),
        w: blank("f32", [n]),
      },
      scalars: { block, kind },
    })),
  ]),

  ...[[1, 256], [3, 256], [257, 256], [1000, 64]].flatMap(([n = 0, block = 0]) =>
    [0, 2.5].flatMap((offset) => [
      {
        op: quantizeDynamic8,
        tensors: {
          x: floats("f32", [n], gaussian(n, 110, 0.3).map((x) => x + offset)),
          table: floats("f32", [256], DYNAMIC_MAP),
          codes: blank("u8", [n]),
          absmax: blank("f32", [Math.ceil(n / block)]),
        },
        scalars: { block, offset },
        judge: { codes: codesDynamic8, absmax: equal },
      },
      {
        op: dequantizeDynamic8,
        tensors: {
          codes: whole("u8", [n], { low: 0, high: 255, seed: n }),
          absmax: floats(
            "f32",
            [Math.ceil(n / block)],
            gaussian(Math.ceil(n / block), 111).map(Math.abs),
          ),
          table: floats("f32", [256], DYNAMIC_MAP),
          x: blank("f32", [n]),
        },
        scalars: { block, offset },
        judge: { x: within(dynamicBound) },
      },
    ])
  ),
  {
    op: quantizeDynamic8,
    note: "blocks of zeros, of table entries, and one that is not finite",
    tensors: {
      x: floats("f32", [768], [
        ...new Array(256).fill(0),
        ...DYNAMIC_MAP,
        NaN,
        ...gaussian(255, 112),
      ]),
      table: floats("f32", [256], DYNAMIC_MAP),
      codes: blank("u8", [768]),
      absmax: blank("f32", [3]),
    },
    scalars: { block: 256, offset: 0 },
    judge: { codes: codesDynamic8 },
  },

  ...FLOATS.flatMap((dtype) =>
    [[1, 1, 1, 4], [3, 31, 3, 8], [7, 65, 2, 16], [33, 257, 1, 16], [5, 4099, 4, 256], [3, 5, 9, 1]]
      .flatMap(([r = 0, c = 0, table_rows = 1, k = 0]) => [
        {
          op: quantizeCodebook,
          tensors: {
            w: normal(dtype, [r, c], { seed: 115 }),
            table: levels(Math.ceil(r / table_rows), k, 116),
            codes: blank("u8", [r, c]),
          },
          scalars: { table_rows },
        },
        {
          op: dequantizeCodebook,
          tensors: {
            codes: whole("u8", [r, c], { low: 0, high: k - 1, seed: 117 }),
            table: levels(Math.ceil(r / table_rows), k, 116),
            w: blank("f32", [r, c]),
          },
          scalars: { table_rows },
        },
      ])
  ),
  {
    op: quantizeCodebook,
    note: "levels, midpoints and their neighbours",
    tensors: {
      w: floats(
        "f32",
        [1, 9],
        [-1, -0.5, -0.5 + 2 ** -25, -0.5 - 2 ** -25, 0, 0.75, 0.75 + 2 ** -24, 1.5, 9],
      ),
      table: floats("f32", [1, 3], [-1, 0, 1.5]),
      codes: blank("u8", [1, 9]),
    },
    scalars: { table_rows: 1 },
  },
  {
    op: dequantizeCodebook,
    note: "a level that is NaN",
    tensors: {
      codes: whole("u8", [3, 5], { low: 0, high: 3, seed: 118 }),
      table: floats("f32", [1, 4], [NaN, NaN, NaN, NaN]),
      w: blank("f32", [3, 5]),
    },
    scalars: { table_rows: 3 },
  },

  ...FLOATS.flatMap((dtype) =>
    [[1, 1, 0], [3, 31, 0], [5, 65, 1.5], [33, 257, 2.5]].map(([t = 0, c = 0, threshold = 0]) => ({
      op: quantizeRowsInt8,
      tensors: {
        x: normal(dtype, [t, c], { seed: 113 }),
        skip: integers("u32", [c], Array.from({ length: c }, (_, i) => i % 5 === 3 ? 1 : 0)),
        codes: blank("i8", [t, c]),
        absmax: blank("f32", [t]),
      },
      scalars: { threshold },
      judge: { codes: codesRows, absmax: equal },
    }))
  ),
  {
    op: quantizeRowsInt8,
    note: "zeros, one spike, all equal, ties; the spike's column skipped",
    tensors: {
      x: floats("f32", [5, 40], [0, 2, 3, 4, 5].flatMap((row) => ODD_ROWS[row]!)),
      skip: integers("u32", [40], Array.from({ length: 40 }, (_, i) => i === 13 ? 1 : 0)),
      codes: blank("i8", [5, 40]),
      absmax: blank("f32", [5]),
    },
    scalars: { threshold: 6 },
    judge: { codes: codesRows },
  },
  {
    op: quantizeRowsInt8,
    note: "rows that are not finite",
    tensors: {
      x: brokenWeights("bf16"),
      skip: integers("u32", [40], new Array(40).fill(0)),
      codes: blank("i8", [5, 40]),
      absmax: blank("f32", [5]),
    },
    scalars: { threshold: 6 },
    judge: { codes: codesRows },
  },
];

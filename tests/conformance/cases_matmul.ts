/**
 * Conformance cases of the products: float, packed and int8 weights, and what LLM.int8() needs
 * beside them.
 */
import { matmulColumns } from "../../src/ops/matmul_columns.ts";
import { matmulInt8 } from "../../src/ops/matmul_int8.ts";
import { matmulNt, productBound } from "../../src/ops/matmul_nt.ts";
import { matmulPacked } from "../../src/ops/matmul_packed.ts";
import { outlierColumns } from "../../src/ops/outlier_columns.ts";
import { rescaleInt8 } from "../../src/ops/rescale_int8.ts";
import { type Case, judgesOf, U, type View, within } from "./judge.ts";
import { blank, FLOATS, floats, gaussian, integers, normal, whole } from "./given.ts";

/**
 * As of other products over the columns listed, with 4 roundings in w·absmax/127; the sum may begin
 * with what is in y.
 */
function columnsBound(view: View): Float64Array {
  const { before: { x, w, absmax, columns, y }, dims: { C = 0 }, scalars: { column = 0 } } = view;
  const listed = new Set(Array.from(columns!).slice(1, 1 + columns![0]!));
  const some = x!.map((value: number, i: number) => listed.has(i % C) ? value : 0);
  const weights = Float64Array.from(w!, (code, i) => code * absmax![Math.floor(i / C)]! / 127);
  const allowed = productBound(view, { x: some, w: weights, column, extra: 6 });
  return allowed.map((error, i) =>
    error && error + (listed.size + 1) * U * (Math.abs(y![i]!) + Math.abs(view.want.y![i]!))
  );
}

/**
 * y·a·b/127²: a conversion, two products and a division of at most 2.5 units, all relative; other
 * columns as they were.
 */
function rescaleBound({ want }: View): Float64Array {
  return Float64Array.from(want.z!, (value) => 12 * U * Math.abs(value));
}

const MATMULS = [
  ...[[1, 1, 1], [3, 65, 33], [1, 257, 65], [31, 3, 257], [65, 64, 64], [130, 129, 131]],
  // In vectors: one of them, less than a tile's depth, just past a tile of either size.
  ...[[1, 4, 1], [64, 16, 128], [129, 12, 66], [65, 132, 130], [257, 20, 5], [3, 36, 259]],
];

export const matmulCases: readonly Case[] = [
  ...FLOATS.flatMap((dtype) =>
    MATMULS.map(([t = 0, c = 0, r = 0]) => ({
      op: matmulNt,
      tensors: {
        x: normal("f32", [t, c], { seed: 11 }),
        w: normal(dtype, [r, c], { seed: 12, scale: 0.05 }),
        y: blank("f32", [t, r]),
      },
      scalars: { column: 0 },
      judge: judgesOf(matmulNt),
    }))
  ),
  ...FLOATS.flatMap((dtype) =>
    [[3, 65, 33, 5, 70], [64, 32, 32, 96, 128], [33, 577, 36, 1, 37], [131, 28, 133, 3, 139]].map((
      [t = 0, c = 0, r = 0, column = 0, y = 0],
    ) => ({
      op: matmulNt,
      note: "a slice of the columns",
      tensors: {
        x: normal("f32", [t, c], { seed: 13 }),
        w: normal(dtype, [r, c], { seed: 14 }),
        y: normal("f32", [t, y], { seed: 15 }),
      },
      scalars: { column },
      judge: judgesOf(matmulNt),
    }))
  ),
  ...FLOATS.map((dtype) => ({
    op: matmulNt,
    note: "a row of NaN on each side, which is nobody else's",
    tensors: {
      x: floats("f32", [5, 20], gaussian(100, 16).map((v, i) => i >= 40 && i < 60 ? NaN : v)),
      w: floats(dtype, [6, 20], gaussian(120, 17).map((v, i) => i >= 60 && i < 80 ? NaN : v)),
      y: blank("f32", [5, 6]),
    },
    scalars: { column: 0 },
    judge: judgesOf(matmulNt),
  })),
  {
    op: matmulNt,
    note: "sums that cancel",
    tensors: {
      x: floats("f32", [2, 1100], Array.from({ length: 2200 }, (_, i) => i < 1100 ? 2 ** -20 : 1)),
      w: floats("bf16", [3, 1100], Array.from({ length: 3300 }, (_, i) => (i % 7) - 3)),
      y: blank("f32", [2, 3]),
    },
    scalars: { column: 0 },
    judge: judgesOf(matmulNt),
  },

  ...[2, 3, 4, 5, 6, 7, 8].flatMap((bits) =>
    [
      ...[[1, 32, 1, 1], [3, 96, 5, 3], [17, 128, 33, 2], [65, 130, 67, 10], [2, 33, 7, 1]],
      ...[[1, 4, 1, 1], [129, 20, 67, 5], [66, 132, 131, 3]],
    ].map((
      [t = 0, c = 0, r = 0, groups = 0],
    ) => ({
      op: matmulPacked,
      tensors: {
        x: normal("f32", [t, c], { seed: 21 }),
        w: whole("u32", [r, Math.ceil(c * bits / 32)], { low: 0, high: 2 ** 32 - 1, seed: bits }),
        scale: floats("f32", [r, groups], gaussian(r * groups, 22).map((s) => 0.01 + Math.abs(s))),
        zero: whole("i8", [r, groups], {
          low: -(2 ** (bits - 1)),
          high: 2 ** (bits - 1) - 1,
          seed: 23,
        }),
        y: normal("f32", [t, r + 2], { seed: 24 }),
      },
      scalars: { bits, column: 1 },
      judge: judgesOf(matmulPacked),
    }))
  ),

  ...[[1, 1, 1], [3, 33, 5], [31, 257, 65], [65, 64, 130]].flatMap(([t = 0, c = 0, r = 0]) => [
    {
      op: matmulInt8,
      tensors: {
        x: whole("i8", [t, c], { low: -127, high: 127, seed: 31 }),
        w: whole("i8", [r, c], { low: -128, high: 127, seed: 32 }),
        y: blank("i32", [t, r]),
      },
    },
    {
      op: rescaleInt8,
      tensors: {
        y: whole("i32", [t, r], { low: -(2 ** 27), high: 2 ** 27, seed: 33 }),
        a: floats("f32", [t], gaussian(t, 34).map(Math.abs)),
        b: floats("f32", [r], gaussian(r, 35).map(Math.abs)),
        z: normal("f32", [t, r + 3], { seed: 36 }),
      },
      scalars: { column: 2 },
      judge: { z: within(rescaleBound) },
    },
    {
      op: outlierColumns,
      tensors: {
        x: normal("f32", [t, c], { seed: 37 }),
        skip: blank("u32", [c]),
        columns: blank("u32", [c + 1]),
      },
      scalars: { threshold: 2.25 },
    },
    {
      op: outlierColumns,
      note: "off",
      tensors: {
        x: normal("f32", [t, c], { seed: 37 }),
        skip: blank("u32", [c]),
        columns: blank("u32", [c + 1]),
      },
      scalars: { threshold: 0 },
    },
    {
      op: matmulColumns,
      tensors: {
        x: normal("f32", [t, c], { seed: 38, scale: 7 }),
        columns: integers("u32", [c + 1], [
          Math.ceil(c / 3),
          ...Array.from({ length: c }, (_, i) => i < Math.ceil(c / 3) ? i * 3 : 0),
        ]),
        w: whole("i8", [r, c], { low: -127, high: 127, seed: 39 }),
        absmax: floats("f32", [r], gaussian(r, 40).map(Math.abs)),
        y: normal("f32", [t, r + 3], { seed: 41 }),
      },
      scalars: { column: 1 },
      judge: { y: within(columnsBound) },
    },
    {
      op: matmulColumns,
      note: "no column listed",
      tensors: {
        x: normal("f32", [t, c], { seed: 38 }),
        columns: integers("u32", [c + 1], new Array(c + 1).fill(0)),
        w: whole("i8", [r, c], { low: -127, high: 127, seed: 39 }),
        absmax: floats("f32", [r], gaussian(r, 40).map(Math.abs)),
        y: normal("f32", [t, r], { seed: 41 }),
      },
      scalars: { column: 0 },
    },
  ]),
  {
    op: matmulNt,
    note: "sums of nothing",
    tensors: {
      x: normal("f32", [3, 0]),
      w: normal("bf16", [5, 0]),
      y: normal("f32", [3, 7], { seed: 13 }),
    },
    scalars: { column: 1 },
  },
  {
    op: matmulPacked,
    note: "sums of nothing",
    tensors: {
      x: normal("f32", [3, 0]),
      w: blank("u32", [5, 0]),
      scale: normal("f32", [5, 2]),
      zero: whole("i8", [5, 2], { low: -8, high: 7 }),
      y: normal("f32", [3, 7], { seed: 13 }),
    },
    scalars: { bits: 4, column: 1 },
  },
  {
    op: matmulInt8,
    note: "sums of nothing",
    tensors: { x: blank("i8", [3, 0]), w: blank("i8", [5, 0]), y: blank("i32", [3, 5]) },
  },
  {
    op: outlierColumns,
    note: "of no columns",
    tensors: { x: normal("f32", [3, 0]), skip: blank("u32", [0]), columns: blank("u32", [1]) },
    scalars: { threshold: 6 },
  },
  {
    op: matmulInt8,
    note: "sums past 2^24",
    tensors: {
      x: integers("i8", [2, 5001], new Array(10002).fill(127)),
      w: integers("i8", [2, 5001], Array.from({ length: 10002 }, (_, i) => i % 5001 ? 127 : -128)),
      y: blank("i32", [2, 2]),
    },
  },
  {
    op: outlierColumns,
    note: "every column, at the threshold exactly",
    tensors: {
      x: floats("f32", [2, 300], Array.from({ length: 600 }, (_, i) => i % 2 ? -6 : 6)),
      skip: blank("u32", [300]),
      columns: blank("u32", [301]),
    },
    scalars: { threshold: 6 },
  },
];

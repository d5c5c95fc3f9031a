/** Conformance cases of the ops that convert, pack, add up and count. */
import { addBias } from "../../src/ops/add_bias.ts";
import { ERROR_CHUNK, errorSums } from "../../src/ops/error_sums.ts";
import { floatBins } from "../../src/ops/float_bins.ts";
import { histogram } from "../../src/ops/histogram.ts";
import { narrow } from "../../src/ops/narrow.ts";
import { packBits } from "../../src/ops/pack_bits.ts";
import { unpackBits } from "../../src/ops/unpack_bits.ts";
import { widen } from "../../src/ops/widen.ts";
import { type Case, equal, identical, type Judge, U, type View, within } from "./judge.ts";
import { blank, FLOATS, floats, gaussian, type Given, integers, normal, whole } from "./given.ts";

/** Every value of a narrow dtype, then some again so that the count is odd. */
function everyValue(dtype: "bf16" | "f16" | "f8_e4m3"): Given {
  if (dtype === "f8_e4m3") {
    return { dtype, shape: [257], bytes: Uint8Array.from({ length: 257 }, (_, i) => i) };
  }
  const bits = Uint16Array.from({ length: 65537 }, (_, i) => i);
  return { dtype, shape: [65537], bytes: new Uint8Array(bits.buffer) };
}

/** Values, ties and edges of the narrow dtypes: what a rounding gets wrong first. */
const ROUGH = [
  ...[0, -0, 1, -1, NaN, Infinity, -Infinity, 3.4028234663852886e38, -3.4028234663852886e38],
  // E4M3: the largest value, the tie above it, subnormals and their ties, the smallest normal.
  ...[
    448,
    463.9,
    464,
    465,
    1e6,
    -1e6,
    2 ** -6,
    2 ** -7,
    2 ** -9,
    2 ** -10,
    1.5 * 2 ** -9,
    2.5 * 2 ** -9,
  ],
  ...[1.0625, 1.1875, 1.3125, 15.5, 16.5, -1.0625, 0.0145, 2 ** -10 + 2 ** -20],
  // f16: the largest value, the tie to infinity, subnormals.
  ...[
    65504,
    65519.99,
    65520,
    -65520,
    6.1e-5,
    5.96e-8,
    2.98e-8,
    2.99e-8,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
  ],
  // bf16: ties to even in both directions, a carry into the exponent.
  ...[1 + 2 ** -8, 1 + 3 * 2 ** -8, 1.998, 1.9999, -(1 + 2 ** -8), 3.39e38],
];

/**
 * The difference a backend's bins may have: as many values as lie within f32 error of an edge of
 * the bin.
 */
function edgeCounts({ before, dims, scalars }: View): number[] {
  const { K = 1 } = dims;
  const { low = 0, high = 0 } = scalars;
  const near = new Array<number>(K).fill(0);
  for (const x of before.x!) {
    const place = (x - low) / (high - low) * K;
    const edge = Math.round(place);
    if (Math.abs(place - edge) > 1e-5 * K) continue;
    for (const bin of [edge - 1, edge]) if (bin in near) near[bin]!++;
  }
  return near;
}

/**
 * Every value is counted once, though a division that is not IEEE's may put one at an edge into the
 * next bin.
 */
const countedOnce: Judge = (view, output) => {
  if (view.exact) return equal(view, output);
  within(edgeCounts)(view, output);
  const total = (counts: ArrayLike<number>) => Array.from(counts).reduce((a, b) => a + b, 0);
  const [got, want] = [total(view.got[output]!), total(view.want[output]!)];
  if (got !== want) throw new Error(`${got} values are counted, not ${want}`);
};

/**
 * f32 sums of n terms in any order are off by at most n·u of the sum of sizes, with 4 roundings in
 * each term.
 */
function sumsBound({ before: { a, b }, dims: { N = 0, P = 0 } }: View): number[] {
  const allowed: number[] = [];
  for (let p = 0; p < P; p++) {
    const sums = [0, 0, 0, 0];
    const end = Math.min(N, (p + 1) * ERROR_CHUNK);
    for (let i = p * ERROR_CHUNK; i < end; i++) {
      const [x, y] = [a![i]!, b![i]!];
      [x * x, y * y, Math.abs(x * y), (x - y) ** 2].forEach((term, k) => sums[k]! += term);
    }
    const terms = end - p * ERROR_CHUNK + 4;
    allowed.push(...sums.map((sum) => terms * U * sum), 0, 0);
  }
  return allowed;
}

export const memoryCases: readonly Case[] = [
  ...(["bf16", "f16", "f8_e4m3"] as const).flatMap((dtype) => [
    {
      op: widen,
      note: "every value",
      tensors: { x: everyValue(dtype), y: blank("f32", everyValue(dtype).shape) },
      judge: { y: identical },
    },
    ...[1, 3, 31].map((n) => ({
      op: widen,
      tensors: { x: normal(dtype, [n], { seed: n }), y: blank("f32", [n]) },
      judge: { y: identical },
    })),
    ...[1, 2, 3, 65, 257].map((n) => ({
      op: narrow,
      tensors: { x: normal("f32", [n], { seed: n, scale: 3 }), y: blank(dtype, [n]) },
      judge: { y: identical },
    })),
    {
      op: narrow,
      note: "ties, edges, NaN and infinities",
      tensors: { x: floats("f32", [ROUGH.length], ROUGH), y: blank(dtype, [ROUGH.length]) },
      judge: { y: identical },
    },
  ]),

  ...[2, 3, 4, 5, 6, 7, 8].flatMap((bits) =>
    [[1, 1], [3, 31], [2, 33], [5, 65], [1, 257]].flatMap(([rows, columns]) => {
      const shape = [rows!, columns!];
      const packed = [rows!, Math.ceil(columns! * bits / 32)];
      const low = -(2 ** (bits - 1));
      const codes = whole("i8", shape, { low, high: -low - 1, seed: bits });
      const scalars = { bits };
      return [
        { op: packBits, tensors: { codes, packed: blank("u32", packed) }, scalars },
        {
          op: unpackBits,
          note: "any words, set bits past the end of a row too",
          tensors: {
            packed: whole("u32", packed, { low: 0, high: 2 ** 32 - 1, seed: bits }),
            codes: blank("i8", shape),
          },
          scalars,
        },
      ];
    })
  ),

  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [3, 31], [7, 65]].map(([t, r]) => ({
      op: addBias,
      tensors: { b: normal(dtype, [r!], { seed: 3 }), y: normal("f32", [t!, r!], { seed: 4 }) },
    }))
  ),

  ...FLOATS.flatMap((dtype) =>
    [1, 33, ERROR_CHUNK, 2 * ERROR_CHUNK + 5].map((n) => ({
      op: errorSums,
      tensors: {
        a: normal(dtype, [n], { seed: 5 }),
        b: normal("f32", [n], { seed: 6 }),
        sums: blank("f32", [Math.ceil(n / ERROR_CHUNK), 6]),
      },
      judge: { sums: within(sumsBound) },
    }))
  ),

  ...FLOATS.flatMap((dtype) =>
    [[1, 1], [33, 7], [5000, 64]].map(([n, k]) => ({
      op: histogram,
      tensors: {
        x: normal(dtype, [n!], { seed: 7 }),
        counts: integers("u32", [k!], Array.from({ length: k! }, (_, i) => i)),
      },
      scalars: { low: -2.5, high: 2.25 },
      judge: { counts: countedOnce },
    }))
  ),
  ...[1, 33, 5000].map((n) => ({
    op: floatBins,
    note: "of all sizes",
    tensors: {
      x: floats("f32", [n], gaussian(n, 8).map((value, i) => value * 2 ** (i % 160 - 80))),
      counts: integers("u32", [131_072], Array.from({ length: 131_072 }, (_, i) => i % 7)),
    },
  })),
  {
    op: floatBins,
    note: "NaN, infinities, zeros and edges",
    tensors: {
      x: floats("f32", [10], [
        NaN,
        Infinity,
        -Infinity,
        0,
        -0,
        1,
        -1,
        1 + 2 ** -9,
        2 ** -64,
        1e-40,
      ]),
      counts: integers("u32", [131_072], new Array(131_072).fill(0)),
    },
  },
  {
    op: histogram,
    note: "NaN and infinities",
    tensors: {
      x: floats("f32", [6], [NaN, Infinity, -Infinity, 0.5, -1e30, 1e30]),
      counts: integers("u32", [4], [0, 0, 0, 0]),
    },
    scalars: { low: 0, high: 1 },
  },
];

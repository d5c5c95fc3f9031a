/**
 * What each op may be called with, for cases drawn by chance: sizes that may be 0, tiles and
 * windows larger than the data, offsets, all dtypes.
 */
import { DYNAMIC_MAP } from "../../src/ops/codebook.ts";
import { e4m3ToF32 } from "../../src/number.ts";
import { codeRange, MAX_EXTENT } from "../../src/ops/grid.ts";
import type { Dims, Scalars } from "../../src/op.ts";
import type { Shape } from "../../src/tensor.ts";
import { freshState } from "./cases_model.ts";
import { attentionVjpCase } from "./cases_backward.ts";
import { gptqCase, gram, shuffled } from "./cases_calibration.ts";
import { hqqCase, spiky } from "./cases_hqq.ts";
import { levels } from "./cases_codebook.ts";
import {
  adamCase,
  scalesCase,
  slopesCase,
  startCase,
  stepCase,
  zerosCase,
} from "./cases_latents.ts";
import { descendCase, refitCase } from "./cases_polish.ts";
import { attentionVjpKv } from "../../src/ops/attention_vjp_kv.ts";
import { attentionVjpQ } from "../../src/ops/attention_vjp_q.ts";
import type { Draw, Drawn } from "./draw.ts";
import { floats, gaussian, type Given, integers, normal, uniform, whole } from "./given.ts";
import type { Case } from "./judge.ts";

type Row = (draw: Draw) => Drawn | Case;

const count = (shape: Shape) => shape.reduce((n, size) => n * size, 1);

/** f32 values made of normally distributed ones. */
function made(draw: Draw, make: (x: number, i: number) => number): (shape: Shape) => Given {
  const seed = draw.seed();
  return (shape) => floats("f32", shape, gaussian(count(shape), seed).map(make));
}

const positive = (draw: Draw, least = 0.01) => made(draw, (x) => least + Math.abs(x));

/** Whole numbers of a tensor's dtype, ends included. */
function between(draw: Draw, low: number, high: number): (shape: Shape) => Given {
  const seed = draw.seed();
  return (shape) => whole("i8", shape, { low, high, seed });
}

/** `u32` contents from a list. */
const listed = (values: readonly number[]) => (shape: Shape) => integers("u32", shape, values);

function order(draw: Draw): (shape: Shape) => Given {
  const seed = draw.seed();
  return (shape) => integers("u32", shape, shuffled(count(shape), seed));
}

/** Elements of a flat op: some vectors, or more than one item of work holds. */
const flat = (draw: Draw): Drawn => ({ dims: { N: draw.size(draw.pick(300, 40_000)) } });

/** A weight in tiles, of which the last may be short, or the only one larger than the weight. */
function tiled(
  draw: Draw,
  limit = 4000,
  min = 0,
): { readonly dims: Dims; readonly scalars: { tile_rows: number; tile_columns: number } } {
  const [R = 0, C = 0] = draw.sizes(2, limit, { min });
  const side = (length: number) => draw.size(draw.pick(length + 3, length + 3, MAX_EXTENT), 1);
  const [tile_rows, tile_columns] = [side(R), side(C)];
  return {
    dims: { R, C, A: Math.ceil(R / tile_rows), B: Math.ceil(C / tile_columns) },
    scalars: { tile_rows, tile_columns },
  };
}

const bitsOf = (draw: Draw) => draw.whole(2, 8);

/** Zero points that a grid allows. */
function zeros(draw: Draw, scalars: { bits: number; grid: number }): (shape: Shape) => Given {
  const { low, high } = codeRange(scalars);
  return scalars.grid === 2 ? between(draw, low, high) : between(draw, 0, 0);
}

/** Rows and columns of a result that is wider than what is written to it. */
function columns(draw: Draw, R: number): { readonly Y: number; readonly scalars: Scalars } {
  const column = draw.size(40);
  return { Y: column + R + draw.size(40), scalars: { column } };
}

/**
 * A rectangle somewhere in a matrix that is no smaller; with a step, its first column and the
 * matrix's columns are multiples of it.
 */
function placed(draw: Draw, [rows, width]: readonly [number, number], step = 1): {
  readonly at: readonly [row: number, column: number];
  readonly size: readonly [rows: number, columns: number];
} {
  const whole = (size: number) => Math.ceil(size / step) * step;
  const at = [draw.size(20), whole(draw.size(20))] as const;
  return { at, size: [at[0] + rows + draw.size(9), whole(at[1] + width + draw.size(9))] };
}

/** Rows `first` … of a matrix of which a panel holds some. */
function panelAround(draw: Draw, { C, first, count }: Record<"C" | "first" | "count", number>) {
  const panel = draw.whole(0, first);
  const rows = draw.whole(first + count - panel, C - panel);
  return { panel, panelRows: rows };
}

/** A block of columns of a weight in tiles, as GPTQ and what follows it take them. */
function blockOf(draw: Draw) {
  const [rows = 1, width = 1] = draw.sizes(2, 3000, { min: 1, max: 150 });
  const first = draw.whole(0, width - 1);
  const count = draw.whole(1, Math.min(64, width - first));
  return {
    rows,
    columns: width,
    first,
    count,
    ...panelAround(draw, { C: width, first, count }),
    tile: [draw.size(rows + 2, 1), draw.size(width + 2, 1)] as const,
    kind: draw.whole(0, 3),
    bits: bitsOf(draw),
    grid: draw.whole(0, 2),
    seed: draw.seed(),
  };
}

/** A number of equal parts of some rows. */
function partsOf(draw: Draw, rows: number): number {
  const able = [1, 2, 3, 4, 5, rows].filter((parts) => parts > 0 && rows % parts === 0);
  return draw.pick(...able);
}

function rmsRow(draw: Draw): Drawn {
  const [T = 0, heads = 0, D = 1] = draw.sizes(3, 40_000, { max: 5000 });
  const C = Math.max(1, D) * heads;
  return {
    dims: { T, C, D: Math.max(1, D) },
    scalars: { eps: draw.pick(1e-5, 1e-6), plus: draw.pick(0, 1) },
  };
}

function layerRow(draw: Draw): Drawn {
  const [T = 0, C = 0] = draw.sizes(2, 40_000, { max: 5000 });
  return { dims: { T, C }, scalars: { eps: draw.pick(1e-5, 1e-6) } };
}

/** An activation of some numbers. */
const activated = (draw: Draw): Drawn => ({
  dims: { N: draw.size(40_000) },
  scalars: { kind: draw.whole(0, 3) },
});

/** Tokens' logits, and what was gathered of them. */
function predicted(draw: Draw) {
  const [T = 0, V = 0] = draw.sizes(2, 10_000, { max: 3000 });
  const next = uniform(draw.seed());
  const seed = draw.seed();
  const row = () => [3 + next(), 1 + 9 * next(), 3 + next(), 1 + 9 * next(), 0, 0, 0, 0, 0, 0];
  const state = Array.from({ length: T }, row).flat();
  return {
    dims: { T, V, S: 10 },
    given: {
      state: (shape: Shape) => floats("f32", shape, state),
      p: (shape: Shape) => normal("f32", shape, { seed, scale: 3 }),
      q: (shape: Shape) => normal("f32", shape, { seed: seed + 1, scale: 3 }),
    },
  } satisfies Drawn;
}

/** Numbers that are scaled and capped. */
const cappedRow = (draw: Draw): Drawn => ({
  dims: { N: draw.size(40_000) },
  scalars: { times: draw.pick(1, 12, 0.125), cap: draw.pick(0, 2, 30) },
});

/** A backward pass of attention. */
function attentionBack(draw: Draw, op: typeof attentionVjpQ | typeof attentionVjpKv): Case {
  const step = draw.pick(1, 4);
  const dim = Math.ceil(draw.size(draw.pick(16, 300), 1) / step) * step;
  const [windows, shared] = [draw.whole(0, 3), draw.whole(1, 2)];
  const most = Math.floor(150 / Math.sqrt(dim / 8) / Math.max(1, windows)) + 1;
  const length = draw.size(most, 1);
  return attentionVjpCase(op, {
    tokens: windows * length,
    length,
    shared,
    heads: shared * draw.whole(1, 3),
    dim,
    window: draw.pick(0, draw.size(windows * length + 40, 1), 2 ** 31 - 1, 2 ** 32 - 1),
    cap: draw.pick(0, 0, 2, 50),
    biased: draw.pick(false, true),
    seed: draw.seed(),
  });
}

/** 4-bit codes of N elements in blocks, which may be larger than all of them. */
function blocks4(draw: Draw) {
  const [N, block] = [draw.size(3000), draw.size(draw.pick(70, 5000, MAX_EXTENT), 1)];
  return {
    dims: { N, P: Math.ceil(N / 2), B: Math.ceil(N / block) },
    scalars: { block, kind: draw.whole(0, 1) },
  };
}

/** Tables of levels for some rows each, which may be more than there are. */
function tables(draw: Draw) {
  const [R = 0, C = 0] = draw.sizes(2, 20_000);
  const [table_rows, K] = [draw.size(draw.pick(R + 3, MAX_EXTENT), 1), draw.whole(1, 256)];
  return { dims: { R, C, A: Math.ceil(R / table_rows), K }, scalars: { table_rows } };
}

function blocks8(draw: Draw): Drawn {
  const [N, block] = [draw.size(2000), draw.size(draw.pick(70, 3000, MAX_EXTENT), 1)];
  return {
    dims: { N, B: Math.ceil(N / block), K: 256 },
    scalars: { block, offset: draw.pick(0, 2.5) },
    given: { table: (shape) => floats("f32", shape, DYNAMIC_MAP), absmax: positive(draw, 0) },
  };
}

function level(draw: Draw, kind = draw.whole(0, 1)): { kind: number; bits: number } {
  return { kind, bits: bitsOf(draw) };
}

/** A product's sizes: one of them may span tiles and panels, and each may be 0. */
const product = (draw: Draw) => draw.sizes(3, 400_000, { max: 600 });

/** By the op's name. */
export const DRAWS: Readonly<Record<string, Row>> = {
  widen: flat,
  narrow: flat,
  subtract: flat,
  fake_quantize: (draw) => ({
    dims: { ...flat(draw).dims, S: 1 },
    scalars: level(draw),
    given: { scale: positive(draw, 0.001) },
  }),
  float_bins: (draw) => ({ dims: { N: draw.size(3000), K: 131_072 } }),
  histogram: (draw) => {
    const low = draw.pick(-2.5, 0, -100);
    return {
      dims: { ...flat(draw).dims, K: draw.size(5000, 1) },
      scalars: { low, high: low + draw.pick(0.5, 4.75, 200) },
    };
  },
  error_sums: (draw) => {
    const N = draw.size(draw.pick(300, 10_000));
    return { dims: { N, P: Math.ceil(N / 4096), S: 6 } };
  },
  add_bias: (draw) => {
    const [T = 0, R = 0] = draw.sizes(2, 40_000);
    return { dims: { T, R } };
  },

  tile_range: (draw) => tiled(draw, 40_000),
  scale_params: (draw) => {
    const [A = 0, B = 0] = draw.sizes(2, 3000);
    const seed = draw.seed();
    const range = (side: number) => (shape: Shape) => {
      // Now and then both ends are on one side of 0, or the tile holds nothing but zeros.
      const middles = gaussian(count(shape), seed);
      const next = uniform(seed);
      return floats("f32", shape, middles.map((x) => next() < 0.1 ? 0 : x + side * next()));
    };
    return {
      dims: { A, B },
      scalars: { bits: bitsOf(draw), grid: draw.whole(0, 3), scale_dtype: draw.whole(0, 2) },
      given: { low: range(-1), high: range(1) },
    };
  },
  quantize_int: (draw) => {
    const { dims, scalars } = tiled(draw);
    const of = { bits: bitsOf(draw), grid: draw.whole(0, 2) };
    return {
      dims,
      scalars: { ...of, ...scalars },
      given: { scale: positive(draw), zero: zeros(draw, of) },
    };
  },
  dequantize_int: (draw) => tiled(draw),
  quantize_fp8: (draw) => ({ ...tiled(draw), given: { scale: positive(draw, 0.002) } }),
  dequantize_fp8: (draw) => {
    const seed = draw.seed();
    const codes = (shape: Shape) =>
      floats(
        "f8_e4m3",
        shape,
        Array.from(whole("u8", shape, { low: 0, high: 255, seed }).bytes, e4m3ToF32),
      );
    return { ...tiled(draw), given: { codes } };
  },
  search_params: (draw) => {
    const { dims, scalars } = tiled(draw, 500, 1);
    const grid = draw.whole(0, 2);
    return {
      dims: { ...dims, G: scalars.tile_rows === 1 ? partsOf(draw, dims.R!) : 1 },
      scalars: {
        bits: bitsOf(draw),
        grid,
        ...scalars,
        scale_dtype: draw.whole(0, 2),
        objective: draw.whole(0, 1),
        signed: grid === 0 ? draw.whole(0, 1) : 0,
      },
      given: { importance: made(draw, (x) => x * x) },
    };
  },
  hqq_params: (draw) => {
    const { dims: { R = 1, C = 1 }, scalars } = tiled(draw, 500, 1);
    return hqqCase(draw.pick("f32", "bf16", "f16"), {
      shape: [R, C],
      tile: [scalars.tile_rows, scalars.tile_columns],
      bits: bitsOf(draw),
      grid: draw.whole(0, 2),
      scale_dtype: draw.whole(0, 2),
      guard: draw.whole(0, 1),
    }, spiky(R * C, draw.seed()));
  },

  pack_bits: (draw) => {
    const [[R = 0, C = 0], bits] = [draw.sizes(2, 40_000), bitsOf(draw)];
    const { low, high } = codeRange({ bits });
    return {
      dims: { R, C, P: Math.ceil(C * bits / 32) },
      scalars: { bits },
      given: { codes: between(draw, low, high) },
    };
  },
  unpack_bits: (draw) => {
    const [[R = 0, C = 0], bits] = [draw.sizes(2, 40_000), bitsOf(draw)];
    return { dims: { R, C, P: Math.ceil(C * bits / 32) }, scalars: { bits } };
  },
  quantize_4bit: (draw) => {
    const { dims, scalars } = blocks4(draw);
    return {
      dims,
      scalars: { ...scalars, given: draw.whole(0, 1) },
      given: { absmax: positive(draw, 1) },
    };
  },
  dequantize_4bit: (draw) => ({ ...blocks4(draw), given: { absmax: positive(draw, 0) } }),
  quantize_codebook: (draw) => {
    const { dims, scalars } = tables(draw);
    const seed = draw.seed();
    return { dims, scalars, given: { table: () => levels(dims.A, dims.K, seed) } };
  },
  dequantize_codebook: tables,
  quantize_dynamic8: blocks8,
  dequantize_dynamic8: blocks8,

  quantize_rows_int8: (draw) => {
    const [T = 0, C = 0] = draw.sizes(2, 20_000);
    const next = uniform(draw.seed());
    const skip = Array.from({ length: C }, () => next() < 0.2 ? 1 : 0);
    return {
      dims: { T, C },
      scalars: { threshold: draw.pick(0, 1.5, 6) },
      given: { skip: listed(skip) },
    };
  },
  outlier_columns: (draw) => {
    const [T = 0, C = 0] = draw.sizes(2, 20_000, { max: 1000 });
    return { dims: { T, C, D: C + 1 }, scalars: { threshold: draw.pick(0, 1.5, 6, 1e9) } };
  },
  matmul_int8: (draw) => {
    const [T = 0, C = 0, R = 0] = product(draw);
    return { dims: { T, C, R } };
  },
  rescale_int8: (draw) => {
    const [T = 0, R = 0] = draw.sizes(2, 20_000);
    const { Y, scalars } = columns(draw, R);
    return { dims: { T, R, Y }, scalars };
  },
  matmul_columns: (draw) => {
    const [T = 0, C = 0, R = 0] = product(draw);
    const { Y, scalars } = columns(draw, R);
    const next = uniform(draw.seed());
    const some = Array.from({ length: C }, (_, c) => c).filter(() => next() < 0.3);
    const places = [some.length, ...some, ...new Array(C - some.length).fill(0)];
    return {
      dims: { T, C, R, D: C + 1, Y },
      scalars,
      given: { columns: listed(places), absmax: positive(draw, 0) },
    };
  },
  matmul_nt: (draw) => {
    const [T = 0, width = 0, R = 0] = product(draw);
    const step = draw.pick(1, 4);
    const C = Math.ceil(width / step) * step;
    const { Y, scalars } = columns(draw, R);
    return { dims: { T, C, R, Y }, scalars };
  },
  matmul_packed: (draw) => {
    const [T = 0, width = 0, R = 0] = product(draw);
    const { Y, scalars } = columns(draw, R);
    const [G, bits] = [draw.size(5, 1), bitsOf(draw)];
    const group = G * draw.pick(1, 4);
    const C = Math.ceil(width / group) * group;
    const { low, high } = codeRange({ bits });
    return {
      dims: { T, C, R, G, P: Math.ceil(C * bits / 32), Y },
      scalars: { bits, ...scalars },
      given: { scale: positive(draw), zero: between(draw, low, high) },
    };
  },

  embedding: (draw) => {
    const [T = 0, V = 0, C = 0] = draw.sizes(3, 40_000);
    const [first, seed] = [draw.pick(0, 3, 1000), draw.seed()];
    const range = { low: Math.max(0, first - 4), high: first + V + 3, seed };
    return {
      dims: { T, V, C },
      scalars: { first },
      given: { ids: (shape) => whole("u32", shape, range) },
    };
  },
  rms_norm: rmsRow,
  rms_norm_vjp: rmsRow,
  layer_norm: layerRow,
  layer_norm_vjp: layerRow,
  act: activated,
  gate: activated,
  act_vjp: activated,
  gate_vjp: activated,
  scale_cap: cappedRow,
  scale_cap_vjp: cappedRow,
  add: (draw) => ({
    dims: { N: draw.size(40_000) },
    scalars: { times: draw.pick(1, 0.22), other: draw.pick(1, -1) },
  }),
  gather_columns: (draw) => {
    const [T = 0, C = 1, N = 0] = draw.sizes(3, 40_000);
    const [high, seed] = [Math.max(1, C) - 1, draw.seed()];
    return {
      dims: { T, C: high + 1, N },
      given: { columns: (shape) => whole("u32", shape, { low: 0, high, seed }) },
    };
  },
  rope: (draw) => {
    const [T = 0, heads = 0, half = 1] = draw.sizes(3, 20_000);
    const H = Math.max(1, half);
    const head_dim = 2 * H + draw.pick(0, 0, 1, 7);
    return {
      dims: { T, H, D: head_dim * heads },
      scalars: { head_dim, adjacent: draw.whole(0, 1) },
    };
  },
  attention: (draw) => {
    const step = draw.pick(1, 4);
    const head_dim = Math.ceil(draw.size(draw.pick(16, 300), 1) / step) * step;
    const windows = draw.whole(0, 3);
    const most = Math.floor(200 / Math.sqrt(head_dim / 8) / Math.max(1, windows)) + 1;
    const [length, K] = [draw.size(most, 1), draw.whole(1, 2)];
    const T = windows * length;
    const heads = K * draw.whole(1, 3);
    const biased = draw.whole(0, 1);
    return {
      dims: {
        T,
        K: K * head_dim,
        Q: heads * head_dim,
        ...(biased ? { B: heads, S: length } : { B: 1, S: 1 }),
      },
      scalars: {
        biased,
        cap: draw.pick(0, 0, 2, 50),
        head_dim,
        window: draw.pick(0, draw.size(T + 40, 1), 2 ** 32 - 1),
        scale: head_dim ** -0.5,
        length,
      },
    };
  },
  attention_vjp_q: (draw) => attentionBack(draw, attentionVjpQ),
  attention_vjp_kv: (draw) => attentionBack(draw, attentionVjpKv),
  divergence: (draw) => {
    const [T = 0, V = 0] = draw.sizes(2, 10_000, { max: 3000 });
    const [first, seed] = [draw.pick(0, 40), draw.seed()];
    return {
      dims: { T, V, S: 10 },
      scalars: { first },
      given: {
        labels: (shape) => whole("u32", shape, { low: first, high: first + V + 3, seed }),
        state: (shape) => floats("f32", shape, freshState(T)),
      },
    };
  },
  divergence_vjp: (draw) => predicted(draw),
  nll_vjp: (draw) => {
    const { dims, given } = predicted(draw);
    const [first, seed] = [draw.pick(0, 40), draw.seed()];
    const range = { low: first, high: first + dims.V! + 3, seed };
    return {
      dims,
      scalars: { first },
      given: { ...given, labels: (shape) => whole("u32", shape, range) },
    };
  },
  fake_quantize_rows: (draw) => {
    const [T = 0, C = 0] = draw.sizes(2, 20_000, { max: 3000 });
    return { dims: { T, C }, scalars: level(draw) };
  },

  gemm: (draw) => {
    const [m = 0, n = 0, k = 1] = draw.sizes(3, 400_000, { max: 600 });
    const depth = Math.max(1, k);
    const step = draw.pick(1, 4);
    const [a_transposed, b_transposed] = [draw.whole(0, 1), draw.whole(0, 1)];
    const a = a_transposed ? placed(draw, [depth, m], step) : placed(draw, [m, depth], step);
    const b = b_transposed ? placed(draw, [depth, n], step) : placed(draw, [n, depth], step);
    const c = placed(draw, [m, n], step);
    return {
      dims: { A: a.size[0], D: a.size[1], B: b.size[0], E: b.size[1], C: c.size[0], F: c.size[1] },
      scalars: {
        ...{ m, n, k: depth, a_row: a.at[0], a_column: a.at[1], a_transposed },
        ...{ b_row: b.at[0], b_column: b.at[1], b_transposed, c_row: c.at[0], c_column: c.at[1] },
        ...{ add: draw.whole(0, 1), half: draw.whole(0, 2), diagonal: 64 * draw.whole(0, 4) },
        alpha: draw.pick(1, -1, 0.25),
      },
    };
  },
  copy: (draw) => {
    const [rows = 0, width = 0] = draw.sizes(2, 10_000);
    const transposed = draw.whole(0, 1);
    const from = transposed ? placed(draw, [width, rows]) : placed(draw, [rows, width]);
    const to = placed(draw, [rows, width]);
    return {
      dims: { A: from.size[0], D: from.size[1], B: to.size[0], E: to.size[1] },
      scalars: {
        ...{ rows, columns: width, from_row: from.at[0], from_column: from.at[1] },
        ...{ to_row: to.at[0], to_column: to.at[1], transposed },
      },
    };
  },
  mirror: (draw) => {
    const [P, first] = [draw.size(150), draw.size(70)];
    return { dims: { P, C: first + P + draw.size(9) }, scalars: { first } };
  },
  permute_gram: (draw) => {
    const C = draw.size(150);
    const [from, to] = [draw.whole(0, C), draw.whole(0, C)];
    return {
      dims: { C, P: draw.whole(0, C - from), Q: draw.whole(0, C - to) },
      scalars: { from, to, damp: 0.37 },
      given: { order: order(draw) },
    };
  },
  permute_columns: (draw) => {
    const [R = 0, C = 0] = draw.sizes(2, 20_000);
    return { dims: { R, C, G: partsOf(draw, R) }, given: { order: order(draw) } };
  },
  diagonal: (draw) => {
    const C = draw.size(150);
    const first = draw.whole(0, C);
    return {
      dims: { P: draw.whole(0, C - first), C },
      scalars: { first, inverse_square: draw.whole(0, 1) },
      given: { order: order(draw) },
    };
  },
  factor_block: (draw) => {
    const C = draw.size(150, 1);
    const first = draw.whole(0, C - 1);
    const block = { C, first, count: Math.min(64, C - first) };
    const [{ panel, panelRows: P }, seed] = [panelAround(draw, block), draw.seed()];
    const m = () => gram(C, seed).subarray(panel * C, (panel + P) * C);
    return {
      dims: { P, C, K: 64, S: 1 },
      scalars: { first, panel, least: 0.01 },
      given: {
        m: (shape) => floats("f32", shape, m()),
        status: (shape) => floats("f32", shape, [100]),
      },
    };
  },
  gptq_block: (draw) => {
    const block = blockOf(draw);
    return gptqCase({ ...block, parts: partsOf(draw, block.rows) });
  },
  descend_block: (draw) => {
    const block = blockOf(draw);
    const more = { k: draw.whole(block.count, 64), damp: draw.pick(0, 0.03, 0.5) };
    return descendCase({ ...block, ...more, parts: partsOf(draw, block.rows) });
  },
  refit_scales: (draw) => {
    const { rows, columns: width, first, seed } = blockOf(draw);
    const [size, tiles] = [draw.whole(1, width - first), draw.whole(1, 4)];
    return refitCase({
      ...{ rows, columns: width, first, count: size, k: draw.whole(size, size + 9), seed },
      ...{ tiles, tile: draw.whole(0, tiles - 1), scale_dtype: draw.whole(0, 2) },
      ...{ parts: partsOf(draw, rows), damp: draw.pick(0, 0.02), slope: draw.pick(0.3, 15) },
    });
  },
  start_latents: (draw) => {
    const { rows, columns, tile, seed } = blockOf(draw);
    return startCase({ rows, columns, tile, seed });
  },
  adam: (draw) => {
    const [n = 0] = draw.sizes(1, 40_000, { max: 40_000 });
    const decays = { decay_m: draw.pick(0, 0.9), decay_v: draw.pick(0, 0.99, 0.999) };
    return adamCase({ n, seed: draw.whole(0, 1000), ...decays });
  },
  scale_slopes: (draw) => {
    const { rows, columns, tile, seed } = blockOf(draw);
    return slopesCase({ rows, columns, tile, seed });
  },
  zero_slopes: (draw) => {
    const { rows, columns, tile, seed, bits, grid } = blockOf(draw);
    return zerosCase({ rows, columns, tile, seed, bits, grid });
  },
  step_latents: (draw) => {
    const { rows, columns, tile, seed, bits, grid } = blockOf(draw);
    return stepCase({ rows, columns, tile, seed, bits, grid, rate: draw.pick(0.005, 0.3) });
  },
  step_scales: (draw) => {
    const [n = 0] = draw.sizes(1, 40_000, { max: 40_000 });
    const rate = draw.pick(0, 0.001, 0.3);
    return scalesCase({ n, scale_dtype: draw.whole(0, 2), rate, seed: draw.whole(0, 1000) });
  },
  row_dots: (draw) => {
    const [R = 0, C = 0] = draw.sizes(2, 40_000, { max: 5000 });
    return { dims: { R, C } };
  },
  column_stats: (draw) => {
    const [T = 0, C = 0] = draw.sizes(2, 20_000);
    return { dims: { T, C, S: 3 } };
  },
  scale_rows: (draw) => {
    const [R = 0, C = 0] = draw.sizes(2, 40_000);
    return { dims: { R, C }, scalars: { scale_dtype: draw.whole(0, 2) } };
  },
};

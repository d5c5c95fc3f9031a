/**
 * Cases of the ops that calibrate and of GPTQ: products on rectangles, factors, the loop over
 * columns.
 */
import assert from "node:assert/strict";
import { codeRange } from "../../src/ops/grid.ts";
import { columnStats } from "../../src/ops/column_stats.ts";
import { copy } from "../../src/ops/copy.ts";
import { diagonal } from "../../src/ops/diagonal.ts";
import { factorBlock } from "../../src/ops/factor_block.ts";
import { gemm } from "../../src/ops/gemm.ts";
import { followColumns, gptqBlock } from "../../src/ops/gptq_block.ts";
import { mirror } from "../../src/ops/mirror.ts";
import { permuteColumns } from "../../src/ops/permute_columns.ts";
import { permuteGram } from "../../src/ops/permute_gram.ts";
import { rowDots } from "../../src/ops/row_dots.ts";
import { scaleRows } from "../../src/ops/scale_rows.ts";
import { subtract } from "../../src/ops/subtract.ts";
import { blank, floats, gaussian, integers, normal, uniform, whole } from "./given.ts";
import { type Case, type Judge, judgesOf, U, within } from "./judge.ts";

const WHOLE_PRODUCT = {
  a_row: 0,
  a_column: 0,
  a_transposed: 0,
  b_row: 0,
  b_column: 0,
  b_transposed: 0,
  c_row: 0,
  c_column: 0,
  add: 0,
  half: 0,
  diagonal: 0,
  alpha: 1,
};

/**
 * A product whose tensors are just as large as its rectangles, or larger by `room` on every side.
 */
function product(
  [m, n, k]: readonly [number, number, number],
  scalars: Partial<typeof WHOLE_PRODUCT>,
  room = 0,
): Case {
  const all = { ...WHOLE_PRODUCT, ...scalars, m, n, k };
  const shape = (rows: number, columns: number, transposed = 0) =>
    (transposed ? [columns, rows] : [rows, columns]).map((size) => size + 2 * room);
  const places = Object.fromEntries(
    ["a_row", "a_column", "b_row", "b_column", "c_row", "c_column"].map((name) => [name, room]),
  );
  return {
    op: gemm,
    tensors: {
      a: normal("f32", shape(m, k, all.a_transposed), { seed: 51 }),
      b: normal("f32", shape(n, k, all.b_transposed), { seed: 52 }),
      c: normal("f32", shape(m, n), { seed: 53 }),
    },
    scalars: { ...all, ...places },
    judge: judgesOf(gemm),
  };
}

const GRAM = { a_transposed: 1, b_transposed: 1, add: 1 } as const;

/** A product whose rows and first columns 4 divides, amid numbers that may not matter. */
function productInVectors(
  [m, n, k]: readonly [number, number, number],
  scalars: Partial<typeof WHOLE_PRODUCT>,
): Case {
  const all = { ...WHOLE_PRODUCT, ...scalars, m, n, k };
  const [a_row, a_column, b_row, b_column, c_row, c_column] = [3, 8, 1, 4, 2, 12];
  const around = (
    [rows, columns]: readonly [number, number],
    { row, column, seed }: Record<"row" | "column" | "seed", number>,
  ) => {
    const size = [row + rows + 2, Math.ceil((column + columns + 1) / 4) * 4] as const;
    const values = gaussian(size[0] * size[1], seed).map((value, i) => {
      const [y, x] = [Math.floor(i / size[1]) - row, i % size[1] - column];
      return y >= 0 && y < rows && x >= 0 && x < columns ? value : NaN;
    });
    return floats("f32", size, values);
  };
  return {
    op: gemm,
    note: "in vectors, NaN around",
    tensors: {
      a: around(all.a_transposed ? [k, m] : [m, k], { row: a_row, column: a_column, seed: 61 }),
      b: around(all.b_transposed ? [k, n] : [n, k], { row: b_row, column: b_column, seed: 62 }),
      c: around([m, n], { row: c_row, column: c_column, seed: 63 }),
    },
    scalars: { ...all, a_row, a_column, b_row, b_column, c_row, c_column },
    judge: judgesOf(gemm),
  };
}

/** H = XᵀX/T + damping: symmetric, positive definite, of moderate condition. */
export function gram(size: number, seed: number): Float32Array<ArrayBuffer> {
  const rows = 2 * size;
  const x = gaussian(rows * size, seed);
  const h = new Float32Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      let sum = i === j ? 0.05 * rows : 0;
      for (let t = 0; t < rows; t++) sum += x[t * size + i]! * x[t * size + j]!;
      h[i * size + j] = sum / rows;
    }
  }
  return h;
}

/** A random order of 0 … size − 1. */
export function shuffled(size: number, seed: number): number[] {
  const next = uniform(seed);
  return Array.from({ length: size }, (_, i) => ({ i, key: next() }))
    .sort((a, b) => a.key - b.key).map(({ i }) => i);
}

/**
 * T = R⁻¹ of the factor A = R·Rᵀ makes T·A·Tᵀ the identity. Each of the products and quotients
 * behind T is within u; carried through, that is some n·u times |T|·|A|·|Tᵀ|.
 */
const inverseFactor: Judge = ({ before: { m }, got: { t }, dims, scalars }) => {
  const { C = 0, K = 0 } = dims;
  const { first = 0, panel = 0 } = scalars;
  const count = Math.min(K, C - first);
  const a = (i: number, j: number) =>
    m![(first - panel + Math.min(i, j)) * C + first + Math.max(i, j)]!;
  const inverse = (i: number, j: number) => t![i * K + j]!;
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      if (j < i) assert.equal(inverse(i, j), 0);
      let [sum, size] = [0, 0];
      for (let k = i; k < count; k++) {
        for (let l = j; l < count; l++) {
          const term = inverse(i, k) * a(k, l) * inverse(j, l);
          sum += term;
          size += Math.abs(term);
        }
      }
      const wrong = Math.abs(sum - (i === j ? 1 : 0));
      assert.ok(wrong <= 16 * count * U * size, `(T·A·Tᵀ)[${i}, ${j}] is off by ${wrong}`);
    }
  }
};

/** The loop is followed with what was chosen, and what is not of the block stays as it was. */
const followed: Judge = (view) => {
  const { before, got, dims: { R = 0, C = 0 }, scalars: { first = 0, count = 0 } } = view;
  const losses = Array.from({ length: R }, (_, r) => ({ loss: before.loss![r]!, slack: 0 }));
  for (const { row, error, allowed, wrong } of followColumns(view)) {
    if (wrong) {
      const { output, index, right } = wrong;
      const place = `${output}[${row}, ${index % C}]`;
      assert.fail(`${place} is ${got[output]![index]}, not ${right} ± ${wrong.allowed}`);
    }
    losses[row]!.loss += error * error / 2;
    losses[row]!.slack += Math.abs(error) * allowed + allowed ** 2;
  }
  losses.forEach(({ loss, slack }, r) => {
    assert.ok(Math.abs(got.loss![r]! - loss) <= slack + 80 * U * Math.abs(loss), `loss[${r}]`);
    for (let c = 0; c < C; c++) {
      if (c >= first && c < first + count) continue;
      assert.equal(got.w![r * C + c], before.w![r * C + c], "a column outside the block");
      assert.equal(got.e![r * C + c], before.e![r * C + c], "a column outside the block");
    }
  });
};

/** Lower triangular, with a diagonal away from 0: what V looks like. */
function lower(
  rows: number,
  columns: number,
  panel: number,
  seed: number,
): Float32Array<ArrayBuffer> {
  return gaussian(rows * columns, seed, 0.2).map((value, i) => {
    const [row, column] = [panel + Math.floor(i / columns), i % columns];
    return column > row ? 0 : column === row ? 1 + Math.abs(value) : value;
  });
}

/** What columns are multiplied by. */
export function factors(count: number, seed: number): Float32Array<ArrayBuffer> {
  return gaussian(count, seed + 91).map((x) => 0.3 + Math.abs(x));
}

/** A block of columns of a weight; `seed` gives other contents. */
export function gptqCase(
  {
    rows,
    columns,
    first,
    count,
    panel = 0,
    panelRows = columns,
    tile,
    kind = 0,
    bits = 4,
    grid = 0,
    parts = 1,
    seed = 0,
  }: {
    rows: number;
    columns: number;
    first: number;
    count: number;
    panel?: number;
    panelRows?: number;
    tile: readonly [number, number];
    kind?: number;
    bits?: number;
    grid?: number;
    parts?: number;
    seed?: number;
  },
): Case {
  const [tile_rows, tile_columns] = tile;
  const tiles = [Math.ceil(rows / tile_rows), Math.ceil(columns / tile_columns)];
  const scales = gaussian(tiles[0]! * tiles[1]!, seed + 62).map((s, i) =>
    (kind >= 2 ? 2 : kind === 1 ? 0.01 : 6 / 2 ** bits) * (0.5 + Math.abs(s)) *
    // Symmetric grids may have scales of either sign.
    (kind === 0 && grid !== 2 && i % 3 === 1 ? -1 : 1)
  );
  const range = codeRange({ bits, grid });
  return {
    op: gptqBlock,
    tensors: {
      v: floats("f32", [panelRows, columns], lower(panelRows, columns, panel, seed + 61)),
      scale: floats("f32", tiles, scales),
      zero: grid === 2
        ? whole("i8", tiles, { low: range.low, high: range.high, seed: seed + 63 })
        : integers("i8", tiles, new Array(tiles[0]! * tiles[1]!).fill(0)),
      order: integers("u32", [columns], shuffled(columns, seed + 64)),
      factor: floats("f32", [parts, columns], factors(parts * columns, seed)),
      w: normal("f32", [rows, columns], { seed: seed + 65 }),
      e: normal("f32", [rows, columns], { seed: seed + 66 }),
      loss: floats("f32", [rows], gaussian(rows, seed + 67).map(Math.abs)),
    },
    scalars: { first, count, panel, tile_rows, tile_columns, kind, bits, grid },
    judge: { w: followed, e: () => {}, loss: () => {} },
  };
}

export const calibrationCases: readonly Case[] = [
  ...([[1, 1, 1], [3, 65, 33], [65, 3, 257], [130, 129, 131], [193, 257, 64]] as const).flatMap(
    (sizes) => [
      product(sizes, {}),
      product(sizes, { a_transposed: 1, b_transposed: 1, add: 1 }, 3),
      product(sizes, { b_transposed: 1, alpha: -1, add: 1 }, 1),
      product(sizes, { a_transposed: 1, alpha: 0.25 }),
    ],
  ),
  ...([[130, 130, 70], [257, 300, 33]] as const).flatMap((sizes) => [
    product(sizes, { half: 1, a_transposed: 1, b_transposed: 1, add: 1 }),
    product(sizes, { half: 2, alpha: -1, add: 1 }, 2),
    product(sizes, { half: 1, diagonal: 128 }),
    product(sizes, { half: 2, diagonal: 64, add: 1 }),
  ]),
  ...([[1, 1, 1], [66, 131, 18], [130, 67, 37], [259, 3, 4]] as const).flatMap((sizes) =>
    [[0, 0], [0, 1], [1, 0], [1, 1]].flatMap(([a_transposed = 0, b_transposed = 0]) => [
      productInVectors(sizes, { a_transposed, b_transposed }),
      productInVectors(sizes, { a_transposed, b_transposed, add: 1, alpha: -1 }),
    ])
  ),
  // Gram products: of any number of tokens, and a panel of one.
  ...[1, 17, 64].flatMap((tokens) => [
    productInVectors([258, 258, tokens], { ...GRAM, half: 1 }),
    productInVectors([194, 386, tokens], { ...GRAM, half: 1, diagonal: 192 }),
    productInVectors([194, 386, tokens], { ...GRAM, half: 2, diagonal: 64 }),
  ]),

  ...[[1, 1], [3, 65], [70, 33]].flatMap(([rows = 0, columns = 0]) =>
    [0, 1].map((transposed) => ({
      op: copy,
      tensors: {
        from: normal("f32", transposed ? [columns + 2, rows + 3] : [rows + 2, columns + 3], {
          seed: 54,
        }),
        to: normal("f32", [rows + 1, columns + 4], { seed: 55 }),
      },
      scalars: { rows, columns, from_row: 2, from_column: 3, to_row: 1, to_column: 2, transposed },
    }))
  ),
  ...[[1, 1, 0], [33, 33, 0], [65, 130, 65], [70, 100, 7]].map((
    [rows = 0, columns = 0, first = 0],
  ) => ({
    op: mirror,
    tensors: { h: normal("f32", [rows, columns], { seed: 56 }) },
    scalars: { first },
  })),
  ...[[1, 0, 1, 0, 1], [65, 0, 65, 0, 65], [30, 20, 25, 40, 70]].map((
    [p = 0, from = 0, q = 0, to = 0, c = 0],
  ) => ({
    op: permuteGram,
    tensors: {
      h: normal("f32", [p, c], { seed: 57 }),
      order: integers("u32", [c], shuffled(c, 58)),
      m: normal("f32", [q, c], { seed: 60 }),
    },
    scalars: { from, to, damp: 0.37 },
  })),
  ...[[1, 1, 1], [3, 70, 1], [65, 257, 1], [66, 33, 6]].map(([r = 0, c = 0, g = 1]) => ({
    op: permuteColumns,
    tensors: {
      w: normal("f32", [r, c], { seed: 71 }),
      order: integers("u32", [c], shuffled(c, 72)),
      factor: normal("f32", [g, c], { seed: 73 }),
      y: blank("f32", [r, c]),
    },
  })),
  ...[[1, 1, 0, 0], [70, 70, 0, 1], [65, 131, 66, 1]].map((
    [p = 0, c = 0, first = 0, inverse_square = 0],
  ): Case => ({
    op: diagonal,
    tensors: {
      m: normal("f32", [p, c], { seed: 68 }),
      order: integers("u32", [c], shuffled(c, 69)),
      y: normal("f32", [c], { seed: 70 }),
    },
    scalars: { first, inverse_square },
    // A product and a quotient, each within 2.5 units in WGSL; what is copied is exact.
    judge: {
      y: within(({ want, scalars: { inverse_square = 0 } }) =>
        want.y!.map((y) => inverse_square * 6 * U * Math.abs(y))
      ),
    },
  })),
  ...[[1, 1, 0], [33, 5, 1], [65, 70, 2]].map(([r = 0, c = 0, scale_dtype = 0]) => ({
    op: scaleRows,
    tensors: {
      factor: normal("f32", [r], { seed: 72 }),
      y: normal("f32", [r, c], { seed: 73 }),
    },
    scalars: { scale_dtype },
  })),
  ...[1, 31, 1027].map((n) => ({
    op: subtract,
    tensors: {
      a: normal("f32", [n], { seed: 74 }),
      b: normal("f32", [n], { seed: 75 }),
      y: blank("f32", [n]),
    },
  })),
  ...[[1, 1], [3, 70], [65, 257]].map(([r = 0, c = 0]): Case => ({
    op: rowDots,
    tensors: {
      a: normal("f32", [r, c], { seed: 76 }),
      b: normal("f32", [r, c], { seed: 77 }),
      y: blank("f32", [r]),
    },
    judge: {
      y: within(({ before: { a, b }, dims: { R = 0, C = 0 } }) =>
        Float64Array.from({ length: R }, (_, row) => {
          let size = 0;
          for (let i = row * C; i < (row + 1) * C; i++) size += Math.abs(a![i]! * b![i]!);
          return (C + 1) * U * size;
        })
      ),
    },
  })),
  ...[[1, 1], [3, 70], [65, 131]].map(([t = 0, c = 0]): Case => ({
    op: columnStats,
    tensors: {
      x: normal("f32", [t, c], { seed: 78 }),
      stats: floats("f32", [3, c], gaussian(3 * c, 79, 0.5)),
    },
    judge: judgesOf(columnStats),
  })),

  ...[[1, 0, 1, 0], [40, 0, 40, 0], [70, 0, 70, 0], [150, 64, 86, 64], [150, 128, 86, 64]].map((
    [c = 0, first = 0, p = 0, panel = 0],
  ): Case => ({
    op: factorBlock,
    tensors: {
      m: floats("f32", [p, c], gram(c, 81).subarray(panel * c, (panel + p) * c)),
      s: normal("f32", [c, 64], { seed: 82 }),
      t: normal("f32", [64, 64], { seed: 83 }),
      status: floats("f32", [1], [100]),
    },
    scalars: { first, panel, least: 0.01 },
    judge: {
      t: inverseFactor,
      status: within(({ want }) => [64 * 16 * U * want.status![0]!]),
    },
  })),
  {
    op: factorBlock,
    note: "a pivot that is not positive",
    tensors: {
      m: floats("f32", [3, 3], [1, 0, 2, 0, 1, 0, 2, 0, 1]),
      s: blank("f32", [3, 64]),
      t: floats("f32", [64, 64], new Array(4096).fill(0)),
      status: floats("f32", [1], [100]),
    },
    scalars: { first: 0, panel: 0, least: 1e-6 },
    judge: { s: () => {} },
  },

  ...[2, 3, 4, 8].flatMap((bits) =>
    [0, 1, 2].map((grid) =>
      gptqCase({ rows: 5, columns: 70, first: 3, count: 33, tile: [1, 35], bits, grid })
    )
  ),
  gptqCase({ rows: 1, columns: 1, first: 0, count: 1, tile: [1, 1] }),
  gptqCase({ rows: 67, columns: 130, first: 64, count: 64, tile: [1, 64], grid: 2 }),
  gptqCase({
    rows: 9,
    columns: 200,
    first: 130,
    count: 50,
    panel: 128,
    panelRows: 72,
    tile: [4, 50],
  }),
  gptqCase({ rows: 6, columns: 128, first: 64, count: 64, tile: [6, 128], grid: 1 }),
  ...[1, 2, 3].map((kind) =>
    gptqCase({ rows: 7, columns: 96, first: 32, count: 64, tile: [1, 32], kind })
  ),
];

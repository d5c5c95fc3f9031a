/**
 * Matrix products of calibration: Gram matrices, errors spread over later columns, solutions; on
 * rectangles of larger matrices.
 */
import wgsl from "../../shaders/gemm.wgsl" with { type: "text" };
import vectors from "../../shaders/gemm_vectors.wgsl" with { type: "text" };
import tile from "../../shaders/matmul_tile.wgsl" with { type: "text" };
import type { Backend, Tensor } from "../backend.ts";
import { defineOp, type Dims, type Op, type Scalars } from "../op.ts";
import { type Draw, type Part, type Range, type Seen, U } from "../sampling.ts";
import { onTiles } from "./tiles.ts";

/**
 * Blocks on one side of the diagonal, for products of which only that side is wanted; 64 rows and
 * columns each.
 */
export const HALF_BLOCK = 64;

/** `half` as the op numbers it. */
const HALF = { all: 0, lower: 1, upper: 2 } as const;

const plain = {
  name: "gemm",
  inputs: { a: "f32[A, D]", b: "f32[B, E]" },
  outputs: { c: "f32[C, F]" },
  scalars: {
    m: "u32",
    n: "u32",
    k: "u32",
    a_row: "u32",
    a_column: "u32",
    a_transposed: "u32",
    b_row: "u32",
    b_column: "u32",
    b_transposed: "u32",
    c_row: "u32",
    c_column: "u32",
    add: "u32",
    half: "u32",
    diagonal: "u32",
    alpha: "f32",
  },
  wgsl: wgsl + tile,
  workgroups: (_dims, { m = 0, n = 0 }) => [Math.ceil(n / 64), Math.ceil(m / 64), 1],
  work: (_dims, { m = 0, n = 0, k = 0 }) => m * n * k,
  check,
  sampling: { part: partOfGemm, updates: true, bounds: { c: gemmBound } },
  reference({ a, b, c }, { D = 0, E = 0, F = 0 }, scalars) {
    const { m = 0, n = 0, k = 0, c_row = 0, c_column = 0, add = 0, alpha = 1 } = scalars;
    const { a_row = 0, a_column = 0, a_transposed = 0 } = scalars;
    const { b_row = 0, b_column = 0, b_transposed = 0 } = scalars;
    const [am, ak] = a_transposed ? [1, D] : [D, 1];
    const [bn, bk] = b_transposed ? [1, E] : [E, 1];
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        if (!isWanted(i, j, scalars)) continue;
        let sum = 0;
        for (let l = 0; l < k; l++) {
          sum += a![a_row * D + a_column + i * am + l * ak]! *
            b![b_row * E + b_column + j * bn + l * bk]!;
        }
        const at = (c_row + i) * F + c_column + j;
        c![at] = (add ? c![at]! : 0) + alpha * sum;
      }
    }
  },
} as const satisfies Op;

/**
 * c[m, n] = alpha·Σ a[m, k]·b[n, k], added to what is there if `add` is 1, on rectangles of m × k,
 * n × k and m × n elements. A rectangle begins at its row and column; one that is transposed lies
 * in its tensor as k × m or k × n. With `half` 1 only blocks of 64 × 64 with ⌊n/64⌋ ≤ ⌊(m +
 * diagonal)/64⌋ are computed, with 2 only those with ≥; the others stay as they are.
 */
export const gemm = defineOp({
  ...plain,
  variants: [[0, 0], [0, 1], [1, 0], [1, 1]].flatMap(([a, b]) =>
    onTiles(plain, {
      wgsl: `const A_TRANSPOSED = ${a === 1};\nconst B_TRANSPOSED = ${b === 1};\n${vectors}`,
      fits: (dims, scalars) =>
        scalars.a_transposed === a && scalars.b_transposed === b && isInVectors(dims, scalars),
      product: (_dims, scalars) => ({
        rows: scalars.m ?? 0,
        columns: scalars.n ?? 0,
        elements: elementsWanted(scalars),
      }),
    })
  ),
});

/** Whether every fourth element of the rectangles' rows begins a vector of its tensor. */
function isInVectors({ D = 0, E = 0, F = 0 }: Dims, scalars: Scalars): boolean {
  const { a_column = 0, b_column = 0, c_column = 0 } = scalars;
  return [D, E, F, a_column, b_column, c_column].every((size) => size % 4 === 0);
}

/** About how many elements of c are on the side of the diagonal that is computed. */
function elementsWanted({ m = 0, n = 0, half = 0, diagonal = 0 }: Scalars): number {
  if (half === HALF.all) return m * n;
  // Rows of a trapezoid, of which none is longer than n.
  const left = Math.min(n, diagonal + m / 2);
  return m * (half === HALF.lower ? left : n - left);
}

/** Whether an element of c is on the side of the diagonal that is computed. */
export function isWanted(
  row: number,
  column: number,
  { half = 0, diagonal = 0 }: Scalars,
): boolean {
  const [r, c] = [Math.floor((row + diagonal) / HALF_BLOCK), Math.floor(column / HALF_BLOCK)];
  return half === HALF.all || (half === HALF.lower ? c <= r : c >= r);
}

function check(dims: Dims, scalars: Scalars): true | string {
  const { m = 0, n = 0, k = 0, half = 0, diagonal = 0 } = scalars;
  const outside = (name: string, rows: number, columns: number): string | undefined => {
    const letters = { a: ["A", "D"], b: ["B", "E"], c: ["C", "F"] }[name]!;
    const [height, width] = letters.map((letter) => dims[letter]!) as [number, number];
    const [row, column] = [scalars[`${name}_row`] ?? 0, scalars[`${name}_column`] ?? 0];
    return row + rows <= height && column + columns <= width
      ? undefined
      : `${rows}×${columns} elements from [${row}, ${column}] on are not inside ${name} of ${height}×${width}`;
  };
  if (k < 1) return `a product needs k of at least 1, got ${k}`;
  if (![0, 1, 2].includes(half)) {
    return `half must be 0 (all), 1 (lower) or 2 (upper), got ${half}`;
  }
  if (diagonal % HALF_BLOCK !== 0) return `diagonal = ${diagonal} is not a multiple of 64`;
  return (scalars.a_transposed ? outside("a", k, m) : outside("a", m, k)) ??
    (scalars.b_transposed ? outside("b", k, n) : outside("b", n, k)) ??
    outside("c", m, n) ?? true;
}

/** The longest products that are checked. */
const MOST_DEPTH = 2 ** 14;

/** Some rows and columns of c that are wanted, to be checked. */
function partOfGemm(_dims: Dims, scalars: Scalars, draw: Draw): Part | undefined {
  const { m = 0, n = 0, k = 0, half = 0, diagonal = 0, a_transposed, b_transposed } = scalars;
  if (k > MOST_DEPTH) return undefined;
  const row = draw(m);
  const block = Math.floor((row + diagonal) / HALF_BLOCK);
  const rows: Range = [row, Math.min(row + 2, m, (block + 1) * HALF_BLOCK - diagonal)];
  // Of what is wanted of these rows.
  const from = half === HALF.upper ? block * HALF_BLOCK : 0;
  const to = half === HALF.lower ? Math.min(n, (block + 1) * HALF_BLOCK) : n;
  if (from >= to) return undefined;
  const column = from + draw(to - from);
  const columns: Range = [column, Math.min(column + 8, to)];
  const place = (name: string, of: Range, by: Range, transposed?: number) => {
    const at = (range: Range, first = 0): Range => [first + range[0], first + range[1]];
    const [height, width] = transposed ? [by, of] : [of, by];
    return [at(height, scalars[`${name}_row`]), at(width, scalars[`${name}_column`])] as const;
  };
  const [A, D] = place("a", rows, [0, k], a_transposed);
  const [B, E] = place("b", columns, [0, k], b_transposed);
  const [C, F] = place("c", rows, columns);
  const origin = { a_row: 0, a_column: 0, b_row: 0, b_column: 0, c_row: 0, c_column: 0 };
  const size = { m: rows[1] - rows[0], n: columns[1] - columns[0] };
  return { ranges: { A, D, B, E, C, F }, scalars: { ...origin, ...size, half: 0, diagonal: 0 } };
}

/** Sums of k products and one more, in whatever order, are within (k + 3)·u·Σ|terms|. */
function gemmBound({ before, dims, scalars }: Seen): Float64Array {
  const { a, b, c } = before;
  const { D = 0, E = 0, F = 0 } = dims;
  const { m = 0, n = 0, k = 0, c_row = 0, c_column = 0, add = 0, alpha = 1 } = scalars;
  const at = (name: "a" | "b", row: number, depth: number, width: number) => {
    const [r, l] = scalars[`${name}_transposed`] ? [depth, row] : [row, depth];
    return (scalars[`${name}_row`]! + r) * width + scalars[`${name}_column`]! + l;
  };
  const allowed = new Float64Array(c!.length);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      if (!isWanted(i, j, scalars)) continue;
      const place = (c_row + i) * F + c_column + j;
      let size = add ? Math.abs(c![place]!) : 0;
      for (let l = 0; l < k; l++) {
        size += Math.abs(alpha * a![at("a", i, l, D)]! * b![at("b", j, l, E)]!);
      }
      allowed[place] = (k + 3) * U * size;
    }
  }
  return allowed;
}

/** A rectangle of a matrix on a device: f32[rows, columns] from an element on. */
export interface View {
  readonly tensor: Tensor;
  /** First row and column; 0 unless given. */
  readonly row?: number;
  readonly column?: number;
  /** The rectangle is read as if rows were columns. */
  readonly transposed?: boolean;
}

/**
 * Queue c[m, n] (+)= alpha·Σ a[m, k]·b[n, k]; see {@linkcode gemm}. Both operands are read along k:
 * a product a·b of matrices in the usual notation has `b` transposed.
 */
export function multiply(
  backend: Backend,
  { a, b, c }: { readonly a: View; readonly b: View; readonly c: View },
  { m, n, k, alpha = 1, add = false, half = "all", diagonal = 0 }: {
    readonly m: number;
    readonly n: number;
    readonly k: number;
    readonly alpha?: number;
    readonly add?: boolean;
    readonly half?: keyof typeof HALF;
    readonly diagonal?: number;
  },
): void {
  backend.run(gemm, { a: a.tensor, b: b.tensor, c: c.tensor }, {
    m,
    n,
    k,
    a_row: a.row ?? 0,
    a_column: a.column ?? 0,
    a_transposed: a.transposed ? 1 : 0,
    b_row: b.row ?? 0,
    b_column: b.column ?? 0,
    b_transposed: b.transposed ? 1 : 0,
    c_row: c.row ?? 0,
    c_column: c.column ?? 0,
    add: add ? 1 : 0,
    half: HALF[half],
    diagonal,
    alpha,
  });
}

/**
 * What the integer ops share: tiles that have one scale, the range of codes of a grid, and the
 * scale and zero point of a tile. Grids by number: 0 full, 1 restricted, 2 affine, 3 fp8 (see
 * src/scheme.ts for what they mean).
 */
import { E4M3_MAX, roundHalfEven, roundTo } from "../number.ts";
import type { Dims, Scalars } from "../op.ts";
import { type Draw, type Part, type Seen, someRows, stretch } from "../sampling.ts";

/**
 * `scale_dtype` by number, with its smallest normal number: no scale is below it, so none is lost
 * when it is stored.
 */
export const SCALE_DTYPES = [
  { dtype: "f32", smallest: 2 ** -126 },
  { dtype: "bf16", smallest: 2 ** -126 },
  { dtype: "f16", smallest: 2 ** -14 },
] as const;

/** The codes of a grid, ends included. */
export function codeRange(
  { bits = 0, grid = 0 }: Scalars,
): { readonly low: number; readonly high: number } {
  const high = 2 ** (bits - 1) - 1;
  return { low: grid === 1 ? -high : -high - 1, high };
}

/** What one tile is quantized with. */
export interface TileParams {
  readonly scale: number;
  readonly zero: number;
}

/**
 * Scale and zero point of a tile whose values span `low` to `high`; a tile that is not finite has
 * scale +∞.
 */
export function scaleOf(
  low: number,
  high: number,
  { bits = 0, grid = 0, scale_dtype = 0 }: Scalars,
): TileParams {
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  const affine = grid === 2;
  const from = Math.min(0, low);
  const range = affine
    ? Math.fround(Math.max(0, high) - from)
    : Math.max(Math.abs(low), Math.abs(high));
  const steps = [(2 ** bits - 1) / 2, 2 ** (bits - 1) - 1, 2 ** bits - 1, E4M3_MAX][grid]!;
  const scale = range === 0 ? 1 : Math.max(roundTo(dtype, Math.fround(range / steps)), smallest);
  if (!Number.isFinite(scale)) return { scale: Infinity, zero: 0 };
  if (!affine) return { scale, zero: 0 };
  const codes = codeRange({ bits, grid });
  const zero = roundHalfEven(Math.fround(codes.low - Math.fround(from / scale)));
  return { scale, zero: clamp(zero, codes.low, codes.high) };
}

/** The code of one weight: clamp(rn(w/s) + zero); a quotient that is NaN counts as 0. */
export function codeOf(
  weight: number,
  { scale, zero, low, high }: {
    readonly scale: number;
    readonly zero: number;
    readonly low: number;
    readonly high: number;
  },
): number {
  const quotient = Math.fround(weight / scale);
  return clamp(roundHalfEven(Number.isNaN(quotient) ? 0 : quotient) + zero, low, high);
}

export function clamp(x: number, low: number, high: number): number {
  return Math.min(Math.max(x, low), high);
}

/**
 * Why bits, grid and scale dtype are not ones the ops know, or `true`. Scalars an op does not have
 * are not looked at.
 */
export function checkGrid({ bits, grid, scale_dtype }: Scalars): true | string {
  if (bits !== undefined && !(Number.isInteger(bits) && bits >= 2 && bits <= 8)) {
    return `bits must be 2 to 8, got ${bits}`;
  }
  if (grid !== undefined && ![0, 1, 2, 3].includes(grid)) {
    return `grid must be 0 (full), 1 (restricted), 2 (affine) or 3 (fp8), got ${grid}`;
  }
  if (scale_dtype !== undefined && !(scale_dtype in SCALE_DTYPES)) {
    return `scale_dtype must be 0 (f32), 1 (bf16) or 2 (f16), got ${scale_dtype}`;
  }
  return true;
}

/**
 * The longest side of a tile and the largest block: kernels keep such sizes as signed 32-bit
 * numbers.
 */
export const MAX_EXTENT = 2 ** 31 - 1;

/** In which of `parts` equal parts of `rows` rows a row lies. */
export function partOf(row: number, rows: number, parts: number): number {
  return Math.floor(row / (rows / parts));
}

/** Why the rows of a weight are not in so many equal parts, or `true`. */
export function checkParts({ R = 0, G = 0 }: Dims): true | string {
  return G >= 1 && R % G === 0 || `${R} rows are not in ${G} equal parts`;
}

/**
 * Why A×B is not the number of tiles of an R×C weight, or `true`. The last tile of a row or column
 * may be short.
 */
export function checkTiles(
  { R = 0, C = 0, A = 0, B = 0 }: Dims,
  { tile_rows = 0, tile_columns = 0 }: Scalars,
): true | string {
  if (![tile_rows, tile_columns].every((side) => side >= 1 && side <= MAX_EXTENT)) {
    return `a tile must have 1 to ${MAX_EXTENT} rows and columns, got ${tile_rows}×${tile_columns}`;
  }
  const rows = Math.ceil(R / tile_rows);
  const columns = Math.ceil(C / tile_columns);
  return (A === rows && B === columns) ||
    `${R}×${C} in tiles of ${tile_rows}×${tile_columns} has ${rows}×${columns} tiles, got A×B = ${A}×${B}`;
}

/** Which tile an element is in: the index into an [A, B] tensor. */
export function tileOf(row: number, column: number, { B = 0 }: Dims, scalars: Scalars): number {
  const { tile_rows = 1, tile_columns = 1 } = scalars;
  return Math.floor(row / tile_rows) * B + Math.floor(column / tile_columns);
}

/** Call `visit` for every tile with the index of the tile and the flat indices of its elements. */
export function eachTile(
  { R = 0, C = 0, A = 0, B = 0 }: Dims,
  { tile_rows = 1, tile_columns = 1 }: Scalars,
  visit: (tile: number, elements: readonly number[]) => void,
): void {
  for (let a = 0; a < A; a++) {
    for (let b = 0; b < B; b++) {
      const elements: number[] = [];
      for (let r = a * tile_rows; r < Math.min(R, (a + 1) * tile_rows); r++) {
        for (let c = b * tile_columns; c < Math.min(C, (b + 1) * tile_columns); c++) {
          elements.push(r * C + c);
        }
      }
      visit(a * B + b, elements);
    }
  }
}

/** The range of some values; −∞ to +∞ when one of them is not finite. */
export function rangeOf(
  values: { readonly [index: number]: number },
  elements: readonly number[],
): { readonly low: number; readonly high: number } {
  let low = Infinity;
  let high = -Infinity;
  for (const i of elements) {
    const value = values[i]!;
    if (!Number.isFinite(value)) return { low: -Infinity, high: Infinity };
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { low, high };
}

/** Rows of whole tiles, to be checked; undefined where a tile has many. */
export function wholeTiles(
  { R = 0, C = 0 }: Dims,
  { tile_rows = 1 }: Scalars,
  draw: Draw,
): Part | undefined {
  if (Math.min(tile_rows, R) * C > MOST_OF_A_TILE) return undefined;
  const [from, to] = someRows(R, draw, { width: C, step: tile_rows });
  return { ranges: { R: [from, to], A: [from / tile_rows, Math.ceil(to / tile_rows)] } };
}

/** Elements of tiles that are checked as a whole. */
const MOST_OF_A_TILE = 2 ** 17;

/** Rows of one tile, to be checked, or of some tiles of one row each. */
export function tiledRows(
  dims: Dims,
  scalars: Scalars,
  draw: Draw,
): Part | undefined {
  const { R = 0, C = 0, A = 0 } = dims;
  const { tile_rows = 1 } = scalars;
  if (tile_rows === 1) return wholeTiles(dims, scalars, draw);
  const [tile] = stretch(A, draw, { most: 1 });
  const first = tile * tile_rows;
  const [from, to] = someRows(Math.min(tile_rows, R - first), draw, { width: C });
  return { ranges: { R: [first + from, first + to], A: [tile, tile + 1] } };
}

/** Whether a number is within 1e-4 of halfway between two whole ones. */
export function nearHalf(level: number): boolean {
  return Math.abs(level - Math.floor(level) - 0.5) < 1e-4;
}

/** Each weight divided by the scale of its tile, as an IEEE f32 division gives it. */
export function quotients({ before, dims, scalars }: Seen): Float32Array {
  const { C = 1 } = dims;
  return Float32Array.from(
    before.w!,
    (w, i) => w / before.scale![tileOf(Math.floor(i / C), i % C, dims, scalars)]!,
  );
}

/**
 * A scale may be the one of a quotient 2.5 units off, rounded to its dtype again: the interval that
 * such quotients reach.
 */
export function scaleBound({ before: { low, high }, want: { scale }, scalars }: Seen): number[] {
  const { bits = 0, grid = 0, scale_dtype = 0 } = scalars;
  const { dtype } = SCALE_DTYPES[scale_dtype]!;
  const steps = [(2 ** bits - 1) / 2, 2 ** (bits - 1) - 1, 2 ** bits - 1, E4M3_MAX][grid]!;
  return Array.from(scale!, (right, i) => {
    if (!Number.isFinite(right)) return 0;
    const [from, to] = [low![i]!, high![i]!];
    const range = grid === 2
      ? Math.max(0, to) - Math.min(0, from)
      : Math.max(Math.abs(from), Math.abs(to));
    return Math.max(
      ...[1 - 2 ** -22, 1 + 2 ** -22].map((off) =>
        Math.abs(roundTo(dtype, Math.fround(range / steps * off)) - right)
      ),
    );
  });
}

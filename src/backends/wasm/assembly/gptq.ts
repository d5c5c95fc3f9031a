// GPTQ: the diagonal blocks of its factor, and the loop over a block of columns.
import { ceilDiv, claim, dim, F8, scalarF, scalarU, scratch, tensor } from "./call";
import { valueF8, narrowF8 } from "./cast";
import { ORDERS, TABLES } from "./codebook";
import { codes4 } from "./quantize";

const INT: i32 = 0;
const FP8: i32 = 1;

/** Rows of an item: what is read of V serves all of them. */
export const ROWS: i32 = 32;

/** Of a square matrix of f64 in lines of `count`. */
@inline
function elementAt(matrix: usize, count: i32, line: i32, place: i32): usize {
  return matrix + (<usize>(line * count + place) << 3);
}

/** sum − x·y, two lanes with the same x. */
@inline
function less2(sum: v128, x: usize, y: usize): v128 {
  return f64x2.sub(sum, f64x2.mul(v128.load64_splat(x), v128.load(y)));
}

/**
 * The reverse Cholesky factor of a diagonal block, in float64, and its inverse. Columns of the
 * factor are lines of scratch memory, so that two rows are one vector, as are two columns of the
 * inverse.
 */
export function factor_block(thread: i32): void {
  if (claim() > 0) return;
  const m = tensor(0), s = tensor(1), t = tensor(2), status = tensor(3), C = dim(1), K = dim(2);
  const first = scalarU(0), panel = scalarU(1), least: f64 = scalarF(2), count = min(K, C - first);
  const a = m + (<usize>((first - panel) * C + first) << 2), r = scratch(thread);
  let smallest: f64 = load<f32>(status);
  for (let j = count - 1; j >= 0; j--) {
    let square: f64 = load<f32>(a + (<usize>(j * C + j) << 2));
    for (let k = j + 1; k < count; k++) {
      const x = load<f64>(elementAt(r, count, k, j));
      square -= x * x;
    }
    const sound = square >= least && square < Infinity;
    smallest = min(smallest, sound ? square : -1);
    const diagonal = sqrt(sound ? square : 1);
    // With an odd j the last vector goes over the diagonal, which is stored afterwards.
    for (let i: i32 = 0; i < j; i += 2) {
      let sum = f64x2(load<f32>(a + (<usize>(i * C + j) << 2)),
        load<f32>(a + (<usize>((i + 1) * C + j) << 2)));
      for (let k = j + 1; k < count; k++) {
        sum = less2(sum, elementAt(r, count, k, j), elementAt(r, count, k, i));
      }
      v128.store(elementAt(r, count, j, i), f64x2.div(sum, f64x2.splat(diagonal)));
    }
    store<f64>(elementAt(r, count, j, j), diagonal);
  }
  store<f32>(status, <f32>smallest);
  // Lines of an even length, below the diagonal 0.
  const inverse = elementAt(r, count, count, 0), width = (count + 1) & ~1;
  for (let i = count - 1; i >= 0; i--) {
    const diagonal = load<f64>(elementAt(r, count, i, i));
    for (let j: i32 = 0; j < count; j += 2) {
      let sum = f64x2(i == j ? 1 : 0, i == j + 1 ? 1 : 0);
      for (let k = i + 1, last = min(count - 1, j + 1); k <= last; k++) {
        sum = less2(sum, elementAt(r, count, k, i), elementAt(inverse, width, k, j));
      }
      sum = f64x2.div(sum, f64x2.splat(diagonal));
      if (i > j) sum = f64x2.replace_lane(sum, 0, 0);
      if (i > j + 1) sum = f64x2.replace_lane(sum, 1, 0);
      v128.store(elementAt(inverse, width, i, j), sum);
      for (let lane: i32 = 0, lanes = min(2, count - j); lane < lanes; lane++) {
        const value = lane == 0 ? f64x2.extract_lane(sum, 0) : f64x2.extract_lane(sum, 1);
        store<f32>(t + (<usize>(i * K + j + lane) << 2), <f32>value);
        store<f32>(s + (<usize>((first + i) * K + j + lane) << 2), i == j + lane ? 1 : 0);
      }
    }
  }
}

// Thread-private: the grid at work.
let kind: i32 = 0, bounds: usize = 0, levels: usize = 0;
let lowest: v128 = i32x4.splat(0), highest: v128 = i32x4.splat(0);

/** Make the tables of a grid in 32 vectors of scratch memory. */
export function setGrid(which: i32, bits: i32, grid: i32, memory: usize): void {
  kind = which;
  if (kind == INT) {
    const qmax = (1 << (bits - 1)) - 1;
    highest = f32x4.splat(<f32>qmax);
    lowest = f32x4.splat(<f32>(grid == 1 ? -qmax : -qmax - 1));
  }
  if (kind <= FP8) return;
  // Levels in ascending order, each in every lane, then the midpoints between them.
  levels = memory, bounds = memory + 256;
  const table = TABLES + <usize>(64 * (kind - 2)), order = ORDERS + <usize>(16 * (kind - 2));
  for (let i: usize = 0; i < 16; i++) {
    const level = load<f32>(table + (<usize>load<u8>(order + i) << 2));
    v128.store(levels + 16 * i, f32x4.splat(level));
    if (i > 0) v128.store(bounds + 16 * (i - 1),
      f32x4.splat((f32x4.extract_lane(v128.load(levels + 16 * (i - 1)), 0) + level) / 2));
  }
}

/** The values of the grid nearest to four weights, each with its own scale. */
@inline
export function nearest4(w: v128, scale: v128, zero: v128): v128 {
  if (kind == INT) return f32x4.mul(f32x4.sub(codes4(w, scale, zero, lowest, highest), zero),
    scale);
  if (kind == FP8) return f32x4.mul(valueF8(narrowF8(f32x4.div(w, scale))), scale);
  const inverse = f32x4.div(f32x4.splat(1), scale), x = f32x4.mul(w, inverse);
  let level = v128.load(levels);
  for (let i: usize = 0; i < 240; i += 16) {
    level = v128.bitselect(v128.load(levels + i, 16), level, f32x4.gt(x, v128.load(bounds + i)));
  }
  // A block of zeros has no inverse.
  return v128.and(f32x4.mul(level, scale), f32x4.ne(scale, f32x4.splat(0)));
}

// Thread-private: where the factors of four rows at work are.
let f0: usize = 0, f1: usize = 0, f2: usize = 0, f3: usize = 0;

/** Turn to row r and the three after it, or the last again; `part` rows have the same factors. */
export function setFactors(factor: usize, r: i32, R: i32, part: i32, C: i32): void {
  const line = <usize>C << 2;
  f0 = factor + line * <usize>(r / part), f1 = factor + line * <usize>(min(r + 1, R - 1) / part);
  f2 = factor + line * <usize>(min(r + 2, R - 1) / part),
    f3 = factor + line * <usize>(min(r + 3, R - 1) / part);
}

/** What the four rows' column at a byte offset is multiplied by. */
@inline
export function factors4(offset: usize): v128 {
  let v = v128.load32_zero(f0 + offset);
  v = v128.load32_lane(f1 + offset, v, 1);
  v = v128.load32_lane(f2 + offset, v, 2);
  return v128.load32_lane(f3 + offset, v, 3);
}

/** Four values of different rows, `stride` bytes apart. */
@inline
function gather4(p: usize, stride: usize): v128 {
  let v = v128.load32_zero(p);
  v = v128.load32_lane(p + stride, v, 1);
  v = v128.load32_lane(p + 2 * stride, v, 2);
  return v128.load32_lane(p + 3 * stride, v, 3);
}

/** The same into memory. */
@inline
function scatter4(p: usize, stride: usize, v: v128): void {
  v128.store32_lane(p, v, 0);
  v128.store32_lane(p + stride, v, 1);
  v128.store32_lane(p + 2 * stride, v, 2);
  v128.store32_lane(p + 3 * stride, v, 3);
}

/**
 * A lane has a row. An error is kept as a vector of four rows in scratch memory; a column takes off
 * what those before it left, in four sums whose order does not depend on anything but the column's
 * place.
 */
export function gptq_block(thread: i32): void {
  const v = tensor(0), scale = tensor(1), zero = tensor(2), order = tensor(3);
  const factor = tensor(4), w = tensor(5), e = tensor(6), loss = tensor(7);
  const C = dim(1), B = dim(3), R = dim(5), part = R / dim(4);
  const first = scalarU(0), count = scalarU(1), panel = scalarU(2), tileRows = scalarU(3),
    tileColumns = scalarU(4);
  const errors = scratch(thread), spare = errors + 1024, tables = spare + 2048;
  setGrid(scalarU(5), scalarU(6), scalarU(7), tables);
  for (let from = claim() * ROWS; from < R; from = claim() * ROWS) {
    for (let r = from, last = min(R, from + ROWS); r < last; r += 4) {
      const rows = min(4, R - r), stride = <usize>C << 2;
      const t0 = r / tileRows * B, t1 = min(r + 1, R - 1) / tileRows * B;
      const t2 = min(r + 2, R - 1) / tileRows * B, t3 = min(r + 3, R - 1) / tileRows * B;
      setFactors(factor, r, R, part, C);
      let base = w + (<usize>(<u32>r * <u32>C + <u32>first) << 2), step = stride;
      if (rows < 4) {
        // The rows that are missing are copies of the last, made beside.
        step = 256;
        for (let i: i32 = 0; i < 4; i++) memory.copy(spare + 256 * <usize>i,
          base + stride * <usize>min(i, rows - 1), <usize>count << 2);
        base = spare;
      }
      let sum = f32x4.splat(0);
      for (let i: i32 = 0; i < count; i++) {
        const column = first + i, row = v +
          (<usize>(<u32>(column - panel) * <u32>C + <u32>first) << 2);
        const place = load<i32>(order + (<usize>column << 2)), tile = place / tileColumns;
        let a = gather4(base + (<usize>i << 2), step), b = f32x4.splat(0), c = b, d = b;
        let k: i32 = 0;
        for (; k + 4 <= i; k += 4) {
          const u = v128.load(row + (<usize>k << 2)), p = errors + (<usize>k << 4);
          a = f32x4.relaxed_nmadd(v128.load(p), v128.shuffle<f32>(u, u, 0, 0, 0, 0), a);
          b = f32x4.relaxed_nmadd(v128.load(p, 16), v128.shuffle<f32>(u, u, 1, 1, 1, 1), b);
          c = f32x4.relaxed_nmadd(v128.load(p, 32), v128.shuffle<f32>(u, u, 2, 2, 2, 2), c);
          d = f32x4.relaxed_nmadd(v128.load(p, 48), v128.shuffle<f32>(u, u, 3, 3, 3, 3), d);
        }
        for (; k < i; k++) {
          a = f32x4.relaxed_nmadd(v128.load(errors + (<usize>k << 4)),
            v128.load32_splat(row + (<usize>k << 2)), a);
        }
        const weight = f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
        const s = f32x4(
          load<f32>(scale + (<usize>(t0 + tile) << 2)),
            load<f32>(scale + (<usize>(t1 + tile) << 2)),
          load<f32>(scale + (<usize>(t2 + tile) << 2)),
            load<f32>(scale + (<usize>(t3 + tile) << 2)),
        );
        const z = f32x4.convert_i32x4_s(i32x4(
          load<i8>(zero + <usize>(t0 + tile)), load<i8>(zero + <usize>(t1 + tile)),
          load<i8>(zero + <usize>(t2 + tile)), load<i8>(zero + <usize>(t3 + tile)),
        ));
        const by = factors4(<usize>place << 2);
        const value = f32x4.div(nearest4(f32x4.mul(weight, by), s, z), by);
        const error = f32x4.div(f32x4.sub(weight, value), v128.load32_splat(row + (<usize>i << 2)));
        v128.store(errors + (<usize>i << 4), error);
        scatter4(base + (<usize>i << 2), step, value);
        sum = f32x4.add(sum, f32x4.mul(f32x4.mul(error, error), f32x4.splat(0.5)));
      }
      writeErrors(errors, e + (<usize>(<u32>r * <u32>C + <u32>first) << 2), stride, count, rows);
      if (rows < 4) {
        for (let i: i32 = 0; i < rows; i++) {
          memory.copy(w + (<usize>(<u32>(r + i) * <u32>C + <u32>first) << 2),
            spare + 256 * <usize>i, <usize>count << 2);
        }
      }
      for (let i: i32 = 0; i < rows; i++) {
        const p = loss + (<usize>(r + i) << 2);
        store<f32>(p, load<f32>(p) + (i == 0 ? f32x4.extract_lane(sum, 0) : i == 1
          ? f32x4.extract_lane(sum, 1) : i == 2 ? f32x4.extract_lane(sum, 2)
          : f32x4.extract_lane(sum, 3)));
      }
    }
  }
}

/** Errors of four rows, column after column, to the rows they belong to. */
function writeErrors(errors: usize, out: usize, stride: usize, count: i32, rows: i32): void {
  for (let r: i32 = 0; r < rows; r++) {
    const p = out + stride * <usize>r, lane = errors + (<usize>r << 2);
    for (let i: i32 = 0; i < count; i++) store<f32>(p + (<usize>i << 2),
      load<f32>(lane + (<usize>i << 4)));
  }
}

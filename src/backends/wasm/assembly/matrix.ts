// What calibration does to matrices beside multiplying them (gemm.ts) and choosing codes (gptq.ts).
import { CHUNK, ceilDiv, claim, claimChunk, dim, rowsPerItem, scalarF, scalarU,
  tensor } from "./call";
import { promoteHigh, sum2 } from "./math";

/** Side of the squares in which a matrix is transposed: their lines stay in the L1 cache. */
const SQUARE: i32 = 32;

@inline
function at(base: usize, row: i32, width: i32, column: i32): usize {
  return base + (<usize>(<u32>row * <u32>width + <u32>column) << 2);
}

/** Columns [from, to) of rows [i, last) of a transposed copy. */
function transposeInto(to: usize, toWidth: i32, from: usize, fromWidth: i32, i: i32, last: i32,
  j: i32, end: i32): void {
  for (let r = i; r < last; r++) {
    for (let c = j; c < end; c++) store<f32>(at(to, r, toWidth, c),
      load<f32>(at(from, c, fromWidth, r)));
  }
}

/** to[i, j] = from[i, j], or from[j, i], on rectangles. */
export function copy(thread: i32): void {
  const D = dim(1), E = dim(3), rows = scalarU(0), columns = scalarU(1);
  const from = at(tensor(0), scalarU(2), D, scalarU(3)),
    to = at(tensor(1), scalarU(4), E, scalarU(5));
  const step = scalarU(6) ? SQUARE : rowsPerItem(columns);
  for (let i = claim() * step; i < rows; i = claim() * step) {
    const last = min(rows, i + step);
    if (scalarU(6)) {
      for (let j: i32 = 0; j < columns; j += SQUARE) transposeInto(to, E, from, D, i, last, j,
        min(columns, j + SQUARE));
    } else {
      for (let r = i; r < last; r++) memory.copy(at(to, r, E, 0), at(from, r, D, 0),
        <usize>columns << 2);
    }
  }
}

/** h[i, first + j] = h[j, first + i] for j > i. */
export function mirror(thread: i32): void {
  const P = dim(0), C = dim(1), h = tensor(0) + (<usize>scalarU(0) << 2);
  for (let i = claim() * SQUARE; i < P; i = claim() * SQUARE) {
    const last = min(P, i + SQUARE);
    for (let r = i; r < last; r++) {
      for (let c = r + 1; c < last; c++) store<f32>(at(h, r, C, c), load<f32>(at(h, c, C, r)));
    }
    for (let j = last; j < P; j += SQUARE) transposeInto(h, C, h, C, i, last, j,
      min(P, j + SQUARE));
  }
}

/** Rows of a symmetric matrix in another order, damped, with zeros below the diagonal. */
export function permute_gram(thread: i32): void {
  const h = tensor(0), order = tensor(1), m = tensor(2);
  const P = dim(0), C = dim(1), Q = dim(2), from = scalarU(0), to = scalarU(1), damp = scalarF(2);
  const step = rowsPerItem(C);
  for (let first = claim() * step; first < Q; first = claim() * step) {
    for (let i = first, last = min(Q, first + step); i < last; i++) {
      const diagonal = to + i, row = load<i32>(order + (<usize>diagonal << 2)) - from;
      if (<u32>row >= <u32>P) continue;
      const source = at(h, row, C, 0), out = at(m, i, C, 0);
      memory.fill(out, 0, <usize>diagonal << 2);
      for (let j = diagonal; j < C; j++) {
        const column = <usize>load<u32>(order + (<usize>j << 2)) << 2;
        const value = load<f32>(source + column);
        store<f32>(out + (<usize>j << 2), j == diagonal ? value + damp : value);
      }
    }
  }
}

/** y[r, i] = w[r, order[i]] · factor[g, order[i]], rows in parts g. */
export function permute_columns(thread: i32): void {
  const w = tensor(0), order = tensor(1), factor = tensor(2), y = tensor(3), R = dim(0), C = dim(1);
  const step = rowsPerItem(C), part = R / dim(2);
  for (let first = claim() * step; first < R; first = claim() * step) {
    for (let r = first, last = min(R, first + step); r < last; r++) {
      const source = at(w, r, C, 0), out = at(y, r, C, 0), by = at(factor, r / part, C, 0);
      for (let i: i32 = 0; i < C; i++) {
        const column = <usize>load<u32>(order + (<usize>i << 2)) << 2;
        store<f32>(out + (<usize>i << 2), load<f32>(source + column) * load<f32>(by + column));
      }
    }
  }
}

/** y = a − b */
export function subtract(thread: i32): void {
  const a = tensor(0), b = tensor(1), y = tensor(2), n = dim(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let k = i, last = min(n, i + CHUNK); k < last; k += 4) {
      const p = <usize>k << 2;
      v128.store(y + p, f32x4.sub(v128.load(a + p), v128.load(b + p)));
    }
  }
}

/** y[r] = Σ a[r, c] · b[r, c] */
export function row_dots(thread: i32): void {
  const a = tensor(0), b = tensor(1), y = tensor(2), R = dim(0), C = dim(1), step = rowsPerItem(C);
  for (let first = claim() * step; first < R; first = claim() * step) {
    for (let r = first, last = min(R, first + step); r < last; r++) {
      const p = at(a, r, C, 0), q = at(b, r, C, 0);
      let sums = f64x2.splat(0), c: i32 = 0;
      for (; c + 4 <= C; c += 4) {
        const v = v128.load(p + (<usize>c << 2)), w = v128.load(q + (<usize>c << 2));
        sums = f64x2.add(sums, f64x2.mul(f64x2.promote_low_f32x4(v), f64x2.promote_low_f32x4(w)));
        sums = f64x2.add(sums, f64x2.mul(promoteHigh(v), promoteHigh(w)));
      }
      let sum = sum2(sums);
      for (; c < C; c++) sum += <f64>load<f32>(p + (<usize>c << 2)) * <f64>load<f32>(q +
        (<usize>c << 2));
      store<f32>(y + (<usize>r << 2), <f32>sum);
    }
  }
}

/** Least, greatest and Σ|x| of each column, added to what was known. */
export function column_stats(thread: i32): void {
  const x = tensor(0), stats = tensor(1), T = dim(0), C = dim(1), items = ceilDiv(C, 64);
  for (let item = claim(); item < items; item = claim()) {
    for (let c = 64 * item, last = min(C, c + 64); c < last; c += 4) {
      const low = at(stats, 0, C, c), high = at(stats, 1, C, c), size = at(stats, 2, C, c);
      let least = v128.load(low), most = v128.load(high), sum = f32x4.splat(0);
      for (let t: i32 = 0; t < T; t++) {
        const v = v128.load(at(x, t, C, c));
        least = f32x4.pmin(least, v), most = f32x4.pmax(most, v),
          sum = f32x4.add(sum, f32x4.abs(v));
      }
      sum = f32x4.add(sum, v128.load(size));
      if (c + 4 <= C) {
        v128.store(low, least), v128.store(high, most), v128.store(size, sum);
        continue;
      }
      // The columns past the last are the next row's.
      storeLanes(low, least, C - c), storeLanes(high, most, C - c), storeLanes(size, sum, C - c);
    }
  }
}

/** Store the first `n` of four lanes. */
function storeLanes(p: usize, v: v128, n: i32): void {
  store<f32>(p, f32x4.extract_lane(v, 0));
  if (n > 1) store<f32>(p, f32x4.extract_lane(v, 1), 4);
  if (n > 2) store<f32>(p, f32x4.extract_lane(v, 2), 8);
}

/** y[order[first + i]] = m[i, first + i], or 1 / its square. */
export function diagonal(thread: i32): void {
  const m = tensor(0), order = tensor(1), y = tensor(2), P = dim(0), C = dim(1), first = scalarU(0);
  const step: i32 = 256;
  for (let from = claim() * step; from < P; from = claim() * step) {
    for (let i = from, last = min(P, from + step); i < last; i++) {
      const value = load<f32>(at(m, i, C, first + i)),
        place = load<u32>(order + (<usize>(first + i) << 2));
      store<f32>(y + (<usize>place << 2),
        scalarU(1) ? <f32>(1 / (<f64>value * <f64>value)) : value);
    }
  }
}

// Causal grouped-query attention by blocks of 64 queries and 64 keys with a running softmax
// (FlashAttention, arXiv 2205.14135), both products through the micro-kernel of gemm.ts, or by
// larger blocks through a BLAS. Keys are visited in one order, so a query's result does not depend
// on which thread took its block.
import { hasBlas, sgemm } from "./blas";
import { ceilDiv, claim, dim, F32, scalarF, scalarU, scratch, SCRATCH_BYTES, tensor } from "./call";
import { micro, microEdge, packRows } from "./gemm";
import { exp2Down4, max4, softCap4 } from "./math";

const BLOCK: i32 = 64;
/** Floats of a head taken at a time. */
const PART: i32 = 256;
const PANEL: usize = (64 * 256) << 2;
const LINE: usize = 64 << 2;

/** log2 e: weights are powers of 2, which are made in fewer steps than those of e. */
const LOG2_E: f32 = 1.44269504;

/** The greatest of a row's numbers from p to `end`, whole vectors; NaN is passed over. */
@inline
function mostOf(p: usize, end: usize): f32 {
  let first = v128.load(p), second = first;
  for (; p + 16 < end; p += 32) {
    first = f32x4.pmax(first, v128.load(p));
    second = f32x4.pmax(second, v128.load(p, 16));
  }
  if (p < end) first = f32x4.pmax(first, v128.load(p));
  return max4(f32x4.pmax(first, second));
}

/** One row of scores scaled, capped, and with the biases of its `count` keys added. */
function shapeRow(row: usize, scale: f32, cap: f32, bias: usize, count: i32): void {
  const bound = f32x4.splat(cap), s = f32x4.splat(scale), line = <usize>((count + 3) & -4) << 2;
  for (let at: usize = 0; at < line; at += 16) {
    const v = f32x4.mul(v128.load(row + at), s);
    v128.store(row + at, cap == 0 ? v : softCap4(v, bound));
  }
  if (!bias) return;
  for (let at: usize = 0, end = <usize>count << 2; at < end; at += 4) {
    store<f32>(row + at, load<f32>(row + at) + load<f32>(bias + at));
  }
}

/**
 * One row of `length` scores, which 4 divides, becomes the weights of its keys [start, end):
 * 2^(scale · score − most), the others 0. `most` is the greatest so far, kept at `top`; what was
 * summed under a smaller one, at `out` as d floats and at `sum`, fades accordingly.
 */
@inline
function weighRow(row: usize, length: i32, start: i32, end: i32, scale: f32, top: usize, sum: usize,
  out: usize, d: i32, summed: bool): void {
  const from = row + (<usize>(start & -4) << 2), to = row + (<usize>((end + 3) & -4) << 2),
    first = row + (<usize>start << 2), last = row + (<usize>end << 2);
  for (let p = row; p < from; p += 16) v128.store(p, f32x4.splat(0));
  for (let p = to; p < row + (<usize>length << 2); p += 16) v128.store(p, f32x4.splat(0));
  if (first >= last) return;
  for (let p = from; p < first; p += 4) store<f32>(p, -Infinity);
  for (let p = last; p < to; p += 4) store<f32>(p, -Infinity);
  const before = load<f32>(top), most = max(before, mostOf(from, to) * scale);
  const factor = f32x4.splat(scale), shift = f32x4.splat(-most);
  let total = f32x4.splat(0);
  for (let p = from; p < to; p += 16) {
    const e = exp2Down4(f32x4.relaxed_madd(v128.load(p), factor, shift));
    v128.store(p, e);
    total = f32x4.add(total, e);
  }
  for (let p = from; p < first; p += 4) store<f32>(p, 0);
  for (let p = last; p < to; p += 4) store<f32>(p, 0);
  const weight = f32x4.extract_lane(total, 0) + f32x4.extract_lane(total, 1) +
    f32x4.extract_lane(total, 2) + f32x4.extract_lane(total, 3);
  if (most == before) {
    store<f32>(sum, load<f32>(sum) + weight);
    return;
  }
  const fade = f32x4.extract_lane(exp2Down4(f32x4.splat(before - most)), 0);
  store<f32>(top, most);
  store<f32>(sum, load<f32>(sum) * fade + weight);
  if (summed) scaleRow(out, d, fade);
}

/** o[0 … n) *= factor; up to three more floats are read, none written. */
function scaleRow(p: usize, n: i32, factor: f32): void {
  const f = f32x4.splat(factor);
  let i: i32 = 0;
  for (; i + 4 <= n; i += 4) {
    v128.store(p, f32x4.mul(v128.load(p), f));
    p += 16;
  }
  for (; i < n; i++) {
    store<f32>(p, load<f32>(p) * factor);
    p += 4;
  }
}

/** Pack `columns` columns of `keys` rows as [key][8] panels. */
function packValues(v: usize, stride: usize, keys: i32, columns: i32, out: usize): void {
  for (let n: i32 = 0; n < columns; n += 8) {
    let p = v + (<usize>n << 2);
    for (let j: i32 = 0; j < keys; j++) {
      v128.store(out, v128.load(p));
      v128.store(out, v128.load(p, 16), 16);
      p += stride;
      out += 32;
    }
  }
}

export function attention(thread: i32): void {
  if (hasBlas()) blasAttention(thread);
  else ownAttention(thread);
}

function ownAttention(thread: i32): void {
  const bias = tensor(3), Q = dim(1), K = dim(2), S = dim(4);
  const d = scalarU(0), window = scalarU(1), scale = scalarF(2), cap = scalarF(3),
    biased = scalarU(4) != 0, T = scalarU(5);
  // Plain scores are scaled while they become weights.
  const shaped = biased || cap != 0, left: f32 = shaped ? LOG2_E : scale * LOG2_E;
  const heads = Q / d, shared = Q / K, qStride = <usize>Q << 2, kStride = <usize>K << 2;
  const corner = scratch(thread), buffer = corner + 128, tops = buffer + 8192, sums = tops + LINE;
  const scores = sums + LINE, weights = scores + 64 * LINE, queries = weights + 64 * LINE;
  const keys = queries + PANEL, values = keys + PANEL;
  const blocks = ceilDiv(T, BLOCK), windows = dim(0) / T;
  for (let item = claim(); item < windows * heads * blocks; item = claim()) {
    // The last queries see the most keys: they go first, so that threads finish together.
    const i0 = (blocks - 1 - item / (heads * windows)) * BLOCK, rows = min(BLOCK, T - i0),
      head = item % heads, begin = <usize>(item / heads % windows * T);
    const q = tensor(0) + begin * qStride, k = tensor(1) + begin * kStride,
      v = tensor(2) + begin * kStride, o = tensor(4) + begin * qStride;
    const from = head / shared * d, first = window > 0 ? max(0, i0 - window + 1) : 0;
    const out = o + <usize>i0 * qStride + (<usize>(head * d) << 2);
    for (let i: usize = 0; i < LINE; i += 4) store<f32>(tops + i, -3.4028235e38),
      store<f32>(sums + i, 0);
    for (let j0 = first; j0 < i0 + rows; j0 += BLOCK) {
      const count = min(BLOCK, i0 + rows - j0);
      for (let part: i32 = 0; part < d; part += PART) {
        const n = min(PART, d - part), padded = (n + 3) & -4;
        if (j0 == first || d > PART) {
          for (let i: i32 = 0; i < rows; i += 4) {
            packRows(F32, q, Q, i0 + i, T, head * d + part, n, 0,
              queries + (<usize>(i * padded) << 2), 4, buffer);
          }
        }
        for (let j: i32 = 0; j < count; j += 8) {
          const panel = keys + (<usize>(j * padded) << 2);
          packRows(F32, k, K, j0 + j, T, from + part, n, 0, panel, 8, buffer);
          if (j + 4 < count) packRows(F32, k, K, j0 + j + 4, T, from + part, n, 0, panel + 16, 8,
            buffer);
          for (let i: i32 = 0; i < rows; i += 4) {
            const c = scores + <usize>i * LINE + (<usize>j << 2);
            micro<f32>(queries + (<usize>(i * padded) << 2), panel, c, LINE, n, part == 0);
          }
        }
      }
      for (let i: i32 = 0; i < rows; i++) {
        const at = <usize>i << 2;
        const start = window > 0 ? max(0, i0 + i - window + 1 - j0) : 0;
        // With a window, the last keys may all come after the row's query.
        const end = max(0, min(count, i0 + i + 1 - j0));
        const row = scores + <usize>i * LINE;
        if (shaped) shapeRow(row, scale, cap, biased ? bias + (<usize>(head * S + j0) << 2) : 0,
          count);
        weighRow(row, BLOCK, start, end, left, tops + at, sums + at, out + <usize>i * qStride, d,
          j0 > first);
      }
      const padded = (count + 3) & -4;
      for (let i: i32 = 0; i < rows; i += 4) {
        packRows(F32, scores, BLOCK, i, BLOCK, 0, count, 0, weights + (<usize>(i * padded) << 2), 4,
          buffer);
      }
      for (let part: i32 = 0; part < d; part += PART) {
        const n = min(PART, d - part);
        packValues(v + <usize>j0 * kStride + (<usize>(from + part) << 2), kStride, count, n,
          values);
        for (let c: i32 = 0; c < n; c += 8) {
          const panel = values + (<usize>(c * count) << 2);
          for (let i: i32 = 0; i < rows; i += 4) {
            const a = weights + (<usize>(i * padded) << 2);
            const to = out + <usize>i * qStride + (<usize>(part + c) << 2), fresh = j0 == first;
            if (i + 4 <= rows && c + 8 <= n) micro<f32>(a, panel, to, qStride, count, fresh);
            else microEdge<f32>(a, panel, to, qStride, count, fresh, min(4, rows - i),
              min(8, n - c), corner);
          }
        }
      }
    }
    for (let i: i32 = 0; i < rows; i++) {
      scaleRow(out + <usize>i * qStride, d, 1 / load<f32>(sums + (<usize>i << 2)));
    }
  }
}

/** Most queries of a head, most rows of scores, and keys of a block for a BLAS. */
const BLAS_QUERIES: i32 = 128;
const BLAS_ROWS: i32 = 384;
const BLAS_KEYS: i32 = 384;

/**
 * The same in products that are worth a BLAS's calls: queries of heads that share their keys stand
 * below each other.
 */
function blasAttention(thread: i32): void {
  const bias = tensor(3), Q = dim(1), K = dim(2), S = dim(4);
  const d = scalarU(0), window = scalarU(1), scale = scalarF(2), cap = scalarF(3),
    biased = scalarU(4) != 0, T = scalarU(5);
  const shaped = biased || cap != 0, left: f32 = shaped ? LOG2_E : scale * LOG2_E;
  const heads = Q / d, shared = Q / K, line = <usize>BLAS_KEYS << 2, width = <usize>d << 2;
  // A row has its scores, its query, what it sums, and two numbers more.
  const fitting = min(BLAS_ROWS, SCRATCH_BYTES / ((BLAS_KEYS + 2 * d + 2) << 2)) & -16;
  let group = min(shared, fitting);
  while (shared % group) group--;
  const most = min(BLAS_QUERIES, fitting / group);
  const tops = scratch(thread), sums = tops + (<usize>fitting << 2);
  const queries = sums + (<usize>fitting << 2), out = queries + <usize>fitting * width;
  const scores = out + <usize>fitting * width;
  const blocks = ceilDiv(T, most), windows = dim(0) / T, groups = heads / group;
  for (let item = claim(); item < windows * groups * blocks; item = claim()) {
    const i0 = (blocks - 1 - item / (groups * windows)) * most, rows = min(most, T - i0),
      all = rows * group, begin = <usize>(item / groups % windows * T) << 2;
    const head = item % groups * group, from = head / shared * d;
    const k = tensor(1) + begin * K, v = tensor(2) + begin * K;
    const place = (begin + (<usize>i0 << 2)) * Q + <usize>head * width;
    const first = window > 0 ? max(0, i0 - window + 1) : 0;
    for (let r: i32 = 0; r < all; r++) {
      const query = <usize>(r % rows * Q + r / rows * d) << 2;
      memory.copy(queries + <usize>r * width, tensor(0) + place + query, width);
      store<f32>(tops + (<usize>r << 2), -3.4028235e38);
      store<f32>(sums + (<usize>r << 2), 0);
    }
    for (let j0 = first; j0 < i0 + rows; j0 += BLAS_KEYS) {
      const count = min(BLAS_KEYS, i0 + rows - j0), padded = (count + 3) & -4;
      const places = <usize>(j0 * K + from) << 2;
      sgemm(false, false, all, count, d, 1, queries, d, k + places, K, 0, scores, BLAS_KEYS);
      for (let r: i32 = 0; r < all; r++) {
        const at = <usize>r << 2, row = scores + <usize>r * line, i = i0 + r % rows;
        const start = window > 0 ? min(padded, max(0, i - window + 1 - j0)) : 0;
        const end = max(0, min(count, i + 1 - j0));
        if (shaped) {
          const biases = bias + (<usize>((head + r / rows) * S + j0) << 2);
          shapeRow(row, scale, cap, biased ? biases : 0, count);
        }
        weighRow(row, padded, start, end, left, tops + at, sums + at, out + <usize>r * width, d,
          j0 > first);
      }
      sgemm(false, true, all, d, count, 1, scores, BLAS_KEYS, v + places, K, j0 > first ? 1 : 0,
        out, d);
    }
    for (let r: i32 = 0; r < all; r++) {
      const to = tensor(4) + place + (<usize>(r % rows * Q + r / rows * d) << 2);
      memory.copy(to, out + <usize>r * width, width);
      scaleRow(to, d, 1 / load<f32>(sums + (<usize>r << 2)));
    }
  }
}

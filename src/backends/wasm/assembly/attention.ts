// Causal grouped-query attention by blocks of 64 queries and 64 keys with a running softmax
// (FlashAttention, arXiv 2205.14135), both products through the micro-kernel of gemm.ts, or by
// larger blocks through a BLAS. Keys are visited in one order, so a query's result does not depend
// on which thread took its block.
import { hasBlas, sgemm } from "./blas";
import { ceilDiv, claim, dim, F32, scalarF, scalarU, scratch, tensor } from "./call";
import { micro, microEdge, packRows } from "./gemm";
import { exp4, max4, softCap4 } from "./math";

const BLOCK: i32 = 64;
/** Floats of a head taken at a time. */
const PART: i32 = 256;
const PANEL: usize = (64 * 256) << 2;
const LINE: usize = 64 << 2;

/**
 * Scores [from, to) of one row of `length`, which 4 divides, become scaled weights
 * e^(score − most), the others 0; returns their sum.
 */
function softmaxRow(row: usize, length: i32, from: i32, to: i32, scale: f32, before: f32): f32 {
  for (let j: i32 = 0; j < from; j++) store<f32>(row + (<usize>j << 2), -Infinity);
  // Whole vectors past the last score are 0 without being computed.
  const end = (to + 3) & -4, line = <usize>end << 2;
  for (let j = to; j < end; j++) store<f32>(row + (<usize>j << 2), -Infinity);
  memory.fill(row + line, 0, <usize>(length - end) << 2);
  let top = f32x4.splat(before);
  for (let p = row; p < row + line; p += 16) {
    const v = f32x4.mul(v128.load(p), f32x4.splat(scale));
    v128.store(p, v);
    top = f32x4.max(top, v);
  }
  most = max4(top);
  const shift = f32x4.splat(most);
  let sum = f32x4.splat(0);
  for (let p = row; p < row + line; p += 16) {
    const e = exp4(f32x4.sub(v128.load(p), shift));
    v128.store(p, e);
    sum = f32x4.add(sum, e);
  }
  return f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1) +
    f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3);
}

// Thread-private: the greatest score so far of the row `softmaxRow` was last given.
let most: f32 = 0;

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
 * One row of `length` scores becomes the weights of its keys [start, end), and what was summed under
 * a smaller maximum, at `out` as d floats and at `sum`, fades accordingly.
 */
@inline
function weighRow(row: usize, length: i32, start: i32, end: i32, scale: f32, top: usize, sum: usize,
  out: usize, d: i32, summed: bool): void {
  const before = load<f32>(top), weight = softmaxRow(row, length, start, end, scale, before);
  const fade = f32x4.extract_lane(exp4(f32x4.splat(before - most)), 0);
  store<f32>(top, most);
  store<f32>(sum, load<f32>(sum) * fade + weight);
  if (summed && fade != 1) scaleRow(out, d, fade);
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
  // Plain scores are scaled while their maximum is looked for.
  const shaped = biased || cap != 0, left: f32 = shaped ? 1 : scale;
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

/** Queries and keys of a block for a BLAS: 256 KiB of scores. */
const BLAS_QUERIES: i32 = 128;
const BLAS_KEYS: i32 = 512;

/** The same in products that are worth a BLAS's calls. */
function blasAttention(thread: i32): void {
  const bias = tensor(3), Q = dim(1), K = dim(2), S = dim(4);
  const d = scalarU(0), window = scalarU(1), scale = scalarF(2), cap = scalarF(3),
    biased = scalarU(4) != 0, T = scalarU(5);
  const shaped = biased || cap != 0, left: f32 = shaped ? 1 : scale;
  const heads = Q / d, shared = Q / K, line = <usize>BLAS_KEYS << 2;
  const tops = scratch(thread), sums = tops + (<usize>BLAS_QUERIES << 2);
  const scores = sums + (<usize>BLAS_QUERIES << 2);
  const blocks = ceilDiv(T, BLAS_QUERIES), windows = dim(0) / T;
  for (let item = claim(); item < windows * heads * blocks; item = claim()) {
    const i0 = (blocks - 1 - item / (heads * windows)) * BLAS_QUERIES,
      rows = min(BLAS_QUERIES, T - i0), begin = <usize>(item / heads % windows * T) << 2;
    const q = tensor(0) + begin * Q, k = tensor(1) + begin * K, v = tensor(2) + begin * K,
      o = tensor(4) + begin * Q;
    const head = item % heads, from = head / shared * d;
    const first = window > 0 ? max(0, i0 - window + 1) : 0;
    const queries = q + (<usize>(i0 * Q + head * d) << 2);
    const out = o + (<usize>(i0 * Q + head * d) << 2);
    for (let i: i32 = 0; i < rows; i++) {
      store<f32>(tops + (<usize>i << 2), -3.4028235e38);
      store<f32>(sums + (<usize>i << 2), 0);
    }
    for (let j0 = first; j0 < i0 + rows; j0 += BLAS_KEYS) {
      const count = min(BLAS_KEYS, i0 + rows - j0), padded = (count + 3) & -4;
      const places = <usize>(j0 * K + from) << 2;
      sgemm(false, false, rows, count, d, 1, queries, Q, k + places, K, 0, scores, BLAS_KEYS);
      for (let i: i32 = 0; i < rows; i++) {
        const at = <usize>i << 2, row = scores + <usize>i * line;
        const start = window > 0 ? min(padded, max(0, i0 + i - window + 1 - j0)) : 0;
        const end = max(0, min(count, i0 + i + 1 - j0));
        if (shaped) shapeRow(row, scale, cap, biased ? bias + (<usize>(head * S + j0) << 2) : 0,
          count);
        weighRow(row, padded, start, end, left, tops + at, sums + at, out + (<usize>(i * Q) << 2), d,
          j0 > first);
      }
      sgemm(false, true, rows, d, count, 1, scores, BLAS_KEYS, v + places, K, j0 > first ? 1 : 0,
        out, Q);
    }
    for (let i: i32 = 0; i < rows; i++) {
      scaleRow(out + (<usize>(i * Q) << 2), d, 1 / load<f32>(sums + (<usize>i << 2)));
    }
  }
}

// The one matrix product: C[m, n] (+)= Σ_k A[m, k] · B[n, k], both row-major with rows along k,
// tile by tile. Rows come from any source as 32-bit units (a float, or two int16), are packed into
// panels [k][4] and [k][8], and go through a 4×8 micro-kernel: one load of A and lane shuffles,
// because V8 checks the bounds of each load. A sum runs over k in one order whatever the tile, so
// an element does not depend on how work was divided.
import { cutTiles, isForBlas, m0 as tileTop, m1 as tileEnd, n0 as tileLeft, n1 as tileRight,
  nextTile, sgemm, WIDE, widePanel } from "./blas";
import { ceilDiv, claim, scratch } from "./call";
import { run } from "./cast";
import { unpackFloats } from "./bits";

/** k per panel */
const KC: i32 = 256;
/** rows of A per panel block: 96 KiB, at home in the L2 cache */
const MC: i32 = 96;
/**
 * rows and columns of C in a work item; fewer rows where there would be too few items for several
 * threads
 */
const TILE_M: i32 = 192;
const TILE_N: i32 = 256;
const FEW_ITEMS: i32 = 8;
const SMALL_TILE_M: i32 = 48;

/** Where rows come from: a float dtype of call.ts (0…2), or one of these. */
export const PACKED: i32 = 4;
export const INT8: i32 = 5;
export const GATHER: i32 = 6;
export const GATHER_INT8: i32 = 7;
/** f32 rows that lie as columns: element k of row r is at k · stride + r. */
export const COLUMNS: i32 = 8;

/** Blocks on one side of the diagonal, as src/ops/gemm.ts has them: 1 lower, 2 upper. */
const HALF_SHIFT: i32 = 6;

// Thread-private: what the sources beyond plain rows need, set before `gemm`.
let packedBits: i32 = 0, packedGroup: i32 = 1, packedScale: usize = 0, packedZero: usize = 0;
let gatherColumns: usize = 0, gatherAbsmax: usize = 0;
// Which blocks of C are computed, and what A is multiplied by; every product but `gemm`'s own
// leaves them as they are here.
let half: i32 = 0, diagonal: i32 = 0, alpha: f32 = 1;

/** Compute only blocks on one side of the diagonal, and alpha · A · Bᵀ. */
export function setHalf(side: i32, offset: i32, factor: f32): void {
  half = side;
  diagonal = offset;
  alpha = factor;
}

/** Whether some block of rows [m, mEnd) and columns [n, nEnd) is computed. */
@inline
function isWanted(m: i32, mEnd: i32, n: i32, nEnd: i32): bool {
  if (half == 0) return true;
  if (half == 1) return n >> HALF_SHIFT <= (mEnd - 1 + diagonal) >> HALF_SHIFT;
  return (nEnd - 1) >> HALF_SHIFT >= (m + diagonal) >> HALF_SHIFT;
}

export function setPacked(bits: i32, group: i32, scale: usize, zero: usize): void {
  packedBits = bits;
  packedGroup = group;
  packedScale = scale;
  packedZero = zero;
}

export function setGather(columns: usize, absmax: usize): void {
  gatherColumns = columns;
  gatherAbsmax = absmax;
}

/**
 * Row `r` of a matrix, units [k, k + count), in place or in `buffer`. `stride` is in elements
 * (words when packed).
 */
function rowOf(kind: i32, base: usize, stride: i32, r: i32, k: i32, count: i32, buffer: usize,
  columns: i32): usize {
  if (kind < 3) return run(base, r * stride + k, count, kind, buffer);
  if (kind == INT8) {
    const source = base + <usize>(r * stride + 2 * k);
    for (let i: i32 = 0; i < count; i += 4) {
      v128.store(buffer + (<usize>i << 2),
        i16x8.extend_low_i8x16_s(v128.load64_zero(source + <usize>(2 * i))));
    }
    if (2 * (k + count) > columns) store<i16>(buffer + (<usize>(columns - 2 * k) << 1), 0);
    return buffer;
  }
  if (kind == PACKED) {
    const groups = columns / packedGroup;
    for (let i: i32 = 0; i < count;) {
      const g = (k + i) / packedGroup, n = min(count - i, (g + 1) * packedGroup - k - i);
      const scale = load<f32>(packedScale + (<usize>(r * groups + g) << 2));
      const zero = <i32>load<i8>(packedZero + <usize>(r * groups + g));
      unpackFloats(base + (<usize>(r * stride) << 2), k + i, n, packedBits, scale, zero,
        buffer + (<usize>i << 2));
      i += n;
    }
    return buffer;
  }
  const absmax: f32 = kind == GATHER_INT8 ? load<f32>(gatherAbsmax + (<usize>r << 2)) : 0;
  for (let i: i32 = 0; i < count; i++) {
    const j = load<i32>(gatherColumns + (<usize>(k + i) << 2));
    store<f32>(
      buffer + (<usize>i << 2),
      kind == GATHER
        ? load<f32>(base + (<usize>(r * stride + j) << 2))
        : <f32>load<i8>(base + <usize>(r * stride + j)) * absmax / 127,
    );
  }
  return buffer;
}

/**
 * Pack 4 rows from `r` on (the last row again where there are fewer) as [k][4] with `width` units a
 * line.
 */
export function packRows(
  kind: i32, base: usize, stride: i32, r: i32, rows: i32, k: i32, count: i32, columns: i32,
  out: usize, width: usize, buffer: usize,
): void {
  const line = width << 2;
  if (kind == COLUMNS) {
    // Past the last row come other values, whose sums nobody reads.
    let from = base + (<usize>(k * stride + r) << 2);
    for (let i: i32 = 0; i < count; i++) {
      v128.store(out, v128.load(from));
      out += line;
      from += <usize>stride << 2;
    }
    return;
  }
  const size: usize = (KC + 16) << 2, last = rows - 1;
  let p0 = rowOf(kind, base, stride, r, k, count, buffer, columns);
  let p1 = rowOf(kind, base, stride, min(r + 1, last), k, count, buffer + size, columns);
  let p2 = rowOf(kind, base, stride, min(r + 2, last), k, count, buffer + 2 * size, columns);
  let p3 = rowOf(kind, base, stride, min(r + 3, last), k, count, buffer + 3 * size, columns);
  for (let i: i32 = 0; i < count; i += 4) {
    const v0 = v128.load(p0), v1 = v128.load(p1), v2 = v128.load(p2), v3 = v128.load(p3);
    const t0 = v128.shuffle<f32>(v0, v1, 0, 4, 1, 5), t1 = v128.shuffle<f32>(v2, v3, 0, 4, 1, 5);
    const t2 = v128.shuffle<f32>(v0, v1, 2, 6, 3, 7), t3 = v128.shuffle<f32>(v2, v3, 2, 6, 3, 7);
    v128.store(out, v128.shuffle<f32>(t0, t1, 0, 1, 4, 5));
    v128.store(out + line, v128.shuffle<f32>(t0, t1, 2, 3, 6, 7));
    v128.store(out + 2 * line, v128.shuffle<f32>(t2, t3, 0, 1, 4, 5));
    v128.store(out + 3 * line, v128.shuffle<f32>(t2, t3, 2, 3, 6, 7));
    out += 4 * line;
    p0 += 16;
    p1 += 16;
    p2 += 16;
    p3 += 16;
  }
}

/** Multiply a panel of `lines` vectors by alpha. */
function scalePanel(p: usize, lines: i32): void {
  const factor = f32x4.splat(alpha);
  for (const end = p + (<usize>lines << 4); p < end; p += 16) v128.store(p,
    f32x4.mul(v128.load(p), factor));
}

/**
 * c += a · b in 32-bit units: one float product (fused where the CPU fuses), or two exact int16
 * products.
 */
@inline
function multiplyAdd<T>(a: v128, b: v128, c: v128): v128 {
  if (isFloat<T>()) return f32x4.relaxed_madd(a, b, c);
  return i32x4.add(c, i32x4.dot_i16x8_s(a, b));
}

/** 4×8 of C at `c`, lines `stride` bytes apart; `fresh` starts from 0 instead of what is there. */
export function micro<T>(a: usize, b: usize, c: usize, stride: usize, count: i32,
  fresh: bool): void {
  let c0 = i32x4.splat(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0;
  if (!fresh) {
    let p = c;
    c0 = v128.load(p), c1 = v128.load(p, 16), p += stride;
    c2 = v128.load(p), c3 = v128.load(p, 16), p += stride;
    c4 = v128.load(p), c5 = v128.load(p, 16), p += stride;
    c6 = v128.load(p), c7 = v128.load(p, 16);
  }
  for (let k: i32 = 0; k < count; k++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), v = v128.load(a);
    const a0 = v128.shuffle<f32>(v, v, 0, 0, 0, 0);
    c0 = multiplyAdd<T>(a0, b0, c0), c1 = multiplyAdd<T>(a0, b1, c1);
    const a1 = v128.shuffle<f32>(v, v, 1, 1, 1, 1);
    c2 = multiplyAdd<T>(a1, b0, c2), c3 = multiplyAdd<T>(a1, b1, c3);
    const a2 = v128.shuffle<f32>(v, v, 2, 2, 2, 2);
    c4 = multiplyAdd<T>(a2, b0, c4), c5 = multiplyAdd<T>(a2, b1, c5);
    const a3 = v128.shuffle<f32>(v, v, 3, 3, 3, 3);
    c6 = multiplyAdd<T>(a3, b0, c6), c7 = multiplyAdd<T>(a3, b1, c7);
    a += 16;
    b += 32;
  }
  v128.store(c, c0), v128.store(c, c1, 16), c += stride;
  v128.store(c, c2), v128.store(c, c3, 16), c += stride;
  v128.store(c, c4), v128.store(c, c5, 16), c += stride;
  v128.store(c, c6), v128.store(c, c7, 16);
}

/**
 * The micro-kernel where C has only rows × columns left: through a 4×8 corner of scratch memory.
 */
export function microEdge<T>(
  a: usize, b: usize, c: usize, stride: usize, count: i32, fresh: bool, rows: i32, columns: i32,
    corner: usize,
): void {
  const bytes = <usize>columns << 2;
  if (!fresh) {
    for (let i: i32 = 0; i < rows; i++) memory.copy(corner + <usize>(32 * i), c + <usize>i * stride,
      bytes);
  }
  micro<T>(a, b, corner, 32, count, fresh);
  for (let i: i32 = 0; i < rows; i++) memory.copy(c + <usize>i * stride, corner + <usize>(32 * i),
    bytes);
}

/** One call of the BLAS on rows [m, mEnd) and columns [n, nEnd) of C. */
@inline
function blasCall(aKind: i32, a: usize, aStride: i32, bTurned: bool, b: usize, bStride: i32,
  c: usize, cStride: i32, m: i32, mEnd: i32, n: i32, nEnd: i32, k: i32, beta: f32): void {
  const turned = aKind == COLUMNS;
  sgemm(turned, bTurned, mEnd - m, nEnd - n, k, alpha,
    a + (<usize>(turned ? m : m * aStride) << 2), aStride, b, bStride, beta,
    c + (<usize>(m * cStride + n) << 2), cStride);
}

/** `gemm` by the BLAS of the host: A of floats, B of floats or widened panel by panel. */
function blasProduct(
  thread: i32, aKind: i32, a: usize, aStride: i32, bKind: i32, b: usize, bStride: i32, c: usize,
    cStride: i32,
  M: i32, N: i32, K: i32, add: bool,
): void {
  const plain = bKind == 0 || bKind == COLUMNS, panel = widePanel(thread);
  cutTiles(M, N);
  while (nextTile(M, N)) {
    const top = tileTop, end = tileEnd, left = tileLeft, right = tileRight;
    if (!isWanted(top, end, left, right)) continue;
    for (let k: i32 = 0; k < K; k += plain ? K : WIDE) {
      const count = plain ? K : min(WIDE, K - k), beta: f32 = add || k > 0 ? 1 : 0;
      const from = a + (<usize>(aKind == COLUMNS ? k * aStride : k) << 2);
      if (!plain) {
        for (let n = left; n < right; n++) {
          rowOf(bKind, b, bStride, n, k, count, panel + (<usize>((n - left) * count) << 2), K);
        }
      }
      // Rows of one block of the diagonal at a time, where some of the tile is not to be computed.
      for (let m = top; m < end;) {
        const block = (m + diagonal) >> HALF_SHIFT;
        let mEnd = end, first = left, last = right;
        if (half != 0) {
          mEnd = min(end, ((block + 1) << HALF_SHIFT) - diagonal);
          if (half == 1) last = min(right, (block + 1) << HALF_SHIFT);
          else first = max(left, block << HALF_SHIFT);
        }
        if (first < last) {
          const rows = plain
            ? b + (<usize>(bKind == COLUMNS ? first : first * bStride) << 2)
            : panel + (<usize>((first - left) * count) << 2);
          const stride = plain ? bStride : count;
          blasCall(aKind, from, aStride, bKind == COLUMNS, rows, stride, c, cStride, m, mEnd, first,
            last, count, beta);
        }
        m = mEnd;
      }
    }
  }
}

/**
 * C (rows at `c`, `cStride` elements apart) = A[M, K] · B[N, K]ᵀ, or += if `add`; K is in elements.
 * Takes work items until none is left.
 */
export function gemm<T>(
  thread: i32, aKind: i32, a: usize, aStride: i32, bKind: i32, b: usize, bStride: i32, c: usize,
    cStride: i32,
  M: i32, N: i32, K: i32, add: bool,
): void {
  if (isFloat<T>() && (aKind == 0 || aKind == COLUMNS) &&
    (bKind <= PACKED || bKind == COLUMNS) && isForBlas(M, N, K)) {
    blasProduct(thread, aKind, a, aStride, bKind, b, bStride, c, cStride, M, N, K, add);
    return;
  }
  const units = isFloat<T>() ? K : (K + 1) >> 1;
  const corner = scratch(thread), buffer = corner + 128;
  const aPanels = buffer + 4 * ((KC + 16) << 2), bPanels = aPanels + ((MC * KC) << 2);
  const stride = <usize>cStride << 2;
  const tilesN = ceilDiv(N, TILE_N);
  const tileM = ceilDiv(M, TILE_M) * tilesN < FEW_ITEMS ? SMALL_TILE_M : TILE_M;
  const tiles = ceilDiv(M, tileM) * tilesN, steps = max(1, ceilDiv(units, KC));
  for (let tile = claim(); tile < tiles; tile = claim()) {
    const m0 = tile / tilesN * tileM, m1 = min(M, m0 + tileM);
    const n0 = tile % tilesN * TILE_N, n1 = min(N, n0 + TILE_N);
    if (!isWanted(m0, m1, n0, n1)) continue;
    // Once at least: a sum of nothing is 0, and has to be stored.
    for (let step: i32 = 0; step < steps; step++) {
      const k = step * KC, count = min(KC, units - k), padded = (count + 3) & -4;
      const fresh = k == 0 && !add;
      for (let n = n0; n < n1; n += 8) {
        const out = bPanels + (<usize>((n - n0) * padded) << 2);
        packRows(bKind, b, bStride, n, N, k, count, K, out, 8, buffer);
        if (n + 4 < n1) packRows(bKind, b, bStride, n + 4, N, k, count, K, out + 16, 8, buffer);
      }
      for (let mc = m0; mc < m1; mc += MC) {
        const mEnd = min(m1, mc + MC);
        for (let m = mc; m < mEnd; m += 4) {
          const out = aPanels + (<usize>((m - mc) * padded) << 2);
          packRows(aKind, a, aStride, m, M, k, count, K, out, 4, buffer);
          if (isFloat<T>() && alpha != 1) scalePanel(out, count);
        }
        for (let n = n0; n < n1; n += 8) {
          const bp = bPanels + (<usize>((n - n0) * padded) << 2);
          for (let m = mc; m < mEnd; m += 4) {
            if (!isWanted(m, m + 1, n, n + 1)) continue;
            const ap = aPanels + (<usize>((m - mc) * padded) << 2);
            const cp = c + <usize>m * stride + (<usize>n << 2);
            if (m + 4 <= m1 && n + 8 <= n1) micro<T>(ap, bp, cp, stride, count, fresh);
            else microEdge<T>(ap, bp, cp, stride, count, fresh, min(4, m1 - m), min(8, n1 - n),
              corner);
          }
        }
      }
    }
  }
}

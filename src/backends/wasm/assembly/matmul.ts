// Matrix products by the core of gemm.ts, and what belongs to LLM.int8()'s.
import { ceilDiv, claim, dim, dtype, rowsPerItem, scalarF, scalarU, tensor } from "./call";
import { F32 } from "./call";
import { COLUMNS, gemm as product, GATHER, GATHER_INT8, INT8, PACKED, setGather, setHalf,
  setPacked } from "./gemm";

/** y[T, column…column+R) = x[T, C] · w[R, C]ᵀ */
export function matmul_nt(thread: i32): void {
  const T = dim(0), C = dim(1), R = dim(2), Y = dim(3);
  const y = tensor(2) + (<usize>scalarU(0) << 2);
  product<f32>(thread, F32, tensor(0), C, dtype(1), tensor(1), C, y, Y, T, R, C, false);
}

/** The same with w as packed codes, (q − zero) · scale. */
export function matmul_packed(thread: i32): void {
  const T = dim(0), C = dim(1), R = dim(2), P = dim(3), G = dim(4), Y = dim(5);
  const y = tensor(4) + (<usize>scalarU(1) << 2);
  setPacked(scalarU(0), max(1, C / G), tensor(2), tensor(3));
  product<f32>(thread, F32, tensor(0), C, PACKED, tensor(1), P, y, Y, T, R, C, false);
}

/** y i32[T, R] = x i8[T, C] · w i8[R, C]ᵀ, exact. */
export function matmul_int8(thread: i32): void {
  const T = dim(0), C = dim(1), R = dim(2);
  product<i32>(thread, INT8, tensor(0), C, INT8, tensor(1), C, tensor(2), R, T, R, C, false);
}

/** y[T, column…column+R) += x[:, columns] · (w[:, columns] · absmax/127)ᵀ */
export function matmul_columns(thread: i32): void {
  const T = dim(0), C = dim(1), D = dim(2), R = dim(3), Y = dim(4);
  const columns = tensor(1), y = tensor(4) + (<usize>scalarU(0) << 2);
  setGather(columns + 4, tensor(3));
  const count = min(D - 1, load<i32>(columns));
  if (count == 0) return;
  product<f32>(thread, GATHER, tensor(0), C, GATHER_INT8, tensor(2), C, y, Y, T, R, count, true);
}

/**
 * Where a rectangle begins whose row and column are scalars from `i` on; a row has `width`
 * elements.
 */
@inline
function viewOf(base: usize, width: i32, i: i32): usize {
  return base + (<usize>(<u32>scalarU(i) * <u32>width + <u32>scalarU(i + 1)) << 2);
}

/** c (+)= alpha · a · bᵀ on rectangles. */
export function gemm(thread: i32): void {
  const D = dim(1), E = dim(3), F = dim(5), M = scalarU(0), N = scalarU(1), K = scalarU(2);
  const aKind = scalarU(5) ? COLUMNS : F32, bKind = scalarU(8) ? COLUMNS : F32;
  const a = viewOf(tensor(0), D, 3), b = viewOf(tensor(1), E, 6), c = viewOf(tensor(2), F, 9);
  setHalf(scalarU(12), scalarU(13), scalarF(14));
  product<f32>(thread, aKind, a, D, bKind, b, E, c, F, M, N, K, scalarU(11) != 0);
  setHalf(0, 0, 1);
}

/** z[t, column+r] = y · a[t] · b[r] / 127² */
export function rescale_int8(thread: i32): void {
  const y = tensor(0), a = tensor(1), b = tensor(2), z = tensor(3);
  const T = dim(0), R = dim(1), Y = dim(2), column = scalarU(0);
  const rows = rowsPerItem(R), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const from = y + (<usize>(t * R) << 2), to = z + (<usize>(t * Y + column) << 2);
      const scale: f64 = <f64>load<f32>(a + (<usize>t << 2)) / 16129;
      const factor = f64x2.splat(scale);
      let r: i32 = 0;
      for (; r + 4 <= R; r += 4) {
        const v = v128.load(from + (<usize>r << 2)), w = v128.load(b + (<usize>r << 2));
        const low = f64x2.mul(f64x2.mul(f64x2.convert_low_i32x4_s(v), f64x2.promote_low_f32x4(w)),
          factor);
        const v2 = v128.shuffle<i64>(v, v, 1, 1), w2 = v128.shuffle<i64>(w, w, 1, 1);
        const high = f64x2.mul(f64x2.mul(f64x2.convert_low_i32x4_s(v2),
          f64x2.promote_low_f32x4(w2)), factor);
        v128.store(
          to + (<usize>r << 2),
          v128.shuffle<i64>(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high), 0, 2),
        );
      }
      for (; r < R; r++) {
        const at = <usize>r << 2;
        store<f32>(to + at, <f32>(<f64>load<i32>(from + at) * <f64>load<f32>(b + at) * scale));
      }
    }
  }
}

// Products of blocks that one thread makes by itself: by a BLAS where there is one, else through
// the micro-kernel of gemm.ts.
import { hasBlas, sgemm } from "./blas";
import { F32 } from "./call";
import { COLUMNS, micro, microEdge, packRows } from "./gemm";

/** Rows, columns and depth of what is packed at a time. */
const ROWS: i32 = 128, WIDTH: i32 = 256, DEPTH: i32 = 256;
const CORNER: usize = 128, BUFFER: usize = (4 * (256 + 16)) << 2;
const A_PANELS: usize = (128 * 256) << 2;

/** Bytes of scratch memory that a product takes. */
export const PRODUCT_BYTES: usize = CORNER + BUFFER + A_PANELS + ((256 * 256) << 2);

/**
 * c[m, n] = Σ a[m, k] · b[n, k], added to what is there if `add`; element k of a turned operand's
 * row r is at k · stride + r. `room` has `PRODUCT_BYTES`.
 */
export function product(aTurned: bool, bTurned: bool, m: i32, n: i32, k: i32, a: usize,
  aStride: i32, b: usize, bStride: i32, add: bool, c: usize, cStride: i32, room: usize): void {
  if (hasBlas()) {
    sgemm(aTurned, bTurned, m, n, k, 1, a, aStride, b, bStride, add ? 1 : 0, c, cStride);
    return;
  }
  const buffer = room + CORNER, aPanels = buffer + BUFFER, bPanels = aPanels + A_PANELS;
  const aKind = aTurned ? COLUMNS : F32, bKind = bTurned ? COLUMNS : F32;
  const stride = <usize>cStride << 2;
  for (let k0: i32 = 0; k0 < k; k0 += DEPTH) {
    const count = min(DEPTH, k - k0), padded = (count + 3) & -4, fresh = k0 == 0 && !add;
    for (let n0: i32 = 0; n0 < n; n0 += WIDTH) {
      const n1 = min(n, n0 + WIDTH);
      for (let j = n0; j < n1; j += 8) {
        const out = bPanels + (<usize>((j - n0) * padded) << 2);
        packRows(bKind, b, bStride, j, n, k0, count, k, out, 8, buffer);
        if (j + 4 < n1) packRows(bKind, b, bStride, j + 4, n, k0, count, k, out + 16, 8, buffer);
      }
      for (let m0: i32 = 0; m0 < m; m0 += ROWS) {
        const m1 = min(m, m0 + ROWS);
        for (let i = m0; i < m1; i += 4) {
          packRows(aKind, a, aStride, i, m, k0, count, k, aPanels + (<usize>((i - m0) * padded) << 2),
            4, buffer);
        }
        for (let j = n0; j < n1; j += 8) {
          const panel = bPanels + (<usize>((j - n0) * padded) << 2);
          for (let i = m0; i < m1; i += 4) {
            const from = aPanels + (<usize>((i - m0) * padded) << 2);
            const to = c + <usize>i * stride + (<usize>j << 2);
            if (i + 4 <= m && j + 8 <= n) micro<f32>(from, panel, to, stride, count, fresh);
            else microEdge<f32>(from, panel, to, stride, count, fresh, min(4, m - i), min(8, n - j),
              room);
          }
        }
      }
    }
  }
}

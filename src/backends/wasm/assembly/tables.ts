// Codes of levels that were found for the weights at hand, and the levels of codes. A table of K
// ascending levels serves some rows.
import { claim, dim, dtype, rowsPerItem, scalarU, scratch, tensor } from "./call";
import { run } from "./cast";

/** Elements that are widened at a time. */
const RUN: i32 = 4096;

/** Bytes of the bounds of a table of 256 levels, each in a vector. */
const BOUNDS: usize = 256 << 4;

/** How many of some bounds, each in a vector, four values are strictly above. */
@inline
function ranks4(x: v128, bounds: usize, end: usize): v128 {
  let rank = i32x4.splat(0);
  for (let b = bounds; b < end; b += 16) rank = i32x4.sub(rank, f32x4.gt(x, v128.load(b)));
  return rank;
}

/** An item is some rows. */
export function quantize_codebook(thread: i32): void {
  const w = tensor(0), tables = tensor(1), codes = tensor(2), type = dtype(0);
  const R = dim(0), C = dim(1), K = dim(3), rows = scalarU(0), step = rowsPerItem(C);
  const bounds = scratch(thread), end = bounds + (<usize>(K - 1) << 4), buffer = bounds + BOUNDS;
  for (let from = claim() * step; from < R; from = claim() * step) {
    let held: i32 = -1;
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const number = r / rows;
      if (number != held) {
        const table = tables + (<usize>(number * K) << 2);
        for (let k: i32 = 0; k < K - 1; k++) {
          const level = table + (<usize>k << 2);
          v128.store(bounds + (<usize>k << 4),
            f32x4.splat((load<f32>(level) + load<f32>(level, 4)) / 2));
        }
        held = number;
      }
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c);
        let p = run(w, r * C + c, n, type, buffer), out = codes + <usize>(r * C + c), i: i32 = 0;
        for (; i + 16 <= n; i += 16) {
          const a = i16x8.narrow_i32x4_u(ranks4(v128.load(p), bounds, end),
            ranks4(v128.load(p, 16), bounds, end));
          const b = i16x8.narrow_i32x4_u(ranks4(v128.load(p, 32), bounds, end),
            ranks4(v128.load(p, 48), bounds, end));
          v128.store(out, i8x16.narrow_i16x8_u(a, b));
          p += 64;
          out += 16;
        }
        for (; i < n; i++) {
          const rank = ranks4(v128.load32_splat(p), bounds, end);
          store<u8>(out, <u8>i32x4.extract_lane(rank, 0));
          p += 4;
          out += 1;
        }
      }
    }
  }
}

/** An item is some rows. */
export function dequantize_codebook(thread: i32): void {
  const codes = tensor(0), tables = tensor(1), out = tensor(2);
  const R = dim(0), C = dim(1), K = dim(3), rows = scalarU(0), step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const table = tables + (<usize>(r / rows * K) << 2);
      for (let i = r * C, end = i + C; i < end; i++) {
        const code = min<i32>(load<u8>(codes + <usize>i), K - 1);
        store<u32>(out + (<usize>i << 2), load<u32>(table + (<usize>code << 2)));
      }
    }
  }
}

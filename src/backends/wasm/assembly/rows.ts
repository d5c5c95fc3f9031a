// LLM.int8()'s activations: outlier columns found, rows rounded to int8 without them.
import { ceilDiv, claim, dim, dtype, finishItem, rowsPerItem, scalarF, scratch,
  tensor } from "./call";
import { run } from "./cast";
import { RUN } from "./range";

/**
 * max |x|, as bits, from `most` on, of what counts: columns whose skip is 0, and below `threshold`
 * in the others.
 */
function absmaxBits(p: usize, skip: usize, n: i32, threshold: f32, most: v128): v128 {
  const magnitude = i32x4.splat(0x7fffffff), none = i32x4.splat(0), limit = f32x4.splat(threshold);
  for (let i: i32 = 0; i < n; i += 4) {
    const size = v128.and(v128.load(p), magnitude);
    let counts = v128.or(i32x4.eq(v128.load(skip), none), f32x4.lt(size, limit));
    if (i + 4 > n) counts = v128.and(counts, i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(n - i)));
    most = i32x4.max_s(most, v128.and(size, counts));
    p += 16;
    skip += 16;
  }
  return most;
}

/** clamp(rn(x · factor), ±127) as integers, 0 in skipped columns. */
@inline
function code4(p: usize, skip: usize, factor: v128): v128 {
  const q = f32x4.nearest(f32x4.mul(v128.load(p), factor)), bound = f32x4.splat(127);
  const clamped = f32x4.pmax(f32x4.neg(bound), f32x4.pmin(bound, q));
  return v128.and(i32x4.trunc_sat_f32x4_s(clamped), i32x4.eq(v128.load(skip), i32x4.splat(0)));
}

export function quantize_rows_int8(thread: i32): void {
  const x = tensor(0), skip = tensor(1), codes = tensor(2), absmax = tensor(3);
  const type = dtype(0), buffer = scratch(thread);
  const T = dim(0), C = dim(1), step = rowsPerItem(C), threshold = scalarF(0);
  for (let from = claim() * step; from < T; from = claim() * step) {
    for (let t = from, last = min(T, from + step); t < last; t++) {
      let bits = i32x4.splat(0);
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c);
        bits = absmaxBits(run(x, t * C + c, n, type, buffer), skip + (<usize>c << 2), n, threshold,
          bits);
      }
      bits = i32x4.max_s(bits, v128.shuffle<i32>(bits, bits, 2, 3, 0, 1));
      const top = max(i32x4.extract_lane(bits, 0), i32x4.extract_lane(bits, 1));
      const most: f32 = top >= 0x7f800000 ? Infinity : reinterpret<f32>(top);
      store<f32>(absmax + (<usize>t << 2), most);
      if (most == 0 || most == Infinity) {
        memory.fill(codes + <usize>(t * C), 0, <usize>C);
        continue;
      }
      const factor = f32x4.splat(127 / most);
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c), p = run(x, t * C + c, n, type, buffer),
          s = skip + (<usize>c << 2);
        const out = codes + <usize>(t * C + c);
        let i: i32 = 0;
        for (; i + 16 <= n; i += 16) {
          const at = <usize>i << 2;
          const a = code4(p + at, s + at, factor), b = code4(p + at + 16, s + at + 16, factor);
          const c = code4(p + at + 32, s + at + 32, factor),
            d = code4(p + at + 48, s + at + 48, factor);
          v128.store(out + <usize>i, i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b),
            i16x8.narrow_i32x4_s(c, d)));
        }
        for (; i < n; i++) {
          const at = <usize>i << 2;
          store<i8>(out + <usize>i, <i8>i32x4.extract_lane(code4(p + at, s + at, factor), 0));
        }
      }
    }
  }
}

/**
 * An item is 256 columns, one at least; the thread that finishes the last one lists the columns
 * found.
 */
export function outlier_columns(thread: i32): void {
  const x = tensor(0), skip = tensor(1), columns = tensor(2), T = dim(0), C = dim(1),
    threshold = scalarF(0);
  const step: i32 = 256, items = max(1, ceilDiv(C, step)), flags = scratch(thread);
  const limit = f32x4.splat(threshold > 0 ? threshold : Infinity),
    magnitude = i32x4.splat(0x7fffffff);
  const any = threshold > 0;
  for (let item = claim(); item < items; item = claim()) {
    const c = item * step, n = min(step, C - c);
    memory.fill(flags, 0, <usize>step << 2);
    if (any) {
      for (let t: i32 = 0; t < T; t++) {
        const row = x + (<usize>(t * C + c) << 2);
        for (let at: usize = 0; at < <usize>n << 2; at += 16) {
          const hit = f32x4.ge(v128.and(v128.load(row + at), magnitude), limit);
          v128.store(flags + at, v128.or(v128.load(flags + at), hit));
        }
      }
    }
    for (let i: i32 = 0; i < n; i++) store<u32>(skip + (<usize>(c + i) << 2),
      load<u32>(flags + (<usize>i << 2)) & 1);
    if (finishItem() == items - 1) listColumns(skip, columns, C);
  }
}

function listColumns(skip: usize, columns: usize, C: i32): void {
  let count: i32 = 0;
  memory.fill(columns, 0, <usize>(C + 1) << 2);
  for (let c: i32 = 0; c < C; c++) {
    if (load<u32>(skip + (<usize>c << 2)) != 0) store<i32>(columns + (<usize>++count << 2), c);
  }
  store<i32>(columns, count);
}

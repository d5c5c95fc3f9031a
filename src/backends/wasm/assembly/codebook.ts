// NF4 and FP4 (two codes a byte, the first in the high nibble), and the 8-bit dynamic map.
// src/codebook.ts has the tables' origin.
import { BF16, ceilDiv, CHUNK, claim, dim, dtype, scalarF, scalarU, scratch, tensor } from "./call";
import { highBF16, lowBF16, run } from "./cast";

/** Levels by code: NF4, then FP4. */
export const TABLES = memory.data<u32>([
  0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
  0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
  0x00000000, 0x3baaaaab, 0x3f2aaaab, 0x3f800000, 0x3eaaaaab, 0x3f000000, 0x3e2aaaab, 0x3e800000,
  0x00000000, 0xbbaaaaab, 0xbf2aaaab, 0xbf800000, 0xbeaaaaab, 0xbf000000, 0xbe2aaaab, 0xbe800000,
]);

/** Codes in ascending order of their levels: NF4, then FP4. */
export const ORDERS = memory.data<u8>([
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
  11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3,
]);

/** Where bitsandbytes stops dividing: a block's absmax counts as at least this. */
const LEAST_ABSMAX: f32 = 1e-38;

/** Elements whose codes are made at a time, then packed. */
const RUN: i32 = 4096;

/** max |x| of a run of floats; more than any finite number if one is not finite. */
function absmaxOf(p: usize, n: i32): f32 {
  // Bits of magnitudes order as the magnitudes do, with infinity and NaN above all numbers.
  const magnitude = i32x4.splat(0x7fffffff);
  let most = i32x4.splat(0), i: i32 = 0;
  for (; i + 4 <= n; i += 4) {
    most = i32x4.max_s(most, v128.and(v128.load(p), magnitude));
    p += 16;
  }
  for (; i < n; i++) {
    most = i32x4.max_s(most, v128.and(v128.load32_splat(p), magnitude));
    p += 4;
  }
  most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 2, 3, 0, 1));
  most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
  const bits = i32x4.extract_lane(most, 0);
  return bits >= 0x7f800000 ? Infinity : reinterpret<f32>(bits);
}

/** max |x| of a run of n bf16 numbers, n a multiple of 8; see absmaxOf(). */
function absmaxOfBF16(p: usize, n: i32): f32 {
  const magnitude = i16x8.splat(0x7fff);
  let most = i16x8.splat(0);
  for (let i: i32 = 0; i < n; i += 8) {
    most = i16x8.max_s(most, v128.and(v128.load(p), magnitude));
    p += 16;
  }
  const low = lowBF16(most), high = highBF16(most);
  let top = i32x4.max_s(low, high);
  top = i32x4.max_s(top, v128.shuffle<i32>(top, top, 2, 3, 0, 1));
  top = i32x4.max_s(top, v128.shuffle<i32>(top, top, 1, 0, 3, 2));
  const bits = i32x4.extract_lane(top, 0);
  return bits >= 0x7f800000 ? Infinity : reinterpret<f32>(bits);
}

/**
 * The codes of NF4 of bf16 numbers are found from the bits they are stored as: from the distance of
 * a magnitude to the block's absmax, in steps of bf16. At which distances the code changes depends
 * on the seven bits of the absmax's mantissa alone (a power of two changes no rounding). Distances
 * are cut into BINS of 32, in none of which the code changes twice, those of negative numbers after
 * those of positive ones. A table for each mantissa has for each bin the code and, ROOM bytes on,
 * the first distance in it at which there is another.
 */
const MANTISSAS: i32 = 128, BINS: i32 = 20, ROOM: usize = 48, TABLE: usize = 2 * ROOM;

/** Of an absmax as bf16: where neither its reciprocal nor a bound leaves the normal numbers. */
const LEAST_BITS: i32 = 16 << 7, MOST_BITS: i32 = 240 << 7;

const TABLES_NF4 = memory.data(128 * 96);

/** Whether this thread has filled the tables. */
let made: bool = false;

/**
 * Fill the tables from 15 ascending bounds, each in a vector; seven are below 0. Every thread does,
 * and stores each byte once: they are the same, so that others may read meanwhile.
 */
function makeBins(bounds: usize, limits: usize): void {
  for (let m: i32 = 0; m < MANTISSAS; m++) {
    const top: i32 = 0x3f80 + m, absmax = reinterpret<f32>(<u32>top << 16), factor: f32 = 1 / absmax;
    for (let b: i32 = 0; b < 15; b++) {
      const bound = load<f32>(bounds + <usize>(16 * b)), far = abs<f32>(bound);
      // The largest magnitude that is on the side of 0 of the bound.
      let bits: i32 = <i32>(reinterpret<u32>(far * absmax) >> 16) + 1;
      for (;; bits--) {
        const level = reinterpret<f32>(<u32>bits << 16) * factor;
        if (bound < 0 ? level < far : level <= far) break;
      }
      // Distances under this one are beyond the bound, where the code is one further from 7.
      store<i32>(limits + <usize>(4 * b), top - bits);
    }
    const table = TABLES_NF4 + <usize>m * TABLE;
    for (let i: i32 = 0; i < 2 * BINS; i++) {
      const negative = i >= BINS, from = 32 * (negative ? i - BINS : i);
      let beyond: i32 = 0, inside: i32 = 0;
      for (let b = negative ? 0 : 7, end = b + (negative ? 7 : 8); b < end; b++) {
        const limit = load<i32>(limits + <usize>(4 * b)) - from;
        if (limit >= 32) beyond++;
        else if (limit > 0) inside = limit;
      }
      // A negative number takes the code after this one, unless its distance is below the limit.
      store<u8>(table + <usize>i, <u8>(negative ? 6 - beyond : 7 + beyond));
      store<u8>(table + <usize>i, <u8>inside, ROOM);
    }
  }
}

/** Whether an absmax is one that the bins are made for. */
@inline
function hasBins(absmax: f32): bool {
  const bits = reinterpret<u32>(absmax), half = <i32>(bits >> 16);
  return (bits & 0xffff) == 0 && half >= LEAST_BITS && half <= MOST_BITS;
}

/** A byte of a table of up to 48 for each of 16 places. */
@inline
function look(t0: v128, t1: v128, t2: v128, at: v128, at1: v128, at2: v128): v128 {
  return v128.or(i8x16.swizzle(t0, at), v128.or(i8x16.swizzle(t1, at1), i8x16.swizzle(t2, at2)));
}

/** codesOf() for n numbers of bf16 in NF4, n a multiple of 16, in blocks of this absmax. */
function codesNF4(p: usize, out: usize, n: i32, absmax: f32): void {
  const half = <i32>(reinterpret<u32>(absmax) >> 16), table = TABLES_NF4 + <usize>(half & 127) * TABLE;
  const c0 = v128.load(table), c1 = v128.load(table, 16), c2 = v128.load(table, 32);
  const d0 = v128.load(table, 48), d1 = v128.load(table, 64), d2 = v128.load(table, 80);
  const top = i16x8.splat(<i16>half), magnitude = i16x8.splat(0x7fff),
    last = i16x8.splat(<i16>(32 * BINS - 1)), rest = i16x8.splat(31);
  for (let i: i32 = 0; i < n; i += 16) {
    const v = v128.load(p), w = v128.load(p, 16);
    const negative = i8x16.lt_s(i8x16.narrow_i16x8_s(v, w), i8x16.splat(0));
    const far = i16x8.min_u(i16x8.sub_sat_u(top, v128.and(v, magnitude)), last);
    const far1 = i16x8.min_u(i16x8.sub_sat_u(top, v128.and(w, magnitude)), last);
    const bin = i8x16.narrow_i16x8_u(i16x8.shr_u(far, 5), i16x8.shr_u(far1, 5));
    const inside = i8x16.narrow_i16x8_u(v128.and(far, rest), v128.and(far1, rest));
    const at = i8x16.add(bin, v128.and(negative, i8x16.splat(<i8>BINS)));
    const at1 = i8x16.sub(at, i8x16.splat(16)), at2 = i8x16.sub(at, i8x16.splat(32));
    const beyond = i8x16.gt_s(look(d0, d1, d2, at, at1, at2), inside);
    const code = look(c0, c1, c2, at, at1, at2);
    v128.store(out, i8x16.sub(code, v128.xor(beyond, negative)));
    p += 32;
    out += 16;
  }
}

/**
 * The codes, a byte each, of n floats times (or, in a short last block, divided by) `factor`; up to
 * 15 more are written.
 */
function codesOf(p: usize, out: usize, n: i32, factor: f32, divide: bool, bounds: usize,
  order: v128): void {
  const f = f32x4.splat(factor);
  for (let i: i32 = 0; i < n; i += 16) {
    let x0 = v128.load(p), x1 = v128.load(p, 16), x2 = v128.load(p, 32), x3 = v128.load(p, 48);
    if (divide) x0 = f32x4.div(x0, f), x1 = f32x4.div(x1, f), x2 = f32x4.div(x2, f),
      x3 = f32x4.div(x3, f);
    else x0 = f32x4.mul(x0, f), x1 = f32x4.mul(x1, f), x2 = f32x4.mul(x2, f), x3 = f32x4.mul(x3, f);
    let r0 = i32x4.splat(0), r1 = r0, r2 = r0, r3 = r0;
    for (let b = bounds, end = bounds + 240; b < end; b += 16) {
      const bound = v128.load(b);
      r0 = i32x4.sub(r0, f32x4.gt(x0, bound)), r1 = i32x4.sub(r1, f32x4.gt(x1, bound));
      r2 = i32x4.sub(r2, f32x4.gt(x2, bound)), r3 = i32x4.sub(r3, f32x4.gt(x3, bound));
    }
    const rank = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_u(r0, r1), i16x8.narrow_i32x4_u(r2, r3));
    v128.store(out, i8x16.swizzle(order, rank));
    p += 64;
    out += 16;
  }
}

/** Pack n codes, a byte each, two a byte; up to 15 more bytes of input are read, 7 more written. */
function packNibbles(codes: usize, out: usize, n: i32): void {
  for (let i: i32 = 0; i < n; i += 16) {
    const v = v128.load(codes);
    const pairs = v128.and(v128.or(i16x8.shl(v, 4), i16x8.shr_u(v, 8)), i16x8.splat(0xff));
    v128.store64_lane(out, i8x16.narrow_i16x8_u(pairs, pairs), 0);
    codes += 16;
    out += 8;
  }
}

/** An item is a run of whole blocks with an even number of elements (or the end of the tensor). */
export function quantize_4bit(thread: i32): void {
  const w = tensor(0), codes = tensor(1), absmax = tensor(2), type = dtype(0), N = dim(0);
  const block = scalarU(0), kind = scalarU(1), given = scalarU(2) != 0;
  const table = TABLES + <usize>(64 * kind), order = v128.load(ORDERS + <usize>(16 * kind));
  const bounds = scratch(thread), buffer = bounds + 256,
    bytes = buffer + ((RUN + 16) << 2);
  for (let i: i32 = 0; i < 15; i++) {
    const lower = load<u8>(ORDERS + <usize>(16 * kind + i)),
      upper = load<u8>(ORDERS + <usize>(16 * kind + i + 1));
    const sum = load<f32>(table + (<usize>lower << 2)) + load<f32>(table + (<usize>upper << 2));
    v128.store(bounds + <usize>(16 * i), f32x4.splat(sum / 2));
  }
  const fast = kind == 0 && type == BF16 && block % 16 == 0;
  if (fast && !made) {
    makeBins(bounds, buffer);
    made = true;
  }
  const zero: u8 = kind == 0 ? 7 : 0;
  const step = block >= N ? N : ceilDiv(CHUNK, 2 * block) * 2 * block;
  for (let from = claim() * step; from < N; from = claim() * step) {
    const last = min(N, from + step);
    for (let at = from; at < last && !given; at += block) {
      const end = min(N, at + block);
      let most: f32 = 0;
      for (let i = at; i < end; i += RUN) {
        const n = min(RUN, end - i);
        most = max<f32>(most, fast && n % 8 == 0 ? absmaxOfBF16(w + (<usize>i << 1), n)
          : absmaxOf(run(w, i, n, type, buffer), n));
      }
      store<f32>(absmax + (<usize>(at / block) << 2), most);
    }
    for (let at = from; at < last; at += RUN) {
      const stop = min(last, at + RUN);
      for (let i = at; i < stop;) {
        const b = i / block, full = N - b * block >= block, end = min(stop, (b + 1) * block);
        const most = load<f32>(absmax + (<usize>b << 2)), out = bytes + <usize>(i - at);
        if (most == Infinity) memory.fill(out, zero, <usize>(end - i));
        else if (fast && full && hasBins(most)) {
          codesNF4(w + (<usize>i << 1), out, end - i, most);
        } else {
          const divisor = max<f32>(most, LEAST_ABSMAX);
          const p = run(w, i, end - i, type, buffer);
          codesOf(p, out, end - i, full ? 1 / divisor : divisor, !full, bounds, order);
        }
        i = end;
      }
      if (((stop - at) & 1) != 0) store<u8>(bytes + <usize>(stop - at), zero);
      if (stop == N || stop - at == RUN) packNibbles(bytes, codes + <usize>(at >> 1), stop - at);
      else packTail(bytes, codes + <usize>(at >> 1), stop - at);
    }
  }
}

/** Pack an even number of codes without a byte too many: another item's follow. */
function packTail(codes: usize, out: usize, n: i32): void {
  const whole = n & -16;
  packNibbles(codes, out, whole);
  for (let i = whole; i < n; i += 2) {
    store<u8>(out + <usize>(i >> 1),
      (load<u8>(codes + <usize>i) << 4) | load<u8>(codes + <usize>i, 1));
  }
}

export function dequantize_4bit(thread: i32): void {
  const codes = tensor(0), absmax = tensor(1), out = tensor(2), N = dim(2), block = scalarU(0);
  const table = TABLES + <usize>(64 * scalarU(1));
  // Byte k of the 16 levels, for k = 0 … 3: a level is looked up a byte at a time.
  let t0 = i32x4.splat(0), t1 = t0, t2 = t0, t3 = t0;
  const planes = scratch(thread);
  for (let i: usize = 0; i < 16; i++) {
    for (let k: usize = 0; k < 4; k++) store<u8>(planes + 16 * k + i, load<u8>(table + 4 * i + k));
  }
  t0 = v128.load(planes), t1 = v128.load(planes, 16), t2 = v128.load(planes, 32),
    t3 = v128.load(planes, 48);
  const step: i32 = CHUNK;
  for (let from = claim() * step; from < N; from = claim() * step) {
    for (let i = from, last = min(N, from + step); i < last;) {
      const b = i / block, scale = v128.load32_splat(absmax + (<usize>b << 2)),
        end = min(last, (b + 1) * block);
      for (; (i & 1) == 0 && i + 16 <= end; i += 16) {
        const v = v128.load64_zero(codes + <usize>(i >> 1));
        const low = v128.and(v, i8x16.splat(15)), high = i8x16.shr_u(v, 4);
        const c = v128.shuffle<i8>(high, low, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
          23);
        const b0 = i8x16.swizzle(t0, c), b1 = i8x16.swizzle(t1, c);
        const b2 = i8x16.swizzle(t2, c), b3 = i8x16.swizzle(t3, c);
        const l01 = v128.shuffle<i8>(b0, b1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
          23);
        const h01 = v128.shuffle<i8>(b0, b1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
          15, 31);
        const l23 = v128.shuffle<i8>(b2, b3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
          23);
        const h23 = v128.shuffle<i8>(b2, b3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
          15, 31);
        const to = out + (<usize>i << 2);
        v128.store(to, f32x4.mul(v128.shuffle<i16>(l01, l23, 0, 8, 1, 9, 2, 10, 3, 11), scale));
        v128.store(to, f32x4.mul(v128.shuffle<i16>(l01, l23, 4, 12, 5, 13, 6, 14, 7, 15), scale),
          16);
        v128.store(to, f32x4.mul(v128.shuffle<i16>(h01, h23, 0, 8, 1, 9, 2, 10, 3, 11), scale), 32);
        v128.store(to, f32x4.mul(v128.shuffle<i16>(h01, h23, 4, 12, 5, 13, 6, 14, 7, 15), scale),
          48);
      }
      for (const stop = min(end, i + 15); i < stop; i++) {
        const byte = load<u8>(codes + <usize>(i >> 1)), code = (i & 1) != 0 ? byte & 15 : byte >> 4;
        store<f32>(out + (<usize>i << 2),
          load<f32>(table + (<usize>code << 2)) * f32x4.extract_lane(scale, 0));
      }
    }
  }
}

/** How many of 255 ascending bounds are strictly below a level, without a branch to mispredict. */
@inline
function rankOf(bounds: usize, level: f32): i32 {
  let rank: i32 = 0;
  for (let step: i32 = 128; step > 0; step >>= 1) {
    rank += select(step, 0, level > load<f32>(bounds + (<usize>(rank + step - 1) << 2)));
  }
  return rank;
}

export function quantize_dynamic8(thread: i32): void {
  const x = tensor(0), table = tensor(1), codes = tensor(2), absmax = tensor(3);
  const N = dim(0), B = dim(2), block = scalarU(0), offset = scalarF(1);
  const bounds = scratch(thread);
  for (let i: usize = 0; i < 255 << 2; i += 4) {
    store<f32>(bounds + i, (load<f32>(table + i) + load<f32>(table + i, 4)) / 2);
  }
  for (let b = claim(); b < B; b = claim()) {
    const from = b * block, end = min(N, from + block), full = end - from == block;
    let top = i32x4.splat(0);
    for (let i = from; i < end; i++) {
      const r = f32x4.sub(v128.load32_splat(x + (<usize>i << 2)), f32x4.splat(offset));
      top = i32x4.max_s(top, v128.and(r, i32x4.splat(0x7fffffff)));
    }
    const bits = i32x4.extract_lane(top, 0);
    const most: f32 = bits >= 0x7f800000 ? Infinity : reinterpret<f32>(bits);
    const divisor = max<f32>(most, LEAST_ABSMAX), reciprocal = <f32>1 / divisor;
    store<f32>(absmax + (<usize>b << 2), most);
    for (let i = from; i < end; i++) {
      const r = load<f32>(x + (<usize>i << 2)) - offset,
        level: f32 = full ? r * reciprocal : r / divisor;
      store<u8>(codes + <usize>i, <u8>rankOf(bounds, most == Infinity ? <f32>0 : level));
    }
  }
}

export function dequantize_dynamic8(thread: i32): void {
  const codes = tensor(0), absmax = tensor(1), table = tensor(2), out = tensor(3);
  const N = dim(0), B = dim(1), block = scalarU(0), offset = scalarF(1);
  for (let b = claim(); b < B; b = claim()) {
    const scale = load<f32>(absmax + (<usize>b << 2));
    for (let i = b * block, end = min(N, i + block); i < end; i++) {
      const level = load<f32>(table + (<usize>load<u8>(codes + <usize>i) << 2));
      store<f32>(out + (<usize>i << 2), level * scale + offset);
    }
  }
}

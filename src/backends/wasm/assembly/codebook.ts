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
 * How levels from −1 to 1 are found: they are cut into BINS equal parts, in none of which there is
 * more than one bound between codes. Of each part: how many bounds are below it, and the four bytes
 * of the bound in it, or of one that nothing exceeds.
 */
const BINS: i32 = 32, BIN_TABLES: usize = 5;

/** Fill the tables of the bins, BINS bytes each, from 15 ascending bounds, each in a vector. */
function makeBins(bins: usize, bounds: usize): void {
  let below: i32 = 0;
  for (let i: i32 = 0; i < BINS; i++) {
    const end = <f32>(i + 1 - BINS / 2) / <f32>(BINS / 2);
    store<u8>(bins + <usize>i, <u8>below);
    let bound: f32 = Infinity;
    if (below < 15) {
      const next = load<f32>(bounds + <usize>(16 * below));
      if (next < end) bound = next, below++;
    }
    const bits = reinterpret<u32>(bound);
    for (let k: i32 = 0; k < 4; k++) {
      store<u8>(bins + <usize>(BINS * (k + 1) + i), <u8>(bits >> (8 * k)));
    }
  }
}

/** The bins of four levels. Which of two a level on their border counts to makes no difference. */
@inline
function binsOf(x: v128): v128 {
  // Above 1 there is the last bin; NaN stays NaN, which becomes a number below 0, as what is below
  // −1 does: the first.
  const most = f32x4.pmin(x, f32x4.splat(1));
  const half = f32x4.splat(<f32>(BINS / 2));
  return i32x4.relaxed_trunc_f32x4_s(f32x4.add(f32x4.mul(most, half), half));
}

/** A byte of one of the tables for each of 16 bins; `upper` is the bins less 16. */
@inline
function look(table: usize, bin: v128, upper: v128): v128 {
  return v128.or(i8x16.swizzle(v128.load(table), bin), i8x16.swizzle(v128.load(table, 16), upper));
}

/** How many bounds each of 16 levels exceeds, a byte each: the codes of NF4. */
@inline
function ranksOf(bins: usize, x0: v128, x1: v128, x2: v128, x3: v128): v128 {
  const found = i8x16.narrow_i16x8_u(
    i16x8.narrow_i32x4_s(binsOf(x0), binsOf(x1)), i16x8.narrow_i32x4_s(binsOf(x2), binsOf(x3)));
  const bin = i8x16.min_u(found, i8x16.splat(<i8>(BINS - 1)));
  const upper = i8x16.sub(bin, i8x16.splat(16));
  const b0 = look(bins + 32, bin, upper), b1 = look(bins + 64, bin, upper);
  const b2 = look(bins + 96, bin, upper), b3 = look(bins + 128, bin, upper);
  const l01 = v128.shuffle<i8>(b0, b1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const l23 = v128.shuffle<i8>(b2, b3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const h01 = v128.shuffle<i8>(b0, b1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
    31);
  const h23 = v128.shuffle<i8>(b2, b3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
    31);
  const c0 = f32x4.gt(x0, v128.shuffle<i16>(l01, l23, 0, 8, 1, 9, 2, 10, 3, 11));
  const c1 = f32x4.gt(x1, v128.shuffle<i16>(l01, l23, 4, 12, 5, 13, 6, 14, 7, 15));
  const c2 = f32x4.gt(x2, v128.shuffle<i16>(h01, h23, 0, 8, 1, 9, 2, 10, 3, 11));
  const c3 = f32x4.gt(x3, v128.shuffle<i16>(h01, h23, 4, 12, 5, 13, 6, 14, 7, 15));
  const more = i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(c0, c1), i16x8.narrow_i32x4_s(c2, c3));
  return i8x16.sub(look(bins, bin, upper), more);
}

/** codesOf() for n numbers of bf16 in NF4, n a multiple of 16, times `factor`. */
function codesNF4(p: usize, out: usize, n: i32, factor: f32, bins: usize): void {
  const f = f32x4.splat(factor);
  for (let i: i32 = 0; i < n; i += 16) {
    const v = v128.load(p), w = v128.load(p, 16);
    v128.store(out, ranksOf(bins, f32x4.mul(lowBF16(v), f), f32x4.mul(highBF16(v), f),
      f32x4.mul(lowBF16(w), f), f32x4.mul(highBF16(w), f)));
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
  const bounds = scratch(thread), bins = bounds + 256,
    buffer = bins + <usize>BINS * BIN_TABLES, bytes = buffer + ((RUN + 16) << 2);
  for (let i: i32 = 0; i < 15; i++) {
    const lower = load<u8>(ORDERS + <usize>(16 * kind + i)),
      upper = load<u8>(ORDERS + <usize>(16 * kind + i + 1));
    const sum = load<f32>(table + (<usize>lower << 2)) + load<f32>(table + (<usize>upper << 2));
    v128.store(bounds + <usize>(16 * i), f32x4.splat(sum / 2));
  }
  // Two bounds of FP4, 0 and the one above it, are too close for bins.
  const fast = kind == 0 && type == BF16 && block % 16 == 0;
  if (fast) makeBins(bins, bounds);
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
        else if (fast && full) {
          codesNF4(w + (<usize>i << 1), out, end - i, 1 / max<f32>(most, LEAST_ABSMAX), bins);
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

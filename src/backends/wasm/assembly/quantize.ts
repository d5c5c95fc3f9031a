// Scales of tiles, and integer and E4M3 codes by them. Divisions are real f32 divisions and
// rounding is half to even, so codes equal the definition's.
import { BF16, CHUNK, claim, claimChunk, dim, dtype, F32, rowsPerItem, scalarU, scratch,
  tensor } from "./call";
import { bytesOf, highBF16, lowBF16, narrowF8, run, valueF8 } from "./cast";
import { extendRange, highest, lowest, RUN, startRange } from "./range";

/** low and high of each tile; a tile that holds NaN or an infinity gets −inf and +inf. */
export function tile_range(thread: i32): void {
  const w = tensor(0), low = tensor(1), high = tensor(2), type = dtype(0), buffer = scratch(thread);
  const R = dim(0), C = dim(1), A = dim(2), B = dim(3), rows = scalarU(0), columns = scalarU(1);
  for (let a = claim(); a < A; a = claim()) {
    const from = a * rows, to = min(R, from + rows);
    for (let b: i32 = 0; b < B; b++) {
      const first = b * columns, end = min(C, first + columns);
      startRange();
      for (let r = from; r < to; r++) extendRange(w, r * C + first, end - first, type, buffer);
      const at = <usize>(a * B + b) << 2;
      store<f32>(low + at, lowest());
      store<f32>(high + at, highest());
    }
  }
}

/** s rounded half to even to the dtype scales are stored in (0 f32, 1 bf16, 2 f16). */
export function roundScale(s: f32, dtype: i32): f32 {
  if (dtype == 0) return s;
  const bits = reinterpret<u32>(s);
  if (dtype == 1) return reinterpret<f32>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
  if (s >= 65520) return Infinity;
  if (bits >= 0x38800000) return reinterpret<f32>((bits + 0xfff + ((bits >> 13) & 1)) & 0xffffe000);
  return s + 0.5 - 0.5;
}

/** The same of four positive numbers that are neither subnormal nor too large in that dtype. */
@inline
export function roundScale4(s: v128, dtype: i32): v128 {
  if (dtype == 0) return s;
  const cut = dtype == 1 ? 16 : 13, unit = 1 << cut;
  const odd = v128.and(i32x4.shr_u(s, cut), i32x4.splat(1));
  return v128.and(i32x4.add(i32x4.add(s, i32x4.splat((unit >> 1) - 1)), odd), i32x4.splat(-unit));
}

/** The smallest normal number of that dtype. */
@inline
export function smallestScale(dtype: i32): f32 {
  return dtype == 2 ? reinterpret<f32>(0x38800000) : reinterpret<f32>(0x00800000);
}

/** y[r, c] ·= factor[r], rounded as scales are. */
export function scale_rows(thread: i32): void {
  const factor = tensor(0), y = tensor(1), R = dim(0), C = dim(1), type = scalarU(0),
    step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const f = load<f32>(factor + (<usize>r << 2));
      for (let c: i32 = 0; c < C; c++) {
        const p = y + (<usize>(r * C + c) << 2), value = load<f32>(p) * f;
        store<f32>(p, copysign<f32>(roundScale(abs<f32>(value), type), value));
      }
    }
  }
}

const AFFINE: i32 = 2;

/** What the range of a tile is divided by. */
@inline
function stepsOf(bits: i32, grid: i32): f32 {
  const levels = <f32>((1 << bits) - 1);
  return grid == AFFINE ? levels
    : grid == 0 ? levels / 2 : grid == 1 ? <f32>((1 << (bits - 1)) - 1) : 448;
}

/**
 * The scale of a tile with this range, as it is stored: grid 0 full, 1 restricted, 2 affine, 3
 * E4M3.
 */
export function scaleOf(low: f32, high: f32, bits: i32, grid: i32, dtype: i32): f32 {
  const span = grid == AFFINE ? max<f32>(0, high) - min<f32>(0, low)
    : max<f32>(abs<f32>(low), abs<f32>(high));
  if (span == 0) return 1;
  return max<f32>(roundScale(span / stepsOf(bits, grid), dtype), smallestScale(dtype));
}

/** The zero point of an affine tile; 0 on a symmetric grid, and where the scale is infinite. */
export function zeroOf(low: f32, scale: f32, bits: i32, grid: i32): i32 {
  if (grid != AFFINE || scale == Infinity) return 0;
  const least = <f32>-(1 << (bits - 1));
  return <i32>min<f32>(max<f32>(nearest<f32>(least - min<f32>(0, low) / scale), least), -1 - least);
}

/** roundScale() of four numbers that are not negative. */
@inline
function roundScales(s: v128, dtype: i32): v128 {
  if (dtype == 0) return s;
  if (dtype == 1) {
    const odd = v128.and(i32x4.shr_u(s, 16), i32x4.splat(1));
    return v128.and(i32x4.add(s, i32x4.add(odd, i32x4.splat(0x7fff))), i32x4.splat(0xffff0000));
  }
  const odd = v128.and(i32x4.shr_u(s, 13), i32x4.splat(1)), half = f32x4.splat(0.5);
  const raised = i32x4.add(s, i32x4.add(odd, i32x4.splat(0xfff)));
  const normal = v128.and(raised, i32x4.splat(0xffffe000));
  const small = f32x4.sub(f32x4.add(s, half), half);
  const found = v128.bitselect(normal, small, i32x4.ge_s(s, i32x4.splat(0x38800000)));
  return v128.bitselect(f32x4.splat(Infinity), found, f32x4.ge(s, f32x4.splat(65520)));
}

/** scaleOf() of four tiles on a symmetric grid. */
@inline
function symmetricScales(low: v128, high: v128, steps: v128, least: v128, dtype: i32): v128 {
  const span = f32x4.max(f32x4.abs(low), f32x4.abs(high));
  const scale = f32x4.max(roundScales(f32x4.div(span, steps), dtype), least);
  return v128.bitselect(f32x4.splat(1), scale, f32x4.eq(span, f32x4.splat(0)));
}

export function scale_params(thread: i32): void {
  const low = tensor(0), high = tensor(1), scale = tensor(2), zero = tensor(3), n = dim(0) * dim(1);
  const bits = scalarU(0), grid = scalarU(1), dtype = scalarU(2), step: i32 = 1024;
  for (let from = claim() * step; from < n; from = claim() * step) {
    const end = min(n, from + step);
    let i = from;
    if (grid != AFFINE) {
      const steps = f32x4.splat(stepsOf(bits, grid)), least = f32x4.splat(smallestScale(dtype));
      for (; i + 4 <= end; i += 4) {
        const at = <usize>i << 2, l = v128.load(low + at), h = v128.load(high + at);
        v128.store(scale + at, symmetricScales(l, h, steps, least, dtype));
        store<u32>(zero + <usize>i, 0);
      }
    }
    for (; i < end; i++) {
      const at = <usize>i << 2, l = load<f32>(low + at);
      const s = scaleOf(l, load<f32>(high + at), bits, grid, dtype);
      store<f32>(scale + at, s);
      store<i8>(zero + <usize>i, <i8>zeroOf(l, s, bits, grid));
    }
  }
}

/** The codes of four finite weights, as floats: clamp(rn(w/s) + zero). */
@inline
export function codes4(w: v128, scale: v128, zero: v128, least: v128, most: v128): v128 {
  return f32x4.pmin(most, f32x4.pmax(least, f32x4.add(f32x4.nearest(f32x4.div(w, scale)), zero)));
}

/** From here on the unit in the last place of an f32 is one: adding it rounds half to even. */
const ROUNDER: f32 = 12582912;

/**
 * The same as integers; a quotient that is NaN counts as 0. `least` and `most` are whole numbers,
 * less the zero point, so that it is the same to clamp before rounding; `bias` is the bits of
 * ROUNDER, less the zero point.
 */
@inline
function int4(w: v128, scale: v128, bias: v128, least: v128, most: v128): v128 {
  const quotient = f32x4.div(w, scale);
  const q = v128.and(quotient, f32x4.eq(quotient, quotient));
  const clamped = f32x4.pmin(most, f32x4.pmax(least, q));
  return i32x4.sub(f32x4.add(clamped, f32x4.splat(ROUNDER)), bias);
}

@inline
function narrow4(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Codes of elements [at, at + n) of a weight. */
function quantizeRun(base: usize, at: i32, n: i32, type: i32, buffer: usize, out: usize, s: f32,
  z: i32, qmin: i32, qmax: i32): void {
  const scale = f32x4.splat(s), bias = i32x4.splat(reinterpret<i32>(ROUNDER) - z);
  const least = f32x4.splat(<f32>(qmin - z)), most = f32x4.splat(<f32>(qmax - z));
  if (type == BF16) {
    let p = base + (<usize>at << 1);
    for (; n >= 16; n -= 16, at += 16, p += 32, out += 16) {
      const v = v128.load(p), x = v128.load(p, 16);
      v128.store(out, narrow4(
        int4(lowBF16(v), scale, bias, least, most), int4(highBF16(v), scale, bias, least, most),
        int4(lowBF16(x), scale, bias, least, most), int4(highBF16(x), scale, bias, least, most)));
    }
    if (n == 0) return;
  }
  let w = run(base, at, n, type, buffer);
  for (; n >= 16; n -= 16, w += 64, out += 16) {
    v128.store(out, narrow4(
      int4(v128.load(w), scale, bias, least, most),
      int4(v128.load(w, 16), scale, bias, least, most),
      int4(v128.load(w, 32), scale, bias, least, most),
      int4(v128.load(w, 48), scale, bias, least, most)));
  }
  for (; n > 0; n--, w += 4) {
    store<i8>(out++, <i8>i32x4.extract_lane(int4(v128.load(w), scale, bias, least, most), 0));
  }
}

export function quantize_int(thread: i32): void {
  const w = tensor(0), scale = tensor(1), zero = tensor(2), out = tensor(3), type = dtype(0),
    buffer = scratch(thread);
  const R = dim(0), C = dim(1), B = dim(3);
  const bits = scalarU(0), grid = scalarU(1), rows = scalarU(2), columns = scalarU(3);
  const qmax = (1 << (bits - 1)) - 1, qmin = grid == 1 ? -qmax : -qmax - 1, step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const tiles = r / rows * B;
      for (let b: i32 = 0; b < B; b++) {
        const s = load<f32>(scale + (<usize>(tiles + b) << 2)),
          z = load<i8>(zero + <usize>(tiles + b));
        for (let c = b * columns, end = min(C, c + columns); c < end; c += RUN) {
          const n = min(RUN, end - c), at = r * C + c;
          quantizeRun(w, at, n, type, buffer, out + <usize>at, s, z, qmin, qmax);
        }
      }
    }
  }
}

/** (q − zero) · s of a run of n codes. */
function dequantizeRun(codes: usize, out: usize, n: i32, s: f32, z: i32): void {
  const scale = f32x4.splat(s), zero = i16x8.splat(<i16>z);
  let i: i32 = 0;
  for (; i + 8 <= n; i += 8) {
    const q = i16x8.sub(i16x8.extend_low_i8x16_s(v128.load64_zero(codes)), zero);
    v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)), scale));
    v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), scale), 16);
    codes += 8;
    out += 32;
  }
  for (; i < n; i++) {
    store<f32>(out, <f32>(<i32>load<i8>(codes++) - z) * s);
    out += 4;
  }
}

export function dequantize_int(thread: i32): void {
  const codes = tensor(0), scale = tensor(1), zero = tensor(2), out = tensor(3);
  const R = dim(0), C = dim(1), B = dim(3), rows = scalarU(0), columns = scalarU(1);
  const step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const tiles = r / rows * B;
      for (let b: i32 = 0; b < B; b++) {
        const c = b * columns, at = r * C + c, n = min(columns, C - c);
        const s = load<f32>(scale + (<usize>(tiles + b) << 2)),
          z = load<i8>(zero + <usize>(tiles + b));
        dequantizeRun(codes + <usize>at, out + (<usize>at << 2), n, s, z);
      }
    }
  }
}

export function quantize_fp8(thread: i32): void {
  const w = tensor(0), scale = tensor(1), out = tensor(2), type = dtype(0),
    buffer = scratch(thread);
  const R = dim(0), C = dim(1), B = dim(3), rows = scalarU(0), columns = scalarU(1);
  const step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const tiles = r / rows * B;
      for (let b: i32 = 0; b < B; b++) {
        const s = v128.load32_splat(scale + (<usize>(tiles + b) << 2));
        for (let c = b * columns, end = min(C, c + columns); c < end; c += RUN) {
          const n = min(RUN, end - c), at = r * C + c;
          let p = run(w, at, n, type, buffer), to = out + <usize>at, i: i32 = 0;
          for (; i + 16 <= n; i += 16) {
            const v0 = narrowF8(f32x4.div(v128.load(p), s)),
              v1 = narrowF8(f32x4.div(v128.load(p, 16), s));
            const v2 = narrowF8(f32x4.div(v128.load(p, 32), s)),
              v3 = narrowF8(f32x4.div(v128.load(p, 48), s));
            v128.store(to, bytesOf(v0, v1, v2, v3));
            p += 64;
            to += 16;
          }
          for (; i < n; i++) {
            store<u8>(to++, <u8>i32x4.extract_lane(narrowF8(f32x4.div(v128.load(p), s)), 0));
            p += 4;
          }
        }
      }
    }
  }
}

export function dequantize_fp8(thread: i32): void {
  const codes = tensor(0), scale = tensor(1), out = tensor(2);
  const R = dim(0), C = dim(1), B = dim(3), rows = scalarU(0), columns = scalarU(1);
  const step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const tiles = r / rows * B;
      for (let b: i32 = 0; b < B; b++) {
        const s = v128.load32_splat(scale + (<usize>(tiles + b) << 2)),
          end = min(C, (b + 1) * columns);
        for (let c = b * columns; c < end; c++) {
          const at = r * C + c;
          const four = end - c >= 4, bits = v128.load32_zero(codes + <usize>at);
          const v = f32x4.mul(valueF8(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(bits))), s);
          if (four) {
            v128.store(out + (<usize>at << 2), v);
            c += 3;
          } else store<f32>(out + (<usize>at << 2), f32x4.extract_lane(v, 0));
        }
      }
    }
  }
}

/**
 * The levels of four values: kind 0 the full integer grid whose codes reach from −half − ½ to half
 * − ½, 1 E4M3.
 */
@inline
function levels4(v: v128, scale: v128, kind: i32, half: f32): v128 {
  const q = f32x4.div(v, scale);
  if (kind != 0) return valueF8(narrowF8(q));
  return f32x4.pmin(f32x4.splat(half - 0.5),
    f32x4.pmax(f32x4.splat(-(half + 0.5)), f32x4.nearest(q)));
}

/** Values rounded by one scale, and back. */
export function fake_quantize(thread: i32): void {
  const x = tensor(0), scale = v128.load32_splat(tensor(1)), y = tensor(2);
  const N = dim(0), kind = scalarU(0), half: f32 = <f32>((1 << scalarU(1)) - 1) / 2;
  for (let from = claimChunk(); from < N; from = claimChunk()) {
    for (let i = from, last = min(N, from + CHUNK); i < last; i += 4) {
      const at = <usize>i << 2;
      v128.store(y + at, f32x4.mul(levels4(v128.load(x + at), scale, kind, half), scale));
    }
  }
}

/**
 * Rows rounded to what an int8 or E4M3 runtime would see, and back: kind 0 the full integer grid, 1
 * E4M3.
 */
export function fake_quantize_rows(thread: i32): void {
  const x = tensor(0), y = tensor(1), T = dim(0), C = dim(1), kind = scalarU(0), bits = scalarU(1);
  const step = rowsPerItem(C);
  for (let from = claim() * step; from < T; from = claim() * step) {
    for (let t = from, last = min(T, from + step); t < last; t++) {
      const p = x + (<usize>(t * C) << 2), out = y + (<usize>(t * C) << 2);
      startRange();
      extendRange(p, 0, C, F32, 0);
      const amax = max<f32>(abs<f32>(lowest()), abs<f32>(highest()));
      const half: f32 = <f32>((1 << bits) - 1) / 2;
      const s = amax / (kind == 0 ? half : 448), scale = f32x4.splat(s);
      let i: i32 = 0;
      for (; i < C; i += 4) {
        const q = levels4(v128.load(p + (<usize>i << 2)), scale, kind, half);
        const r = s == 0 ? f32x4.splat(0) : f32x4.mul(q, scale);
        if (i + 4 <= C) v128.store(out + (<usize>i << 2), r);
        else {
          v128.store32_lane(out + (<usize>i << 2), r, 0);
          if (i + 1 < C) v128.store32_lane(out + (<usize>i << 2), r, 1, 4);
          if (i + 2 < C) v128.store32_lane(out + (<usize>i << 2), r, 2, 8);
        }
      }
    }
  }
}

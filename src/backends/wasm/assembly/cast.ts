// Dtypes: rows of bf16, f16 and f8 widened to f32 (exact), and f32 narrowed (round half to even).
import { BF16, CHUNK, claimChunk, dim, dtype, F16, F32, F8, tensor } from "./call";

/** bytes per element of a float dtype, as a shift */
@inline
function shiftOf(type: i32): i32 {
  return type == F32 ? 2 : type == F8 ? 0 : 1;
}

/** f16 bits in u32 lanes → f32. Scaling by 2^112 moves the exponent and makes subnormals right. */
@inline
function widenF16(bits: v128): v128 {
  const magnitude = i32x4.shl(v128.and(bits, i32x4.splat(0x7fff)), 13);
  const scaled = f32x4.mul(magnitude, f32x4.splat(reinterpret<f32>(0x77800000)));
  const special = v128.and(i32x4.ge_s(magnitude, i32x4.splat(0x0f800000)), i32x4.splat(0x7f800000));
  const sign = i32x4.shl(v128.and(bits, i32x4.splat(0x8000)), 16);
  return v128.or(v128.or(scaled, special), sign);
}

/** E4M3 bits in u32 lanes → f32; 0x7f and 0xff are NaN. */
@inline
function widenF8(bits: v128): v128 {
  const magnitude = v128.and(bits, i32x4.splat(0x7f));
  const scaled = f32x4.mul(i32x4.shl(magnitude, 20), f32x4.splat(reinterpret<f32>(0x7b800000)));
  const nan = v128.and(i32x4.eq(magnitude, i32x4.splat(0x7f)), i32x4.splat(0x7fc00000));
  return v128.or(v128.or(scaled, nan), i32x4.shl(v128.and(bits, i32x4.splat(0x80)), 24));
}

/** The first, or the last, four of eight bf16 numbers as f32. */
@inline
export function lowBF16(v: v128): v128 {
  return v128.shuffle<i16>(i32x4.splat(0), v, 0, 8, 1, 9, 2, 10, 3, 11);
}

@inline
export function highBF16(v: v128): v128 {
  return v128.shuffle<i16>(i32x4.splat(0), v, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** Write `n` widened elements to `out`, and up to 15 more. */
export function widenRun(out: usize, source: usize, n: i32, type: i32): void {
  if (type == BF16) {
    for (let i: i32 = 0; i < n; i += 8) {
      const v = v128.load(source);
      v128.store(out, lowBF16(v));
      v128.store(out, highBF16(v), 16);
      source += 16;
      out += 32;
    }
  } else if (type == F16) {
    for (let i: i32 = 0; i < n; i += 8) {
      const v = v128.load(source);
      v128.store(out, widenF16(i32x4.extend_low_i16x8_u(v)));
      v128.store(out, widenF16(i32x4.extend_high_i16x8_u(v)), 16);
      source += 16;
      out += 32;
    }
  } else if (type == F8) {
    for (let i: i32 = 0; i < n; i += 8) {
      const v = v128.load64_zero(source);
      const h = i16x8.extend_low_i8x16_u(v);
      v128.store(out, widenF8(i32x4.extend_low_i16x8_u(h)));
      v128.store(out, widenF8(i32x4.extend_high_i16x8_u(h)), 16);
      source += 8;
      out += 32;
    }
  } else memory.copy(out, source, <usize>n << 2);
}

/**
 * `n` elements of `base` from `offset` on, as f32: in place if they are, else in `buffer` (n + 16
 * floats).
 */
@inline
export function run(base: usize, offset: i32, n: i32, type: i32, buffer: usize): usize {
  const source = base + (<usize>offset << shiftOf(type));
  if (type == F32) return source;
  widenRun(buffer, source, n, type);
  return buffer;
}

/** f32 → bf16 bits in u32 lanes. */
@inline
function narrowBF16(v: v128): v128 {
  const odd = v128.and(i32x4.shr_u(v, 16), i32x4.splat(1));
  const rounded = i32x4.shr_u(i32x4.add(v, i32x4.add(odd, i32x4.splat(0x7fff))), 16);
  const quiet = v128.or(i32x4.shr_u(v, 16), i32x4.splat(0x40));
  return v128.bitselect(quiet, rounded, f32x4.ne(v, v));
}

/**
 * f32 → f16 bits in u32 lanes. Subnormals are rounded by adding 0.5, whose unit in the last place
 * is theirs.
 */
@inline
function narrowF16(v: v128): v128 {
  const sign = v128.and(v, i32x4.splat(0x80000000));
  const magnitude = v128.xor(v, sign);
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, i32x4.splat(0xc8000fff)), odd), 13);
  const half = f32x4.splat(0.5);
  const small = i32x4.sub(f32x4.add(magnitude, half), half);
  let bits = v128.bitselect(small, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  bits = v128.bitselect(i32x4.splat(0x7c00), bits, i32x4.ge_s(magnitude, i32x4.splat(0x47800000)));
  bits = v128.bitselect(i32x4.splat(0x7e00), bits, i32x4.gt_s(magnitude, i32x4.splat(0x7f800000)));
  return v128.or(bits, i32x4.shr_u(sign, 16));
}

/**
 * f32 → E4M3 bits in u32 lanes, saturating. Subnormals are rounded by adding 2^14, whose unit is
 * 2^-9.
 */
@inline
export function narrowF8(v: v128): v128 {
  const sign = v128.and(v, i32x4.splat(0x80000000));
  const nan = f32x4.ne(v, v);
  const magnitude = f32x4.pmin(f32x4.splat(448), v128.xor(v, sign));
  const odd = v128.and(i32x4.shr_u(magnitude, 20), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, i32x4.splat(0xc407ffff)), odd), 20);
  const unit = f32x4.splat(16384);
  const small = i32x4.sub(f32x4.add(magnitude, unit), unit);
  let bits = v128.bitselect(small, normal, i32x4.lt_s(magnitude, i32x4.splat(0x3c800000)));
  bits = v128.bitselect(i32x4.splat(0x7f), bits, nan);
  return v128.or(bits, i32x4.shr_u(sign, 24));
}

/** f32 values of E4M3 codes in u32 lanes. */
@inline
export function valueF8(bits: v128): v128 {
  return widenF8(bits);
}

/** Four vectors of u32 lanes holding bytes → 16 bytes. */
@inline
export function bytesOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_u(a, b), i16x8.narrow_i32x4_u(c, d));
}

export function widen(thread: i32): void {
  const x = tensor(0), y = tensor(1), n = dim(0), type = dtype(0), shift = shiftOf(type);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    widenRun(y + (<usize>i << 2), x + (<usize>i << shift), min(CHUNK, n - i), type);
  }
}

export function narrow(thread: i32): void {
  const x = tensor(0), y = tensor(1), n = dim(0), type = dtype(1), shift = shiftOf(type);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    let from = x + (<usize>i << 2), to = y + (<usize>i << shift);
    const count = min(CHUNK, n - i);
    for (let k: i32 = 0; k < count; k += 16) {
      const a = v128.load(from), b = v128.load(from, 16), c = v128.load(from, 32),
        d = v128.load(from, 48);
      if (type == F8) {
        v128.store(to, bytesOf(narrowF8(a), narrowF8(b), narrowF8(c), narrowF8(d)));
        to += 16;
      } else {
        const bf16 = type == BF16;
        const w = bf16 ? narrowBF16(a) : narrowF16(a), x = bf16 ? narrowBF16(b) : narrowF16(b);
        const y = bf16 ? narrowBF16(c) : narrowF16(c), z = bf16 ? narrowBF16(d) : narrowF16(d);
        v128.store(to, i16x8.narrow_i32x4_u(w, x));
        v128.store(to, i16x8.narrow_i32x4_u(y, z), 16);
        to += 32;
      }
      from += 64;
    }
  }
}

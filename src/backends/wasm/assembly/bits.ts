// Codes of 2 to 8 bits ↔ a bitstream, least significant bit first, a row at a time. Eight codes are
// one u64: fields are gathered from bytes into pairs, fours and eights by masks and shifts, and
// spread the same way back.
import { claim, ceilDiv, dim, rowsPerItem, scalarU, tensor } from "./call";

/** The lowest `bits` bits of each lane of `lane` bits. */
@inline
function laneMask(bits: i32, lane: i32): u64 {
  const one = bits == 64 ? <u64>-1 : (<u64>1 << bits) - 1;
  return lane == 64 ? one : lane == 32 ? one | (one << 32)
    : (one | (one << 16)) * 0x0000000100000001;
}

/** Eight fields of `bits` bits → eight bytes. */
@inline
function spread(x: u64, bits: i32): u64 {
  const m4 = laneMask(4 * bits, 64), m2 = laneMask(2 * bits, 32), m1 = laneMask(bits, 16);
  x = (x & m4) | ((x & ~m4) << (32 - 4 * bits));
  x = (x & m2) | ((x & (m2 << (2 * bits))) << (16 - 2 * bits));
  return (x & m1) | ((x & (m1 << bits)) << (8 - bits));
}

/** Eight fields from field `i` of the stream at `base` on, as bytes 0 … 2^bits − 1. */
@inline
function fieldsAt(base: usize, i: i32, bits: i32): u64 {
  const position = <u64>i * bits;
  const x = load<u64>(base + <usize>(position >> 3)) >> (position & 7);
  return spread(x & laneMask(8 * bits, 64), bits);
}

/** (code − zero) · scale of `n` fields from field `i` on; up to 7 more floats are written. */
export function unpackFloats(base: usize, i: i32, n: i32, bits: i32, scale: f32, zero: i32,
  out: usize): void {
  const offset: i32 = (1 << (bits - 1)) + zero, bias = i16x8.splat(<i16>offset),
    s = f32x4.splat(scale);
  for (const end = i + n; i < end; i += 8) {
    const q = i16x8.sub(i16x8.extend_low_i8x16_u(i64x2.splat(fieldsAt(base, i, bits))), bias);
    v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)), s));
    v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), s), 16);
    out += 32;
  }
}

/** Pack one row of `n` codes into the bytes [out, end). */
function packRow(codes: usize, n: i32, out: usize, end: usize, bits: i32): void {
  const half: i32 = 1 << (bits - 1), bias = i8x16.splat(<i8>half),
    field = i8x16.splat(<i8>(2 * half - 1));
  const m1 = i16x8.splat(0xff), m2 = i32x4.splat(0xffff), m4 = i64x2.splat(0xffffffff);
  for (let i: i32 = 0; i < n; i += 16) {
    let x = v128.and(i8x16.add(v128.load(codes + <usize>i), bias), field);
    if (n - i < 16) {
      // Clear the lanes after the last code: lane index < n − i.
      const lanes = i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      x = v128.and(x, i8x16.lt_s(lanes, i8x16.splat(<i8>(n - i))));
    }
    x = v128.or(v128.and(x, m1), i16x8.shl(i16x8.shr_u(x, 8), bits));
    x = v128.or(v128.and(x, m2), i32x4.shl(i32x4.shr_u(x, 16), 2 * bits));
    x = v128.or(v128.and(x, m4), i64x2.shl(i64x2.shr_u(x, 32), 4 * bits));
    if (out + <usize>bits + 8 <= end) {
      v128.store64_lane(out, x, 0);
      v128.store64_lane(out + <usize>bits, x, 1);
      out += <usize>(2 * bits);
    } else {
      for (let lane: i32 = 0; lane < 2; lane++) {
        let word = lane ? i64x2.extract_lane(x, 1) : i64x2.extract_lane(x, 0);
        for (let b: i32 = 0; b < bits && out < end; b++) {
          store<u8>(out++, <u8>word);
          word >>= 8;
        }
      }
    }
  }
  for (; out < end; out++) store<u8>(out, 0);
}

export function pack_bits(thread: i32): void {
  const codes = tensor(0), packed = tensor(1), R = dim(0), C = dim(1), P = dim(2),
    bits = scalarU(0);
  const rows = rowsPerItem(C), items = ceilDiv(R, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let r = item * rows, last = min(R, r + rows); r < last; r++) {
      const out = packed + (<usize>(r * P) << 2);
      packRow(codes + <usize>(r * C), C, out, out + (<usize>P << 2), bits);
    }
  }
}

export function unpack_bits(thread: i32): void {
  const packed = tensor(0), codes = tensor(1), R = dim(0), P = dim(1), C = dim(2),
    bits = scalarU(0);
  const half: i32 = 1 << (bits - 1), bias = i8x16.splat(<i8>half);
  const rows = rowsPerItem(C), items = ceilDiv(R, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let r = item * rows, last = min(R, r + rows); r < last; r++) {
      const base = packed + (<usize>(r * P) << 2), out = codes + <usize>(r * C);
      let i: i32 = 0;
      for (; i + 8 <= C; i += 8) {
        v128.store64_lane(out + <usize>i, i8x16.sub(i64x2.splat(fieldsAt(base, i, bits)), bias), 0);
      }
      if (i < C) {
        let rest = i64x2.extract_lane(i8x16.sub(i64x2.splat(fieldsAt(base, i, bits)), bias), 0);
        for (; i < C; i++) {
          store<i8>(out + <usize>i, <i8>rest);
          rest >>= 8;
        }
      }
    }
  }
}

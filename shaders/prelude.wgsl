// What every shader may use; the webgpu backend puts this file before each of them.
//
// Tensors narrower than 32 bits, and those whose dtype a pipeline chooses (`override <name>_dtype:
// u32`, 0 f32, 1 bf16, 2 f16, 3 f8_e4m3), are array<u32>: the flattened tensor, little-endian,
// tightly packed. Letters as in src/tensor.ts: T tokens, C columns, R rows, A×B tiles that share a
// scale, N elements, V vocabulary.
//
// Compilers for GPUs may assume that floats are finite, so NaN and infinity are told by their bits.

const F32: u32 = 0u;
const BF16: u32 = 1u;
const F16: u32 = 2u;
const F8_E4M3: u32 = 3u;

const INFINITY_BITS: u32 = 0x7f800000u;
const SMALLEST_BITS: u32 = 0x00800000u; // 2^-126; what is below may be flushed to 0
const LARGEST: f32 = 0x1.fffffep+127f;

// Lanes of a workgroup, in every shader but the matrix products.
const LANES: u32 = 64u;
var<workgroup> lane_values: array<f32, LANES>;

// The sum of `value` over the lanes of a workgroup, in a fixed order; every lane must call it,
// every lane gets it.
fn sum_lanes(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lane_values[lane] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { lane_values[lane] += lane_values[lane + half]; }
  }
  workgroupBarrier();
  return lane_values[0];
}

// The largest `value` of the lanes of a workgroup.
fn max_lanes(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lane_values[lane] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { lane_values[lane] = max(lane_values[lane], lane_values[lane + half]); }
  }
  workgroupBarrier();
  return lane_values[0];
}

// The place of this workgroup when a count over 65535 was folded into y.
fn flat_group(id: vec3<u32>, count: vec3<u32>) -> u32 {
  return id.x + id.y * count.x;
}

// The word that holds element i.
fn word_of(i: u32, dtype: u32) -> u32 {
  switch dtype {
    case F32: { return i; }
    case F8_E4M3: { return i >> 2u; }
    default: { return i >> 1u; }
  }
}

// Element i as f32, given its word. Exact: subnormal halves are scaled from integers, because f32
// subnormals may be flushed.
fn decode(word: u32, i: u32, dtype: u32) -> f32 {
  return bitcast<f32>(decode_bits(word, i, dtype));
}

// The bits of element i widened to f32.
fn decode_bits(word: u32, i: u32, dtype: u32) -> u32 {
  switch dtype {
    case F32: { return word; }
    case BF16: { return (word >> (16u * (i & 1u))) << 16u; }
    case F16: { return f16_to_f32((word >> (16u * (i & 1u))) & 0xffffu); }
    default: { return f8_to_f32((word >> (8u * (i & 3u))) & 0xffu); }
  }
}

fn f16_to_f32(half: u32) -> u32 {
  let sign = (half & 0x8000u) << 16u;
  let magnitude = half & 0x7fffu;
  if magnitude >= 0x7c00u { return sign | INFINITY_BITS | (magnitude << 13u); }
  if magnitude < 0x400u { return sign | bitcast<u32>(f32(magnitude) * 0x1p-24f); }
  return sign | ((magnitude << 13u) + 0x38000000u);
}

// E4M3: bias 7, no infinity, NaN is all ones.
fn f8_to_f32(code: u32) -> u32 {
  let sign = (code & 0x80u) << 24u;
  let magnitude = code & 0x7fu;
  if magnitude == 0x7fu { return sign | 0x7fc00000u; }
  if magnitude < 8u { return sign | bitcast<u32>(f32(magnitude) * 0x1p-9f); }
  return sign | ((magnitude << 20u) + 0x3c000000u);
}

// a / b rounded as IEEE 754 says. WGSL lets its own division be 2.5 units in the last place off,
// and that decides ties, which are no rarity: a tile's extreme weight divided by the tile's scale
// lies half way between two codes by construction.
fn quotient(a: f32, b: f32) -> f32 {
  return nearer_quotient(a, b, a / b);
}

// The same from a quotient that is a few units off. All of it in integers: a compiler may take
// near's product and a difference together as one fused operation, and the quotient that is mended
// would not be the one that is returned. No loop, for a software adapter counts the turns of all
// loops together and ends them at 65,535.
fn nearer_quotient(a: f32, b: f32, near: f32) -> f32 {
  let dividend = bitcast<u32>(a) & 0x7fffffffu;
  let divisor = bitcast<u32>(b) & 0x7fffffffu;
  let found = bitcast<u32>(near) & 0x7fffffffu;
  // Zeros, infinities, NaN, and next to numbers that are not normal: as the device has it.
  let plain = (dividend >> 23u) - 1u < 254u && (divisor >> 23u) - 1u < 254u &&
    (found >> 23u) - 2u < 252u;
  if !plain { return near; }
  let rest = left_of(dividend, divisor, found);
  let by = bitcast<i32>(significand(divisor));
  if abs(rest) * 4 <= by { return near; }
  let closer = found + bitcast<u32>(i32(round(f32(rest) / f32(by))));
  let next = a_unit_on(dividend, divisor, closer);
  return bitcast<f32>((bitcast<u32>(near) & 0x80000000u) | a_unit_on(dividend, divisor, next));
}

fn significand(bits: u32) -> u32 {
  return (bits & 0x7fffffu) | 0x800000u;
}

// dividend − divisor·quotient, in units of which the divisor's significand makes one in the last
// place of the quotient. It is small, so that of the products of 48 bits the lower 32 suffice.
fn left_of(dividend: u32, divisor: u32, quotient: u32) -> i32 {
  let shift = (dividend >> 23u) + 150u - (divisor >> 23u) - (quotient >> 23u);
  let product = significand(divisor) * significand(quotient);
  return bitcast<i32>((significand(dividend) << (shift & 31u)) - product);
}

// A quotient, or where more than half a unit is left the one next to it.
fn a_unit_on(dividend: u32, divisor: u32, quotient: u32) -> u32 {
  let rest = left_of(dividend, divisor, quotient);
  let by = significand(divisor);
  // Below a power of two, units are half as large.
  let below = bitcast<i32>(by >> select(0u, 1u, (quotient & 0x7fffffu) == 0u));
  return quotient + select(0u, 1u, 2 * rest > bitcast<i32>(by)) - select(0u, 1u, -2 * rest > below);
}

fn is_finite(bits: u32) -> bool {
  return (bits & INFINITY_BITS) != INFINITY_BITS;
}

fn is_nan(bits: u32) -> bool {
  return (bits & 0x7fffffffu) > INFINITY_BITS;
}

// Bits shifted right, rounded to nearest, ties to even.
fn round_shift(bits: u32, shift: u32) -> u32 {
  let half = (1u << (shift - 1u)) - 1u;
  return (bits + half + ((bits >> shift) & 1u)) >> shift;
}

// f32 bits → bf16 bits.
fn f32_to_bf16(bits: u32) -> u32 {
  if is_nan(bits) { return (bits >> 16u) | 0x40u; }
  return round_shift(bits, 16u);
}

// f32 bits → f16 bits; too large becomes infinity.
fn f32_to_f16(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if magnitude > INFINITY_BITS { return sign | 0x7e00u; }
  if magnitude >= 0x477ff000u { return sign | 0x7c00u; } // from 65520 on
  if magnitude < 0x38800000u { // below 2^-14: multiples of 2^-24
    let exponent = magnitude >> 23u;
    if exponent < 102u { return sign; }
    return sign | round_shift((magnitude & 0x7fffffu) | 0x800000u, 126u - exponent);
  }
  return sign | round_shift(magnitude - 0x38000000u, 13u);
}

// f32 bits → E4M3 bits; too large becomes 448.
fn f32_to_f8(bits: u32) -> u32 {
  let sign = (bits >> 24u) & 0x80u;
  let magnitude = bits & 0x7fffffffu;
  if magnitude > INFINITY_BITS { return sign | 0x7fu; }
  if magnitude >= 0x43e00000u { return sign | 0x7eu; } // from 448 on
  if magnitude < 0x3c800000u { // below 2^-6: multiples of 2^-9
    let exponent = magnitude >> 23u;
    if exponent < 117u { return sign; }
    return sign | round_shift((magnitude & 0x7fffffu) | 0x800000u, 141u - exponent);
  }
  return sign | round_shift(magnitude - 0x3c000000u, 20u);
}

// Byte i of its word, unsigned and signed.
fn u8_of(word: u32, i: u32) -> u32 {
  return (word >> (8u * (i & 3u))) & 0xffu;
}

fn i8_of(word: u32, i: u32) -> i32 {
  return bitcast<i32>(word << (24u - 8u * (i & 3u))) >> 24u;
}

// The low byte of `value`, put where element i lies in its word.
fn byte_at(value: i32, i: u32) -> u32 {
  return (bitcast<u32>(value) & 0xffu) << (8u * (i & 3u));
}

// Integer grids (src/ops/scale_params.ts): 0 full, 1 restricted, 2 affine; 3 is fp8's.
const RESTRICTED: u32 = 1u;
const AFFINE: u32 = 2u;
const FP8: u32 = 3u;

fn lowest_code(bits: u32, grid: u32) -> f32 {
  let span = f32(1u << (bits - 1u));
  return select(-span, 1.0 - span, grid == RESTRICTED);
}

fn highest_code(bits: u32) -> f32 {
  return f32(1u << (bits - 1u)) - 1.0;
}

// A scale as it will be stored: rounded to 0 f32, 1 bf16 or 2 f16.
fn stored_scale(scale: f32, dtype: u32) -> f32 {
  let bits = bitcast<u32>(scale);
  switch dtype {
    case BF16: { return bitcast<f32>(f32_to_bf16(bits) << 16u); }
    case F16: { return bitcast<f32>(f16_to_f32(f32_to_f16(bits))); }
    default: { return scale; }
  }
}

// The smallest normal number of a scale's dtype; no scale is below it.
fn smallest_scale(dtype: u32) -> f32 {
  return select(0x1p-126f, 0x1p-14f, dtype == F16);
}

// Scale and zero point of a finite range; 1 when all of it is 0.
fn grid_of(low: f32, high: f32, bits: u32, grid: u32, scale_dtype: u32) -> vec2<f32> {
  let bottom = min(0.0, low);
  let reach = select(max(abs(low), abs(high)), max(0.0, high) - bottom, grid == AFFINE);
  var steps = f32((1u << bits) - 1u);
  switch grid {
    case RESTRICTED: { steps = highest_code(bits); }
    case AFFINE: {}
    case FP8: { steps = 448.0; }
    default: { steps *= 0.5; }
  }
  let stored = max(stored_scale(quotient(reach, steps), scale_dtype), smallest_scale(scale_dtype));
  let scale = select(stored, 1.0, reach == 0.0);
  let lowest = lowest_code(bits, grid);
  let zero = clamp(round(lowest - quotient(bottom, scale)), lowest, highest_code(bits));
  return vec2(scale, select(0.0, zero, grid == AFFINE && is_finite(bitcast<u32>(scale))));
}

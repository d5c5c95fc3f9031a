// Four exponentials, or powers, at a time.
//
// Constants are in memory: V8 makes a vector constant anew, in three instructions, wherever it is
// used; a load is one. Terms of polynomials are paired (Estrin's scheme) to keep the chain of
// operations short.

/**
 * 1.5·2^23: adding it rounds a small number to a whole one, which is then the difference of the
 * bits, too.
 */
const ROUNDER = memory.data<f32>([12582912]);
const ONE = memory.data<f32>([1]);
/** The exponent's bias, as an integer. */
const BIAS = memory.data<i32>([127]);

/** Where e^x is 0 or infinity. */
const EXP_LEAST = memory.data<f32>([-104]);
const EXP_MOST = memory.data<f32>([89]);
/** Above this e^x is a normal number. */
const EXP_NORMAL = memory.data<f32>([-86]);
const LOG2_E = memory.data<f32>([1.44269504]);
/** ln 2 in two parts, the first with few bits, so that a whole number times it is exact. */
const LN2_HIGH = memory.data<f32>([0.693359375]);
const LN2_LOW = memory.data<f32>([-2.12194440e-4]);
/** P in e^r = 1 + r + r²·P(r), |r| ≤ ln 2 / 2 (Cephes, expf). */
const EXP = memory.data<f32>([
  5.0000001201e-1,
  1.6666665459e-1,
  4.1665795894e-2,
  8.3334519073e-3,
  1.3981999507e-3,
  1.9875691500e-4,
]);

/**
 * 1 − erf(x) = (t·P(t))·e^(−x²), t = 1 / (1 + p·x), x ≥ 0 (Abramowitz and Stegun, 7.1.26): p, then
 * P.
 */
const ERF = memory.data<f32>([0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027,
  1.061405429]);

/** Exponents: of GPTQ's search, and of HQQ's shrinkage. */
const POWER = memory.data<f32>([2.4, -0.3]);
const POWER_LEAST = memory.data<f32>([1e-14]);
/** The bits of sqrt(1/2). */
const ROOT_HALF = memory.data<i32>([0x3f3504f3]);
/**
 * P in log2(1 + t) = t·P(t), sqrt(1/2) − 1 ≤ t ≤ sqrt(2) − 1: error of the logarithm below 6e-7
 * (minimax).
 */
const LOG2 = memory.data<f32>([
  1.4426964473242971,
  -0.721363574007466,
  0.4806267579674308,
  -0.3593717339629814,
  0.29569980578758787,
  -0.2693194156526131,
  0.17162238619306344,
]);
/** Above this, and for less than a doubling more, 2^x is a normal number. */
const EXP2_NORMAL = memory.data<f32>([-125]);
/** 2^r, |r| ≤ 1/2: relative error below 2e-9 (minimax). */
const EXP2_NEAR = memory.data<f32>([
  1,
  0.6931472028552118,
  0.2402264791361563,
  0.05550332470783126,
  0.009618437358239867,
  0.0013398874557262455,
  0.00015353362061383292,
]);
/** 2^r, |r| ≤ 1/2: relative error below 3e-6 (minimax). */
const EXP2 = memory.data<f32>([
  0.9999992614067519,
  0.6931218148134225,
  0.24024744957287364,
  0.05591785990793738,
  0.00957009667015823,
]);

/** Number `i` of a table, in every lane. */
@inline
function at(table: usize, i: i32 = 0): v128 {
  return v128.load32_splat(table + (<usize>i << 2));
}

/** a + b·x */
@inline
function line(table: usize, i: i32, x: v128): v128 {
  return f32x4.add(at(table, i), f32x4.mul(at(table, i + 1), x));
}

/** The same in one step where the CPU has it. */
@inline
function fusedLine(table: usize, i: i32, x: v128): v128 {
  return f32x4.relaxed_madd(at(table, i + 1), x, at(table, i));
}

/** 2^n of whole numbers from −126 to 127. */
@inline
function powerOf2(n: v128): v128 {
  return i32x4.shl(i32x4.add(n, at(BIAS)), 23);
}

/** e^(x − n·ln 2), where `rounded` is n + ROUNDER and x at most ln 2 / 2 away from n·ln 2. */
@inline
function expRest4(x: v128, rounded: v128): v128 {
  const n = f32x4.sub(rounded, at(ROUNDER));
  const r = f32x4.relaxed_nmadd(n, at(LN2_LOW), f32x4.relaxed_nmadd(n, at(LN2_HIGH), x));
  const r2 = f32x4.mul(r, r);
  const upper = f32x4.relaxed_madd(r2, fusedLine(EXP, 4, r), fusedLine(EXP, 2, r));
  const p = f32x4.relaxed_madd(r2, upper, fusedLine(EXP, 0, r));
  return f32x4.add(f32x4.relaxed_madd(r2, p, r), at(ONE));
}

/**
 * e^x within 2 units in the last place (tests/wasm_test.ts), subnormal results too; 0 below −104,
 * infinity above 88.73.
 */
@inline
export function exp4(x: v128): v128 {
  x = f32x4.pmax(at(EXP_LEAST), f32x4.pmin(at(EXP_MOST), x));
  const rounded = f32x4.relaxed_madd(x, at(LOG2_E), at(ROUNDER)), e = expRest4(x, rounded);
  // In two factors: n runs from −150 to 128, beyond the exponents of normal numbers.
  const whole = i32x4.sub(rounded, at(ROUNDER)), half = i32x4.shr_s(whole, 1);
  return f32x4.mul(f32x4.mul(e, powerOf2(half)), powerOf2(i32x4.sub(whole, half)));
}

/**
 * e^x of x ≤ 0 within 2 units in the last place (tests/wasm_test.ts), but that below −86 it is
 * e^−86; NaN stays NaN.
 */
@inline
export function expDown4(x: v128): v128 {
  x = f32x4.pmax(x, at(EXP_NORMAL));
  const rounded = f32x4.relaxed_madd(x, at(LOG2_E), at(ROUNDER));
  const e = expRest4(x, rounded);
  return f32x4.mul(e, powerOf2(i32x4.sub(rounded, at(ROUNDER))));
}

/**
 * 2^x of x ≤ 0 within 2 units in the last place (tests/wasm_test.ts), but that below −125 it is
 * 2^−125; NaN stays NaN.
 */
@inline
export function exp2Down4(x: v128): v128 {
  x = f32x4.pmax(x, at(EXP2_NORMAL));
  const rounded = f32x4.add(x, at(ROUNDER)), r = f32x4.sub(x, f32x4.sub(rounded, at(ROUNDER)));
  const r2 = f32x4.mul(r, r);
  const top = f32x4.relaxed_madd(r2, at(EXP2_NEAR, 6), fusedLine(EXP2_NEAR, 4, r));
  const upper = f32x4.relaxed_madd(r2, top, fusedLine(EXP2_NEAR, 2, r));
  const p = f32x4.relaxed_madd(r2, upper, fusedLine(EXP2_NEAR, 0, r));
  // ROUNDER's lowest bits are 0: shifting leaves the whole number of `rounded`.
  return f32x4.mul(p, powerOf2(rounded));
}

/** erf(x), off by 2e-7 at most. */
@inline
export function erf4(x: v128): v128 {
  const size = f32x4.abs(x), t = f32x4.div(at(ONE), f32x4.add(at(ONE), f32x4.mul(at(ERF), size))),
    t2 = f32x4.mul(t, t);
  const p = f32x4.add(line(ERF, 1, t),
    f32x4.mul(t2, f32x4.add(line(ERF, 3, t), f32x4.mul(t2, at(ERF, 5)))));
  const y = f32x4.sub(at(ONE), f32x4.mul(f32x4.mul(t, p), exp4(f32x4.neg(f32x4.mul(size, size)))));
  return v128.or(y, v128.and(x, f32x4.splat(-0.0)));
}

/** cap·tanh(x / cap), for cap > 0. */
@inline
export function softCap4(x: v128, cap: v128): v128 {
  // tanh y = 1 − 2 / (1 + e^2y); e^2y may be infinite.
  const y = f32x4.div(x, cap), e = exp4(f32x4.add(y, y));
  return f32x4.mul(cap, f32x4.sub(at(ONE), f32x4.div(f32x4.splat(2), f32x4.add(at(ONE), e))));
}

/**
 * x^2.4 = 2^(2.4·log2 x) for 0 ≤ x ≤ 1e9, within 7e-6 of it for x ≥ 1e-6; below 1e-14 about 1e-34.
 */
@inline
export function pow24(x: v128): v128 {
  return power(x, 0);
}

/** x^−0.3, as near, for 1e-14 ≤ x ≤ 1e9. */
@inline
export function powMinus03(x: v128): v128 {
  return power(x, 1);
}

@inline
function power(x: v128, which: i32): v128 {
  const bits = f32x4.pmax(x, at(POWER_LEAST)),
    exponent = i32x4.shr_s(i32x4.sub(bits, at(ROOT_HALF)), 23);
  const t = f32x4.sub(i32x4.sub(bits, i32x4.shl(exponent, 23)), at(ONE)), t2 = f32x4.mul(t, t);
  const lower = f32x4.add(line(LOG2, 0, t), f32x4.mul(t2, line(LOG2, 2, t)));
  const upper = f32x4.add(line(LOG2, 4, t), f32x4.mul(t2, at(LOG2, 6)));
  const p = f32x4.add(lower, f32x4.mul(f32x4.mul(t2, t2), upper));
  const y = f32x4.mul(f32x4.add(f32x4.mul(p, t), f32x4.convert_i32x4_s(exponent)),
    at(POWER, which));
  const rounded = f32x4.add(y, at(ROUNDER)), r = f32x4.sub(y, f32x4.sub(rounded, at(ROUNDER)));
  const r2 = f32x4.mul(r, r);
  const q = f32x4.add(line(EXP2, 0, r),
    f32x4.mul(r2, f32x4.add(line(EXP2, 2, r), f32x4.mul(r2, at(EXP2, 4)))));
  return f32x4.mul(q, powerOf2(i32x4.sub(rounded, at(ROUNDER))));
}

/** The sum of two f64 lanes. */
@inline
export function sum2(v: v128): f64 {
  return f64x2.extract_lane(v, 0) + f64x2.extract_lane(v, 1);
}

/** The upper two f32 lanes as f64. */
@inline
export function promoteHigh(v: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<i64>(v, v, 1, 1));
}

/** The sum of four f32 lanes, in f64. */
@inline
export function sum4(v: v128): f64 {
  return sum2(f64x2.add(f64x2.promote_low_f32x4(v), promoteHigh(v)));
}

/** The greatest of four lanes. */
@inline
export function max4(v: v128): f32 {
  v = f32x4.max(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.max(v, v128.shuffle<f32>(v, v, 1, 0, 3, 2)), 0);
}

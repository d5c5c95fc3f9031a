// Backward through what a transformer's block is made of beside matrix products and attention.
import { CHUNK, ceilDiv, claim, claimChunk, dim, dtype, rowsPerItem, scalarF, scalarU, scratch,
  tensor } from "./call";
import { run } from "./cast";
import { activation } from "./layer";
import { erf4, exp4, promoteHigh, softCap4, sum2 } from "./math";
import { RUN } from "./range";

// Thread-private: sums of a row, in f64.
let squares: f64 = 0, along: f64 = 0;

/**
 * Gradients g of n outputs times weight + plus; beside, Σ of them, Σ (x − mean)² to `squares` and Σ
 * (x − mean)·g to `along`.
 */
function weigh(g: usize, x: usize, weight: usize, n: i32, plus: f32, mean: f64): f64 {
  const p = f32x4.splat(plus), m = f64x2.splat(mean);
  let sums = f64x2.splat(0), square = sums, product = sums, i: i32 = 0;
  for (; i + 4 <= n; i += 4) {
    const at = <usize>i << 2, v = v128.load(x + at);
    const h = f32x4.mul(v128.load(g + at), f32x4.add(v128.load(weight + at), p));
    v128.store(g + at, h);
    const low = f64x2.sub(f64x2.promote_low_f32x4(v), m), high = f64x2.sub(promoteHigh(v), m);
    const h0 = f64x2.promote_low_f32x4(h), h1 = promoteHigh(h);
    sums = f64x2.add(sums, f64x2.add(h0, h1));
    square = f64x2.add(square, f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high)));
    product = f64x2.add(product, f64x2.add(f64x2.mul(low, h0), f64x2.mul(high, h1)));
  }
  let sum = sum2(sums);
  squares += sum2(square);
  along += sum2(product);
  for (; i < n; i++) {
    const at = <usize>i << 2, off = <f64>load<f32>(x + at) - mean;
    const h = load<f32>(g + at) * (load<f32>(weight + at) + plus);
    store<f32>(g + at, h);
    sum += <f64>h;
    squares += off * off;
    along += off * <f64>h;
  }
  return sum;
}

/** g = factor · (g − middle − (x − mean) · back) of n values. */
function straighten(g: usize, x: usize, n: i32, factor: f32, middle: f32, mean: f32,
  back: f32): void {
  const f = f32x4.splat(factor), a = f32x4.splat(middle), m = f32x4.splat(mean),
    b = f32x4.splat(back);
  let i: i32 = 0;
  for (; i + 4 <= n; i += 4) {
    const at = <usize>i << 2, off = f32x4.sub(v128.load(x + at), m);
    const h = f32x4.sub(v128.load(g + at), a);
    v128.store(g + at, f32x4.mul(f, f32x4.sub(h, f32x4.mul(off, b))));
  }
  for (; i < n; i++) {
    const at = <usize>i << 2;
    store<f32>(g + at, factor * (load<f32>(g + at) - middle - (load<f32>(x + at) - mean) * back));
  }
}

/** g = r · (h − x · r² · mean(x · h)), h = g · (weight + plus), over runs of D columns. */
export function rms_norm_vjp(thread: i32): void {
  const x = tensor(0), weight = tensor(1), g = tensor(2), D = dim(2), T = dim(0) * (dim(1) / D);
  const eps = scalarF(0), plus = scalarF(1), type = dtype(1), buffer = scratch(thread);
  const rows = rowsPerItem(D), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const from = x + (<usize>(t * D) << 2), to = g + (<usize>(t * D) << 2);
      squares = 0, along = 0;
      for (let c: i32 = 0; c < D; c += RUN) {
        const n = min(RUN, D - c), w = run(weight, c, n, type, buffer), at = <usize>c << 2;
        weigh(to + at, from + at, w, n, plus, 0);
      }
      const factor = 1 / sqrt(squares / <f64>D + <f64>eps);
      straighten(to, from, D, <f32>factor, 0, 0, <f32>(factor * factor * along / <f64>D));
    }
  }
}

/** g = r · (h − mean(h) − (x − mean(x)) · r² · mean((x − mean(x)) · h)), h = g · weight. */
export function layer_norm_vjp(thread: i32): void {
  const x = tensor(0), weight = tensor(1), g = tensor(2), T = dim(0), C = dim(1);
  const eps = scalarF(0), type = dtype(1), buffer = scratch(thread);
  const rows = rowsPerItem(C), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const from = x + (<usize>(t * C) << 2), to = g + (<usize>(t * C) << 2);
      let sum: f64 = 0, middle: f64 = 0;
      for (let c: i32 = 0; c < C; c++) sum += <f64>load<f32>(from + (<usize>c << 2));
      const mean = sum / <f64>C;
      squares = 0, along = 0;
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c), w = run(weight, c, n, type, buffer), at = <usize>c << 2;
        middle += weigh(to + at, from + at, w, n, 0, mean);
      }
      const factor = 1 / sqrt(squares / <f64>C + <f64>eps);
      straighten(to, from, C, <f32>factor, <f32>(middle / <f64>C), <f32>mean,
        <f32>(factor * factor * along / <f64>C));
    }
  }
}

/** 1 / (1 + e^y); the other part of 1, 1 / (1 + e^−y), goes to `rest`. */
@inline
function partOf(y: v128): v128 {
  const e = exp4(f32x4.pmax(f32x4.splat(-85), f32x4.pmin(f32x4.splat(85), y)));
  const part = f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), e));
  rest = f32x4.mul(e, part);
  return part;
}

// Thread-private, see `partOf`.
let rest: v128 = f32x4.splat(0);

/** Four derivatives of an activation function; numbers as in src/ops/activation.ts. */
@inline
function slope(x: v128, kind: i32): v128 {
  if (kind == 0) {
    const part = partOf(f32x4.neg(x));
    return f32x4.add(part, f32x4.mul(f32x4.mul(x, part), rest));
  }
  const square = f32x4.mul(x, x);
  if (kind == 1) {
    const erf = erf4(f32x4.mul(x, f32x4.splat(0.70710678)));
    const bell = exp4(f32x4.mul(f32x4.splat(-0.5), square));
    const tail = f32x4.mul(f32x4.mul(x, f32x4.splat(0.39894228)), bell);
    return f32x4.add(f32x4.mul(f32x4.splat(0.5), f32x4.add(f32x4.splat(1), erf)), tail);
  }
  if (kind == 2) {
    const cube = f32x4.mul(square, f32x4.mul(x, f32x4.splat(0.044715)));
    const part = partOf(f32x4.mul(f32x4.splat(-1.5957691), f32x4.add(x, cube)));
    const inner = f32x4.mul(f32x4.splat(1.5957691),
      f32x4.add(f32x4.splat(1), f32x4.mul(f32x4.splat(0.134145), square)));
    return f32x4.add(part, f32x4.mul(f32x4.mul(f32x4.mul(x, part), rest), inner));
  }
  return v128.and(f32x4.splat(1), f32x4.gt(x, f32x4.splat(0)));
}

/** g = act′(x)·g */
export function act_vjp(thread: i32): void {
  const x = tensor(0), g = tensor(1), n = dim(0), kind = scalarU(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      v128.store(g + at, f32x4.mul(slope(v128.load(x + at), kind), v128.load(g + at)));
    }
  }
}

/** g = times·(1 − tanh²(times·x / cap))·g */
export function scale_cap_vjp(thread: i32): void {
  const x = tensor(0), g = tensor(1), n = dim(0), times = f32x4.splat(scalarF(0)),
    cap = scalarF(1), bound = f32x4.splat(cap), one = f32x4.splat(1);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      let slope = times;
      if (cap != 0) {
        const t = f32x4.div(softCap4(f32x4.mul(v128.load(x + at), times), bound), bound);
        slope = f32x4.mul(slope, f32x4.sub(one, f32x4.mul(t, t)));
      }
      v128.store(g + at, f32x4.mul(slope, v128.load(g + at)));
    }
  }
}

/** gate_g = act′(gate)·up·g, up_g = act(gate)·g */
export function gate_vjp(thread: i32): void {
  const gate = tensor(0), up = tensor(1), upG = tensor(2), gateG = tensor(3), n = dim(0),
    kind = scalarU(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      const x = v128.load(gate + at), g = v128.load(upG + at);
      v128.store(gateG + at, f32x4.mul(f32x4.mul(slope(x, kind), v128.load(up + at)), g));
      v128.store(upG + at, f32x4.mul(activation(x, kind), g));
    }
  }
}

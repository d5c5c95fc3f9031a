// What a transformer's block is made of beside matrix products and attention.
import { CHUNK, ceilDiv, claim, claimChunk, dim, dtype, rowsPerItem, scalarF, scalarU, scratch,
  tensor } from "./call";
import { run } from "./cast";
import { erf4, exp4, promoteHigh, softCap4, sum2 } from "./math";
import { RUN } from "./range";

/** Rows of a slice of the embedding table for the tokens whose ids are in it. */
export function embedding(thread: i32): void {
  const ids = tensor(0), table = tensor(1), x = tensor(2), T = dim(0), V = dim(1), C = dim(2);
  const first = scalarU(0), type = dtype(1), buffer = scratch(thread);
  const rows = rowsPerItem(C), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const row = load<u32>(ids + (<usize>t << 2)) - <u32>first;
      if (row >= <u32>V) continue;
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c), p = run(table, <i32>row * C + c, n, type, buffer);
        memory.copy(x + (<usize>(t * C + c) << 2), p, <usize>n << 2);
      }
    }
  }
}

/** Σx² of n floats, in f64. */
function squares(p: usize, n: i32, mean: f64): f64 {
  let sums = f64x2.splat(0), i: i32 = 0;
  const m = f64x2.splat(mean);
  for (; i + 4 <= n; i += 4) {
    const v = v128.load(p + (<usize>i << 2));
    const low = f64x2.sub(f64x2.promote_low_f32x4(v), m), high = f64x2.sub(promoteHigh(v), m);
    sums = f64x2.add(sums, f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high)));
  }
  let sum = sum2(sums);
  for (; i < n; i++) {
    const value = <f64>load<f32>(p + (<usize>i << 2)) - mean;
    sum += value * value;
  }
  return sum;
}

/** x / sqrt(mean(x²) + eps) · (weight + plus), over runs of D columns. */
export function rms_norm(thread: i32): void {
  const x = tensor(0), weight = tensor(1), y = tensor(2), D = dim(2), T = dim(0) * (dim(1) / D);
  const eps = scalarF(0), plus = f32x4.splat(scalarF(1)), one = f32x4.extract_lane(plus, 0);
  const type = dtype(1), buffer = scratch(thread), rows = rowsPerItem(D), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const p = x + (<usize>(t * D) << 2), out = y + (<usize>(t * D) << 2);
      const factor = f32x4.splat(<f32>(1 / sqrt(squares(p, D, 0) / <f64>D + <f64>eps)));
      for (let c: i32 = 0; c < D; c += RUN) {
        const n = min(RUN, D - c), w = run(weight, c, n, type, buffer), base = <usize>c << 2;
        let k: i32 = 0;
        for (; k + 4 <= n; k += 4) {
          const at = <usize>k << 2, v = f32x4.mul(v128.load(p + base + at), factor);
          v128.store(out + base + at, f32x4.mul(v, f32x4.add(v128.load(w + at), plus)));
        }
        for (; k < n; k++) {
          const at = <usize>k << 2, v = load<f32>(p + base + at) * f32x4.extract_lane(factor, 0);
          store<f32>(out + base + at, v * (load<f32>(w + at) + one));
        }
      }
    }
  }
}

/** (x − mean(x)) / sqrt(var(x) + eps) · weight + bias */
export function layer_norm(thread: i32): void {
  const x = tensor(0), weight = tensor(1), bias = tensor(2), y = tensor(3), T = dim(0), C = dim(1);
  const eps = scalarF(0), weightType = dtype(1), biasType = dtype(2), buffer = scratch(thread);
  const rows = rowsPerItem(C), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const p = x + (<usize>(t * C) << 2), out = y + (<usize>(t * C) << 2);
      let sum: f64 = 0;
      for (let c: i32 = 0; c < C; c++) sum += <f64>load<f32>(p + (<usize>c << 2));
      const mean = sum / <f64>C, factor = <f32>(1 / sqrt(squares(p, C, mean) / <f64>C + <f64>eps));
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c), w = run(weight, c, n, weightType, buffer);
        const b = run(bias, c, n, biasType, buffer + ((RUN + 16) << 2)), base = <usize>c << 2;
        for (let k: i32 = 0; k < n; k++) {
          const at = <usize>k << 2, v = <f32>(<f64>load<f32>(p + base + at) - mean) * factor;
          store<f32>(out + base + at, v * load<f32>(w + at) + load<f32>(b + at));
        }
      }
    }
  }
}

/** Of the first 2H values of each head, pairs (a, b) become (a·cos − b·sin, b·cos + a·sin). */
export function rope(thread: i32): void {
  const cos = tensor(0), sin = tensor(1), x = tensor(2), T = dim(0), H = dim(1), D = dim(2);
  const headDim = scalarU(0), adjacent = scalarU(1) != 0;
  const rows = rowsPerItem(D), items = ceilDiv(T, rows), half = <usize>H << 2;
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const c = cos + <usize>t * half, s = sin + <usize>t * half;
      for (let head: i32 = 0; head < D; head += headDim) {
        const p = x + (<usize>(t * D + head) << 2);
        let i: i32 = 0;
        for (; !adjacent && i + 4 <= H; i += 4) {
          const at = <usize>i << 2, a = v128.load(p + at), b = v128.load(p + at + half);
          const vc = v128.load(c + at), vs = v128.load(s + at);
          v128.store(p + at, f32x4.sub(f32x4.mul(a, vc), f32x4.mul(b, vs)));
          v128.store(p + at + half, f32x4.add(f32x4.mul(b, vc), f32x4.mul(a, vs)));
        }
        for (; i < H; i++) {
          const at = <usize>i << 2, first = p + (adjacent ? at << 1 : at),
            second = first + (adjacent ? 4 : half);
          const a = load<f32>(first), b = load<f32>(second), fc = load<f32>(c + at),
            fs = load<f32>(s + at);
          store<f32>(first, a * fc - b * fs);
          store<f32>(second, b * fc + a * fs);
        }
      }
    }
  }
}

/** Four values of an activation function; numbers as in src/ops/activation.ts. */
@inline
export function activation(x: v128, kind: i32): v128 {
  const one = f32x4.splat(1);
  if (kind == 0) return f32x4.div(x, f32x4.add(one, exp4(f32x4.neg(x))));
  if (kind == 1) {
    const erf = erf4(f32x4.mul(x, f32x4.splat(0.70710678)));
    return f32x4.mul(f32x4.mul(f32x4.splat(0.5), x), f32x4.add(one, erf));
  }
  if (kind == 2) {
    const cube = f32x4.mul(f32x4.mul(x, x), f32x4.mul(x, f32x4.splat(0.044715)));
    const u = f32x4.mul(f32x4.splat(-1.5957691), f32x4.add(x, cube));
    return f32x4.div(x, f32x4.add(one, exp4(u)));
  }
  return f32x4.max(x, f32x4.splat(0));
}

/** x = act(x) */
export function act(thread: i32): void {
  const x = tensor(0), n = dim(0), kind = scalarU(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      v128.store(x + at, activation(v128.load(x + at), kind));
    }
  }
}

/** gate = act(gate)·up */
export function gate(thread: i32): void {
  const up = tensor(0), gate = tensor(1), n = dim(0), kind = scalarU(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      v128.store(gate + at, f32x4.mul(activation(v128.load(gate + at), kind), v128.load(up + at)));
    }
  }
}

/** x = times·x, capped */
export function scale_cap(thread: i32): void {
  const x = tensor(0), n = dim(0), times = f32x4.splat(scalarF(0)), cap = scalarF(1),
    bound = f32x4.splat(cap);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      const v = f32x4.mul(v128.load(x + at), times);
      v128.store(x + at, cap == 0 ? v : softCap4(v, bound));
    }
  }
}

/** x = times·x + other·y */
export function add(thread: i32): void {
  const y = tensor(0), x = tensor(1), n = dim(0), times = f32x4.splat(scalarF(0)),
    other = f32x4.splat(scalarF(1));
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      const v = f32x4.mul(times, v128.load(x + at));
      v128.store(x + at, f32x4.add(v, f32x4.mul(other, v128.load(y + at))));
    }
  }
}

/** y[t, n] = x[t, columns[n]] */
export function gather_columns(thread: i32): void {
  const x = tensor(0), columns = tensor(1), y = tensor(2), T = dim(0), C = dim(1), N = dim(2);
  const rows = rowsPerItem(N), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const from = x + (<usize>(t * C) << 2), to = y + (<usize>(t * N) << 2), end = <usize>N << 2;
      for (let at: usize = 0; at < end; at += 4) {
        store<f32>(to + at, load<f32>(from + (<usize>load<u32>(columns + at) << 2)));
      }
    }
  }
}

/** y[t, r] += b[r] */
export function add_bias(thread: i32): void {
  const b = tensor(0), y = tensor(1), R = dim(0), T = dim(1), type = dtype(0),
    buffer = scratch(thread);
  const rows = rowsPerItem(R), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    const from = item * rows, last = min(T, from + rows);
    for (let c: i32 = 0; c < R; c += RUN) {
      const n = min(RUN, R - c), bias = run(b, c, n, type, buffer);
      for (let t = from; t < last; t++) {
        const p = y + (<usize>(t * R + c) << 2);
        let i: i32 = 0;
        for (; i + 4 <= n; i += 4) {
          const at = <usize>i << 2;
          v128.store(p + at, f32x4.add(v128.load(p + at), v128.load(bias + at)));
        }
        for (; i < n; i++) {
          const at = <usize>i << 2;
          store<f32>(p + at, load<f32>(p + at) + load<f32>(bias + at));
        }
      }
    }
  }
}

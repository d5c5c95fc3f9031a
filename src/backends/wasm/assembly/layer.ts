// What a transformer's block is made of beside matrix products and attention.
import { CHUNK, ceilDiv, claim, claimChunk, dim, dtype, rowsPerItem, scalarF, scalarU, scratch, tensor } from "./call";
import { run } from "./cast";
import { exp4, promoteHigh, sum2 } from "./math";
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

/** x / sqrt(mean(x²) + eps) · weight */
export function rms_norm(thread: i32): void {
  const x = tensor(0), weight = tensor(1), y = tensor(2), T = dim(0), C = dim(1), eps = scalarF(0);
  const type = dtype(1), buffer = scratch(thread), rows = rowsPerItem(C), items = ceilDiv(T, rows);
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const p = x + (<usize>(t * C) << 2), out = y + (<usize>(t * C) << 2);
      let sums = f64x2.splat(0), i: i32 = 0;
      for (; i + 4 <= C; i += 4) {
        const v = v128.load(p + (<usize>i << 2)), low = f64x2.promote_low_f32x4(v), high = promoteHigh(v);
        sums = f64x2.add(sums, f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high)));
      }
      let square = sum2(sums);
      for (; i < C; i++) {
        const value = <f64>load<f32>(p + (<usize>i << 2));
        square += value * value;
      }
      const factor = f32x4.splat(<f32>(1 / sqrt(square / <f64>C + <f64>eps)));
      for (let c: i32 = 0; c < C; c += RUN) {
        const n = min(RUN, C - c), w = run(weight, c, n, type, buffer), base = <usize>c << 2;
        let k: i32 = 0;
        for (; k + 4 <= n; k += 4) {
          const at = <usize>k << 2, v = f32x4.mul(v128.load(p + base + at), factor);
          v128.store(out + base + at, f32x4.mul(v, v128.load(w + at)));
        }
        for (; k < n; k++) {
          const at = <usize>k << 2;
          store<f32>(out + base + at, load<f32>(p + base + at) * f32x4.extract_lane(factor, 0) * load<f32>(w + at));
        }
      }
    }
  }
}

/** Each head's halves (a, b) become (a·cos − b·sin, b·cos + a·sin). */
export function rope(thread: i32): void {
  const cos = tensor(0), sin = tensor(1), x = tensor(2), T = dim(0), H = dim(1), D = dim(2);
  const rows = rowsPerItem(D), items = ceilDiv(T, rows), half = <usize>H << 2;
  for (let item = claim(); item < items; item = claim()) {
    for (let t = item * rows, last = min(T, t + rows); t < last; t++) {
      const c = cos + <usize>t * half, s = sin + <usize>t * half;
      for (let head: i32 = 0; head < D; head += 2 * H) {
        const p = x + (<usize>(t * D + head) << 2);
        let i: i32 = 0;
        for (; i + 4 <= H; i += 4) {
          const at = <usize>i << 2, a = v128.load(p + at), b = v128.load(p + at + half);
          const vc = v128.load(c + at), vs = v128.load(s + at);
          v128.store(p + at, f32x4.sub(f32x4.mul(a, vc), f32x4.mul(b, vs)));
          v128.store(p + at + half, f32x4.add(f32x4.mul(b, vc), f32x4.mul(a, vs)));
        }
        for (; i < H; i++) {
          const at = <usize>i << 2, a = load<f32>(p + at), b = load<f32>(p + at + half);
          const fc = load<f32>(c + at), fs = load<f32>(s + at);
          store<f32>(p + at, a * fc - b * fs);
          store<f32>(p + at + half, b * fc + a * fs);
        }
      }
    }
  }
}

/** gate = gate / (1 + e^−gate) · up */
export function silu_mul(thread: i32): void {
  const up = tensor(0), gate = tensor(1), n = dim(0), one = f32x4.splat(1);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      const g = v128.load(gate + at);
      const silu = f32x4.div(g, f32x4.add(one, exp4(f32x4.neg(g))));
      v128.store(gate + at, f32x4.mul(silu, v128.load(up + at)));
    }
  }
}

/** x += y */
export function add(thread: i32): void {
  const y = tensor(0), x = tensor(1), n = dim(0);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      v128.store(x + at, f32x4.add(v128.load(x + at), v128.load(y + at)));
    }
  }
}

/** y[t, r] += b[r] */
export function add_bias(thread: i32): void {
  const b = tensor(0), y = tensor(1), R = dim(0), T = dim(1), type = dtype(0), buffer = scratch(thread);
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

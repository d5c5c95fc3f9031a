// How far values moved: logits' divergence, error sums, histograms. Sums are f64.
import { CHUNK, claim, claimChunk, dim, dtype, scalarF, scalarU, SCRATCH_BYTES, scratch,
  tensor } from "./call";
import { run } from "./cast";
import { expDown4, max4, promoteHigh, sum2, sum4 } from "./math";

/** Logits whose exponentials are summed in f32. */
const PART: i32 = 64;

/** The greatest of a row of n ≥ 1 logits, of those that are numbers. */
function maxOf(p: usize, n: i32): f32 {
  if (n < 4) {
    let most = load<f32>(p);
    for (let i: i32 = 1; i < n; i++) most = max<f32>(most, load<f32>(p + (<usize>i << 2)));
    return most;
  }
  const last = p + (<usize>(n - 4) << 2);
  let a = f32x4.splat(-Infinity), b = a, c = a, d = a;
  for (; p + 48 < last; p += 64) {
    a = f32x4.pmax(a, v128.load(p)), b = f32x4.pmax(b, v128.load(p, 16));
    c = f32x4.pmax(c, v128.load(p, 32)), d = f32x4.pmax(d, v128.load(p, 48));
  }
  for (; p < last; p += 16) a = f32x4.pmax(a, v128.load(p));
  a = f32x4.pmax(a, v128.load(last));
  return max4(f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d)));
}

/** The place of the first of a row of n logits that is this one of them. */
function placeOf(row: usize, n: i32, value: f32): i32 {
  const four = f32x4.splat(value);
  let i: i32 = 0;
  while (i + 4 <= n && !v128.any_true(f32x4.eq(v128.load(row + (<usize>i << 2)), four))) i += 4;
  while (load<f32>(row + (<usize>i << 2)) != value) i++;
  return i;
}

/**
 * Raise the maximum at `top` and its argmax at `place` to those of a row; the factor for sums under
 * the older maximum.
 */
function raise(row: usize, n: i32, first: i32, top: usize, place: usize): f64 {
  const before = load<f32>(top), most = maxOf(row, n);
  if (!(most > before)) return 1;
  store<f32>(top, most);
  store<f32>(place, <f32>(first + placeOf(row, n, most)));
  return Math.exp(<f64>before - <f64>most);
}

export function divergence(thread: i32): void {
  const p = tensor(0), q = tensor(1), labels = tensor(2), states = tensor(3);
  const T = dim(0), V = dim(1), S = dim(2), first = scalarU(0);
  if (V == 0) return;
  // One model alone is measured as two that are the same.
  const alone = p == q;
  for (let t = claim(); t < T; t = claim()) {
    const rowP = p + (<usize>(t * V) << 2), rowQ = q + (<usize>(t * V) << 2),
      state = states + (<usize>(t * S) << 2);
    const fadeP = raise(rowP, V, first, state, state + 28);
    let fadeQ = fadeP;
    if (alone) {
      store<f32>(state, load<f32>(state), 8);
      store<f32>(state, load<f32>(state, 28), 32);
    } else fadeQ = raise(rowQ, V, first, state + 8, state + 32);
    const topP = f32x4.splat(load<f32>(state)), topQ = f32x4.splat(load<f32>(state, 8));
    let sumP: f64 = 0, sumQ: f64 = 0, cross: f64 = 0;
    for (let from: i32 = 0; from < V; from += PART) {
      let partP = f32x4.splat(0), partQ = partP, partCross = partP;
      for (let i = from, end = min(V, from + PART); i < end; i += 4) {
        const at = <usize>i << 2, vp = v128.load(rowP + at), vq = v128.load(rowQ + at);
        let ep = expDown4(f32x4.sub(vp, topP)), eq = ep;
        if (!alone) eq = expDown4(f32x4.sub(vq, topQ));
        let apart = f32x4.sub(vp, vq);
        if (i + 4 > V) {
          const kept = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(V - i));
          ep = v128.and(ep, kept), eq = v128.and(eq, kept), apart = v128.and(apart, kept);
        }
        partP = f32x4.add(partP, ep), partQ = f32x4.add(partQ, eq);
        partCross = f32x4.relaxed_madd(ep, apart, partCross);
      }
      sumP += sum4(partP), sumQ += sum4(partQ), cross += sum4(partCross);
    }
    store<f32>(state, <f32>(<f64>load<f32>(state, 4) * fadeP + sumP), 4);
    store<f32>(state, <f32>(<f64>load<f32>(state, 12) * fadeQ + sumQ), 12);
    store<f32>(state, <f32>(<f64>load<f32>(state, 16) * fadeP + cross), 16);
    const label = load<u32>(labels + (<usize>t << 2)) - <u32>first;
    if (label < <u32>V) {
      store<f32>(state, load<f32>(rowP + (<usize>label << 2)), 20);
      store<f32>(state, load<f32>(rowQ + (<usize>label << 2)), 24);
    }
  }
}

/** Per 4096 elements: Σa², Σb², Σab, Σ(a−b)², max|a−b|, max|a|. */
export function error_sums(thread: i32): void {
  const a = tensor(0), b = tensor(1), sums = tensor(2), N = dim(0), P = dim(1);
  const type = dtype(0), buffer = scratch(thread);
  const chunk: i32 = 4096, magnitude = i32x4.splat(0x7fffffff);
  for (let part = claim(); part < P; part = claim()) {
    const from = part * chunk, n = min(chunk, N - from);
    const pa = run(a, from, n, type, buffer), pb = b + (<usize>from << 2);
    let aa = f64x2.splat(0), bb = aa, ab = aa, ee = aa, apart = f32x4.splat(0), most = apart;
    for (let i: i32 = 0; i < n; i += 4) {
      let va = v128.load(pa + (<usize>i << 2)), vb = v128.load(pb + (<usize>i << 2));
      if (i + 4 > n) {
        const kept = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(n - i));
        va = v128.and(va, kept), vb = v128.and(vb, kept);
      }
      apart = f32x4.max(apart, v128.and(f32x4.sub(va, vb), magnitude));
      most = f32x4.max(most, v128.and(va, magnitude));
      for (let half: i32 = 0; half < 2; half++) {
        const x = half ? promoteHigh(va) : f64x2.promote_low_f32x4(va);
        const y = half ? promoteHigh(vb) : f64x2.promote_low_f32x4(vb), e = f64x2.sub(x, y);
        aa = f64x2.add(aa, f64x2.mul(x, x)), bb = f64x2.add(bb, f64x2.mul(y, y));
        ab = f64x2.add(ab, f64x2.mul(x, y)), ee = f64x2.add(ee, f64x2.mul(e, e));
      }
    }
    const out = sums + <usize>(part * 24);
    store<f32>(out, <f32>sum2(aa)), store<f32>(out, <f32>sum2(bb), 4),
      store<f32>(out, <f32>sum2(ab), 8);
    store<f32>(out, <f32>sum2(ee), 12), store<f32>(out, max4(apart), 16),
      store<f32>(out, max4(most), 20);
  }
}

/**
 * A thread counts in scratch memory and adds its counts to everyone's at the end; too many bins are
 * counted in place.
 */
export function histogram(thread: i32): void {
  const x = tensor(0), counts = tensor(1), N = dim(0), K = dim(1), type = dtype(0);
  const low = scalarF(0), high = scalarF(1);
  const places = scratch(thread), buffer = places + 16, own = buffer + ((CHUNK + 16) << 2);
  const local = K < (SCRATCH_BYTES >> 2) - CHUNK - 64;
  if (local) memory.fill(own, 0, <usize>(K + 1) << 2);
  const from = f32x4.splat(low), width = f32x4.splat(high - low), bins = f32x4.splat(<f32>K),
    none = i32x4.splat(K);
  for (let at = claimChunk(); at < N; at = claimChunk()) {
    const n = min(CHUNK, N - at), p = run(x, at, n, type, buffer);
    for (let i: i32 = 0; i < n; i += 4) {
      const v = v128.load(p + (<usize>i << 2));
      const place = f32x4.mul(f32x4.div(f32x4.sub(v, from), width), bins);
      const whole = i32x4.trunc_sat_f32x4_s(f32x4.floor(place));
      const bin = i32x4.max_s(i32x4.splat(0), i32x4.min_s(i32x4.splat(K - 1), whole));
      v128.store(places, v128.bitselect(bin, none, f32x4.eq(place, place)));
      for (let lane: i32 = 0, lanes = min(4, n - i); lane < lanes; lane++) {
        const at = load<u32>(places + (<usize>lane << 2));
        if (local) store<u32>(own + (<usize>at << 2), load<u32>(own + (<usize>at << 2)) + 1);
        else if (at < <u32>K) atomic.add<u32>(counts + (<usize>at << 2), 1);
      }
    }
  }
  if (!local) return;
  for (let k: i32 = 0; k < K; k++) {
    const count = load<u32>(own + (<usize>k << 2));
    if (count != 0) atomic.add<u32>(counts + (<usize>k << 2), count);
  }
}

/** Bins of one sign, and the place of the first among all exponents and 9 bits of the mantissa. */
const SIGN_BINS: i32 = 65536, FIRST_BIN: i32 = 63 * 512;

/**
 * Values by sign and leading bits; a thread counts in scratch memory and adds its counts to
 * everyone's at the end.
 */
export function float_bins(thread: i32): void {
  const x = tensor(0), counts = tensor(1), N = dim(0), own = scratch(thread);
  memory.fill(own, 0, <usize>(2 * SIGN_BINS) << 2);
  let counted = false;
  for (let from = claimChunk(); from < N; from = claimChunk()) {
    counted = true;
    for (let i = from, last = min(N, from + CHUNK); i < last; i++) {
      const bits = load<u32>(x + (<usize>i << 2));
      const place = max(0, min(SIGN_BINS - 1, <i32>((bits & 0x7fffffff) >> 14) - FIRST_BIN));
      const at = own + (<usize>(place + <i32>(bits >> 31) * SIGN_BINS) << 2);
      store<u32>(at, load<u32>(at) + 1);
    }
  }
  if (!counted) return;
  for (let at: usize = 0; at < <usize>(2 * SIGN_BINS) << 2; at += 16) {
    const four = v128.load(own + at);
    if (!v128.any_true(four)) continue;
    for (let lane: usize = at; lane < at + 16; lane += 4) {
      const count = load<u32>(own + lane);
      if (count != 0) atomic.add<u32>(counts + lane, count);
    }
  }
}

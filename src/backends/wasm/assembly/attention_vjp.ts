// Backward through causal grouped-query attention (FlashAttention, arXiv 2205.14135, algorithm 4),
// in two ops: what queries get, block of queries by block, and what keys and values get, block of
// keys by block. Weights are computed anew from q and k. Products go through block_product.ts; each
// block is one thread's, and its sums run in one order.
import { ceilDiv, claim, dim, scalarF, scalarU, scratch, tensor } from "./call";
import { product, PRODUCT_BYTES } from "./block_product";
import { exp4, max4, softCap4, sum4 } from "./math";

/** Queries and keys of a block of scores for one op, keys and queries for the other. */
const FEW: i32 = 128, MANY: i32 = 512;
const SCORES: usize = (128 * 512) << 2;
/** What is known of a query: its largest score, Σ e^(score − largest), Σ o·g. */
const FACTS: i32 = 3;
const LANES = memory.data<i32>([0, 1, 2, 3]);

// Thread-private: the op at hand.
let scale: v128 = f32x4.splat(0), cap: f32 = 0, bound: v128 = f32x4.splat(0);
/** Biases of the keys of a row, or 0: there are none. */
let biases: usize = 0;

/** The lanes of four keys from `j` on that are in [start, end). */
@inline
function within(j: i32, start: i32, end: i32): v128 {
  const key = i32x4.add(i32x4.splat(j), v128.load(LANES));
  return v128.and(i32x4.ge_s(key, i32x4.splat(start)), i32x4.lt_s(key, i32x4.splat(end)));
}

/** Four products of queries and keys, scaled and capped. */
@inline
function capped(products: v128): v128 {
  const v = f32x4.mul(products, scale);
  return cap == 0 ? v : softCap4(v, bound);
}

/** Four scores, the bias of each key added. */
@inline
function biased(v: v128, at: usize): v128 {
  return biases == 0 ? v : f32x4.add(v, v128.load(biases + at));
}

/** The keys [start, end) of a row of products enter the facts of its query. */
function meetKeys(row: usize, start: i32, end: i32, facts: usize): void {
  const lowest = f32x4.splat(-3.4028235e38), before = load<f32>(facts);
  let top = f32x4.splat(before);
  const from = start & -4;
  for (let j = from; j < end; j += 4) {
    const at = <usize>j << 2, score = biased(capped(v128.load(row + at)), at);
    top = f32x4.max(top, v128.bitselect(score, lowest, within(j, start, end)));
  }
  const most = max4(top), shift = f32x4.splat(most);
  let sum = f32x4.splat(0);
  for (let j = from; j < end; j += 4) {
    const at = <usize>j << 2, score = biased(capped(v128.load(row + at)), at);
    sum = f32x4.add(sum, v128.and(exp4(f32x4.sub(score, shift)), within(j, start, end)));
  }
  const fade = f32x4.extract_lane(exp4(f32x4.splat(before - most)), 0);
  store<f32>(facts, most);
  store<f32>(facts, load<f32>(facts, 4) * fade + <f32>sum4(sum), 4);
}

/**
 * Of one row, products of q·k become weights, and products of g·v the gradient by q·k, of `count`
 * keys of which [start, end) are seen.
 */
function weighBack(row: usize, back: usize, count: i32, start: i32, end: i32, facts: usize): void {
  const most = f32x4.splat(load<f32>(facts)), share = f32x4.splat(1 / load<f32>(facts, 4)),
    along = f32x4.splat(load<f32>(facts, 8)), one = f32x4.splat(1);
  for (let j: i32 = 0; j < count; j += 4) {
    const at = <usize>j << 2, v = capped(v128.load(row + at)), seen = within(j, start, end);
    const weight = f32x4.mul(exp4(f32x4.sub(biased(v, at), most)), share);
    let slope = scale;
    if (cap != 0) {
      const t = f32x4.div(v, bound);
      slope = f32x4.mul(slope, f32x4.sub(one, f32x4.mul(t, t)));
    }
    const g = f32x4.mul(f32x4.mul(weight, f32x4.sub(v128.load(back + at), along)), slope);
    v128.store(row + at, v128.and(weight, seen));
    v128.store(back + at, v128.and(g, seen));
  }
}

/** Σ a·b of n floats. */
function dot(a: usize, b: usize, n: i32): f32 {
  let sums = f32x4.splat(0), i: i32 = 0;
  for (; i + 4 <= n; i += 4) {
    const at = <usize>i << 2;
    sums = f32x4.add(sums, f32x4.mul(v128.load(a + at), v128.load(b + at)));
  }
  let sum = sum4(sums);
  for (; i < n; i++) {
    const at = <usize>i << 2;
    sum += <f64>load<f32>(a + at) * <f64>load<f32>(b + at);
  }
  return <f32>sum;
}

function begin(): void {
  scale = f32x4.splat(scalarF(2));
  cap = scalarF(3);
  bound = f32x4.splat(cap);
}

/** dq, and the facts of each query. */
export function attention_vjp_q(thread: i32): void {
  begin();
  const Q = dim(1), K = dim(2), S = dim(4), P = dim(5);
  const d = scalarU(0), window = scalarU(1), hasBias = scalarU(4) != 0, T = scalarU(5);
  const heads = Q / d, shared = Q / K, line = <usize>MANY << 2;
  const room = scratch(thread), scores = room + PRODUCT_BYTES, backs = scores + SCORES;
  const blocks = ceilDiv(T, FEW), windows = dim(0) / T;
  for (let item = claim(); item < windows * heads * blocks; item = claim()) {
    // The last queries see the most keys: they go first, so that threads finish together.
    const i0 = (blocks - 1 - item / (heads * windows)) * FEW, rows = min(FEW, T - i0);
    const head = item % heads, from = head / shared * d, first = item / heads % windows * T;
    const corner = <usize>((first + i0) * Q + head * d) << 2;
    const q = tensor(0) + corner, o = tensor(4) + corner, g = tensor(5) + corner,
      dq = tensor(6) + corner;
    const facts = tensor(7) + (<usize>((first + i0) * P + FACTS * head) << 2);
    const begins = window > 0 ? max(0, i0 - window + 1) : 0, ends = i0 + rows;
    for (let i: i32 = 0; i < rows; i++) {
      const fact = facts + (<usize>(i * P) << 2), at = <usize>(i * Q) << 2;
      store<f32>(fact, -3.4028235e38);
      store<f32>(fact, 0, 4);
      store<f32>(fact, dot(o + at, g + at, d), 8);
    }
    // Scores that are one block stay for the second round.
    const once = ends - begins <= MANY;
    for (let round: i32 = 0; round < 2; round++) {
      for (let j0 = begins; j0 < ends; j0 += MANY) {
        const count = min(MANY, ends - j0), places = <usize>((first + j0) * K + from) << 2;
        const k = tensor(1) + places, v = tensor(2) + places;
        biases = hasBias ? tensor(3) + (<usize>(head * S + j0) << 2) : 0;
        if (round == 0 || !once) {
          product(false, false, rows, count, d, q, Q, k, K, false, scores, MANY, room);
        }
        if (round == 1) {
          product(false, false, rows, count, d, g, Q, v, K, false, backs, MANY, room);
        }
        for (let i: i32 = 0; i < rows; i++) {
          const start = window > 0 ? max(0, i0 + i - window + 1 - j0) : 0;
          const end = max(0, min(count, i0 + i + 1 - j0));
          const row = scores + <usize>i * line, fact = facts + (<usize>(i * P) << 2);
          if (round == 0) meetKeys(row, start, end, fact);
          else weighBack(row, backs + <usize>i * line, count, start, end, fact);
        }
        if (round == 1) {
          product(false, true, rows, d, count, backs, MANY, k, K, j0 > begins, dq, Q, room);
        }
      }
    }
  }
}

/** dk and dv, from the facts of each query. */
export function attention_vjp_kv(thread: i32): void {
  begin();
  const Q = dim(1), K = dim(2), S = dim(4), P = dim(5);
  const d = scalarU(0), window = scalarU(1), hasBias = scalarU(4) != 0, T = scalarU(5);
  const heads = K / d, shared = Q / K, line = <usize>FEW << 2;
  const room = scratch(thread), scores = room + PRODUCT_BYTES, backs = scores + SCORES;
  const blocks = ceilDiv(T, FEW), windows = dim(0) / T;
  for (let item = claim(); item < windows * heads * blocks; item = claim()) {
    // The first keys are seen by the most queries.
    const j0 = item / (heads * windows) * FEW, count = min(FEW, T - j0), from = item % heads;
    const first = item / heads % windows * T, corner = <usize>((first + j0) * K + from * d) << 2;
    const k = tensor(1) + corner, v = tensor(2) + corner, dk = tensor(6) + corner,
      dv = tensor(7) + corner;
    const ends = window > 0 && window < T ? min(T, j0 + count - 1 + window) : T;
    for (let head = from * shared; head < (from + 1) * shared; head++) {
      biases = hasBias ? tensor(3) + (<usize>(head * S + j0) << 2) : 0;
      for (let i0 = j0; i0 < ends; i0 += MANY) {
        const rows = min(MANY, ends - i0), places = <usize>((first + i0) * Q + head * d) << 2;
        const q = tensor(0) + places, g = tensor(5) + places;
        const facts = tensor(4) + (<usize>((first + i0) * P + FACTS * head) << 2);
        const add = head > from * shared || i0 > j0;
        product(false, false, rows, count, d, q, Q, k, K, false, scores, FEW, room);
        product(false, false, rows, count, d, g, Q, v, K, false, backs, FEW, room);
        for (let i: i32 = 0; i < rows; i++) {
          const start = window > 0 ? max(0, i0 + i - window + 1 - j0) : 0;
          const end = max(0, min(count, i0 + i + 1 - j0)), at = <usize>i * line;
          weighBack(scores + at, backs + at, count, start, end,
            facts + (<usize>(i * P) << 2));
        }
        product(true, true, count, d, rows, scores, FEW, g, Q, add, dv, K, room);
        product(true, true, count, d, rows, backs, FEW, q, Q, add, dk, K, room);
      }
    }
  }
}

// Backward through what predictions are measured by.
import { claim, dim, scalarU, tensor } from "./call";
import { exp4 } from "./math";

/** The first n of four values. */
@inline
function storeSome(at: usize, values: v128, n: i32): void {
  if (n >= 4) return v128.store(at, values);
  store<f32>(at, f32x4.extract_lane(values, 0));
  if (n > 1) store<f32>(at, f32x4.extract_lane(values, 1), 4);
  if (n > 2) store<f32>(at, f32x4.extract_lane(values, 2), 8);
}

/** q = softmax(q) − softmax(p). */
export function divergence_vjp(thread: i32): void {
  const p = tensor(0), states = tensor(1), q = tensor(2), T = dim(0), V = dim(1), S = dim(2);
  for (let t = claim(); t < T; t = claim()) {
    const state = states + (<usize>(t * S) << 2), row = <usize>(t * V) << 2;
    const topP = f32x4.splat(load<f32>(state)), sumP = f32x4.splat(load<f32>(state, 4));
    const topQ = f32x4.splat(load<f32>(state, 8)), sumQ = f32x4.splat(load<f32>(state, 12));
    for (let i: i32 = 0; i < V; i += 4) {
      const at = row + (<usize>i << 2);
      const ep = f32x4.div(exp4(f32x4.sub(v128.load(p + at), topP)), sumP);
      const eq = f32x4.div(exp4(f32x4.sub(v128.load(q + at), topQ)), sumQ);
      storeSome(q + at, f32x4.sub(eq, ep), V - i);
    }
  }
}

/** q = softmax(q), less 1 at the label; 0 where there is none. */
export function nll_vjp(thread: i32): void {
  const labels = tensor(0), states = tensor(1), q = tensor(2);
  const T = dim(0), S = dim(1), V = dim(2), first = scalarU(0);
  for (let t = claim(); t < T; t = claim()) {
    const state = states + (<usize>(t * S) << 2), row = q + (<usize>(t * V) << 2);
    const label = load<u32>(labels + (<usize>t << 2));
    if (label == u32.MAX_VALUE) {
      memory.fill(row, 0, <usize>V << 2);
      continue;
    }
    const top = f32x4.splat(load<f32>(state, 8)), sum = f32x4.splat(load<f32>(state, 12));
    for (let i: i32 = 0; i < V; i += 4) {
      const at = row + (<usize>i << 2);
      storeSome(at, f32x4.div(exp4(f32x4.sub(v128.load(at), top)), sum), V - i);
    }
    const place = label - <u32>first;
    if (place >= <u32>V) continue;
    const at = row + (<usize>place << 2);
    store<f32>(at, load<f32>(at) - 1);
  }
}

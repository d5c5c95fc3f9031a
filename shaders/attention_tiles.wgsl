// What the two kernels of attention's backward pass share, and are put behind: blocks of 32 queries
// and 32 keys, of which a lane has 4 × 4 scores, then sums of 4 rows and 8 dimensions. A matrix of
// scores has a column for each key, over four queries.

struct Args {
  T: u32,
  Q: u32,
  K: u32,
  B: u32,
  S: u32,
  P: u32,
  head_dim: u32,
  window: u32,
  scale: f32,
  cap: f32,
  biased: u32,
  length: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>; // f32[T, Q]
@group(0) @binding(1) var<storage, read> k: array<f32>; // f32[T, K]
@group(0) @binding(2) var<storage, read> v: array<f32>; // f32[T, K]
@group(0) @binding(5) var<storage, read> g: array<f32>; // f32[T, Q]

const BLOCK = 32u; // queries, and keys
const PART = 64u; // dimensions of a head that one workgroup sums
const DEPTH = 32u; // dimensions in workgroup memory at a time
const FACTS = 3u; // of a query: the largest score, Σ e^(score − largest), Σ o·g
// Vectors of four queries or keys, and one more so that lanes store to different banks.
const PITCH = 9u;
const V_PITCH = 17u;
const RIGHT = 288u; // where the right operand's part of `tile` begins: DEPTH * PITCH
// Both operands [DEPTH][PITCH], and after that rows that are summed [BLOCK][V_PITCH].
var<workgroup> tile: array<vec4<f32>, 576>;
var<workgroup> weights: array<vec4<f32>, 288>; // [BLOCK rows that are summed][PITCH]

// q·k, or of the gradients g·v, of the block's queries from `first` and its keys from `start` on, at
// this lane's places. Every lane must call it.
fn products(
  gradients: bool,
  first: u32,
  start: u32,
  q_head: u32,
  k_head: u32,
  lane: u32,
) -> mat4x4<f32> {
  var s = mat4x4<f32>();
  for (var depth = 0u; depth < args.head_dim; depth += DEPTH) {
    let at = depth + lane % DEPTH;
    let inside = at < args.head_dim;
    let d = min(at, args.head_dim - 1u);
    workgroupBarrier();
    for (var four = lane / DEPTH; four < 8u; four += 2u) {
      var left = vec4<f32>();
      var right = vec4<f32>();
      for (var n = 0u; n < 4u; n++) {
        let i = (origin + min(first + four * 4u + n, args.length - 1u)) * args.Q + q_head + d;
        let j = (origin + min(start + four * 4u + n, args.length - 1u)) * args.K + k_head + d;
        if gradients {
          left[n] = g[i];
          right[n] = v[j];
        } else {
          left[n] = q[i];
          right[n] = k[j];
        }
      }
      tile[lane % DEPTH * PITCH + four] = select(vec4<f32>(), left, inside);
      tile[RIGHT + lane % DEPTH * PITCH + four] = select(vec4<f32>(), right, inside);
    }
    workgroupBarrier();
    for (var n = 0u; n < DEPTH; n++) {
      s += outer(tile[n * PITCH + lane / 8u], tile[RIGHT + n * PITCH + lane % 8u]);
    }
  }
  return s;
}

// A matrix whose columns are x times each of y.
fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
  return mat4x4(x * y.x, x * y.y, x * y.z, x * y.w);
}

// What a cap leaves of the gradient by products, and the scale.
fn slope(products: vec4<f32>) -> vec4<f32> {
  var slopes = vec4(args.scale);
  if args.cap == 0.0 { return slopes; }
  for (var n = 0u; n < 4u; n++) {
    let t = soft_cap(products[n] * args.scale, args.cap) / args.cap;
    slopes[n] *= 1.0 - t * t;
  }
  return slopes;
}

// The scores of a lane's four queries from i on and of its keys from j on; the lowest number where a
// query does not see a key.
fn scores_of(products: mat4x4<f32>, head: u32, i: u32, j: u32) -> mat4x4<f32> {
  var s: mat4x4<f32>;
  for (var n = 0u; n < 4u; n++) {
    let inside = vec4(i, i + 1u, i + 2u, i + 3u) < vec4(args.length);
    let seen = sees(i, j + n) & inside;
    s[n] = select(vec4(-LARGEST), score(products[n], head, j + n), seen);
  }
  return s;
}

// e^(score − most), and 0 where there is no score.
fn shares_of(scores: vec4<f32>, most: vec4<f32>) -> vec4<f32> {
  return select(vec4<f32>(), exp(scores - most), scores > vec4(-LARGEST));
}

// Sums over the block's rows of weights times what lies in `tile`: for this lane's four of them, a
// column each, four dimensions from `four` on.
fn sums_of(lane: u32, four: u32) -> mat4x4<f32> {
  var sums = mat4x4<f32>();
  for (var n = 0u; n < BLOCK; n++) {
    sums += outer(tile[n * V_PITCH + four], weights[n * PITCH + lane / 8u]);
  }
  return sums;
}

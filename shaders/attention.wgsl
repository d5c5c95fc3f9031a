// Causal attention of windows with shared key heads: softmax(scale · q · kᵀ) · v, in one pass over
// the keys with a running maximum (as FlashAttention, arXiv 2205.14135). One workgroup 32 queries
// of one head and 64 of its dimensions, 32 keys at a time. A lane computes the scores of 4 queries
// and 4 keys, then the sums of the same 4 queries and 8 dimensions.

struct Args {
  T: u32,
  Q: u32,
  K: u32,
  B: u32,
  S: u32,
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
@group(0) @binding(4) var<storage, read_write> o: array<f32>; // f32[T, Q]

const BLOCK = 32u; // queries, and keys
const PART = 64u; // dimensions of a head that one workgroup sums
const DEPTH = 32u; // dimensions of q and k in workgroup memory at a time
// Vectors of four queries or keys, and one more so that lanes store to different banks.
const PITCH = 9u;
const V_PITCH = 17u;
const KEYS = 288u; // where the keys' part of `tile` begins: DEPTH * PITCH
// Q and k [DEPTH][PITCH], and after that v [BLOCK][V_PITCH].
var<workgroup> tile: array<vec4<f32>, 576>;
var<workgroup> weights: array<vec4<f32>, 288>; // [BLOCK keys][PITCH]
var<workgroup> maxima: array<vec4<f32>, 64>; // [8 lanes of a query][8 fours of queries]

fn q_at(i: u32, d: u32) -> f32 {
  return q[(origin + min(i, args.length - 1u)) * args.Q + d];
}

fn k_at(j: u32, d: u32) -> f32 {
  return k[(origin + min(j, args.length - 1u)) * args.K + d];
}

// Four dimensions of a value from d on; those outside the head are 0.
fn v_at(j: u32, head: u32, d: u32) -> vec4<f32> {
  var value = vec4(0.0);
  if j >= args.length { return value; }
  for (var n = 0u; n < 4u; n++) {
    if d + n < args.head_dim { value[n] = v[(origin + j) * args.K + head + d + n]; }
  }
  return value;
}

fn put(i: u32, head: u32, d: u32, values: vec4<f32>) {
  if i >= args.length { return; }
  for (var n = 0u; n < 4u; n++) {
    if d + n < args.head_dim { o[(origin + i) * args.Q + head + d + n] = values[n]; }
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = enter(group.x, BLOCK);
  let q_head = group.y * args.head_dim;
  let k_head = group.y / (args.Q / args.K) * args.head_dim;
  let part = group.z * PART;
  let end = min(args.length, first + BLOCK);
  let begin = select(0u, first + 1u - min(args.window, first + 1u), args.window > 0u);
  let ty = lane / 8u;
  let tx = lane % 8u;
  let query = first + ty * 4u;

  var most = vec4(-LARGEST);
  var total = vec4(0.0); // of this lane's keys; the 8 lanes of a query are added at the end
  var o00 = vec4(0.0);
  var o01 = vec4(0.0);
  var o10 = vec4(0.0);
  var o11 = vec4(0.0);
  var o20 = vec4(0.0);
  var o21 = vec4(0.0);
  var o30 = vec4(0.0);
  var o31 = vec4(0.0);
  for (var start = begin; start < end; start += BLOCK) {
    // Scores: a vector is one key's, over four queries.
    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    for (var depth = 0u; depth < args.head_dim; depth += DEPTH) {
      let at = depth + lane % DEPTH;
      let inside = at < args.head_dim;
      let d = min(at, args.head_dim - 1u);
      workgroupBarrier();
      for (var four = lane / DEPTH; four < 8u; four += 2u) {
        let i = first + four * 4u;
        let j = start + four * 4u;
        let q4 = vec4(
          q_at(i, q_head + d),
          q_at(i + 1u, q_head + d),
          q_at(i + 2u, q_head + d),
          q_at(i + 3u, q_head + d),
        );
        let k4 = vec4(
          k_at(j, k_head + d),
          k_at(j + 1u, k_head + d),
          k_at(j + 2u, k_head + d),
          k_at(j + 3u, k_head + d),
        );
        tile[lane % DEPTH * PITCH + four] = select(vec4(0.0), q4, inside);
        tile[KEYS + lane % DEPTH * PITCH + four] = select(vec4(0.0), k4, inside);
      }
      workgroupBarrier();
      for (var n = 0u; n < DEPTH; n++) {
        let a = tile[n * PITCH + ty];
        let b = tile[KEYS + n * PITCH + tx];
        s0 += a * b.x;
        s1 += a * b.y;
        s2 += a * b.z;
        s3 += a * b.w;
      }
    }

    let key = start + tx * 4u;
    let seen0 = sees(query, key);
    let seen1 = sees(query, key + 1u);
    let seen2 = sees(query, key + 2u);
    let seen3 = sees(query, key + 3u);
    s0 = select(vec4(-LARGEST), score(s0, group.y, key), seen0);
    s1 = select(vec4(-LARGEST), score(s1, group.y, key + 1u), seen1);
    s2 = select(vec4(-LARGEST), score(s2, group.y, key + 2u), seen2);
    s3 = select(vec4(-LARGEST), score(s3, group.y, key + 3u), seen3);
    maxima[tx * 8u + ty] = max(max(s0, s1), max(s2, s3));
    workgroupBarrier();
    let before = most;
    for (var n = 0u; n < 8u; n++) { most = max(most, maxima[n * 8u + ty]); }
    let fade = exp(before - most);
    s0 = select(vec4(0.0), exp(s0 - most), seen0);
    s1 = select(vec4(0.0), exp(s1 - most), seen1);
    s2 = select(vec4(0.0), exp(s2 - most), seen2);
    s3 = select(vec4(0.0), exp(s3 - most), seen3);
    total = total * fade + ((s0 + s1) + (s2 + s3));
    weights[(tx * 4u) * PITCH + ty] = s0;
    weights[(tx * 4u + 1u) * PITCH + ty] = s1;
    weights[(tx * 4u + 2u) * PITCH + ty] = s2;
    weights[(tx * 4u + 3u) * PITCH + ty] = s3;
    for (var n = lane; n < BLOCK * PART / 4u; n += 64u) {
      let four = n % (PART / 4u);
      tile[n / (PART / 4u) * V_PITCH + four] =
        v_at(start + n / (PART / 4u), k_head, part + four * 4u);
    }
    workgroupBarrier();
    o00 *= fade.x;
    o01 *= fade.x;
    o10 *= fade.y;
    o11 *= fade.y;
    o20 *= fade.z;
    o21 *= fade.z;
    o30 *= fade.w;
    o31 *= fade.w;
    for (var n = 0u; n < BLOCK; n++) {
      let weight = weights[n * PITCH + ty];
      let v0 = tile[n * V_PITCH + tx];
      let v1 = tile[n * V_PITCH + 8u + tx];
      o00 += weight.x * v0;
      o01 += weight.x * v1;
      o10 += weight.y * v0;
      o11 += weight.y * v1;
      o20 += weight.z * v0;
      o21 += weight.z * v1;
      o30 += weight.w * v0;
      o31 += weight.w * v1;
    }
  }

  workgroupBarrier();
  maxima[tx * 8u + ty] = total;
  workgroupBarrier();
  total = vec4(0.0);
  for (var n = 0u; n < 8u; n++) { total += maxima[n * 8u + ty]; }
  let d = part + tx * 4u;
  put(query, q_head, d, o00 / total.x);
  put(query, q_head, d + 32u, o01 / total.x);
  put(query + 1u, q_head, d, o10 / total.y);
  put(query + 1u, q_head, d + 32u, o11 / total.y);
  put(query + 2u, q_head, d, o20 / total.z);
  put(query + 2u, q_head, d + 32u, o21 / total.z);
  put(query + 3u, q_head, d, o30 / total.w);
  put(query + 3u, q_head, d + 32u, o31 / total.w);
}

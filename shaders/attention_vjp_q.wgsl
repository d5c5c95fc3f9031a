// The gradient by queries: one workgroup 32 of one head and 64 of its dimensions. Two rounds over
// the keys: the facts of each query first, then the weights and what comes of them.

@group(0) @binding(4) var<storage, read> o: array<f32>; // f32[T, Q]
@group(0) @binding(6) var<storage, read_write> dq: array<f32>; // f32[T, Q]
@group(0) @binding(7) var<storage, read_write> facts: array<f32>; // f32[T, P]

var<workgroup> shared_fours: array<vec4<f32>, 64>; // [8 lanes of a query][8 fours of queries]

// The sum over the 8 lanes that share queries; every lane must call it.
fn sum_shared(value: vec4<f32>, lane: u32) -> vec4<f32> {
  workgroupBarrier();
  shared_fours[lane % 8u * 8u + lane / 8u] = value;
  workgroupBarrier();
  var sum = vec4<f32>();
  for (var n = 0u; n < 8u; n++) { sum += shared_fours[n * 8u + lane / 8u]; }
  return sum;
}

fn max_shared(value: vec4<f32>, lane: u32) -> vec4<f32> {
  workgroupBarrier();
  shared_fours[lane % 8u * 8u + lane / 8u] = value;
  workgroupBarrier();
  var most = value;
  for (var n = 0u; n < 8u; n++) { most = max(most, shared_fours[n * 8u + lane / 8u]); }
  return most;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = enter(group.x, BLOCK);
  let head = group.y;
  let q_head = head * args.head_dim;
  let k_head = head / (args.Q / args.K) * args.head_dim;
  let part = group.z * PART;
  let end = min(args.length, first + BLOCK);
  let begin = select(0u, first + 1u - min(args.window, first + 1u), args.window > 0u);
  let tx = lane % 8u;
  let query = first + lane / 8u * 4u;

  var most = vec4(-LARGEST);
  var total = vec4<f32>(); // of this lane's keys, until all have been seen
  for (var start = begin; start < end; start += BLOCK) {
    let s = scores_of(products(false, first, start, q_head, k_head, lane), head, query,
      start + tx * 4u);
    let before = most;
    most = max_shared(max(before, max(max(s[0], s[1]), max(s[2], s[3]))), lane);
    total = total * exp(before - most) + ((shares_of(s[0], most) + shares_of(s[1], most)) +
      (shares_of(s[2], most) + shares_of(s[3], most)));
  }
  total = sum_shared(total, lane);
  var along = vec4<f32>();
  for (var d = tx; d < args.head_dim; d += 8u) {
    for (var n = 0u; n < 4u; n++) {
      let i = (origin + min(query + n, args.length - 1u)) * args.Q + q_head + d;
      along[n] += o[i] * g[i];
    }
  }
  along = sum_shared(along, lane);
  if part == 0u && tx == 0u {
    for (var n = 0u; n < 4u; n++) {
      if query + n < args.length {
        let i = (origin + query + n) * args.P + FACTS * head;
        facts[i] = most[n];
        facts[i + 1u] = total[n];
        facts[i + 2u] = along[n];
      }
    }
  }

  var low = mat4x4<f32>(); // a column for each query: four dimensions
  var high = mat4x4<f32>();
  for (var start = begin; start < end; start += BLOCK) {
    let raw = products(false, first, start, q_head, k_head, lane);
    let toward = products(true, first, start, q_head, k_head, lane);
    let s = scores_of(raw, head, query, start + tx * 4u);
    workgroupBarrier();
    for (var n = 0u; n < 4u; n++) {
      let weight = shares_of(s[n], most) / total;
      weights[(tx * 4u + n) * PITCH + lane / 8u] =
        weight * (toward[n] - along) * slope(raw[n]);
    }
    for (var n = lane; n < BLOCK * PART / 4u; n += 64u) {
      let four = n % (PART / 4u);
      let j = start + n / (PART / 4u);
      var value = vec4<f32>();
      for (var m = 0u; m < 4u; m++) {
        let d = part + four * 4u + m;
        if j < args.length && d < args.head_dim {
          value[m] = k[(origin + j) * args.K + k_head + d];
        }
      }
      tile[n / (PART / 4u) * V_PITCH + four] = value;
    }
    workgroupBarrier();
    low += sums_of(lane, tx);
    high += sums_of(lane, 8u + tx);
  }
  for (var n = 0u; n < 4u; n++) {
    if query + n < args.length {
      for (var m = 0u; m < 4u; m++) {
        let d = part + tx * 4u + m;
        let i = (origin + query + n) * args.Q + q_head + d;
        if d < args.head_dim { dq[i] = low[n][m]; }
        if d + 32u < args.head_dim { dq[i + 32u] = high[n][m]; }
      }
    }
  }
}

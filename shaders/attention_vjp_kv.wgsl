// The gradients by keys and values: one workgroup 32 of one head and 64 of its dimensions, and all
// queries that see them, of each head that shares them.

@group(0) @binding(4) var<storage, read> facts: array<f32>; // f32[T, P]
@group(0) @binding(6) var<storage, read_write> dk: array<f32>; // f32[T, K]
@group(0) @binding(7) var<storage, read_write> dv: array<f32>; // f32[T, K]

// A fact of four queries from i on.
fn fact(i: u32, head: u32, which: u32) -> vec4<f32> {
  var values: vec4<f32>;
  for (var n = 0u; n < 4u; n++) {
    let row = origin + min(i + n, args.length - 1u);
    values[n] = facts[row * args.P + FACTS * head + which];
  }
  return values;
}

// Bring 64 dimensions of queries, or of their gradients, to `tile`.
fn bring(gradients: bool, first: u32, q_head: u32, part: u32, lane: u32) {
  for (var n = lane; n < BLOCK * PART / 4u; n += 64u) {
    let four = n % (PART / 4u);
    let i = first + n / (PART / 4u);
    var value = vec4<f32>();
    for (var m = 0u; m < 4u; m++) {
      let d = part + four * 4u + m;
      if i < args.length && d < args.head_dim {
        let at = (origin + i) * args.Q + q_head + d;
        if gradients { value[m] = g[at]; } else { value[m] = q[at]; }
      }
    }
    tile[n / (PART / 4u) * V_PITCH + four] = value;
  }
}

// Lay weights out by query, for sums over queries.
fn lay(by_key: mat4x4<f32>, lane: u32) {
  let by_query = transpose(by_key);
  for (var n = 0u; n < 4u; n++) {
    weights[(lane / 8u * 4u + n) * PITCH + lane % 8u] = by_query[n];
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = enter(group.x, BLOCK);
  let k_head = group.y * args.head_dim;
  let part = group.z * PART;
  let tx = lane % 8u;
  let last = min(args.length, start + BLOCK) - 1u;
  let far = args.window == 0u || args.window >= args.length - last;
  let end = select(last + args.window, args.length, far);
  let shared_by = args.Q / args.K;

  var k_low = mat4x4<f32>(); // a column for each key: four dimensions
  var k_high = mat4x4<f32>();
  var v_low = mat4x4<f32>();
  var v_high = mat4x4<f32>();
  for (var n = 0u; n < shared_by; n++) {
    let head = group.y * shared_by + n;
    let q_head = head * args.head_dim;
    for (var first = start; first < end; first += BLOCK) {
      let query = first + lane / 8u * 4u;
      let raw = products(false, first, start, q_head, k_head, lane);
      let toward = products(true, first, start, q_head, k_head, lane);
      let s = scores_of(raw, head, query, start + tx * 4u);
      let most = fact(query, head, 0u);
      let total = fact(query, head, 1u);
      let along = fact(query, head, 2u);
      var shares: mat4x4<f32>;
      var backs: mat4x4<f32>;
      for (var m = 0u; m < 4u; m++) {
        shares[m] = shares_of(s[m], most) / total;
        backs[m] = shares[m] * (toward[m] - along) * slope(raw[m]);
      }
      workgroupBarrier();
      lay(shares, lane);
      bring(true, first, q_head, part, lane);
      workgroupBarrier();
      v_low += sums_of(lane, tx);
      v_high += sums_of(lane, 8u + tx);
      workgroupBarrier();
      lay(backs, lane);
      bring(false, first, q_head, part, lane);
      workgroupBarrier();
      k_low += sums_of(lane, tx);
      k_high += sums_of(lane, 8u + tx);
    }
  }
  let key = start + lane / 8u * 4u;
  for (var n = 0u; n < 4u; n++) {
    if key + n < args.length {
      for (var m = 0u; m < 4u; m++) {
        let d = part + tx * 4u + m;
        let i = (origin + key + n) * args.K + k_head + d;
        if d < args.head_dim {
          dk[i] = k_low[n][m];
          dv[i] = v_low[n][m];
        }
        if d + 32u < args.head_dim {
          dk[i + 32u] = k_high[n][m];
          dv[i + 32u] = v_high[n][m];
        }
      }
    }
  }
}

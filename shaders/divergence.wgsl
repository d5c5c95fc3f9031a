// One slice of the vocabulary added to each token's state: maxima, sums of exponentials, Σ e^(p -
// max p)(p - q), the label's logits and the first index of each maximum. One workgroup a token.

struct Args { T: u32, V: u32, S: u32, first: u32 }

@group(0) @binding(0) var<storage, read> p: array<f32>; // f32[T, V]
@group(0) @binding(1) var<storage, read> q: array<f32>; // f32[T, V]
@group(0) @binding(2) var<storage, read> labels: array<u32>; // u32[T]
@group(0) @binding(3) var<storage, read_write> state: array<f32>; // f32[T, S], S = 10
@group(1) @binding(0) var<uniform> args: Args;

// The largest value of all lanes and, of those that have it, the least index.
fn first_largest(value: f32, index: u32, lane: u32) -> vec2<f32> {
  let most = max_lanes(value, lane);
  return vec2(most, -max_lanes(select(-LARGEST, -f32(index), value == most), lane));
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = flat_group(group, groups);
  if t >= args.T { return; }
  let row = t * args.V;
  let s = t * args.S;

  var value_p = -LARGEST;
  var value_q = -LARGEST;
  var index_p = 0u;
  var index_q = 0u;
  for (var v = lane; v < args.V; v += LANES) {
    if p[row + v] > value_p { value_p = p[row + v]; index_p = v; }
    if q[row + v] > value_q { value_q = q[row + v]; index_q = v; }
  }
  let top_p = first_largest(value_p, index_p, lane);
  let top_q = first_largest(value_q, index_q, lane);
  let before_p = state[s];
  let before_q = state[s + 2u];
  let most_p = max(before_p, top_p.x);
  let most_q = max(before_q, top_q.x);

  var sum_p = 0.0;
  var sum_q = 0.0;
  var gap = 0.0;
  for (var v = lane; v < args.V; v += LANES) {
    let weight = exp(p[row + v] - most_p);
    sum_p += weight;
    gap += weight * (p[row + v] - q[row + v]);
    sum_q += exp(q[row + v] - most_q);
  }
  sum_p = sum_lanes(sum_p, lane);
  sum_q = sum_lanes(sum_q, lane);
  gap = sum_lanes(gap, lane);
  if lane > 0u { return; }

  let fade_p = exp(before_p - most_p);
  let fade_q = exp(before_q - most_q);
  state[s] = most_p;
  state[s + 1u] = state[s + 1u] * fade_p + sum_p;
  state[s + 2u] = most_q;
  state[s + 3u] = state[s + 3u] * fade_q + sum_q;
  state[s + 4u] = state[s + 4u] * fade_p + gap;
  if labels[t] >= args.first && labels[t] - args.first < args.V {
    state[s + 5u] = p[row + labels[t] - args.first];
    state[s + 6u] = q[row + labels[t] - args.first];
  }
  if top_p.x > before_p { state[s + 7u] = f32(args.first) + top_p.y; }
  if top_q.x > before_q { state[s + 8u] = f32(args.first) + top_q.y; }
}

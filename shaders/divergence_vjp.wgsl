// q = softmax(q) - softmax(p), by the maxima and sums that `divergence` gathered. One workgroup a
// token.

struct Args { T: u32, V: u32, S: u32 }

@group(0) @binding(0) var<storage, read> p: array<f32>; // f32[T, V]
@group(0) @binding(1) var<storage, read> state: array<f32>; // f32[T, S], S = 10
@group(0) @binding(2) var<storage, read_write> q: array<f32>; // f32[T, V]
@group(1) @binding(0) var<uniform> args: Args;

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
  for (var v = lane; v < args.V; v += LANES) {
    let chance_p = exp(p[row + v] - state[s]) / state[s + 1u];
    q[row + v] = exp(q[row + v] - state[s + 2u]) / state[s + 3u] - chance_p;
  }
}

// q = softmax(q), less 1 at the label, by the maximum and the sum that `divergence` gathered; 0
// where there is no label. One workgroup a token.

struct Args { T: u32, S: u32, V: u32, first: u32 }

@group(0) @binding(0) var<storage, read> labels: array<u32>; // u32[T]
@group(0) @binding(1) var<storage, read> state: array<f32>; // f32[T, S], S = 10
@group(0) @binding(2) var<storage, read_write> q: array<f32>; // f32[T, V]
@group(1) @binding(0) var<uniform> args: Args;

const NO_LABEL: u32 = 0xffffffffu;

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
  let label = labels[t];
  for (var v = lane; v < args.V; v += LANES) {
    var g = exp(q[row + v] - state[s + 2u]) / state[s + 3u];
    if label == args.first + v { g -= 1.0; }
    q[row + v] = select(g, 0.0, label == NO_LABEL);
  }
}

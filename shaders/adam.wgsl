// The direction of a step, by the running means of the gradient and of its square. One invocation
// an element.

struct Args { N: u32, decay_m: f32, decay_v: f32, gain_m: f32, gain_v: f32 }

@group(0) @binding(0) var<storage, read_write> g: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read_write> m: array<f32>; // f32[N]
@group(0) @binding(2) var<storage, read_write> v: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let slope = g[i];
  let mean = args.decay_m * m[i] + (1.0 - args.decay_m) * slope;
  let square = args.decay_v * v[i] + (1.0 - args.decay_v) * slope * slope;
  m[i] = mean;
  v[i] = square;
  g[i] = select(0.0, mean * args.gain_m / sqrt(square * args.gain_v), square > 0.0);
}

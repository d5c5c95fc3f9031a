// g = activation_slope(x) * g. One invocation an element.

struct Args { N: u32, kind: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read_write> g: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  g[i] *= activation_slope(x[i], args.kind);
}

// Values rounded to int or fp8 levels of one scale, and back. One invocation an element.

struct Args { N: u32, S: u32, kind: u32, bits: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read> scale: array<f32>; // f32[S], S = 1
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  y[i] = level_of(quotient(x[i], scale[0])) * scale[0];
}

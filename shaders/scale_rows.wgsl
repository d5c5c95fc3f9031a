// Rows of a matrix times a factor each, rounded to the dtype of scales. One invocation an element.

struct Args { R: u32, C: u32, scale_dtype: u32 }

@group(0) @binding(0) var<storage, read> factor: array<f32>; // f32[R]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // f32[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.R * args.C { return; }
  y[i] = stored_scale(y[i] * factor[i / args.C], args.scale_dtype);
}

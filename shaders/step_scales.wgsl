// A step of scales. One invocation an element.

struct Args { N: u32, scale_dtype: u32, rate: f32 }

@group(0) @binding(0) var<storage, read> d: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read_write> wide: array<f32>; // f32[N]
@group(0) @binding(2) var<storage, read_write> scale: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let after = wide[i] - abs(wide[i]) * args.rate * d[i];
  let stored = max(abs(stored_scale(after, args.scale_dtype)), smallest_scale(args.scale_dtype));
  wide[i] = after;
  scale[i] = select(stored, -stored, after < 0.0);
}

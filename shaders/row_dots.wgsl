// The dot product of each row of a with that of b. One workgroup a row.

struct Args { R: u32, C: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>; // f32[R, C]
@group(0) @binding(1) var<storage, read> b: array<f32>; // f32[R, C]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[R]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = flat_group(group, groups);
  if r >= args.R { return; }
  var sum = 0.0;
  for (var c = lane; c < args.C; c += LANES) { sum += a[r * args.C + c] * b[r * args.C + c]; }
  let total = sum_lanes(sum, lane);
  if lane == 0u { y[r] = total; }
}
